package main

import (
	"errors"
	"time"
)

// PublishUse publishes key.new_network or key.in_url for a notice about the key with this id, in the transaction
// that stores the use.
func PublishUse(tx *Tx, keyring *Keyring, id string, n KeyNotice) error {
	event := keyNetwork
	if n.Kind == ActivityCarrier {
		event = keyInURL
	}
	ids, err := subscriptions(tx, event, 0)
	if err != nil || len(ids) == 0 {
		return err
	}
	key, err := keyring.Get(tx, id)
	if err != nil {
		return err
	}
	e := KeyWebhookEvent(event, key, n.Use.At)
	e.Body["use"] = map[string]any{
		"at": Seconds(n.Use.At), "network": TextOrNone(NetworkOfUse(n.Use.IP)), "client": AddrOrNone(n.Use.IP), "carrier": n.Use.Carrier,
	}
	return Publish(tx, e)
}

// Unused publishes key.unused for active keys that were neither used nor created for NoticeOptions.Unused,
// once until the key is used again. It looks at a part of the keys at each call. If no webhook subscribes
// to the event, it marks no key. now is from Clock.Latest. Call it about once a minute, from one goroutine.
func (n *OperatorEvents) Unused(now time.Time) error {
	if n.o.Unused == 0 {
		return nil
	}
	if wanted, err := EventWanted(n.store, keyUnused); err != nil || !wanted {
		return err
	}
	before := now.Add(-n.o.Unused)
	var ids []string
	damaged := n.store.View(func(tx *Tx) (err error) {
		ids, n.lookedAt, err = n.keyring.UnusedIDs(tx, n.lookedAt, before)
		return err
	})
	_, err := n.store.UpdateEach(Writer{}, len(ids), func(tx *Tx, i int) error {
		u, err := n.keyring.Unused(tx, ids[i], before) // it may have been used meanwhile
		if err != nil || u.Key == nil || u.Status(now) != StatusActive {
			return err
		}
		if err := u.NoteUnused(tx); err != nil {
			return err
		}
		e := KeyWebhookEvent(keyUnused, u.Key, now)
		e.Body["last_used_at"] = Seconds(u.Used)
		return Publish(tx, e)
	})
	return errors.Join(damaged, err)
}
