package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"latchkey/internal/cluster"
)

// How the nodes of a cluster count a short limit together.
//
// Each node has a record of its own for the limit of an id, with the units that it has admitted and with a reserve, as a server alone
// has it. It stores a larger reserve in a transaction that reads the records of all nodes, so that all their units and
// reserves together are never more than Max. A node admits units of its reserve without asking. The unit that was reserved last of all units
// in a window shows why no window has more than Max: when it was reserved, all others counted as used or as reserved.
//
// To leave something for the others, a node reserves few units for a short time, and stores what is left when the time has ended. While the other
// nodes have all units, it refuses requests without asking.

// timeSlack is how much longer than the window units count in a cluster, because the times of two nodes are not quite equal, and
// because a node moves its time forward to that of another.
const timeSlack = cluster.MaxTimeError + 50*time.Millisecond

// The times of questions for a larger reserve.
const (
	// questionTime is the least time between a question that has reserved a single unit and the next one.
	questionTime = 100 * time.Millisecond
	// While the other nodes have all units, a node asks again once units become free as far as it knows, but at least
	// minRefusal and at most maxRefusal after it has asked: the others store what they have left over.
	minRefusal = 50 * time.Millisecond
	maxRefusal = time.Second
)

// sharedCount is what a counter has besides in a cluster.
type sharedCount struct {
	others  *othersUse // when the counter was last stored or read
	retry   int64      // service time until which requests are refused without asking for a larger reserve
	want    int        // the most units that a request waits for
	asked   int64      // service time of the last question
	returns bool       // the next record has no reserve: it has ended
	timed   bool       // returnLater waits for the end of the reserve
}

// othersUse is what the other nodes of a cluster have used of a limit.
type othersUse struct {
	Window // their units and reserves
	nodes  int
}

