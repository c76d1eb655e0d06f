package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// The kinds of second factors.
const (
	factorTOTP    = "totp"    // an app that shows one-time codes (RFC 6238)
	factorPasskey = "passkey" // a credential of an authenticator (W3C Web Authentication)
)

// factor is the stored record of something that an operator has and shows at a login.
type factor struct {
	ID         uint64    `json:"id"`
	Operator   uint64    `json:"operator"` // id of the operator
	Kind       string    `json:"kind"`
	Name       string    `json:"name"` // by which the operator recognizes it
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // zero: never since it was added

	Secret []byte `json:"secret,omitempty"` // of a TOTP factor: encrypted, see totpPurpose
	Step   int64  `json:"step,omitempty"`   // of a TOTP factor: the time step of the last accepted code

	CredentialID []byte          `json:"credential_id,omitempty"` // of a passkey
	Credential   json.RawMessage `json:"credential,omitempty"`    // of a passkey: public key, counter and flags
}

// FactorTable stores the second factors. An index finds a passkey by the id of its credential.
var FactorTable = Table[factor]{
	Name: "factors", Signed: true, Audit: AuditPolicy{Object: "factor", Untold: []string{"last_used_at", "step", "credential", "credential_id"}},
	Secure: func(before, after *factor) bool { return before != nil && after == nil },
	Key:    func(f factor) []byte { return IDKey(f.ID) },
	Indexes: []Index[factor]{
		{"operator", func(f factor) [][]byte { return [][]byte{IDKey(f.Operator)} }},
		{"credential", func(f factor) [][]byte {
			if f.CredentialID == nil {
				return nil
			}
			return [][]byte{f.CredentialID}
		}},
	},
}

// maxFactors is how many factors of one kind an operator can have.
var maxFactors = map[string]int{factorTOTP: 3, factorPasskey: 20}

// factorsOf returns the factors of an operator, the oldest first.
func factorsOf(tx *Tx, operator uint64) (list []factor, err error) {
	for _, key := range FactorTable.Find(tx, "operator", IDKey(operator), Forward) {
		f, err := FactorTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// Factors is like factorsOf, but runs its own transaction.
func (o *Operators) Factors(operator uint64) (list []factor, err error) {
	err = o.store.View(func(tx *Tx) error {
		list, err = factorsOf(tx, operator)
		return err
	})
	return list, err
}

// hasKind reports whether one of the factors has this kind.
func hasKind(list []factor, kind string) bool {
	return slices.ContainsFunc(list, func(f factor) bool { return f.Kind == kind })
}

// addFactor stores a new factor of an operator and returns it with its id. The name of made may be
// empty. addFactor returns ErrConflict if the operator has too many factors of the kind, and
// ErrValidation if the name is not allowed.
func addFactor(tx *Tx, made factor) (factor, error) {
	list, err := factorsOf(tx, made.Operator)
	if err != nil {
		return made, err
	}
	of := 0
	for _, f := range list {
		if f.Kind == made.Kind {
			of++
		}
	}
	if of >= maxFactors[made.Kind] {
		return made, ErrConflict.With("An operator can have %d factors of the kind %s. Remove one first.", maxFactors[made.Kind], made.Kind)
	}
	if made.Name == "" {
		made.Name = freeName(list, map[string]string{factorTOTP: "Authenticator app", factorPasskey: "Passkey"}[made.Kind])
	}
	if made.Name, err = cleanName(made.Name); err != nil {
		return made, err
	}
	if made.ID, err = FactorTable.NextID(tx); err != nil {
		return made, err
	}
	return made, FactorTable.Put(tx, made)
}

// freeName returns name, or name with a number that makes it differ from the names in list.
func freeName(list []factor, name string) string {
	next := name
	for n := 2; slices.ContainsFunc(list, func(f factor) bool { return f.Name == next }); n++ {
		next = fmt.Sprintf("%s %d", name, n)
	}
	return next
}

// EndFactors removes all factors and recovery codes of an operator.
func EndFactors(tx *Tx, operator uint64) error {
	list, err := factorsOf(tx, operator)
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := FactorTable.Delete(tx, IDKey(f.ID)); err != nil {
			return err
		}
	}
	op, err := OperatorTable.Get(tx, IDKey(operator))
	if err != nil {
		return err
	}
	op.Recovery = nil
	return OperatorTable.Put(tx, op)
}

// The ways in which a lost factor is replaced, for the event FactorReset.
const (
	resetByCode    = "recovery_code" // the operator used a recovery code at a login
	resetByAdmin   = "admin"         // another admin removed the factors
	resetByMachine = "command_line"  // on the machine of the service
)

// resetWay returns the way in which a caller replaces a lost factor.
func resetWay(c *Caller) string {
	if c.Operator == 0 {
		return resetByMachine
	}
	return resetByAdmin
}

// publishReset publishes the event about an operator whose second factor was replaced or went unused.
func publishReset(tx *Tx, op operator, way string, by AuditContext) error {
	return Publish(tx, WebhookEvent{Type: FactorReset, Operator: true, At: by.Now, Body: map[string]any{"operator": map[string]any{
		"id": op.ID, "name": op.Name, "role": op.role().Name, "way": way, "by": by.Actor, "client_ip": addressText(by.Client), "recovery_codes": len(op.Recovery),
	}}})
}

// show returns the JSON object of a factor. It contains no secret.
func (f factor) show() map[string]any {
	shown := map[string]any{
		"id": f.ID, "operator": f.Operator, "kind": f.Kind, "name": f.Name, "created_at": Seconds(f.CreatedAt), "last_used_at": Seconds(f.LastUsedAt),
		"host": nil, "backed_up": nil,
	}
	if k, ok := passkeyOf(f); ok {
		shown["host"], shown["backed_up"] = k.Host, k.BackedUp
	}
	return shown
}

// factorRoutes returns the routes for the second factors of a login.
func (a *Accounts) factorRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/factors", Handle: a.listFactors, Query: []string{"operator"}},
		{Method: "POST", Path: "/admin/v1/factors", Handle: a.addTOTP},
		{Method: "POST", Path: "/admin/v1/factors/totp", NoBody: true, Handle: a.offerTOTP},
		{Method: "PATCH", Path: "/admin/v1/factors/:id", Handle: a.renameFactor},
		{Method: "DELETE", Path: "/admin/v1/factors/:id", NoBody: true, Handle: a.removeFactor},
		{Method: "POST", Path: "/admin/v1/recovery-codes", NoBody: true, Handle: a.makeRecoveryCodes},
		{Method: "POST", Path: "/admin/v1/operators/:id/enroll-link", NoBody: true, Handle: a.enrollLink},
	}
}

