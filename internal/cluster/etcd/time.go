package etcd

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"latchkey/internal/cluster"
)

// How the nodes have one time.
//
// Each node writes its time into its registration with each renewal of the lease, and into the head of each Set. A node that reads a time
// that is later than its own moves its own forward. So a node can be behind another by no more than what the shortest of these messages took. A
// node that joins does not know how long they take. It writes a question into its registration, which the other nodes answer at
// once by renewing theirs. What an answer took is less than the time since the question was sent. If that is at most MaxTimeError, the
// answer is a sample.
//
// A node answers requests only once it has a sample of each node that has registered before it. Then its time is not behind any
// of them by more than MaxTimeError. It is not ahead of the one that is furthest ahead, because it does not keep its own time.
// So no two times are further apart. Only a node that was registered before all others, when no other had the time, goes on with its own.

// timeNote is what a registration says about the time.
type timeNote struct {
	Time int64 `json:"time,omitempty"` // of the cluster, in Unix nanoseconds, as the node had it before it sent this; 0: it does not have it yet
	Seen int64 `json:"seen,omitempty"` // revision of etcd that the node had seen before it read the time
	Ask  int   `json:"ask,omitempty"`  // number of its question while it does not have the time; each has another
}

// sample is the time of another node.
type sample struct {
	time int64         // in Unix nanoseconds
	boot time.Duration // own boot time when it was received
}

// ownTime is the time of this node. Its fields are guarded by the lock of the state, except local and settled.
type ownTime struct {
	local   atomic.Pointer[cluster.Local] // nil: there is none yet
	settled atomic.Bool                   // it is the time of the cluster
	run     string                        // of the registration for which it is or becomes that
	latest  int64                         // the latest time in a head, in Unix nanoseconds
	ask     int                           // number of the last question
	asked   time.Duration                 // boot time at which it was sent
}

// now returns the time of the cluster in Unix nanoseconds, or 0 if this node does not have it.
func (o *ownTime) now() int64 {
	if !o.settled.Load() {
		return 0
	}
	return (*o.local.Load()).Time().UnixNano()
}

// follow moves the time of this node forward to one that another node had.
func (o *ownTime) follow(other int64) {
	o.latest = max(o.latest, other)
	if own := o.now(); own != 0 && other > own {
		(*o.local.Load()).Shift(time.Duration(other - own))
	}
}

// forgetTime begins to take over the time again, for a new registration.
func (s *state) forgetTime(run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.time.settled.Store(false)
	s.time.run = run
	for _, m := range s.members {
		m.sample = nil
	}
}

// noteTime returns what the next registration of this node says about the time.
func (s *state) noteTime() timeNote {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.time.now(); now != 0 {
		return timeNote{Time: now, Seen: s.at}
	}
	s.time.ask++
	s.time.asked = s.boot()
	return timeNote{Ask: s.time.ask, Seen: s.at}
}

// learnTime takes over what a registration says about the time, and lets this node answer its question. The caller holds mu.
func (s *state) learnTime(name string, m *member) {
	switch {
	case name == s.name:
	case m.Ask > 0 && s.time.settled.Load():
		select {
		case s.asked <- struct{}{}:
		default:
		}
	case m.Time == 0:
	case s.time.settled.Load():
		s.time.follow(m.Time)
	case s.answers(m):
		m.sample = &sample{m.Time, m.renewed}
	}
}

// answers reports whether a registration answers the last question of this node, soon enough. The caller holds mu.
func (s *state) answers(m *member) bool {
	own := s.members[s.name]
	return own != nil && own.Run == s.time.run && own.Ask == s.time.ask && s.time.ask > 0 &&
		m.Seen >= own.mod && m.renewed-s.time.asked <= cluster.MaxTimeError
}

// settleTime makes the time of this node that of the cluster once it has samples of all nodes that have registered before it.
// It returns whether it has, otherwise the nodes whose samples are missing, and a channel that is closed when the state changes.
func (s *state) settleTime() (settled bool, missing []lacking, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.members[s.name]
	if own == nil || own.Run != s.time.run || s.time.local.Load() == nil {
		return false, nil, s.changed
	}
	local, boot := *s.time.local.Load(), s.boot()
	latest := int64(0)
	for name, m := range s.members {
		switch {
		case name == s.name || m.since > own.since:
		case m.sample == nil:
			missing = append(missing, lacking{name, m.mod, m.ends()})
		default:
			latest = max(latest, m.sample.time+int64(boot-m.sample.boot))
		}
	}
	if len(missing) > 0 {
		return false, missing, s.changed
	}
	if own := local.Time().UnixNano(); latest != 0 || s.time.latest > own {
		if latest == 0 {
			latest = s.time.latest // no node runs: the time goes on with that of this node, unless it is known to be later
		}
		local.Shift(time.Duration(latest - own))
	}
	local.Joined()
	s.time.settled.Store(true)
	return true, nil, s.changed
}

// errNoTime means that this node does not have the time of the cluster yet.
var errNoTime = errors.New("this node does not have the time of the cluster yet: the other nodes have not answered within 200 ms; it goes on asking")

// awaitTime waits until this node has the time of the cluster, but not longer than an answer may take. It ends the registrations of nodes
// whose leases have ended, which do not answer.
func (e *Engine) awaitTime(ctx context.Context) error {
	late := time.NewTimer(cluster.MaxTimeError)
	defer late.Stop()
	if err := e.look(ctx); err != nil { // the watch may be at a server that has stopped
		return err
	}
	for {
		settled, missing, changed := e.state.settleTime()
		if settled {
			return nil
		}
		for _, l := range missing {
			if e.options.Boot() >= l.ends {
				if err := e.evict(ctx, l.name, l.mod); err != nil {
					return err
				}
			}
		}
		select {
		case <-changed:
		case <-late.C:
			return errNoTime
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
