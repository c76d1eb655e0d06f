package main

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"latchkey/dashboard"
)

// stepSpan is how long an operator has for the second step of a login.
const stepSpan = 10 * time.Minute

// loginStep is what a browser keeps between the password and the second factor.
type loginStep struct {
	Operator  uint64    `json:"operator"`
	ChangedAt time.Time `json:"changed_at"`       // of the password; another one ends the login
	Secret    string    `json:"secret,omitempty"` // of the app that the operator sets up; "" if there is a factor already
	IssuedAt  time.Time `json:"issued_at"`        // differs between two tickets

	Passkey *webauthn.SessionData `json:"passkey,omitempty"` // what an answer of a passkey is checked against; nil if the operator has none here
}

var stepTicket = ticketKind[loginStep]{"second step of a login", stepSpan}

// errLate is the answer to a second step that cannot go on.
var errLate = ErrLogin.With("This login has expired. Type the name and the password again.")

// goOn continues a login after the right password: it begins a session, or asks for a second factor if
// the operator has one or must set one up.
func (a *Accounts) goOn(r *http.Request, op operator, c dashboard.Credentials) (made dashboard.Login, err error) {
	factors, err := a.o.Operators.Factors(op.ID)
	if err != nil {
		return made, err
	}
	if len(factors) == 0 && !a.o.SecondFactor {
		return a.begin(r, op, c)
	}
	now := a.latest()
	step := loginStep{Operator: op.ID, ChangedAt: op.ChangedAt, IssuedAt: now}
	if len(factors) > 0 {
		if step.Passkey, err = a.o.Passkeys.askOperator(op, protocol.VerificationPreferred); err != nil {
			return made, err
		}
		made.Step, err = a.showStep(step, now)
		return made, err
	}
	if a.needsLink(op, c.Enroll, now) {
		by := a.deed(r, shownOperator(op), "log in")
		a.o.Log.Warn("login failed", "client", AddrText(by.Client), "reason", "the operator needs a link to set up a second factor")
		a.o.Refused(by, ErrPermission)
		return made, ErrPermission.With("You need a second factor, and your password is known to the environment of the service. Set it up with a link. On the server: latchkey admin enroll %q", op.Name)
	}
	address := ""
	step.Secret, address = newTOTP(op.Name)
	made.Step, err = a.showStep(step, now)
	made.Step.Secret, made.Step.URL = step.Secret, address
	return made, err
}

// showStep returns what the dashboard must know to ask for the second factor.
func (a *Accounts) showStep(step loginStep, now time.Time) (*dashboard.LoginStep, error) {
	ticket, err := stepTicket.issue(a.o.Peppers, step, now)
	return &dashboard.LoginStep{Ticket: ticket, Passkey: dashboard.Question{Options: optionsOf(step.Passkey)}}, err
}

// secondStep checks the second factor and begins a session. If the factor is wrong, made has the step,
// so that the operator can try again.
func (a *Accounts) secondStep(r *http.Request, c dashboard.Credentials) (made dashboard.Login, err error) {
	by := a.deed(r, dashboard.Operator{}, "log in")
	step, ok := stepTicket.read(a.o.Peppers, c.Ticket, by.Late())
	if !ok {
		return made, faultFor(errLate)
	}
	op, err := a.o.Operators.Find(step.Operator)
	if errors.Is(err, ErrNotFound) || err == nil && !op.ChangedAt.Equal(step.ChangedAt) {
		err = errLate
	}
	if err != nil {
		return made, faultFor(err)
	}
	by = a.deed(r, shownOperator(op), "log in")
	undo, wait := a.trySecond(c, op, by)
	if wait > 0 {
		a.o.Refused(by, ErrRateLimit)
		return made, faultFor(ErrRateLimit.After(wait))
	}
	if c.Passkey != "" {
		err = a.secondPasskey(step, c, by)
	} else {
		err = by.Update(a.o.Operators.store, func(tx *Tx) error { return a.takeSecond(tx, step, c, by) })
	}
	if err == nil {
		undo()
		made, err = a.begin(r, op, c)
		return made, faultFor(err)
	}
	if e := Public(err); e.Status < http.StatusInternalServerError {
		if c.Passkey == "" {
			a.recordFailed(by, fmt.Errorf("wrong code: %w", ErrLogin))
		}
		made.Step = &dashboard.LoginStep{Ticket: c.Ticket, Secret: step.Secret, Passkey: dashboard.Question{Options: optionsOf(step.Passkey)}}
		if step.Secret != "" {
			made.Step.URL = totpURL(op.Name, step.Secret)
		}
	} else {
		undo()
	}
	return made, faultFor(err)
}

// trySecond counts an attempt at the second factor as a failed one. A known browser has its own budget,
// so that somebody who has the password cannot keep the operator from logging in.
func (a *Accounts) trySecond(c dashboard.Credentials, op operator, by AuditContext) (undo func(), wait time.Duration) {
	budget := guessBudget{a.guesses.byCode, fmt.Sprint(op.ID)}
	if device, ok := readDevice(a.o.Peppers, c.Device, by.Late()); ok && device.of(op) {
		budget.key = device.ID
	}
	return tryAll(a.o.Clock.Steady(by.Now), budget)
}

// takeSecond uses up the code in c, or stores the first factor if the operator sets one up.
func (a *Accounts) takeSecond(tx *Tx, step loginStep, c dashboard.Credentials, by AuditContext) error {
	if step.Secret == "" {
		_, err := a.useCode(tx, step.Operator, c.Code, by)
		return err
	}
	factors, err := factorsOf(tx, step.Operator)
	if err != nil {
		return err
	}
	if len(factors) > 0 { // set up in another browser since
		return errLate
	}
	_, err = a.storeTOTP(tx, totpOffer{step.Operator, step.Secret}, c.Code, "", by.Now)
	return err
}
