package main

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// Charge is what an id is to pay of one limit. A cost of 0 pays nothing and is
// never refused. With Observe the limit is only watched: where it has no room
// the charge is left out and the others stand as they are. Shared is for an id
// that stands for several keys, and changes the words of a refusal.
type Charge struct {
	ID      string
	Limit   Limit
	Cost    int
	Observe bool
	Shared  bool
}

// Refused is the error for a charge that its limit has no room for: until a
// wait is over, or ever.
func (c *Charge) Refused(wait time.Duration) error {
	of := ""
	if c.Shared {
		of = ", which all keys of its owner share,"
	}
	switch {
	case c.Cost > c.Limit.Max:
		return ErrRateLimit.With("The cost of %d is more than the limit %s of %d%s ever lets through.", c.Cost, c.Limit.Name, c.Limit.Max, of)
	case c.Cost > 1:
		return ErrRateLimit.With("The limit %s of %d%s has no room for %d more. Wait for the time in Retry-After.", c.Limit.Name, c.Limit.Max, of, c.Cost).After(wait)
	}
	return ErrRateLimit.With("The limit %s of %d%s is reached. Wait for the time in Retry-After.", c.Limit.Name, c.Limit.Max, of).After(wait)
}

// batchItem is a charge and where it is counted.
type batchItem struct {
	Charge Charge
	Window *Window
	Panel  *counters // of a short limit; locked
	Gauge  *counter  // of a short limit; Window is its window
	Over   bool      // just observed, and without room: left out
	at     int64     // when its units count
}

// batch is charges that are made together or not at all. It is not safe for
// concurrent use.
type batch struct{ Posts []batchItem }

// cost is what a post, and those before it that are not left out, ask of the
// same window.
func (b *batch) cost(at int) int {
	if at == 0 {
		return b.Posts[0].Charge.Cost
	}
	n := 0
	for i := range b.Posts[:at+1] {
		if b.Posts[i].Window == b.Posts[at].Window && !b.Posts[i].Over {
			n += b.Posts[i].Charge.Cost
		}
	}
	return n
}

// Moment gives the time at which a bill is charged: a time, or the latest that one
// of its windows has seen. Each window by itself would take another one, and the
// units of one request would not count from one moment.
func (b *batch) Moment(now time.Time) time.Time {
	for i := range b.Posts {
		if last := b.Posts[i].Window.Last; last > now.UnixNano() {
			now = time.Unix(0, last)
		}
	}
	return now
}

// Full gives the post that has to wait longest for room, nil where all have it.
// It also finds out which of the observed ones have none, and are left out.
func (b *batch) Full(now time.Time) (full *batchItem, wait time.Duration) {
	for i := range b.Posts {
		p := &b.Posts[i]
		if p.Over = false; p.Charge.Cost == 0 {
			continue
		}
		w := p.Window.Wait(now, b.cost(i))
		if p.Over = w > 0 && p.Charge.Observe; !p.Over && w > wait {
			full, wait = p, w
		}
	}
	return full, wait
}

// Dry gives a post whose stored reserve does not cover it, nil where all are
// covered. It is to be asked after Full.
func (b *batch) Dry(now time.Time) *batchItem {
	for i := range b.Posts {
		if p := &b.Posts[i]; p.pays() && p.Gauge.Left(now) < b.cost(i) {
			return p
		}
	}
	return nil
}

func (p *batchItem) pays() bool { return p.Charge.Cost > 0 && !p.Over }

// LastUse makes the charge of a post, which has room and reserve for it, and says
// whether more reserve is to be fetched.
func (p *batchItem) Use(now time.Time) (low bool) {
	if p.pays() {
		p.at, low = p.Gauge.Use(p.Charge.Cost, now)
	}
	return low
}

// Refund takes back what LastUse did for the posts.
func (b *batch) Refund() {
	for i := range b.Posts {
		if p := &b.Posts[i]; p.pays() {
			p.Gauge.Refund(p.Charge.Cost, p.at)
		}
	}
}

// Standings appends how the limits stand that are not just observed.
func (b *batch) Statuses(now time.Time, into []LimitStatus) []LimitStatus {
	for i := range b.Posts {
		if p := &b.Posts[i]; !p.Charge.Observe {
			into = append(into, limitStatusOf(p.Window, p.Charge.Limit, now))
		}
	}
	return into
}