// listFactors answers with the factors of the caller, or of the operator in the query.
func (a *Accounts) listFactors(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	of, err := listedOperator(q, r.Caller)
	if err != nil {
		return err
	}
	rows, codes := []any{}, 0
	err = r.View(a.o.Operators.store, func(tx *Tx) error {
		for f, err := range FactorTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if (of == 0 || f.Operator == of) && mayEnd(r.Caller, f.Operator) {
				rows = append(rows, f.show())
			}
		}
		op, err := OperatorTable.Get(tx, IDKey(of))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		codes = len(op.Recovery)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"count": len(rows), "factors": rows, "recovery_codes": codes, "required": a.o.SecondFactor})
}

// ownFactor returns the factor whose id is in the path. It returns ErrNotFound unless it is the caller's.
func ownFactor(tx *Tx, r *Request) (f factor, err error) {
	id, err := r.NumberParam("id")
	if err != nil {
		return f, err
	}
	if f, err = FactorTable.Get(tx, IDKey(id)); err == nil && f.Operator != r.Caller.Operator {
		return factor{}, ErrNotFound
	}
	return f, err
}

// factorBody returns the members that the body of a second factor may have, of which those in set have an effect.
func factorBody(set ...string) BodyFields {
	return BodyFields{Set: set, Shown: []string{"id", "operator", "kind", "name", "created_at", "last_used_at", "host", "backed_up"}}
}

