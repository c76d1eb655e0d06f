package main

import (
	"math"
	"slices"
	"strings"
	"time"
)

// FailReasons lists why a call can fail (contract 8.2).
func FailReasons() []string {
	return []string{"twilio-failed-to-connect-call", "no-answer", "busy", "disconnected", "invalid-number", "rejected", "canceled", "failed"}
}

// ReadFacts sets what a body says of a call besides its state.
func ReadFacts(c *Call, b *Body) error {
	b.Time("started_at", &c.StartedAt)
	b.Time("ended_at", &c.EndedAt)
	b.String("summary", &c.Summary)
	b.String("transcript", &c.Transcript)
	b.String("recording_url", &c.RecordingURL)
	if b.Given("error_reason") {
		b.Word("error_reason", &c.ErrorReason, FailReasons()...)
	}
	if err := b.Err(); err != nil {
		return err
	}
	if !c.EndedAt.IsZero() && c.EndedAt.Before(c.StartedAt) {
		return ErrValidation.With("ended_at is before started_at.")
	}
	return nil
}

// Move puts a call into another state, with all that follows from it: times,
// billing, the counts of its agent and its contact. ErrConflict where the state
// it is in does not allow that.
func Move(tx *Tx, c *Call, to string, now time.Time) error {
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
	c.Lease.Until = time.Time{}
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
	contact, err := FindContact(tx, c.Everyone(), c.ContactID)
	if err != nil {
		return nil // none, or gone: nothing to count
	}
	contact.LastCallDate = c.EndedAt
	return SaveContact(tx, contact)
}
