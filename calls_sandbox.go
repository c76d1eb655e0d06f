package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// No dialer gets the calls of sandboxes. They play out by themselves, with the changes of state and the webhook events
// of a call that a dialer places. When each change happens follows from the stored call, so a restart delays it at most.

// The times of a call of a sandbox. With the period of the work that calls Play, a call is over within 3 seconds.
const (
	playRings = time.Second // from its creation until it connects or fails
	playTalks = time.Second // from then until its end
)

// outcomeVariable is the name of the variable with which a call of a sandbox says how it is to end.
const outcomeVariable = "sandbox_outcome"

// playOutcomes returns the values of outcomeVariable, the default first.
func playOutcomes() []string { return append([]string{callCompleted}, failReasons()...) }

// checkOutcome returns ErrValidation if the variables of a call of a sandbox have an unknown outcome.
func checkOutcome(owner uint64, v Values) error {
	if outcome, given := v[outcomeVariable]; given && IsSandbox(owner) && !slices.Contains(playOutcomes(), fmt.Sprint(outcome)) {
		return ErrValidation.With("variables.%s must be one of %s; got %q.", outcomeVariable, strings.Join(playOutcomes(), ", "), fmt.Sprint(outcome))
	}
	return nil
}

// outcome returns how the call of a sandbox ends, one of playOutcomes.
func (c call) outcome() string {
	if outcome, given := c.Variables[outcomeVariable].(string); given {
		return outcome
	}
	return callCompleted
}

// playEntries returns the time of the next change of a call of a sandbox.
func playEntries(c call) [][]byte {
	if !IsSandbox(c.Owner) || c.Status != callQueued && c.Status != callInProgress {
		return nil
	}
	return [][]byte{IDKey(uint64(c.playsAt().UnixNano()))}
}

// playsAt returns the time of the next change of a call of a sandbox that is not over.
func (c call) playsAt() time.Time {
	if c.Status == callQueued {
		return c.CreatedAt.Add(playRings)
	}
	return c.StartedAt.Add(playTalks)
}

// Play makes the changes of calls of sandboxes that are due, of up to maxLapses calls. The error reports calls that cannot be
// billed; their changes are made later. Call Play about once a second.
func (d *Dialer) Play(now time.Time) error {
	due := false
	err := d.store.View(func(tx *Tx) error {
		due = len(playsDue(tx, now, 1)) > 0
		return nil
	})
	if err != nil || !due {
		return err
	}
	var problems error
	err = d.store.Update(func(tx *Tx) error {
		problems = nil
		for _, key := range playsDue(tx, now, maxLapses) {
			bad := playOut(tx, key, now)
			if errors.As(bad, new(*unbilled)) {
				problems, bad = errors.Join(problems, bad), nil
			}
			if bad != nil {
				return bad
			}
		}
		return nil
	})
	return errors.Join(err, problems)
}

// playsDue returns the keys of up to limit calls that have a change at or before now.
func playsDue(tx *Tx, now time.Time, limit int) (keys [][]byte) {
	for at, key := range callTable.Find(tx, "playing", nil, Forward) {
		if len(keys) == limit || bytes.Compare(at, IDKey(uint64(now.UnixNano()))) > 0 {
			break
		}
		keys = append(keys, bytes.Clone(key))
	}
	return keys
}

// playOut makes all changes of a call of a sandbox that are due.
func playOut(tx *Tx, key []byte, now time.Time) error {
	c, err := callTable.Get(tx, key)
	for err == nil && len(playEntries(c)) > 0 && !c.playsAt().After(now) {
		before := c
		if err = c.play(tx); err != nil {
			break
		}
		if c, err = saveCall(tx, c); err == nil {
			err = publishCall(tx, before, c, now)
		}
	}
	return err
}

// play makes the next change of a call of a sandbox. The caller stores c.
func (c *call) play(tx *Tx) error {
	at, outcome := c.playsAt(), c.outcome()
	switch {
	case c.Status == callQueued && (outcome == callCompleted || outcome == "disconnected"):
		return changeStatus(tx, c, callInProgress, at)
	case outcome != callCompleted:
		c.ErrorReason, c.ErrorMessage = outcome, "The call of a sandbox was asked to end so. Nobody was called."
		return changeStatus(tx, c, callFailed, at)
	}
	c.Summary = "A call of a sandbox. Nobody was called."
	c.Transcript = c.Agent.Name + ": Hello, this is a call of the sandbox.\nContact: Good, then it works."
	c.RecordingURL = "https://sandbox.invalid/recordings/" + c.CallID + ".mp3"
	return changeStatus(tx, c, callCompleted, at)
}
