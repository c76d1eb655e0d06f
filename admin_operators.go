package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"latchkey/internal/keytext"
)

// inviteSpan is how long an invitation is valid.
const inviteSpan = 24 * time.Hour

// The states of operators.
const (
	operatorActive   = "active"
	operatorDisabled = "disabled"
	operatorInvited  = "invited" // has an invitation, and no password yet
)

// status returns the state of the operator. An invited operator who is disabled is disabled.
func (o operator) status() string {
	switch {
	case !o.DisabledAt.IsZero():
		return operatorDisabled
	case o.Password == "" && !o.Joined:
		return operatorInvited
	}
	return operatorActive
}

// administers reports whether the operator can log in and has the role admin.
func (o operator) administers() bool {
	return o.status() == operatorActive && o.role().Name == RoleAdmin
}

// errNoLogin returns an ErrLogin for an operator who has sent the right password but may not log in.
// Its text has the reason, for the log. Clients get the message of ErrLogin.
func errNoLogin(op operator) error {
	return fmt.Errorf("operator %d is %s: %w", op.ID, op.status(), ErrLogin)
}

// beginLogin records that a session of an operator begins at now. It returns an ErrLogin if the
// operator may not log in, which can have changed since the password was checked.
func beginLogin(tx *Tx, id uint64, now time.Time) error {
	op, err := OperatorTable.Get(tx, IDKey(id))
	if errors.Is(err, ErrNotFound) {
		return ErrLogin
	}
	if err != nil {
		return err
	}
	if op.status() != operatorActive {
		return errNoLogin(op)
	}
	op.LastLoginAt = now
	return OperatorTable.Put(tx, op)
}

// endAccess ends everything with which an operator can act.
func endAccess(tx *Tx, id uint64, now time.Time) error { return endSessions(tx, id, nil, now) }

// cleanName returns the name of a new operator without spaces around it, or ErrValidation if it is
// not allowed.
func cleanName(name string) (string, error) {
	if name = strings.TrimSpace(name); name == "" || Length(name) > WordLength {
		return "", ErrValidation.With("name must have 1 to %d characters; it has %s.", WordLength, Figure(Length(name)))
	}
	// A form is not checked as JSON is.
	if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return "", ErrValidation.With("name must be text in UTF-8 without NUL characters.")
	}
	return name, nil
}

// Invite creates an operator who has no password yet, or replaces the invitation of one. It returns
// the operator and the token of the invitation, of which only the hash is stored. The invitation is
// valid for inviteSpan and works once. Invite returns ErrConflict if the name belongs to an operator
// who has a password.
func (o *Operators) Invite(by AuditContext, name, role string) (invited operator, token string, err error) {
	if name, err = cleanName(name); err != nil {
		return invited, "", err
	}
	token = keytext.RandomHex(32)
	err = by.Update(o.store, func(tx *Tx) (err error) {
		invited, err = OperatorTable.One(tx, "name", []byte(strings.ToLower(name)))
		switch {
		case errors.Is(err, ErrNotFound):
			invited = operator{Name: name, CreatedAt: by.Now}
			if invited.ID, err = OperatorTable.NextID(tx); err != nil {
				return err
			}
		case err != nil:
			return err
		case invited.status() != operatorInvited:
			return ErrConflict.With("An operator named %q already exists. Choose another name.", invited.Name)
		}
		invited.Role, invited.Hash, invited.InviteEndsAt = role, sessionHash(token), by.Late().Add(inviteSpan)
		return OperatorTable.Put(tx, invited)
	})
	return invited, token, err
}

// Invited returns the operator whose invitation has this token. It returns ErrInvitation if there is
// none, or if the invitation has expired. now must be from Clock.Latest.
func (o *Operators) Invited(tx *Tx, token string, now time.Time) (invited operator, err error) {
	sum, found := sha256.Sum256([]byte(token)), false
	for op, err := range OperatorTable.All(tx, Forward) {
		if err != nil {
			return invited, err
		}
		if subtle.ConstantTimeCompare(op.Hash, sum[:]) == 1 {
			invited, found = op, true
		}
	}
	if !found || invited.status() != operatorInvited || !now.Before(invited.InviteEndsAt) {
		return operator{}, ErrInvitation
	}
	return invited, nil
}

