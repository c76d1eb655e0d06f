package main

import (
	"bytes"
	"errors"
	"maps"
	"strings"
	"time"
)

// Event is something that webhooks tell of: a change that has happened.
type Event struct {
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
	KeyExpiring  = "key.expiring"
	LimitReached = "limit.reached"
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
	return append(EventTypes(), "call.queued", KeyCreated, KeyRotated, KeyRevoked, KeyPaused, KeyResumed, KeyExpiring, LimitReached)
}

// Raise tells of an event in the transaction of the change that caused it: both
// are stored, or neither. What is sent, and its exact bytes, are settled here.
// It costs next to nothing where there is no webhook.
func Raise(tx *Tx, e Event) error {
	if !HasWebhooks(tx) {
		return nil
	}
	webhooks, err := listening(tx, e)
	if err != nil || len(webhooks) == 0 {
		return err
	}
	body, err := Payload(e)
	if err != nil {
		return err
	}
	for _, id := range webhooks {
		if err := Push(tx, Delivery{Webhook: id, ID: NewDeliveryID(), Event: e.Type, Body: body, At: e.At}); err != nil {
			return err
		}
	}
	return nil
}

// NewDeliveryID makes the id by which a receiver knows a delivery that comes
// twice.
func NewDeliveryID() string { return "whd_" + RandomHex(16) }

// listening gives the webhooks that are to hear of an event: the operator's,
// the owner's, and those of the members of its team, who may see its record
// (contract 1.9).
func listening(tx *Tx, e Event) ([]uint64, error) {
	if e.Operator {
		return Listeners(tx, e.Type, 0)
	}
	owners := []uint64{0, e.Owner}
	if e.Team != 0 {
		t, err := FindTeam(tx, e.Team)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		owners = append(owners, t.Members...)
	}
	return Listeners(tx, e.Type, owners...)
}

// Payload gives the bytes that are sent for an event (contract 8.2, 8.3).
func Payload(e Event) ([]byte, error) {
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

// KeyEvent is an event about a key, with what lists show of it and no secret.
func KeyEvent(kind string, k *Key, now time.Time) Event {
	return Event{Type: kind, Operator: true, At: now, Body: map[string]any{"key": map[string]any{
		"id": k.ID, "name": k.Name, "hint": k.Hint, "owner": k.OwnerName, "environment": k.Environment, "permissions": k.PermissionNames(),
		"status": k.Status(now), "created_at": Seconds(k.CreatedAt), "expires_at": Seconds(k.ExpiresAt),
	}}}
}

// Sample is an event of a type about something made up, to try a receiver with.
// Its payload says so in a member test.
func Sample(kind string, now time.Time) Event {
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
	return Event{Type: kind, At: now, Body: body}
}
