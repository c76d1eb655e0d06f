package main

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Dialer serves the calls to the operator and to the program that places them.
type Dialer struct{ store *Store }

// NewDialer serves the calls of a store.
func NewDialer(store *Store) *Dialer { return &Dialer{store} }

// AdminRoutes lists the endpoints.
func (d *Dialer) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/calls", Handle: d.list},
		{Method: "POST", Path: "/admin/v1/calls", Handle: d.record},
		{Method: "POST", Path: "/admin/v1/calls/claim", Handle: d.claim},
		{Method: "GET", Path: "/admin/v1/calls/:id", Handle: d.get},
		{Method: "PATCH", Path: "/admin/v1/calls/:id", Handle: d.update},
	}
}

// everything is the scope of the operator for one record.
func everything(c Call) Scope { return Scope{Owner: c.Owner, Teams: []uint64{c.TeamID}} }

// show gives a call as the operator sees it. The contact is shown whoever it
// belongs to, since the call names it.
func show(tx *Tx, c Call) map[string]any {
	shown := c.Detail(tx, everything(c))
	shown["owner"], shown["created_at"] = OwnerName(tx, c.Owner), Seconds(c.CreatedAt)
	shown["error_reason"], shown["variables"] = c.ErrorReason, c.Variables
	shown["lease_until"], shown["dialer"] = Seconds(c.Lease.Until), c.Lease.Dialer
	if c.Variables == nil {
		shown["variables"] = map[string]any{}
	}
	return shown
}

