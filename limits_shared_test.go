package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/internal/cluster/fake"
)

// nodesTest lets nodes of a cluster count one limit together, by the code that decides, with clocks that differ and answers that take time.
type nodesTest struct {
	limit    Limit
	nodes    []*countingNode
	records  [][]byte
	now      time.Time // real time
	admitted []time.Time
	asked    int // questions
}

// countingNode is a node.
type countingNode struct {
	*counter
	behind  time.Duration // its clock
	answer  time.Time     // when its question is answered; zero: none is under way
	waiting int           // requests that wait for it
	paused  time.Time     // it does nothing until then
}

// answerTime is how long a question takes.
const answerTime = 8 * time.Millisecond

func newNodesTest(rng *rand.Rand, limit Limit, n int) *nodesTest {
	m := &nodesTest{limit: limit, records: make([][]byte, n), now: epoch}
	for i := range n {
		m.nodes = append(m.nodes, &countingNode{behind: rand.N(cluster.MaxTimeError)})
		m.restart(i)
		m.nodes[i].behind = time.Duration(rng.Int64N(int64(cluster.MaxTimeError)))
	}
	return m
}

// restart lets a node begin with what its record has.
func (m *nodesTest) restart(i int) {
	n := m.nodes[i]
	g, err := readGauge(m.records[i], m.limit, n.time(m).Add(timeSlack))
	if err != nil {
		panic(err)
	}
	*n = countingNode{counter: g, behind: n.behind}
	m.look(i)
}

// look reads the records of the other nodes.
func (m *nodesTest) look(i int) {
	var records [][]byte
	for j, record := range m.records {
		if j != i && record != nil {
			records = append(records, record)
		}
	}
	others, err := newOthersUse(records, m.limit, m.nodes[i].time(m))
	if err != nil {
		panic(err)
	}
	if n := m.nodes[i]; n.shared == nil {
		n.shared = &sharedCount{}
	}
	m.nodes[i].shared.others = others
}

// time returns the time as a node has it.
func (n *countingNode) time(m *nodesTest) time.Time { return m.now.Add(-n.behind) }

// request lets a node decide about a request, as Limiter.Spend does.
func (m *nodesTest) request(n *countingNode) {
	now := n.time(m)
	switch {
	case n.Wait(now, 1) > 0:
	case n.Left(now) < 1:
		n.shared.want = max(n.shared.want, 1)
		n.waiting++
		m.ask(n)
	default:
		m.admitted = append(m.admitted, m.now)
		if _, low := n.Use(1, now); low {
			m.ask(n)
		}
	}
}

// ask lets a node ask for a larger reserve.
func (m *nodesTest) ask(n *countingNode) {
	if !n.Pending {
		n.Pending = true
		n.answer = m.now.Add(max(0, n.question(n.time(m))) + answerTime)
	}
}

// step lets a node do what it does by itself.
func (m *nodesTest) step(i int) {
	n := m.nodes[i]
	if m.now.Before(n.paused) {
		return
	}
	if n.Pending && !m.now.Before(n.answer) {
		m.asked++
		m.look(i)
		now := n.time(m)
		n.shared.asked = now.UnixNano()
		plan, record := n.Grow(now)
		m.records[i] = record
		n.Grown(plan)
		n.Pending = false
		waiting := n.waiting
		n.waiting = 0
		for range waiting {
			m.request(n)
		}
	}
	if n.reserve > 0 && n.time(m).UnixNano() > n.expires && !n.Pending {
		n.shared.returns = true
		m.ask(n)
	}
}

// over returns the most units that were admitted in a window, if they are more than Max.
func (m *nodesTest) over() error {
	first := 0
	for i, at := range m.admitted {
		for at.Sub(m.admitted[first]) >= m.limit.Window-timeSlack {
			first++
		}
		if n := i - first + 1; n > m.limit.Max {
			return fmt.Errorf("%d units of %d were admitted within %s after %s", n, m.limit.Max, m.limit.Window, m.admitted[first].Sub(epoch))
		}
	}
	return nil
}

