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

// AccountsOptions configures Accounts.
type AccountsOptions struct {
	Operators *Operators
	Sessions  *Sessions
	Passkeys  *Passkeys
	Peppers   Peppers // sign the cookies of known browsers
	Clock     *clock.Clock
	Log       *slog.Logger
	Proxies   Proxies                           // trusted proxies, whose X-Forwarded-For header is believed
	Refused   func(by AuditContext, why *Error) // called to record a refused login or action in the audit log

	SecondFactor bool            // every login with a password needs a second factor
	Provider     ProviderOptions // single sign-on; no Issuer: there is none
}

// Accounts lets operators log in to the dashboard. It limits wrong passwords and records
// logins in the audit log. Every error of its methods is a *dashboard.Fault, except the
// error of Any. Accounts is safe for concurrent use.
type Accounts struct {
	o        AccountsOptions
	guesses  *guesses
	provider *identityProvider // nil: no single sign-on
	signOns  spent             // tickets of single sign-on that were used
}

var _ dashboard.Accounts = (*Accounts)(nil)

// NewAccounts returns an Accounts that has no wrong passwords counted.
func NewAccounts(o AccountsOptions) *Accounts {
	a := &Accounts{o: o, guesses: newGuesses()}
	if o.Provider.Issuer != "" {
		a.provider = newIdentityProvider(o.Provider)
	}
	return a
}

