// The calls family holds phone calls. Read calls_record.go first (the record of
// a call and its table), then calls.go (the endpoints) and calls_dialer.go
// (claims, leases, changes of state, billing). Latchkey itself dials no number.
// Dialers, which are separate programs, claim calls and report the outcome.

package main

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"
)

// calls serves the API endpoints for calls.
type calls struct {
	store   *Store
	limiter *Limiter
}

// NewCalls returns the API endpoints for the calls in store. Each new call uses
// one unit of the limit CallsPerDay.
func NewCalls(store *Store, limiter *Limiter) *calls { return &calls{store, limiter} }

// CallTables returns the table of calls, for store checks.
func CallTables() []Checked { return []Checked{&callTable} }

// Routes returns the API endpoints for calls.
func (c *calls) Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/calls", Permission: ReadCalls, Handle: c.list},
		{Method: "GET", Path: "/api/v1/calls/:call_id", Permission: ReadCalls, Handle: c.get, Object: callExists},
		{Method: "POST", Path: "/api/v1/calls", Permission: InitiateCalls, Handle: c.start, Spends: CallsPerDay},
	}
}

func (c *calls) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query("page", "limit", "agent_id", "status", "type")
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 10, 100)
	if err != nil {
		return err
	}
	filter, err := readCallFilter(q)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = r.View(c.store, func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		query, err := filter.inScope(r.Context(), tx, scope)
		if errors.Is(err, ErrAgentNotFound) {
			return nil // an unknown agent has no calls
		}
		if err != nil {
			return err
		}
		calls, n, err := callTable.Page(tx, query, page.Bounds)
		count = n
		for _, call := range calls {
			rows = append(rows, call.Row(tx, scope))
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "calls", rows))
}

