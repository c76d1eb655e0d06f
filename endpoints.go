package main

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// Webhook is an endpoint of a subscriber: where to send which events.
type Webhook struct {
	ID        uint64    `json:"id"`
	Owner     uint64    `json:"owner,omitempty"` // 0: the operator, who hears of everything
	Name      string    `json:"name"`
	URL       string    `json:"url"`
	Events    []string  `json:"events"`
	Secret    []byte    `json:"secret"` // sealed by Peppers.Encrypt, bound to Bound
	Active    bool      `json:"active"`
	Reason    string    `json:"reason,omitempty"` // why it was switched off, where the service did it
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// webhookTable has two indexes: by whose a webhook is, and, of those that are
// active, by whose it is and what it wants to hear of.
var webhookTable = Table[Webhook]{
	Name: "webhooks", Audit: Told{Object: "webhook"}, Key: func(w Webhook) []byte { return IDKey(w.ID) },
	Indexes: []Index[Webhook]{
		{"owner", func(w Webhook) [][]byte { return [][]byte{IDKey(w.Owner)} }},
		{"listener", func(w Webhook) (keys [][]byte) {
			for _, event := range w.Events {
				if w.Active {
					keys = append(keys, listenerKey(w.Owner, event))
				}
			}
			return keys
		}},
	},
}

// WebhookTables lists what is kept of webhooks in the store, for checks.
func WebhookTables() []Checked { return []Checked{webhookTable} }

// listenerKey ends in a byte that no event has, so that "call" does not find
// "call.ended".
func listenerKey(owner uint64, event string) []byte {
	return append(append(IDKey(owner), event...), 0)
}

// Bound is what the sealed secret of a webhook belongs to: moved to another
// webhook it cannot be opened.
func (w Webhook) Bound() []byte { return IDKey(w.ID) }

// NewWebhookID gives the number of the next webhook. No number is used twice.
func NewWebhookID(tx *Tx) (uint64, error) { return webhookTable.NextID(tx) }

// FindWebhook reads a webhook, whoever it belongs to; ErrNotFound where there
// is none.
func FindWebhook(tx *Tx, id uint64) (Webhook, error) { return webhookTable.Get(tx, IDKey(id)) }

// SaveWebhook stores a webhook. One that is not active is sent nothing: new
// events pass it by, and what waits for it stays.
func SaveWebhook(tx *Tx, w Webhook) error {
	old, err := FindWebhook(tx, w.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	afresh := old.URL != w.URL || w.Active && !old.Active
	return errors.Join(webhookTable.Put(tx, w), SwitchQueue(tx, w.ID, w.Active, afresh))
}

// RemoveWebhook deletes a webhook with its log and all that waits for it;
// ErrNotFound where there is none.
func RemoveWebhook(tx *Tx, id uint64) error {
	if err := webhookTable.Delete(tx, IDKey(id)); err != nil {
		return err
	}
	return DropQueue(tx, id)
}

// Webhooks gives the webhooks of an owner (0: the operator's), oldest first.
func Webhooks(tx *Tx, owner uint64) (list []Webhook, err error) {
	for rest, key := range webhookTable.Find(tx, "owner", IDKey(owner), false) {
		if len(rest) > 0 {
			continue
		}
		w, err := webhookTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

// EachWebhook gives all webhooks, newest first, until visit fails.
func EachWebhook(tx *Tx, visit func(Webhook) error) error {
	for w, err := range webhookTable.All(tx, true) {
		if err == nil {
			err = visit(w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Listeners gives the ids of the active webhooks of the owners (0: the
// operator) that want to hear of an event.
func Listeners(tx *Tx, event string, owners ...uint64) (ids []uint64, err error) {
	for i, owner := range owners {
		if slices.Contains(owners[:i], owner) {
			continue
		}
		for rest, key := range webhookTable.Find(tx, "listener", listenerKey(owner, event), false) {
			if len(rest) == 0 {
				ids = append(ids, binary.BigEndian.Uint64(key))
			}
		}
	}
	return ids, nil
}

// HasWebhooks says whether there is any webhook at all, for the price of one
// look-up.
func HasWebhooks(tx *Tx) bool {
	n, err := webhookTable.Count(tx)
	return err != nil || n > 0 // a damaged count must not lose events
}