// AdminRoutes returns the routes with which a login confirms the password and manages its second factors.
func (a *Accounts) AdminRoutes() []Route {
	return append(a.factorRoutes(), Route{Method: "POST", Path: "/admin/v1/confirm", Handle: a.confirm})
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

// latest returns the present time from Clock.Latest, for sessions, links and tickets.
func (a *Accounts) latest() time.Time { return a.o.Clock.Latest(a.o.Clock.Now()) }

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

// Login checks the credentials and begins a session, or asks for the next step of the login.
func (a *Accounts) Login(r *http.Request, c dashboard.Credentials) (made dashboard.Login, err error) {
	if c.Second {
		return a.secondStep(r, c)
	}
	now, from := a.o.Clock.Now(), ClientAddr(r, a.o.Proxies)
	device, known := a.knownDevice(c, a.o.Clock.Latest(now))
	budgets := []guessBudget{{a.guesses.byAddress, NetworkOf(from)}, {a.guesses.byAccount, accountKey(c.Name)}}
	if known {
		budgets = []guessBudget{{a.guesses.byDevice, device.ID}}
	}
	undo, wait := tryAll(a.o.Clock.Steady(now), budgets...)
	if wait > 0 {
		a.o.Refused(a.deed(r, dashboard.Operator{}, "log in"), ErrRateLimit)
		return made, faultFor(ErrRateLimit.After(wait))
	}
	op, err := a.o.Operators.Authenticate(c.Name, c.Password)
	if errors.Is(err, ErrLogin) && a.recovers(a.deed(r, dashboard.Operator{}, "log in"), c, &op) {
		undo()
		made, err = a.begin(r, op, c)
		return made, faultFor(err)
	}
	if errors.Is(err, ErrLogin) {
		a.recordFailed(a.deed(r, dashboard.Operator{}, "log in"), err)
		return made, faultFor(err)
	}
	undo()
	if err == nil {
		made, err = a.goOn(r, op, c)
	}
	return made, faultFor(err)
}

// knownDevice returns the ticket of the browser that sends the credentials. ok is false unless it is
// valid and of the operator with the name in the credentials.
func (a *Accounts) knownDevice(c dashboard.Credentials, now time.Time) (d deviceTicket, ok bool) {
	d, op, ok := a.deviceOf(c, now)
	return d, ok && strings.EqualFold(op.Name, c.Name)
}

// deviceOf returns the ticket of the browser that sends the credentials, and its operator. ok is false
// unless the ticket is valid.
func (a *Accounts) deviceOf(c dashboard.Credentials, now time.Time) (d deviceTicket, op operator, ok bool) {
	if d, ok = readDevice(a.o.Peppers, c.Device, now); !ok {
		return d, op, false
	}
	op, err := a.o.Operators.Find(d.Operator)
	return d, op, err == nil && d.of(op)
}

// begin begins a session for the operator found. If c has the token of an earlier session, begin ends
// that session first. The browser becomes a known one, or stays the one that it is.
func (a *Accounts) begin(r *http.Request, found operator, c dashboard.Credentials) (made dashboard.Login, err error) {
	return a.beginSession(r, found, c, sessionStart{Agent: r.Header.Get("User-Agent")})
}

// beginSession does what begin does, for any way of login.
func (a *Accounts) beginSession(r *http.Request, found operator, c dashboard.Credentials, start sessionStart) (made dashboard.Login, err error) {
	op := shownOperator(found)
	if c.Old != "" {
		if err := a.o.Sessions.End(a.deed(r, op, "log in anew"), c.Old); err != nil {
			return made, err
		}
	}
	by := a.deed(r, op, "log in")
	if start.SignedOn {
		by.Detail = map[string]any{"way": "single sign-on"}
	}
	if made.Token, err = a.o.Sessions.Begin(by, op.ID, start); err != nil {
		return made, err
	}
	now := a.latest()
	device, known := readDevice(a.o.Peppers, c.Device, now)
	if !known || !device.of(found) {
		device = deviceTicket{Operator: found.ID, Devices: found.Devices, ID: newDeviceID()}
	}
	device.IssuedAt = now
	made.Device, err = device.cookie(a.o.Peppers)
	return made, err
}

// Setup creates the first operator and begins a session. It needs the token of the valid set-up link
// in c.Link.
func (a *Accounts) Setup(r *http.Request, c dashboard.Credentials) (made dashboard.Login, err error) {
	by := a.deed(r, dashboard.Operator{}, "set up")
	// Create checks the link only if it is not "", so pass a text that is never a valid link
	link := cmp.Or(c.Link, "none")
	made, err = a.first(r, by, c, func() (operator, error) { return a.o.Operators.Create(by, c.Name, c.Password, link) },
		func(key createdPasskey) (operator, error) {
			return a.o.Operators.createWithPasskey(by, c.Name, link, key)
		})
	if errors.Is(err, ErrSetup) {
		a.o.Refused(by, ErrSetup)
	}
	return made, faultFor(err)
}

// recordFailed records a failed login in the log and in the audit log, with the reason if err has
// another one than a wrong name or password.
func (a *Accounts) recordFailed(by AuditContext, err error) {
	reason, disabled := strings.CutSuffix(err.Error(), ": "+ErrLogin.Error())
	if !disabled {
		a.o.Log.Warn("login failed", "client", AddrText(by.Client))
	} else {
		a.o.Log.Warn("login failed", "client", AddrText(by.Client), "reason", reason)
		by.Detail = map[string]any{"reason": reason}
	}
	a.o.Refused(by, ErrLogin)
}

// CheckInvitation returns the operator whom the invitation with this token is for. The invitation
// can be used again afterwards.
func (a *Accounts) CheckInvitation(link string) (dashboard.Operator, error) {
	invited, err := a.o.Operators.FindInvited(link, a.latest())
	return shownOperator(invited), faultFor(err)
}

// Join accepts the invitation whose token is in c.Link: it sets the password and begins a session.
func (a *Accounts) Join(r *http.Request, c dashboard.Credentials) (made dashboard.Login, err error) {
	by := a.deed(r, dashboard.Operator{}, "accept invitation")
	made, err = a.first(r, by, c, func() (operator, error) { return a.o.Operators.Join(by, c.Link, c.Password) },
		func(key createdPasskey) (operator, error) { return a.o.Operators.accept(by, c.Link, "", &key) })
	if errors.Is(err, ErrInvitation) {
		a.o.Refused(by, ErrInvitation)
	}
	return made, faultFor(err)
}

// CheckSetup returns an error unless link is the token of the valid set-up link. The
// link can be used again afterwards.
func (a *Accounts) CheckSetup(link string) error {
	return faultFor(a.o.Operators.SetupHolds(link, a.latest()))
}

// Session returns the session with this token, which r has sent. ok is false if there is no such
// session, if it has ended, or if the store cannot be read.
func (a *Accounts) Session(r *http.Request, token string) (s dashboard.Session, ok bool) {
	use := sessionUse{At: a.latest(), From: ClientAddr(r, a.o.Proxies), Live: dashboard.IsLive(r)}
	found, err := a.o.Sessions.Find(token, use)
	if err != nil {
		return s, false
	}
	op, err := a.o.Operators.Find(found.Operator)
	return dashboard.Session{Operator: shownOperator(op), Token: token, ProvenAt: found.ProvenAt, SignedOn: found.SignedOn}, err == nil && op.status() == operatorActive
}

// SessionMax returns the maximum length of a session, counted from the login.
func (a *Accounts) SessionMax() time.Duration { return a.o.Sessions.Longest() }

// DeviceMax returns how long a browser counts as known after a login.
func (a *Accounts) DeviceMax() time.Duration { return deviceSpan }

// NeedsProof reports whether an endpoint, such as "GET /admin/v1/backup", requires that the operator of
// s confirms the password first.
func (a *Accounts) NeedsProof(s dashboard.Session, endpoint string) bool {
	return roleNamed(s.Role).Rights.May(endpoint) && Unproven(endpoint, s.ProvenAt, a.latest())
}

// Proofs returns what the operator of s must send to Confirm.
func (a *Accounts) Proofs(s dashboard.Session) (dashboard.Proofs, error) {
	factors, err := a.o.Operators.Factors(s.ID)
	if err != nil {
		return dashboard.Proofs{}, faultFor(err)
	}
	op, err := a.o.Operators.Find(s.ID)
	return dashboard.Proofs{
		Password: a.HasPassword(s), Code: len(factors) > 0, Passkey: a.askConfirm(s),
		SignOn: a.provider != nil && op.Issuer == a.provider.o.Issuer && op.Subject != "",
	}, faultFor(err)
}

// Confirm records in the session s that its operator has confirmed who it is. The error is a Fault with
// status 400 if the password or the code is wrong.
func (a *Accounts) Confirm(r *http.Request, s dashboard.Session, c dashboard.Credentials) error {
	return faultFor(a.prove(a.deed(r, s.Operator, "confirm password"), presentPassword{s.ID, sessionHash(s.Token), c.Password}, c.Code))
}

// prove checks the present password, and a code if the operator has a second factor, and records in
// the session that they were confirmed.
func (a *Accounts) prove(by AuditContext, p presentPassword, code string) error {
	undo, err := a.checkPresent(by, p)
	if err != nil {
		return err
	}
	factors, err := a.o.Operators.Factors(p.Operator)
	if err == nil && len(factors) > 0 {
		err = a.checkCode(by, p.Operator, code)
	}
	if err != nil {
		return err
	}
	undo()
	return a.o.Sessions.Prove(by, p.Session)
}

// checkCode checks and uses up a code of an operator who confirms an action.
func (a *Accounts) checkCode(by AuditContext, id uint64, code string) error {
	if code == "" {
		return ErrMissing.With("code is missing. You have a second factor: send a code of your authenticator app, or a recovery code.")
	}
	err := by.Update(a.o.Operators.store, func(tx *Tx) error {
		_, err := a.useCode(tx, id, code, by)
		return err
	})
	if errors.Is(err, ErrLogin) {
		a.o.Refused(by, ErrLogin)
		return ErrValidation.With("The code is wrong, or it was used before. Wait for the next one.")
	}
	return err
}

// presentPassword is the present password of an operator, as the operator has typed it in a session.
type presentPassword struct {
	Operator uint64
	Session  []byte // hash of the token of the session
	Password string
}

// checkPresent returns nil if the present password is right. Every way in that asks for it passes here,
// so that somebody with a stolen session cannot guess it without end. The attempt counts as a failed one
// until undo is called.
func (a *Accounts) checkPresent(by AuditContext, p presentPassword) (undo func(), err error) {
	undo, wait := a.tryConfirm(by, p.Operator, p.Session)
	if wait > 0 {
		a.o.Refused(by, ErrRateLimit)
		return undo, ErrRateLimit.With("Too many wrong passwords. Wait for the time in Retry-After.").After(wait)
	}
	_, err = a.o.Operators.Verify(p.Operator, p.Password)
	if errors.Is(err, ErrLogin) {
		a.o.Refused(by, ErrLogin)
		if op, err := a.o.Operators.Find(p.Operator); err == nil && op.Password == "" {
			return undo, ErrValidation.With("You have no password. Do this in the dashboard, where a passkey or your identity provider can confirm it.")
		}
		return undo, ErrValidation.With("The present password is wrong. Type it again.")
	}
	if err != nil {
		undo()
	}
	return undo, err
}

// tryConfirm counts a confirmation as failed, see tryAll.
func (a *Accounts) tryConfirm(by AuditContext, operator uint64, session []byte) (undo func(), wait time.Duration) {
	return tryAll(a.o.Clock.Steady(by.Now), guessBudget{a.guesses.bySession, string(session)}, guessBudget{a.guesses.byOperator, fmt.Sprint(operator)})
}

// confirm handles the confirmation of the password by a client that sends the cookie of a login.
func (a *Accounts) confirm(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(OnlyFields("password", "code"))
	if err != nil {
		return err
	}
	password, code := "", ""
	body.String("password", AnyLength, &password)
	body.String("code", AnyLength, &code)
	if err := body.Err(); err != nil {
		return err
	}
	if err := a.prove(r.Deed(), presentPassword{r.Caller.Operator, r.Caller.Session, password}, code); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"message": "The password was confirmed.", "valid_until": Seconds(r.Latest.Add(ProofSpan))})
}

