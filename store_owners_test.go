package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// uncounted are the tables whose records count for no owner, and why.
var uncounted = map[string]string{
	"owners": "of the operator", "teams": "of the operator", "owner_limits": "of the operator", "owner_storage": "of the operator",
	"do_not_call": "of the operator", "keys": "of the operator", "key_requests": "of the operator", "admin_tokens": "of the operator", "operators": "of the operator",
	"sessions": "of the operator", "factors": "of the operator", "sandboxes": "of the service", "storage_warnings": "of the service", "limits_reached": "of the service", "audit": "bounded by audit.max_entries",
	"webhook_backlogs": "one for each owner", "webhook_log": "bounded for each webhook", "webhook_queues": "one for each webhook", "mails": "one for each type of events",
}

// counted reports the name of a table and whether its records count for an owner.
func (t Table[T]) counted() (name string, owned bool) { return t.Name, t.Owner != nil }

func (b OwnedBucket) counted() (name string, owned bool) { return string(b), true }

// Every table either counts for an owner or is listed with the reason why it does not.
func TestOwners_EveryTable(t *testing.T) {
	var found []string
	for _, table := range tables() {
		c, ok := table.(interface{ counted() (string, bool) })
		if !ok {
			continue
		}
		name, owned := c.counted()
		if owned == (uncounted[name] != "") {
			t.Errorf("%s: owned is %t and the reason for not counting it is %q; set Owner or add the table to uncounted", name, owned, uncounted[name])
		}
		if owned {
			found = append(found, name)
		}
	}
	for _, name := range append(slices.Clone(ownedTables), businessBucket) {
		if !slices.Contains(found, name) {
			t.Errorf("countOwners counts the table %s, which has no Owner", name)
		}
	}
	for _, name := range found {
		if !slices.Contains(ownedTables, name) && name != businessBucket && name != "replays" { // replays of format 2 have no owner
			t.Errorf("countOwners does not count the table %s", name)
		}
	}
}

// ownedThing is a record of an owner.
type ownedThing struct {
	ID    uint64 `json:"id"`
	Owner uint64 `json:"owner"`
	Text  string `json:"text"`
}

var (
	ownedTable = Table[ownedThing]{Name: "things", Key: func(v ownedThing) []byte { return IDKey(v.ID) }, Owner: func(v ownedThing) uint64 { return v.Owner }}
	giftTable  = Table[ownedThing]{Name: "gifts", Key: func(v ownedThing) []byte { return IDKey(v.ID) }, Owner: func(v ownedThing) uint64 { return v.Owner }, Imposed: true}
)

func ownedThings() []Checked { return []Checked{&ownedTable, &giftTable} }

