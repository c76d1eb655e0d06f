package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"latchkey/dashboard"
	"latchkey/internal/clock"
	"latchkey/internal/conns"
)

// The maximum number of failed logins within loginSpan, for one client network (see
// NetworkOf) and for one operator's name. More attempts are refused.
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
	Proxies   Proxies                           // trusted proxies, whose X-Forwarded-For header is believed
	Refused   func(by AuditContext, why *Error) // called to record a refused login or action in the audit log
}

// Accounts lets operators log in to the dashboard. It limits failed logins and records
// logins in the audit log. Every error of its methods is a *dashboard.Fault, except the
// error of Any. Accounts is safe for concurrent use.
type Accounts struct {
	o         AccountsOptions
	byAddress *Throttle // failed logins for each client network
	byAccount *Throttle // failed logins for each operator's name, in lower case
}

var _ dashboard.Accounts = (*Accounts)(nil)

// NewAccounts returns an Accounts that has no failed logins counted.
func NewAccounts(o AccountsOptions) *Accounts {
	return &Accounts{o: o, byAddress: NewThrottle(loginsByAddress, loginSpan), byAccount: NewThrottle(loginsByAccount, loginSpan)}
}

// deed returns the audit context for an action of op in the dashboard. If nobody is logged
// in, op is the zero Operator, and the actor is "nobody".
func (a *Accounts) deed(r *http.Request, op dashboard.Operator, action string) AuditContext {
	now := a.o.Clock.Now()
	by := AuditContext{Actor: "nobody", Client: ClientAddr(r, a.o.Proxies), Action: action, Now: now, Latest: a.o.Clock.Latest(now)}
	if op.ID != 0 {
		by.Actor, by.Object = actorOf(op), fmt.Sprintf("operator %d", op.ID)
	}
	return by
}

func actorOf(op dashboard.Operator) string { return operator{ID: op.ID, Name: op.Name}.Actor() }

// faultFor converts an error to a *dashboard.Fault, which has only what users may see. It
// returns nil if err is nil.
func faultFor(err error) error {
	if err == nil {
		return nil
	}
	e := Public(err)
	return &dashboard.Fault{Status: e.Status, Message: e.Message, RetryAfter: e.RetryAfter}
}

// Any reports whether at least one operator exists.
func (a *Accounts) Any() (bool, error) { return a.o.Operators.Any() }

// Login checks the credentials, begins a session and returns its token. It counts the
// attempt as failed before it hashes the password, so parallel attempts cannot exceed
// the limit. It undoes this count unless the name or the password was wrong.
func (a *Accounts) Login(r *http.Request, c dashboard.Credentials) (token string, err error) {
	now, from := a.o.Clock.Steady(a.o.Clock.Now()), ClientAddr(r, a.o.Proxies)
	account := strings.ToLower(c.Name[:min(len(c.Name), 128)]) // cut, because it is kept in memory; operators' names are shorter
	undoAddress, wait1 := a.byAddress.Try(NetworkOf(from), now)
	undoAccount, wait2 := a.byAccount.Try(account, now)
	undo := func() {
		undoAddress()
		undoAccount()
	}
	if wait := max(wait1, wait2); wait > 0 {
		undo() // one of the two throttles may have counted the attempt
		a.o.Refused(a.deed(r, dashboard.Operator{}, "log in"), ErrRateLimit)
		return "", faultFor(ErrRateLimit.After(wait))
	}
	op, err := a.o.Operators.Authenticate(c.Name, c.Password)
	if errors.Is(err, ErrLogin) {
		a.o.Log.Warn("login failed", "client", AddrText(from))
		a.o.Refused(a.deed(r, dashboard.Operator{}, "log in"), ErrLogin)
		return "", faultFor(err)
	}
	undo()
	if err == nil {
		token, err = a.begin(r, op, c.Old)
	}
	return token, faultFor(err)
}

// begin begins a session for the operator found and returns its token. If old is not "",
// it is the token of an earlier session, and begin ends that session first.
func (a *Accounts) begin(r *http.Request, found operator, old string) (token string, err error) {
	op := shownOperator(found)
	if old != "" {
		if err := a.o.Sessions.End(a.deed(r, op, "log in anew"), old); err != nil {
			return "", err
		}
	}
	return a.o.Sessions.Begin(a.deed(r, op, "log in"), op.ID)
}

