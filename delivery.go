package main

import "time"

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

// Raise tells of an event in the transaction of the change that caused it: both
// are stored, or neither.
func Raise(tx *Tx, e Event) error {
	return nil
}
