package main

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"latchkey/dashboard"
	"latchkey/internal/keytext"
)

// What an operator is sent to the identity provider for.
const (
	signOnLogin   = dashboard.SignOnLogin
	signOnLink    = dashboard.SignOnLink    // to link an account to the login at the provider
	signOnConfirm = dashboard.SignOnConfirm // to confirm an action
)

// signOnTicket is what a browser keeps while it is at the identity provider.
type signOnTicket struct {
	Purpose  string    `json:"purpose"`
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"` // of PKCE
	Next     string    `json:"next"`     // where the browser goes on afterwards
	Session  []byte    `json:"session"`  // hash of the token of the session, for signOnLink and signOnConfirm
	Operator uint64    `json:"operator"` // of that session
	BeganAt  time.Time `json:"began_at"`
}

var signOnTickets = ticketKind[signOnTicket]{"single sign-on", 10 * time.Minute}

// signOnRefusal is the reason why a single sign-on did not succeed. Its text is for the log and the
// audit log.
type signOnRefusal struct {
	reason string
	status int    // of the page that the browser gets
	shown  string // what that page says
}

// Error returns the reason.
func (e *signOnRefusal) Error() string { return e.reason }

// What a page says about a single sign-on that did not succeed. The reason may help somebody who is
// trying things out, so it is only in the logs.
const (
	signOnRefused = "Single sign-on does not let you in here. The log of the service and its audit log have the reason."
	signOnStale   = "This login was not begun in this browser, was used already, or is older than 10 minutes. Begin it again."
	signOnDown    = "The identity provider cannot be reached, or does not answer as it should. Try again shortly."
)

// refuseSignOn returns a refusal that the page shows without its reason.
func refuseSignOn(format string, args ...any) error {
	return &signOnRefusal{fmt.Sprintf(format, args...), http.StatusForbidden, signOnRefused}
}

// refuseOpenly returns a refusal whose reason the person may know, whom the provider has confirmed.
func refuseOpenly(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return &signOnRefusal{text, http.StatusForbidden, text}
}

// staleSignOn returns a refusal of an answer that belongs to no login of this browser.
func staleSignOn(reason string) error {
	return &signOnRefusal{reason, http.StatusBadRequest, signOnStale}
}

// signOnWords are the actions in the audit log.
var signOnWords = map[string]string{signOnLogin: "log in by single sign-on", signOnLink: "link to single sign-on", signOnConfirm: "confirm by single sign-on"}

// Ways returns how operators can log in.
func (a *Accounts) Ways() dashboard.Ways {
	w := dashboard.Ways{Password: !a.o.Operators.passwordsOff}
	if a.provider != nil {
		w.SignOn = a.provider.o.Button
	}
	return w
}

// StartSignOn returns where a browser is sent to log in at the identity provider, and the ticket that it
// keeps meanwhile.
func (a *Accounts) StartSignOn(r *http.Request, s dashboard.SignOn) (start dashboard.SignOnStart, err error) {
	if a.provider == nil {
		return start, faultFor(ErrNotFound)
	}
	by := a.deed(r, s.Session.Operator, signOnWords[s.Purpose])
	t := signOnTicket{
		Purpose: s.Purpose, State: keytext.RandomHex(32), Nonce: keytext.RandomHex(32), Verifier: oauth2.GenerateVerifier(), Next: s.Next, BeganAt: by.Late(),
	}
	if s.Purpose != signOnLogin {
		t.Session, t.Operator = sessionHash(s.Session.Token), s.Session.ID
	}
	facts, err := a.provider.read(r.Context(), a.o.Clock.Steady(by.Now))
	if err != nil {
		return start, a.signOnFault(by, fmt.Errorf("%w: %w", errProvider, err))
	}
	start.URL = a.provider.address(facts, t)
	start.Ticket, err = signOnTickets.issue(a.o.Peppers, t, by.Late())
	return start, faultFor(err)
}

// FinishSignOn handles the answer of the identity provider, which a browser brings.
func (a *Accounts) FinishSignOn(r *http.Request, answer dashboard.SignOnAnswer) (end dashboard.SignOnEnd, err error) {
	if a.provider == nil {
		return end, faultFor(ErrNotFound)
	}
	by := a.deed(r, answer.Session.Operator, signOnWords[signOnLogin])
	t, ok := signOnTickets.read(a.o.Peppers, answer.Ticket, by.Late())
	end.Purpose, end.Next = cmp.Or(t.Purpose, signOnLogin), t.Next
	by.Action = signOnWords[end.Purpose]
	undo, wait := tryAll(a.o.Clock.Steady(by.Now), guessBudget{a.guesses.bySignOn, NetworkOf(by.Client)})
	if wait > 0 {
		a.o.Refused(by, ErrRateLimit)
		return end, faultFor(ErrRateLimit.After(wait))
	}
	if !ok {
		return end, a.signOnFault(by, staleSignOn("the browser has no valid ticket of a login"))
	}
	if err := a.finishSignOn(r, &by, &end, t, answer); err != nil {
		return end, a.signOnFault(by, err)
	}
	undo()
	return end, nil
}