// readDurables makes a bill of those charges that are of long limits.
func readDurables(tx *Tx, charges []Charge) (*batch, error) {
	b := &batch{}
	for _, c := range charges {
		if c.Limit.Short() {
			continue
		}
		p := batchItem{Charge: c}
		for _, other := range b.Posts { // one window for what is charged twice
			if other.Charge.ID == c.ID && other.Charge.Limit == c.Limit {
				p.Window = other.Window
			}
		}
		if p.Window == nil {
			w, err := readDurable(tx, c.ID, c.Limit)
			if err != nil {
				return b, err
			}
			p.Window = &w
		}
		b.Posts = append(b.Posts, p)
	}
	return b, nil
}

// payDurables makes the charges of long limits in the caller's transaction, so
// that the units and what they paid for are stored together or not at all; of
// short ones it makes none. Where one has no room it changes nothing, and the
// error is ErrRateLimit with the time to wait.
func payDurables(tx *Tx, charges []Charge, now time.Time) (*batch, error) {
	b, err := readDurables(tx, charges)
	if err != nil {
		return b, err
	}
	if full, wait := b.Full(now); full != nil {
		return b, full.Charge.Refused(wait)
	}
	for i := range b.Posts {
		p := &b.Posts[i]
		if !p.pays() {
			continue
		}
		p.Window.Add(now, p.Charge.Cost)
		if err := tx.Put("quotas", counterKey(p.Charge.ID, p.Charge.Limit.Name), p.Window.Append(nil)); err != nil {
			return b, err
		}
	}
	return b, nil
}

// observedAgain is the shortest time between two lines of the log about one
// limit of one id.
const observedAgain = time.Minute

// dryRunCounts counts what limits that are only observed would have refused. It
// counts in memory and stores with each Flush: a crash loses what was counted
// since the one before. It is safe for concurrent use.
type dryRunCounts struct {
	store *Store
	mu    sync.Mutex
	log   *slog.Logger
	fresh map[observed]uint64
	told  map[observed]time.Time // service time of the last line of the log
}

// observed is a limit of an id, of all ids where that is "".
type observed struct{ id, limit string }

// newDryRunCounts counts in a store.
func newDryRunCounts(store *Store) *dryRunCounts {
	return &dryRunCounts{store: store, fresh: map[observed]uint64{}, told: map[observed]time.Time{}}
}

// LogTo has what is counted logged, once in a minute for each limit of an id.
func (o *dryRunCounts) LogTo(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = log
}

// Note counts a charge that was left out, at a service time.
func (o *dryRunCounts) Note(c Charge, now time.Time) {
	at := observed{c.ID, c.Limit.Name}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fresh[at]++
	o.fresh[observed{"", c.Limit.Name}]++
	last, told := o.told[at]
	if o.log == nil || told && now.Sub(last) < observedAgain {
		return
	}
	o.told[at] = now
	o.log.Info("a limit that is only observed would have refused a request", "of", c.ID, "limit", c.Limit.Name, "max", c.Limit.Max)
}

// Count tells how often a limit of an id would have refused, of all ids for "".
// It must not be called inside a transaction.
func (o *dryRunCounts) Count(id, limit string) (n uint64, err error) {
	o.mu.Lock()
	n = o.fresh[observed{id, limit}]
	o.mu.Unlock()
	err = o.store.View(func(tx *Tx) error {
		stored, err := readDryRuns(tx, observed{id, limit})
		n += stored
		return err
	})
	return n, err
}

func readDryRuns(tx *Tx, at observed) (uint64, error) {
	value, err := tx.Get("observed", counterKey(at.id, at.limit))
	if err != nil || value == nil {
		return 0, err
	}
	n, k := binary.Uvarint(value)
	if k <= 0 {
		return 0, errors.New("not a count of what would have been refused")
	}
	return n, nil
}

// Flush stores what was counted since the one before. now is service time.
func (o *dryRunCounts) Flush(now time.Time) error {
	o.mu.Lock()
	fresh := o.fresh
	o.fresh = map[observed]uint64{}
	maps.DeleteFunc(o.told, func(_ observed, at time.Time) bool { return now.Sub(at) >= observedAgain })
	o.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	return o.store.Update(func(tx *Tx) error {
		for at, n := range fresh {
			stored, err := readDryRuns(tx, at)
			if err == nil {
				err = tx.Put("observed", counterKey(at.id, at.limit), binary.AppendUvarint(nil, stored+n))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
