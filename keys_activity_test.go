package main

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestStoreNotes_LeftOut uses a key that has as many addresses as are stored: uses from others are only counted, those from
// the stored ones are not.
func TestStoreNotes_LeftOut(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(everyPermission)
	use := func(last int) LastUse {
		return LastUse{At: epoch.Add(time.Duration(last) * time.Second), IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(last)}), Carrier: CarrierBearer}
	}
	err := a.Store.Update(func(tx *Tx) error {
		for i := range maxPlaces - 2 { // one address and its network follow
			if _, err := seePlace(tx, placeRow(id, placeAddress, fmt.Sprint(i)), epoch); err != nil {
				return err
			}
		}
		for _, n := range []*keyNotes{{places: []LastUse{use(1)}}, {places: []LastUse{use(1), use(2), use(3)}, missed: 4, missedAt: epoch}, {places: []LastUse{use(5), use(1)}}} {
			if _, err := storeNotes(tx, id, n); err != nil {
				return err
			}
		}
		list, _, _, err := ActivityOf(tx, id, func(e *KeyActivity) bool { return e.Kind == ActivityLeftOut })
		if err == nil && (len(list) != 1 || list[0].Count != 7 || !list[0].At.Equal(use(5).At)) {
			t.Errorf("got %+v, want one entry with 7 requests", list)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestActivity_DamageReachesCaller has what reads and writes the activity of a key meet damage in its buckets, and writes that
// fail.
func TestActivity_DamageReachesCaller(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(everyPermission)
	use := LastUse{At: epoch, IP: netip.MustParseAddr("192.0.2.1"), Carrier: CarrierBearer}
	refusal := KeyActivity{At: epoch, Kind: ActivityLeftOut, Count: 1}
	note := func(tx *Tx) (any, error) {
		later := use
		later.At, later.Carrier = use.At.Add(48*time.Hour), CarrierQuery
		news, err := storeNotes(tx, id, &keyNotes{places: []LastUse{later}, requests: []KeyActivity{refusal}, missed: 1, missedAt: epoch})
		return len(news), err
	}
	err := a.Store.Update(func(tx *Tx) error {
		_, err := storeNotes(tx, id, &keyNotes{places: []LastUse{use}, requests: []KeyActivity{refusal}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []storedOp{
		{"storeNotes", note},
		{"ActivityOf", func(tx *Tx) (any, error) {
			list, numbered, kept, err := ActivityOf(tx, id, func(*KeyActivity) bool { return true })
			return fmt.Sprint(len(list), numbered, kept), err
		}},
		{"PlacesOf", func(tx *Tx) (any, error) {
			networks, carriers, err := PlacesOf(tx, id)
			return fmt.Sprint(len(networks), len(carriers)), err
		}},
		{"foldActivity", func(tx *Tx) (any, error) { return nil, foldActivity(tx, id, refusal, alikeSpan) }},
	} {
		lost, refused := op.lostDamage(t, a.Store, []string{activityBucket, placesBucket})
		for _, text := range append(lost, op.lostWriteErrors(t, a.Store)...) {
			t.Errorf("%s: no error: %s", op.name, text)
		}
		if refused == 0 {
			t.Errorf("%s: fails for no damage, so this shows nothing", op.name)
		}
	}
}

// TestTellPlace tells of a place once within a span.
func TestTellPlace(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		row := placeRow("key_1", placeCarrier, CarrierQuery)
		for i, step := range []struct {
			at   time.Duration
			want bool
		}{{0, true}, {0, false}, {carrierSpan - 1, false}, {carrierSpan, true}, {carrierSpan + 1, false}, {2*carrierSpan - 1, false}, {2 * carrierSpan, true}} {
			if due, err := tellPlace(tx, row, epoch.Add(step.at)); due != step.want || err != nil {
				t.Errorf("step %d: got %t, %v; want %t", i+1, due, err, step.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKeyring_Noticed uses a key from another network and in a URL: the Keyring passes on each notice, and returns the error of
// who gets it.
func TestKeyring_Noticed(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(everyPermission)
	failed := errors.New("not told")
	var got []string
	var refused error
	a.Keyring.noticed = func(_ *Tx, of string, n KeyNotice) error {
		if of != id {
			t.Errorf("got a notice of %s, want one of %s", of, id)
		}
		got = append(got, n.Kind)
		return refused
	}
	use := func(at time.Duration, ip, carrier string) takenUse {
		return takenUse{key: &Key{StoredKey: StoredKey{ID: id}}, notes: &keyNotes{places: []LastUse{{At: epoch.Add(at), IP: netip.MustParseAddr(ip), Carrier: carrier}}}}
	}
	for i, step := range []struct {
		use    takenUse
		want   string
		refuse error
	}{
		{use(0, "192.0.2.1", CarrierBearer), "", nil},
		{use(time.Hour, "192.0.2.2", CarrierBearer), "", nil},
		{use(2*time.Hour, "198.51.100.1", CarrierBearer), ActivityNetwork, nil},
		{use(3*time.Hour, "203.0.113.1", CarrierQuery), ActivityNetwork + " " + ActivityCarrier, nil},
		{use(4*time.Hour, "100.64.0.1", CarrierBearer), ActivityNetwork, failed},
	} {
		got, refused = nil, step.refuse
		err := a.Store.Update(func(tx *Tx) error { got = nil; return a.Keyring.storeNotesOf(tx, step.use) })
		if strings.Join(got, " ") != step.want || !errors.Is(err, step.refuse) {
			t.Errorf("step %d: got %q, %v; want %q", i+1, got, err, step.want)
		}
	}
	a.Keyring.noticed = nil
	if err := a.Store.Update(func(tx *Tx) error { return a.Keyring.storeNotesOf(tx, use(5*time.Hour, "100.64.0.1", CarrierBearer)) }); err != nil {
		t.Error(err)
	}
}

// TestKeyring_Notes notes refusals and uses of a key, one at a time, and stores them. If there is no room for notes, requests
// are only counted.
func TestKeyring_Notes(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(everyPermission)
	_, h, err := a.Keyring.Find(secret)
	if err != nil {
		t.Fatal(err)
	}
	stored := func() map[string]int {
		t.Helper()
		if err := a.Keyring.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := a.Keyring.notes.used.Load(); n != 0 {
			t.Errorf("%d notes are counted after all were stored", n)
		}
		n := map[string]int{}
		err := a.Store.View(func(tx *Tx) error {
			list, _, _, err := ActivityOf(tx, id, func(*KeyActivity) bool { return true })
			for _, e := range list {
				n[e.Kind] += e.Requests()
			}
			networks, carriers, placesErr := PlacesOf(tx, id)
			n["places"] = len(networks) + len(carriers)
			return errors.Join(err, placesErr)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	refuse := func() { a.Keyring.Note(h, KeyActivity{At: epoch, Kind: ActivityRefusal, Status: 403, Count: 1}) }
	use := func(ip string) func() {
		return func() { a.Keyring.Used(h, LastUse{At: epoch, IP: netip.MustParseAddr(ip), Carrier: CarrierBearer}) }
	}
	before := stored()
	for i, step := range []struct {
		full bool
		note func()
		want map[string]int // what is there more
	}{
		{false, refuse, map[string]int{ActivityRefusal: 1}},
		{true, refuse, map[string]int{ActivityLeftOut: 1}},
		{true, use("192.0.2.1"), map[string]int{ActivityLeftOut: 1}},
		{false, use("198.51.100.1"), map[string]int{"places": 2}}, // its network, and how the key was sent
		{false, refuse, map[string]int{ActivityRefusal: 1}},
	} {
		if step.full {
			a.Keyring.notes.used.Add(maxAllNotes)
		}
		step.note()
		if step.full {
			a.Keyring.notes.used.Add(-maxAllNotes)
		}
		after := stored()
		for _, kind := range []string{ActivityRefusal, ActivityLeftOut, "places"} {
			if got := after[kind] - before[kind]; got != step.want[kind] {
				t.Errorf("step %d: got %d more of %s, want %d", i+1, got, kind, step.want[kind])
			}
		}
		before = after
	}
}

// TestKeyring_NotesNotStored stores notes in a store that refuses writes: each goes back to its entry, and the next Flush has
// the entry.
func TestKeyring_NotesNotStored(t *testing.T) {
	a := newTestApp(t)
	for range 2 {
		_, secret := a.key(everyPermission)
		_, h, err := a.Keyring.Find(secret)
		if err != nil {
			t.Fatal(err)
		}
		a.Keyring.Note(h, KeyActivity{At: epoch, Kind: ActivityRefusal, Status: 403, Count: 1})
	}
	entries := a.Keyring.dirty
	a.Keyring.dirty = nil
	taken := takeUses(entries)
	refuseWrites(t, a.Store)
	if err := a.Keyring.storeNotes(taken); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	for i, h := range entries {
		if h.notes == nil || h.notes.size() != 1 {
			t.Errorf("key %d: got the notes %+v, want one", i+1, h.notes)
		}
	}
	if n := a.Keyring.notes.used.Load(); n != 2 || len(a.Keyring.dirty) != 2 {
		t.Errorf("got %d notes of %d entries, want 2 of 2", n, len(a.Keyring.dirty))
	}
}

// TestKeyNotes_With puts notes together: nothing of either is lost, in whichever field it is.
func TestKeyNotes_With(t *testing.T) {
	notes := func(n int) *keyNotes {
		at := epoch.Add(time.Duration(n) * time.Hour)
		return &keyNotes{places: []LastUse{{At: at}}, requests: []KeyActivity{{At: at}}, missed: n, missedAt: at}
	}
	fields := reflect.TypeFor[keyNotes]()
	for i := range fields.NumField() {
		if reflect.ValueOf(*notes(1)).Field(i).IsZero() {
			t.Fatalf("%s is not set; say here how two of them are put together", fields.Field(i).Name)
		}
	}
	for name, got := range map[string]*keyNotes{"in order": notes(1).with(notes(2)), "the later ones first": notes(2).with(notes(1))} {
		if len(got.places) != 2 || len(got.requests) != 2 || got.missed != 3 || !got.missedAt.Equal(notes(2).missedAt) || got.size() != 4 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if one := notes(1); (*keyNotes)(nil).with(one) != one || one.with(nil) != one || (*keyNotes)(nil).with(nil) != nil {
		t.Error("notes and none are not these notes")
	}
}