func (c *calls) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := c.store.View(func(tx *Tx) error {
		call, scope, err := callOf(tx, r.Key, r.Params.ByName("call_id"))
		if err != nil {
			return err
		}
		shown = call.Detail(tx, scope)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// callOf returns the call whose id or call id is ref, and the scope of the key. It returns ErrNotFound if the scope
// does not include the call: ErrPermission would confirm that it exists.
func callOf(tx *Tx, key *Key, ref string) (call, Scope, error) {
	scope, err := ScopeOfKey(tx, key)
	if err != nil {
		return call{}, scope, err
	}
	c, err := findCall(tx, ref)
	if err == nil && !scope.Has(c.place()) {
		err = ErrNotFound
	}
	return c, scope, err
}

// callExists is the Route.Object of routes with the id of a call.
func callExists(tx *Tx, key *Key, ref string) error {
	_, _, err := callOf(tx, key, ref)
	return err
}

// callRequest holds the fields of a request that starts a call or records an
// inbound call.
type callRequest struct {
	Phone     string // E.164 number
	Agent     string // id or assistant id
	Contact   uint64 // id of the contact, 0 if none
	Variables Values
}

// readCallRequest reads a callRequest from a body. If several fields are wrong,
// it returns the error that comes first in contract 3.3.
func readCallRequest(b *Body) (o callRequest, err error) {
	switch {
	case !b.Given("phone_number"):
		return o, ErrMissingPhone
	case !b.Given("agent_id"):
		return o, ErrMissingAgent
	}
	b.String("phone_number", AnyLength, &o.Phone)
	if raw := b.Raw("agent_id"); raw[0] == '"' {
		b.String("agent_id", AnyLength, &o.Agent)
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

// refer returns the agent of a new call with a key that has this scope. It returns ErrAgentNotFound, or ErrNotFound
// for the contact, if the scope does not include one of them, and otherwise ErrPermission if it would not include
// the call.
func (o callRequest) refer(tx *Tx, scope Scope) (Agent, error) {
	agent, err := FindAgent(tx, scope, o.Agent)
	if err != nil {
		return agent, err
	}
	if err := CheckContact(tx, scope, o.Contact); err != nil {
		return agent, err
	}
	return agent, scope.CheckStored(Place{Kind: CallRecord, Owner: scope.Owner, Team: agent.TeamID, Agent: agent.ID, Contact: o.Contact})
}

// start stores a queued call and charges the limit CallsPerDay. Both happen in
// one transaction, so a refused call uses no unit of the limit.
func (c *calls) start(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	o, err := readCallRequest(body)
	if err != nil {
		return err
	}
	var standings []LimitStatus
	var seen func(*Tx) error
	if r.Key.Resources != nil { // otherwise it would be allocated for every request
		seen = func(tx *Tx) error {
			scope, err := ScopeOfKey(tx, r.Key)
			if err == nil {
				_, err = o.refer(tx, scope)
			}
			return err
		}
	}
	return Once(w, r, Creation{c.store, "calls", http.StatusCreated, body, seen}, func(tx *Tx) (any, error) {
		if err := errors.Join(CheckValues(tx, "variables", nil, o.Variables), checkOutcome(r.Key.Owner, o.Variables)); err != nil {
			return nil, err
		}
		agent, err := c.check(tx, r, o)
		if err != nil {
			return nil, err
		}
		if standings, err = c.limiter.SpendIn(tx, r.Key.Charge(nil, CallsPerDay, 1), r.Steady); err != nil {
			return nil, err
		}
		tx.After(func() { r.SetLimits(standings) })
		call, err := saveCall(tx, call{
			Owner: r.Key.Owner, TeamID: agent.TeamID, Agent: callAgent{agent.ID, agent.Name, agent.AssistantID},
			Status: callQueued, Type: callOutbound, PhoneNumber: o.Phone, ContactID: o.Contact, Variables: o.Variables,
			CreatedAt: r.Now, Billing: billing{Status: billingPending},
		})
		if err != nil {
			return nil, err
		}
		return map[string]any{
			"id": call.ID, "call_id": call.CallID, "status": call.Status, "type": call.Type, "phone_number": call.PhoneNumber,
			"agent": &call.Agent, "created_at": Seconds(call.CreatedAt), "estimated_start": Seconds(call.CreatedAt.Add(5 * time.Second)),
		}, publishQueued(tx, call, r.Now)
	})
}

// check returns the agent for a new call, or the error with which the call is
// refused. If several errors apply, it returns the one that comes first in
// contract 3.3. The error for an unknown contact, ErrNotFound, comes before
// ErrFunds.
func (c *calls) check(tx *Tx, r *Request, o callRequest) (Agent, error) {
	scope, err := ScopeOfKey(tx, r.Key)
	if err != nil {
		return Agent{}, err
	}
	blocked := false
	if !IsSandbox(r.Key.Owner) { // nobody is called from a sandbox, and the operator's list is live
		blocked, err = Blocked(tx, o.Phone)
	}
	if err == nil && !blocked {
		blocked, err = ContactBlocks(tx, scope, o.Phone)
	}
	if err != nil {
		return Agent{}, err
	}
	if blocked {
		return Agent{}, ErrDoNotCall
	}
	agent, err := o.refer(tx, scope)
	if agent.ID != 0 && agent.PhoneNumber == "" {
		return agent, ErrNoPhone
	}
	if err != nil {
		return agent, err
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

// adminCalls serves the admin endpoints for calls, except those for dialers.
type adminCalls struct{ store *Store }

// NewAdminCalls returns the admin endpoints for the calls in store.
func NewAdminCalls(store *Store) *adminCalls { return &adminCalls{store} }

// AdminRoutes returns the admin endpoints for calls.
func (d *adminCalls) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/calls", Handle: d.list, Query: []string{"page", "limit", "agent_id", "status", "type", "owner", "sandbox"}},
		{Method: "POST", Path: "/admin/v1/calls", Handle: d.record},
		{Method: "GET", Path: "/admin/v1/calls/:id", Handle: d.get},
		{Method: "PATCH", Path: "/admin/v1/calls/:id", Handle: d.update},
	}
}

func (d *adminCalls) list(w http.ResponseWriter, r *Request) error {
	q, space, err := r.SpaceQuery()
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	filter, err := readCallFilter(q)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = r.View(d.store, func(tx *Tx) error {
		query, err := filter.ofOperator(r.Context(), tx, q)
		query.Space = space
		if errors.Is(err, ErrNotFound) {
			return nil // an unknown owner has no calls
		}
		if err != nil {
			return err
		}
		calls, n, err := callTable.Page(tx, query, page.Bounds)
		if err != nil {
			return err
		}
		count = n
		for _, call := range calls {
			shown, err := call.Operators(tx)
			if err != nil {
				return err
			}
			rows = append(rows, shown)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "calls", rows))
}

func (d *adminCalls) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := d.store.View(func(tx *Tx) error {
		c, err := findCall(tx, r.Params.ByName("id"))
		if err != nil {
			return err
		}
		shown, err = c.Operators(tx)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

func (d *adminCalls) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	fields := callBody(append(callFacts(), "lease_token", "status")...)
	return changeCall(d.store, w, r, func(tx *Tx, c *call) error {
		if err := r.CheckFields(body, fields); err != nil {
			return err
		}
		if body.Given("lease_token") {
			if err := c.CheckLease(body, r.Now); err != nil {
				return err
			}
		}
		if err := KeepOwner(tx, body, c.Owner, "call"); err != nil {
			return err
		}
		status := c.Status
		body.Word("status", &status, callStates()...)
		if err := readFacts(tx, c, body); err != nil {
			return err
		}
		return changeStatus(tx, c, status, r.Now)
	})
}

// record stores an inbound call. The call may still be in progress or already
// be over.
func (d *adminCalls) record(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(callBody(append(callFacts(), "type", "agent_id", "phone_number", "contact_id", "variables", "owner", "status")...))
	if err != nil {
		return err
	}
	kind := callInbound
	body.Word("type", &kind, callInbound)
	if err := body.Err(); err != nil {
		return err
	}
	order, err := readCallRequest(body)
	if err != nil {
		return err
	}
	var shown map[string]any
	err = r.Update(d.store, func(tx *Tx) error {
		c, err := inbound(tx, r, body, order)
		if err != nil {
			return err
		}
		if c, err = saveCall(tx, c); err != nil {
			return err
		}
		if err := publishCall(tx, call{}, c, r.Now); err != nil {
			return err
		}
		shown, err = c.Operators(tx)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, shown)
}

// inbound returns the record of an inbound call. It reads owner, status and the
// reported facts from b, and all other fields from o. If the call is over,
// inbound also bills it. The caller must store the record.
func inbound(tx *Tx, r *Request, b *Body, o callRequest) (c call, err error) {
	name, status := "", callInProgress
	b.String("owner", NameLength, &name)
	b.Word("status", &status, callStates()[1:]...)
	if err := b.Err(); err != nil {
		return c, err
	}
	owner, err := EnsureOwner(tx, name, r.Now)
	if err != nil {
		return c, err
	}
	scope, err := ScopeOf(tx, owner.ID)
	if err != nil {
		return c, err
	}
	agent, err := FindAgent(tx, scope, o.Agent)
	if err != nil {
		return c, err
	}
	if err := CheckContact(tx, scope, o.Contact); err != nil {
		return c, err
	}
	if err := CheckValues(tx, "variables", nil, o.Variables); err != nil {
		return c, err
	}
	c = call{
		Owner: owner.ID, TeamID: agent.TeamID, Agent: callAgent{agent.ID, agent.Name, agent.AssistantID}, Status: callQueued, Type: callInbound,
		PhoneNumber: o.Phone, ContactID: o.Contact, Variables: o.Variables, CreatedAt: r.Now, Billing: billing{Status: billingPending},
	}
	if err := readFacts(tx, &c, b); err != nil {
		return c, err
	}
	return c, changeStatus(tx, &c, status, r.Now)
}
