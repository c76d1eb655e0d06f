package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"latchkey/internal/sorted"
)

// The kinds of entries in the activity of a key.
const (
	ActivityWrite   = "write"    // a request has created, changed or deleted records, or requests to a guarded route may have
	ActivityRefusal = "refusal"  // requests were answered with 401, 403 or 429
	ActivityNetwork = "network"  // the first request from a network, and so from its address
	ActivityAddress = "address"  // the first request from another address of a known network
	ActivityCarrier = "carrier"  // the key was sent in a way that it was not sent in before
	ActivityLeftOut = "left_out" // requests that are counted here alone, because there were too many
)

// ActivityKinds returns the kinds of entries.
func ActivityKinds() []string {
	return []string{ActivityWrite, ActivityRefusal, ActivityNetwork, ActivityAddress, ActivityCarrier, ActivityLeftOut}
}

// KeyActivity is an entry in the activity of a key: what the key did, or where and how it was used.
// The activity is not part of the audit log: a key may write far more often than an operator.
type KeyActivity struct {
	Number  uint64     `json:"-"` // 1 for the first entry of the key, then 2 and so on
	Kind    string     `json:"kind"`
	At      time.Time  `json:"at"`              // of the last request
	Since   time.Time  `json:"since,omitzero"`  // of the first request, if the entry is about several
	Count   int        `json:"count,omitempty"` // number of requests; 0: one
	Method  string     `json:"method,omitempty"`
	Route   string     `json:"route,omitempty"`   // pattern of the path
	Objects []Touched  `json:"objects,omitempty"` // what a write has changed; none: the requests went to a guarded route
	More    int        `json:"more,omitempty"`    // number of further records that it has changed
	Status  int        `json:"status,omitempty"`  // of a refusal, and of the answer of an upstream
	Code    string     `json:"code,omitempty"`    // its error code
	Client  netip.Addr `json:"client,omitzero"`   // address of the client of the last request
	Network string     `json:"network,omitempty"` // of an address: its /24, or the /48 of an IPv6 address
	Carrier string     `json:"carrier,omitempty"`
	Before  string     `json:"before,omitempty"`     // how the key was sent before; "": it is the first time
	Request string     `json:"request_id,omitempty"` // of the last request
}

// Requests returns the number of requests that the entry is about.
func (e *KeyActivity) Requests() int { return max(e.Count, 1) }

// activityBucket has the entries of all keys. The key of an entry is the id of the key, a zero byte and
// the number. The nodes of a cluster number them together, because each change is made in the latest state.
const activityBucket = "key_activity"

func activityPrefix(id string) []byte { return append([]byte(id), 0) }

func activityKey(id string, number uint64) []byte {
	return binary.BigEndian.AppendUint64(activityPrefix(id), number)
}

// activityNumber returns the number of the entry that is stored under key, which has the prefix of its
// key's entries. It returns 0 if key is damaged.
func activityNumber(key, prefix []byte) uint64 {
	if len(key) != len(prefix)+8 {
		return 0
	}
	return binary.BigEndian.Uint64(key[len(prefix):])
}

// AddActivity adds an entry to the activity of the key with this id. Beyond Bounds.ActivityEntries it
// deletes the oldest.
func AddActivity(tx *Tx, id string, e KeyActivity) error {
	prefix := activityPrefix(id)
	last := lastActivity(tx, prefix)
	if err := putActivity(tx, id, last+1, e); err != nil {
		return err
	}
	most := uint64(tx.Bounds.ActivityEntries)
	if most == 0 || last < most {
		return nil
	}
	var old [][]byte
	tx.Scan(activityBucket, prefix, Forward, func(key, _ []byte) bool {
		if len(old) == 2 || activityNumber(key, prefix)+most > last+1 { // two, so that a lowered bound is reached some day
			return false
		}
		old = append(old, bytes.Clone(key))
		return true
	})
	return deleteAll(tx, activityBucket, old)
}

