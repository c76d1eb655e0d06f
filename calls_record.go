package main

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
	"latchkey/internal/strictjson"
)

// The states and types of calls (contract 3).
const (
	callQueued     = "queued"
	callInProgress = "in-progress"
	callCompleted  = "completed"
	callFailed     = "failed"
	callInbound    = "inbound"
	callOutbound   = "outbound"
)

// callStates returns the states of calls. The index stores positions in this
// list, so the order must not change.
func callStates() []string { return []string{callQueued, callInProgress, callCompleted, callFailed} }

// callTypes returns the types of calls. The index stores positions in this
// list, so the order must not change.
func callTypes() []string { return []string{callInbound, callOutbound} }

// call is a phone call in any state.
type call struct {
	ID           uint64    `json:"id"`
	CallID       string    `json:"call_id"`
	Owner        uint64    `json:"owner"`
	TeamID       uint64    `json:"team_id,omitempty"` // team of the agent, 0 if it has none
	Agent        callAgent `json:"agent"`
	Status       string    `json:"status"`
	Type         string    `json:"type"`
	PhoneNumber  string    `json:"phone_number"`
	ContactID    uint64    `json:"contact_id,omitempty"`
	Variables    Values    `json:"variables,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
	StartedAt    time.Time `json:"started_at,omitzero"`
	EndedAt      time.Time `json:"ended_at,omitzero"`
	Summary      string    `json:"summary,omitempty"`
	Transcript   string    `json:"transcript,omitempty"`
	RecordingURL string    `json:"recording_url,omitempty"`
	ErrorReason  string    `json:"error_reason,omitempty"`
	ErrorMessage string    `json:"error_message,omitempty"` // explains ErrorReason to people; may be ""
	Billing      billing   `json:"billing"`
	Lease        lease     `json:"lease,omitzero"`
	Authors
}

// callAgent is a copy of some fields of an agent, made when the call was
// created.
type callAgent struct {
	ID          uint64 `json:"id"`
	Name        string `json:"name"`
	AssistantID string `json:"assistant_id"`
}

// AppendJSON appends the fields.
func (a *callAgent) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	m.Value("id", a.ID)
	m.Text("name", a.Name)
	m.Text("assistant_id", a.AssistantID)
	return m.End()
}

// billing holds the charges of a call (contract 3.2), in the currency of the
// owner's balance. The charges are 0 if the owner has no balance.
type billing struct {
	Status  string  `json:"status"`
	Initial float64 `json:"initial_charge"`
	Final   float64 `json:"final_charge"`
	Total   float64 `json:"total_charge"`
}

// AppendJSON appends the fields.
func (b *billing) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	m.Text("status", b.Status)
	m.Value("initial_charge", b.Initial)
	m.Value("final_charge", b.Final)
	m.Value("total_charge", b.Total)
	return m.End()
}

// The values of billing.Status.
const (
	billingPending = "pending"
	billingBilled  = "billed"
	billingNone    = "not_billed"
)

// lease records which dialer has claimed a call. The lease ends at Until if the
// dialer does not renew it before. If Until is zero, no dialer has the call, or
// the lease does not end.
type lease struct {
	Dialer string    `json:"dialer,omitempty"` // name that the dialer sent, may be ""
	Hash   string    `json:"hash,omitempty"`   // SHA-256 of the lease token, in hex
	Until  time.Time `json:"until,omitzero"`
	Lapsed int       `json:"lapsed,omitempty"` // leases that expired while the call was queued
}

// sortTime returns the time by which lists of calls are sorted. This is
// StartedAt, or CreatedAt if the call has not started.
func (c call) sortTime() time.Time {
	if c.StartedAt.IsZero() {
		return c.CreatedAt
	}
	return c.StartedAt
}

func queueEntries(c call) [][]byte {
	if c.Status != callQueued || !c.Lease.Until.IsZero() || IsSandbox(c.Owner) {
		return nil // no dialer ever gets a call of a sandbox
	}
	return [][]byte{IDKey(uint64(c.CreatedAt.UnixNano()))}
}

func leaseEntries(c call) [][]byte {
	if c.Lease.Until.IsZero() {
		return nil
	}
	return [][]byte{IDKey(uint64(c.Lease.Until.UnixNano()))}
}

var callTable = Table[call]{
	Name: "calls", Bounded: "call", Audit: AuditPolicy{Object: "call", Personal: true, Untold: []string{"until"}},
	Owner: func(c call) uint64 { return c.Owner },
	Key:   func(c call) []byte { return IDKey(c.ID) },
	Indexes: []Index[call]{
		{"call_id", func(c call) [][]byte { return [][]byte{[]byte(c.CallID)} }},
		{"queue", queueEntries},
		{"lease", leaseEntries},
		{"playing", playEntries},
	},
	List: &Listing[call]{
		Sets: []Index[call]{
			{"scope", func(c call) [][]byte { return ScopeKeys(c.Owner, c.TeamID) }},
			SandboxSet(func(c call) uint64 { return c.Owner }),
			{"status", func(c call) [][]byte { return [][]byte{[]byte(c.Status)} }},
			{"type", func(c call) [][]byte { return [][]byte{[]byte(c.Type)} }},
			{"agent", func(c call) [][]byte { return [][]byte{IDKey(c.Agent.ID), []byte(c.Agent.AssistantID)} }},
			{"contact", call.contactKeys},
		},
		Order: func(c call) uint64 { return clock.SortKey(c.sortTime()) },
	},
}

// place returns where the call belongs.
func (c call) place() Place {
	return Place{Kind: CallRecord, Owner: c.Owner, Team: c.TeamID, Agent: c.Agent.ID, Contact: c.ContactID}
}

// contactKeys returns the entry of the call in the set of the calls with its contact.
func (c call) contactKeys() [][]byte {
	if c.ContactID == 0 {
		return nil
	}
	return [][]byte{IDKey(c.ContactID)}
}

// findCall returns the call whose id or call id is ref, no matter which owner
// has it. It returns ErrNotFound if there is no such call.
func findCall(tx *Tx, ref string) (call, error) {
	if id, err := strconv.ParseUint(ref, 10, 64); err == nil {
		return callTable.Get(tx, IDKey(id))
	}
	return callTable.One(tx, "call_id", []byte(ref))
}

// saveCall stores a call and returns the stored call. If the ID is 0, the call
// is new and gets its ids.
func saveCall(tx *Tx, c call) (call, error) {
	if c.ID == 0 {
		id, err := callTable.NextID(tx)
		if err != nil {
			return c, err
		}
		c.ID, c.CallID = id, "call_"+keytext.RandomHex(8)
	}
	return c, callTable.Put(tx, c)
}

// nextCall returns the oldest queued call without a lease, and the fields of
// the call that a dialer gets. It sets the lease of the returned call to l, but
// does not store the call. It returns ErrNotFound if no call is queued. It
// skips up to maxPassed calls that cannot be shown because a record is damaged.
// These calls stay queued, and their errors are returned only if no other call
// is found.
func nextCall(tx *Tx, l lease) (c call, shown map[string]any, err error) {
	var damage []error
	for _, key := range callTable.Find(tx, "queue", nil, Forward) {
		if c, err = callTable.Get(tx, key); err == nil {
			l.Lapsed = c.Lease.Lapsed
			c.Lease = l
			shown, err = c.Operators(tx)
		}
		if err == nil || len(damage) == maxPassed {
			return c, shown, err
		}
		damage = append(damage, err)
	}
	if len(damage) > 0 {
		return call{}, nil, errors.Join(damage...)
	}
	return call{}, nil, ErrNotFound
}

// maxPassed is the number of damaged calls that nextCall skips before it fails.
const maxPassed = 100

// lapsedCalls returns up to limit calls whose lease ended at or before now. The
// lease that ended first comes first.
func lapsedCalls(tx *Tx, now time.Time, limit int) (calls []call, err error) {
	for until, key := range callTable.Find(tx, "lease", nil, Forward) {
		if len(calls) == limit || bytes.Compare(until, IDKey(uint64(now.UnixNano()))) > 0 {
			break
		}
		c, err := callTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// callFilter selects the calls in a list.
type callFilter struct {
	State, Type string // "" for all
	Agent       string // id or assistant id of an agent, "" for all
}

// readCallFilter returns the filter in the parameters status, type and agent_id
// of a query. It returns ErrValidation if status or type has an unknown value.
func readCallFilter(q url.Values) (f callFilter, err error) {
	for _, word := range []struct {
		name  string
		words []string
	}{{"status", callStates()}, {"type", callTypes()}} {
		if value := q.Get(word.name); value != "" && !slices.Contains(word.words, value) {
			return f, ErrValidation.With("%s must be one of %s; got %q.", word.name, strings.Join(word.words, ", "), value)
		}
	}
	return callFilter{q.Get("status"), q.Get("type"), q.Get("agent_id")}, nil
}

// query returns the query for the calls that pass the filter. It ignores Agent.
func (f callFilter) query(ctx context.Context) Query {
	q := Query{Context: ctx}
	if f.State != "" {
		q.All = append(q.All, Filter{"status", []byte(f.State)})
	}
	if f.Type != "" {
		q.All = append(q.All, Filter{"type", []byte(f.Type)})
	}
	return q
}

// inScope is like query, for the calls in a scope and of the agent of the
// filter. It returns ErrAgentNotFound if the scope has no such agent.
func (f callFilter) inScope(ctx context.Context, tx *Tx, s Scope) (Query, error) {
	q := s.Query(CallRecord, f.query(ctx))
	if f.Agent == "" {
		return q, nil
	}
	a, err := FindAgent(tx, s, f.Agent)
	q.All = append(q.All, Filter{"agent", IDKey(a.ID)})
	return q, err
}

// ofOperator is like query, for the calls of all owners, those with the highest
// id first. It returns ErrNotFound if values, the parameters of the request, name an owner that does not exist.
func (f callFilter) ofOperator(ctx context.Context, tx *Tx, values url.Values) (Query, error) {
	q := f.query(ctx)
	q.ByID = true
	if id, err := strconv.ParseUint(f.Agent, 10, 64); err == nil {
		q.All = append(q.All, Filter{"agent", IDKey(id)})
	} else if f.Agent != "" {
		q.All = append(q.All, Filter{"agent", []byte(f.Agent)})
	}
	if values.Get("owner") == "" {
		return q, nil
	}
	owned, err := OwnerFilter(tx, values)
	q.All = append(q.All, owned)
	return q, err
}

// Duration returns the length of the call in whole seconds. It returns nil if
// the call has not started or not ended.
func (c call) Duration() *int {
	if c.StartedAt.IsZero() || c.EndedAt.IsZero() {
		return nil
	}
	n := int((c.EndedAt.UnixMilli() - c.StartedAt.UnixMilli()) / 1000) // a time.Duration ends at 292 years
	return &n
}

// Row returns the call in the form in which lists show it (contract 3.1). Its
// contact is nil if the scope does not include the contact.
func (c call) Row(tx *Tx, scope Scope) map[string]any {
	row := make(map[string]any, 16)
	c.show(row)
	row["agent_id"], row["agent_name"] = c.Agent.AssistantID, c.Agent.Name
	if contact, err := FindContact(tx, scope, c.ContactID); err == nil {
		row["contact"] = contact.Brief()
	}
	return row
}

// show adds to shown the fields that appear both in lists of calls and in the answer for a single
// call. The contact is nil.
func (c call) show(shown map[string]any) {
	shown["id"], shown["status"], shown["type"], shown["phone_number"] = c.CallID, c.Status, c.Type, c.PhoneNumber
	shown["started_at"], shown["ended_at"], shown["duration_seconds"] = Seconds(c.StartedAt), Seconds(c.EndedAt), c.Duration()
	shown["summary"], shown["recording_url"], shown["contact"] = TextOrNone(c.Summary), TextOrNone(c.RecordingURL), nil
}

// Detail returns the call in the form in which GET /calls/{call_id} shows it
// (contract 3.2).
func (c call) Detail(tx *Tx, scope Scope) map[string]any {
	shown := make(map[string]any, 28) // with the fields of Operators, so that the map need not grow
	c.show(shown)
	shown["id"], shown["call_id"], shown["agent"] = c.ID, c.CallID, &c.Agent
	shown["transcript"], shown["billing"], shown["team"] = TextOrNone(c.Transcript), &c.Billing, nil
	if team := scope.TeamBrief(tx, c.TeamID); team != nil {
		shown["team"] = team
	}
	if contact, err := FindContact(tx, scope, c.ContactID); err == nil {
		brief := contact.Brief()
		brief["status"], brief["stage"], brief["last_call_date"] = contact.Status, contact.Stage, Seconds(contact.LastCallDate)
		shown["contact"] = brief
	}
	return shown
}

// publishCall publishes the webhook events for the change from before to after
// (contract 8.1). Events about the start and the end come first, then events
// about new content. For a new call, before is the zero call.
func publishCall(tx *Tx, before, after call, now time.Time) error {
	if !HasWebhooks(tx) {
		return nil
	}
	var events []string
	add := func(happened bool, event string) {
		if happened {
			events = append(events, event)
		}
	}
	connected := func(c call) bool { return !c.StartedAt.IsZero() && c.Status != callQueued && c.Status != "" }
	add(!connected(before) && connected(after), "call.started")
	add(before.Status != callCompleted && after.Status == callCompleted, "call.ended")
	add(before.Status != callFailed && after.Status == callFailed, "call.failed")
	add(before.Transcript == "" && after.Transcript != "", "call.transcript")
	add(before.Summary == "" && after.Summary != "", "call.summary")
	add(before.RecordingURL == "" && after.RecordingURL != "", "call.recording")
	for _, event := range events {
		body := func(s Scope) map[string]any { return map[string]any{"call": callPayload(tx, after, event, s)} }
		if err := Publish(tx, RecordEvent(event, after.place(), now, body)); err != nil {
			return err
		}
	}
	return nil
}

// callPayload returns the object "call" in the body of a webhook event
// (contract 8.2), for a receiver with this scope. The API does not publish the names error_reason, transcript,
// recording_url, summary and contact, so these names are our choice.
func callPayload(tx *Tx, c call, event string, scope Scope) map[string]any {
	body := map[string]any{
		"id": c.ID, "klen_call_id": c.CallID, "agent_id": c.Agent.ID, "agent_name": c.Agent.Name, "status": c.Status, "type": c.Type,
		"phone_number": c.PhoneNumber, "started_at": Seconds(c.StartedAt), "ended_at": Seconds(c.EndedAt), "duration_seconds": c.Duration(),
	}
	if contact, err := FindContact(tx, scope, c.ContactID); err == nil {
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

// publishQueued publishes call.queued to the operator's webhooks. The event
// contains everything that a dialer needs to place the call. There is none about a call of a sandbox.
func publishQueued(tx *Tx, c call, now time.Time) error {
	if !HasWebhooks(tx) || IsSandbox(c.Owner) {
		return nil
	}
	shown, err := c.Operators(tx)
	if err != nil {
		return err
	}
	delete(shown, "sandbox")
	delete(shown, "created_by")
	delete(shown, "updated_by")
	return Publish(tx, WebhookEvent{Type: "call.queued", Operator: true, At: now, Body: map[string]any{"call": shown}})
}

// Everyone returns a scope that includes every record. The operator and dialers
// need it to see the contact of a call, which may be in a different team than
// the agent.
func (c call) Everyone() Scope { return Scope{Owner: c.Owner, All: true} }

// Operators returns the call in the form in which the operator and dialers see
// it. The form includes the contact, no matter which owner has it. Operators
// returns an error if the record of the agent, the contact or the business
// context is damaged.
func (c call) Operators(tx *Tx) (map[string]any, error) {
	shown := c.Detail(tx, c.Everyone())
	shown["owner"], shown["sandbox"], shown["created_at"] = OwnerName(tx, c.Owner), IsSandbox(c.Owner), Seconds(c.CreatedAt)
	c.ShowAuthors(shown)
	shown["error_reason"], shown["error_message"] = c.ErrorReason, c.ErrorMessage
	shown["lease_until"], shown["dialer"] = Seconds(c.Lease.Until), c.Lease.Dialer
	shown["variables"] = c.Variables
	if c.Variables == nil {
		shown["variables"] = map[string]any{}
	}
	agent, err := GetAgent(tx, c.Agent.ID)
	if err == nil {
		brief := agent.Brief()
		brief["phone_number"] = TextOrNone(agent.PhoneNumber)
		shown["agent"] = brief
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	business, err := BusinessContext(tx, c.Owner)
	if err != nil {
		return nil, err
	}
	contact, err := FindContact(tx, c.Everyone(), c.ContactID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err // otherwise the prompt would lack the contact's values
	}
	shown["prompt_variables"] = PromptVariables(business, contact.CustomContext, c.Variables)
	return shown, nil
}

// CallsOfKeys returns the calls that keys have started since a time, for each of which CallsPerDay was charged.
func CallsOfKeys(tx *Tx, since time.Time) ([]Created, error) {
	return CreatedByKeys(tx, &callTable, since, func(c call) time.Time { return c.CreatedAt })
}