// finishSignOn checks the answer and does what the browser was sent to the provider for.
func (a *Accounts) finishSignOn(r *http.Request, by *AuditContext, end *dashboard.SignOnEnd, t signOnTicket, answer dashboard.SignOnAnswer) error {
	if t.Purpose != signOnLogin && (answer.Session.ID != t.Operator || string(sessionHash(answer.Session.Token)) != string(t.Session)) {
		return staleSignOn("the session has ended in which this began")
	}
	who, err := a.askProvider(r.Context(), *by, t, answer)
	if err != nil {
		return err
	}
	o, issuer := a.o.Operators, a.provider.o.Issuer
	switch t.Purpose {
	case signOnLink:
		return o.linkIdentity(*by, t.Operator, issuer, who.Subject)
	case signOnConfirm:
		op, err := o.Find(t.Operator)
		if err != nil {
			return err
		}
		if op.Issuer != issuer || op.Subject != who.Subject {
			return refuseOpenly("You have logged in as somebody else. Confirm with the login that your account is linked to.")
		}
		if who.AuthTime.Before(t.BeganAt.Add(-clockSkew)) {
			return refuseOpenly("The identity provider did not ask you to log in again (auth_time), so the action is not confirmed. Set up a passkey, or ask an admin for a password.")
		}
		return a.o.Sessions.Prove(*by, t.Session)
	}
	role, err := a.provider.o.admit(who)
	if err != nil {
		return refuseSignOn("%s", err)
	}
	if known, err := o.bound(issuer, who.Subject); err != nil {
		return err
	} else if known.ID != 0 {
		*by = a.deed(r, shownOperator(known), by.Action)
	}
	op, err := o.signIn(*by, issuer, who, role)
	if err != nil {
		return err
	}
	start := sessionStart{Agent: r.Header.Get("User-Agent"), SignedOn: true}
	end.Login, err = a.beginSession(r, op, dashboard.Credentials{Old: answer.Old, Device: answer.Device}, start)
	return err
}

// askProvider checks the parameters that the browser brings, redeems the code, and returns who has
// logged in.
func (a *Accounts) askProvider(parent context.Context, by AuditContext, t signOnTicket, answer dashboard.SignOnAnswer) (who person, err error) {
	p, one := a.provider, func(name string) string { return answer.Query.Get(name) }
	ctx, cancel := context.WithTimeout(parent, providerTimeout)
	defer cancel()
	if state := one("state"); subtle.ConstantTimeCompare([]byte(state), []byte(t.State)) != 1 {
		return who, staleSignOn("the state is missing, or is of another login")
	}
	select {
	case p.logins <- struct{}{}:
		defer func() { <-p.logins }()
	default:
		return who, fmt.Errorf("%w: %w", errProvider, errBusy)
	}
	facts, err := p.read(ctx, a.o.Clock.Steady(by.Now))
	if err != nil {
		return who, fmt.Errorf("%w: %w", errProvider, err)
	}
	if iss := one("iss"); iss != p.o.Issuer && (iss != "" || facts.SendsIss) {
		return who, refuseSignOn("the answer is of the issuer %q (iss)", shorten(iss))
	}
	if problem := one("error"); problem != "" {
		return who, refuseSignOn("the provider answers with the error %q", shorten(problem))
	}
	if one("code") == "" {
		return who, refuseSignOn("the provider sent no code")
	}
	tokens, err := p.exchange(ctx, facts, one("code"), t)
	if err != nil {
		return who, asRefusal(err)
	}
	if !a.signOns.spend(answer.Ticket, signOnTickets.span, by.Late()) {
		return who, staleSignOn("this login was used before")
	}
	who, err = p.verify(ctx, facts, tokens, t, by.Late())
	return who, asRefusal(err)
}

// asRefusal returns err as the refusal of a login, unless the provider could not be asked.
func asRefusal(err error) error {
	if err == nil || errors.Is(err, errProvider) {
		return err
	}
	return refuseSignOn("%s", err)
}

// signOnFault records why a single sign-on did not succeed, and returns what the page shows.
func (a *Accounts) signOnFault(by AuditContext, err error) error {
	refusal, ok := errors.AsType[*signOnRefusal](err)
	switch {
	case ok:
	case errors.Is(err, errProvider):
		refusal = &signOnRefusal{err.Error(), http.StatusServiceUnavailable, signOnDown}
	case errors.Is(err, ErrLogin): // from beginLogin: the operator was disabled just now
		refusal = &signOnRefusal{strings.TrimSuffix(err.Error(), ": "+ErrLogin.Error()), http.StatusForbidden, signOnRefused}
	default:
		return faultFor(err)
	}
	a.o.Log.Warn(by.Action+" failed", "client", AddrText(by.Client), "reason", refusal.reason)
	by.Detail = map[string]any{"reason": refusal.reason}
	a.o.Refused(by, ErrLogin)
	return &dashboard.Fault{Status: refusal.status, Message: refusal.shown}
}

