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

// WebhookEvent is an event that is sent to webhooks, such as the end of a call.
type WebhookEvent struct {
	Type string // such as "call.ended"
	// Owner and Team are the ids of the owner and the team of the record that the event is about.
	// They decide which webhooks receive the event. Team is 0 if the record has no team.
	Owner, Team uint64
	Operator    bool // only the operator's webhooks receive the event; Owner and Team are then 0
	At          time.Time
	// Body holds the members of the payload except event_type and timestamp, such as "call" or
	// "calendar_event". It contains no secret.
	Body map[string]any

	place   *Place // of the record that the event is about, nil if it is about none
	bodyFor func(Scope) map[string]any
}

// RecordEvent returns an event about the record at this place. body returns the members of the payload for receivers
// with a scope, see WebhookEvent.Body: webhooks of limited keys get nothing about objects that do not exist for
// the key.
func RecordEvent(kind string, p Place, at time.Time, body func(Scope) map[string]any) WebhookEvent {
	return WebhookEvent{Type: kind, Owner: p.Owner, Team: p.Team, At: at, Body: body(Scope{Owner: p.Owner, All: true}), place: &p, bodyFor: body}
}

// within returns the event for a webhook of a limited key. ok is false if the webhook does not get it.
func (e WebhookEvent) within(tx *Tx, w webhook) (_ WebhookEvent, ok bool, err error) {
	s, err := ScopeOf(tx, w.Owner)
	if s = s.Within(w.Resources); err != nil || e.place == nil || !s.Has(*e.place) {
		return e, false, err
	}
	e.Body = e.bodyFor(s)
	return e, true, nil
}

// These events about keys, admin tokens, owners and the disk are only for the operator's webhooks.
const (
	KeyCreated   = "key.created"
	KeyRotated   = "key.rotated"
	KeyRevoked   = "key.revoked"
	KeyPaused    = "key.paused"
	KeyResumed   = "key.resumed"
	keyExpiring  = "key.expiring"
	keyNetwork   = "key.new_network"
	keyInURL     = "key.in_url"
	keyUnused    = "key.unused"
	limitWarning = "limit.warning"
	limitReached = "limit.reached"

	// TokenExpiring is about an admin token.
	TokenExpiring = "token.expiring"

	// FactorReset is about an operator whose second factor was replaced or went unused.
	FactorReset = "operator.factor_reset"

	storageWarningEvent = "owner.storage_warning"
	diskLowEvent        = "disk.low"
)

// EventTypes returns the types of events that the webhooks of any owner may subscribe to.
func EventTypes() []string {
	return []string{
		"call.started", "call.ended", "call.failed", "call.transcript", "call.recording", "call.summary",
		"calendar.created", "calendar.updated", "calendar.cancelled", "calendar.completed", "calendar.reminder",
	}
}

// OperatorEventTypes returns the types of events that the operator's webhooks may subscribe to.
// They are EventTypes and the events that only the operator receives.
func OperatorEventTypes() []string {
	return append(EventTypes(), "call.queued", KeyCreated, KeyRotated, KeyRevoked, KeyPaused, KeyResumed, keyExpiring, keyNetwork, keyInURL, keyUnused, limitWarning, limitReached, TokenExpiring, FactorReset, storageWarningEvent, diskLowEvent)
}

