package main

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Charge is a number of units of one limit that an id uses.
type Charge struct {
	ID      string
	Limit   Limit
	Cost    int    // units; a charge of 0 units is never refused
	Observe bool   // if the limit does not admit the charge, leave it out and count that
	Shared  bool   // several keys share the id; this changes only the message of a refusal
	Owner   uint64 // the owner of the key that is charged, on whose behalf a long limit is written
}

// Refused returns the ErrRateLimit for a charge that its limit does not admit. The error has wait
// as its Retry-After, unless Cost is above Max. Such a charge is never admitted, so waiting is of
// no use.
func (c *Charge) Refused(wait time.Duration) error {
	owner := ""
	if c.Shared {
		owner = ", which all keys of its owner share,"
	}
	switch {
	case c.Limit.Concurrent():
		return refusedInFlight(c.Limit, owner)
	case c.Cost > c.Limit.Max:
		return ErrRateLimit.With("The cost of %d is more than the limit %s of %d%s, so it is never admitted. Use a lower cost.", c.Cost, c.Limit.Name, c.Limit.Max, owner)
	case c.Cost > 1:
		return ErrRateLimit.With("The limit %s of %d%s does not admit %d more now. Wait for the time in Retry-After.", c.Limit.Name, c.Limit.Max, owner, c.Cost).After(wait)
	}
	return ErrRateLimit.With("The limit %s of %d%s is reached. Wait for the time in Retry-After.", c.Limit.Name, c.Limit.Max, owner).After(wait)
}

// batchItem is a charge and the window that counts it.
type batchItem struct {
	Charge   Charge
	Window   *Window
	Counters *counters // the counters of the id, locked; nil for a long limit
	Counter  *counter  // the counter whose Window is the field Window; nil for a long limit
	Over     bool      // the limit does not admit the charge, but it is in observe mode; nothing is charged
	at       int64     // time under which its units count, in Unix nanoseconds, for Refund
}

// batch is a list of charges that are made together or not at all. It is not
// safe for concurrent use.
type batch struct{ Items []batchItem }

// cost returns the units that the items up to this index use of the window of the last of them. It
// leaves out items with Over set.
func (b *batch) cost(index int) int {
	if index == 0 {
		return b.Items[0].Charge.Cost
	}
	n := 0
	for i := range b.Items[:index+1] {
		if b.Items[i].Window == b.Items[index].Window && !b.Items[i].Over {
			n += b.Items[i].Charge.Cost
		}
	}
	return n
}

// Latest returns the service time at which to charge the batch. This is now, or the latest Last of
// its windows if that is later. So all units of one request count from the same moment.
func (b *batch) Latest(now time.Time) time.Time {
	for i := range b.Items {
		if last := b.Items[i].Window.Last; last > now.UnixNano() {
			now = time.Unix(0, last)
		}
	}
	return now
}

// Denied returns the item that must wait longest until its limit admits it, and the wait. It
// returns nil and 0 if all limits admit their items now. It ignores items in observe mode, but sets
// Over for those that would have to wait.
func (b *batch) Denied(now time.Time) (denied *batchItem, wait time.Duration) {
	for i := range b.Items {
		p := &b.Items[i]
		if p.Over = false; p.Charge.Cost == 0 {
			continue
		}
		w := p.wait(now, b.cost(i))
		if p.Over = w > 0 && p.Charge.Observe; !p.Over && w > wait {
			denied, wait = p, w
		}
	}
	return denied, wait
}

// wait returns how long after now the limit can admit n units. It returns 0 if it can now, or if the reserve of its counter must be
// larger first.
func (p *batchItem) wait(now time.Time, n int) time.Duration {
	if p.Counter != nil {
		return p.Counter.Wait(now, n)
	}
	return p.Window.Wait(now, n)
}

// Uncovered returns the first item that is not covered by a stored reserve, and how many units the reserve needs for
// it and the items before. It returns nil if all items are covered. Call Denied first, because Uncovered skips items with Over set. All items must
// be of short limits.
func (b *batch) Uncovered(now time.Time) (*batchItem, int) {
	for i := range b.Items {
		p := &b.Items[i]
		if !p.spends() {
			continue
		}
		if needs := b.cost(i); p.Counter.Left(now) < needs {
			return p, needs
		}
	}
	return nil, 0
}

// spends reports whether the item charges any units.
func (p *batchItem) spends() bool { return p.Charge.Cost > 0 && !p.Over }

// Use makes the charge of an item of a short limit. The caller has checked with Denied and
// Uncovered that it is possible. low reports whether to request a larger reserve.
func (p *batchItem) Use(now time.Time) (low bool) {
	if p.spends() {
		p.at, low = p.Counter.Use(p.Charge.Cost, now)
	}
	return low
}

// Refund takes back the units that Use has charged.
func (b *batch) Refund() {
	for i := range b.Items {
		if p := &b.Items[i]; p.spends() {
			p.Counter.Refund(p.Charge.Cost, p.at)
		}
	}
}

// Statuses appends the statuses of the limits that are not in observe mode to list.
func (b *batch) Statuses(now time.Time, list []LimitStatus) []LimitStatus {
	for i := range b.Items {
		if p := &b.Items[i]; !p.Charge.Observe {
			list = append(list, p.status(now))
		}
	}
	return list
}

