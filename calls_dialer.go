package main

import (
	"cmp"
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

// Dialer serves the admin endpoints for dialers, the programs that place calls.
// A dialer claims a call and gets a lease for it. It renews the lease with
// heartbeats and reports the outcome of the call.
type Dialer struct {
	store *Store
	ended context.Context    // canceled when the server stops
	end   context.CancelFunc // cancels ended
}

// NewDialer returns the dialer endpoints for the calls in store. Call Close
// when the server stops.
func NewDialer(store *Store) *Dialer {
	d := &Dialer{store: store}
	d.ended, d.end = context.WithCancel(context.Background())
	return d
}

// Close ends all waiting claims. They answer that there is no call.
func (d *Dialer) Close() { d.end() }

// AdminRoutes returns the admin endpoints for dialers.
func (d *Dialer) AdminRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/admin/v1/calls/claim", Handle: d.claim},
		{Method: "POST", Path: "/admin/v1/calls/:id/heartbeat", Handle: d.leased(d.heartbeat, "lease_seconds")},
		{Method: "POST", Path: "/admin/v1/calls/:id/start", Handle: d.leased(d.start, append(callFacts(), "lease_seconds")...)},
		{Method: "POST", Path: "/admin/v1/calls/:id/complete", Handle: d.leased(d.complete, callFacts()...)},
		{Method: "POST", Path: "/admin/v1/calls/:id/fail", Handle: d.leased(d.fail, callFacts()...)},
	}
}

// The length of a lease and the maximum time that a claim waits, in seconds.
const (
	usualLease = 60 // the default
	minLease   = 5
	maxLease   = 3600
	maxWait    = 20 // shorter than the usual write timeout of an HTTP server
)

// claim leases the oldest queued call to a dialer. No other dialer can claim
// the call while the lease lasts. If no call is queued, claim waits up to
// wait_seconds for one. The default is 0. If there is still no call, it answers
// {"call": null}.
func (d *Dialer) claim(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("dialer", "lease_seconds", "wait_seconds"))
	if err != nil {
		return err
	}
	seconds, wait, dialer := usualLease, 0, ""
	body.Int("lease_seconds", &seconds, minLease, maxLease)
	body.Int("wait_seconds", &wait, 0, maxWait)
	body.String("dialer", NameLength, &dialer)
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

// next leases the oldest queued call to a dialer until length after now. It
// returns the answer for the dialer, or ErrNotFound if no call is queued.
func (d *Dialer) next(r *Request, dialer string, length time.Duration, now time.Time) (answer map[string]any, err error) {
	token := keytext.RandomHex(16)
	deed := r.Deed()
	deed.Now = now // later than r.Now if the claim has waited
	err = deed.Update(d.store, func(tx *Tx) error {
		if _, err := lapse(tx, now); err != nil { // ignores the problems, which Lapse reports
			return err
		}
		c, shown, err := nextCall(tx, lease{Dialer: dialer, Hash: hashToken(token), Until: now.Add(length)})
		if err != nil {
			return err
		}
		answer = map[string]any{"call": shown, "lease": map[string]any{"token": token, "until": Seconds(c.Lease.Until)}}
		_, err = saveCall(tx, c)
		return err
	})
	return answer, err
}

func hashToken(token string) string { return fmt.Sprintf("%x", keytext.DigestOf(token)) }

// CheckLease returns ErrConflict if the lease_token in the body does not belong
// to the current lease of the call, or if the lease has expired.
func (c call) CheckLease(b *Body, now time.Time) error {
	token := ""
	if b.String("lease_token", AnyLength, &token); b.Err() != nil {
		return b.Err()
	}
	if c.Lease.Hash != hashToken(token) || !c.Lease.Until.IsZero() && !now.Before(c.Lease.Until) {
		return ErrConflict.With("lease_token does not match the call's lease, or the lease has expired. Claim a call again.")
	}
	return nil
}

// leased returns a handler that checks the dialer's lease and then calls report
// to change the call. The body has the lease_token and these members.
func (d *Dialer) leased(report func(tx *Tx, c *call, b *Body, now time.Time) error, members ...string) Handler {
	fields := callBody(append(members, "lease_token")...)
	return func(w http.ResponseWriter, r *Request) error {
		body, err := r.ReadFields(fields)
		if err != nil {
			return err
		}
		if !body.Given("lease_token") {
			return ErrMissing.With("lease_token is missing. Send the token from the answer to the claim.")
		}
		return changeCall(d.store, w, r, func(tx *Tx, c *call) error {
			if err := c.CheckLease(body, r.Now); err != nil {
				return err
			}
			return report(tx, c, body, r.Now)
		})
	}
}

// changeCall finds the call in the request path, applies change to it and
// stores it. It publishes the webhook events for the change and answers with
// the call. After an error nothing is stored.
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

// heartbeat renews the lease, which then ends lease_seconds after now. The
// default is usualLease. It returns ErrConflict if the call is over.
func (d *Dialer) heartbeat(_ *Tx, c *call, b *Body, now time.Time) error {
	if c.Status != callQueued && c.Status != callInProgress {
		return ErrConflict.With("The call is %s, so its lease cannot be renewed.", c.Status)
	}
	seconds := usualLease
	if b.Given("lease_seconds") {
		b.Int("lease_seconds", &seconds, minLease, maxLease)
	}
	c.Lease.Until = now.Add(time.Duration(seconds) * time.Second)
	return b.Err()
}

// start handles a dialer's report that the call has connected. It stores the
// reported facts, moves the call to in-progress and renews the lease.
func (d *Dialer) start(tx *Tx, c *call, b *Body, now time.Time) error {
	if err := readFacts(tx, c, b); err != nil {
		return err
	}
	if err := changeStatus(tx, c, callInProgress, now); err != nil {
		return err
	}
	return d.heartbeat(tx, c, b, now)
}

