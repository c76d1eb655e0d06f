package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// WebhookEvent is something that webhooks tell of: a change that has happened.
type WebhookEvent struct {
	Type string // such as "call.ended"
	// Owner and Team say who may hear of it, as they do for the record it is
	// about. Operator is for what only the operator's own webhooks are told,
	// such as "key.created"; Owner and Team are 0 then.
	Owner, Team uint64
	Operator    bool
	At          time.Time
	// Body are the members of the payload beside event_type and timestamp,
	// such as "call" or "calendar_event". It holds no secret.
	Body map[string]any
}

// The events about keys, for the operator alone.
const (
	KeyCreated   = "key.created"
	KeyRotated   = "key.rotated"
	KeyRevoked   = "key.revoked"
	KeyPaused    = "key.paused"
	KeyResumed   = "key.resumed"
	keyExpiring  = "key.expiring"
	limitReached = "limit.reached"
)

// EventTypes lists what everybody may subscribe to (contract 8.1).
func EventTypes() []string {
	return []string{
		"call.started", "call.ended", "call.failed", "call.transcript", "call.recording", "call.summary",
		"calendar.created", "calendar.updated", "calendar.cancelled", "calendar.completed", "calendar.reminder",
	}
}

// OperatorEventTypes lists what the operator's webhooks may subscribe to: all
// of EventTypes, of every owner, and what concerns the operator alone.
func OperatorEventTypes() []string {
	return append(EventTypes(), "call.queued", KeyCreated, KeyRotated, KeyRevoked, KeyPaused, KeyResumed, keyExpiring, limitReached)
}

// Publish tells of an event in the transaction of the change that caused it: both
// are stored, or neither. What is sent, and its exact bytes, are settled here.
// It costs next to nothing where there is no webhook.
func Publish(tx *Tx, e WebhookEvent) error {
	if !HasWebhooks(tx) {
		return nil
	}
	webhooks, err := subscribers(tx, e)
	if err != nil || len(webhooks) == 0 {
		return err
	}
	body, err := payload(e)
	if err != nil {
		return err
	}
	for _, id := range webhooks {
		if err := push(tx, delivery{Webhook: id, ID: newDeliveryID(), Event: e.Type, Body: body, At: e.At}); err != nil {
			return err
		}
	}
	return nil
}

// newDeliveryID makes the id by which a receiver knows a delivery that comes
// twice.
func newDeliveryID() string { return "whd_" + keytext.RandomHex(16) }

// subscribers gives the webhooks that are to hear of an event: the operator's,
// the owner's, and those of the members of its team, who may see its record
// (contract 1.9).
func subscribers(tx *Tx, e WebhookEvent) ([]uint64, error) {
	if e.Operator {
		return subscriptions(tx, e.Type, 0)
	}
	owners := []uint64{0, e.Owner}
	if e.Team != 0 {
		t, err := FindTeam(tx, e.Team)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		owners = append(owners, t.Members...)
	}
	return subscriptions(tx, e.Type, owners...)
}

// payload gives the bytes that are sent for an event (contract 8.2, 8.3).
func payload(e WebhookEvent) ([]byte, error) {
	at := Seconds(e.At)
	if strings.HasPrefix(e.Type, "calendar.") { // contract 1.5
		at = Millis(e.At)
	}
	body := maps.Clone(e.Body)
	if body == nil {
		body = map[string]any{}
	}
	body["event_type"], body["timestamp"] = e.Type, at
	text, err := EncodeJSON(body)
	return bytes.TrimRight(text, "\n"), err
}

// KeyWebhookEvent is an event about a key, with what lists show of it and no secret.
func KeyWebhookEvent(kind string, k *Key, now time.Time) WebhookEvent {
	return WebhookEvent{Type: kind, Operator: true, At: now, Body: map[string]any{"key": map[string]any{
		"id": k.ID, "name": k.Name, "hint": k.Hint, "owner": k.OwnerName, "environment": k.Environment, "permissions": k.PermissionNames(),
		"status": k.Status(now), "created_at": Seconds(k.CreatedAt), "expires_at": Seconds(k.ExpiresAt),
	}}}
}

