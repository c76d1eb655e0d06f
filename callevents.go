package main

import "time"

// RaiseCall tells of what has become of a call since it was as before, in the
// usual order (contract 8.1). A new call has been nothing: a Call of zero.
func RaiseCall(tx *Tx, before, after Call, now time.Time) error {
	if !HasWebhooks(tx) {
		return nil
	}
	var events []string
	add := func(happened bool, event string) {
		if happened {
			events = append(events, event)
		}
	}
	connected := func(c Call) bool { return !c.StartedAt.IsZero() && c.Status != CallQueued && c.Status != "" }
	add(!connected(before) && connected(after), "call.started")
	add(before.Status != CallCompleted && after.Status == CallCompleted, "call.ended")
	add(before.Status != CallFailed && after.Status == CallFailed, "call.failed")
	add(before.Transcript == "" && after.Transcript != "", "call.transcript")
	add(before.Summary == "" && after.Summary != "", "call.summary")
	add(before.RecordingURL == "" && after.RecordingURL != "", "call.recording")
	for _, event := range events {
		body := map[string]any{"call": callPayload(tx, after, event)}
		if err := Raise(tx, Event{Type: event, Owner: after.Owner, Team: after.TeamID, At: now, Body: body}); err != nil {
			return err
		}
	}
	return nil
}

// callPayload is the member call of an event (contract 8.2). Where that leaves
// a name open it is: error_reason, transcript, recording_url, summary, contact.
func callPayload(tx *Tx, c Call, event string) map[string]any {
	body := map[string]any{
		"id": c.ID, "klen_call_id": c.CallID, "agent_id": c.Agent.ID, "agent_name": c.Agent.Name, "status": c.Status, "type": c.Type,
		"phone_number": c.PhoneNumber, "started_at": Seconds(c.StartedAt), "ended_at": Seconds(c.EndedAt), "duration_seconds": c.Duration(),
	}
	if contact, err := FindContact(tx, c.Everyone(), c.ContactID); err == nil {
		body["contact"] = contact.Brief()
	}
	switch event {
	case "call.started":
		body["assistant_id"] = c.Agent.AssistantID
	case "call.ended":
		body["duration"] = c.Duration()
		if c.Summary != "" {
			body["summary"] = c.Summary
		}
	case "call.failed":
		body["error_reason"] = c.ErrorReason
	case "call.transcript":
		body["transcript"] = c.Transcript
	case "call.recording":
		body["recording_url"] = c.RecordingURL
	case "call.summary":
		body["summary"] = c.Summary
	}
	return body
}

// RaiseQueued tells the operator's webhooks of a call that is to be placed,
// with all that a dialer needs.
func RaiseQueued(tx *Tx, c Call, now time.Time) error {
	if !HasWebhooks(tx) {
		return nil
	}
	shown, err := c.Operators(tx)
	if err != nil {
		return err
	}
	return Raise(tx, Event{Type: "call.queued", Operator: true, At: now, Body: map[string]any{"call": shown}})
}

// Everyone is the scope of the operator for what a call names: its contact may
// be another team's than its agent.
func (c Call) Everyone() Scope { return Scope{Owner: c.Owner, All: true} }

// Operators is a call as the operator and the dialer see it. The contact is
// shown whoever it belongs to, since the call names it.
func (c Call) Operators(tx *Tx) (map[string]any, error) {
	shown := c.Detail(tx, c.Everyone())
	shown["owner"], shown["created_at"] = OwnerName(tx, c.Owner), Seconds(c.CreatedAt)
	shown["error_reason"], shown["error_message"] = c.ErrorReason, c.ErrorMessage
	shown["lease_until"], shown["dialer"] = Seconds(c.Lease.Until), c.Lease.Dialer
	shown["variables"] = c.Variables
	if c.Variables == nil {
		shown["variables"] = map[string]any{}
	}
	if agent, err := GetAgent(tx, c.Agent.ID); err == nil {
		brief := agent.Brief()
		brief["phone_number"] = TextOrNone(agent.PhoneNumber)
		shown["agent"] = brief
	}
	business, err := BusinessContext(tx, c.Owner)
	if err != nil {
		return nil, err
	}
	contact, err := FindContact(tx, c.Everyone(), c.ContactID)
	if err != nil {
		contact = Contact{} // none, or gone
	}
	shown["prompt_variables"] = PromptVariables(business, contact.CustomContext, c.Variables)
	return shown, nil
}