// bytesOf returns the counter of an owner.
func bytesOf(t *testing.T, s *Store, owner uint64) (n int64) {
	t.Helper()
	if err := s.View(func(tx *Tx) (err error) {
		n, err = OwnerBytes(tx, owner)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// put stores a record on behalf of by.
func (v ownedThing) put(s *Store, by Writer) error {
	return s.UpdateBy(by, func(tx *Tx) error { return ownedTable.Put(tx, v) })
}

// sized returns a record of owner 1 that counts n bytes.
func sized(t *testing.T, id uint64, n int) ownedThing {
	t.Helper()
	v := ownedThing{ID: id, Owner: 1}
	const fixed = 8 + 5 + len(`{"id":1,"owner":1,"text":""}`)
	if n < fixed || id > 9 {
		t.Fatalf("a record has at least %d bytes, and an id of one digit", fixed)
	}
	v.Text = strings.Repeat("x", n-fixed)
	return v
}

// A change of an owner is accepted up to its limit, and what shrinks, finishes or is made by somebody
// without a limit is always accepted.
func TestOwners_Limit(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{OwnerBytes: 1000})
	own := Writer{Owner: 1}
	for _, step := range []struct {
		name string
		v    ownedThing
		by   Writer
		full bool
		want int64
	}{
		{"below", sized(t, 1, 600), own, false, 600},
		{"above by one", sized(t, 2, 401), own, true, 600},
		{"at the limit", sized(t, 2, 400), own, false, 1000},
		{"a new record", sized(t, 3, 50), own, true, 1000},
		{"a little more in an old record", sized(t, 2, 460), own, false, 1060},
		{"a little more, too far above", sized(t, 2, 463), own, true, 1060},
		{"much more in an old record", sized(t, 2, 560), own, true, 1060},
		{"the same size", sized(t, 2, 460), own, false, 1060},
		{"a change that finishes", sized(t, 3, 500), Writer{Owner: 1, Finishes: true}, false, 1560},
		{"the operator", sized(t, 4, 500), Writer{}, false, 2060},
		{"smaller, but still above", sized(t, 4, 400), own, false, 1960},
		{"a record of another owner", ownedThing{ID: 5, Owner: 2, Text: "x"}, own, false, 1960},
		{"a larger record of a full owner by another", sized(t, 4, 500), Writer{Owner: 2}, true, 1960},
		{"a record given to another owner", ownedThing{ID: 4, Owner: 2, Text: "x"}, own, false, 1560},
	} {
		err := step.v.put(s, step.by)
		if errors.Is(err, ErrStorageFull) != step.full || err != nil && !step.full {
			t.Errorf("%s: got %v", step.name, err)
		}
		if got := bytesOf(t, s, 1); got != step.want {
			t.Errorf("%s: got %d bytes, want %d", step.name, got, step.want)
		}
	}
	err := sized(t, 6, 300).put(s, own)
	if e := Public(err); !strings.Contains(e.Message, "needs 300 more bytes") || !strings.Contains(e.Message, "1,560 of the 1,000 bytes") {
		t.Errorf("got the message %q", e.Message)
	}
	if err := s.UpdateBy(own, func(tx *Tx) error { return giftTable.Put(tx, ownedThing{ID: 1, Owner: 1}) }); !errors.Is(err, ErrStorageFull) {
		t.Errorf("an imposed record by its owner: got %v, want ErrStorageFull", err)
	}
	if err := s.UpdateBy(Writer{Owner: 3}, func(tx *Tx) error { return giftTable.Put(tx, ownedThing{ID: 1, Owner: 1}) }); err != nil {
		t.Errorf("an imposed record by another owner: got %v, want success", err)
	}
	s.SetBounds(Bounds{})
	if err := sized(t, 6, 300).put(s, own); err != nil {
		t.Errorf("without a bound: got %v", err)
	}
	checkCounters(t, s)
}

// An owner's own limit replaces the default; 0 is none.
func TestOwners_OwnLimit(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{OwnerBytes: 100})
	limit := func(set func(tx *Tx) error) {
		t.Helper()
		if err := s.Update(set); err != nil {
			t.Fatal(err)
		}
	}
	try := func(when string, full bool) {
		t.Helper()
		if err := sized(t, 1, 500).put(s, Writer{Owner: 1}); errors.Is(err, ErrStorageFull) != full || err != nil && !full {
			t.Errorf("%s: got %v", when, err)
		}
		limit(func(tx *Tx) error { _ = ownedTable.Delete(tx, IDKey(1)); return nil })
	}
	try("the default", true)
	limit(func(tx *Tx) error { return LimitStorage(tx, 1, 500) })
	try("500", false)
	limit(func(tx *Tx) error { return LimitStorage(tx, 1, 499) })
	try("499", true)
	limit(func(tx *Tx) error { return LimitStorage(tx, 1, 0) })
	try("none", false)
	for range 2 { // also if there is nothing to restore
		limit(func(tx *Tx) error { return DefaultStorage(tx, 1) })
	}
	try("the default again", true)
}

// A change of an owner whose counter or limit cannot be read fails, and stores nothing.
func TestOwners_Damaged(t *testing.T) {
	noNumber := func(tx *Tx, bucket string) error { return tx.Put(bucket, IDKey(1), []byte("x")) }
	for _, tt := range []struct {
		name, bucket string
		harm         func(tx *Tx, bucket string) error
	}{
		{"a damaged counter", ownerBytesBucket, damageBucket},
		{"a counter that is no number", ownerBytesBucket, noNumber},
		{"a damaged limit", storageLimitTable.Name, damageBucket},
		{"a limit that is no JSON", storageLimitTable.Name, spoilRecords},
	} {
		s := newTestStore(t)
		err := s.Update(func(tx *Tx) error { return LimitStorage(tx, 1, 500) })
		if err = errors.Join(err, sized(t, 1, 100).put(s, Writer{Owner: 1}), s.Update(func(tx *Tx) error { return tt.harm(tx, tt.bucket) })); err != nil {
			t.Fatal(err)
		}
		if err := sized(t, 2, 100).put(s, Writer{Owner: 1}); err == nil || errors.Is(err, ErrStorageFull) {
			t.Errorf("%s: got %v, want the error of the record", tt.name, err)
		}
		if err := s.View(func(tx *Tx) error { _, err := ownedTable.Get(tx, IDKey(2)); return err }); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v, want no record of the change that failed", tt.name, err)
		}
	}
}

