package etcd

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"latchkey/internal/cluster"
)

// registration is the value of node/NODE.
type registration struct {
	cluster.Node
	Lease time.Duration `json:"lease_ns"`
	Run   string        `json:"run"` // random; each start of a node has its own
	timeNote
}

// maxLease is the longest lease that a node can have.
const maxLease = time.Minute

// registrationOf decodes a registration. A damaged one has the longest lease; the next renewal mends it.
func registrationOf(value []byte) registration {
	var r registration
	if err := json.Unmarshal(value, &r); err != nil || r.Lease <= 0 {
		r.Lease = maxLease
	}
	return r
}

// member is a registered node as this engine has observed it.
type member struct {
	registration
	since   int64         // revision of its registration
	mod     int64         // revision of its last renewal
	renewed time.Duration // boot time at which this engine has observed that renewal
	alive   bool          // a renewal was observed when it happened
	acked   cluster.Head
	sample  *sample // its time, or nil if it is not known well enough; only while this node joins
}

// ends returns the boot time from which the member no longer answers requests, unless it has renewed its lease.
func (m *member) ends() time.Duration { return m.renewed + m.Lease }

// want is a node that waits for its turn.
type want struct {
	revision int64 // at which it has asked
	passed   bool  // it had its turn and did not take it
}

// state is what an engine knows about the other nodes, from the watch and from snapshots. It is safe for concurrent use.
type state struct {
	name string // of this node
	boot func() time.Duration

	mu       sync.Mutex
	changed  chan struct{} // is closed at the next change
	at       int64         // revision whose contents the maps below have; 0 before the first
	members  map[string]*member
	acks     map[string]cluster.Head
	wants    map[string]*want
	removed  bool // this node was removed from the cluster
	head     cluster.Head
	pen      string // node whose turn it is after head
	penSince time.Time
	expected int64 // a revision of these keys that etcd is known to have
	time     ownTime
	asked    chan struct{} // gets a value if another node asks for the time
}

// start prepares the state.
func (s *state) start(name string, boot func() time.Duration) {
	s.name, s.boot, s.changed, s.asked = name, boot, make(chan struct{}), make(chan struct{}, 1)
	s.members, s.acks, s.wants = map[string]*member{}, map[string]cluster.Head{}, map[string]*want{}
}

// first reports whether no running node has a name that sorts before that of this node.
func (s *state) first() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.boot()
	for name, m := range s.members {
		if name < s.name && now < m.ends() {
			return false
		}
	}
	return true
}

// notify wakes those who wait for a change. The caller holds mu.
func (s *state) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// family returns the part of a key after the prefix of the store up to its first slash, and what follows.
func family(rest string) (kind, name string) {
	kind, name, _ = strings.Cut(rest, "/")
	return kind, name
}

// snapshot replaces the maps by the contents of a revision, given all pairs of the members' keys. It does nothing if the state is newer.
func (s *state) snapshot(revision int64, prefix string, pairs []*mvccpb.KeyValue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision <= s.at {
		return
	}
	present := map[string]bool{}
	for _, kv := range pairs {
		present[string(kv.Key)] = true
	}
	gone := func(kind string) func(string) bool {
		return func(name string) bool { return !present[prefix+kind+name] }
	}
	maps.DeleteFunc(s.members, func(name string, _ *member) bool { return gone("node/")(name) })
	maps.DeleteFunc(s.acks, func(name string, _ cluster.Head) bool { return gone("ack/")(name) })
	maps.DeleteFunc(s.wants, func(name string, _ *want) bool { return gone("want/")(name) })
	for _, kv := range pairs {
		s.put(strings.TrimPrefix(string(kv.Key), prefix), kv, false)
	}
	s.at = revision
	s.notify()
}

// put applies a pair. live means that it has just been written. The caller holds mu.
func (s *state) put(rest string, kv *mvccpb.KeyValue, live bool) {
	switch kind, name := family(rest); kind {
	case "node":
		m := s.members[name]
		if m == nil || m.since != kv.CreateRevision {
			m = &member{since: kv.CreateRevision}
			s.members[name] = m
		}
		if kv.ModRevision > m.mod {
			m.registration = registrationOf(kv.Value)
			m.alive = live || m.mod > 0
			m.mod, m.renewed = kv.ModRevision, s.boot()
			s.learnTime(name, m)
		}
	case "ack":
		head, _ := strconv.ParseInt(string(kv.Value), 10, 64)
		s.acks[name] = cluster.Head(head)
	case "want":
		if w := s.wants[name]; w == nil || w.revision != kv.ModRevision {
			s.wants[name] = &want{revision: kv.ModRevision}
		}
	case "removed":
		s.removed = s.removed || name == s.name
	}
}

