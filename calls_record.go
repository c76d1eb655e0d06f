package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"time"

	"latchkey/internal/keytext"
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

// callStates lists the states; the index stores their places in it.
func callStates() []string { return []string{callQueued, callInProgress, callCompleted, callFailed} }

// callTypes lists the types; the index stores their places in it.
func callTypes() []string { return []string{callInbound, callOutbound} }

// call is a phone call, asked for, under way or over.
type call struct {
	ID           uint64    `json:"id"`
	CallID       string    `json:"call_id"`
	Owner        uint64    `json:"owner"`
	TeamID       uint64    `json:"team_id,omitempty"` // of the agent
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
	ErrorMessage string    `json:"error_message,omitempty"` // for people, where there is more to say
	Billing      billing   `json:"billing"`
	Lease        lease     `json:"lease,omitzero"`
}

// callAgent is the agent as it was when the call was made.
type callAgent struct {
	ID          uint64 `json:"id"`
	Name        string `json:"name"`
	AssistantID string `json:"assistant_id"`
}

// billing is what a call costs (contract 3.2).
type billing struct {
	Status  string  `json:"status"`
	Initial float64 `json:"initial_charge"`
	Final   float64 `json:"final_charge"`
	Total   float64 `json:"total_charge"`
}

// The states of billing.
const (
	billingPending = "pending"
	billingBilled  = "billed"
	billingNone    = "not_billed"
)

// lease says which dialer has a call, and until when it must be heard of again.
// A Until of zero is no limit.
type lease struct {
	Dialer string    `json:"dialer,omitempty"`
	Hash   string    `json:"hash,omitempty"` // SHA-256 of the token, in hex
	Until  time.Time `json:"until,omitzero"`
	Lapsed int       `json:"lapsed,omitempty"` // leases of this call that ended unused
}

// sortTime is the time by which lists are ordered.
func (c call) sortTime() time.Time {
	if c.StartedAt.IsZero() {
		return c.CreatedAt
	}
	return c.StartedAt
}

// The bytes of an index entry after the scope: the time to sort by, the state,
// the type and the agent, so that a list filters and counts without reading a
// record.
const (
	entryState = 8
	entryType  = 9
	entryAgent = 10
	entrySize  = 18
)

func scopeEntries(c call) (keys [][]byte) {
	for _, key := range ScopeKeys(c.Owner, c.TeamID) {
		key = binary.BigEndian.AppendUint64(key, uint64(c.sortTime().UnixNano()))
		key = append(key, byte(slices.Index(callStates(), c.Status)), byte(slices.Index(callTypes(), c.Type)))
		keys = append(keys, binary.BigEndian.AppendUint64(key, c.Agent.ID))
	}
	return keys
}

func queueEntries(c call) [][]byte {
	if c.Status != callQueued || !c.Lease.Until.IsZero() {
		return nil
	}
	return [][]byte{IDKey(uint64(c.CreatedAt.UnixNano()))}
}

func leaseEntries(c call) [][]byte {
	if c.Lease.Until.IsZero() {
		return nil
	}
	return [][]byte{IDKey(uint64(c.Lease.Until.UnixNano()))}
}

// callTable holds the calls.
var callTable = Table[call]{
	Name: "calls", Audit: AuditPolicy{Object: "call", Personal: true, Untold: []string{"until"}},
	Key: func(c call) []byte { return IDKey(c.ID) },
	Indexes: []Index[call]{
		{"scope", scopeEntries},
		{"call_id", func(c call) [][]byte { return [][]byte{[]byte(c.CallID)} }},
		{"queue", queueEntries},
		{"lease", leaseEntries},
	},
}

// findCall reads a call by its database id or its call id, whoever it belongs
// to; ErrNotFound.
func findCall(tx *Tx, ref string) (call, error) {
	if id, err := strconv.ParseUint(ref, 10, 64); err == nil {
		return callTable.Get(tx, IDKey(id))
	}
	return callTable.One(tx, "call_id", []byte(ref))
}

// saveCall stores a call; a new one (ID 0) gets its ids.
func saveCall(tx *Tx, c call) (call, error) {
	if c.ID == 0 {
		id, err := callTable.NextID(tx)
		if err != nil {
			return c, err
		}
		c.ID, c.CallID = id, "call_"+keytext.RandomHex(8)
	} else if old, err := callTable.Get(tx, IDKey(c.ID)); err != nil {
		return c, err
	} else if err := tally(tx, old, -1); err != nil {
		return c, err
	}
	if err := tally(tx, c, 1); err != nil {
		return c, err
	}
	return c, callTable.Put(tx, c)
}

// tallyBucket counts the calls of each scope by owner, state, type and agent,
// so that the length of a list is known without going through it.
const tallyBucket = "call_tallies"

// The places in a tally's key: the scope, then what is counted apart.
const (
	tallyOwner = scopeSize
	tallyState = tallyOwner + 8
	tallyType  = tallyState + 1
	tallyAgent = tallyType + 1
	scopeSize  = 9
)

