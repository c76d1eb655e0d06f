package conns

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"latchkey/internal/sorted"
)

// Reason is why a connection was closed.
type Reason int

// The reasons why connections are closed.
const (
	Full        Reason = iota // the group had its most connections
	Address                   // the network of the client had its most connections
	AddressBusy               // the same, and none of them was idle, so the new connection was closed
	NoKey                     // there was no request with a valid key within Options.KeyTime
	Descriptors               // a file descriptor was needed elsewhere
	reasons
)

// String returns the reason as in metrics.
func (r Reason) String() string {
	return [...]string{"full", "address", "address_busy", "no_key", "descriptors"}[r]
}

// settled is how long a connection must be idle so that the next request of a client that sends one
// after the other is probably not on its way. A request without a valid key that lasts longer has
// probably stopped in the middle of its body: the answer to it is complete much earlier.
const settled = 500 * time.Millisecond

// maxAbandoned is about how many connections of a group may wait for their handlers after they were closed for others.
// They have file descriptors that no limit counts.
const maxAbandoned = 16

// listTime is how long a list of victims is used.
const listTime = 100 * time.Millisecond

// victims are the next connections to close, in this order. The list is made for many connections,
// because making it takes a look at all of them.
type victims struct {
	sync.Mutex
	list []victim
	made int64 // when the list was made, by Set.now
}

// victim is a connection that may be closed if it is still in a state.
type victim struct {
	conn  *Conn
	state int64
}

// crowded reports whether no connection may be closed while its request is in progress, because so many wait for their
// handlers already.
func (g *Group) crowded() bool { return g.abandoned.Load() >= maxAbandoned }

// close closes the connection. It returns false if the connection has been used meanwhile, or has a request and the group
// is crowded.
func (v victim) close() bool {
	_, active, _ := sinceOf(v.state)
	if active && v.conn.group.crowded() || !v.conn.state.CompareAndSwap(v.state, taken) {
		return false
	}
	if active {
		v.conn.abandon()
	} else {
		_ = v.conn.Close()
	}
	return true
}

// makeRoom closes an idle connection if the group has its most connections. It returns false if the
// group is full and no connection is idle.
func (g *Group) makeRoom() bool {
	reason, full := g.full()
	if !full {
		return true
	}
	if g.closeIdle(&g.victims, func(*Conn) bool { return true }) {
		g.closed[reason].Add(1)
		return true
	}
	return reason == Descriptors && g.set.releaseHeld()
}

// full reports whether the group has no room for another connection, and the reason for which one
// is then closed.
func (g *Group) full() (Reason, bool) {
	open, most := g.open.Load(), g.max.Load()
	if most > 0 && open >= most {
		return Full, true
	}
	s := g.set
	return Descriptors, s.shared == g && s.room > 0 && open+s.held.Load() >= int64(s.room)
}

// closeIdle closes one of the connections that match, see oldest. It returns false if there is none
// that may be closed. v holds the next connections between calls with the same match.
func (g *Group) closeIdle(v *victims, match func(*Conn) bool) bool {
	v.Lock()
	defer v.Unlock()
	if g.set.now()-v.made > int64(listTime) {
		v.list = nil
	}
	for {
		for len(v.list) > 0 {
			next := v.list[0]
			v.list[0] = victim{}
			v.list = v.list[1:]
			if !next.conn.keyed.Load() && next.close() {
				return true
			}
		}
		var keyed victim
		v.made = g.set.now()
		v.list, keyed = g.oldest(match)
		if len(v.list) == 0 && (keyed.conn == nil || keyed.close()) {
			return keyed.conn != nil
		}
	}
}

// oldest returns connections that match and have not shown a valid key, in the order in which they
// are closed: those that have been idle for settled, then those whose request lasts longer than
// that, then those that have been idle for less. In each part, the oldest is first. It may leave
// out the last ones. keyed is the connection with a valid key that has been idle longest. Its conn
// is nil if there is none.
func (g *Group) oldest(match func(*Conn) bool) (list []victim, keyed victim) {
	recent, crowded := g.set.now()-int64(settled), g.crowded()
	rank := func(v victim) (int, int64) {
		since, active, _ := sinceOf(v.state)
		switch {
		case since > recent:
			return 2, since
		case active:
			return 1, since
		}
		return 0, since
	}
	for c := range g.all {
		state := c.state.Load()
		since, active, ok := sinceOf(state)
		switch {
		case !ok || !match(c):
		case !c.keyed.Load():
			if !active || since <= recent && !crowded {
				list = append(list, victim{c, state})
			}
		case !active && (keyed.conn == nil || since < keyed.state):
			keyed = victim{c, state}
		}
	}
	sorted.Func(list, func(a, b victim) int {
		rankA, sinceA := rank(a)
		rankB, sinceB := rank(b)
		return cmp.Or(cmp.Compare(rankA, rankB), cmp.Compare(sinceA, sinceB))
	})
	return slices.Clone(list[:min(len(list), max(64, len(list)/16))]), keyed
}

