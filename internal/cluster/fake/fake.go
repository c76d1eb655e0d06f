// Package fake keeps the sequence of changes of a cluster in memory, for tests. On request it makes
// the mistakes that a real one makes: other changes that come first, answers that are lost, delays,
// and changes that are no longer kept.
package fake

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/cluster"
)

// Faults is how often an Engine makes which mistake: a share of the calls, from 0 to 1.
type Faults struct {
	Moved  float64 // another change is committed first
	Unsure float64 // Commit returns ErrUnsure; in half of the cases the Set was committed
	Gap    float64 // Follow returns ErrGap
	Delay  float64 // a call takes up to a millisecond longer
}

// Log is the sequence of changes, and the state after the last. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	start cluster.Head
	sets  []entry
	state map[place][]byte
	last  map[string]entry // the last Set of each node
	grown chan struct{}    // closed when sets grows, and then replaced
	rng   *rand.Rand
}

type entry struct {
	head cluster.Head
	set  *cluster.Set
}

type place struct{ bucket, key string }

// New returns a Log without changes after start. seed determines which mistakes its Engines make.
func New(seed uint64, start cluster.Head) *Log {
	return &Log{start: start, state: map[place][]byte{}, last: map[string]entry{}, grown: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 1))}
}

// Seed adds a record to the state before the first change.
func (l *Log) Seed(bucket string, key, value []byte) {
	l.state[place{bucket, string(key)}] = bytes.Clone(value)
}

// Head returns the position of the last change.
func (l *Log) Head() cluster.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head()
}

func (l *Log) head() cluster.Head {
	if len(l.sets) == 0 {
		return l.start
	}
	return l.sets[len(l.sets)-1].head
}

// Each calls visit for each record of the present state, in order.
func (l *Log) Each(visit func(cluster.Write) error) (cluster.Head, error) {
	l.mu.Lock()
	all := make([]cluster.Write, 0, len(l.state))
	for at, value := range l.state {
		all = append(all, cluster.Write{Bucket: at.bucket, Key: []byte(at.key), Value: value})
	}
	head := l.head()
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b cluster.Write) int {
		if order := strings.Compare(a.Bucket, b.Bucket); order != 0 {
			return order
		}
		return bytes.Compare(a.Key, b.Key)
	})
	for _, w := range all {
		if err := visit(w); err != nil {
			return 0, err
		}
	}
	return head, nil
}

// add adds a Set. mu must be locked.
func (l *Log) add(set *cluster.Set) cluster.Head {
	e := entry{l.head() + 1 + cluster.Head(l.rng.IntN(3)), set}
	l.sets = append(l.sets, e)
	l.last[set.Node] = e
	for _, w := range set.Writes {
		if at := (place{w.Bucket, string(w.Key)}); w.Value == nil {
			delete(l.state, at)
		} else {
			l.state[at] = w.Value
		}
	}
	close(l.grown)
	l.grown = make(chan struct{})
	return e.head
}

// chance returns true with a probability.
func (l *Log) chance(p float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p > 0 && l.rng.Float64() < p
}

// Engine returns an Engine of a node.
func (l *Log) Engine(faults Faults) cluster.Engine { return &engine{log: l, faults: faults} }

type engine struct {
	log    *Log
	faults Faults
	tried  atomic.Uint64 // the nonce of the last Commit
}

func (e *engine) delay() {
	if e.log.chance(e.faults.Delay) {
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
	}
}

// Turn implements cluster.Engine.
func (e *engine) Turn(context.Context) {}

// Commit implements cluster.Engine.
func (e *engine) Commit(ctx context.Context, base cluster.Head, set *cluster.Set) (cluster.Head, error) {
	e.delay()
	again := e.tried.Swap(set.Nonce) == set.Nonce // an Engine tries until it knows
	moved, unsure, done := e.log.chance(e.faults.Moved), e.log.chance(e.faults.Unsure), e.log.chance(0.5)
	l := e.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, errors.Join(cluster.ErrUnsure, err)
	}
	if last := l.last[set.Node]; last.set != nil && last.set.Nonce == set.Nonce {
		return last.head, nil
	}
	if moved {
		l.add(&cluster.Set{Node: "another"})
	}
	if unsure = unsure && !again; unsure && !done {
		return 0, cluster.ErrUnsure
	}
	if l.head() != base {
		return 0, cluster.ErrMoved
	}
	head := l.add(set)
	if unsure {
		return 0, cluster.ErrUnsure
	}
	return head, nil
}

// Barrier implements cluster.Engine.
func (e *engine) Barrier(ctx context.Context) (cluster.Head, error) {
	e.delay()
	return e.log.Head(), ctx.Err()
}

// Follow implements cluster.Engine.
func (e *engine) Follow(ctx context.Context, after cluster.Head, apply func(cluster.Head, *cluster.Set) error) error {
	for {
		e.log.mu.Lock()
		i, _ := slices.BinarySearchFunc(e.log.sets, after+1, func(e entry, head cluster.Head) int { return int(e.head - head) })
		news, grown := e.log.sets[i:], e.log.grown
		e.log.mu.Unlock()
		for _, s := range news {
			e.delay()
			if e.log.chance(e.faults.Gap) {
				return cluster.ErrGap
			}
			if err := apply(s.head, s.set); err != nil {
				return err
			}
			after = s.head
		}
		if len(news) > 0 {
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Load implements cluster.Engine.
func (e *engine) Load(ctx context.Context, put func(cluster.Write) error) (cluster.Head, error) {
	head, err := e.log.Each(put)
	return head, errors.Join(err, ctx.Err())
}

// Close implements cluster.Engine.
func (e *engine) Close() error { return nil }