// Setup creates the first operator, begins a session and returns its token. It needs the
// token of the valid set-up link in c.Link.
func (a *Accounts) Setup(r *http.Request, c dashboard.Credentials) (token string, err error) {
	by := a.deed(r, dashboard.Operator{}, "set up")
	// Create checks the link only if it is not "", so pass a text that is never a valid link
	op, err := a.o.Operators.Create(by, c.Name, c.Password, cmp.Or(c.Link, "none"))
	if errors.Is(err, ErrSetup) {
		a.o.Refused(by, ErrSetup)
	}
	if err == nil {
		token, err = a.begin(r, op, c.Old)
	}
	return token, faultFor(err)
}

// CheckSetup returns an error unless link is the token of the valid set-up link. The
// link can be used again afterwards.
func (a *Accounts) CheckSetup(link string) error {
	return faultFor(a.o.Operators.SetupHolds(link, a.o.Clock.Latest(a.o.Clock.Now())))
}

// Session returns the session with this token. ok is false if there is no such session,
// if it has ended, or if the store cannot be read.
func (a *Accounts) Session(token string) (s dashboard.Session, ok bool) {
	found, err := a.o.Sessions.Find(token, a.o.Clock.Latest(a.o.Clock.Now()))
	if err != nil {
		return s, false
	}
	op, err := a.o.Operators.Find(found.Operator)
	return dashboard.Session{Operator: shownOperator(op), Token: token, ProvenAt: found.ProvenAt}, err == nil
}

// shownOperator returns what the dashboard needs to know of an operator.
func shownOperator(op operator) dashboard.Operator {
	return dashboard.Operator{ID: op.ID, Name: op.Name, Role: op.role().Name}
}

// May reports whether an operator may use an endpoint, such as "POST /admin/v1/keys".
func (a *Accounts) May(op dashboard.Operator, endpoint string) bool {
	return roleNamed(op.Role).Rights.May(endpoint)
}

// Refuse records in the audit log that a page of the dashboard was refused, because the role of the
// operator of s does not allow the endpoint that the page needs. It returns a Fault that says which
// roles do.
func (a *Accounts) Refuse(r *http.Request, s dashboard.Session, endpoint string) error {
	by := a.deed(r, s.Operator, endpoint)
	by.Object = ""
	a.o.Refused(by, ErrPermission)
	return faultFor(RoleRefused(s.Role, endpoint))
}

// SessionMax returns the maximum length of a session, counted from the login.
func (a *Accounts) SessionMax() time.Duration { return a.o.Sessions.Longest() }

// As returns a copy of r for the admin endpoint, which then handles the request with the rights of
// the operator of s and records the operator in the audit log. The connection of r then counts as
// one with a valid key.
func (a *Accounts) As(r *http.Request, s dashboard.Session) *http.Request {
	conns.MarkKeyed(r.Context())
	role := roleNamed(s.Role)
	return ByCaller(r, &Caller{
		Name: actorOf(s.Operator), From: ClientAddr(r, a.o.Proxies), Rights: role.Rights, Grant: fmt.Sprintf("Your role is %s.", role.Name),
		Operator: s.ID, Session: sessionHash(s.Token), ProvenAt: s.ProvenAt,
	})
}

// Logout ends the session s.
func (a *Accounts) Logout(r *http.Request, s dashboard.Session) error {
	return faultFor(a.o.Sessions.End(a.deed(r, s.Operator, "log out"), s.Token))
}

// LogoutEverywhere ends all sessions of the operator to whom s belongs, including s.
func (a *Accounts) LogoutEverywhere(r *http.Request, s dashboard.Session) error {
	return faultFor(a.o.Sessions.EndAll(a.deed(r, s.Operator, "log out everywhere"), s.ID))
}

// ChangePassword sets a new password for the operator to whom s belongs. old must be the
// current password. All sessions of the operator except s end.
func (a *Accounts) ChangePassword(r *http.Request, s dashboard.Session, old, password string) error {
	by := a.deed(r, s.Operator, "change password")
	_, err := a.o.Operators.Authenticate(s.Name, old)
	if errors.Is(err, ErrLogin) {
		a.o.Refused(by, ErrLogin)
		err = ErrValidation.With("The current password is wrong. Type it again.")
	}
	if err == nil {
		err = a.o.Operators.SetPassword(by, s.ID, password, sessionHash(s.Token))
	}
	return faultFor(err)
}

// RecordCrossSite records in the audit log that the dashboard refused r because a page of
// another site sent it.
func (a *Accounts) RecordCrossSite(r *http.Request) {
	a.o.Refused(a.deed(r, dashboard.Operator{}, "request from another site"), ErrPermission)
}