// checkCounters fails the test if a counter differs from the records.
func checkCounters(t *testing.T, s *Store) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		result, err := CheckStore(tx, ownedThings())
		if len(result.Problems) > 0 {
			t.Errorf("check: got %q", result.Problems)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The counters are exact after any changes, also those that fail, give a record to another owner or
// delete and store it again in one transaction.
func TestOwners_Counters(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{OwnerBytes: 3000})
	random := rand.New(rand.NewPCG(1, 2))
	full := 0
	for range 2000 {
		by := Writer{Owner: random.Uint64N(4)}
		err := s.UpdateBy(by, func(tx *Tx) error {
			for range 1 + random.IntN(3) {
				v := ownedThing{ID: 1 + random.Uint64N(30), Owner: random.Uint64N(4), Text: strings.Repeat("y", random.IntN(400))}
				table := []Table[ownedThing]{ownedTable, giftTable}[random.IntN(2)]
				if random.IntN(3) == 0 {
					_ = table.Delete(tx, IDKey(v.ID))
				} else if err := table.Put(tx, v); err != nil {
					return err
				}
			}
			if random.IntN(5) == 0 {
				return errors.New("no")
			}
			return nil
		})
		if errors.Is(err, ErrStorageFull) {
			full++
		}
	}
	if full == 0 {
		t.Error("no change was refused")
	}
	checkCounters(t, s)
	wrong := func(tx *Tx) error { return tx.Put(ownerBytesBucket, IDKey(2), IDKey(7)) }
	if err := s.Update(wrong); err != nil {
		t.Fatal(err)
	}
	_ = s.View(func(tx *Tx) error {
		if result, _ := CheckStore(tx, ownedThings()); len(result.Problems) != 1 || !strings.Contains(result.Problems[0], "owner 2 need") {
			t.Errorf("a wrong counter: got %q", result.Problems)
		}
		return nil
	})
}

// While the disk is low, a change of a key fails at its first write, and so does not make the other
// changes of its batch run again.
func TestOwners_DiskLow(t *testing.T) {
	s := newTestStore(t)
	s.SetDiskLow(true)
	for _, write := range []struct {
		name string
		run  func(tx *Tx) error
	}{
		{"put", func(tx *Tx) error { return ownedTable.Put(tx, ownedThing{ID: 1, Owner: 1}) }},
		{"new id", func(tx *Tx) error { _, err := ownedTable.NextID(tx); return err }},
		{"delete", func(tx *Tx) error { return tx.Delete("meta", []byte("header")) }},
	} {
		writes := 0
		err := s.UpdateBy(Writer{Owner: 1}, func(tx *Tx) error { defer func() { writes += tx.Writes }(); return write.run(tx) })
		if !errors.Is(err, ErrDiskLow) || writes != 0 {
			t.Errorf("%s: got %v after %d writes, want ErrDiskLow before the first", write.name, err, writes)
		}
	}
	if err := s.UpdateBy(Writer{Owner: 1}, func(*Tx) error { return nil }); err != nil {
		t.Errorf("a change that writes nothing: got %v", err)
	}
	for _, by := range []Writer{{}, {Owner: 1, Finishes: true}} {
		if err := (ownedThing{ID: 1, Owner: 1}).put(s, by); err != nil {
			t.Errorf("%+v: got %v, want success", by, err)
		}
	}
	s.SetDiskLow(false)
	if err := (ownedThing{ID: 2, Owner: 1}).put(s, Writer{Owner: 1}); err != nil {
		t.Errorf("enough space again: got %v", err)
	}
}

