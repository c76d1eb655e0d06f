package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/durable"
	"latchkey/internal/keytext"
)

// newTestStore gives an empty store that is closed with the test.
func newTestStore(t testing.TB) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	if err := CreateStore(path, "test", epoch); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reopen closes a store and opens its file again.
func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenStore(s.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

func TestStore_Reopen(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error { return tx.Put("b", []byte("k"), []byte("value")) })
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	_ = s.View(func(tx *Tx) error {
		got, err := tx.Get("b", []byte("k"))
		if err != nil || string(got) != "value" {
			t.Errorf("got %q, %v; want \"value\"", got, err)
		}
		return nil
	})
}

// TestStore_FailedChange checks that a change that fails leaves nothing, and
// that those who share its transaction do not suffer.
func TestStore_FailedChange(t *testing.T) {
	s := newTestStore(t)
	boom := errors.New("boom")
	hold := make(chan struct{})
	s.Queue(func(*Tx) error { <-hold; return nil }, func(error) {}) // so that the rest shares a batch
	var wg sync.WaitGroup
	results := make([]error, 20)
	after := make([]int, 20)
	for i := range results {
		wg.Add(1)
		s.Queue(func(tx *Tx) error {
			tx.After(func() { after[i]++ })
			if err := tx.Put("b", fmt.Append(nil, i), []byte("x")); err != nil {
				return err
			}
			if i%5 == 3 {
				return boom
			}
			return nil
		}, func(err error) { results[i] = err; wg.Done() })
	}
	close(hold)
	wg.Wait()
	_ = s.View(func(tx *Tx) error {
		for i, err := range results {
			got, _ := tx.Get("b", fmt.Append(nil, i))
			failed := i%5 == 3
			if errors.Is(err, boom) != failed || (got == nil) != failed || (after[i] == 0) != failed || after[i] > 1 {
				t.Errorf("change %d: error %v, stored %q, told %d times; want failed to be %v", i, err, got, after[i], failed)
			}
		}
		return nil
	})
}

func TestStore_Concurrent(t *testing.T) {
	s := newTestStore(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.Update(func(tx *Tx) error { return tx.Put("b", IDKey(uint64(i)), []byte("x")) })
			if err != nil {
				t.Error(err)
			}
			_ = s.View(func(tx *Tx) error {
				if got, _ := tx.Get("b", IDKey(uint64(i))); got == nil {
					t.Errorf("change %d is not there after it was acknowledged", i)
				}
				return nil
			})
		})
	}
	wg.Wait()
}

func TestStore_CommitErrorPoisons(t *testing.T) {
	s := newTestStore(t)
	s.fail(errors.New("disk gone"))
	select {
	case <-s.Failed():
	default:
		t.Error("Failed is not closed after a commit error")
	}
	if err := s.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Update: got %v, want ErrUnavailable", err)
	}
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("View: got %v, want ErrUnavailable", err)
	}
	if !strings.Contains(s.Err().Error(), "disk gone") {
		t.Errorf("got %v, want the cause", s.Err())
	}
}

func TestStore_Closed(t *testing.T) {
	s := newTestStore(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Update: got %v, want ErrUnavailable", err)
	}
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("View: got %v, want ErrUnavailable", err)
	}
}

func TestOpenStore_BadFiles(t *testing.T) {
	good := newTestStore(t)
	if err := good.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"empty", nil, "too few to be a store"},
		{"half a page", whole[:2000], "too few to be a store"},
		{"half", whole[:len(whole)/2], "the file is damaged"},
		{"text", []byte(strings.Repeat("hello ", 10_000)), "damaged or no store"},
		{"zeros", make([]byte, len(whole)), "damaged or no store"},
	} {
		path := filepath.Join(t.TempDir(), "bad.db")
		if err := os.WriteFile(path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStore(path, nil)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if now, _ := os.ReadFile(path); len(now) != len(tt.content) {
			t.Errorf("%s: the file was changed from %d to %d bytes", tt.name, len(tt.content), len(now))
		}
	}
	if _, err := OpenStore(filepath.Join(t.TempDir(), "none.db"), nil); err == nil || !strings.Contains(err.Error(), "restore a backup") {
		t.Errorf("missing file: got %v, want the way out", err)
	}
}

func TestStore_NewerFormat(t *testing.T) {
	for _, tt := range []struct {
		header string
		wants  []string // nothing: it opens
	}{
		{`{"format":99,"min_reader":99,"writer":"v9.1.0"}`, []string{"format 99", "latchkey v9.1.0", "up to format 1", "this is latchkey " + ProgramVersion(), "restore a backup"}},
		{`{"format":99}`, []string{"format 99", "of a later version"}},
		{`{"format":99,"min_reader":1,"writer":"v9.1.0"}`, nil},
	} {
		s := newTestStore(t)
		_ = s.Update(func(tx *Tx) error { return tx.Put("meta", []byte("header"), []byte(tt.header)) })
		_ = s.Close()
		before, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := OpenStore(s.path, nil)
		if again != nil {
			_ = again.Close()
		}
		if (err == nil) != (tt.wants == nil) {
			t.Errorf("%s: got %v", tt.header, err)
		}
		for _, want := range tt.wants {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", tt.header, err, want)
			}
		}
		if now, _ := os.ReadFile(s.path); !bytes.Equal(now, before) {
			t.Errorf("%s: the file was changed", tt.header)
		}
	}
}