// tally counts a call where its lists count it, or no longer.
func tally(tx *Tx, c call, by int64) error {
	for _, key := range ScopeKeys(c.Owner, c.TeamID) {
		key = binary.BigEndian.AppendUint64(key, c.Owner)
		key = append(key, byte(slices.Index(callStates(), c.Status)), byte(slices.Index(callTypes(), c.Type)))
		key = binary.BigEndian.AppendUint64(key, c.Agent.ID)
		stored, err := tx.Get(tallyBucket, key)
		if err != nil {
			return err
		}
		count := by
		if stored != nil {
			count += int64(binary.BigEndian.Uint64(stored))
		}
		if count > 0 {
			err = tx.Put(tallyBucket, key, IDKey(uint64(count)))
		} else {
			err = tx.Delete(tallyBucket, key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// countCalls gives how many calls an owner may see that a filter lets through.
func countCalls(tx *Tx, scope Scope, f callFilter, agent uint64) (n int, err error) {
	for i, prefix := range scope.Keys() {
		for key, stored := range tx.Range(tallyBucket, prefix) {
			value, err := Unseal(tallyBucket, key, stored)
			if err != nil {
				return 0, err
			}
			if i > 0 && binary.BigEndian.Uint64(key[tallyOwner:]) == scope.Owner {
				continue // counted with the owner's own
			}
			if f.lets(key[tallyState:]) && (agent == 0 || binary.BigEndian.Uint64(key[tallyAgent:]) == agent) {
				n += int(binary.BigEndian.Uint64(value))
			}
		}
	}
	return n, nil
}

// lets says whether a state and a type, a byte each, pass the filter.
func (f callFilter) lets(b []byte) bool {
	return (f.State < 0 || int(b[0]) == f.State) && (f.Type < 0 || int(b[1]) == f.Type)
}

// nextCall returns the oldest queued call that no dialer has.
// A call that cannot be shown because a record is damaged keeps its place and is
// passed over, for at most maxPassed calls; its error is returned only if there is
// no other call. ErrNotFound if none is queued.
func nextCall(tx *Tx) (c call, err error) {
	var damage []error
	for _, key := range callTable.Find(tx, "queue", nil, false) {
		if c, err = callTable.Get(tx, key); err == nil {
			_, err = c.Operators(tx)
		}
		if err == nil || len(damage) == maxPassed {
			return c, err
		}
		damage = append(damage, err)
	}
	if len(damage) > 0 {
		return call{}, errors.Join(damage...)
	}
	return call{}, ErrNotFound
}

// maxPassed bounds how many damaged calls a claim looks at.
const maxPassed = 100

// lapsedCalls gives up to most calls whose lease has ended by a time.
func lapsedCalls(tx *Tx, now time.Time, most int) (calls []call, err error) {
	for until, key := range callTable.Find(tx, "lease", nil, false) {
		if len(calls) == most || bytes.Compare(until, IDKey(uint64(now.UnixNano()))) > 0 {
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

// eachCall gives all calls, newest first by id, until visit says to stop.
func eachCall(tx *Tx, visit func(call) error) error {
	for c, err := range callTable.All(tx, true) {
		if err != nil {
			return err
		}
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}

// callFilter is what a list of calls is narrowed by.
type callFilter struct {
	State, Type int    // places in callStates and callTypes, -1 for all
	Agent       string // database id or assistant id, "" for all
}

// readCallFilter reads status, type and agent_id of a query; an unknown word
// is ErrValidation and lists the known ones.
func readCallFilter(q url.Values) (f callFilter, err error) {
	f = callFilter{-1, -1, q.Get("agent_id")}
	for _, word := range []struct {
		name  string
		words []string
		into  *int
	}{{"status", callStates(), &f.State}, {"type", callTypes(), &f.Type}} {
		value := q.Get(word.name)
		if value == "" {
			continue
		}
		if *word.into = slices.Index(word.words, value); *word.into < 0 {
			return f, ErrValidation.With("%s must be one of %v; got %q.", word.name, word.words, value)
		}
	}
	return f, nil
}

// callsInScope gives a page of the calls that an owner may see and the filter
// lets through, newest first, and how many there are in all.
func callsInScope(tx *Tx, scope Scope, filter callFilter, page Page) (calls []call, count int, err error) {
	agent := uint64(0)
	if filter.Agent != "" {
		a, err := FindAgent(tx, scope, filter.Agent)
		if errors.Is(err, ErrAgentNotFound) {
			return nil, 0, nil // an agent that is not there has no calls
		}
		if err != nil {
			return nil, 0, err
		}
		agent = a.ID
	}
	if count, err = countCalls(tx, scope, filter, agent); err != nil {
		return nil, 0, err
	}
	from, to := page.Bounds(count)
	at := 0
	for entry, id := range newest(tx, scope) {
		if at == to {
			break
		}
		if !filter.lets(entry[entryState:]) || agent != 0 && binary.BigEndian.Uint64(entry[entryAgent:]) != agent {
			continue
		}
		if at++; at <= from {
			continue
		}
		c, err := callTable.Get(tx, IDKey(id))
		if err != nil {
			return nil, 0, err
		}
		calls = append(calls, c)
	}
	return calls, count, nil
}

// newest goes through the index entries in scope, newest first, each call
// once: a call of mine in a team of mine stands in both.
func newest(tx *Tx, scope Scope) iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		var sources []*Walker
		for _, prefix := range scope.Keys() {
			if w := callTable.Walk(tx, "scope", prefix, true); w.Entry != nil {
				sources = append(sources, w)
			}
		}
		for last := uint64(0); len(sources) > 0; {
			top := 0
			for i := 1; i < len(sources); i++ {
				a, b := sources[top], sources[i]
				if cmp.Or(bytes.Compare(a.Entry, b.Entry), bytes.Compare(a.Key, b.Key)) < 0 { // as each source is
					top = i
				}
			}
			w := sources[top]
			id := binary.BigEndian.Uint64(w.Key)
			if id != last && !yield(w.Entry, id) {
				return
			}
			last = id
			if w.Next(); w.Entry == nil {
				sources = slices.Delete(sources, top, top+1)
			}
		}
	}
}

// Duration is how many seconds the call took, nil while that is not known.
func (c call) Duration() *int {
	if c.StartedAt.IsZero() || c.EndedAt.IsZero() {
		return nil
	}
	n := int(c.EndedAt.Sub(c.StartedAt) / time.Second)
	return &n
}

// Row is a call as lists show it (contract 3.1).
func (c call) Row(tx *Tx, scope Scope) map[string]any {
	row := map[string]any{
		"id": c.CallID, "agent_id": c.Agent.AssistantID, "agent_name": c.Agent.Name, "status": c.Status, "type": c.Type,
		"phone_number": c.PhoneNumber, "started_at": Seconds(c.StartedAt), "ended_at": Seconds(c.EndedAt), "duration_seconds": c.Duration(),
		"summary": TextOrNone(c.Summary), "recording_url": TextOrNone(c.RecordingURL), "contact": nil,
	}
	if contact, err := FindContact(tx, scope, c.ContactID); err == nil {
		row["contact"] = contact.Brief()
	}
	return row
}

// Detail is a call as GET /calls/{call_id} shows it (contract 3.2).
func (c call) Detail(tx *Tx, scope Scope) map[string]any {
	shown := c.Row(tx, scope)
	delete(shown, "agent_id")
	delete(shown, "agent_name")
	shown["id"], shown["call_id"], shown["agent"] = c.ID, c.CallID, c.Agent
	shown["transcript"], shown["billing"], shown["team"] = TextOrNone(c.Transcript), c.Billing, nil
	if team := TeamBrief(tx, c.TeamID); team != nil {
		shown["team"] = team
	}
	if contact, err := FindContact(tx, scope, c.ContactID); err == nil {
		brief := contact.Brief()
		brief["status"], brief["stage"], brief["last_call_date"] = contact.Status, contact.Stage, Seconds(contact.LastCallDate)
		shown["contact"] = brief
	}
	return shown
}

// publishCall tells of what has become of a call since it was as before, in the
// usual order (contract 8.1). A new call has been nothing: a Call of zero.
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
		body := map[string]any{"call": callPayload(tx, after, event)}
		if err := Publish(tx, WebhookEvent{Type: event, Owner: after.Owner, Team: after.TeamID, At: now, Body: body}); err != nil {
			return err
		}
	}
	return nil
}

// callPayload is the member call of an event (contract 8.2). Where that leaves
// a name open it is: error_reason, transcript, recording_url, summary, contact.
func callPayload(tx *Tx, c call, event string) map[string]any {
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

// publishQueued tells the operator's webhooks of a call that is to be placed,
// with all that a dialer needs.
func publishQueued(tx *Tx, c call, now time.Time) error {
	if !HasWebhooks(tx) {
		return nil
	}
	shown, err := c.Operators(tx)
	if err != nil {
		return err
	}
	return Publish(tx, WebhookEvent{Type: "call.queued", Operator: true, At: now, Body: map[string]any{"call": shown}})
}

// Everyone is the scope of the operator for what a call names: its contact may
// be another team's than its agent.
func (c call) Everyone() Scope { return Scope{Owner: c.Owner, All: true} }

// Operators is a call as the operator and the dialer see it. The contact is
// shown whoever it belongs to, since the call names it.
func (c call) Operators(tx *Tx) (map[string]any, error) {
	shown := c.Detail(tx, c.Everyone())
	shown["owner"], shown["created_at"] = OwnerName(tx, c.Owner), Seconds(c.CreatedAt)
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
		return nil, err // not a prompt without what is known of the contact
	}
	shown["prompt_variables"] = PromptVariables(business, contact.CustomContext, c.Variables)
	return shown, nil
}