// complete handles a dialer's report that the call has ended normally. A
// repeated report changes nothing. So a dialer that got no answer may repeat
// its report.
func (d *Dialer) complete(tx *Tx, c *call, b *Body, now time.Time) error {
	if c.Status == callCompleted {
		return nil
	}
	if err := readFacts(tx, c, b); err != nil {
		return err
	}
	return changeStatus(tx, c, callCompleted, now)
}

// fail handles a dialer's report that the call did not connect or was cut off.
// A repeated report changes nothing.
func (d *Dialer) fail(tx *Tx, c *call, b *Body, now time.Time) error {
	if c.Status == callFailed {
		return nil
	}
	if err := readFacts(tx, c, b); err != nil {
		return err
	}
	return changeStatus(tx, c, callFailed, now)
}

// Lapse ends up to maxLapses leases that have expired. A queued call returns to
// the queue when its lease expires for the first time, and fails the second
// time. A call in progress fails with the reason disconnected. The error
// reports calls that cannot be billed. Call Lapse about once a second.
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

// maxLapses is the maximum number of leases that one transaction ends.
const maxLapses = 100

// lapse does the work of Lapse in the transaction tx. A call that cannot be
// billed keeps its lease, and problems contains its error. The other calls are
// still handled. If err is not nil, the caller must roll back tx.
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
			c.ErrorReason, c.ErrorMessage = "failed", "The call was claimed twice, and both times the dialer stopped reporting."
			err = changeStatus(tx, &c, callFailed, now)
		default:
			c.ErrorReason, c.ErrorMessage = "disconnected", "The dialer stopped reporting during the call."
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
		if err := publishQueued(tx, c, now); err != nil { // dialers that do not poll wait for this event
			return nil, err
		}
	}
	return problems, nil
}

// failReasons returns the allowed values of error_reason (contract 8.2).
func failReasons() []string {
	return []string{"twilio-failed-to-connect-call", "no-answer", "busy", "disconnected", "invalid-number", "rejected", "canceled", "failed"}
}

// callFacts returns the members of a body that readFacts reads.
func callFacts() []string {
	return []string{"started_at", "ended_at", "summary", "transcript", "recording_url", "error_reason"}
}

// callBody returns the members that the body of a call may have, of which those in set have an effect.
func callBody(set ...string) BodyFields {
	return BodyFields{
		Set: set,
		Shown: []string{
			"id", "call_id", "agent", "status", "type", "phone_number", "started_at", "ended_at", "duration_seconds", "summary", "transcript", "recording_url",
			"contact", "team", "billing", "owner", "sandbox", "created_at", "error_reason", "error_message", "lease_until", "dialer", "variables",
			"prompt_variables", "created_by", "updated_by",
		},
	}
}

// readFacts sets the fields of the call that the body reports, such as its
// times and its summary. It does not change the state. A text that is too long is
// cut, because the call would otherwise not end. It returns ErrValidation if a value
// is wrong.
func readFacts(tx *Tx, c *call, b *Body) error {
	b.Time("started_at", &c.StartedAt)
	b.Time("ended_at", &c.EndedAt)
	b.CutString("summary", NoteLength, &c.Summary)
	b.CutString("transcript", tx.Bounds.TranscriptLength, &c.Transcript)
	b.CutString("recording_url", RecordingLength, &c.RecordingURL)
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

// changeStatus moves the call c to another state and sets its times. If the
// call is then over, changeStatus also bills it, unless it never started. It
// returns ErrConflict if the current state does not allow the change,
// ErrValidation if the call would end before it started, or *unbilled. The
// caller stores c, or discards it after an error.
func changeStatus(tx *Tx, c *call, status string, now time.Time) error {
	if status == c.Status {
		return nil
	}
	next := map[string][]string{callQueued: {callInProgress, callCompleted, callFailed}, callInProgress: {callCompleted, callFailed}}
	if !slices.Contains(next[c.Status], status) {
		allowed := cmp.Or(strings.Join(next[c.Status], ", "), "none")
		return ErrConflict.With("status cannot change from %s to %s. Allowed new values: %s.", c.Status, status, allowed)
	}
	if c.StartedAt.IsZero() && status != callFailed {
		c.StartedAt = now
	}
	c.Status = status
	c.Lease.Until = time.Time{}
	if status == callInProgress {
		return nil
	}
	if c.EndedAt.IsZero() {
		c.EndedAt = now
	}
	if c.EndedAt.Before(c.StartedAt) {
		return ErrValidation.With("ended_at is before started_at.")
	}
	if status == callFailed && c.ErrorReason == "" {
		c.ErrorReason = "failed"
	}
	if c.StartedAt.IsZero() {
		c.Billing.Status = billingNone
		return nil
	}
	return billCall(tx, c)
}

// unbilled is the error for a call that cannot be billed because the record of
// its owner, agent or contact is damaged. billCall has stored nothing if it
// returns this error.
type unbilled struct {
	call uint64 // id of the call
	err  error  // error of the damaged record
}

// Error returns the id of the call and the error of the damaged record, as
// text.
func (e *unbilled) Error() string { return fmt.Sprintf("bill call %d: %v", e.call, e.err) }

// Unwrap returns the error with which reading the damaged record failed.
func (e *unbilled) Unwrap() error { return e.err }

// billCall bills a call that is over. It reduces the owner's balance, adds the
// call to the agent's totals and sets the contact's last call date. It skips an
// agent or a contact that was deleted. It returns ErrNotFound if the owner is
// missing. It returns *unbilled if one of the three records is damaged.
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
