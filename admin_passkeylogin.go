package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-webauthn/webauthn/protocol"

	"latchkey/dashboard"
)

// PasskeyURL returns the address at which passkeys work. ok is false if there can be none, because that
// address has no host name or no TLS.
func (a *Accounts) PasskeyURL() (url string, ok bool) {
	party := a.o.Passkeys.party.Load()
	return party.URL, party.web != nil
}

// question converts a question for the dashboard. An error is logged, and there is then no question: a
// page without passkeys is better than none.
func (a *Accounts) question(q passkeyQuestion, err error) dashboard.Question {
	if err != nil {
		a.o.Log.Error("passkeys are left out of a page", "error", err)
		return dashboard.Question{}
	}
	return dashboard.Question{Options: q.Options, Ticket: q.Ticket}
}

// AskLogin returns the question for a login without a password. It has no options if no passkey is
// stored that works here. lost are the host names of those that do not.
func (a *Accounts) AskLogin() (q dashboard.Question, lost []string) {
	here, elsewhere := 0, map[string]int{}
	err := a.o.Passkeys.store.View(func(tx *Tx) (err error) {
		here, elsewhere, err = countPasskeys(tx, a.o.Passkeys.party.Load().Host)
		return err
	})
	if err == nil && here == 0 {
		return q, slices.Sorted(maps.Keys(elsewhere))
	}
	asked, err2 := a.o.Passkeys.askLogin(a.latest())
	return a.question(asked, errors.Join(err, err2)), nil
}

// askConfirm returns the question with which the operator of s confirms an action. It has no options if
// the operator has no passkey that works here.
func (a *Accounts) askConfirm(s dashboard.Session) dashboard.Question {
	op, err := a.o.Operators.Find(s.ID)
	if err != nil {
		return a.question(passkeyQuestion{}, err)
	}
	return a.question(a.o.Passkeys.askConfirm(op, sessionHash(s.Token), a.latest()))
}

// AskNew returns the question for a new passkey of the operator of s.
func (a *Accounts) AskNew(s dashboard.Session) dashboard.Question {
	op, err := a.o.Operators.Find(s.ID)
	if err != nil {
		return a.question(passkeyQuestion{}, err)
	}
	return a.question(a.o.Passkeys.askNew(op, sessionHash(s.Token), protocol.VerificationPreferred, a.latest()))
}

// AskFirst returns the question for the passkey of an operator who has no password, by the set-up link or
// the invitation with this token. name is "" for the first operator, who chooses it in the form.
func (a *Accounts) AskFirst(link, name string) dashboard.Question {
	return a.question(a.o.Passkeys.askNew(operator{Name: name}, sessionHash(link), protocol.VerificationRequired, a.latest()))
}

// first begins a session of an operator who is created with the password in c, or with a passkey if c has
// the answer to AskFirst.
func (a *Accounts) first(r *http.Request, by AuditContext, c dashboard.Credentials, byPassword func() (operator, error), byKey func(createdPasskey) (operator, error)) (made dashboard.Login, err error) {
	if c.Passkey == "" {
		op, err := byPassword()
		if err != nil {
			return made, err
		}
		return a.goOn(r, op, c)
	}
	key, err := a.o.Passkeys.created(c.Ticket, c.Passkey, sessionHash(c.Link), by.Late())
	if err := a.refusedPasskey(by, operator{}, err); err != nil {
		return made, notLogin(err)
	}
	op, err := byKey(key)
	if err != nil {
		return made, err
	}
	return a.begin(r, op, c)
}

// LoginWithPasskey begins a session without a password. c has the ticket and the answer to AskLogin.
func (a *Accounts) LoginWithPasskey(r *http.Request, c dashboard.Credentials) (made dashboard.Login, err error) {
	now, by := a.o.Clock.Now(), a.deed(r, dashboard.Operator{}, "log in")
	budget := guessBudget{a.guesses.byAddress, NetworkOf(by.Client)}
	if device, _, ok := a.deviceOf(c, by.Late()); ok {
		budget = guessBudget{a.guesses.byDevice, device.ID}
	}
	undo, wait := tryAll(a.o.Clock.Steady(now), budget)
	if wait > 0 {
		a.o.Refused(by, ErrRateLimit)
		return made, faultFor(ErrRateLimit.After(wait))
	}
	used, err := a.o.Passkeys.answeredLogin(c.Ticket, c.Passkey, by.Late())
	if errors.Is(err, ErrLogin) { // the operator may not log in
		a.recordFailed(by, err)
		return made, faultFor(ErrLogin.With("%s", passkeyRefused("").Message))
	}
	if err := a.refusedPasskey(by, used.Operator, err); err != nil {
		return made, faultFor(err)
	}
	undo()
	made, err = a.begin(r, used.Operator, c)
	return made, faultFor(err)
}

// refusedPasskey records a refused passkey of op in the logs. It returns an ErrLogin with a sentence for
// the operator, another error as it is, and nil if err is nil.
func (a *Accounts) refusedPasskey(by AuditContext, op operator, err error) error {
	refused, ok := errors.AsType[*passkeyError](err)
	if !ok {
		return err
	}
	attributes := []any{"client", AddrText(by.Client), "reason", "passkey: " + refused.Reason}
	if op.ID != 0 {
		attributes = append(attributes, "operator", op.ID)
		by.Object = fmt.Sprintf("operator %d", op.ID)
	}
	a.o.Log.Warn("passkey refused", attributes...)
	by.Detail = map[string]any{"reason": "passkey: " + refused.Reason}
	a.o.Refused(by, ErrLogin)
	return ErrLogin.With("%s", refused.Message)
}

