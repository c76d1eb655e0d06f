package main

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Calls serves the calls.
type Calls struct {
	store   *Store
	limiter *Limiter
}

// NewCalls serves the calls of a store; starting one spends a unit of
// CallsPerDay.
func NewCalls(store *Store, limiter *Limiter) *Calls { return &Calls{store, limiter} }

// Tables lists what it keeps in the store, for checks.
func (c *Calls) Tables() []Checked { return []Checked{CallTable} }

// Routes lists the endpoints.
func (c *Calls) Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/calls", Permission: ReadCalls, Handle: c.list},
		{Method: "GET", Path: "/api/v1/calls/:call_id", Permission: ReadCalls, Handle: c.get},
		{Method: "POST", Path: "/api/v1/calls", Permission: InitiateCalls, Handle: c.start, Spends: CallsPerDay},
	}
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
		rows = []any{}
		calls, n, err := CallsInScope(tx, scope, filter, page)
		for _, call := range calls {
			rows = append(rows, call.Row(tx, scope))
		}
		count = n
		if err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "calls", rows))
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
	var standings []Standing
	return Once(c.store, w, r, "calls", http.StatusCreated, body, func(tx *Tx) (any, error) {
		agent, err := c.check(tx, r, o)
		if err != nil {
			return nil, err
		}
		if standings, err = c.limiter.PayIn(tx, r.Key.Charge(nil, CallsPerDay, 1), r.Moment); err != nil {
			return nil, err
		}
		tx.After(func() { r.SetLimits(standings) })
		call, err := SaveCall(tx, Call{
			Owner: r.Key.Owner, TeamID: agent.TeamID, Agent: CallAgent{agent.ID, agent.Name, agent.AssistantID},
			Status: CallQueued, Type: CallOutbound, PhoneNumber: o.Phone, ContactID: o.Contact, Variables: o.Variables,
			CreatedAt: r.Now, Billing: Billing{Status: BillingPending},
		})
		if err != nil {
			return nil, err
		}
		return map[string]any{
			"id": call.ID, "call_id": call.CallID, "status": call.Status, "type": call.Type, "phone_number": call.PhoneNumber,
			"agent": call.Agent, "created_at": Seconds(call.CreatedAt), "estimated_start": Seconds(call.CreatedAt.Add(5 * time.Second)),
		}, RaiseQueued(tx, call, r.Now)
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