func TestTx_DamagedRecord(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		return errors.Join(tx.Put("b", []byte("k"), []byte("value")), tx.PutRaw("b", []byte("short"), []byte{1, 2}))
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Update(func(tx *Tx) error {
		raw := append([]byte(nil), tx.Bolt.Bucket([]byte("b")).Get([]byte("k"))...)
		raw[len(raw)-1] ^= 1
		return errors.Join(tx.PutRaw("b", []byte("k"), raw), tx.PutRaw("b", []byte("moved"), raw))
	})
	_ = s.View(func(tx *Tx) error {
		for _, key := range []string{"k", "short", "moved"} {
			if got, err := tx.Get("b", []byte(key)); err == nil {
				t.Errorf("%s: got %q and no error", key, got)
			}
		}
		return nil
	})
}

type thing struct {
	ID   uint64
	Word string
	At   time.Time
}

var thingTable = Table[thing]{
	Name: "things",
	Key:  func(v thing) []byte { return IDKey(v.ID) },
	Indexes: []Index[thing]{
		{"word", func(v thing) [][]byte { return [][]byte{[]byte(v.Word)} }},
	},
}

func TestTable(t *testing.T) {
	s := newTestStore(t)
	put := func(id uint64, word string) {
		t.Helper()
		if err := s.Update(func(tx *Tx) error { return thingTable.Put(tx, thing{ID: id, Word: word}) }); err != nil {
			t.Fatal(err)
		}
	}
	for i, word := range []string{"one", "two", "two", "three", "twofold"} {
		put(uint64(i+1), word)
	}
	put(4, "two")
	generation := s.Generation("things").Load()
	if err := s.Update(func(tx *Tx) error { return thingTable.Delete(tx, IDKey(2)) }); err != nil {
		t.Fatal(err)
	}
	if got := s.Generation("things").Load(); got != generation+1 {
		t.Errorf("generation: got %d, want %d", got, generation+1)
	}
	_ = s.View(func(tx *Tx) error {
		if n, err := thingTable.Count(tx); n != 4 || err != nil {
			t.Errorf("count: got %d, %v; want 4", n, err)
		}
		for _, back := range []bool{false, true} {
			var ids, all []uint64
			for rest, key := range thingTable.Find(tx, "word", []byte("two"), back) {
				v, err := thingTable.Get(tx, key)
				if err != nil || v.Word != "two"+string(rest) {
					t.Errorf("got %v, %v for the entry two%s", v, err, rest)
				}
				ids = append(ids, v.ID)
			}
			for v, err := range thingTable.All(tx, back) {
				if err != nil {
					t.Error(err)
				}
				all = append(all, v.ID)
			}
			want, wantAll := "[3 4 5]", "[1 3 4 5]"
			if back {
				want, wantAll = "[5 4 3]", "[5 4 3 1]"
			}
			if fmt.Sprint(ids) != want || fmt.Sprint(all) != wantAll {
				t.Errorf("backwards %v: got %v and %v, want %s and %s", back, ids, all, want, wantAll)
			}
		}
		if _, err := thingTable.One(tx, "word", []byte("tw")); !errors.Is(err, ErrNotFound) {
			t.Errorf("a beginning is no match: got %v, want ErrNotFound", err)
		}
		if v, err := thingTable.One(tx, "word", []byte("one")); v.ID != 1 || err != nil {
			t.Errorf("got %v, %v; want number 1", v, err)
		}
		return nil
	})
	if err := s.Update(func(tx *Tx) error { return thingTable.Delete(tx, IDKey(2)) }); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete twice: got %v, want ErrNotFound", err)
	}
}