// drop applies the deletion of a key. The caller holds mu.
func (s *state) drop(rest string) {
	switch kind, name := family(rest); kind {
	case "node":
		delete(s.members, name)
	case "ack":
		delete(s.acks, name)
	case "want":
		delete(s.wants, name)
	}
}

// event is a change of a key of the store.
type event struct {
	rest    string // its key after the prefix of the store
	kv      *mvccpb.KeyValue
	deleted bool
}

// apply takes over the events of one revision. head is the header of its Set, or nil if it has none.
func (s *state) apply(revision int64, events []event, head *header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision > s.at {
		for _, ev := range events {
			if ev.deleted {
				s.drop(ev.rest)
			} else {
				s.put(ev.rest, ev.kv, true)
			}
		}
		s.at = revision
	}
	if head != nil && cluster.Head(revision) > s.head {
		s.time.follow(head.Time)
		s.advance(cluster.Head(revision), head.Node, head.Pen)
	}
	s.notify()
}

// advance records a new head, whose it is, and whose turn it is then. The caller holds mu.
func (s *state) advance(head cluster.Head, node, pen string) {
	if w := s.wants[s.pen]; w != nil && node != s.pen && w.revision < int64(s.head) {
		w.passed = true // it does not want its turn any more, or is too slow: the others do not wait for it again
	}
	s.head, s.pen, s.penSince = head, pen, time.Now()
	s.expected = max(s.expected, int64(head))
}

// committed records that this node has committed a Set, before the watch reports it.
func (s *state) committed(head cluster.Head, pen string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if head > s.head {
		s.advance(head, s.name, pen)
		s.notify()
	}
}

// expect records that etcd has a revision of the store's keys, which the watch must report.
func (s *state) expect(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected = max(s.expected, revision)
}

// behind reports whether etcd is known to have events after a revision.
func (s *state) behind(revision int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expected > revision
}

// waiting returns the other node that has waited longest for its turn, or "".
func (s *state) waiting() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := ""
	for name, w := range s.wants {
		if name != s.name && !w.passed && (longest == "" || w.revision < s.wants[longest].revision) {
			longest = name
		}
	}
	return longest
}

// waits reports whether the other nodes know that this node waits for its turn, and have not given up on it.
func (s *state) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.wants[s.name]
	return w != nil && !w.passed
}

// turn returns for how long it is the turn of another node, and a channel that is closed when the state changes.
func (s *state) turn() (time.Duration, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pen == "" || s.pen == s.name {
		return 0, s.changed
	}
	return penTime - time.Since(s.penSince), s.changed
}

// pending is what Await waits for.
type pending struct {
	current bool            // the state includes the Head
	have    int             // nodes that have acknowledged it
	lack    []lacking       // those that have not
	changed <-chan struct{} // is closed when the state changes
}

// lacking is a node that has not acknowledged a Head.
type lacking struct {
	name string
	mod  int64         // revision of its last renewal
	ends time.Duration // boot time from which it no longer answers requests
}

// pending returns which nodes have acknowledged a Head. A node that has registered after the Head is left out: before it
// answers requests, its view reaches a Head that is not before its registration.
func (s *state) pending(head cluster.Head) pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := pending{current: s.at >= int64(head), changed: s.changed}
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		m := s.members[name]
		switch {
		case m.since > int64(head):
		case name == s.name || s.acks[name] >= head: // the caller's own view has the Head
			p.have++
		default:
			p.lack = append(p.lack, lacking{name, m.mod, m.ends()})
		}
	}
	return p
}

// expired returns the other members whose leases have ended for some time.
func (s *state) expired() []lacking {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []lacking
	for name, m := range s.members {
		if name != s.name && s.boot() > m.ends()+m.Lease/2 {
			list = append(list, lacking{name, m.mod, m.ends()})
		}
	}
	return list
}

// running returns the members with a lease, and whether this is known: a lease that was there when the engine first looked may have ended.
func (s *state) running() (list map[string]member, known bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, known = map[string]member{}, true
	for name, m := range s.members {
		if s.boot() < m.ends() {
			known = known && m.alive
			one := *m
			one.acked = s.acks[name]
			list[name] = one
		}
	}
	return list, known, s.changed
}

// member returns the member with a name as one to wait for, and whether there is one.
func (s *state) member(name string) (l lacking, ok bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[name]
	if m == nil {
		return lacking{}, false, s.changed
	}
	return lacking{name, m.mod, m.ends()}, true, s.changed
}

// wasRemoved reports whether this node was removed from the cluster, and a channel that is closed when the state changes.
func (s *state) wasRemoved() (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed, s.changed
}