// FindInvited is like Invited, but runs its own transaction.
func (o *Operators) FindInvited(token string, now time.Time) (invited operator, err error) {
	err = o.store.View(func(tx *Tx) error {
		invited, err = o.Invited(tx, token, now)
		return err
	})
	return invited, err
}

// Join sets the first password of the operator whose invitation has this token, and ends the
// invitation. It returns the errors of Invited, and ErrValidation if the password is not allowed.
func (o *Operators) Join(by AuditContext, token, password string) (joined operator, err error) {
	if o.passwordsOff {
		return joined, errPasswordsOff
	}
	if joined, err = o.FindInvited(token, by.Late()); err != nil { // before hashing, which is expensive
		return joined, err
	}
	if password, err = newPassword(joined.Name, password); err != nil {
		return joined, err
	}
	return o.accept(by, token, o.seal(password), nil)
}

// accept ends the invitation with this token. The operator then has the sealed password, or the passkey
// in its place if sealed is "".
func (o *Operators) accept(by AuditContext, token, sealed string, key *createdPasskey) (joined operator, err error) {
	err = by.Update(o.store, func(tx *Tx) (err error) {
		if joined, err = o.Invited(tx, token, by.Late()); err != nil {
			return err
		}
		joined.setPassword(sealed, by.Now)
		joined.Joined = key != nil
		return errors.Join(OperatorTable.Put(tx, joined), putFirst(tx, &joined, key, by.Now))
	})
	return joined, err
}

// setPassword replaces the hash of the password and ends an open invitation.
func (o *operator) setPassword(sealed string, now time.Time) {
	o.Password, o.ChangedAt, o.Hash, o.InviteEndsAt, o.Initial = sealed, now, nil, time.Time{}, false
}

// endInvitations ends all open invitations. The operators can be invited again.
func endInvitations(tx *Tx) error {
	var open []operator
	for op, err := range OperatorTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		if op.Hash != nil {
			open = append(open, op)
		}
	}
	for _, op := range open {
		op.Hash, op.InviteEndsAt = nil, time.Time{}
		if err := OperatorTable.Put(tx, op); err != nil {
			return err
		}
	}
	return nil
}

// Ended returns a copy of o, an operator in a backup, to which everything is applied that has ended
// in now, the later state of the same operator. why has the ends of sentences that begin with the
// operator, and is empty if nothing has ended.
func (o operator) Ended(now operator) (next operator, why []string) {
	next = o
	switch {
	case now.Password == o.Password || now.Password == "" && !now.Joined:
	case now.Password == "":
		next.Password, next.Joined, next.ChangedAt = "", true, now.ChangedAt
		why = append(why, "removed the password")
	default:
		next.Password, next.ChangedAt = now.Password, now.ChangedAt
		why = append(why, "got another password")
	}
	if !now.DisabledAt.IsZero() && o.DisabledAt.IsZero() {
		next.DisabledAt = now.DisabledAt
		why = append(why, "was disabled")
	}
	if o.role().Rights&^now.role().Rights != 0 {
		next.Role = now.Role
		why = append(why, "got the role "+now.role().Name)
	}
	if now.Subject != "" && (now.Subject != o.Subject || now.Issuer != o.Issuer) {
		next.Issuer, next.Subject = now.Issuer, now.Subject
		why = append(why, "was linked to another login at an identity provider")
	}
	if next.Recovery = unused(o.Recovery, now.Recovery); len(next.Recovery) < len(o.Recovery) {
		why = append(why, "used or replaced recovery codes")
	}
	return next, why
}

// noAdminLeft is what remains to be done after the control socket has removed the last admin.
const noAdminLeft = "No operator with the role admin can log in any more. Create one with: latchkey admin create --name NAME, or restore one with: latchkey admin reset NAME"

// lastAdmin returns ErrConflict if op is the only operator who administers, so that a change which
// ends that is refused. Call it in the transaction of the change. On the control socket, which is the
// way back in, the change is allowed: lastAdmin then returns a sentence for the answer.
func lastAdmin(tx *Tx, c *Caller, op operator) (warning string, err error) {
	if !op.administers() {
		return "", nil
	}
	for other, err := range OperatorTable.All(tx, Forward) {
		if err != nil {
			return "", err
		}
		if other.ID != op.ID && other.administers() {
			return "", nil
		}
	}
	if c.Operator == 0 && c.Token == 0 {
		return noAdminLeft, nil
	}
	return "", ErrConflict.With("%s is the only operator with the role admin who can log in. Give another operator this role first.", op.Name)
}

