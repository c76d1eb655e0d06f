package main

import (
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// reachedAgain is the shortest time between two limit.reached events for the same key and
	// limit.
	reachedAgain = time.Hour
	// maxReached is the maximum number of entries in OperatorEvents.seen.
	maxReached = 100_000
	// noticesAtOnce is the maximum number of events stored in one transaction.
	noticesAtOnce = 500
	// warnAgain is how long after a limit.warning that was not stored, for example because no
	// webhook subscribes to it, the next request records it again.
	warnAgain = time.Minute
)

// OperatorEvents publishes the operator's events that no change in the store causes: a key is about
// to expire, or a limit was reached. It is safe for concurrent use.
type OperatorEvents struct {
	store    *Store
	keyring  *Keyring
	o        NoticeOptions
	lookedAt string // the id of the key at which the last Unused ended

	mu       sync.Mutex
	seen     map[reachedLimit]time.Time // when each limit was last reached, on the service clock
	fresh    []reachedNow               // limits reached since the last Flush
	warnings []reachedNow               // limits that were nearly used up since the last Flush
}

// reachedLimit identifies a limit of a key by the id of the key and the name of the limit.
type reachedLimit struct{ key, limit string }

// reachedNow is a limit that was reached, or nearly, since the last Flush.
type reachedNow struct {
	reachedLimit
	holder  *Key
	size    Limit
	at      time.Time // on the wall clock
	service time.Time // the same moment on the service clock

	// For limit.warning; nil and 0 for limit.reached.
	entry *CacheEntry
	used  int // units of the limit
}

// reachedRecord is the stored record of a published limit.reached or limit.warning event. It prevents
// a second event after a restart and on another node.
type reachedRecord struct {
	Key   string `json:"key"` // for a warning about a limit of an owner: the counter of the owner
	Limit string `json:"limit"`
	// At is reachedAgain before the next event may be published, on the service clock: the time of
	// the event, or later for a warning about a long window.
	At  time.Time `json:"at"`
	Max int       `json:"max,omitempty"` // Limit.Max at a limit.warning; 0: the event was limit.reached
}

// key returns the key of the record.
func (r reachedRecord) key() []byte {
	key := r.Key + "\x00" + r.Limit
	if r.Max > 0 {
		key += "\x00"
	}
	return []byte(key)
}

var reachedTable = Table[reachedRecord]{
	Name: "limits_reached",
	Key:  reachedRecord.key,
	Indexes: []Index[reachedRecord]{
		{"at", func(r reachedRecord) [][]byte { return [][]byte{IDKey(uint64(r.At.UnixNano()))} }},
	},
}

// NoticeTables returns the table of published events about limits, for checks of the store.
func NoticeTables() []Checked { return []Checked{&reachedTable} }

// NoticeOptions are the options of NewOperatorEvents.
type NoticeOptions struct {
	LeadTime time.Duration // how long before its expiry a key is reported
	Unused   time.Duration // how long after its last use a key is reported; 0: never
	// PauseUnused is how long after its last use a key is paused; 0: never. It takes up to pauseSlack longer.
	PauseUnused time.Duration
	Warning     int // the percentage of a limit at which its key is reported; 0: never
}

// NewOperatorEvents returns an OperatorEvents.
func NewOperatorEvents(store *Store, keyring *Keyring, o NoticeOptions) *OperatorEvents {
	return &OperatorEvents{store: store, keyring: keyring, o: o, seen: map[reachedLimit]time.Time{}}
}

// Reached records that one of limits refused a request with key k. now is the time on the wall
// clock, moment the same time on the service clock. Reached does not use the store; Flush publishes
// the event later.
func (n *OperatorEvents) Reached(k *Key, limits []LimitStatus, now, moment time.Time) {
	// Limits with a window under an hour are checked first. The list has a longer limit only
	// if they all admitted the request, so the longer limit refused it.
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
		n.fresh = append(n.fresh, reachedNow{reachedLimit: at, holder: k, size: s.Limit, at: now, service: moment})
		n.mu.Unlock()
	}
}

// Warn records the limits of which a request has used NoticeOptions.Warning percent or more, but for
// those on requests in flight and those of one unit. It is a function for ServerOptions.Watch.
func (n *OperatorEvents) Warn(o *Outcome) {
	if n.o.Warning == 0 || o.Key == nil {
		return
	}
	for i := range o.Limits {
		s := &o.Limits[i]
		if s.Limit.Max < 2 || s.Limit.Concurrent() || int64(s.Used)*100 < int64(s.Limit.Max)*int64(n.o.Warning) {
			continue
		}
		if !o.Holder.Warn(&s.Limit, o.Steady, o.Steady.Add(warnAgain)) {
			continue
		}
		n.mu.Lock()
		if len(n.warnings) < maxReached {
			n.warnings = append(n.warnings, reachedNow{reachedLimit{o.Key.ID, s.Limit.Name}, o.Key, s.Limit, o.Began, o.Steady, o.Holder, s.Used})
		}
		n.mu.Unlock()
	}
}

// Flush publishes limit.reached and limit.warning for the limits that were recorded since the last
// Flush. Each limit of a key has at most one limit.reached in an hour, and one limit.warning in an
// hour or in the limit's window if that is longer, even after a restart. After an error, a later
// request records the limit again. Call Flush about once a second.
func (n *OperatorEvents) Flush() error {
	n.mu.Lock()
	fresh, warnings := n.fresh, n.warnings
	n.fresh, n.warnings = nil, nil
	n.mu.Unlock()
	return errors.Join(n.flushReached(fresh), n.flushWarnings(warnings))
}

