package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/cluster"
	"latchkey/internal/cluster/fake"
	"latchkey/internal/keytext"
)

// workers says of each piece of background work which nodes of a cluster do it.
var workers = map[string]worker{
	"check the wall clock":                                      eachNode,
	"check the database file":                                   eachNode,
	"delete unused limit counters":                              eachNode, // those in memory
	"start due webhook deliveries":                              oneNode,
	"send reminders":                                            oneNode,
	"end expired leases of dialers":                             oneNode,
	"play out calls of sandboxes":                               oneNode,
	"end previous secrets":                                      oneNode,
	"delete the old activity of keys":                           oneNode,
	"store the last uses of keys":                               eachNode,
	"store the counts of observed limits":                       eachNode,
	"delete old idempotency keys":                               oneNode,
	"find admin tokens that expire soon":                        oneNode,
	"check the free disk space":                                 eachNode,
	"find owners whose storage is nearly full":                  oneNode,
	"store events about reached limits":                         eachNode, // those that this node has refused
	"find keys that expire soon":                                oneNode,
	"find and pause unused keys":                                oneNode,
	"send mails to the operators":                               oneNode,
	"delete old webhook deliveries":                             oneNode,
	"delete expired sessions":                                   oneNode,
	"delete old usage history":                                  oneNode,
	"delete old counts of requests per minute":                  oneNode,
	"forget which keys were at a limit":                         eachNode,
	"store the usage history":                                   eachNode,
	"record in the audit log how many refusals it has left out": eachNode,
	"delete old audit entries":                                  oneNode,
	"log the head of the audit log":                             eachNode,
	"count the keys":                                            eachNode,
	"make a scheduled backup":                                   oneNode,
	"compare the configuration with that of the other nodes":    eachNode,
}

// TestRegistry_work wants each piece of work to be known, with the nodes that do it, and that none is listed twice.
func TestRegistry_work(t *testing.T) {
	a := newTestApp(t)
	seen := map[string]bool{}
	for _, w := range append(slices.Clone(a.work), new(membership).work()...) {
		if want, known := workers[w.what]; !known || w.by != want || seen[w.what] {
			t.Errorf("%q is done by %d, want %d; add new work to workers, once it is clear whether one node does it for all", w.what, w.by, want)
		}
		seen[w.what] = true
	}
	for what := range workers {
		if !seen[what] {
			t.Errorf("no work is named %q", what)
		}
	}
	err := new(App).assemble([]part{{name: "a", work: func(*App) []work { return []work{{every: time.Second, what: "forgotten"}} }}})
	if err == nil || !strings.Contains(err.Error(), `"forgotten"`) {
		t.Errorf("work that does not say who does it: got %v", err)
	}
}

// turns is the clusterPart of a node that is the first one or not.
type turns struct {
	alone
	mine atomic.Bool
}

func (p *turns) first() func() bool { return p.mine.Load }

// TestApp_turn does the work for all nodes exactly while the node is the first one, and its own work always.
func TestApp_turn(t *testing.T) {
	var node turns
	a := &App{cluster: &node, clock: clock.NewClock(), log: slog.New(slog.DiscardHandler), Store: &Store{}, stop: make(chan struct{})}
	var did []string
	piece := func(name string, by worker) work {
		return work{what: name, by: by, run: func(time.Time) error { did = append(did, name); return nil }}
	}
	round := []work{piece("for all", oneNode), piece("own", eachNode)}
	for _, step := range []struct {
		first bool
		want  string
	}{{false, "own"}, {true, "for all own"}, {true, "for all own"}, {false, "own"}} {
		did = nil
		node.mine.Store(step.first)
		if a.do(round); strings.Join(did, " ") != step.want {
			t.Errorf("first %t: did %q, want %q", step.first, did, step.want)
		}
	}
	a.cluster, did = alone{}, nil
	if a.do(round); strings.Join(did, " ") != "for all own" {
		t.Errorf("alone: did %q", did)
	}
}