// closeAny closes an idle connection of any group, because a file descriptor is needed. It prefers
// the shared group. It returns false if none is idle.
func (s *Set) closeAny() bool {
	if s.shared != nil && s.shared.closeFor(Descriptors) {
		return true
	}
	for _, g := range s.groups {
		if g != s.shared && g.closeFor(Descriptors) {
			return true
		}
	}
	return s.releaseHeld()
}

// closeFor closes an idle connection of the group for a reason. It returns false if none is idle.
func (g *Group) closeFor(reason Reason) bool {
	if !g.closeIdle(&g.victims, func(*Conn) bool { return true }) {
		return false
	}
	g.closed[reason].Add(1)
	return true
}

// releaseHeld closes the idle connections of Hold. It returns false if there are none.
func (s *Set) releaseHeld() bool {
	before := s.held.Load()
	if s.release != nil {
		s.release()
	}
	return s.held.Load() < before
}

// Share makes the connections of g share their room with those of Hold: together they are at most
// room. release closes the idle connections of Hold. Call Share before the first connection is
// accepted.
func (s *Set) Share(g *Group, room int, release func()) {
	s.shared, s.room, s.release = g, room, release
}

// ErrNoRoom means that a connection cannot be opened, because too many file descriptors are in use.
var ErrNoRoom = errors.New("no file descriptor is free for another connection; raise the limit of open files, for example LimitNOFILE= of the systemd unit")

// holdTime is how long Hold waits for room. By then a request without a valid key that fills the group
// has lasted for settled, so its connection may be closed.
const holdTime = 2 * settled

// Hold makes room for a connection that this process is about to open, by closing an idle one if
// that is necessary. If none is idle, it waits for up to a second until one is, and then returns
// ErrNoRoom. Call done once the connection is closed or could not be opened.
func (s *Set) Hold() (done func(), err error) {
	if !s.hold() && !s.waitToHold() {
		return nil, ErrNoRoom
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			s.held.Add(-1)
			s.wake()
		})
	}, nil
}

// hold counts one more connection of Hold, and closes an idle one if that is necessary. It returns
// false, and does not count it, if none is idle.
func (s *Set) hold() bool {
	held := s.held.Add(1)
	if s.shared == nil || s.room <= 0 || s.shared.open.Load()+held <= int64(s.room) || s.shared.closeFor(Descriptors) || s.releaseHeld() {
		return true
	}
	s.held.Add(-1)
	return false
}

// waitToHold calls hold until it returns true, for at most holdTime. It returns the last result.
func (s *Set) waitToHold() bool {
	changed, stop := s.wait()
	defer stop()
	tick := time.NewTicker(settled / 4) // a request that lasts too long is no change
	defer tick.Stop()
	late := time.NewTimer(holdTime)
	defer late.Stop()
	for {
		select {
		case <-late.C:
			return s.hold()
		case <-tick.C:
		case <-changed:
		}
		if s.hold() {
			return true
		}
	}
}

// Sweep closes the idle connections that have had no request with a valid key within their
// Options.KeyTime. Call it about once a second.
func (s *Set) Sweep() {
	now := s.now()
	for _, g := range s.groups {
		if g.o.KeyTime <= 0 {
			continue
		}
		var list []victim
		for c := range g.all {
			since, active, ok := sinceOf(c.state.Load())
			if ok && !active && !c.proxy && !c.keyed.Load() && now-c.opened >= int64(g.o.KeyTime) && now-since >= int64(settled) {
				list = append(list, victim{c, since})
			}
		}
		for _, v := range list {
			if v.close() {
				g.closed[NoKey].Add(1)
			}
		}
	}
}

// Usage is the use of a group.
type Usage struct {
	Name   string
	Open   int             // open connections
	Limits Limits          // see SetLimits
	Closed [reasons]uint64 // closed connections by Reason
}

// Usage returns the use of each group, in the order of Add.
func (s *Set) Usage() (list []Usage) {
	for _, g := range s.groups {
		u := Usage{Name: g.o.Name, Open: int(g.open.Load()), Limits: Limits{int(g.max.Load()), int(g.maxPerNetwork.Load())}}
		for i := range u.Closed {
			u.Closed[i] = g.closed[i].Load()
		}
		list = append(list, u)
	}
	return list
}

// Held returns the number of connections of Hold.
func (s *Set) Held() int { return int(s.held.Load()) }