// lastActivity returns the number of the latest entry of a key, or 0 if there is none.
func lastActivity(tx *Tx, prefix []byte) (last uint64) {
	tx.Scan(activityBucket, prefix, Backward, func(key, _ []byte) bool {
		last = activityNumber(key, prefix)
		return false
	})
	return last
}

func putActivity(tx *Tx, id string, number uint64, e KeyActivity) error {
	value, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return tx.Put(activityBucket, activityKey(id, number), value)
}

func deleteAll(tx *Tx, bucket string, keys [][]byte) error {
	for _, key := range keys {
		if err := tx.Delete(bucket, key); err != nil {
			return err
		}
	}
	return nil
}

// readActivity decodes a stored entry into e, which must be zero.
func readActivity(e *KeyActivity, prefix, key, raw []byte) error {
	value, err := Unseal(activityBucket, key, raw)
	if err == nil {
		err = json.Unmarshal(value, e)
	}
	if err != nil {
		return fmt.Errorf("activity %q: %w", key, err)
	}
	e.Number = activityNumber(key, prefix)
	return nil
}

// foldedBack is how many entries foldActivity looks at.
const foldedBack = 50

// foldActivity adds requests to an entry about equal ones that began within span before e, or adds
// e as an entry of its own.
func foldActivity(tx *Tx, id string, e KeyActivity, span time.Duration) (err error) {
	prefix, seen := activityPrefix(id), 0
	var was KeyActivity
	found := false
	tx.Scan(activityBucket, prefix, Backward, func(key, raw []byte) bool {
		if seen++; seen > foldedBack {
			return false
		}
		was = KeyActivity{}
		err = readActivity(&was, prefix, key, raw)
		found = err == nil && was.like(&e) && e.At.Sub(was.First()) < span
		return err == nil && !found
	})
	if err != nil {
		return err
	}
	if !found {
		return AddActivity(tx, id, e)
	}
	return putActivity(tx, id, was.Number, was.with(&e))
}

// First returns the time of the first request.
func (e *KeyActivity) First() time.Time {
	if e.Since.IsZero() {
		return e.At
	}
	return e.Since
}

// with returns the entry together with the requests of another one like it.
func (e *KeyActivity) with(other *KeyActivity) KeyActivity {
	since, latest := e.First(), e
	if other.First().Before(since) {
		since = other.First()
	}
	if other.At.After(e.At) {
		latest = other
	}
	sum := *latest
	sum.Since, sum.Count = since, e.Requests()+other.Requests()
	return sum
}

// like reports whether two entries differ only in when the requests were made, by whom, and how many.
func (e *KeyActivity) like(other *KeyActivity) bool {
	return e.Kind == other.Kind && e.Status == other.Status && e.Code == other.Code && e.Method == other.Method && e.Route == other.Route &&
		e.Carrier == other.Carrier && e.Before == other.Before
}

// ActivityOf returns the stored entries of a key for which want returns true, latest first. numbered is the
// number of entries that the key has had, and kept how many of them are still stored.
func ActivityOf(tx *Tx, id string, want func(*KeyActivity) bool) (list []*KeyActivity, numbered uint64, kept int, err error) {
	prefix := activityPrefix(id)
	tx.Scan(activityBucket, prefix, Backward, func(key, raw []byte) bool {
		e := &KeyActivity{}
		if err = readActivity(e, prefix, key, raw); err != nil {
			return false
		}
		tx.Yield(len(raw))
		numbered, kept = max(numbered, e.Number), kept+1
		if want(e) {
			list = append(list, e)
		}
		return true
	})
	// All but the writes of records is stored a while after the requests.
	sorted.Func(list, func(a, b *KeyActivity) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Number, a.Number)) })
	return list, numbered, kept, err
}

// placesBucket has a row for each address, network and way from which a key was used. The key of a row is
// the id of the key, a zero byte, a place kind and its value.
const placesBucket = "key_places"