func (a *Accounts) renameFactor(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(factorBody("name"))
	if err != nil {
		return err
	}
	name := ""
	if body.String("name", AnyLength, &name); body.Err() != nil {
		return body.Err()
	}
	if name, err = cleanName(name); err != nil {
		return err
	}
	var f factor
	err = r.Update(a.o.Operators.store, func(tx *Tx) (err error) {
		if f, err = ownFactor(tx, r); err != nil {
			return err
		}
		f.Name = name
		return FactorTable.Put(tx, f)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, f.show())
}

// removeFactor removes one of the caller's factors.
func (a *Accounts) removeFactor(w http.ResponseWriter, r *Request) error {
	err := r.Update(a.o.Operators.store, func(tx *Tx) error {
		f, err := ownFactor(tx, r)
		if err != nil {
			return err
		}
		return a.dropFactor(tx, f)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "The factor was removed."})
}

// dropFactor deletes a factor. With the last one it deletes the recovery codes, which are used in place of
// factors. It returns ErrConflict if the operator could not log in any more, or only without a second
// factor where one is required.
func (a *Accounts) dropFactor(tx *Tx, f factor) error {
	list, err := factorsOf(tx, f.Operator)
	if err != nil {
		return err
	}
	op, err := OperatorTable.Get(tx, IDKey(f.Operator))
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(list, func(other factor) bool { return other.ID == f.ID })
	switch {
	case len(left) == 0 && a.o.SecondFactor:
		return ErrConflict.With("A second factor is required, and this is the last one. Add another one first.")
	case (op.Password == "" || a.o.Operators.passwordsOff) && op.Subject == "" && !a.o.Passkeys.anyHere(left):
		return ErrConflict.With("You have no password, and without this passkey you could not log in. Add another passkey or set a password first.")
	}
	if len(left) == 0 {
		return EndFactors(tx, f.Operator)
	}
	return FactorTable.Delete(tx, IDKey(f.ID))
}

// enrollSpan is how long a link for setting up a second factor is valid.
const enrollSpan = 30 * time.Minute

// enrollment is what such a link holds.
type enrollment struct {
	Operator  uint64    `json:"operator"`
	ChangedAt time.Time `json:"changed_at"` // of the password; another one ends the link
}

var enrollTicket = ticketKind[enrollment]{"link for a second factor", enrollSpan}

// enrollLink makes a link with which an operator whose password is from the environment may set up the
// first second factor.
func (a *Accounts) enrollLink(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	op, err := a.o.Operators.Find(id)
	if err != nil {
		return err
	}
	factors, err := a.o.Operators.Factors(id)
	switch {
	case err != nil:
		return err
	case op.Password == "":
		return ErrConflict.With("The operator has no password. Send an invitation or set a password first.")
	case len(factors) > 0:
		return ErrConflict.With("The operator has a second factor already.")
	}
	ticket, err := enrollTicket.issue(a.o.Peppers, enrollment{op.ID, op.ChangedAt}, r.Latest)
	if err != nil {
		return err
	}
	if err := r.Record(a.o.Operators.store); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, a.o.Operators.showLink("/login?enroll="+ticket, r.Latest.Add(enrollSpan)))
}

// needsLink reports whether an operator may set up the first second factor only with a link: the
// password is from the environment of the service, where others may have read it.
func (a *Accounts) needsLink(op operator, link string, now time.Time) bool {
	if !op.Initial {
		return false
	}
	held, ok := enrollTicket.read(a.o.Peppers, link, now)
	return !ok || held.Operator != op.ID || !held.ChangedAt.Equal(op.ChangedAt)
}

// FactorTables returns the tables of second factors, which a check of the store reads.
func FactorTables() []Checked { return []Checked{&FactorTable} }

// EndedFactor is a second factor in a backup that has ended or was used since.
type EndedFactor struct {
	What  string             // sentence that says so
	Apply func(tx *Tx) error // does the same in the restored database
}

// FactorsEnded returns the second factors that were removed since the backup, and those whose last code
// is a later one, so that no code is accepted twice.
func FactorsEnded(previous, backup *Tx) (ended []EndedFactor, err error) {
	for was, err := range FactorTable.All(backup, Forward) {
		if err != nil {
			return nil, err
		}
		now, err := FactorTable.Get(previous, IDKey(was.ID))
		gone := errors.Is(err, ErrNotFound)
		if err != nil && !gone {
			return nil, err
		}
		what := fmt.Sprintf("The second factor %d (%s) of operator %d", was.ID, was.Name, was.Operator)
		switch {
		case gone:
			ended = append(ended, EndedFactor{what + " was removed.", func(tx *Tx) error { return dropIfThere(tx, was) }})
		case now.Step > was.Step:
			was.Step = now.Step
			ended = append(ended, EndedFactor{what + " was used.", func(tx *Tx) error { return FactorTable.Put(tx, was) }})
		}
	}
	return ended, nil
}

// dropIfThere deletes a factor unless it was deleted together with its operator.
func dropIfThere(tx *Tx, f factor) error {
	if err := FactorTable.Delete(tx, IDKey(f.ID)); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}