// TestCounter_Nodes compares several nodes with one that gets all requests: they admit nearly as many, and never more than the limit.
func TestCounter_Nodes(t *testing.T) {
	t.Parallel()
	const warm, lasts, step = 2 * time.Minute, 6 * time.Minute, 10 * time.Millisecond
	for _, most := range []int{60, 600} {
		for _, n := range []int{3, 10, 50} {
			for _, spread := range []string{"even", "uneven"} {
				for _, load := range []float64{0.5, 0.8, 3} {
					rng := rand.New(rand.NewPCG(uint64(most), uint64(n)))
					limit := Limit{"x", most, time.Minute + timeSlack}
					m, one := newNodesTest(rng, limit, n), NewWindow(most, time.Minute)
					var shares []float64
					sum := 0.0
					for i := range n {
						share := 1.0
						if spread == "uneven" {
							share /= float64(i + 1)
						}
						sum += share
						shares = append(shares, sum)
					}
					possible, before := 0, 0
					for ; m.now.Before(epoch.Add(lasts)); m.now = m.now.Add(step) {
						if m.now.Sub(epoch) == warm {
							possible, before = 0, len(m.admitted)
						}
						for i := range m.nodes {
							m.step(i)
						}
						if rng.Float64() < load*float64(most)/float64(time.Minute/step)/1.5 { // one or two requests
							for range 1 + rng.IntN(2) {
								at := rng.Float64() * sum
								m.request(m.nodes[slices.IndexFunc(shares, func(s float64) bool { return at < s })])
								if one.Wait(m.now, 1) == 0 {
									one.Add(m.now, 1)
									possible++
								}
							}
						}
					}
					if err := m.over(); err != nil {
						t.Errorf("limit %d, %d nodes, %s, load %g: %v", most, n, spread, load, err)
					}
					got := len(m.admitted) - before
					if share := float64(got) / float64(possible); share < 0.95 {
						t.Errorf("limit %d, %d nodes, %s, load %g: admitted %d of the %d that one server admits (%.1f %%)", most, n, spread, load, got, possible, 100*share)
					} else if testing.Verbose() {
						t.Logf("limit %d, %d nodes, %s, load %g: %.1f %%, %.2f questions for each", most, n, spread, load, 100*share, float64(m.asked)/float64(len(m.admitted)))
					}
				}
			}
		}
	}
}

// TestCounter_NodesReserve asks a node for as many units as its reserve has, and for more, when there is nothing to ask the
// others for: the reserve is admitted at once, and more has to wait.
func TestCounter_NodesReserve(t *testing.T) {
	m := newNodesTest(rand.New(rand.NewPCG(1, 1)), Limit{"x", 600, time.Minute + timeSlack}, 2)
	n := m.nodes[0]
	m.request(n)
	m.now = m.now.Add(answerTime)
	m.step(0)
	now := n.time(m)
	n.shared.retry = now.Add(time.Second).UnixNano()
	left := n.Left(now)
	if left < 1 {
		t.Fatalf("got a reserve of %d", left)
	}
	for _, more := range []int{-1, 0, 1} {
		if wait := n.Wait(now, left+more); (wait > 0) != (more > 0) {
			t.Errorf("%d units of a reserve of %d: got a wait of %s", left+more, left, wait)
		}
	}
}

// TestCounter_NodesNarrower makes a limit smaller. What a node has reserved before does not count any more, also if that was under way.
func TestCounter_NodesNarrower(t *testing.T) {
	for _, pending := range []bool{false, true} {
		m := newNodesTest(rand.New(rand.NewPCG(1, 1)), Limit{"x", 600, time.Minute + timeSlack}, 2)
		spend := func() {
			for range 200 {
				for i, n := range m.nodes {
					m.now = m.now.Add(time.Millisecond)
					m.step(i)
					m.request(n)
				}
			}
		}
		a, b := m.nodes[0], m.nodes[1]
		for range 15 {
			m.request(b)
			m.now = m.now.Add(answerTime)
			m.step(1)
		}
		m.request(a)
		m.now = m.now.Add(answerTime)
		m.step(0)
		if a.reserve < 50 {
			t.Fatalf("got a reserve of %d", a.reserve)
		}
		m.limit.Max = 20
		if pending {
			m.look(0)
			plan, record := a.Grow(a.time(m))
			m.records[0] = record
			a.Fit(m.limit)
			a.Grown(plan)
		}
		a.Fit(m.limit)
		b.Fit(m.limit)
		if spend(); len(m.admitted) > 20 || len(m.admitted) < 16 {
			t.Errorf("%t: two nodes have admitted %d units of 20", pending, len(m.admitted))
		}
	}
}