// showOperator returns the JSON fields of an operator, without the password. factors are those of the
// operator.
func showOperator(op operator, factors []factor) map[string]any {
	return map[string]any{
		"id": op.ID, "name": op.Name, "role": op.role().Name, "status": op.status(), "created_at": Seconds(op.CreatedAt),
		"last_login_at": Seconds(op.LastLoginAt), "password_changed_at": Seconds(op.ChangedAt), "disabled_at": Seconds(op.DisabledAt),
		"invitation_expires_at": Seconds(op.InviteEndsAt), "second_factors": len(factors),
		"issuer": TextOrNone(op.Issuer), "subject": TextOrNone(op.Subject), "passwordless": op.Joined,
	}
}

func (o *Operators) list(w http.ResponseWriter, r *Request) error {
	rows := []any{}
	err := o.store.View(func(tx *Tx) error {
		for op, err := range OperatorTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			factors, err := factorsOf(tx, op.ID)
			if err != nil {
				return err
			}
			rows = append(rows, showOperator(op, factors))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"count": len(rows), "operators": rows})
}

func (o *Operators) invite(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(OnlyFields("name", "role"))
	if err != nil {
		return err
	}
	name, role := "", ""
	body.String("name", AnyLength, &name)
	body.Word("role", &role, GrantNames(Roles())...)
	if err := body.Err(); err != nil {
		return err
	}
	if role == "" {
		return ErrMissing.With("role is missing. Send one of %s.", strings.Join(GrantNames(Roles()), ", "))
	}
	invited, token, err := o.Invite(r.Deed(), name, role)
	if err != nil {
		return err
	}
	made := o.showLink(JoinPath(token), invited.InviteEndsAt)
	made["id"], made["name"], made["role"] = invited.ID, invited.Name, invited.Role
	return WriteJSON(w, http.StatusCreated, made)
}

// showLink returns the JSON fields of a one-time link with this path and query. The URL is null if
// no listener is running.
func (o *Operators) showLink(path string, expires time.Time) map[string]any {
	link := map[string]any{"path": path, "url": nil, "expires_at": Seconds(expires)}
	if url := o.dashboard.Load(); url != nil {
		link["url"] = strings.TrimSuffix(*url, "/") + path
	}
	return link
}

// JoinPath returns the path and query of the invitation with this token.
func JoinPath(token string) string { return "/join?token=" + token }

// operatorChange is what a request changes of an operator. nil: not sent.
type operatorChange struct {
	role     *string
	disabled *bool
	sealed   *string // hash of a new password
	reset    bool    // removes the second factors and the recovery codes
}

// operatorBody returns the members that the body of an operator may have, of which those in set change something.
func operatorBody(set ...string) BodyFields {
	return BodyFields{
		Set: set,
		Shown: []string{
			"id", "name", "role", "status", "created_at", "last_login_at", "password_changed_at", "disabled_at", "invitation_expires_at", "second_factors",
			"issuer", "subject", "passwordless", "warning",
		},
	}
}

// readChange reads a change of the operator with this id.
func (o *Operators) readChange(r *Request, id uint64) (c operatorChange, err error) {
	body, err := r.ReadFields(operatorBody("role", "disabled", "password", "reset_factors"))
	if err != nil {
		return c, err
	}
	role, disabled, password := "", false, ""
	body.Word("role", &role, GrantNames(Roles())...)
	body.Bool("disabled", &disabled)
	body.Bool("reset_factors", &c.reset)
	body.String("password", AnyLength, &password)
	if err := body.Err(); err != nil {
		return c, err
	}
	if role != "" {
		c.role = &role
	}
	if body.Given("disabled") {
		c.disabled = &disabled
	}
	if c.role == nil && c.disabled == nil && !c.reset && !body.Given("password") {
		return c, ErrMissing.With("Nothing to change. Send role, disabled, password or reset_factors.")
	}
	if c.reset && r.Caller.Operator == id {
		return c, ErrPermission.With("These are your own second factors. Remove them one by one on the page Account.")
	}
	if body.Given("password") {
		sealed, err := o.sealFor(r, id, password)
		if err != nil {
			return c, err
		}
		c.sealed = &sealed
	}
	return c, nil
}

