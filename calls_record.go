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
	CallQueued     = "queued"
	CallInProgress = "in-progress"
	CallCompleted  = "completed"
	CallFailed     = "failed"
	CallInbound    = "inbound"
	CallOutbound   = "outbound"
)

// CallStates lists the states; the index stores their places in it.
func CallStates() []string { return []string{CallQueued, CallInProgress, CallCompleted, CallFailed} }

// CallTypes lists the types; the index stores their places in it.
func CallTypes() []string { return []string{CallInbound, CallOutbound} }

// Call is a phone call, asked for, under way or over.
type Call struct {
	ID           uint64    `json:"id"`
	CallID       string    `json:"call_id"`
	Owner        uint64    `json:"owner"`
	TeamID       uint64    `json:"team_id,omitempty"` // of the agent
	Agent        CallAgent `json:"agent"`
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
	Billing      Billing   `json:"billing"`
	Lease        Lease     `json:"lease,omitzero"`
}

// CallAgent is the agent as it was when the call was made.
type CallAgent struct {
	ID          uint64 `json:"id"`
	Name        string `json:"name"`
	AssistantID string `json:"assistant_id"`
}

// Billing is what a call costs (contract 3.2).
type Billing struct {
	Status  string  `json:"status"`
	Initial float64 `json:"initial_charge"`
	Final   float64 `json:"final_charge"`
	Total   float64 `json:"total_charge"`
}

// The states of billing.
const (
	BillingPending = "pending"
	BillingBilled  = "billed"
	BillingNone    = "not_billed"
)

// Lease says which dialer has a call, and until when it must be heard of again.
// A Until of zero is no limit.
type Lease struct {
	Dialer string    `json:"dialer,omitempty"`
	Hash   string    `json:"hash,omitempty"` // SHA-256 of the token, in hex
	Until  time.Time `json:"until,omitzero"`
	Lapsed int       `json:"lapsed,omitempty"` // leases of this call that ended unused
}

// sortTime is the time by which lists are ordered.
func (c Call) sortTime() time.Time {
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

func scopeEntries(c Call) (keys [][]byte) {
	for _, key := range ScopeKeys(c.Owner, c.TeamID) {
		key = binary.BigEndian.AppendUint64(key, uint64(c.sortTime().UnixNano()))
		key = append(key, byte(slices.Index(CallStates(), c.Status)), byte(slices.Index(CallTypes(), c.Type)))
		keys = append(keys, binary.BigEndian.AppendUint64(key, c.Agent.ID))
	}
	return keys
}

func queueEntries(c Call) [][]byte {
	if c.Status != CallQueued || !c.Lease.Until.IsZero() {
		return nil
	}
	return [][]byte{IDKey(uint64(c.CreatedAt.UnixNano()))}
}

func leaseEntries(c Call) [][]byte {
	if c.Lease.Until.IsZero() {
		return nil
	}
	return [][]byte{IDKey(uint64(c.Lease.Until.UnixNano()))}
}

// callTable holds the calls.
var callTable = Table[Call]{
	Name: "calls", Audit: Told{Object: "call", Personal: true, Untold: []string{"until"}},
	Key: func(c Call) []byte { return IDKey(c.ID) },
	Indexes: []Index[Call]{
		{"scope", scopeEntries},
		{"call_id", func(c Call) [][]byte { return [][]byte{[]byte(c.CallID)} }},
		{"queue", queueEntries},
		{"lease", leaseEntries},
	},
}

// FindCall reads a call by its database id or its call id, whoever it belongs
// to; ErrNotFound.
func FindCall(tx *Tx, ref string) (Call, error) {
	if id, err := strconv.ParseUint(ref, 10, 64); err == nil {
		return callTable.Get(tx, IDKey(id))
	}
	return callTable.One(tx, "call_id", []byte(ref))
}

// SaveCall stores a call; a new one (ID 0) gets its ids.
func SaveCall(tx *Tx, c Call) (Call, error) {
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
func tally(tx *Tx, c Call, by int64) error {
	for _, key := range ScopeKeys(c.Owner, c.TeamID) {
		key = binary.BigEndian.AppendUint64(key, c.Owner)
		key = append(key, byte(slices.Index(CallStates(), c.Status)), byte(slices.Index(CallTypes(), c.Type)))
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
func countCalls(tx *Tx, scope Scope, f CallFilter, agent uint64) (n int, err error) {
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
func (f CallFilter) lets(b []byte) bool {
	return (f.State < 0 || int(b[0]) == f.State) && (f.Type < 0 || int(b[1]) == f.Type)
}

// NextCall gives the oldest queued call that no dialer has; ErrNotFound.
func NextCall(tx *Tx) (Call, error) {
	for _, key := range callTable.Find(tx, "queue", nil, false) {
		return callTable.Get(tx, key)
	}
	return Call{}, ErrNotFound
}

// LapsedCalls gives up to most calls whose lease has ended by a time.
func LapsedCalls(tx *Tx, now time.Time, most int) (calls []Call, err error) {
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

// CountAllCalls gives the number of all calls.
func CountAllCalls(tx *Tx) (int, error) { return callTable.Count(tx) }

// EachCall gives all calls, newest first by id, until visit says to stop.
func EachCall(tx *Tx, visit func(Call) error) error {
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

// CallFilter is what a list of calls is narrowed by.
type CallFilter struct {
	State, Type int    // places in CallStates and CallTypes, -1 for all
	Agent       string // database id or assistant id, "" for all
}

// ReadCallFilter reads status, type and agent_id of a query; an unknown word
// is ErrValidation and lists the known ones.
func ReadCallFilter(q url.Values) (f CallFilter, err error) {
	f = CallFilter{-1, -1, q.Get("agent_id")}
	for _, word := range []struct {
		name  string
		words []string
		into  *int
	}{{"status", CallStates(), &f.State}, {"type", CallTypes(), &f.Type}} {
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

// CallsInScope gives a page of the calls that an owner may see and the filter
// lets through, newest first, and how many there are in all.
func CallsInScope(tx *Tx, scope Scope, filter CallFilter, page Page) (calls []Call, count int, err error) {
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
func (c Call) Duration() *int {
	if c.StartedAt.IsZero() || c.EndedAt.IsZero() {
		return nil
	}
	n := int(c.EndedAt.Sub(c.StartedAt) / time.Second)
	return &n
}

// Row is a call as lists show it (contract 3.1).
func (c Call) Row(tx *Tx, scope Scope) map[string]any {
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
func (c Call) Detail(tx *Tx, scope Scope) map[string]any {
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