// SignOnHome returns where a browser goes to log out at the identity provider too, or "". back is the
// page of this service, such as "/login", to which the provider sends it back.
func (a *Accounts) SignOnHome(s dashboard.Session, back string) string {
	if a.provider == nil || !s.SignedOn {
		return ""
	}
	return a.provider.endSession(strings.TrimSuffix(a.provider.o.RedirectURL, RedirectPath) + back)
}

// boundTo returns the operator who is linked to a login at an identity provider. ok is false if there is
// none.
func boundTo(tx *Tx, issuer, subject string) (found operator, ok bool, err error) {
	for op, err := range OperatorTable.All(tx, Forward) {
		if err != nil {
			return found, false, err
		}
		if op.Issuer == issuer && op.Subject == subject {
			return op, true, nil
		}
	}
	return found, false, nil
}

// bound is like boundTo, but runs its own transaction. It returns the zero operator if there is none.
func (o *Operators) bound(issuer, subject string) (op operator, err error) {
	err = o.store.View(func(tx *Tx) error {
		op, _, err = boundTo(tx, issuer, subject)
		return err
	})
	return op, err
}

// signIn returns the operator who is linked to a login, with the role that the login has now. The first
// login creates the operator.
func (o *Operators) signIn(by AuditContext, issuer string, who person, role string) (op operator, err error) {
	err = by.Update(o.store, func(tx *Tx) error {
		found, ok, err := boundTo(tx, issuer, who.Subject)
		if err != nil {
			return err
		}
		if op = found; !ok {
			op, err = newcomer(tx, issuer, who, by.Now)
			op.Role = role
			return errors.Join(err, putUnless(tx, op, err), tx.Delete("meta", []byte("setup")))
		}
		if op.status() == operatorDisabled {
			return refuseSignOn("operator %d is disabled", op.ID)
		}
		op.Role, op.Joined = role, true
		if !op.administers() {
			if _, err := lastAdmin(tx, &Caller{Operator: op.ID}, found); err != nil {
				return refuseSignOn("the claim gives operator %d (%s) the role %s, but no other operator is an admin; give somebody else this role first", op.ID, op.Name, role)
			}
		}
		return errors.Join(endLostTokens(tx, found, op, by.Now), OperatorTable.Put(tx, op))
	})
	return op, err
}

// putUnless stores a new operator, unless there is an error already.
func putUnless(tx *Tx, op operator, err error) error {
	if err != nil {
		return nil
	}
	return OperatorTable.Put(tx, op)
}

// newcomer returns a new operator for a login that none is linked to.
func newcomer(tx *Tx, issuer string, who person, now time.Time) (op operator, err error) {
	if who.Name == "" {
		return op, refuseSignOn("the provider sent no name for a new operator (preferred_username, email or name)")
	}
	if OperatorTable.Has(tx, "name", []byte(strings.ToLower(who.Name))) {
		return op, refuseOpenly("An operator named %q already exists and is not linked to this login. Log in as that operator and link it on the page Account, or ask an admin to remove it.", who.Name)
	}
	id, err := OperatorTable.NextID(tx)
	return operator{ID: id, Name: who.Name, CreatedAt: now, Joined: true, Issuer: issuer, Subject: who.Subject}, err
}

// linkIdentity links an operator to a login at an identity provider.
func (o *Operators) linkIdentity(by AuditContext, id uint64, issuer, subject string) error {
	return by.Update(o.store, func(tx *Tx) error {
		other, taken, err := boundTo(tx, issuer, subject)
		if err != nil {
			return err
		}
		if taken && other.ID != id {
			return refuseOpenly("This login is linked to another operator already (%s).", other.Name)
		}
		op, err := o.Get(tx, id)
		if err != nil {
			return err
		}
		op.Issuer, op.Subject = issuer, subject
		return OperatorTable.Put(tx, op)
	})
}

// WayIn reports whether an operator who administers has logged in without a password in a way that
// still works: by single sign-on at issuer, or by a passkey. If issuer is "", there is no single sign-on.
func WayIn(tx *Tx, issuer string) (found bool, err error) {
	for op, err := range OperatorTable.All(tx, Forward) {
		if err != nil {
			return false, err
		}
		if !op.Joined || !op.administers() {
			continue
		}
		factors, err := factorsOf(tx, op.ID)
		if err != nil {
			return false, err
		}
		if hasKind(factors, factorPasskey) || issuer != "" && op.Issuer == issuer {
			return true, nil
		}
	}
	return false, nil
}