// bounded is an Engine that refuses no Set and records the largest.
type bounded struct {
	cluster.Engine
	mu     sync.Mutex
	sets   int
	writes int // most of a Set
	bytes  int
	refuse bool // all Sets after some
	takes  int  // how many it takes before
}

// stopAfter has the engine refuse all Sets after some, until resume.
func (e *bounded) stopAfter(sets int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse, e.takes = true, sets
}

// resume has the engine take all Sets.
func (e *bounded) resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse = false
}

// Commit implements cluster.Engine.
func (e *bounded) Commit(ctx context.Context, base cluster.Head, set *cluster.Set) (cluster.Head, error) {
	size := 0
	for _, w := range set.Writes {
		size += len(w.Bucket) + len(w.Key) + len(w.Value)
	}
	e.mu.Lock()
	e.sets, e.writes, e.bytes = e.sets+1, max(e.writes, len(set.Writes)), max(e.bytes, size)
	e.takes--
	refused := e.refuse && e.takes < 0
	e.mu.Unlock()
	if refused {
		return 0, errors.New("no space left")
	}
	return e.Engine.Commit(ctx, base, set)
}

// testNode is a node without its services.
type testNode struct {
	*Store
	engine   *bounded
	keyring  *Keyring
	history  *History
	observed *dryRunCounts
}

// testMembers has the acknowledged of each fake.Log.
var testMembers sync.Map

// acknowledged is a cluster.Acknowledger for stores in this process.
type acknowledged struct {
	mu     sync.Mutex
	stores []*Store
}

func (m *acknowledged) add(s *Store) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stores = append(m.stores, s)
}

// Acknowledge implements cluster.Acknowledger.
func (m *acknowledged) Acknowledge(context.Context, cluster.Head) error { return nil }

// Await implements cluster.Acknowledger.
func (m *acknowledged) Await(ctx context.Context, head cluster.Head) (e cluster.Effect, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.stores {
		if err := s.Reach(ctx, head); err != nil {
			return e, err
		}
	}
	return e, nil
}