// shownOperator returns what the dashboard needs to know of an operator.
func shownOperator(op operator) dashboard.Operator {
	return dashboard.Operator{ID: op.ID, Name: op.Name, Role: op.role().Name, Preferences: op.Display}
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

// ChangePassword sets a new password for the operator to whom s belongs. old must be the current
// password; an operator without one must be Proven. All sessions of the operator except s end.
func (a *Accounts) ChangePassword(r *http.Request, s dashboard.Session, old, password string) error {
	by, hash := a.deed(r, s.Operator, "change password"), sessionHash(s.Token)
	undo, err := func() {}, error(nil)
	if a.HasPassword(s) {
		undo, err = a.checkPresent(by, presentPassword{s.ID, hash, old})
	} else if !a.Proven(s) {
		err = ErrProof
	}
	if err == nil {
		undo()
		err = a.o.Operators.SetPassword(by, s.ID, password, hash)
	}
	return faultFor(err)
}

// Prefer stores what the operator of s has chosen for the pages.
func (a *Accounts) Prefer(r *http.Request, s dashboard.Session, p dashboard.Preferences) error {
	return faultFor(a.deed(r, s.Operator, "change display").Update(a.o.Operators.store, func(tx *Tx) error {
		op, err := OperatorTable.Get(tx, IDKey(s.ID))
		if err != nil {
			return err
		}
		op.Display = p
		return OperatorTable.Put(tx, op)
	}))
}

// RecordCrossSite records in the audit log that the dashboard refused r because a page of
// another site sent it.
func (a *Accounts) RecordCrossSite(r *http.Request) {
	a.o.Refused(a.deed(r, dashboard.Operator{}, "request from another site"), ErrPermission)
}
