package main

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// Charge is a number of units, Cost, that an id uses of one limit. A Cost of 0
// uses nothing and is never refused. With Observe, a charge that has no room is
// left out and counted, and the other charges are not affected. Shared means
// that several keys share the id; it changes only the message of a refusal.
type Charge struct {
	ID      string
	Limit   Limit
	Cost    int
	Observe bool
	Shared  bool
}

// Refused returns the ErrRateLimit for a charge without room. wait becomes its
// Retry-After, unless Cost is above Max: then the charge never fits.
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

// batchItem is a charge and the window that counts it.
type batchItem struct {
	Charge Charge
	Window *Window
	Panel  *counters // locked; nil for a long limit
	Gauge  *counter  // its Window is the field Window; nil for a long limit
	Over   bool      // left out: in observe mode and without room
	at     int64     // time under which its units count, for Refund
}

// batch is a list of charges that are made together or not at all. It is not
// safe for concurrent use.
type batch struct{ Posts []batchItem }

// cost returns the units that the item with index at, and those before it that
// are not left out, need of the window of that item.
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

// Moment returns the time at which to charge the batch: now, or the latest time
// that one of its windows has seen if that is later. So all units of one
// request count from the same moment.
func (b *batch) Moment(now time.Time) time.Time {
	for i := range b.Posts {
		if last := b.Posts[i].Window.Last; last > now.UnixNano() {
			now = time.Unix(0, last)
		}
	}
	return now
}

// Full returns the item with the longest wait for room and that wait, nil and 0
// if all items fit. It also sets Over for the items in observe mode that have
// no room.
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

// Dry returns the first item that its stored reserve does not cover, nil if all
// are covered. Call Full before, because Dry skips the items that are left out.
func (b *batch) Dry(now time.Time) *batchItem {
	for i := range b.Posts {
		if p := &b.Posts[i]; p.pays() && p.Gauge.Left(now) < b.cost(i) {
			return p
		}
	}
	return nil
}

func (p *batchItem) pays() bool { return p.Charge.Cost > 0 && !p.Over }

// Use makes the charge of an item, for which the caller has checked room and
// reserve. low reports whether to request more reserve.
func (p *batchItem) Use(now time.Time) (low bool) {
	if p.pays() {
		p.at, low = p.Gauge.Use(p.Charge.Cost, now)
	}
	return low
}

// Refund takes back the units that Use admitted for the items.
func (b *batch) Refund() {
	for i := range b.Posts {
		if p := &b.Posts[i]; p.pays() {
			p.Gauge.Refund(p.Charge.Cost, p.at)
		}
	}
}

// Statuses appends the statuses of the limits that are not in observe mode to
// into.
func (b *batch) Statuses(now time.Time, into []LimitStatus) []LimitStatus {
	for i := range b.Posts {
		if p := &b.Posts[i]; !p.Charge.Observe {
			into = append(into, limitStatusOf(p.Window, p.Charge.Limit, now))
		}
	}
	return into
}

// readDurables returns a batch of the charges of long limits, with their stored
// windows. With an error the batch is incomplete.
func readDurables(tx *Tx, charges []Charge) (*batch, error) {
	b := &batch{}
	for _, c := range charges {
		if c.Limit.Short() {
			continue
		}
		p := batchItem{Charge: c}
		for _, other := range b.Posts { // two charges of one limit share a window
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

// payDurables charges the long limits among charges in the caller's
// transaction, so that the units and the change that they pay for are stored
// together. If a limit has no room it changes nothing and returns ErrRateLimit
// with the time to wait. After any other error the caller must abandon the
// transaction.
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

// observedAgain is the shortest time between two log lines about one limit of
// one id.
const observedAgain = time.Minute

// dryRunCounts counts the charges that limits in observe mode would have
// refused. It counts in memory, and Flush stores the counts: a crash loses
// those since the last Flush. It is safe for concurrent use.
type dryRunCounts struct {
	store *Store
	mu    sync.Mutex
	log   *slog.Logger
	fresh map[observed]uint64
	told  map[observed]time.Time // service time of the last log line
}

// observed names a limit of an id; the id "" means all ids together.
type observed struct{ id, limit string }

// newDryRunCounts returns a dryRunCounts that stores its counts in store.
func newDryRunCounts(store *Store) *dryRunCounts {
	return &dryRunCounts{store: store, fresh: map[observed]uint64{}, told: map[observed]time.Time{}}
}

// LogTo logs the charges that are counted from now on to log, at most one line
// a minute for each limit of an id. A nil log turns this off.
func (o *dryRunCounts) LogTo(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = log
}

// Note counts a charge that was left out. now is service time.
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

// Count returns how often a limit would have refused a charge of id, or of all
// ids if id is "". Do not call it inside a transaction.
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

// Flush adds the counts since the last Flush to the stored ones. If the write
// fails, these counts are lost. now is service time.
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
