package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// Dialer serves the calls to the program that places them: it claims one under
// a lease, is heard of while it has it, and says what became of it.
type Dialer struct {
	store *Store
	ended context.Context // over when the server stops
	end   context.CancelFunc
}

// NewDialer serves the calls of a store.
func NewDialer(store *Store) *Dialer {
	d := &Dialer{store: store}
	d.ended, d.end = context.WithCancel(context.Background())
	return d
}

// Close lets dialers that wait for a call go without one.
func (d *Dialer) Close() { d.end() }

// AdminRoutes lists the endpoints.
func (d *Dialer) AdminRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/admin/v1/calls/claim", Handle: d.claim},
		{Method: "POST", Path: "/admin/v1/calls/:id/heartbeat", Handle: d.leased(d.heartbeat)},
		{Method: "POST", Path: "/admin/v1/calls/:id/start", Handle: d.leased(d.start)},
		{Method: "POST", Path: "/admin/v1/calls/:id/complete", Handle: d.leased(d.complete)},
		{Method: "POST", Path: "/admin/v1/calls/:id/fail", Handle: d.leased(d.fail)},
	}
}

// The length of a lease, and of the wait for a call to place, in seconds. The
// wait ends before a server's usual time to write an answer does.
const (
	usualLease = 60
	minLease   = 5
	maxLease   = 3600
	maxWait    = 20
)

// claim gives the oldest queued call to a dialer, under a lease. While the
// lease lasts nobody else gets it. With wait_seconds the answer waits for a
// call as long as there is none.
func (d *Dialer) claim(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(true)
	if err != nil {
		return err
	}
	seconds, wait, dialer := usualLease, 0, ""
	body.Int("lease_seconds", &seconds, minLease, maxLease)
	body.Int("wait_seconds", &wait, 0, maxWait)
	body.String("dialer", &dialer)
	if err := body.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(wait)*time.Second)
	defer cancel()
	defer context.AfterFunc(d.ended, cancel)()
	began, now := time.Now(), r.Now
	for {
		changed := d.store.Generation(callTable.Name).Load()
		answer, err := d.next(r, dialer, time.Duration(seconds)*time.Second, now)
		if !errors.Is(err, ErrNotFound) {
			if err != nil {
				return err
			}
			return WriteJSON(w, http.StatusOK, answer)
		}
		if !d.store.Await(ctx, callTable.Name, changed) {
			return WriteJSON(w, http.StatusOK, map[string]any{"call": nil})
		}
		now = r.Now.Add(time.Since(began))
	}
}

// next leases the oldest queued call; ErrNotFound where there is none.
func (d *Dialer) next(r *Request, dialer string, length time.Duration, now time.Time) (answer map[string]any, err error) {
	token := keytext.RandomHex(16)
	deed := r.Deed()
	deed.Now = now // the request may have waited
	err = deed.Update(d.store, func(tx *Tx) error {
		if _, err := lapse(tx, now); err != nil { // Lapse reports the problems
			return err
		}
		c, err := nextCall(tx)
		if err != nil {
			return err
		}
		c.Lease = lease{Dialer: dialer, Hash: hashToken(token), Until: now.Add(length), Lapsed: c.Lease.Lapsed}
		if c, err = saveCall(tx, c); err != nil {
			return err
		}
		shown, err := c.Operators(tx)
		answer = map[string]any{"call": shown, "lease": map[string]any{"token": token, "until": Seconds(c.Lease.Until)}}
		return err
	})
	return answer, err
}

func hashToken(token string) string { return fmt.Sprintf("%x", keytext.DigestOf(token)) }

// CheckLease refuses a dialer whose lease is not, or no longer, that of the
// call.
func (c call) CheckLease(b *Body, now time.Time) error {
	token := ""
	if b.String("lease_token", &token); b.Err() != nil {
		return b.Err()
	}
	if c.Lease.Hash != hashToken(token) || !c.Lease.Until.IsZero() && !now.Before(c.Lease.Until) {
		return ErrConflict.With("The lease of this call is over or another dialer's. Claim a call again.")
	}
	return nil
}

// leased makes the handler of what a dialer says of a call that it has.
func (d *Dialer) leased(say func(tx *Tx, c *call, b *Body, now time.Time) error) Handler {
	return func(w http.ResponseWriter, r *Request) error {
		body, err := r.ReadBody(false)
		if err != nil {
			return err
		}
		if !body.Given("lease_token") {
			return ErrMissing.With("lease_token is missing. Send the token that the claim gave.")
		}
		return changeCall(d.store, w, r, func(tx *Tx, c *call) error {
			if err := c.CheckLease(body, r.Now); err != nil {
				return err
			}
			return say(tx, c, body, r.Now)
		})
	}
}

