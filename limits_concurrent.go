package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The names of the limits on requests in flight that every request with a key counts in: requests,
// and streams, which are WebSocket connections and answers of the type text/event-stream. A request
// moves from the first to the second when its answer begins a stream.
const (
	ConcurrentRequests = "concurrent_requests"
	ConcurrentStreams  = "concurrent_streams"
)

// The names of the limits on requests in flight that all keys of an owner share.
const (
	OwnerConcurrentRequests = "owner_" + ConcurrentRequests
	OwnerConcurrentStreams  = "owner_" + ConcurrentStreams
)

// flightWait is the Retry-After of a request that a limit on requests in flight refuses. Nobody
// knows when one of the others ends.
const flightWait = time.Second

// flight counts the requests of one id that are in flight in one limit. The mutex of its counters
// must be held to add to the count, but not to subtract, so that a request ends without waiting.
type flight struct {
	name  string // of the limit
	count atomic.Int64
}

// Places are the places that one request takes in limits on requests in flight. The zero value has
// none. It is not safe for concurrent use.
type Places struct {
	taken []*flight
	room  [2]*flight // memory for taken, here to save an allocation
}

// Release returns all places.
func (p *Places) Release() { p.releaseFrom(0) }

// releaseFrom returns the places from index first on.
func (p *Places) releaseFrom(first int) {
	for _, f := range p.taken[first:] {
		f.count.Add(-1)
	}
	p.taken = p.taken[:first]
}

// Leave returns the places in the limits with these names.
func (p *Places) Leave(names ...string) {
	p.taken = slices.DeleteFunc(p.taken, func(f *flight) bool {
		left := slices.Contains(names, f.name)
		if left {
			f.count.Add(-1)
		}
		return left
	})
}

// TakePlaces takes one place for each charge and adds it to p. It takes all places or none. If a
// limit has no place left, it returns the status of that limit and ErrRateLimit. A charge in observe
// mode always takes its place, but is counted in Observed if the limit would have refused it. All
// charges must be of limits on requests in flight. by is the id whose counters may already be known.
func (l *Limiter) TakePlaces(p *Places, by CountedID, charges []Charge, now time.Time) (full LimitStatus, err error) {
	if p.taken == nil {
		p.taken = p.room[:0]
	}
	first := len(p.taken)
	for i := range charges {
		c := &charges[i]
		m := l.countersOf(by, c.ID)
		f := m.flight(c.Limit.Name)
		over := f.count.Load() >= int64(c.Limit.Max)
		if over && !c.Observe {
			full = flightStatus(f, c.Limit)
			m.Unlock()
			p.releaseFrom(first)
			l.refusals.add(c.Limit.Name)
			return full, c.Refused(flightWait)
		}
		f.count.Add(1)
		m.Unlock()
		p.taken = append(p.taken, f)
		if over {
			l.Observed.Note(*c, now)
		}
	}
	return full, nil
}

// countersOf locks and returns the counters of an id, which may be that of by.
func (l *Limiter) countersOf(by CountedID, id string) *counters {
	if id != by.ID {
		return l.find(id)
	}
	m := by.Ref.Held()
	if m == nil {
		m = l.find(id)
		by.Ref.Keep(m)
	}
	return m
}

// flight returns the count of the limit with this name. m must be locked.
func (m *counters) flight(name string) *flight {
	for _, f := range m.Flights {
		if f.name == name {
			return f
		}
	}
	f := &flight{name: name}
	m.Flights = append(m.Flights, f)
	return f
}

// idle reports whether none of the id's requests is in flight. m must be locked.
func (m *counters) idle() bool {
	return !slices.ContainsFunc(m.Flights, func(f *flight) bool { return f.count.Load() > 0 })
}

// flightStatus returns the status of a limit on requests in flight.
func flightStatus(f *flight, limit Limit) LimitStatus {
	s := LimitStatus{Limit: limit, Used: int(f.count.Load())}
	if s.Used >= limit.Max {
		s.Wait = flightWait
	}
	return s
}

// InFlight returns the number of requests in flight in all ids together, by the name of the limit.
// It reads the counters of every id in memory.
func (l *Limiter) InFlight() map[string]int {
	total := map[string]int{}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		list := make([]*counters, 0, len(s.counters))
		for _, m := range s.counters {
			list = append(list, m)
		}
		s.mu.Unlock() // find explains why
		for _, m := range list {
			m.Lock()
			for _, f := range m.Flights {
				total[f.name] += int(f.count.Load())
			}
			m.Unlock()
		}
	}
	return total
}

// RefusedInFlight returns how many requests the limits on requests in flight have refused in this
// run, by the name of the limit.
func (l *Limiter) RefusedInFlight() map[string]uint64 { return l.refusals.all() }

// refusalCounts counts refusals by the name of the limit. The zero value is ready to use. It is safe
// for concurrent use.
type refusalCounts struct{ byName sync.Map } // *atomic.Uint64 by string

func (r *refusalCounts) add(name string) {
	n, ok := r.byName.Load(name)
	if !ok {
		n, _ = r.byName.LoadOrStore(name, new(atomic.Uint64))
	}
	n.(*atomic.Uint64).Add(1)
}

func (r *refusalCounts) all() map[string]uint64 {
	counts := map[string]uint64{}
	r.byName.Range(func(name, n any) bool {
		counts[name.(string)] = n.(*atomic.Uint64).Load()
		return true
	})
	return counts
}

// refusedInFlight returns the ErrRateLimit for a request that found no place. owner is the part of
// the message that says whose limit it is.
func refusedInFlight(limit Limit, owner string) error {
	return ErrRateLimit.With("The limit %s of %d requests in flight%s is reached. Send the request again when another has ended.", limit.Name, limit.Max, owner).
		After(flightWait)
}
