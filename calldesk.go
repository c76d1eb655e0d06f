package main

import (
	"net/http"
	"net/url"
	"strconv"
)

// CallDesk serves the calls to the operator.
type CallDesk struct{ store *Store }

// NewCallDesk serves the calls of a store.
func NewCallDesk(store *Store) *CallDesk { return &CallDesk{store} }

// AdminRoutes lists the endpoints.
func (d *CallDesk) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/calls", Handle: d.list},
		{Method: "POST", Path: "/admin/v1/calls", Handle: d.record},
		{Method: "GET", Path: "/admin/v1/calls/:id", Handle: d.get},
		{Method: "PATCH", Path: "/admin/v1/calls/:id", Handle: d.update},
	}
}

func (d *CallDesk) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	filter, err := ReadCallFilter(q)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = d.store.View(func(tx *Tx) error {
		return EachCall(tx, func(c Call) error {
			if !matchesCall(tx, c, filter, q) {
				return nil
			}
			if count++; count <= (page.Number-1)*page.Limit || len(rows) >= page.Limit {
				return nil
			}
			shown, err := c.Operators(tx)
			rows = append(rows, shown)
			return err
		})
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "calls", rows))
}

func matchesCall(tx *Tx, c Call, f CallFilter, q url.Values) bool {
	return (f.State < 0 || CallStates()[f.State] == c.Status) &&
		(f.Type < 0 || CallTypes()[f.Type] == c.Type) &&
		(f.Agent == "" || f.Agent == c.Agent.AssistantID || f.Agent == strconv.FormatUint(c.Agent.ID, 10)) &&
		(q.Get("owner") == "" || q.Get("owner") == OwnerName(tx, c.Owner))
}

func (d *CallDesk) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := d.store.View(func(tx *Tx) error {
		c, err := FindCall(tx, r.Params.ByName("id"))
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

func (d *CallDesk) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	return ChangeCall(d.store, w, r, func(tx *Tx, c *Call) error {
		if body.Given("lease_token") {
			if err := c.CheckLease(body, r.Now); err != nil {
				return err
			}
		}
		status := c.Status
		body.Word("status", &status, CallStates()...)
		if err := ReadFacts(c, body); err != nil {
			return err
		}
		return Move(tx, c, status, r.Now)
	})
}

// record stores an inbound call.
func (d *CallDesk) record(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	kind := CallInbound
	body.Word("type", &kind, CallInbound)
	if err := body.Err(); err != nil {
		return err
	}
	order, err := ReadOrder(body)
	if err != nil {
		return err
	}
	var shown map[string]any
	err = r.Update(d.store, func(tx *Tx) error {
		c, err := inbound(tx, r, body, order)
		if err != nil {
			return err
		}
		if c, err = SaveCall(tx, c); err != nil {
			return err
		}
		if err := RaiseCall(tx, Call{}, c, r.Now); err != nil {
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

// inbound makes the record of an inbound call.
func inbound(tx *Tx, r *Request, b *Body, o Order) (c Call, err error) {
	name, status := "", CallInProgress
	b.String("owner", &name)
	b.Word("status", &status, CallStates()[1:]...)
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
	if o.Contact != 0 {
		if _, err := FindContact(tx, scope, o.Contact); err != nil {
			return c, ErrNotFound.With("No contact with the id %d.", o.Contact)
		}
	}
	c = Call{
		Owner: owner.ID, TeamID: agent.TeamID, Agent: CallAgent{agent.ID, agent.Name, agent.AssistantID}, Status: CallQueued, Type: CallInbound,
		PhoneNumber: o.Phone, ContactID: o.Contact, Variables: o.Variables, CreatedAt: r.Now, Billing: Billing{Status: BillingPending},
	}
	if err := ReadFacts(&c, b); err != nil {
		return c, err
	}
	return c, Move(tx, &c, status, r.Now)
}