// newOthersUse returns what some records of other nodes contain. limit has the window with the timeSlack. It returns an error if a record is
// damaged.
func newOthersUse(records [][]byte, limit Limit, now time.Time) (*othersUse, error) {
	o := &othersUse{Window: NewWindow(limit.Max, limit.Window)}
	var units []entry
	for _, record := range records {
		r, err := readReserve(record, limit)
		if err != nil {
			return nil, err
		}
		live := r.window.marks
		if r.units > 0 {
			live = append(live, entry{r.expires, r.units}) // the node may have used them until then
		}
		live = slices.DeleteFunc(live, func(e entry) bool { return now.UnixNano()-e.at >= o.Span })
		if len(live) > 0 {
			o.nodes++
		}
		units = append(units, live...)
	}
	slices.SortFunc(units, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	for _, e := range units {
		o.insert(e.at, e.n)
	}
	return o, nil
}

// sharedPlan returns a plan for a larger reserve that leaves enough for the other nodes. own is what this node has used
// and left.
func sharedPlan(g *counter, own int, now int64) (p plan) {
	o, want := g.shared.others, g.shared.want
	free := g.Window.Max - own - o.Used(time.Unix(0, now))
	p.most = g.Window.Max
	idle := g.shared.returns && want == 0 // only the end of the reserve is to be stored
	if free > 0 && !idle {
		p.block = min(free, max(1, want-g.reserve, min(g.Window.Max/(4*(1+o.nodes)), free/2, maxBlock)))
	}
	p.granted = g.reserve + p.block
	p.expires = now + g.life()
	if p.block == 0 {
		p.expires = g.expires
	}
	if need := max(1, want); p.granted < need && !idle {
		p.retry = now + int64(min(max(g.waitWith(now, need), minRefusal), maxRefusal))
	}
	return p
}

// waitWith returns how long after now the units of this node and of the others leave room for n more, as far as this node knows.
func (g *counter) waitWith(now int64, n int) time.Duration {
	o := g.shared.others
	if n > g.Window.Max {
		return time.Duration(g.Window.Span)
	}
	own, others := g.Window.marks[g.Window.first:], o.marks[o.first:]
	at := now
	for over := g.Window.used + o.used + n - g.Window.Max; over > 0; {
		switch {
		case len(own) > 0 && (len(others) == 0 || own[0].at+g.Window.Span <= others[0].at+o.Span):
			over, at, own = over-own[0].n, own[0].at+g.Window.Span, own[1:]
		case len(others) > 0:
			over, at, others = over-others[0].n, others[0].at+o.Span, others[1:]
		default:
			return time.Duration(g.Window.Span)
		}
	}
	return time.Duration(max(0, at-now))
}

// refusal returns how long after now to wait for n units that the reserve does not have, or 0 if it is time to ask for them.
func (g *counter) refusal(now time.Time, n int) time.Duration {
	t := max(now.UnixNano(), g.Window.Last)
	if g.shared == nil || t >= g.shared.retry {
		return 0
	}
	return max(g.waitWith(t, n), time.Duration(g.shared.retry-t))
}

// addOthers adds what the other nodes have used to a status.
func (g *counter) addOthers(s *LimitStatus, now time.Time) {
	o, t := g.shared.others, max(now.UnixNano(), g.Window.Last)
	if used := o.Used(time.Unix(0, t)); used > 0 {
		if next := time.Duration(o.marks[o.first].at + o.Span - t); s.Used == 0 || next < s.Next {
			s.Next = next
		}
		s.Used += used
	}
	if s.Wait = 0; g.Left(now) < 1 {
		s.Wait = max(g.Window.Wait(now, 1), g.waitWith(t, 1))
	}
}

// asksAhead reports whether to ask for a larger reserve before a request waits for it. If a node gets one unit at a time, it would take it from
// nodes that have requests.
func (g *counter) asksAhead(now time.Time) bool { return g.granted > 1 && g.refusal(now, 1) == 0 }

// question returns how long after now to wait before the next question for a larger reserve.
func (g *counter) question(now time.Time) time.Duration {
	if g.shared.asked == 0 || g.granted > 1 {
		return 0
	}
	return min(time.Duration(g.shared.asked+int64(questionTime)-now.UnixNano()), questionTime)
}

// nodeCounting is how a Limiter counts as one node of a cluster.
type nodeCounting struct {
	node string
	now  func() time.Time // the time of the cluster
}

// CountsAs makes the Limiter one of several nodes, which count together. now returns the service time, which is the same on
// all nodes but for cluster.MaxTimeError. Call it before any other method.
func (l *Limiter) CountsAs(node string, now func() time.Time) { l.shared = &nodeCounting{node, now} }

// Begin says that all units of earlier runs were admitted before a service time.
func (l *Limiter) Begin(start time.Time) { l.start.Store(start.Add(timeSlack).UnixNano()) }

// counted returns a limit with the window for which units count. It is longer in a cluster.
func (l *Limiter) counted(limit Limit) Limit {
	if l.shared != nil && !limit.Concurrent() {
		limit.Window += timeSlack
	}
	return limit
}

// learn reads what the other nodes have used of a limit, see counted, for the counter of an id.
func (l *Limiter) learn(tx *Tx, id string, g *counter, limit Limit) error {
	alone, own := counterKey(id, limit.Name), l.counterKey(id, limit.Name)
	var records [][]byte
	for key := range tx.Range("meters", alone) {
		if rest := key[len(alone):]; len(rest) > 0 && rest[0] != 0 || bytes.Equal(key, own) {
			continue
		}
		record, err := tx.Get("meters", key)
		if err != nil {
			return err
		}
		records = append(records, record)
	}
	others, err := newOthersUse(records, limit, l.shared.now())
	if err != nil {
		return fmt.Errorf("read limit %s of %s: %w", limit.Name, id, err)
	}
	g.shared.others = others
	return nil
}

// returnLater stores what is left of a reserve once its time has ended, so that the other nodes can use it. m must be locked.
func (l *Limiter) returnLater(m *counters, g *counter) {
	if g.shared == nil || g.shared.timed {
		return
	}
	g.shared.timed = true
	left := time.Duration(g.expires-l.shared.now().UnixNano()) + time.Millisecond + rand.N(10*time.Millisecond) // many share a commit
	time.AfterFunc(max(left, time.Millisecond), func() {
		m.Lock()
		defer m.Unlock()
		g.shared.timed = false
		switch now := l.shared.now(); {
		case g.reserve <= 0:
		case now.UnixNano() <= g.expires:
			l.returnLater(m, g)
		case !g.Pending:
			g.shared.returns = true
			l.renew(m, g, now)
		}
	})
}
