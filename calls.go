package main

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
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

// Lease says which dialer has a queued call, and for how long.
type Lease struct {
	Dialer string    `json:"dialer,omitempty"`
	Hash   string    `json:"hash,omitempty"` // SHA-256 of the token, in hex
	Until  time.Time `json:"until,omitzero"`
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
	if c.Status != CallQueued {
		return nil
	}
	return [][]byte{binary.BigEndian.AppendUint64(nil, uint64(c.CreatedAt.UnixNano()))}
}

var callTable = Table[Call]{
	Name: "calls",
	Key:  func(c Call) []byte { return IDKey(c.ID) },
	Indexes: []Index[Call]{
		{"scope", scopeEntries},
		{"call_id", func(c Call) [][]byte { return [][]byte{[]byte(c.CallID)} }},
		{"queue", queueEntries},
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
		c.ID, c.CallID = id, "call_"+RandomHex(8)
	}
	return c, callTable.Put(tx, c)
}

// QueuedCalls gives the queued calls, oldest first, until visit says to stop.
func QueuedCalls(tx *Tx, visit func(Call) (more bool)) error {
	for _, key := range callTable.Find(tx, "queue", nil, false) {
		c, err := callTable.Get(tx, key)
		if err != nil {
			return err
		}
		if !visit(c) {
			return nil
		}
	}
	return nil
}

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

// Calls serves the calls.
type Calls struct {
	store   *Store
	limiter *Limiter
}

// NewCalls serves the calls of a store; starting one spends a unit of
// CallsPerDay.
func NewCalls(store *Store, limiter *Limiter) *Calls { return &Calls{store, limiter} }

// Tables lists what it keeps in the store, for checks.
func (c *Calls) Tables() []Checked { return []Checked{callTable} }

// Routes lists the endpoints.
func (c *Calls) Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/calls", Permission: ReadCalls, Handle: c.list},
		{Method: "GET", Path: "/api/v1/calls/:call_id", Permission: ReadCalls, Handle: c.get},
		{Method: "POST", Path: "/api/v1/calls", Permission: InitiateCalls, Handle: c.start, Spends: CallsPerDay},
	}
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

// found is a call of a list before its record is read.
type found struct {
	at uint64
	id uint64
}

func (c *Calls) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 10, 100)
	if err != nil {
		return err
	}
	filter, err := ReadCallFilter(q)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = c.store.View(func(tx *Tx) error {
		scope, err := ScopeOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		all, err := callsInScope(tx, scope, filter)
		if err != nil {
			return err
		}
		count = len(all)
		from, to := page.Bounds(count)
		for _, f := range all[from:to] {
			call, err := callTable.Get(tx, IDKey(f.id))
			if err != nil {
				return err
			}
			rows = append(rows, call.row(tx, scope))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "calls", rows))
}

// callsInScope gives the calls that an owner may see and the filter lets
// through, newest first.
func callsInScope(tx *Tx, scope Scope, filter CallFilter) ([]found, error) {
	agent := uint64(0)
	if filter.Agent != "" {
		a, err := FindAgent(tx, scope, filter.Agent)
		if err != nil {
			return nil, nil // an agent that is not there has no calls
		}
		agent = a.ID
	}
	var all []found
	prefixes := scope.Keys()
	for _, prefix := range prefixes {
		for entry, key := range callTable.Find(tx, "scope", prefix, true) {
			if len(entry) != entrySize ||
				filter.State >= 0 && int(entry[entryState]) != filter.State ||
				filter.Type >= 0 && int(entry[entryType]) != filter.Type ||
				agent != 0 && binary.BigEndian.Uint64(entry[entryAgent:]) != agent {
				continue
			}
			all = append(all, found{binary.BigEndian.Uint64(entry), binary.BigEndian.Uint64(key)})
		}
	}
	if len(prefixes) > 1 { // a call of mine in a team of mine stands in both
		slices.SortFunc(all, func(a, b found) int { return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(b.id, a.id)) })
		all = slices.Compact(all)
	}
	return all, nil
}

// seconds is how long the call took, nil while that is not known.
func (c Call) seconds() *int {
	if c.StartedAt.IsZero() || c.EndedAt.IsZero() {
		return nil
	}
	n := int(c.EndedAt.Sub(c.StartedAt) / time.Second)
	return &n
}

func (c Call) row(tx *Tx, scope Scope) map[string]any {
	row := map[string]any{
		"id": c.CallID, "agent_id": c.Agent.AssistantID, "agent_name": c.Agent.Name, "status": c.Status, "type": c.Type,
		"phone_number": c.PhoneNumber, "started_at": Seconds(c.StartedAt), "ended_at": Seconds(c.EndedAt), "duration_seconds": c.seconds(),
		"summary": textOrNone(c.Summary), "recording_url": textOrNone(c.RecordingURL), "contact": nil,
	}
	if contact, err := FindContact(tx, scope, c.ContactID); err == nil {
		row["contact"] = contact.Brief()
	}
	return row
}

func textOrNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Detail is a call as GET /calls/{call_id} shows it (contract 3.2).
func (c Call) Detail(tx *Tx, scope Scope) map[string]any {
	shown := c.row(tx, scope)
	delete(shown, "agent_id")
	delete(shown, "agent_name")
	shown["id"], shown["call_id"], shown["agent"] = c.ID, c.CallID, c.Agent
	shown["transcript"], shown["billing"], shown["team"] = textOrNone(c.Transcript), c.Billing, nil
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

func (c *Calls) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := c.store.View(func(tx *Tx) error {
		scope, err := ScopeOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		call, err := FindCall(tx, r.Params.ByName("call_id"))
		if err != nil {
			return err
		}
		if !scope.Allows(call.Owner, call.TeamID) {
			return ErrNotFound // not ErrPermission: that would confirm that the call exists
		}
		shown = call.Detail(tx, scope)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// Order is what a body asks for: who is to be called, and by whom.
type Order struct {
	Phone, Agent string
	Contact      uint64
	Variables    Values
}

// ReadOrder reads the body of a start in the order of the contract's table
// (3.3).
func ReadOrder(b *Body) (o Order, err error) {
	switch {
	case !b.Given("phone_number"):
		return o, ErrMissingPhone
	case !b.Given("agent_id"):
		return o, ErrMissingAgent
	}
	b.String("phone_number", &o.Phone)
	if raw := b.Raw("agent_id"); raw[0] == '"' {
		b.String("agent_id", &o.Agent)
	} else {
		id := 0
		b.Int("agent_id", &id, 1, math.MaxInt)
		o.Agent = strconv.Itoa(id)
	}
	if err := b.Err(); err != nil {
		return o, err
	}
	switch {
	case o.Phone == "":
		return o, ErrMissingPhone
	case o.Agent == "":
		return o, ErrMissingAgent
	case !ValidPhone(o.Phone):
		return o, ErrInvalidPhone
	}
	b.ID("contact_id", &o.Contact)
	if raw := b.Raw("variables"); raw != nil && b.Err() == nil {
		if err := json.Unmarshal(raw, &o.Variables); err != nil {
			return o, ErrValidation.With("variables must be an object.")
		}
	}
	return o, b.Err()
}

// start stores a call as queued and charges the day's limit, in one
// transaction: both happen or neither.
func (c *Calls) start(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	o, err := ReadOrder(body)
	if err != nil {
		return err
	}
	var call Call
	var standing Standing
	err = c.store.Update(func(tx *Tx) error {
		agent, err := c.check(tx, r, o)
		if err != nil {
			return err
		}
		if standing, err = c.limiter.Charge(tx, r.Key.ID, r.Key.Limit(CallsPerDay), r.Moment); err != nil {
			return err
		}
		call, err = SaveCall(tx, Call{
			Owner: r.Key.Owner, TeamID: agent.TeamID, Agent: CallAgent{agent.ID, agent.Name, agent.AssistantID},
			Status: CallQueued, Type: CallOutbound, PhoneNumber: o.Phone, ContactID: o.Contact, Variables: o.Variables,
			CreatedAt: r.Now, Billing: Billing{Status: BillingPending},
		})
		return err
	})
	if err != nil {
		return err
	}
	r.SetLimit(standing)
	return WriteJSON(w, http.StatusCreated, map[string]any{
		"id": call.ID, "call_id": call.CallID, "status": call.Status, "type": call.Type, "phone_number": call.PhoneNumber,
		"agent": call.Agent, "created_at": Seconds(call.CreatedAt), "estimated_start": Seconds(call.CreatedAt.Add(5 * time.Second)),
	})
}

// check finds what stands in the way of a call, in the order of the contract's
// table (3.3), and gives the agent that is to make it.
func (c *Calls) check(tx *Tx, r *Request, o Order) (Agent, error) {
	scope, err := ScopeOf(tx, r.Key.Owner)
	if err != nil {
		return Agent{}, err
	}
	blocked, err := Blocked(tx, o.Phone)
	if err == nil && !blocked {
		blocked, err = ContactBlocks(tx, scope, o.Phone)
	}
	if err != nil {
		return Agent{}, err
	}
	if blocked {
		return Agent{}, ErrDoNotCall
	}
	agent, err := FindAgent(tx, scope, o.Agent)
	if err != nil {
		return agent, err
	}
	if agent.PhoneNumber == "" {
		return agent, ErrNoPhone
	}
	if o.Contact != 0 {
		if _, err := FindContact(tx, scope, o.Contact); err != nil {
			return agent, ErrNotFound.With("No contact with the id %d.", o.Contact)
		}
	}
	owner, err := FindOwner(tx, r.Key.Owner)
	if err != nil {
		return agent, err
	}
	if owner.Balance != nil && *owner.Balance < owner.Rate {
		return agent, ErrFunds.WithField("current_balance", *owner.Balance).WithField("required_rate", owner.Rate)
	}
	return agent, nil
}