// Publish queues e for each webhook that subscribes to it, and for the mails to the operators. Call it in the transaction of the change
// that caused the event, so that both are stored or neither. The bytes of the payload are final
// from then on. If there are no webhooks, Publish costs one look-up.
func Publish(tx *Tx, e WebhookEvent) error {
	if err := addMail(tx, e); err != nil {
		return err
	}
	if !HasWebhooks(tx) {
		return nil
	}
	ids, err := subscribers(tx, e)
	if err != nil {
		return err
	}
	var all []uint64
	for _, id := range ids {
		w, err := findWebhook(tx, id)
		switch {
		case err != nil:
			return err
		case w.Resources == nil:
			all = append(all, id)
			continue
		}
		own, ok, err := e.within(tx, w)
		if err == nil && ok {
			err = own.send(tx, []uint64{id})
		}
		if err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	return e.send(tx, all)
}

// send queues the event for these webhooks.
func (e WebhookEvent) send(tx *Tx, webhooks []uint64) error {
	body, err := payload(e)
	if err != nil {
		return err
	}
	return enqueue(tx, outboxEvent{Owner: e.Owner, Type: e.Type, At: e.At}, body, webhooks)
}

// newDeliveryID returns a random id for a delivery that is not of a stored event, see derivedID. A
// receiver recognizes by the id a delivery that arrives twice.
func newDeliveryID() string { return "whd_" + keytext.RandomHex(16) }

// subscribers returns the ids of the active webhooks that receive e. They belong to the operator,
// to the owner of the record, or to a member of the record's team, because these may see the
// record. Those that receive an event of a sandbox were made by its keys.
func subscribers(tx *Tx, e WebhookEvent) ([]uint64, error) {
	if e.Operator {
		return subscriptions(tx, e.Type, 0)
	}
	if IsSandbox(e.Owner) {
		return subscriptions(tx, e.Type, e.Owner)
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

// payload returns the bytes that are sent for an event.
func payload(e WebhookEvent) ([]byte, error) {
	at := Seconds(e.At)
	if strings.HasPrefix(e.Type, "calendar.") { // calendar events have milliseconds
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

// KeyWebhookEvent returns an event of the given kind about a key, such as KeyCreated. It contains
// no secret, only fields that the list of keys shows as well.
func KeyWebhookEvent(kind string, k *Key, now time.Time) WebhookEvent {
	return WebhookEvent{Type: kind, Operator: true, At: now, Body: map[string]any{"key": map[string]any{
		"id": k.ID, "name": k.Name, "hint": k.Hint, "owner": k.OwnerName, "sandbox": k.Sandbox(), "environment": k.Environment, "permissions": k.PermissionNames(),
		"status": k.Status(now), "created_at": Seconds(k.CreatedAt), "expires_at": Seconds(k.ExpiresAt),
	}}}
}

// sample returns an event of the given kind with invented data, for testing a receiver. Its payload
// has the member "test": true.
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
	case "owner":
		body["owner"] = map[string]any{"id": 1, "name": "sample", "storage": map[string]any{"bytes": 429496730, "limit": 536870912}}
	case "disk":
		body["disk"] = map[string]any{"free_bytes": 450000000, "mark_bytes": 268435456, "refusing": false}
	case "operator":
		body["operator"] = map[string]any{
			"id": 1, "name": "sample", "role": "admin", "way": "recovery_code", "by": "operator 1 sample", "client_ip": "192.0.2.1", "recovery_codes": 9,
		}
	case "token":
		body["token"] = map[string]any{
			"id": 1, "name": "sample", "hint": "lka_...mple", "scope": "read", "status": StatusActive, "created_at": Seconds(now), "made_by": "control socket",
			"expires_at": Seconds(now.Add(14 * 24 * time.Hour)), "last_used_at": nil,
		}
	default:
		switch what {
		case "warning":
			body["limit"] = map[string]any{"name": RequestsPerMinute, "kind": "window", "limit": 60, "window_seconds": 60, "used": 48}
		case "new_network", "in_url":
			body["use"] = map[string]any{"at": Seconds(now), "network": "192.0.2.0/24", "client": "192.0.2.1", "carrier": CarrierQuery}
		case "unused":
			body["last_used_at"] = Seconds(now.Add(-30 * 24 * time.Hour))
		}
		body["key"] = map[string]any{"id": "key_sample", "name": "sample", "status": StatusActive}
	}
	return WebhookEvent{Type: kind, At: now, Body: body}
}

// webhook is a subscription: the types of events to send and the URL to send them to.
type webhook struct {
	ID     uint64   `json:"id"`
	Owner  uint64   `json:"owner,omitempty"` // 0 means the operator, who receives the events of all owners
	Name   string   `json:"name"`
	URL    string   `json:"url"`
	Events []string `json:"events"`
	Secret []byte   `json:"secret"` // encrypted by Peppers.Encrypt and bound to the id (see Bound)
	Active bool     `json:"active"`
	Reason string   `json:"reason,omitempty"` // why the service switched the webhook off; "" if it did not
	// Resources are those of the key that created the webhook. The webhook gets only events about them. nil: all
	// events of the owner.
	Resources *Resources `json:"resources,omitempty"`
	Authors
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// webhookTable has three indexes. "owner" finds all webhooks of an owner. "listener" finds the active
// webhooks of an owner that subscribe to an event. "created_by" finds the webhooks that a key
// created; the others have no entry in it.
var webhookTable = Table[webhook]{
	Name: "webhooks", Bounded: "webhook", Audit: AuditPolicy{Object: "webhook"}, Key: func(w webhook) []byte { return IDKey(w.ID) },
	Owner: func(w webhook) uint64 { return w.Owner },
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
		{"created_by", func(w webhook) [][]byte {
			if w.CreatedBy == "" {
				return nil
			}
			return [][]byte{[]byte(w.CreatedBy)}
		}},
	},
	List: &Listing[webhook]{Sets: []Index[webhook]{SandboxSet(func(w webhook) uint64 { return w.Owner })}},
}

// WebhookTables returns the table of webhooks, for checks of the store. OutboxTables returns the
// tables of their queues.
func WebhookTables() []Checked { return []Checked{&webhookTable} }

// subscriptionKey returns the entry in the index "listener" for an owner and an event. It ends in a
// zero byte, so that a search for "call" does not find "call.ended".
func subscriptionKey(owner uint64, event string) []byte {
	return append(append(IDKey(owner), event...), 0)
}

// Bound returns the bytes that the encrypted secret is bound to. If the secret is copied to another
// webhook, it cannot be decrypted.
func (w webhook) Bound() []byte { return IDKey(w.ID) }

// newWebhookID returns the id for a new webhook. The id of a deleted webhook is not used again.
func newWebhookID(tx *Tx) (uint64, error) { return webhookTable.NextID(tx) }

// findWebhook returns the webhook with this id, of any owner. It returns ErrNotFound if there is no
// such webhook.
func findWebhook(tx *Tx, id uint64) (webhook, error) { return webhookTable.Get(tx, IDKey(id)) }

// saveWebhook stores a new or changed webhook. An inactive webhook receives no new events, and its
// pending deliveries wait. If the URL changed or the webhook became active again, the first pending
// delivery is due immediately.
func saveWebhook(tx *Tx, w webhook) error {
	old, err := findWebhook(tx, w.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	reset := old.URL != w.URL || w.Active && !old.Active
	return errors.Join(webhookTable.Put(tx, w), switchQueue(tx, w.ID, queueSwitch{Stop: !w.Active, Reset: reset}))
}

// RemoveWebhook deletes a webhook. It returns ErrNotFound if there is no such webhook. Its log and
// its pending deliveries remain in the store until SweepOutbox removes them.
func RemoveWebhook(tx *Tx, id uint64) error {
	if err := webhookTable.Delete(tx, IDKey(id)); err != nil {
		return err
	}
	return dropQueue(tx, id)
}

// ClearWebhooks deletes up to most webhooks of an owner or a sandbox, and returns how many.
func ClearWebhooks(tx *Tx, owner uint64, most int) (int, error) {
	list, err := WebhooksOfOwner(tx, owner)
	list = list[:min(len(list), most)]
	for _, w := range list {
		err = errors.Join(err, RemoveWebhook(tx, w.ID))
	}
	return len(list), err
}

// WebhooksOfOwner returns the webhooks of an owner, oldest first. Owner 0 is the operator.
func WebhooksOfOwner(tx *Tx, owner uint64) ([]webhook, error) {
	return foundWebhooks(tx, "owner", IDKey(owner))
}

// foundWebhooks returns the webhooks with a value in an index, oldest first.
func foundWebhooks(tx *Tx, index string, value []byte) (list []webhook, err error) {
	for rest, key := range webhookTable.Find(tx, index, value, Forward) {
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

// subscriptions returns the ids of the active webhooks that subscribe to event and belong to any of
// the given owners. Owner 0 is the operator.
func subscriptions(tx *Tx, event string, owners ...uint64) (ids []uint64, err error) {
	for i, owner := range owners {
		if slices.Contains(owners[:i], owner) {
			continue
		}
		for rest, key := range webhookTable.Find(tx, "listener", subscriptionKey(owner, event), Forward) {
			if len(rest) == 0 {
				ids = append(ids, binary.BigEndian.Uint64(key))
			}
		}
	}
	return ids, nil
}

// HasWebhooks reports whether there is any webhook, active or not. It costs one look-up. It returns
// true if the number of webhooks cannot be read.
func HasWebhooks(tx *Tx) bool {
	n, err := webhookTable.Count(tx)
	return err != nil || n > 0 // true after an error, so that no event is lost
}

// AddFailingWebhook creates a webhook of the operator for the demo. It was created at created, and its
// receiver has not answered for the two days before now. The receiver's name can never exist. The next attempt is due more than half an
// hour after now, so that no failed attempt is logged below the lines that the demo prints.
func AddFailingWebhook(tx *Tx, peppers Peppers, created, now time.Time) error {
	hook := webhook{Name: "chat alerts", URL: "https://chat.example.invalid/latchkey", Events: []string{KeyCreated, KeyRotated, KeyRevoked}, Active: true, CreatedAt: created, UpdatedAt: created}
	var err error
	if hook.ID, err = newWebhookID(tx); err != nil {
		return err
	}
	if hook.Secret, err = peppers.Encrypt(secretPurpose, hook.Bound(), secretPrefix+keytext.RandomHex(32)); err != nil {
		return err
	}
	if err := saveWebhook(tx, hook); err != nil {
		return err
	}
	down := now.Add(-48 * time.Hour)
	for i, ago := range []time.Duration{7 * 24 * time.Hour, 6 * 24 * time.Hour, 4 * 24 * time.Hour, 47 * time.Hour} {
		at := now.Add(-ago)
		e := sample([]string{KeyCreated, KeyRotated, KeyRevoked}[i%3], at)
		delete(e.Body, "test")
		e.Operator = true
		if err := Publish(tx, e); err != nil {
			return err
		}
		if err := tryPast(tx, hook.ID, [2]time.Time{at, now.Add(-time.Hour)}, down); err != nil {
			return err
		}
	}
	return nil
}

// tryPast stores the attempts at the delivery that is due at the first of two times of the past: one that succeeded, or
// four without an answer, the last of them at the second time, if the first is after down.
func tryPast(tx *Tx, webhook uint64, between [2]time.Time, down time.Time) error {
	const tries = 4
	at, step := between[0], between[1].Sub(between[0])/(tries-1)
	for range tries {
		d, err := nextDelivery(tx, webhook, at)
		if err != nil {
			return err
		}
		a := Attempt{Webhook: webhook, At: at, Status: 204, Took: 83 * time.Millisecond}
		if at.After(down) {
			a.Status, a.Error, a.Took = 0, notReached, 12*time.Millisecond
		}
		if _, err := Settle(tx, d, a, at); err != nil || a.Success() {
			return err
		}
		at = at.Add(step)
	}
	return nil
}