// The kinds of rows in placesBucket. They are part of database keys, so they must not change.
const (
	placeAddress = 'a'
	placeCarrier = 'c'
	placeNetwork = 'n'
	placeLatest  = 'l' // the carrier of the latest use
	placeUnused  = 'u' // since when the key was unused at its last key.unused, see Keyring.Unused
)

// maxPlaces is the number of addresses and networks of a key that are stored.
const maxPlaces = 2000

// KeyPlace is an address, a network or a carrier by which a key was used.
type KeyPlace struct {
	Value string    `json:"-"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"` // correct to a day
	// Told is the time of the last use for which there was a KeyNotice of this carrier.
	Told time.Time `json:"told,omitzero"`
}

// placeDay is how old KeyPlace.Last may be.
const placeDay = 24 * time.Hour

func placeRow(id string, kind byte, value string) []byte {
	return append(append(activityPrefix(id), kind), value...)
}

// NetworkOfUse returns the network of a client as the activity of keys has it: the /24 of an IPv4 address
// and the /48 of an IPv6 address. It returns "" for the zero Addr.
func NetworkOfUse(a netip.Addr) string {
	bits := 24
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 48
	}
	network, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return network.String()
}

// seePlace notes a use at a place and reports whether it is the first.
func seePlace(tx *Tx, row []byte, at time.Time) (first bool, err error) {
	p, known, err := getPlace(tx, row)
	switch {
	case err != nil || known && at.Sub(p.Last) < placeDay:
		return false, err
	case !known:
		p.First = at
	}
	p.Last = at
	return !known, p.put(tx, row)
}

// getPlace returns a stored place, and whether it is stored.
func getPlace(tx *Tx, row []byte) (p KeyPlace, known bool, err error) {
	value, err := tx.Get(placesBucket, row)
	if err != nil || value == nil {
		return p, false, err
	}
	if err := json.Unmarshal(value, &p); err != nil {
		return p, true, fmt.Errorf("place %q of a key: %w", row, err)
	}
	return p, true, nil
}

// put stores a place.
func (p KeyPlace) put(tx *Tx, row []byte) error {
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return tx.Put(placesBucket, row, value)
}

// tellPlace reports whether there was no KeyNotice of a place, which has a row, within carrierSpan before at. If so, it
// notes that there is one now.
func tellPlace(tx *Tx, row []byte, at time.Time) (due bool, err error) {
	p, _, err := getPlace(tx, row)
	if err != nil || !p.Told.IsZero() && at.Sub(p.Told) < carrierSpan {
		return false, err
	}
	p.Told = at
	return true, p.put(tx, row)
}

// PlacesOf returns the networks and the carriers by which a key was used, those that were used first
// first.
func PlacesOf(tx *Tx, id string) (networks, carriers []*KeyPlace, err error) {
	if networks, err = placesOf(tx, placeRow(id, placeNetwork, "")); err == nil {
		carriers, err = placesOf(tx, placeRow(id, placeCarrier, ""))
	}
	return networks, carriers, err
}

// placesOf returns the places whose rows have a prefix.
func placesOf(tx *Tx, prefix []byte) (list []*KeyPlace, err error) {
	tx.Scan(placesBucket, prefix, Forward, func(row, raw []byte) bool {
		p := &KeyPlace{Value: string(row[len(prefix):])}
		err = p.read(row, raw)
		list = append(list, p)
		return err == nil
	})
	sorted.Func(list, func(a, b *KeyPlace) int { return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Value, b.Value)) })
	return list, err
}

// read decodes a stored row.
func (p *KeyPlace) read(row, raw []byte) error {
	value, err := Unseal(placesBucket, row, raw)
	if err == nil {
		err = json.Unmarshal(value, p)
	}
	if err != nil {
		return fmt.Errorf("place %q of a key: %w", row, err)
	}
	return nil
}

