package main

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// observedAgain is the shortest time between two lines of the log about one
// limit of one id.
const observedAgain = time.Minute

// Observations counts what limits that are only observed would have refused. It
// counts in memory and stores with each Flush: a crash loses what was counted
// since the one before. It is safe for concurrent use.
type Observations struct {
	store *Store
	mu    sync.Mutex
	log   *slog.Logger
	fresh map[observed]uint64
	told  map[observed]time.Time // service time of the last line of the log
}

// observed is a limit of an id, of all ids where that is "".
type observed struct{ id, limit string }

// NewObservations counts in a store.
func NewObservations(store *Store) *Observations {
	return &Observations{store: store, fresh: map[observed]uint64{}, told: map[observed]time.Time{}}
}

// LogTo has what is counted logged, once in a minute for each limit of an id.
func (o *Observations) LogTo(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = log
}

// Note counts a charge that was left out, at a service time.
func (o *Observations) Note(c Charge, now time.Time) {
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
func (o *Observations) Count(id, limit string) (n uint64, err error) {
	o.mu.Lock()
	n = o.fresh[observed{id, limit}]
	o.mu.Unlock()
	err = o.store.View(func(tx *Tx) error {
		stored, err := readObserved(tx, observed{id, limit})
		n += stored
		return err
	})
	return n, err
}

func readObserved(tx *Tx, at observed) (uint64, error) {
	value, err := tx.Get("observed", MeterKey(at.id, at.limit))
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
func (o *Observations) Flush(now time.Time) error {
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
			stored, err := readObserved(tx, at)
			if err == nil {
				err = tx.Put("observed", MeterKey(at.id, at.limit), binary.AppendUvarint(nil, stored+n))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