// ConfirmWithPasskey records in the session s that its operator has confirmed an action with a passkey.
// ticket and answer belong to askConfirm. The error is a Fault with status 400 if the passkey was refused.
func (a *Accounts) ConfirmWithPasskey(r *http.Request, s dashboard.Session, ticket, answer string) error {
	by, hash := a.deed(r, s.Operator, "confirm with passkey"), sessionHash(s.Token)
	undo, wait := a.tryConfirm(by, s.ID, hash)
	if wait > 0 {
		a.o.Refused(by, ErrRateLimit)
		return faultFor(ErrRateLimit.With("Too many refused passkeys. Wait for the time in Retry-After.").After(wait))
	}
	err := a.o.Passkeys.answeredConfirm(s.ID, hash, ticket, answer, by.Late())
	if err := a.refusedPasskey(by, operator{ID: s.ID}, err); err != nil {
		return faultFor(notLogin(err))
	}
	undo()
	return faultFor(a.o.Sessions.Prove(by, hash))
}

// notLogin returns an ErrValidation with the message of an ErrLogin, for somebody who has logged in, and
// every other error as it is.
func notLogin(err error) error {
	if errors.Is(err, ErrLogin) {
		return ErrValidation.With("%s", Public(err).Message)
	}
	return err
}

// Proven reports whether the operator of s has confirmed the password, or used a passkey, within
// ProofSpan.
func (a *Accounts) Proven(s dashboard.Session) bool { return a.latest().Sub(s.ProvenAt) <= ProofSpan }

// AddPasskey stores a new passkey of the operator of s. ticket and answer belong to AskNew. name may be "".
func (a *Accounts) AddPasskey(r *http.Request, s dashboard.Session, name, ticket, answer string) error {
	by, hash := a.deed(r, s.Operator, "add passkey"), sessionHash(s.Token)
	if !a.Proven(s) {
		return faultFor(ErrProof)
	}
	if name = strings.TrimSpace(name); name != "" {
		var err error
		if name, err = cleanName(name); err != nil {
			return faultFor(err)
		}
	}
	key, err := a.o.Passkeys.created(ticket, answer, hash, by.Late())
	if err := a.refusedPasskey(by, operator{ID: s.ID}, err); err != nil {
		return faultFor(notLogin(err))
	}
	key.name = name
	err = by.Update(a.o.Passkeys.store, func(tx *Tx) error {
		op, err := a.o.Operators.Get(tx, s.ID)
		if err != nil {
			return err
		}
		return putPasskey(tx, &op, key, by.Now)
	})
	if late, ok := errors.AsType[*passkeyError](err); ok {
		err = ErrConflict.With("%s", late.Message)
	}
	return faultFor(err)
}

// HasPassword reports whether the operator of s can log in with a password.
func (a *Accounts) HasPassword(s dashboard.Session) bool {
	op, err := a.o.Operators.Find(s.ID)
	return err != nil || op.Password != "" && !a.o.Operators.passwordsOff
}

// RemovePassword removes the password of the operator of s, who must have other ways to log in: two
// passkeys that work here, or one and recovery codes. All sessions of the operator except s end.
func (a *Accounts) RemovePassword(r *http.Request, s dashboard.Session) error {
	by := a.deed(r, s.Operator, "remove password")
	if !a.Proven(s) {
		return faultFor(ErrProof)
	}
	return faultFor(by.Update(a.o.Passkeys.store, func(tx *Tx) error {
		op, err := a.o.Operators.Get(tx, s.ID)
		if err != nil {
			return err
		}
		if ok, err := a.o.Passkeys.suffice(tx, op); err != nil || !ok {
			return errors.Join(err, errNeedsPassword)
		}
		op.setPassword("", by.Now)
		op.Joined = true
		return errors.Join(OperatorTable.Put(tx, op), endSessions(tx, op.ID, sessionHash(s.Token), by.Now))
	}))
}

// errNeedsPassword is the answer to an operator who could not log in any more.
var errNeedsPassword = ErrConflict.With("Without a password you need two passkeys that work here, or one and recovery codes. Add them first.")

// recovers logs in an operator without a password, who has lost the passkeys, by a recovery code in place
// of the password. It uses the code up. ok is false if the name or the code is wrong.
func (a *Accounts) recovers(by AuditContext, c dashboard.Credentials, found *operator) (ok bool) {
	err := a.o.Operators.store.View(func(tx *Tx) (err error) { // most wrong passwords end here, without a change of the store
		*found, err = OperatorTable.One(tx, "name", []byte(strings.ToLower(c.Name)))
		return err
	})
	if err != nil || found.Password != "" || found.status() != operatorActive || !hasRecovery(*found, c.Password) {
		return false
	}
	return by.Update(a.o.Operators.store, func(tx *Tx) error {
		_, err := a.useCode(tx, found.ID, c.Password, by)
		return err
	}) == nil
}

// secondPasskey checks the passkey in the second step of a login.
func (a *Accounts) secondPasskey(step loginStep, c dashboard.Credentials, by AuditContext) error {
	if step.Passkey == nil {
		return errLate
	}
	find := func(tx *Tx, _ []byte) (operator, error) { return OperatorTable.Get(tx, IDKey(step.Operator)) }
	used, err := a.o.Passkeys.check(passkeyAnswer{Session: *step.Passkey, Ticket: c.Ticket, Text: c.Passkey, Find: find}, by.Late())
	return a.refusedPasskey(by, used.Operator, err)
}