// changeCall changes the call that the path names, tells the webhooks what has
// become of it and shows it.
func changeCall(store *Store, w http.ResponseWriter, r *Request, change func(*Tx, *call) error) error {
	var shown map[string]any
	err := r.Update(store, func(tx *Tx) error {
		before, err := findCall(tx, r.Params.ByName("id"))
		if err != nil {
			return err
		}
		c := before
		if err := change(tx, &c); err != nil {
			return err
		}
		if c, err = saveCall(tx, c); err != nil {
			return err
		}
		if err := publishCall(tx, before, c, r.Now); err != nil {
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

// heartbeat makes the lease last longer, from now on.
func (d *Dialer) heartbeat(_ *Tx, c *call, b *Body, now time.Time) error {
	if c.Status != callQueued && c.Status != callInProgress {
		return ErrConflict.With("The call is %s: there is nothing to keep.", c.Status)
	}
	seconds := usualLease
	if b.Given("lease_seconds") {
		b.Int("lease_seconds", &seconds, minLease, maxLease)
	}
	c.Lease.Until = now.Add(time.Duration(seconds) * time.Second)
	return b.Err()
}

// start says that the call is connected; heartbeats go on.
func (d *Dialer) start(tx *Tx, c *call, b *Body, now time.Time) error {
	if err := readFacts(c, b); err != nil {
		return err
	}
	if err := changeStatus(tx, c, callInProgress, now); err != nil {
		return err
	}
	return d.heartbeat(tx, c, b, now)
}

// complete says that the call has ended normally, and all there is to say of
// it. Said twice, as after an answer that was lost, it changes nothing.
func (d *Dialer) complete(tx *Tx, c *call, b *Body, now time.Time) error {
	if c.Status == callCompleted {
		return nil
	}
	if err := readFacts(c, b); err != nil {
		return err
	}
	return changeStatus(tx, c, callCompleted, now)
}

// fail says that the call did not connect or broke off, and why.
func (d *Dialer) fail(tx *Tx, c *call, b *Body, now time.Time) error {
	if c.Status == callFailed {
		return nil
	}
	if err := readFacts(c, b); err != nil {
		return err
	}
	return changeStatus(tx, c, callFailed, now)
}

// Lapse ends the leases that have run out: a call that was not begun goes back
// into the queue once, and fails the second time; one that was breaks off. It
// is to be called about every second.
func (d *Dialer) Lapse(now time.Time) error {
	due := false
	err := d.store.View(func(tx *Tx) error {
		calls, err := lapsedCalls(tx, now, 1)
		due = len(calls) > 0
		return err
	})
	if err != nil || !due {
		return err
	}
	var problems error
	err = d.store.Update(func(tx *Tx) (err error) {
		problems, err = lapse(tx, now)
		return err
	})
	return errors.Join(err, problems)
}

// maxLapses bounds how many calls one transaction takes from their dialers.
const maxLapses = 100

// lapse takes calls from dialers whose lease is over. A call that cannot be
// billed keeps its lease and is among the problems; the others go on.
func lapse(tx *Tx, now time.Time) (problems, err error) {
	calls, err := lapsedCalls(tx, now, maxLapses)
	if err != nil {
		return nil, err
	}
	for _, before := range calls {
		c := before
		switch {
		case c.Status == callQueued && c.Lease.Lapsed == 0:
			c.Lease = lease{Lapsed: 1}
		case c.Status == callQueued:
			c.ErrorReason, c.ErrorMessage = "failed", "Two dialers in turn claimed the call and were not heard of again."
			err = changeStatus(tx, &c, callFailed, now)
		default:
			c.ErrorReason, c.ErrorMessage = "disconnected", "The dialer was not heard of again during the call."
			c.EndedAt = c.Lease.Until
			if c.EndedAt.Before(c.StartedAt) {
				c.EndedAt = c.StartedAt
			}
			err = changeStatus(tx, &c, callFailed, now)
		}
		if errors.As(err, new(*unbilled)) {
			problems, err = errors.Join(problems, err), nil
			continue
		}
		if err != nil {
			return nil, err
		}
		if c, err = saveCall(tx, c); err != nil {
			return nil, err
		}
		if err := publishCall(tx, before, c, now); err != nil {
			return nil, err
		}
		if c.Status != callQueued {
			continue
		}
		if err := publishQueued(tx, c, now); err != nil { // for dialers that wait to be told
			return nil, err
		}
	}
	return problems, nil
}

// failReasons lists why a call can fail (contract 8.2).
func failReasons() []string {
	return []string{"twilio-failed-to-connect-call", "no-answer", "busy", "disconnected", "invalid-number", "rejected", "canceled", "failed"}
}

// readFacts sets what a body says of a call besides its state.
func readFacts(c *call, b *Body) error {
	b.Time("started_at", &c.StartedAt)
	b.Time("ended_at", &c.EndedAt)
	b.String("summary", &c.Summary)
	b.String("transcript", &c.Transcript)
	b.String("recording_url", &c.RecordingURL)
	if b.Given("error_reason") {
		b.Word("error_reason", &c.ErrorReason, failReasons()...)
	}
	if err := b.Err(); err != nil {
		return err
	}
	if !c.EndedAt.IsZero() && c.EndedAt.Before(c.StartedAt) {
		return ErrValidation.With("ended_at is before started_at.")
	}
	return nil
}

// changeStatus puts a call into another state, with all that follows from it: times,
// billing, the counts of its agent and its contact. ErrConflict where the state
// it is in does not allow that.
func changeStatus(tx *Tx, c *call, to string, now time.Time) error {
	if to == c.Status {
		return nil
	}
	next := map[string][]string{callQueued: {callInProgress, callCompleted, callFailed}, callInProgress: {callCompleted, callFailed}}
	if !slices.Contains(next[c.Status], to) {
		return ErrConflict.With("A call that is %s cannot become %s; it can become: %s.", c.Status, to, strings.Join(append(next[c.Status], "nothing else"), ", "))
	}
	if c.StartedAt.IsZero() && to != callFailed {
		c.StartedAt = now
	}
	c.Status = to
	c.Lease.Until = time.Time{}
	if to == callInProgress {
		return nil
	}
	if c.EndedAt.IsZero() {
		c.EndedAt = now
	}
	if c.EndedAt.Before(c.StartedAt) {
		return ErrValidation.With("ended_at is before started_at.")
	}
	if to == callFailed && c.ErrorReason == "" {
		c.ErrorReason = "failed"
	}
	if c.StartedAt.IsZero() {
		c.Billing.Status = billingNone
		return nil
	}
	return billCall(tx, c)
}

// unbilled is the error of a call that cannot end because a record that its bill
// changes is damaged. Nothing was written by then.
type unbilled struct {
	call uint64
	err  error
}

// Error names the call.
func (e *unbilled) Error() string { return fmt.Sprintf("bill call %d: %v", e.call, e.err) }

// Unwrap returns what is wrong with the record.
func (e *unbilled) Unwrap() error { return e.err }

// billCall bills a call that is over and counts it: for its agent, its contact
// and its owner's wallet. If one of them is damaged it returns an *unbilled.
func billCall(tx *Tx, c *call) error {
	owner, err1 := FindOwner(tx, c.Owner)
	agent, err2 := GetAgent(tx, c.Agent.ID)
	contact, err3 := FindContact(tx, c.Everyone(), c.ContactID)
	gone := func(err error) bool { return errors.Is(err, ErrNotFound) }
	for _, err := range []error{err1, err2, err3} {
		if err != nil && !gone(err) {
			return &unbilled{c.ID, err}
		}
	}
	if err1 != nil {
		return err1
	}
	minutes := math.Ceil(c.EndedAt.Sub(c.StartedAt).Minutes()*100) / 100
	c.Billing.Status = billingBilled
	if owner.Balance != nil {
		charge := math.Round(minutes*owner.Rate*10_000) / 10_000
		c.Billing.Final, c.Billing.Total = charge, charge
		left := math.Round((*owner.Balance-charge)*10_000) / 10_000
		owner.Balance = &left
		if err := SaveOwner(tx, owner); err != nil {
			return err
		}
	}
	if !gone(err2) {
		agent.TotalCalls++
		agent.MinutesUsed = math.Round((agent.MinutesUsed+minutes)*100) / 100
		if err := SaveAgent(tx, agent); err != nil {
			return err
		}
	}
	if gone(err3) {
		return nil
	}
	contact.LastCallDate = c.EndedAt
	return SaveContact(tx, contact)
}