// TestStore_SharesCommits has many clients change the store over connections,
// on one core: those whose requests are there must share commits, rather than
// that each has one and its sync to itself.
func TestStore_SharesCommits(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := newTestStore(t)
	const clients, each = 32, 30
	var wg sync.WaitGroup
	for client := range clients {
		here, there := net.Pipe()
		wg.Go(func() { // the server's side of a connection
			b := make([]byte, 1)
			for i := range each {
				if _, err := here.Read(b); err != nil {
					t.Error(err)
				}
				if err := s.Update(func(tx *Tx) error { return thingTable.Put(tx, thing{ID: uint64(client*each + i + 1), Word: "x"}) }); err != nil {
					t.Error(err)
				}
				if _, err := here.Write(b); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			b := make([]byte, 1)
			for range each {
				if _, err := there.Write(b); err != nil {
					t.Error(err)
				}
				if _, err := there.Read(b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	commits := s.Generation("things").Load()
	t.Logf("%d changes in %d commits", clients*each, commits)
	if commits > clients*each/8 {
		t.Errorf("%d changes took %d commits, want at least 8 to share one", clients*each, commits)
	}
}

// A file that was moved away fails the store also while nothing is written.
func TestStore_Guard(t *testing.T) {
	s := newTestStore(t)
	if s.Guard(); s.Err() != nil {
		t.Fatalf("got %v for a file in its place", s.Err())
	}
	if err := os.Rename(s.path, s.path+".away"); err != nil {
		t.Fatal(err)
	}
	if s.Guard(); s.Err() == nil || !strings.Contains(s.Err().Error(), "was moved or removed") {
		t.Errorf("got %v, want that the file was moved", s.Err())
	}
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a read: got %v, want ErrUnavailable", err)
	}
}

// An empty value is a value: it is there, and not the same as none.
func TestTx_EmptyValue(t *testing.T) {
	s := newTestStore(t)
	for _, value := range [][]byte{nil, {}} {
		if err := s.Update(func(tx *Tx) error { return tx.Put("b", []byte("k"), value) }); err != nil {
			t.Fatal(err)
		}
		_ = s.View(func(tx *Tx) error {
			if got, err := tx.Get("b", []byte("k")); got == nil || len(got) > 0 || err != nil {
				t.Errorf("got %v, %v; want an empty value", got, err)
			}
			if got, err := tx.Get("b", []byte("other")); got != nil || err != nil {
				t.Errorf("another key: got %v, %v; want nil", got, err)
			}
			return nil
		})
	}
}

// A transaction that writes nothing is no commit and changes no figure.
func TestStore_CountsOnlyWrites(t *testing.T) {
	s := newTestStore(t)
	observed := 0
	s.Observe(func(int, time.Duration) { observed++ })
	for _, run := range []func(*Tx) error{
		func(*Tx) error { return nil },
		func(tx *Tx) error { return tx.Put("b", []byte("k"), []byte("value")) },
		func(tx *Tx) error { _, err := tx.Get("b", []byte("k")); return err },
		func(tx *Tx) error { return tx.Delete("none", []byte("k")) },
		func(*Tx) error { return nil }, // the figures of those before are complete once this one runs
	} {
		if err := s.Update(run); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // ends the committer
		t.Fatal(err)
	}
	if commits, changes := s.Counts(); commits != 1 || changes != 1 || observed != 1 {
		t.Errorf("got %d commits of %d changes, %d observed; want one of each", commits, changes, observed)
	}
}

// storedOp is something that the program does within a transaction, and what
// comes of it.
type storedOp struct {
	name string
	run  func(tx *Tx) (any, error)
}

// trial runs an operation on a store that was harmed first, and takes both back.
// It gives the outcome, how much the operation wrote, and its error; see sees
// the transaction before and after it.
func (op storedOp) trial(t *testing.T, s *Store, harm func(*Tx) error, see func(*Tx)) (outcome string, writes int, err error) {
	t.Helper()
	undo := errors.New("undo")
	got := s.Update(func(tx *Tx) error {
		if err := harm(tx); err != nil {
			return err
		}
		see(tx)
		already := tx.Writes
		err = guarded(tx, func(tx *Tx) error {
			v, err := op.run(tx)
			outcome = fmt.Sprint(v)
			return err
		})
		writes = tx.Writes - already
		see(tx)
		return errors.Join(undo, tx.Put("trial", []byte("x"), nil)) // so that there is something to take back
	})
	if !errors.Is(got, undo) {
		t.Fatalf("%s: %v", op.name, got)
	}
	return outcome, writes, err
}

// harmless is a harm that does none.
func harmless(*Tx) error { return nil }

// unseen looks at nothing.
func unseen(*Tx) {}

// writesTo lists the buckets and keys that an operation writes to, other than
// those of records that exist: they would look missing where writes to them fail.
func (op storedOp) writesTo(t *testing.T, s *Store) (changed [][2]string) {
	t.Helper()
	var states []map[[2]string]string
	_, _, _ = op.trial(t, s, harmless, func(tx *Tx) { states = append(states, storedValues(tx)) })
	before, after := states[0], states[1]
	for at := range after {
		before[at] += "" // so that before has all keys
	}
	for at, old := range before {
		if isRecord := len(old) > 5 && old[5] == '{'; after[at] != old && !isRecord {
			changed = append(changed, at)
		}
	}
	return changed
}

// storedValues gives every stored value by its bucket and key.
func storedValues(tx *Tx) map[[2]string]string {
	all := map[[2]string]string{}
	_ = tx.Walk(func(bucket string, key, stored []byte) error {
		all[[2]string{bucket, string(key)}] = string(stored)
		return nil
	})
	return all
}

// damageBucket changes a bit of every value in a bucket.
func damageBucket(tx *Tx, bucket string) error {
	raw := map[string][]byte{}
	for key, stored := range tx.Range(bucket, nil) {
		raw[string(key)] = bytes.Clone(stored)
	}
	for key, stored := range raw {
		stored[len(stored)-1] ^= 1
		if err := tx.PutRaw(bucket, []byte(key), stored); err != nil {
			return err
		}
	}
	return nil
}

// spoilRecords replaces every JSON record in a bucket by one with a checksum that
// fits and contents that are no JSON.
func spoilRecords(tx *Tx, bucket string) error {
	var keys [][]byte
	for key, stored := range tx.Range(bucket, nil) {
		if len(stored) > 5 && stored[5] == '{' {
			keys = append(keys, bytes.Clone(key))
		}
	}
	for _, key := range keys {
		if err := tx.Put(bucket, key, []byte("{")); err != nil {
			return err
		}
	}
	return nil
}

// blockKey makes every write to a key of a bucket fail: bbolt refuses to put a
// value where a nested bucket is, and to delete one as a value.
func blockKey(tx *Tx, bucket, key string) error {
	b, err := tx.Bolt.CreateBucketIfNotExists([]byte(bucket))
	if err == nil {
		err = b.Delete([]byte(key))
	}
	if err == nil {
		_, err = b.CreateBucket([]byte(key))
	}
	return err
}

// storedBuckets lists the buckets of a store.
func storedBuckets(t *testing.T, s *Store) (names []string) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		return tx.Walk(func(bucket string, _, _ []byte) error {
			if len(names) == 0 || names[len(names)-1] != bucket {
				names = append(names, bucket)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// opsApp is a service whose store has what the operations of storedOps need.
func opsApp(t *testing.T) (*testApp, fixture) {
	t.Helper()
	a := newHookApp(t)
	f := fillStore(a)
	a.key(everyPermission, `"owner": "ann"`, `"expires_at": "2026-02-04T09:00:00Z"`)
	a.hook("http://127.0.0.1:1/", "", keyExpiring, limitReached, "call.queued")
	a.operate(201, "POST", "/admin/v1/keys/import", fmt.Sprintf(`[{"name": "old", "sha256": "%x", "permissions": ["can_read_agents"]}]`, keytext.DigestOf("sk-one")))
	a.operate(200, "POST", "/admin/v1/calls/claim", `{"lease_seconds": 60}`)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"limits": {"owner_requests_per_minute_limit": 1000}}`)
	if w := a.ask("POST", "/api/v1/calls", f.Key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
		t.Fatalf("got %d %s, want a call that waits for a dialer", w.Code, w.Body)
	}
	a.ask("GET", "/api/v1/agents", f.Key, "")
	a.ask("GET", "/api/v1/agents", f.Earlier, "")
	key, err := a.Keyring.Lookup(keytext.DigestOf(f.Key))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(a.Keyring.Flush(), a.Store.Update(func(tx *Tx) error {
		_, err := saveEvent(tx, appointment{Owner: 1, AgentID: 1, Title: "Long", Kind: "meeting", Status: eventScheduled, Start: epoch, End: epoch.Add(72 * time.Hour), Remind: true})
		for _, id := range []uint64{1, 2} {
			err = errors.Join(err, push(tx, delivery{Webhook: id, ID: "whd_1", Event: "call.ended", Body: []byte("{}"), At: epoch}))
			for range 2 {
				err = errors.Join(err, addAttempt(tx, id, Attempt{Delivery: "whd_0", Event: "call.ended", Attempt: 1, At: epoch, Body: []byte("{}")}))
			}
		}
		return errors.Join(err, reachedTable.Put(tx, reachedRecord{Key: key.ID, Limit: RequestsPerMinute, At: epoch}))
	}))
	if err != nil {
		t.Fatal(err)
	}
	return a, f
}

// storedOps lists what keys, webhooks, the calendar and the calls do with the
// store within a transaction of their caller.
func storedOps(a *testApp, f fixture) []storedOp {
	ring, later := a.Keyring, epoch.Add(90*24*time.Hour)
	id := func(secret string) string {
		key, err := ring.Lookup(keytext.DigestOf(secret))
		if err != nil {
			a.t.Fatal(err)
		}
		return key.ID
	}
	rotated, imported := id(f.Key), id("sk-one")
	withKey := func(run func(tx *Tx, key *Key) (any, error)) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			key, err := ring.Get(tx, rotated)
			if err != nil {
				return nil, err
			}
			return run(tx, key.Clone())
		}
	}
	withCall := func(ref string, run func(tx *Tx, c call) (any, error)) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			c, err := findCall(tx, ref)
			if err != nil {
				return nil, err
			}
			return run(tx, c)
		}
	}
	settle := func(status int) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			d, err := nextDelivery(tx, 1, later)
			if err != nil {
				return nil, err
			}
			return Settle(tx, d, Attempt{Status: status, At: later}, later)
		}
	}
	move := func(to string) func(tx *Tx, c call) (any, error) {
		return func(tx *Tx, c call) (any, error) {
			if err := move(tx, &c, to, epoch.Add(time.Minute)); err != nil {
				return nil, err
			}
			return saveCall(tx, c)
		}
	}
	none := func(err error) (any, error) { return nil, err }
	rules := func(key *Key, err error) (any, error) { // what the owner's limits are part of
		if err != nil {
			return nil, err
		}
		return key.Rules(), nil
	}
	return []storedOp{
		{"Keyring.Get", func(tx *Tx) (any, error) { return rules(ring.Get(tx, rotated)) }},
		{"Keyring.Each", func(tx *Tx) (any, error) {
			n := 0
			err := ring.Each(tx, func(*Key) bool { n++; return true })
			return n, err
		}},
		{"Keyring.Count", func(tx *Tx) (any, error) { return ring.Count(tx) }},
		{"Keyring.CountLive", func(tx *Tx) (any, error) { return ring.CountLive(tx, 1, 10), nil }},
		{"Keyring.Holding", func(tx *Tx) (any, error) { return ring.Holding(tx, keytext.DigestOf(f.Key)) }},
		{"Keyring.Expiring", func(tx *Tx) (any, error) { keys, err := ring.Expiring(tx, later, 10); return len(keys), err }},
		{"Keyring.Create", func(tx *Tx) (any, error) {
			_, err := ring.Create(tx, &Key{ID: "key_new", Owner: 1, CreatedAt: epoch})
			return nil, err
		}},
		{"Keyring.Import", func(tx *Tx) (any, error) {
			return none(ring.Import(tx, &Key{ID: "key_new", Owner: 1, CreatedAt: epoch}, keytext.DigestOf("new")))
		}},
		{"Keyring.Save", withKey(func(tx *Tx, key *Key) (any, error) { key.Paused = true; return none(ring.Save(tx, key)) })},
		{"Keyring.Readied", withKey(func(tx *Tx, key *Key) (any, error) { return rules(ring.Readied(tx, key)) })},
		{"Keyring.Rotate", withKey(func(tx *Tx, key *Key) (any, error) {
			_, err := ring.Rotate(tx, key, epoch, epoch)
			return key.Serial, err
		})},
		{"Keyring.Rotate with an overlap", withKey(func(tx *Tx, key *Key) (any, error) {
			_, err := ring.Rotate(tx, key, epoch, later)
			return key.Serial, err
		})},
		{"Keyring.Rotate for the first time", func(tx *Tx) (any, error) {
			key, err := ring.Get(tx, imported)
			if err == nil {
				_, err = ring.Rotate(tx, key.Clone(), epoch, later)
			}
			return nil, err
		}},
		{"Keyring.Drop", withKey(func(tx *Tx, key *Key) (any, error) {
			return none(ring.Drop(tx, key, func(Alias) bool { return true }))
		})},
		{"Keyring.LastUse", func(tx *Tx) (any, error) { return ring.LastUse(tx, rotated) }},
		{"Keyring.SecretUse", withKey(func(tx *Tx, key *Key) (any, error) {
			return ring.SecretUse(tx, key, key.Serial)
		})},
		{"Keyring.LimitOwner", func(tx *Tx) (any, error) {
			return none(ring.LimitOwner(tx, 1, map[string]int{OwnerRequestsPerMinute: 9}))
		}},
		{"Peppers.Match", func(tx *Tx) (any, error) { return none(ring.peppers.Match(tx)) }},
		{"FindQueue", func(tx *Tx) (any, error) { return findQueue(tx, 1) }},
		{"DueQueues", func(tx *Tx) (any, error) {
			n := 0
			err := dueQueues(tx, later, func(queue) bool { n++; return true })
			return n, err
		}},
		{"NextDelivery", func(tx *Tx) (any, error) { return nextDelivery(tx, 1, later) }},
		{"Push", func(tx *Tx) (any, error) {
			return none(push(tx, delivery{Webhook: 1, ID: "whd_2", Event: "call.ended", Body: []byte("{}"), At: epoch}))
		}},
		{"Push to a full queue", func(tx *Tx) (any, error) {
			q, err := findQueue(tx, 1)
			if err != nil {
				return nil, err
			}
			// The numbers of the queue without its deliveries: all that is read of
			// them is the first.
			first := q.first()
			q.Waiting, q.Next = maxWaiting, first+maxWaiting
			if err := queueTable.Put(tx, q); err != nil {
				return nil, err
			}
			return none(push(tx, delivery{Webhook: 1, ID: "whd_2", Event: "call.ended", Body: []byte("{}"), At: epoch}))
		}},
		{"Settle a success", settle(204)},
		{"Settle a failure", settle(500)},
		{"AddAttempt", func(tx *Tx) (any, error) { return none(addAttempt(tx, 1, Attempt{At: epoch})) }},
		{"Attempts", func(tx *Tx) (any, error) {
			list, count, err := attempts(tx, 1, func(count int) (from, to int) { return 0, count })
			return fmt.Sprint(len(list), " ", count), err
		}},
		{"OutboxBacklog", func(tx *Tx) (any, error) { n, oldest, err := OutboxBacklog(tx); return fmt.Sprint(n, " ", oldest), err }},
		{"Repeat", func(tx *Tx) (any, error) {
			_, err := repeat(tx, 1, 1, epoch)
			var e *Error
			if errors.As(err, &e) && e.Status == 404 {
				return "not found", nil // which a damaged entry is not
			}
			return nil, err
		}},
		{"SwitchQueue", func(tx *Tx) (any, error) { return none(switchQueue(tx, 1, false, true)) }},
		{"DropQueue", func(tx *Tx) (any, error) { return none(dropQueue(tx, 1)) }},
		{"sweepQueue of old entries", func(tx *Tx) (any, error) { return sweepQueue(tx, 1, later) }},
		{"sweepQueue of a deleted webhook", func(tx *Tx) (any, error) {
			if err := dropQueue(tx, 1); err != nil {
				return nil, err
			}
			return sweepQueue(tx, 1, epoch)
		}},
		{"Raise", func(tx *Tx) (any, error) {
			return none(Raise(tx, Event{Type: "call.ended", Owner: 1, Team: 1, At: epoch}))
		}},
		{"Raise for the operator", func(tx *Tx) (any, error) {
			return none(Raise(tx, Event{Type: keyExpiring, Operator: true, At: epoch}))
		}},
		{"SaveWebhook", func(tx *Tx) (any, error) {
			w, err := findWebhook(tx, 1)
			if err != nil {
				return nil, err
			}
			w.Active = false
			return none(saveWebhook(tx, w))
		}},
		{"RemoveWebhook", func(tx *Tx) (any, error) { return none(removeWebhook(tx, 1)) }},
		{"Notices.raiseOne", func(tx *Tx) (any, error) {
			key, err := ring.Get(tx, rotated)
			if err != nil {
				return nil, err
			}
			return none(a.notices.raiseOne(tx, reachedNow{reachedLimit{rotated, RequestsPerMinute}, key, Limit{}, later, later}))
		}},
		{"dropReached", func(tx *Tx) (any, error) { return none(dropReached(tx, later)) }},
		{"Notices.expiring", withKey(func(tx *Tx, key *Key) (any, error) {
			key.ExpiresAt = later
			return none(a.notices.expiring(tx, key, epoch))
		})},
		{"FindEvent", func(tx *Tx) (any, error) { return findEvent(tx, "2") }},
		{"GetEvents", func(tx *Tx) (any, error) { return getEvents(tx, []span{{ID: 1}, {ID: 2}}) }},
		{"EventsBetween", func(tx *Tx) (any, error) {
			return len(eventsBetween(tx, ScopeKeys(1, 0), epoch, later)), nil
		}},
		{"DueReminders", func(tx *Tx) (any, error) { list, err := dueReminders(tx, later, 10); return len(list), err }},
		{"SaveEvent", func(tx *Tx) (any, error) {
			e, err := saveEvent(tx, appointment{Owner: 1, Title: "New", Kind: "meeting", Status: eventScheduled, Start: epoch, End: epoch.Add(time.Hour), UUID: "x", ID: 77})
			return e.ID, err
		}},
		{"SaveEvent with a new id", func(tx *Tx) (any, error) {
			e, err := saveEvent(tx, appointment{Owner: 1, Title: "New", Kind: "meeting", Status: eventScheduled, Start: epoch, End: epoch.Add(time.Hour)})
			return e.ID, err
		}},
		{"ScheduleOf", func(tx *Tx) (any, error) { return scheduleOf(tx, 1) }},
		{"NextCall", func(tx *Tx) (any, error) { c, err := nextCall(tx); return c.ID, err }},
		{"LapsedCalls", func(tx *Tx) (any, error) { list, err := lapsedCalls(tx, later, 10); return len(list), err }},
		{"lapse", func(tx *Tx) (any, error) { return none(lapse(tx, later)) }},
		{"Move to failed", withCall("2", move(callFailed))},
		{"Move to completed", withCall("2", func(tx *Tx, c call) (any, error) {
			c.StartedAt = epoch
			return move(callCompleted)(tx, c)
		})},
		{"Call.Operators", withCall("2", func(tx *Tx, c call) (any, error) {
			shown, err := c.Operators(tx)
			return fmt.Sprint(shown["agent"], shown["prompt_variables"]), err
		})},
		{"RaiseCall", withCall("2", func(tx *Tx, c call) (any, error) {
			after := c
			after.Status = callCompleted
			return none(raiseCall(tx, c, after, epoch))
		})},
		{"RaiseQueued", withCall("2", func(tx *Tx, c call) (any, error) { return none(raiseQueued(tx, c, epoch)) })},
	}
}

// lostDamage damages all that is in one bucket after the other and lists where the
// operation neither fails nor comes to what it comes to otherwise. refused is how
// often it failed.
func (op storedOp) lostDamage(t *testing.T, s *Store, buckets []string) (lost []string, refused int) {
	t.Helper()
	want, writes, err := op.trial(t, s, harmless, unseen)
	if err != nil {
		t.Fatalf("%s: %v in a good store", op.name, err)
	}
	for _, bucket := range buckets {
		for harm, do := range map[string]func(tx *Tx, bucket string) error{"damaged": damageBucket, "no JSON": spoilRecords} {
			got, wrote, err := op.trial(t, s, func(tx *Tx) error { return do(tx, bucket) }, unseen)
			if err != nil {
				refused++
			} else if got != want || wrote != writes {
				lost = append(lost, fmt.Sprintf("%s %s: got %s after %d writes, in a good store %s after %d", bucket, harm, got, wrote, want, writes))
			}
		}
	}
	return lost, refused
}

// lostWriteErrors makes one after the other of the operation's writes fail and
// lists where it does not fail. What it finds nothing to write to may pass.
func (op storedOp) lostWriteErrors(t *testing.T, s *Store) (lost []string) {
	t.Helper()
	again := op.writesTo(t, s) // without what has a random key
	for _, at := range op.writesTo(t, s) {
		if !slices.Contains(again, at) {
			continue
		}
		got, wrote, err := op.trial(t, s, func(tx *Tx) error { return blockKey(tx, at[0], at[1]) }, unseen)
		if err == nil && wrote > 0 {
			lost = append(lost, fmt.Sprintf("%s/%x cannot be written: got %s after %d writes", at[0], at[1], got, wrote))
		}
	}
	return lost
}

// TestStore_DamageReachesCaller has every operation meet damage in every bucket: an
// error that is lost on the way shows here, also in operations that are added to
// storedOps later.
func TestStore_DamageReachesCaller(t *testing.T) {
	a, f := opsApp(t)
	buckets := storedBuckets(t, a.Store)
	for _, op := range storedOps(a, f) {
		lost, refused := op.lostDamage(t, a.Store, buckets)
		for _, text := range lost {
			t.Errorf("%s: no error with %s", op.name, text)
		}
		if refused == 0 {
			t.Errorf("%s: fails for no damage, so this shows nothing", op.name)
		}
	}
}

// TestStore_WriteErrorReachesCaller does so for writes that fail.
func TestStore_WriteErrorReachesCaller(t *testing.T) {
	a, f := opsApp(t)
	for _, op := range storedOps(a, f) {
		for _, text := range op.lostWriteErrors(t, a.Store) {
			t.Errorf("%s: no error though %s", op.name, text)
		}
	}
}

// TestStore_DamageReachesJob has what runs in the background meet damage in the
// buckets that it needs.
func TestStore_DamageReachesJob(t *testing.T) {
	a, f := opsApp(t)
	later := epoch.Add(24*time.Hour - time.Second) // before the keys expire
	key, _, err := a.Keyring.Find(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	use := func() { a.ask("GET", "/api/v1/agents", f.Key, "") }
	for _, job := range []struct {
		name    string
		buckets string
		before  func() // nil for nothing
		run     func() error
	}{
		{"Keyring.Flush", "keys key_uses", use, a.Keyring.Flush},
		{"Keyring.Sweep", "keys keys/alias_end", nil, func() error { return a.Keyring.Sweep(epoch.Add(90 * 24 * time.Hour)) }},
		{"Notices.Flush", "webhooks/listener limits_reached webhook_queues counts", func() {
			a.notices.Reached(key, []Standing{{Limit: Limit{RequestsPerMinute, 1, time.Minute}, Wait: 1}}, later, later)
		}, a.notices.Flush},
		{"Notices.Expiring", "webhooks/listener keys keys/expiring", nil, func() error { return a.notices.Expiring(later) }},
		{"SweepOutbox", "webhook_queues webhook_log", nil, func() error { return SweepOutbox(a.Store, epoch.Add(2*keepLog)) }},
		{"Dialer.Lapse", "calls calls/lease", nil, func() error { return a.dialer.Lapse(later) }},
		{"Sender.scan", "webhook_queues webhook_queues/due", nil, func() error { _, err := a.Sender.scan(); return err }},
		{"Sender.next", "webhook_queues webhook_outbox webhooks", nil, func() error { _, err := a.Sender.next(1); return err }},
		{"Sender.Try", "webhook_queues webhooks", nil, func() error {
			_, err := a.Sender.Try(t.Context(), webhook{ID: 1, URL: "http://127.0.0.1:1/"}, "call.ended", []byte("{}"))
			return err
		}},
	} {
		for bucket := range strings.FieldsSeq(job.buckets) {
			if job.before != nil {
				job.before()
			}
			change := func() { // twice is as it was
				t.Helper()
				if err := a.Store.Update(func(tx *Tx) error { return damageBucket(tx, bucket) }); err != nil {
					t.Fatal(err)
				}
			}
			change()
			if err := job.run(); err == nil {
				t.Errorf("%s: no error with %s damaged", job.name, bucket)
			}
			change()
		}
	}
	_ = a.Store.View(func(tx *Tx) error {
		if result, err := CheckStore(tx, tables()); err != nil || len(result.Problems) > 0 {
			t.Errorf("afterwards: got %+v, %v; want the store as it was", result, err)
		}
		return nil
	})
}

// TestStore_DamagedMeta damages the records that are read once, at the start.
func TestStore_DamagedMeta(t *testing.T) {
	peppers := Peppers{[][]byte{bytes.Repeat([]byte{1}, pepperSize)}}
	for name, run := range map[string]func(*Store) error{
		"stamp":    func(s *Store) error { _, err := s.Stamp(); return err },
		"pepper":   peppers.Verify,
		"imported": func(s *Store) error { _, err := NewKeyring(s, peppers, "klen_", NewRights(nil, nil), 10); return err },
	} {
		s := newTestStore(t)
		if err := errors.Join(peppers.Verify(s), run(s)); err != nil {
			t.Errorf("%s: %v in a good store", name, err)
		}
		if err := s.Update(func(tx *Tx) error { return tx.PutRaw("meta", []byte(name), []byte("damaged")) }); err != nil {
			t.Fatal(err)
		}
		if err := run(s); err == nil {
			t.Errorf("%s: no error for a damaged record", name)
		}
	}
}

// TestStore_CopyUnderWrites copies a store while each of its records is written
// over again and again: a copy has all of them as they were at one moment.
func TestStore_CopyUnderWrites(t *testing.T) {
	const records = 500
	dir := memoryDir(t)
	if err := CreateStore(filepath.Join(dir, "test.db"), "test", epoch); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(filepath.Join(dir, "test.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name := func(i int) []byte { return fmt.Appendf(nil, "%04d", i) }
	write := func(round uint64) error {
		value := bytes.Repeat(binary.BigEndian.AppendUint64(nil, round), 100)
		return s.Update(func(tx *Tx) error {
			for i := range records {
				if err := tx.Put("x", name(i), value); err != nil {
					return err
				}
			}
			_, err := tx.Bolt.Bucket([]byte("x")).NextSequence()
			return err
		})
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	stop, over := make(chan struct{}), make(chan error)
	go func() {
		for round := uint64(2); ; round++ {
			select {
			case <-stop:
				over <- nil
				return
			default:
			}
			if err := write(round); err != nil {
				over <- err
				return
			}
		}
	}()
	last := uint64(0)
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint("copy", i))
		if err := s.CopyTo(path); err != nil {
			t.Fatal(err)
		}
		last = wholeCopy(t, path, records, name, last)
	}
	close(stop)
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// wholeCopy wants all records of a copy to be of one round, not before last, and
// gives that.
func wholeCopy(t *testing.T, path string, records int, name func(int) []byte, last uint64) (round uint64) {
	t.Helper()
	f, err := OpenFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = f.View(func(tx *Tx) error {
		if round = tx.Bolt.Bucket([]byte("x")).Sequence(); round < last {
			t.Errorf("got round %d, want no earlier one than %d", round, last)
		}
		for i := range records {
			value, err := tx.Get("x", name(i))
			if err != nil {
				return err
			}
			if want := bytes.Repeat(binary.BigEndian.AppendUint64(nil, round), 100); !bytes.Equal(value, want) {
				t.Errorf("record %d: got %x..., want that of round %d", i, value[:min(8, len(value))], round)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return round
}

// TestStore_FailureReachesAnswers sends requests that all succeed, has the store
// fail, and sends them again: no handler answers as if it had done something.
func TestStore_FailureReachesAnswers(t *testing.T) {
	a, f := opsApp(t)
	token := ""
	const hook, url = `"name": "n", "subscribed_events": ["call.ended"], `, `"url": "http://127.0.0.1:1/"`
	list := []struct{ method, path, body string }{
		{"POST", "/api/webhooks/create", "{" + hook + url + "}"},
		{"GET", "/api/webhooks", ""},
		{"PUT", "/api/webhooks/2/update", "{" + hook + url + "}"},
		{"PATCH", "/api/webhooks/2/update", "{" + url + "}"},
		{"POST", "/api/webhooks/2/test", ""},
		{"GET", "/api/webhooks/2/logs", ""},
		{"DELETE", "/api/webhooks/2/delete", ""},
		{"GET", "/api/v1/calendar/availability", ""},
		{"POST", "/admin/v1/webhooks", "{" + hook + url + "}"},
		{"GET", "/admin/v1/webhooks", ""},
		{"GET", "/admin/v1/webhooks/1", ""},
		{"PATCH", "/admin/v1/webhooks/1", "{" + url + "}"},
		{"POST", "/admin/v1/webhooks/1/test", ""},
		{"POST", "/admin/v1/webhooks/1/redeliver", `{"log_id": 1}`},
		{"GET", "/admin/v1/webhooks/1/logs", ""},
		{"DELETE", "/admin/v1/webhooks/1", ""},
		{"POST", "/admin/v1/calls/claim", ""},
		{"POST", "/admin/v1/calls/3/heartbeat", `{"lease_token": "TOKEN"}`},
		{"POST", "/admin/v1/calls/3/start", `{"lease_token": "TOKEN"}`},
		{"POST", "/admin/v1/calls/3/complete", `{"lease_token": "TOKEN"}`},
		{"POST", "/admin/v1/calls/3/complete", `{"lease_token": "TOKEN"}`},
		{"GET", "/admin/v1/schedules", ""},
		{"GET", "/admin/v1/schedules/1", ""},
		{"PATCH", "/admin/v1/schedules/1", `{"buffer_minutes": 5}`},
		{"DELETE", "/admin/v1/schedules/1", ""},
		{"POST", "/admin/v1/schedules", `{"owner": "ann"}`},
	}
	for _, failed := range []bool{false, true} {
		if failed {
			a.Store.fail(errors.New("disk gone"))
		}
		for _, r := range list {
			body := strings.ReplaceAll(r.body, "TOKEN", token)
			var w *httptest.ResponseRecorder
			if strings.HasPrefix(r.path, "/api/") {
				w = a.ask(r.method, r.path, f.Key, body)
			} else {
				w = a.control(r.method, r.path, body)
			}
			if strings.HasSuffix(r.path, "/claim") && !failed {
				lease, _ := object(t, w.Body.String())["lease"].(map[string]any)
				token, _ = lease["token"].(string)
			}
			if failed && (w.Code != 503 || code(w) != "service_unavailable") || !failed && w.Code/100 != 2 {
				t.Errorf("%s %s, failed store %v: got %d %s", r.method, r.path, failed, w.Code, w.Body)
			}
		}
	}
}

// TestStoreFile_Refusals is about files in places where they cannot be written or
// read: what is there stays as it is, and nothing half-made is left.
func TestStoreFile_Refusals(t *testing.T) {
	dir := t.TempDir()
	file, none := filepath.Join(dir, "file"), filepath.Join(dir, "none", "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newTestStore(t)
	for name, tt := range map[string]struct {
		run  func() error
		want string
	}{
		"create over a file":        {func() error { return CreateStore(file, "x", epoch) }, "the file exists"},
		"create in no folder":       {func() error { return CreateStore(none, "x", epoch) }, "create store"},
		"copy over a file":          {func() error { return s.CopyTo(file) }, "the file exists"},
		"copy into no folder":       {func() error { return s.CopyTo(none) }, "write " + none},
		"pepper over a file":        {func() error { return CreatePepper(file) }, os.ErrExist.Error()},
		"pepper in no folder":       {func() error { return CreatePepper(none) }, "create pepper"},
		"write into no folder":      {func() error { return durable.WriteFile(none, "x") }, "no such file"},
		"write over a folder":       {func() error { return durable.WriteFile(dir, "x") }, ""},
		"sync no folder":            {func() error { return durable.SyncDir(filepath.Dir(none)) }, "no such file"},
		"read a folder":             {func() error { _, err := ReadSmall(dir); return err }, "no regular file"},
		"read no file":              {func() error { _, err := ReadSmall(none); return err }, "no such file"},
		"open a folder":             {func() error { _, err := OpenFile(dir, true); return err }, "no regular file"},
		"open no file":              {func() error { _, err := OpenFile(none, true); return err }, "restore a backup"},
		"open what is in use":       {func() error { _, err := OpenFile(s.path, false); return err }, "another process holds the file"},
		"the size of a store":       {func() error { _, err := (&Store{path: none}).Size(); return err }, "no such file"},
		"a copy of a failed store":  {func() error { return failedStore(t).CopyTo(filepath.Join(dir, "copy")) }, ErrUnavailable.Error()},
		"a stamp of a failed store": {func() error { _, err := failedStore(t).Stamp(); return err }, ErrUnavailable.Error()},
	} {
		if err := tt.run(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if text, err := os.ReadFile(file); string(text) != "kept" || err != nil {
		t.Errorf("got %q, %v; want the file as it was", text, err)
	}
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Errorf("got %v, %v; want nothing else in the folder", left, err)
	}
}

func failedStore(t *testing.T) *Store {
	s := newTestStore(t)
	s.fail(errors.New("disk gone"))
	return s
}

// TestOpenFile_Headers opens files whose pages are good and whose header is none.
func TestOpenFile_Headers(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(tx *Tx) error
		want string
	}{
		"none":    {func(tx *Tx) error { return tx.Delete("meta", []byte("header")) }, "not a store of this program"},
		"no JSON": {func(tx *Tx) error { return tx.Put("meta", []byte("header"), []byte("{")) }, "header record"},
		"damaged": {func(tx *Tx) error { return damageBucket(tx, "meta") }, "checksum does not match"},
	} {
		s := newTestStore(t)
		if err := errors.Join(s.Update(tt.harm), s.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(s.path, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
