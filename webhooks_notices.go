package main

import (
	"slices"
	"sync"
	"time"
)

const (
	// reachedAgain is how long a key and a limit are not mentioned again.
	reachedAgain = time.Hour
	// maxReached bounds the memory of what was mentioned.
	maxReached = 100_000
	// noticesAtOnce is how many are stored in one transaction.
	noticesAtOnce = 500
)

// OperatorEvents tells the operator's webhooks what no change in the store tells of:
// keys that are about to expire, and limits that were reached. It is safe for
// concurrent use.
type OperatorEvents struct {
	store   *Store
	keyring *Keyring
	ahead   time.Duration

	mu    sync.Mutex
	seen  map[reachedLimit]time.Time // service time
	fresh []reachedNow               // since the last Flush
}

// reachedLimit is a limit of a key.
type reachedLimit struct{ key, limit string }

// reachedNow is a limit that was reached just now.
type reachedNow struct {
	reachedLimit
	holder  *Key
	size    Limit
	at      time.Time // wall clock
	service time.Time
}

// reachedRecord is what is stored of it, so that a restart does not mention it
// again.
type reachedRecord struct {
	Key   string    `json:"key"`
	Limit string    `json:"limit"`
	At    time.Time `json:"at"` // service time
}

var reachedTable = Table[reachedRecord]{
	Name: "limits_reached",
	Key:  func(r reachedRecord) []byte { return []byte(r.Key + "\x00" + r.Limit) },
	Indexes: []Index[reachedRecord]{
		{"at", func(r reachedRecord) [][]byte { return [][]byte{IDKey(uint64(r.At.UnixNano()))} }},
	},
}

// NoticeTables returns the tables of reached limits, for checks.
func NoticeTables() []Checked { return []Checked{reachedTable} }

// NewOperatorEvents tells of keys that expire within a time.
func NewOperatorEvents(store *Store, keyring *Keyring, ahead time.Duration) *OperatorEvents {
	return &OperatorEvents{store: store, keyring: keyring, ahead: ahead, seen: map[reachedLimit]time.Time{}}
}

// Reached notes that a request was refused for a limit of its key. It is quick:
// Flush does the rest.
func (n *OperatorEvents) Reached(k *Key, limits []LimitStatus, now, moment time.Time) {
	// A daily limit stands in the list only once the minute let the request pass.
	daily := slices.ContainsFunc(limits, func(s LimitStatus) bool { return !s.Limit.Short() })
	for _, s := range limits {
		if s.Wait == 0 || daily && s.Limit.Short() {
			continue
		}
		at := reachedLimit{k.ID, s.Limit.Name}
		n.mu.Lock()
		last, again := n.seen[at]
		if again && moment.Sub(last) < reachedAgain || !again && len(n.seen) >= maxReached {
			n.mu.Unlock()
			continue
		}
		n.seen[at] = moment
		n.fresh = append(n.fresh, reachedNow{at, k, s.Limit, now, moment})
		n.mu.Unlock()
	}
}

// Flush raises limit.reached for what was noted since the last time: for each
// key and limit once in an hour, whatever restarts lie between. It is to be
// called about every second.
func (n *OperatorEvents) Flush() error {
	n.mu.Lock()
	fresh := n.fresh
	n.fresh = nil
	n.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	wanted, err := n.wanted(limitReached)
	if err == nil && wanted {
		err = n.raise(fresh)
	}
	n.forget(fresh, wanted && err == nil)
	return err
}

// wanted says whether anybody listens to an event of the operator.
func (n *OperatorEvents) wanted(event string) (yes bool, err error) {
	err = n.store.View(func(tx *Tx) error {
		ids, err := subscriptions(tx, event, 0)
		yes = len(ids) > 0
		return err
	})
	return yes, err
}

// forget makes room: of what is an hour old, and, unless it was told, of what
// was noted just now, so that a webhook made in the next minute hears of it.
func (n *OperatorEvents) forget(fresh []reachedNow, told bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range fresh {
		if !told {
			delete(n.seen, r.reachedLimit)
		}
	}
	if len(n.seen) < maxReached {
		return
	}
	now := fresh[len(fresh)-1].service
	for at, last := range n.seen {
		if now.Sub(last) >= reachedAgain {
			delete(n.seen, at)
		}
	}
}

func (n *OperatorEvents) raise(fresh []reachedNow) error {
	for len(fresh) > 0 {
		part := fresh[:min(len(fresh), noticesAtOnce)]
		fresh = fresh[len(part):]
		err := n.store.Update(func(tx *Tx) error {
			for _, r := range part {
				if err := n.raiseOne(tx, r); err != nil {
					return err
				}
			}
			return dropReached(tx, part[0].service.Add(-reachedAgain))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *OperatorEvents) raiseOne(tx *Tx, r reachedNow) error {
	record := reachedRecord{Key: r.key, Limit: r.limit, At: r.service}
	if old, err := reachedTable.Get(tx, reachedTable.Key(record)); err == nil && r.service.Sub(old.At) < reachedAgain {
		tx.After(func() { // an earlier run told of it: the hour is counted from then
			n.mu.Lock()
			defer n.mu.Unlock()
			n.seen[r.reachedLimit] = old.At
		})
		return nil
	}
	e := KeyWebhookEvent(limitReached, r.holder, r.at)
	e.Body["limit"] = map[string]any{"name": r.limit, "limit": r.size.Max, "window_seconds": int(r.size.Window / time.Second)}
	if err := Publish(tx, e); err != nil {
		return err
	}
	return reachedTable.Put(tx, record)
}

// dropReached removes what was stored before a service time.
func dropReached(tx *Tx, before time.Time) error {
	var old [][]byte
	for entry, key := range reachedTable.Find(tx, "at", nil, false) {
		if string(entry) >= string(IDKey(uint64(before.UnixNano()))) || len(old) == noticesAtOnce {
			break
		}
		old = append(old, []byte(string(key)))
	}
	for _, key := range old {
		if err := reachedTable.Delete(tx, key); err != nil {
			return err
		}
	}
	return nil
}

// Expiring raises key.expiring for the keys that expire soon, once for each end
// that a key is given. Only those keys are read. Without a listener nothing is
// noted, so that one made later still hears of them. It is to be called about
// every minute.
func (n *OperatorEvents) Expiring(now time.Time) error {
	wanted, err := n.wanted(keyExpiring)
	for more := wanted; more && err == nil; {
		err = n.store.Update(func(tx *Tx) error {
			keys, err := n.keyring.Expiring(tx, now.Add(n.ahead), noticesAtOnce)
			more = len(keys) == noticesAtOnce
			for _, key := range keys {
				if err == nil {
					err = n.expiring(tx, key, now)
				}
			}
			return err
		})
	}
	return err
}

func (n *OperatorEvents) expiring(tx *Tx, key *Key, now time.Time) error {
	key.ExpiryNoticed = key.ExpiresAt
	if err := n.keyring.Save(tx, key); err != nil || !now.Before(key.ExpiresAt) {
		return err // what has expired already is no news
	}
	return Publish(tx, KeyWebhookEvent(keyExpiring, key, now))
}
