package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// TestEngine_Time starts and ends nodes whose clocks are hours apart. Those that answer requests have one time.
func TestEngine_Time(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, time.Minute)
	running := map[string]func(){}
	begin := func(name string, shift time.Duration) *node {
		run, stop := context.WithCancel(ctx)
		running[name] = stop
		n := prepare(run, t, options(c, name), "one")
		n.shift.Store(int64(shift))
		if err := n.e.Join(run, cluster.Node{}); err != nil {
			t.Error(err)
		}
		n.keep(run)
		return n
	}
	near := func(what string, a, b *node) {
		t.Helper()
		if apart := time.Duration(a.shift.Load() - b.shift.Load()).Abs(); apart > cluster.MaxTimeError {
			t.Errorf("%s: the times are %s apart", what, apart)
		}
	}
	a := begin("a", 5*time.Hour)
	a.serves(ctx)
	if got := time.Duration(a.shift.Load()); got != 5*time.Hour {
		t.Errorf("a node that is alone has moved its time to %s", got)
	}
	var b, d *node
	var starting sync.WaitGroup
	var mu sync.Mutex // guards running
	for name, start := range map[string]func(name string) *node{
		"b": func(name string) *node { b = begin(name, -3*time.Hour); return b },
		"d": func(name string) *node { d = begin(name, 9*time.Hour); return d },
	} {
		mu.Lock()
		n := start(name)
		mu.Unlock()
		starting.Go(func() { n.serves(ctx) })
	}
	starting.Wait()
	near("second node", a, b)
	near("third node", a, d)
	near("second and third node", b, d)

	// A node that is ahead takes the others with it.
	b.Shift(time.Minute)
	for {
		first, third := a.shift.Load(), d.shift.Load()
		if want := b.shift.Load() - int64(cluster.MaxTimeError); first >= want && third >= want {
			break
		}
		if !sleep(ctx, 10*time.Millisecond) {
			t.Fatal("the others do not follow")
		}
	}

	// The time goes on with those that run, then with that of the last change.
	running["a"]()
	e := begin("e", 20*time.Hour)
	e.serves(ctx)
	near("after the first node has ended", b, e)
	if _, err := e.increment(ctx, false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "d", "e"} {
		running[name]()
	}
	f := begin("f", -50*time.Hour)
	f.serves(ctx)
	if got := time.Duration(f.shift.Load()); got < 4*time.Hour || got > 6*time.Hour {
		t.Errorf("the time goes on at %s, want near 5h", got)
	}
	if f.joined.Load() == 0 {
		t.Error("the node was not told that it has the time")
	}
}

// timeModel has nodes that agree on a time by way of an etcd that takes any time for anything.
type timeModel struct {
	now     time.Duration // real time
	nodes   []*timeNode
	log     []*mvccpb.KeyValue // changes of registrations in their order; one without a value is a deletion
	waiting []*write           // writes that etcd has not made yet
	runs    int                // nodes that were started
	since   map[string]int64   // revisions at which registrations were created
}

// write is the renewal of a registration under way.
type write struct {
	by    *timeNode
	value string
}

// timeNode is a node.
type timeNode struct {
	state
	label  string
	alive  bool
	offset time.Duration // of its boot clock
	ahead  time.Duration // its time minus real time
	read   int           // how much of the log it has read
	model  *timeModel
	sees   bool // its last renewal had the time
}

func (n *timeNode) Reach(context.Context, cluster.Head) error { return nil }
func (n *timeNode) Time() time.Time                           { return time.Unix(0, int64(n.model.now+n.ahead)) }
func (n *timeNode) Shift(d time.Duration)                     { n.ahead += d }
func (n *timeNode) Joined()                                   {}

// TestTime_Apart checks with random delays that no two nodes with the time are ever further apart than MaxTimeError.
func TestTime_Apart(t *testing.T) {
	t.Parallel()
	pairs := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := &timeModel{now: 1000 * time.Hour, since: map[string]int64{}}
		for range 1000 {
			m.now += time.Duration(rng.IntN(5)*rng.IntN(8)) * time.Millisecond
			m.step(rng)
			found, err := m.check()
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			pairs += found
		}
	}
	if pairs < 2000 {
		t.Errorf("only %d pairs of times were compared", pairs)
	}
}