// sample is an event of a type about something made up, to try a receiver with.
// Its payload says so in a member test.
func sample(kind string, now time.Time) WebhookEvent {
	agent := map[string]any{"id": 1, "name": "Sample agent", "assistant_id": "assistant_sample"}
	body := map[string]any{"test": true}
	switch kind, what, _ := strings.Cut(kind, "."); kind {
	case "call":
		call := map[string]any{
			"id": 1, "klen_call_id": "call_sample", "agent_id": 1, "agent_name": agent["name"], "status": "completed", "type": "inbound",
			"phone_number": "+4930555010", "started_at": Seconds(now.Add(-2 * time.Minute)), "ended_at": Seconds(now), "duration_seconds": 120,
		}
		for name, value := range map[string]any{"transcript": "Agent: Good morning.", "recording": "https://files.example.net/sample.mp3", "summary": "A sample."} {
			if what == name {
				call[strings.Replace(name, "recording", "recording_url", 1)] = value
			}
		}
		body["call"] = call
	case "calendar":
		body["calendar_event"] = map[string]any{
			"id": 1, "uuid": "00000000-0000-4000-8000-000000000000", "title": "Sample", "event_type": "meeting", "status": "scheduled",
			"start_time": Millis(now.Add(time.Hour)), "end_time": Millis(now.Add(2 * time.Hour)), "duration_minutes": 60, "ai_agent": agent,
		}
	default:
		body["key"] = map[string]any{"id": "key_sample", "name": "sample", "status": StatusActive}
	}
	return WebhookEvent{Type: kind, At: now, Body: body}
}

// webhook is an endpoint of a subscriber: where to send which events.
type webhook struct {
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
var webhookTable = Table[webhook]{
	Name: "webhooks", Audit: AuditPolicy{Object: "webhook"}, Key: func(w webhook) []byte { return IDKey(w.ID) },
	Indexes: []Index[webhook]{
		{"owner", func(w webhook) [][]byte { return [][]byte{IDKey(w.Owner)} }},
		{"listener", func(w webhook) (keys [][]byte) {
			for _, event := range w.Events {
				if w.Active {
					keys = append(keys, subscriptionKey(w.Owner, event))
				}
			}
			return keys
		}},
	},
}

// WebhookTables lists what is kept of webhooks in the store, for checks.
func WebhookTables() []Checked { return []Checked{webhookTable} }

// subscriptionKey ends in a byte that no event has, so that "call" does not find
// "call.ended".
func subscriptionKey(owner uint64, event string) []byte {
	return append(append(IDKey(owner), event...), 0)
}

// Bound is what the sealed secret of a webhook belongs to: moved to another
// webhook it cannot be opened.
func (w webhook) Bound() []byte { return IDKey(w.ID) }

// newWebhookID gives the number of the next webhook. No number is used twice.
func newWebhookID(tx *Tx) (uint64, error) { return webhookTable.NextID(tx) }

// findWebhook reads a webhook, whoever it belongs to; ErrNotFound where there
// is none.
func findWebhook(tx *Tx, id uint64) (webhook, error) { return webhookTable.Get(tx, IDKey(id)) }

// saveWebhook stores a webhook. One that is not active is sent nothing: new
// events pass it by, and what waits for it stays.
func saveWebhook(tx *Tx, w webhook) error {
	old, err := findWebhook(tx, w.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	afresh := old.URL != w.URL || w.Active && !old.Active
	return errors.Join(webhookTable.Put(tx, w), switchQueue(tx, w.ID, w.Active, afresh))
}

// removeWebhook deletes a webhook with its log and all that waits for it;
// ErrNotFound where there is none.
func removeWebhook(tx *Tx, id uint64) error {
	if err := webhookTable.Delete(tx, IDKey(id)); err != nil {
		return err
	}
	return dropQueue(tx, id)
}

// webhooks gives the webhooks of an owner (0: the operator's), oldest first.
func webhooks(tx *Tx, owner uint64) (list []webhook, err error) {
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

// eachWebhook gives all webhooks, newest first, until visit fails.
func eachWebhook(tx *Tx, visit func(webhook) error) error {
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

// subscriptions gives the ids of the active webhooks of the owners (0: the
// operator) that want to hear of an event.
func subscriptions(tx *Tx, event string, owners ...uint64) (ids []uint64, err error) {
	for i, owner := range owners {
		if slices.Contains(owners[:i], owner) {
			continue
		}
		for rest, key := range webhookTable.Find(tx, "listener", subscriptionKey(owner, event), false) {
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