// countPlaces returns the number of addresses and networks of a key, and no more than maxPlaces.
func countPlaces(tx *Tx, id string) (n int) {
	count := func(_, _ []byte) bool { n++; return n < maxPlaces }
	tx.Scan(placesBucket, placeRow(id, placeAddress, ""), Forward, count)
	tx.Scan(placesBucket, placeRow(id, placeNetwork, ""), Forward, count)
	return n
}

// The spans of time whose equal requests have one entry.
const (
	alikeSpan   = time.Hour
	carrierSpan = 24 * time.Hour
)

// KeyNotice is a use of a key about which the webhooks of the operator get an event: the first from another network, which has the kind
// ActivityNetwork, or the first in the query of a URL after none or another way, which has the kind ActivityCarrier.
type KeyNotice struct {
	Kind string
	Use  LastUse // without counts
}

// storeNotes adds what was noted about a key to its activity. It returns the uses that cause events.
func storeNotes(tx *Tx, id string, n *keyNotes) (news []KeyNotice, err error) {
	left := KeyActivity{Kind: ActivityLeftOut, Count: n.missed}
	for _, p := range n.places {
		left.At = later(left.At, p.At)
		known := tx.Has(placesBucket, placeRow(id, placeLatest, ""))
		stored, network, err := storePlace(tx, id, p)
		if err != nil {
			return nil, err
		}
		if !stored {
			left.Count++
		}
		if network && known {
			news = append(news, KeyNotice{ActivityNetwork, p})
		}
		query, err := storeCarrier(tx, id, p)
		if err != nil {
			return nil, err
		}
		if query {
			news = append(news, KeyNotice{ActivityCarrier, p})
		}
	}
	for _, r := range n.requests {
		left.At = later(left.At, r.At)
		if err := foldActivity(tx, id, r, alikeSpan); err != nil {
			return nil, err
		}
	}
	if left.Count == 0 {
		return news, nil
	}
	left.At = later(left.At, n.missedAt)
	return news, foldActivity(tx, id, left, alikeSpan)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// storePlace notes the address of a use, and adds an entry if it is the first from there. stored is false
// if the key has too many addresses. unknown reports whether the network of the address is new.
func storePlace(tx *Tx, id string, use LastUse) (stored, unknown bool, err error) {
	network := NetworkOfUse(use.IP)
	if network == "" {
		return true, false, nil
	}
	row := placeRow(id, placeAddress, AddrText(use.IP))
	if !tx.Has(placesBucket, row) && countPlaces(tx, id) >= maxPlaces {
		return false, false, nil
	}
	first, err := seePlace(tx, row, use.At)
	if err != nil {
		return true, false, err
	}
	kind := ActivityAddress
	unknown, err = seePlace(tx, placeRow(id, placeNetwork, network), use.At)
	if unknown {
		kind = ActivityNetwork
	}
	if err != nil || !first && !unknown {
		return true, unknown, err
	}
	return true, unknown, AddActivity(tx, id, KeyActivity{Kind: kind, At: use.At, Client: use.IP, Network: network, Carrier: use.Carrier})
}

// storeCarrier notes how a key was sent, and adds an entry if that is new or has changed. query reports whether
// the change is that the key is sent in the query of a URL, once in carrierSpan.
func storeCarrier(tx *Tx, id string, use LastUse) (query bool, err error) {
	place := placeRow(id, placeCarrier, use.Carrier)
	if _, err := seePlace(tx, place, use.At); err != nil {
		return false, err
	}
	row := placeRow(id, placeLatest, "")
	before, err := tx.Get(placesBucket, row)
	if err != nil || string(before) == use.Carrier {
		return false, err
	}
	if err := tx.Put(placesBucket, row, []byte(use.Carrier)); err != nil {
		return false, err
	}
	if use.Carrier == CarrierQuery {
		if query, err = tellPlace(tx, place, use.At); err != nil {
			return false, err
		}
	}
	return query, foldActivity(tx, id, KeyActivity{Kind: ActivityCarrier, At: use.At, Client: use.IP, Carrier: use.Carrier, Before: string(before)}, carrierSpan)
}

// sweptActivity is the number of entries and places that one SweepActivity deletes.
const sweptActivity = 2000

// ActivitySweeper deletes what is too old of the activity of keys. It is for one goroutine.
type ActivitySweeper struct {
	store *Store
	from  string // id of the key at which the next Sweep begins; "": the first
}

// NewActivitySweeper returns a sweeper of the activity in store.
func NewActivitySweeper(store *Store) *ActivitySweeper { return &ActivitySweeper{store: store} }

// sweptKeys is the number of keys that one Sweep looks at.
const sweptKeys = 2000

// Sweep deletes entries and places that were last used longer ago than Bounds.ActivityKeep, and entries
// beyond Bounds.ActivityEntries. It looks at sweptKeys keys. Call it once a minute.
func (s *ActivitySweeper) Sweep(now time.Time) error {
	bounds := s.store.Bounds()
	if bounds.ActivityKeep == 0 {
		return nil
	}
	var entries, places [][]byte
	next := ""
	err := s.store.View(func(tx *Tx) error {
		cutoff, id := now.Add(-bounds.ActivityKeep), s.from
		for range sweptKeys {
			if len(entries)+len(places) >= sweptActivity {
				break
			}
			if id = nextActive(tx, id); id == "" {
				break
			}
			entries = append(entries, oldActivity(tx, id, cutoff, bounds.ActivityEntries)...)
			places = append(places, oldPlaces(tx, id, cutoff)...)
		}
		next = id
		return nil
	})
	if s.from = next; err != nil || len(entries)+len(places) == 0 {
		return err
	}
	return s.store.Update(func(tx *Tx) error { // at most about twice sweptActivity of each
		if err := deleteAll(tx, activityBucket, entries); err != nil {
			return err
		}
		return deleteAll(tx, placesBucket, places)
	})
}

// nextActive returns the first id of a key after id that has entries or places, or "" if there is none.
func nextActive(tx *Tx, id string) (next string) {
	for _, bucket := range []string{activityBucket, placesBucket} {
		for key := range tx.RangeFrom(bucket, append([]byte(id), 1)) {
			if found, _, ok := bytes.Cut(key, []byte{0}); ok && (next == "" || string(found) < next) {
				next = string(found)
			}
			break
		}
	}
	return next
}

// oldActivity returns the keys of the entries of a key that are too old or too many. It ends at the first that is
// neither: entries are almost in the order of their times. An entry that cannot be read goes with its age unknown.
func oldActivity(tx *Tx, id string, cutoff time.Time, most int) (old [][]byte) {
	prefix := activityPrefix(id)
	last := lastActivity(tx, prefix)
	tx.Scan(activityBucket, prefix, Forward, func(key, raw []byte) bool {
		e := KeyActivity{}
		err := readActivity(&e, prefix, key, raw)
		beyond := most > 0 && activityNumber(key, prefix)+uint64(most) <= last
		if len(old) == sweptActivity || !beyond && (err != nil || !e.At.Before(cutoff)) {
			return false
		}
		old = append(old, bytes.Clone(key))
		return true
	})
	return old
}

// oldPlaces returns the rows of a key's places that were last used before cutoff.
func oldPlaces(tx *Tx, id string, cutoff time.Time) (old [][]byte) {
	tx.Scan(placesBucket, activityPrefix(id), Forward, func(row, raw []byte) bool {
		switch p := (KeyPlace{}); row[len(id)+1] {
		case placeAddress, placeCarrier, placeNetwork:
			if p.read(row, raw) == nil && p.Last.Before(cutoff) {
				old = append(old, bytes.Clone(row))
			}
		}
		return len(old) < sweptActivity
	})
	return old
}