// status returns the status at now of the limit of an item.
func (p *batchItem) status(now time.Time) LimitStatus {
	if p.Counter != nil {
		return p.Counter.Status(p.Charge.Limit, now)
	}
	return limitStatusOf(p.Window, p.Charge.Limit, now)
}

// readDurables returns a batch of the charges of long limits, with their stored windows. If it
// returns an error, the batch is incomplete.
func (l *Limiter) readDurables(tx *Tx, charges []Charge) (*batch, error) {
	b := &batch{}
	for _, c := range charges {
		if c.Limit.Short() {
			continue
		}
		p := batchItem{Charge: c}
		for _, other := range b.Items { // two charges of one limit share a window
			if other.Charge.ID == c.ID && other.Charge.Limit == c.Limit {
				p.Window = other.Window
			}
		}
		if p.Window == nil {
			w, err := l.readDurable(tx, c.ID, c.Limit)
			if err != nil {
				return b, err
			}
			p.Window = &w
		}
		b.Items = append(b.Items, p)
	}
	return b, nil
}

// spendDurables makes the charges of long limits in the caller's transaction and returns them as a
// batch, also with an error. If a limit does not admit its charge, it writes nothing and returns
// ErrRateLimit with the time to wait. After any other error the caller must abandon the
// transaction.
func (l *Limiter) spendDurables(tx *Tx, charges []Charge, now time.Time) (*batch, error) {
	b, err := l.readDurables(tx, charges)
	if err != nil {
		return b, err
	}
	if denied, wait := b.Denied(now); denied != nil {
		return b, denied.Charge.Refused(wait)
	}
	for i := range b.Items {
		p := &b.Items[i]
		if !p.spends() {
			continue
		}
		p.Window.Add(now, p.Charge.Cost)
		if err := tx.Put("quotas", counterKey(p.Charge.ID, p.Charge.Limit.Name), p.Window.Append(nil)); err != nil {
			return b, err
		}
	}
	return b, nil
}

// observedAgain is the minimum time between two log lines about the same limit of the same id.
const observedAgain = time.Minute

// dryRunCounts counts the charges that limits in observe mode would have refused. It counts in
// memory until Flush stores the counts. A crash loses the counts since the last Flush. It is safe
// for concurrent use.
type dryRunCounts struct {
	store  *Store
	mu     sync.Mutex
	log    *slog.Logger           // nil: none
	fresh  map[observed]uint64    // counts since the last Flush
	logged map[observed]time.Time // service time of the last log line
}

// observed identifies a limit of an id. The id "" means all ids together.
type observed struct{ id, limit string }

func newDryRunCounts(store *Store) *dryRunCounts {
	return &dryRunCounts{store: store, fresh: map[observed]uint64{}, logged: map[observed]time.Time{}}
}

// LogTo sets the logger for charges that are counted from now on. It gets at most one line a minute
// for each limit of an id. A nil log turns logging off.
func (o *dryRunCounts) LogTo(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = log
}

// Note counts a charge that would have been refused. now is the service time.
func (o *dryRunCounts) Note(c Charge, now time.Time) {
	at := observed{c.ID, c.Limit.Name}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fresh[at]++
	o.fresh[observed{"", c.Limit.Name}]++
	last, found := o.logged[at]
	if o.log == nil || found && now.Sub(last) < observedAgain {
		return
	}
	o.logged[at] = now
	o.log.Info("limit in observe mode would have refused a request", "of", c.ID, "limit", c.Limit.Name, "max", c.Limit.Max)
}

// Count returns how often the limit with this name would have refused a charge of id. The id ""
// means all ids together. Do not call it inside a transaction.
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

// readDryRuns returns the stored count of a limit of an id.
func readDryRuns(tx *Tx, at observed) (uint64, error) {
	value, err := tx.Get("observed", counterKey(at.id, at.limit))
	if err != nil || value == nil {
		return 0, err
	}
	n, k := binary.Uvarint(value)
	if k <= 0 {
		return 0, errors.New("the stored count of refusals in observe mode is damaged")
	}
	return n, nil
}

// Flush adds the counts since the last Flush to the stored counts. If the transaction fails, the next
// Flush adds them. A stored count that is damaged stays as it is, and Flush returns an error. now is
// the service time.
func (o *dryRunCounts) Flush(now time.Time) error {
	o.mu.Lock()
	fresh := o.fresh
	o.fresh = map[observed]uint64{}
	maps.DeleteFunc(o.logged, func(_ observed, at time.Time) bool { return now.Sub(at) >= observedAgain })
	o.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	var damaged error
	places := slices.Collect(maps.Keys(fresh))
	done, err := o.store.UpdateEach(Writer{}, len(places), func(tx *Tx, i int) error {
		at := places[i]
		stored, err := readDryRuns(tx, at)
		if err != nil {
			tx.After(func() { damaged = errors.Join(damaged, err) })
			return nil
		}
		return tx.Put("observed", counterKey(at.id, at.limit), binary.AppendUvarint(nil, stored+fresh[at]))
	})
	o.mu.Lock()
	for _, at := range places[done:] {
		o.fresh[at] += fresh[at]
	}
	o.mu.Unlock()
	return errors.Join(damaged, err)
}