func (n *OperatorEvents) flushWarnings(warnings []reachedNow) error {
	if len(warnings) == 0 {
		return nil
	}
	wanted, err := EventWanted(n.store, limitWarning)
	if err != nil || !wanted {
		return err
	}
	return n.raise(warnings)
}

func (n *OperatorEvents) flushReached(fresh []reachedNow) error {
	if len(fresh) == 0 {
		return nil
	}
	wanted, err := EventWanted(n.store, limitReached)
	if err == nil && wanted {
		err = n.raise(fresh)
	}
	if !wanted || err != nil {
		n.forget(fresh)
	}
	n.prune(fresh[len(fresh)-1].service)
	return err
}

// EventWanted reports whether an active webhook of the operator subscribes to event, or the operators get mails of it.
func EventWanted(store *Store, event string) (yes bool, err error) {
	err = store.View(func(tx *Tx) error {
		yes, err = eventWanted(tx, event)
		return err
	})
	return yes, err
}

// eventWanted is EventWanted in a transaction.
func eventWanted(tx *Tx, event string) (bool, error) {
	if slices.Contains(tx.Mails, event) {
		return true, nil
	}
	ids, err := subscriptions(tx, event, 0)
	return len(ids) > 0, err
}

// forget deletes limits from seen whose events were not published. The next refusal then records
// them again, so a webhook created in the meantime receives their events.
func (n *OperatorEvents) forget(unpublished []reachedNow) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range unpublished {
		delete(n.seen, r.reachedLimit)
	}
}

// prune deletes the entries of seen older than reachedAgain if seen is full. now is a time on the
// service clock.
func (n *OperatorEvents) prune(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.seen) < maxReached {
		return
	}
	for at, last := range n.seen {
		if now.Sub(last) >= reachedAgain {
			delete(n.seen, at)
		}
	}
}

func (n *OperatorEvents) raise(fresh []reachedNow) error {
	for part := range slices.Chunk(fresh, noticesAtOnce) {
		if _, err := n.store.UpdateEach(Writer{}, len(part), func(tx *Tx, i int) error { return n.raiseOne(tx, part[i]) }); err != nil {
			return err
		}
		if err := n.store.Update(func(tx *Tx) error { return dropReached(tx, part[0].service.Add(-reachedAgain)) }); err != nil {
			return err
		}
	}
	return nil
}

func (n *OperatorEvents) raiseOne(tx *Tx, r reachedNow) error {
	record, event := r.record(), limitReached
	if r.entry != nil {
		event = limitWarning
	}
	if old, err := reachedTable.Get(tx, record.key()); err == nil && old.Max == record.Max && r.service.Sub(old.At) < reachedAgain {
		tx.After(func() { n.raised(r, old) }) // an event from before a restart or of another node
		return nil
	}
	e := KeyWebhookEvent(event, r.holder, r.at)
	facts := map[string]any{"name": r.limit, "kind": r.size.Kind(), "limit": r.size.Max, "window_seconds": int(r.size.Window / time.Second)}
	if e.Body["limit"] = facts; r.entry != nil {
		facts["used"] = r.used
	}
	if err := Publish(tx, e); err != nil {
		return err
	}
	tx.After(func() { n.raised(r, record) })
	return reachedTable.Put(tx, record)
}

// record returns what is stored about an event.
func (r reachedNow) record() reachedRecord {
	record := reachedRecord{Key: r.key, Limit: r.limit, At: r.service}
	if r.entry == nil {
		return record
	}
	for _, rule := range r.holder.Rules() {
		if rule.Owner && rule.Name == r.limit { // one warning for all keys of the owner
			record.Key = OwnerCounterID(r.holder.Owner)
		}
	}
	record.At, record.Max = r.service.Add(max(0, r.size.Window-reachedAgain)), r.size.Max
	return record
}

// raised remembers until when the event that has a stored record is not published again.
func (n *OperatorEvents) raised(r reachedNow, stored reachedRecord) {
	if r.entry != nil {
		r.entry.WarnedUntil(&r.size, stored.At.Add(reachedAgain))
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen[r.reachedLimit] = stored.At
}

// dropReached deletes the records older than before, a time on the service clock. It deletes at
// most noticesAtOnce records, oldest first.
func dropReached(tx *Tx, before time.Time) error {
	var old [][]byte
	for entry, key := range reachedTable.Find(tx, "at", nil, Forward) {
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

// Expiring publishes key.expiring for the keys that expire soon, once for each expiry time of a
// key. It reads only these keys. If no webhook subscribes to the event, it marks no key as
// reported, so a webhook created later still receives the events. now is the wall clock. Call
// Expiring about once a minute.
func (n *OperatorEvents) Expiring(now time.Time) error {
	wanted, err := EventWanted(n.store, keyExpiring)
	for more := wanted; more && err == nil; {
		err = n.store.Update(func(tx *Tx) error {
			keys, err := n.keyring.Expiring(tx, now.Add(n.o.LeadTime), noticesAtOnce)
			more = len(keys) == noticesAtOnce
			for _, key := range keys {
				if err == nil {
					err = n.expiring(tx, key, now)
				}
				if tx.Full() {
					more = true
					break
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
		return err // a key that has already expired causes no event
	}
	return Publish(tx, KeyWebhookEvent(keyExpiring, key, now))
}