// TestCounter_NodesFaults lets nodes crash, start again and pause at random. They never admit more than the limit.
func TestCounter_NodesFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		limit := Limit{"x", []int{1, 2, 5, 60, 1200}[rng.IntN(5)], time.Minute + timeSlack}
		m := newNodesTest(rng, limit, 2+rng.IntN(4))
		for range 3000 {
			m.now = m.now.Add(time.Duration(rng.ExpFloat64() * float64(50*time.Millisecond)))
			i := rng.IntN(len(m.nodes))
			n := m.nodes[i]
			switch what := rng.IntN(1000); {
			case what < 2:
				m.now = m.now.Add(time.Duration(rng.Int64N(int64(100 * time.Second))))
			case what < 6:
				m.restart(i)
			case what < 10:
				n.paused = m.now.Add(time.Duration(rng.Int64N(int64(30 * time.Second))))
			case what < 12: // joins again, with another time
				n.behind = time.Duration(rng.Int64N(int64(cluster.MaxTimeError)))
			case what < 600:
				m.step(i)
			default:
				for range rng.IntN(4) {
					if !m.now.Before(n.paused) {
						m.request(n)
					}
				}
			}
		}
		if err := m.over(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if want := min(limit.Max, 100); len(m.admitted) < want {
			t.Errorf("seed %d: only %d of %d were admitted", seed, len(m.admitted), want)
		}
	}
}

// TestLimiter_NodesLate makes charges of requests that have begun long before, as those that have waited for etcd.
func TestLimiter_NodesLate(t *testing.T) {
	t.Parallel()
	s := newShared(t, ShareOptions{Engine: fake.New(1, 0).Engine(fake.Faults{}), Node: "a"})
	l := NewLimiter(s, epoch)
	l.CountsAs("a", time.Now)
	l.Begin(l.shared.now())
	begun := time.Now().Add(-time.Hour)
	few, many := Limit{"few", 4, time.Minute}, Limit{"many", 1000, time.Minute} // few: so few that a reserve is one unit
	for way, spend := range map[string]func(id string, now time.Time) error{
		"one limit":  func(id string, now time.Time) error { _, err := l.Spend(id, []Limit{few}, now, nil); return err },
		"two limits": func(id string, now time.Time) error { _, err := l.Spend(id, []Limit{few, many}, now, nil); return err },
		"SpendAll":   func(id string, now time.Time) error { _, err := l.SpendAll(charges(id, 1, few), now, nil); return err },
		"SpendAll with a long limit": func(id string, now time.Time) error {
			_, err := l.SpendAll(charges(id, 1, few, Limit{"day", 1000, 24 * time.Hour}), now, nil)
			return err
		},
	} {
		for range few.Max {
			if err := within(t, way, func() error { return spend(way, begun) }); err != nil {
				t.Fatalf("%s: %v", way, err)
			}
		}
		if err := spend(way, l.shared.now()); !errors.Is(err, ErrRateLimit) {
			t.Errorf("%s: got %v, want the units counted when they were admitted", way, err)
		}
	}
}