// newTestNode returns a node whose store has all tables.
func newTestNode(t testing.TB, log *fake.Log, name string, faults fake.Faults) *testNode {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".db")
	if err := CreateStore(path, "test", epoch); err != nil {
		t.Fatal(err)
	}
	ownStores.Store(path, true) // no shadow
	s, err := OpenStore(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{Store: s, engine: &bounded{Engine: log.Engine(faults)}}
	members, _ := testMembers.LoadOrStore(log, &acknowledged{})
	if err := ShareStore(s, ShareOptions{Engine: n.engine, Members: members.(*acknowledged), Node: name, Tables: tables()}); err != nil {
		t.Fatal(err)
	}
	members.(*acknowledged).add(s)
	t.Cleanup(func() {
		testMembers.Delete(log)
		ownStores.Delete(path)
		_ = s.Close()
	})
	n.keyring, err = NewKeyring(s, KeyringOptions{Peppers: testPeppers, Prefix: "klen_", Policy: NewPolicy(nil, nil), Cache: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	n.history, n.observed = NewHistory(s), newDryRunCounts(s)
	return n
}

var testPeppers = Peppers{list: [][]byte{[]byte("a pepper of 32 bytes for tests..")}}

// use notes uses of a key.
func (n *testNode) use(t testing.TB, key *Key, at time.Time, from string) {
	t.Helper()
	h := n.keyring.memory.Keep(keytext.DigestOf("secret of "+key.ID), key, n.keyring.memory.Changes())
	n.keyring.Used(h, LastUse{At: at, IP: netip.MustParseAddr(from), Carrier: CarrierBearer})
	n.history.Note(CountedRequest{key.ID, "/x", "", 200, at})
	n.observed.Note(Charge{ID: key.ID, Limit: Limit{Name: "l"}}, at)
}

// flush stores what the node has noted.
func (n *testNode) flush() error {
	return errors.Join(n.keyring.Flush(), n.history.Flush(), n.observed.Flush(epoch))
}

// TestCluster_Usage has two nodes note uses of the same keys and store them by turns and at once, over an engine that makes mistakes. All
// are counted, the latest use counts as the last one, even if it was stored first, and the chain of the audit log is whole.
func TestCluster_Usage(t *testing.T) {
	log := fake.New(1, 0)
	faults := fake.Faults{Moved: 0.1, Unsure: 0.1, Gap: 0.02}
	nodes := []*testNode{newTestNode(t, log, "a", faults), newTestNode(t, log, "b", faults)}
	const rounds, keys = 30, 5
	list := make([]*Key, keys)
	for i := range list {
		list[i] = &Key{StoredKey: StoredKey{ID: fmt.Sprint("key_", i)}}
	}
	latest := epoch
	for round := range rounds {
		var storing sync.WaitGroup
		for i, n := range nodes {
			for k, key := range list {
				at := epoch.Add(time.Duration(2*round+(i+k)%2) * time.Second) // another node is the later one for each key
				n.use(t, key, at, fmt.Sprint("192.0.2.", i+1))
				if at.After(latest) {
					latest = at
				}
			}
			store := func() {
				by := AuditContext{Actor: ActorSelf, Action: "test", Now: epoch}
				if err := errors.Join(n.flush(), n.Update(by.Append)); err != nil {
					t.Error(err)
				}
			}
			if round%2 == 0 {
				store()
			} else {
				storing.Go(store)
			}
		}
		storing.Wait()
	}
	sameViews(t, log, nodes[0].Store, nodes[1].Store)
	for i, n := range nodes {
		for k, key := range list {
			err := n.View(func(tx *Tx) error {
				use, err := n.keyring.LastUse(tx, key.ID)
				if want := fmt.Sprint("192.0.2.", 1+(1+k)%2); use.Bearer != 2*rounds || !use.At.Equal(latest) || use.IP.String() != want {
					t.Errorf("node %d, %s: got %d uses, the last at %s from %s; want %d, %s, %s", i, key.ID, use.Bearer, use.At, use.IP, 2*rounds, latest, want)
				}
				return err
			})
			count, countErr := n.observed.Count(key.ID, "l")
			if _, sum := totals(t, n.history, subject{ofKey, key.ID}, period{stepHour, 1, latest}); sum.Total() != 2*rounds || count != 2*rounds {
				t.Errorf("node %d, %s: got %d requests and %d observed, want %d", i, key.ID, sum.Total(), count, 2*rounds)
			}
			if err := errors.Join(err, countErr); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := n.history.Ranked(ofKey, period{stepHour, 1, latest}); err != nil || r.Count != keys || r.Part(0, 1)[0].sum.Total() != 2*rounds {
			t.Errorf("node %d: got the ranking %+v, %v", i, r, err)
		}
		err := n.View(func(tx *Tx) error {
			v, err := VerifyAudit(tx, func(problem string) { t.Errorf("node %d: %s", i, problem) })
			if v.Head.Number != 2*rounds {
				t.Errorf("node %d: got %d audit entries, want %d", i, v.Head.Number, 2*rounds)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// What the other node stores changes a ranking that this one has read.
	nodes[0].use(t, list[3], latest, "192.0.2.1")
	if err := nodes[0].flush(); err != nil {
		t.Fatal(err)
	}
	sameViews(t, log, nodes[0].Store, nodes[1].Store)
	if r, err := nodes[1].history.Ranked(ofKey, period{stepHour, 1, latest}); err != nil || r.Part(0, 1)[0] != (used{"key_3", Counts{2*rounds + 1}}) {
		t.Errorf("after a use that the other node has stored: got %+v, %v", r, err)
	}
}

// TestCluster_UsageBounds has one node store what 50,000 keys have done. No Set exceeds its bounds.
func TestCluster_UsageBounds(t *testing.T) {
	log := fake.New(1, 0)
	n := newTestNode(t, log, "a", fake.Faults{})
	const keys = 50_000
	for i := range keys {
		n.use(t, &Key{StoredKey: StoredKey{ID: fmt.Sprintf("key_%05d", i)}}, epoch, "192.0.2.1")
		for hour := range 3 {
			n.history.Note(CountedRequest{fmt.Sprintf("key_%05d", i), "/x", "", 403, epoch.Add(time.Duration(-hour) * time.Hour)})
		}
	}
	if err := n.flush(); err != nil {
		t.Fatal(err)
	}
	if e := n.engine; e.writes > cluster.MaxWrites || e.bytes > cluster.MaxBytes || e.sets < 3*keys/cluster.MaxWrites {
		t.Errorf("got %d Sets of at most %d writes and %d bytes", e.sets, e.writes, e.bytes)
	}
	t.Logf("%d Sets of at most %d writes and %d bytes", n.engine.sets, n.engine.writes, n.engine.bytes)
	err := n.View(func(tx *Tx) error {
		for bucket, want := range map[string]int{keyUsesBucket: keys, usageBucket: keys + 2, "observed": keys + 1} {
			if got := tx.Count(bucket); got != want {
				t.Errorf("%s: got %d records, want %d", bucket, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCluster_UsageRefused has an engine that stops to take changes in the middle of a flush. The next flush stores the rest, once.
func TestCluster_UsageRefused(t *testing.T) {
	log := fake.New(1, 0)
	n := newTestNode(t, log, "a", fake.Faults{})
	n.replica.(*replica).most = writtenMark{20, 1 << 20}
	const keys = 100
	for i := range keys {
		n.use(t, &Key{StoredKey: StoredKey{ID: fmt.Sprintf("key_%03d", i)}}, epoch, "192.0.2.1")
	}
	for _, flush := range []func() error{n.keyring.Flush, n.history.Flush, func() error { return n.observed.Flush(epoch) }} {
		n.engine.stopAfter(3)
		if flush() == nil {
			t.Error("got no error")
		}
		n.engine.resume()
		if err := flush(); err != nil {
			t.Error(err)
		}
	}
	for i := range keys {
		id := fmt.Sprintf("key_%03d", i)
		count, err := n.observed.Count(id, "l")
		if err == nil {
			err = n.View(func(tx *Tx) error {
				use, err := storedUse(tx, []byte(id))
				if _, sum := totals(t, n.history, subject{ofKey, id}, period{stepHour, 1, epoch}); use.Bearer != 1 || sum.Total() != 1 || count != 1 {
					t.Errorf("%s: got %d uses, %d requests, %d observed; want 1 of each", id, use.Bearer, sum.Total(), count)
				}
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCluster_Sweep has a node add to a history after another one has found that it is to be deleted.
func TestCluster_Sweep(t *testing.T) {
	log := fake.New(1, 0)
	a, b := newTestNode(t, log, "a", fake.Faults{}), newTestNode(t, log, "b", fake.Faults{})
	key := &Key{StoredKey: StoredKey{ID: "key_1"}}
	late := epoch.Add(200 * 24 * time.Hour)
	a.use(t, key, epoch, "192.0.2.1")
	if err := a.flush(); err != nil {
		t.Fatal(err)
	}
	sameViews(t, log, a.Store, b.Store)
	b.use(t, key, late, "192.0.2.2")
	a.history.flushing.Lock() // Sweep waits here, after it has read
	swept := make(chan error)
	go func() { swept <- a.history.Sweep(late) }()
	err := b.history.Flush()
	a.history.flushing.Unlock()
	if err := errors.Join(err, <-swept); err != nil {
		t.Fatal(err)
	}
	sameViews(t, log, a.Store, b.Store)
	if _, sum := totals(t, a.history, subject{ofKey, "key_1"}, period{stepHour, 1, late}); sum.Total() != 1 {
		t.Errorf("got %d requests, want the one of the other node", sum.Total())
	}
}

// TestCluster_Backups has two nodes make scheduled backups by turns, each in a folder of its own.
func TestCluster_Backups(t *testing.T) {
	log := fake.New(1, 0)
	var backups []*Backups
	var stores []*Store
	for _, name := range []string{"a", "b"} {
		n := newTestNode(t, log, name, fake.Faults{})
		stores = append(stores, n.Store)
		backups = append(backups, NewBackups(BackupOptions{
			Store: n.Store, Node: name, Dir: t.TempDir(), Every: 24 * time.Hour, Keep: 2, Log: slog.New(slog.DiscardHandler),
		}))
	}
	a, b := backups[0], backups[1]
	files := func(b *Backups) int {
		names, err := b.files()
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	step := func(what string, who *Backups, after time.Duration, wantA, wantB int) {
		t.Helper()
		if err := who.Due(epoch.Add(after)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		sameViews(t, log, stores...)
		if gotA, gotB := files(a), files(b); gotA != wantA || gotB != wantB {
			t.Errorf("%s: got %d and %d files, want %d and %d", what, gotA, gotB, wantA, wantB)
		}
	}
	last := func(what, node string, after time.Duration, failed string) {
		t.Helper()
		for _, one := range backups {
			m, err := one.Last()
			if m.Node != node || !m.At.Equal(epoch.Add(after)) || (err != nil) != (failed != "") || err != nil && !strings.Contains(err.Error(), failed) {
				t.Errorf("%s: node %s says %+v, %v; want %s, %s and %q", what, one.o.Node, m, err, node, epoch.Add(after), failed)
			}
		}
	}
	step("the first backup", a, 0, 1, 0)
	last("the first backup", "a", 0, "")
	step("another node takes over", b, time.Hour, 1, 0)
	step("it is due there", b, 24*time.Hour, 1, 1)
	last("it is due there", "b", 24*time.Hour, "")
	step("the turn is back", a, 30*time.Hour, 1, 1)

	good := a.o.Dir
	a.o.Dir = filepath.Join(good, "file")
	if err := os.WriteFile(a.o.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Due(epoch.Add(48 * time.Hour)); err == nil {
		t.Error("a backup into a file: got no error")
	}
	sameViews(t, log, stores...)
	last("a failure", "b", 24*time.Hour, "node a: ")
	a.o.Dir = good
	step("after a failure", b, 49*time.Hour, 1, 2)
	last("after a failure", "b", 49*time.Hour, "")

	// A node that was paused while it made a backup does not change what another one has made since.
	before, err := a.newest(nil)
	if err == nil {
		err = b.madeAt(epoch.Add(80*time.Hour), before)
	}
	if err == nil {
		sameViews(t, log, stores...)
		err = a.madeAt(epoch.Add(79*time.Hour), before)
	}
	if err != nil {
		t.Fatal(err)
	}
	sameViews(t, log, stores...)
	last("a paused node", "b", 80*time.Hour, "")
}

// TestMembership_compare logs once for each change that another node has a different configuration.
func TestMembership_compare(t *testing.T) {
	out := &lockedBuffer{}
	m := &membership{log: slog.New(slog.NewJSONHandler(out, nil)), self: cluster.Node{Name: "a"}, late: &lateEngine{}, compared: map[string][2]string{}}
	c := defaultConfig()
	m.configured(c, c)
	own := *m.config.Load()
	if len(own) != 64 {
		t.Fatalf("got the sum %q", own)
	}
	for _, step := range []struct {
		theirs, want string
	}{
		{own, ""}, {"x", "different"}, {"x", ""}, {"y", "different"}, {own, "same configuration again"}, {own, ""}, {"", ""},
	} {
		before := len(out.String())
		m.compare([]cluster.Node{{Name: "a", Config: "z"}, {Name: "b", Config: step.theirs}})
		if got := out.String()[before:]; (got == "") != (step.want == "") || !strings.Contains(got, step.want) || strings.Count(got, "\n") > 1 {
			t.Errorf("%q: got %q, want %q", step.theirs, got, step.want)
		}
	}
	loaded := c
	loaded.Limit.RequestsPerMinute++
	loaded.Keys.Prefix = "x_" // only a restart applies it
	m.configured(c, loaded)
	only := c
	only.Limit.RequestsPerMinute++
	if now := *m.config.Load(); now == own || now != ConfigSum(only) {
		t.Errorf("after a reload: got %s, want the sum with what a reload applies, %s", now, ConfigSum(only))
	}
}