// step lets something happen.
func (m *timeModel) step(rng *rand.Rand) {
	if len(m.nodes) == 0 {
		m.join(rng)
	}
	n := m.nodes[rng.IntN(len(m.nodes))]
	switch what := rng.IntN(100); {
	case what < 2:
		if len(m.nodes) < 6 {
			m.join(rng)
		}
	case what < 3:
		m.end(n)
	case what < 20:
		n.renew()
	case what < 50:
		if len(m.waiting) > 0 {
			m.make(rng.IntN(len(m.waiting)))
		}
	case what < 60:
		if n.alive && !n.time.settled.Load() {
			n.settleTime()
		}
	default:
		n.follow()
	}
}

// join starts a node whose clocks show anything.
func (m *timeModel) join(rng *rand.Rand) {
	m.runs++
	n := &timeNode{label: fmt.Sprint("n", m.runs), alive: true, model: m}
	n.offset = time.Duration(rng.IntN(900)) * time.Hour
	n.ahead = time.Duration(rng.IntN(1000)-500) * time.Hour
	n.state.start(n.label, func() time.Duration { return m.now + n.offset })
	local := cluster.Local(n)
	n.time.local.Store(&local)
	n.forgetTime(n.label)
	m.nodes = append(slices.DeleteFunc(m.nodes, func(n *timeNode) bool { return !n.alive }), n)
}

// renew sends a renewal, unless one is under way.
func (n *timeNode) renew() {
	for _, w := range n.model.waiting {
		if w.by == n {
			return
		}
	}
	if !n.alive {
		return
	}
	value, err := json.Marshal(registration{Node: cluster.Node{Name: n.label}, Lease: time.Hour, Run: n.label, timeNote: n.noteTime()})
	if err != nil {
		panic(err)
	}
	n.model.waiting = append(n.model.waiting, &write{n, string(value)})
}

// make makes a write that is under way.
func (m *timeModel) make(i int) {
	w := m.waiting[i]
	m.waiting = append(m.waiting[:i:i], m.waiting[i+1:]...)
	if !w.by.alive {
		return
	}
	revision := int64(len(m.log) + 1)
	if m.since[w.by.label] == 0 {
		m.since[w.by.label] = revision
	}
	w.by.sees = registrationOf([]byte(w.value)).Time != 0
	m.log = append(m.log, &mvccpb.KeyValue{Key: []byte("node/" + w.by.label), Value: []byte(w.value), CreateRevision: m.since[w.by.label], ModRevision: revision})
}

// end ends a node, whose registration is deleted.
func (m *timeModel) end(n *timeNode) {
	if n.alive = false; m.since[n.label] != 0 {
		delete(m.since, n.label)
		m.log = append(m.log, &mvccpb.KeyValue{Key: []byte("node/" + n.label), ModRevision: int64(len(m.log) + 1)})
	}
}

// follow reads the next change.
func (n *timeNode) follow() {
	if n.read == len(n.model.log) {
		return
	}
	kv := n.model.log[n.read]
	n.read++
	n.apply(kv.ModRevision, []event{{string(kv.Key), kv, kv.Value == nil}}, nil)
	select {
	case <-n.asked:
		n.renew()
	default:
	}
}

// check compares the times of all nodes that may answer requests. It returns the number of pairs.
func (m *timeModel) check() (pairs int, err error) {
	for i, a := range m.nodes {
		for _, b := range m.nodes[:i] {
			if !a.alive || !b.alive || !a.sees || !b.sees {
				continue
			}
			if pairs++; (a.ahead - b.ahead).Abs() > cluster.MaxTimeError {
				return pairs, fmt.Errorf("the times of %s and %s are %s apart", a.label, b.label, (a.ahead - b.ahead).Abs())
			}
		}
	}
	return pairs, nil
}