func (d *Dialer) list(w http.ResponseWriter, r *Request) error {
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
			if count++; count > (page.Number-1)*page.Limit && len(rows) < page.Limit {
				rows = append(rows, show(tx, c))
			}
			return nil
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

func (d *Dialer) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := d.store.View(func(tx *Tx) error {
		c, err := FindCall(tx, r.Params.ByName("id"))
		if err != nil {
			return err
		}
		shown = show(tx, c)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// claim gives the oldest queued call to a dialer, under a lease. While the
// lease lasts nobody else gets it; after that the next one does.
func (d *Dialer) claim(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(true)
	if err != nil {
		return err
	}
	seconds, dialer := 60, ""
	body.Int("lease_seconds", &seconds, 5, 3600)
	body.String("dialer", &dialer)
	if err := body.Err(); err != nil {
		return err
	}
	token := RandomHex(16)
	answer := map[string]any{"call": nil}
	err = d.store.Update(func(tx *Tx) error {
		var next Call
		err := QueuedCalls(tx, func(c Call) bool {
			if r.Now.Before(c.Lease.Until) {
				return true
			}
			next = c
			return false
		})
		if err != nil || next.ID == 0 {
			return err
		}
		next.Lease = Lease{Dialer: dialer, Hash: hashToken(token), Until: r.Now.Add(time.Duration(seconds) * time.Second)}
		if next, err = SaveCall(tx, next); err != nil {
			return err
		}
		shown := show(tx, next)
		if agent, err := GetAgent(tx, next.Agent.ID); err == nil {
			brief := agent.Brief()
			brief["phone_number"] = agent.PhoneNumber
			shown["agent"] = brief
		}
		answer = map[string]any{"call": shown, "lease": map[string]any{"token": token, "until": Seconds(next.Lease.Until)}}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, answer)
}

func hashToken(token string) string { return fmt.Sprintf("%x", DigestOf(token)) }

// reasons lists why a call can fail (contract 8.2).
func reasons() []string {
	return []string{"twilio-failed-to-connect-call", "no-answer", "busy", "disconnected", "invalid-number", "rejected", "canceled", "failed"}
}

// facts sets what a body says of a call besides its state.
func facts(c *Call, b *Body) error {
	b.Time("started_at", &c.StartedAt)
	b.Time("ended_at", &c.EndedAt)
	b.String("summary", &c.Summary)
	b.String("transcript", &c.Transcript)
	b.String("recording_url", &c.RecordingURL)
	if b.Given("error_reason") {
		b.Word("error_reason", &c.ErrorReason, reasons()...)
	}
	if err := b.Err(); err != nil {
		return err
	}
	if !c.EndedAt.IsZero() && c.EndedAt.Before(c.StartedAt) {
		return ErrValidation.With("ended_at is before started_at.")
	}
	return nil
}

func (d *Dialer) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	return d.save(w, http.StatusOK, func(tx *Tx) (c Call, err error) {
		if c, err = FindCall(tx, r.Params.ByName("id")); err != nil {
			return c, err
		}
		if err := checkLease(c, body, r.Now); err != nil {
			return c, err
		}
		status := c.Status
		body.Word("status", &status, CallStates()...)
		if err := facts(&c, body); err != nil {
			return c, err
		}
		return c, move(tx, &c, status, r.Now)
	})
}

// save stores the call that a function makes or changes, and shows it.
func (d *Dialer) save(w http.ResponseWriter, status int, change func(*Tx) (Call, error)) error {
	var shown map[string]any
	err := d.store.Update(func(tx *Tx) error {
		c, err := change(tx)
		if err != nil {
			return err
		}
		if c, err = SaveCall(tx, c); err != nil {
			return err
		}
		shown = show(tx, c)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, status, shown)
}

// checkLease refuses a dialer whose lease is not, or no longer, that of the
// call. The operator, who names none, may always change it.
func checkLease(c Call, b *Body, now time.Time) error {
	if !b.Given("lease_token") {
		return nil
	}
	token := ""
	if b.String("lease_token", &token); b.Err() != nil {
		return b.Err()
	}
	if c.Lease.Hash != hashToken(token) || c.Status == CallQueued && !now.Before(c.Lease.Until) {
		return ErrConflict.With("The lease of this call is over or another dialer's. Claim a call again.")
	}
	return nil
}

// move puts a call into another state, with all that follows from it.
func move(tx *Tx, c *Call, to string, now time.Time) error {
	if to == c.Status {
		return nil
	}
	next := map[string][]string{CallQueued: {CallInProgress, CallCompleted, CallFailed}, CallInProgress: {CallCompleted, CallFailed}}
	if !slices.Contains(next[c.Status], to) {
		return ErrConflict.With("A call that is %s cannot become %s; it can become: %s.", c.Status, to, strings.Join(append(next[c.Status], "nothing else"), ", "))
	}
	if c.StartedAt.IsZero() && to != CallFailed {
		c.StartedAt = now
	}
	c.Status = to
	if to == CallInProgress {
		return nil
	}
	if c.EndedAt.IsZero() {
		c.EndedAt = now
	}
	if c.EndedAt.Before(c.StartedAt) {
		return ErrValidation.With("ended_at is before started_at.")
	}
	if to == CallFailed && c.ErrorReason == "" {
		c.ErrorReason = "failed"
	}
	if c.StartedAt.IsZero() {
		c.Billing.Status = BillingNone
		return nil
	}
	return settle(tx, c)
}

// settle bills a call that is over and counts it: for its agent, its contact
// and its owner's wallet.
func settle(tx *Tx, c *Call) error {
	minutes := math.Ceil(c.EndedAt.Sub(c.StartedAt).Minutes()*100) / 100
	owner, err := FindOwner(tx, c.Owner)
	if err != nil {
		return err
	}
	c.Billing.Status = BillingBilled
	if owner.Balance != nil {
		charge := math.Round(minutes*owner.Rate*10_000) / 10_000
		c.Billing.Final, c.Billing.Total = charge, charge
		left := math.Round((*owner.Balance-charge)*10_000) / 10_000
		owner.Balance = &left
		if err := SaveOwner(tx, owner); err != nil {
			return err
		}
	}
	if agent, err := GetAgent(tx, c.Agent.ID); err == nil {
		agent.TotalCalls++
		agent.MinutesUsed = math.Round((agent.MinutesUsed+minutes)*100) / 100
		if err := SaveAgent(tx, agent); err != nil {
			return err
		}
	}
	contact, err := FindContact(tx, everything(*c), c.ContactID)
	if err != nil {
		return nil // none, or gone: nothing to count
	}
	contact.LastCallDate = c.EndedAt
	return SaveContact(tx, contact)
}

// record stores an inbound call.
func (d *Dialer) record(w http.ResponseWriter, r *Request) error {
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
	return d.save(w, http.StatusCreated, func(tx *Tx) (Call, error) { return inbound(tx, r, body, order) })
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
	if err := facts(&c, b); err != nil {
		return c, err
	}
	return c, move(tx, &c, status, r.Now)
}