// TestLimiter_Nodes lets Limiters of three nodes charge the same id at once, over an engine that makes mistakes.
func TestLimiter_Nodes(t *testing.T) {
	t.Parallel()
	log := fake.New(1, 0)
	var limiters []*Limiter
	var stores []*Store
	for i, name := range []string{"a", "b", "c"} {
		s := newShared(t, ShareOptions{Engine: log.Engine(fake.Faults{Moved: 0.05, Unsure: 0.05, Delay: 0.2}), Node: name})
		behind := time.Duration(i) * cluster.MaxTimeError / 2
		l := NewLimiter(s, epoch)
		l.CountsAs(name, func() time.Time { return time.Now().Add(-behind) })
		l.Begin(l.shared.now())
		limiters, stores = append(limiters, l), append(stores, s)
	}
	second, day := Limit{"second", 40, 1500 * time.Millisecond}, Limit{"day", 25, 24 * time.Hour}
	type span struct{ sent, received time.Time }
	var mu sync.Mutex
	var admitted []span
	days := 0
	var running sync.WaitGroup
	until := time.Now().Add(4 * time.Second)
	for i, l := range limiters {
		for worker := range 3 {
			running.Go(func() {
				for time.Now().Before(until) {
					sent := time.Now()
					list := []Charge{{ID: "id", Limit: second, Cost: 1 + worker%2}}
					if worker == 2 {
						list = append(list, Charge{ID: "id", Limit: day, Cost: 1})
					}
					_, err := l.SpendAll(list, l.shared.now(), nil)
					received := time.Now()
					if err == nil {
						mu.Lock()
						for range list[0].Cost {
							admitted = append(admitted, span{sent, received})
						}
						if len(list) > 1 {
							days++
						}
						mu.Unlock()
					} else if !errors.Is(err, ErrRateLimit) && !errors.Is(err, ErrUnavailable) { // nobody knows whether it was charged
						t.Errorf("node %d: %v", i, err)
					}
					time.Sleep(time.Duration(1+rand.IntN(20)) * time.Millisecond)
				}
			})
		}
	}
	running.Wait()
	for _, from := range admitted { // those that were sent after it, and answered before the window ends
		n := 0
		for _, other := range admitted {
			if !other.sent.Before(from.sent) && other.received.Sub(from.sent) < second.Window {
				n++
			}
		}
		if n > second.Max {
			t.Fatalf("%d units of %d were admitted within %s", n, second.Max, second.Window)
		}
	}
	if len(admitted) < second.Max {
		t.Errorf("only %d units of %d were admitted in several windows", len(admitted), second.Max)
	}
	if days > day.Max || days < 5 {
		t.Errorf("%d units of %d were admitted in a day", days, day.Max)
	}
	sameViews(t, log, stores...)
	for i, l := range limiters { // all nodes show the same
		list, err := l.Statuses(charges("id", 1, day), l.shared.now())
		if err != nil || list[0].Used < days || list[0].Used > day.Max {
			t.Errorf("node %d: %+v, %v; want at least %d used and at most %d", i, list, err, days, day.Max)
		}
	}
	for _, l := range limiters {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLimiter_NodesStatus uses units of a limit on two nodes: on each, the status counts those of both.
func TestLimiter_NodesStatus(t *testing.T) {
	t.Parallel()
	limit := Limit{"few", 4, time.Minute} // so few that a reserve is one unit
	s := newTestStore(t)
	var nodes []*Limiter
	for _, name := range []string{"a", "b"} {
		l := NewLimiter(s, epoch)
		l.CountsAs(name, time.Now)
		l.Begin(l.shared.now())
		nodes = append(nodes, l)
	}
	var running sync.WaitGroup
	for one := range limit.Max + 1 {
		for other := range limit.Max + 1 - one {
			running.Go(func() {
				id, first := fmt.Sprint(one, "_", other), time.Now()
				for i, n := range []int{one, other} {
					for range n {
						if _, err := nodes[i].SpendAll([]Charge{{ID: id, Limit: limit, Cost: 1}}, time.Now(), nil); err != nil {
							t.Errorf("%d units on one node and %d on the other: %v", one, other, err)
						}
					}
				}
				now := time.Now()
				for _, l := range nodes {
					list, err := l.Statuses([]Charge{{ID: id, Limit: limit}}, now)
					if err != nil || len(list) != 1 {
						t.Errorf("got %v, %v", list, err)
						return
					}
					used, got := one+other, list[0]
					left := limit.Window - now.Sub(first) // of the first unit, at least
					if got.Used != used || (got.Next > 0) != (used > 0) || (got.Wait > 0) != (used == limit.Max) || used > 0 && got.Next < left || used == limit.Max && got.Wait != got.Next {
						t.Errorf("%d units on one node and %d on the other: got %+v, and %v left of the first", one, other, got, left)
					}
				}
			})
		}
	}
	running.Wait()
}

// TestLimiter_NodesDamaged damages what another node has used of a limit: whatever asks for the limit fails, whether its
// counter is in memory or not, and nothing is admitted.
func TestLimiter_NodesDamaged(t *testing.T) {
	t.Parallel()
	few := Limit{"few", 4, time.Minute} // so few that a reserve is one unit
	list := []Charge{{ID: "id", Limit: few, Cost: 1}}
	for name, use := range map[string]func(l *Limiter) error{
		"Spend":    func(l *Limiter) error { _, err := l.Spend("id", []Limit{few}, l.shared.now(), nil); return err },
		"SpendAll": func(l *Limiter) error { _, err := l.SpendAll(list, l.shared.now(), nil); return err },
		"Statuses": func(l *Limiter) error { _, err := l.Statuses(list, l.shared.now()); return err },
	} {
		for harm, do := range map[string]func(tx *Tx) error{
			"damaged":   func(tx *Tx) error { return damageBucket(tx, "meters") },
			"no record": func(tx *Tx) error { return tx.Put("meters", counterKey("id", "few\x00a"), []byte("x")) },
		} {
			for _, known := range []bool{false, true} {
				s := newTestStore(t)
				node := func(name string) *Limiter {
					l := NewLimiter(s, epoch)
					l.CountsAs(name, time.Now)
					l.Begin(l.shared.now())
					return l
				}
				other, l := node("a"), node("b")
				_, err := other.SpendAll(list, other.shared.now(), nil)
				if known {
					err = errors.Join(err, use(l))
				}
				if err = errors.Join(err, s.Update(do)); err != nil {
					t.Fatal(err)
				}
				if err := within(t, name, func() error { return use(l) }); err == nil || errors.Is(err, ErrRateLimit) || errors.Is(err, ErrUnavailable) {
					t.Errorf("%s, %s, in memory %t: got %v, want the error of the record", name, harm, known, err)
				}
			}
		}
	}
}