// sealFor returns the stored form of a password that the caller sets for the operator with this id.
// It returns ErrPermission if the caller is that operator, ErrNotFound if there is no such operator,
// and ErrValidation if the password is not allowed.
func (o *Operators) sealFor(r *Request, id uint64, password string) (string, error) {
	if r.Caller.Operator == id {
		return "", ErrPermission.With("This is your own password. Change it on the page Account, which asks for the present one.")
	}
	op, err := o.Find(id)
	if err != nil {
		return "", err
	}
	if password, err = newPassword(op.Name, password); err != nil {
		return "", err
	}
	return o.seal(password), nil
}

// update handles a change of the role, of the password, and of whether an operator is disabled.
func (o *Operators) update(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	change, err := o.readChange(r, id)
	if err != nil {
		return err
	}
	var op operator
	var factors []factor
	warning := ""
	err = r.Update(o.store, func(tx *Tx) error {
		if change.reset {
			if err := EndFactors(tx, id); err != nil {
				return err
			}
		}
		was, err := o.Get(tx, id)
		if err != nil {
			return err
		}
		op = change.apply(was, r.Now)
		if change.reset && op.Password == "" && op.Joined && op.Subject == "" {
			return ErrConflict.With("%s has no password, and could not log in without the passkeys. Set a password first. On the server: latchkey admin passwd %q", op.Name, op.Name)
		}
		if !op.administers() {
			if warning, err = lastAdmin(tx, r.Caller, was); err != nil {
				return err
			}
		}
		if err := endLostTokens(tx, was, op, r.Now); err != nil {
			return err
		}
		if !op.DisabledAt.IsZero() || change.sealed != nil || change.reset {
			if err := change.end(tx, op, r.Now); err != nil {
				return err
			}
		}
		if change.reset {
			if err := publishReset(tx, op, resetWay(r.Caller), r.Deed()); err != nil {
				return err
			}
		}
		if factors, err = factorsOf(tx, id); err != nil {
			return err
		}
		return OperatorTable.Put(tx, op)
	})
	if err != nil {
		return err
	}
	shown := showOperator(op, factors)
	if change.sealed != nil {
		warning = strings.TrimSpace(warning + " " + o.passwordNote())
	}
	if warning != "" {
		shown["warning"] = warning
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// endLostTokens ends the tokens that an operator created if the operator no longer may do everything
// that was allowed before, because the tokens may.
func endLostTokens(tx *Tx, was, op operator, now time.Time) error {
	if was.role().Rights&^op.role().Rights == 0 {
		return nil
	}
	return EndTokensOf(tx, op.ID, now)
}

// apply returns a copy of op with the change.
func (c operatorChange) apply(op operator, now time.Time) operator {
	if c.role != nil && *c.role != op.role().Name {
		op.Role = *c.role
	}
	if c.sealed != nil {
		op.setPassword(*c.sealed, now)
	}
	switch {
	case c.disabled == nil:
	case !*c.disabled:
		op.DisabledAt = time.Time{}
	case op.DisabledAt.IsZero():
		op.DisabledAt = now
	}
	return op
}

// end ends what the change takes from an operator: all access if the operator is disabled, and the
// sessions if the password is another or the second factors were removed.
func (c operatorChange) end(tx *Tx, op operator, now time.Time) error {
	if !op.DisabledAt.IsZero() {
		return endAccess(tx, op.ID, now)
	}
	return endSessions(tx, op.ID, nil, now)
}

// remove deletes an operator, or withdraws the invitation of one.
func (o *Operators) remove(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	warning := ""
	err = r.Update(o.store, func(tx *Tx) error {
		op, err := o.Get(tx, id)
		if err != nil {
			return err
		}
		if warning, err = lastAdmin(tx, r.Caller, op); err != nil {
			return err
		}
		return errors.Join(EndFactors(tx, id), OperatorTable.Delete(tx, IDKey(id)), endAccess(tx, id, r.Now))
	})
	if err != nil {
		return err
	}
	message := "The operator was deleted."
	if warning != "" {
		message += " " + warning
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": message})
}

// readRole reads the role of a new operator, which is admin if none is sent.
func readRole(body *Body) string {
	role := ""
	body.Word("role", &role, GrantNames(Roles())...)
	return cmp.Or(role, RoleAdmin)
}