// The function of WatchDisk is called after each 8 MiB, not after each commit.
func TestStore_WatchDisk(t *testing.T) {
	s := newTestStore(t)
	calls := 0
	s.WatchDisk(func() { calls++ })
	for i := range 20 {
		if err := (ownedThing{ID: uint64(i + 1), Text: strings.Repeat("z", 1<<20)}).put(s, Writer{}); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 2 {
		t.Errorf("got %d calls after 20 MiB, want 2", calls)
	}
}

// TestOwnersStorage compares the storage of all owners with that of each.
func TestOwnersStorage(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{OwnerBytes: 1000})
	err := s.Update(func(tx *Tx) error {
		for owner := range uint64(40) {
			if err := tx.Put(ownerBytesBucket, IDKey(owner*owner), IDKey(30*owner)); err != nil {
				return err
			}
			if owner%3 == 0 { // also limits of owners who store nothing
				if err := errors.Join(LimitStorage(tx, owner*owner, int64(owner)), LimitStorage(tx, owner*owner+1, 5)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(func(tx *Tx) error {
		n := uint64(0)
		for got, err := range OwnersStorage(tx) {
			want, wantErr := StorageOf(tx, n*n)
			if err = errors.Join(err, wantErr); err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
			n++
		}
		if n != 40 {
			t.Errorf("got %d owners, want 40", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFullOwners lists owners whose storage is just full enough, and a full sandbox, which is left out.
func TestFullOwners(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{OwnerBytes: 1000})
	err := s.Update(func(tx *Tx) (err error) {
		for owner, bytes := range map[uint64]uint64{1: 799, 2: 800, 3: 1000, 4: 0, SandboxOf(1): 1000, SandboxOf(2): 10} {
			err = errors.Join(err, tx.Put(ownerBytesBucket, IDKey(owner), IDKey(bytes)))
		}
		list, fullErr := FullOwners(tx)
		var got []uint64
		for _, o := range list {
			got = append(got, o.Owner)
		}
		if !slices.Equal(got, []uint64{2, 3}) {
			t.Errorf("got the owners %v, want 2 and 3", got)
		}
		return errors.Join(err, fullErr)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The migration counts what the program itself would have counted, and leaves the owners of the store
// without a limit.
func TestOwners_Migration(t *testing.T) {
	a := newTestApp(t)
	_, secret := a.key(`["can_read_contacts","can_write_contacts","can_write_calendar"]`, `"owner": "old"`)
	for path, body := range map[string]string{
		"/api/v1/contacts/create": `{"first_name": "Oda"}`, "/api/v1/calendar/events/create": walkEvent,
		"/api/v1/business/context": `{"variables": {"a": "b"}, "auto_create_variables": true}`,
	} {
		if w := a.ask("POST", path, secret, body); w.Code >= 300 {
			t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	err := a.Store.Update(func(tx *Tx) error {
		before := map[uint64]int64{}
		for owner := range countedOwners(tx) {
			before[owner], _ = OwnerBytes(tx, owner)
		}
		for owner := range before {
			if err := tx.Delete(ownerBytesBucket, IDKey(owner)); err != nil {
				return err
			}
		}
		if err := errors.Join(tx.Delete("owner_storage", IDKey(1)), tx.Delete("counts", []byte("owner_storage")), countOwners(tx)); err != nil {
			return err
		}
		for owner, want := range before {
			if got, _ := OwnerBytes(tx, owner); got != want || want == 0 {
				t.Errorf("owner %d: got %d bytes, want %d", owner, got, want)
			}
		}
		o, err := OwnerNamed(tx, "old")
		if limit, own, _ := StorageLimit(tx, o.ID); limit != 0 || !own {
			t.Errorf("got the limit %d, own: %t; want none of its own", limit, own)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := a.operate(200, "POST", "/admin/v1/check", "")["problems"]; fmt.Sprint(p) != "[]" {
		t.Errorf("check: got %v", p)
	}
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "new"}`)
	if v := a.operate(200, "GET", "/admin/v1/owners?search=new", "")["owners"].([]any)[0].(map[string]any); fmt.Sprint(v["storage"]) != "map[bytes:0 limit:2.68435456e+08]" || v["storage_bytes"] != nil {
		t.Errorf("a new owner: got %v, %v", v["storage"], v["storage_bytes"])
	}
}

// touchNoter is a Noter that keeps what it is told.
type touchNoter struct {
	got []string
	err error
}

func (n *touchNoter) NoteWrites(tx *Tx) error {
	for _, touched := range tx.Touched {
		n.got = append(n.got, touched.Object+" "+touched.Did)
	}
	n.got = append(n.got, fmt.Sprint(tx.TouchedMore))
	return n.err
}

// The Noter of a Writer is called once for a change that touches a record, also if it is only one, and not for others. Its
// error refuses the change.
func TestWriter_Noter(t *testing.T) {
	failed := errors.New("not noted")
	for touched, want := range map[int]string{0: "", 1: "thing 1 changed,0", 2: "thing 1 changed,thing 2 changed,0", maxTouched + 2: "2"} {
		for _, refuse := range []error{nil, failed} {
			s, n := newTestStore(t), &touchNoter{err: refuse}
			err := s.UpdateBy(Writer{Owner: 1, Key: "key_1", Noter: n}, func(tx *Tx) error {
				n.got = nil
				for i := range touched {
					tx.Touch(fmt.Sprint("thing ", i+1), "changed")
				}
				return tx.Put("x", []byte("k"), nil)
			})
			if refused := refuse != nil && touched > 0; errors.Is(err, failed) != refused || err != nil && !refused {
				t.Errorf("%d touched: got %v", touched, err)
			}
			got := strings.Join(n.got, ",")
			if touched > maxTouched {
				got = n.got[len(n.got)-1]
			}
			if got != want || len(n.got) > maxTouched+1 {
				t.Errorf("%d touched: got %q, want %q", touched, got, want)
			}
			_ = s.View(func(tx *Tx) error {
				if stored := tx.Has("x", []byte("k")); stored != (err == nil) {
					t.Errorf("%d touched: stored %t, %v", touched, stored, err)
				}
				return nil
			})
		}
	}
}
