package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"latchkey/dashboard"
	"latchkey/internal/clock"
)

// How many failed logins one client network (see NetworkOf) and one account may have
// within loginSpan.
const (
	loginSpan       = 15 * time.Minute
	loginsByAddress = 10
	loginsByAccount = 30
)

// AccountsOptions configures Accounts.
type AccountsOptions struct {
	Operators *Operators
	Sessions  *Sessions
	Clock     *clock.Clock
	Log       *slog.Logger
	Proxies   []netip.Prefix                    // proxies whose X-Forwarded-For is trusted
	Refused   func(by AuditContext, why *Error) // records a refusal in the audit log
}

// Accounts lets operators log in to the dashboard. It limits failed logins and
// records logins in the audit log. Its errors, except that of Any, are
// *dashboard.Fault. It is safe for concurrent use.
type Accounts struct {
	o         AccountsOptions
	byAddress *Throttle // failed logins of a client network
	byAccount *Throttle // failed logins of an operator's name
}

var _ dashboard.Accounts = (*Accounts)(nil)

// NewAccounts returns Accounts that has counted no failed login yet.
func NewAccounts(o AccountsOptions) *Accounts {
	return &Accounts{o: o, byAddress: NewThrottle(loginsByAddress, loginSpan), byAccount: NewThrottle(loginsByAccount, loginSpan)}
}

// deed returns the audit context of an action on a page of the dashboard. The zero
// Operator is somebody who has not logged in.
func (a *Accounts) deed(r *http.Request, op dashboard.Operator, action string) AuditContext {
	now := a.o.Clock.Now()
	by := AuditContext{Actor: "nobody", Client: ClientAddr(r, a.o.Proxies), Action: action, Now: now, Latest: a.o.Clock.Latest(now)}
	if op.ID != 0 {
		by.Actor, by.Object = actorOf(op), fmt.Sprintf("operator %d", op.ID)
	}
	return by
}

func actorOf(op dashboard.Operator) string { return operator{ID: op.ID, Name: op.Name}.Actor() }

// faultFor returns the part of an error that the dashboard may show, or nil if err is
// nil.
func faultFor(err error) error {
	if err == nil {
		return nil
	}
	e := Public(err)
	return &dashboard.Fault{Status: e.Status, Message: e.Message, RetryAfter: e.RetryAfter}
}

// Any reports whether there is an operator.
func (a *Accounts) Any() (bool, error) { return a.o.Operators.Any() }

// Login begins a session and returns its token. An attempt is counted as failed before
// the password is hashed, so parallel attempts cannot exceed the limit. It is taken
// back unless the name or the password was wrong.
func (a *Accounts) Login(r *http.Request, c dashboard.Credentials) (token string, err error) {
	now, from := a.o.Clock.Service(a.o.Clock.Now()), ClientAddr(r, a.o.Proxies)
	account := strings.ToLower(c.Name[:min(len(c.Name), 128)]) // kept in memory, so cut; no name is longer
	undoAddress, wait1 := a.byAddress.Try(NetworkOf(from), now)
	undoAccount, wait2 := a.byAccount.Try(account, now)
	undo := func() {
		undoAddress()
		undoAccount()
	}
	if wait := max(wait1, wait2); wait > 0 {
		undo() // one of the two may have counted the attempt
		a.o.Refused(a.deed(r, dashboard.Operator{}, "log in"), ErrRateLimit)
		return "", faultFor(ErrRateLimit.After(wait))
	}
	op, err := a.o.Operators.Authenticate(c.Name, c.Password)
	if errors.Is(err, ErrLogin) {
		a.o.Log.Warn("login failed", "client", from)
		a.o.Refused(a.deed(r, dashboard.Operator{}, "log in"), ErrLogin)
		return "", faultFor(err)
	}
	undo()
	if err == nil {
		token, err = a.begin(r, op, c.Old)
	}
	return token, faultFor(err)
}

// begin starts a session and returns its new token. It ends the session of the token
// old, unless old is "".
func (a *Accounts) begin(r *http.Request, found operator, old string) (token string, err error) {
	op := dashboard.Operator{ID: found.ID, Name: found.Name}
	if old != "" {
		if err := a.o.Sessions.End(a.deed(r, op, "log in anew"), old); err != nil {
			return "", err
		}
	}
	return a.o.Sessions.Begin(a.deed(r, op, "log in"), op.ID)
}

// Setup creates the first operator with a set-up link, begins a session and returns
// its token.
func (a *Accounts) Setup(r *http.Request, c dashboard.Credentials) (token string, err error) {
	by := a.deed(r, dashboard.Operator{}, "set up")
	// With "" Create would need no link, as if an operator created another one.
	op, err := a.o.Operators.Create(by, c.Name, c.Password, cmp.Or(c.Link, "none"))
	if errors.Is(err, ErrSetup) {
		a.o.Refused(by, ErrSetup)
	}
	if err == nil {
		token, err = a.begin(r, op, c.Old)
	}
	return token, faultFor(err)
}

// CheckSetup returns an error unless link is the token of the valid set-up link.
func (a *Accounts) CheckSetup(link string) error {
	return faultFor(a.o.Operators.SetupHolds(link, a.o.Clock.Latest(a.o.Clock.Now())))
}

// Session returns the session of a token and reports whether there is one. If the
// store cannot be read it reports false.
func (a *Accounts) Session(token string) (s dashboard.Session, ok bool) {
	id, err := a.o.Sessions.Find(token, a.o.Clock.Latest(a.o.Clock.Now()))
	if err != nil {
		return s, false
	}
	op, err := a.o.Operators.Find(id)
	return dashboard.Session{Operator: dashboard.Operator{ID: op.ID, Name: op.Name}, Token: token}, err == nil
}

// SessionMax returns how long a session can last.
func (a *Accounts) SessionMax() time.Duration { return a.o.Sessions.Longest() }

// As returns a copy of r that the admin endpoint handles on behalf of op.
func (a *Accounts) As(r *http.Request, op dashboard.Operator) *http.Request {
	return ByActor(r, actorOf(op), ClientAddr(r, a.o.Proxies))
}

// Logout ends the session s.
func (a *Accounts) Logout(r *http.Request, s dashboard.Session) error {
	return faultFor(a.o.Sessions.End(a.deed(r, s.Operator, "log out"), s.Token))
}

// LogoutEverywhere ends all sessions of the operator of s, including s.
func (a *Accounts) LogoutEverywhere(r *http.Request, s dashboard.Session) error {
	return faultFor(a.o.Sessions.EndAll(a.deed(r, s.Operator, "log out everywhere"), s.ID))
}

// ChangePassword sets the password of the operator of s, if old is the present one.
// It ends all other sessions of the operator.
func (a *Accounts) ChangePassword(r *http.Request, s dashboard.Session, old, password string) error {
	by := a.deed(r, s.Operator, "change password")
	_, err := a.o.Operators.Authenticate(s.Name, old)
	if errors.Is(err, ErrLogin) {
		a.o.Refused(by, ErrLogin)
		err = ErrValidation.With("The present password is wrong.")
	}
	if err == nil {
		err = a.o.Operators.SetPassword(by, s.ID, password, sessionHash(s.Token))
	}
	return faultFor(err)
}

// RecordCrossSite records in the audit log that a request sent by a page of another
// site was refused.
func (a *Accounts) RecordCrossSite(r *http.Request) {
	a.o.Refused(a.deed(r, dashboard.Operator{}, "request from another site"), ErrPermission)
}
