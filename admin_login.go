package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"latchkey/dashboard"
	"latchkey/internal/keytext"
)

// operator is the stored record of a person who may log in to the dashboard.
type operator struct {
	ID           uint64    `json:"id"`
	Name         string    `json:"name"`
	Password     string    `json:"password"` // argon2id hash of the password, in the PHC string format; "" until an invitation is accepted
	CreatedAt    time.Time `json:"created_at"`
	ChangedAt    time.Time `json:"changed_at,omitzero"`     // last change of the password; zero: never changed
	Role         string    `json:"role,omitempty"`          // one of Roles; "" for an operator from before there were roles, who is an admin
	Devices      uint64    `json:"devices,omitempty"`       // how often the operator has signed out everywhere; a deviceTicket of another number is not valid
	DisabledAt   time.Time `json:"disabled_at,omitzero"`    // zero: not disabled
	LastLoginAt  time.Time `json:"last_login_at,omitzero"`  // when the newest session began; zero: never
	Hash         []byte    `json:"hash,omitempty"`          // SHA-256 of the token of an open invitation; nil: there is none
	InviteEndsAt time.Time `json:"invite_ends_at,omitzero"` // when the open invitation expires

	Initial  bool           `json:"initial,omitempty"`        // the password is the one from the environment of the service
	Joined   bool           `json:"joined,omitempty"`         // has logged in without a password, by a passkey or by single sign-on
	Issuer   string         `json:"issuer,omitempty"`         // identity provider of the single sign-on; "" if there is none
	Subject  string         `json:"subject,omitempty"`        // id of the operator at the identity provider
	Recovery []recoveryCode `json:"recovery_codes,omitempty"` // those that were not used
	Handle   []byte         `json:"handle,omitempty"`         // by which passkeys know the operator: 32 random bytes; nil until the first one

	Display dashboard.Preferences `json:"display,omitzero"` // what the operator has chosen for the pages
}

// rights returns the operator without what says nothing about who may log in and do what.
func (o operator) rights() operator {
	o.LastLoginAt, o.Joined, o.Handle, o.Display = time.Time{}, false, nil, dashboard.Preferences{}
	return o
}

var OperatorTable = Table[operator]{
	Name: "operators", Signed: true, Audit: AuditPolicy{Object: "operator"},
	Secure: func(before, after *operator) bool {
		return before != nil && (after == nil || !reflect.DeepEqual(before.rights(), after.rights()))
	},
	Key:     func(o operator) []byte { return IDKey(o.ID) },
	Indexes: []Index[operator]{{"name", func(o operator) [][]byte { return [][]byte{[]byte(strings.ToLower(o.Name))} }}},
}

// setupSpan is how long a set-up link is valid.
const setupSpan = 30 * time.Minute

// Actor returns the operator's name in the audit log.
func (o operator) Actor() string { return fmt.Sprintf("operator %d %s", o.ID, o.Name) }

// role returns the role of the operator.
func (o operator) role() Grant { return roleNamed(cmp.Or(o.Role, RoleAdmin)) }

// roleNamed returns the role with this name, which allows nothing if the name is unknown.
func roleNamed(name string) Grant {
	role, _ := FindGrant(Roles(), name)
	role.Name = name
	return role
}

// Operators stores the operators who may log in. It is safe for concurrent use.
type Operators struct {
	store     *Store
	hashing   chan struct{}          // has one element for each running hash; its capacity limits the memory for hashing
	dashboard atomic.Pointer[string] // URL of the dashboard; nil until DashboardAt is called

	cost         hashCost // of a new password
	passwordsOff bool     // no password is accepted, see RefusePasswords
}

// NewOperators returns an Operators that keeps its records in store.
func NewOperators(store *Store) *Operators {
	return &Operators{store: store, hashing: make(chan struct{}, 2), cost: usualCost}
}

// DashboardAt sets the URL at which browsers reach the dashboard, for set-up links.
func (o *Operators) DashboardAt(url string) { o.dashboard.Store(&url) }

// RefusePasswords makes o accept no password any more: not to log in, to confirm an action, to set up
// the service or to accept an invitation. Call it before o is used.
func (o *Operators) RefusePasswords() { o.passwordsOff = true }

// errPasswordsOff is the answer to a password if none is accepted.
var errPasswordsOff = ErrPermission.With("This service accepts no passwords, because admin.password_login is false. Log in another way, such as single sign-on.")

// passwordNote returns what the answer to a change of a password says if no password is accepted. It
// returns "" otherwise.
func (o *Operators) passwordNote() string {
	if !o.passwordsOff {
		return ""
	}
	return "No password is accepted now, because admin.password_login is false. To log in with this one, set admin.password_login = true and restart the service."
}

// OperatorTables returns the tables of operators, which a check of the store reads.
func OperatorTables() []Checked { return []Checked{&OperatorTable} }

// AdminRoutes returns the routes for operators.
func (o *Operators) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/operators", Handle: o.list},
		{Method: "POST", Path: "/admin/v1/operators", Handle: o.create},
		{Method: "POST", Path: "/admin/v1/operators/invite", Handle: o.invite},
		{Method: "PATCH", Path: "/admin/v1/operators/:id", Handle: o.update},
		{Method: "POST", Path: "/admin/v1/operators/:id/password", Handle: o.change},
		{Method: "DELETE", Path: "/admin/v1/operators/:id", NoBody: true, Handle: o.remove},
		{Method: "POST", Path: "/admin/v1/setup-link", NoBody: true, Handle: o.link},
	}
}

// Get returns the operator with this id, or ErrNotFound.
func (o *Operators) Get(tx *Tx, id uint64) (operator, error) { return OperatorTable.Get(tx, IDKey(id)) }

// Find is like Get, but runs its own transaction.
func (o *Operators) Find(id uint64) (op operator, err error) {
	err = o.store.View(func(tx *Tx) error {
		op, err = o.Get(tx, id)
		return err
	})
	return op, err
}

// SetupHolds is like CheckSetup, but runs its own transaction.
func (o *Operators) SetupHolds(token string, now time.Time) error {
	return o.store.View(func(tx *Tx) error { return o.CheckSetup(tx, token, now) })
}

// Any reports whether at least one operator exists.
func (o *Operators) Any() (bool, error) {
	n := 0
	err := o.store.View(func(tx *Tx) (err error) {
		n, err = OperatorTable.Count(tx)
		return err
	})
	return n > 0, err
}

// Create is like createAs for an operator with the role admin.
func (o *Operators) Create(by AuditContext, name, password, setup string) (made operator, err error) {
	return o.createAs(by, operator{Name: name, Role: RoleAdmin}, password, setup)
}

// CreateInitial is like Create for an operator whose password is from the environment of the service.
func (o *Operators) CreateInitial(by AuditContext, name, password string) error {
	_, err := o.createAs(by, operator{Name: name, Role: RoleAdmin, Initial: true}, password, "")
	return err
}

// createAs stores a new operator with the name, the role and Initial of made. If setup is not "", it must
// be the token of the valid set-up link, which works only once and only for the first operator.
// createAs returns ErrSetup if setup is not valid, ErrConflict if the name is taken, and
// ErrValidation if the name or the password is not allowed.
func (o *Operators) createAs(by AuditContext, made operator, password, setup string) (operator, error) {
	name, err := cleanName(made.Name)
	if err != nil {
		return made, err
	}
	if password, err = newPassword(name, password); err != nil {
		return made, err
	}
	if setup != "" && o.passwordsOff {
		return made, errPasswordsOff
	}
	if setup != "" { // checked before hashing, which is expensive
		if err := o.SetupHolds(setup, by.Late()); err != nil {
			return made, err
		}
	}
	made.Name, made.Password = name, o.seal(password)
	return o.insert(by, made, setup, nil)
}

// createWithPasskey is like Create for an operator with a passkey in place of a password.
func (o *Operators) createWithPasskey(by AuditContext, name, setup string, key createdPasskey) (made operator, err error) {
	if name, err = cleanName(name); err != nil {
		return made, err
	}
	return o.insert(by, operator{Name: name, Role: RoleAdmin, Joined: true}, setup, &key)
}

// insert stores a new operator, with a passkey unless key is nil. See createAs for setup and the errors.
func (o *Operators) insert(by AuditContext, made operator, setup string, key *createdPasskey) (operator, error) {
	err := by.Update(o.store, func(tx *Tx) (err error) {
		if setup != "" {
			if err := o.CheckSetup(tx, setup, by.Late()); err != nil {
				return err
			}
		}
		if OperatorTable.Has(tx, "name", []byte(strings.ToLower(made.Name))) {
			return ErrConflict.With("An operator named %q already exists. Choose another name.", made.Name)
		}
		if made.ID, err = OperatorTable.NextID(tx); err != nil {
			return err
		}
		made.CreatedAt = by.Now
		return errors.Join(OperatorTable.Put(tx, made), putFirst(tx, &made, key, by.Now), tx.Delete("meta", []byte("setup")))
	})
	return made, err
}

// putFirst stores the first passkey of an operator, unless key is nil.
func putFirst(tx *Tx, op *operator, key *createdPasskey, now time.Time) error {
	if key == nil {
		return nil
	}
	return putPasskey(tx, op, *key, now)
}

// setupMark returns the stored form of a set-up link: the SHA-256 of its token, then the
// time at which the link expires. Only one link is stored.
func setupMark(token string, until time.Time) []byte {
	sum := sha256.Sum256([]byte(token))
	return append(sum[:], IDKey(uint64(until.UnixMilli()))...)
}

// CheckSetup returns ErrSetup unless token belongs to the valid set-up link and no operator
// exists yet. now must be from Clock.Latest.
func (o *Operators) CheckSetup(tx *Tx, token string, now time.Time) error {
	n, err := OperatorTable.Count(tx)
	if err != nil {
		return err
	}
	if n > 0 {
		return ErrSetup
	}
	mark, err := tx.GetSigned("meta", []byte("setup"))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	sum := sha256.Sum256([]byte(token))
	if len(mark) != 40 || subtle.ConstantTimeCompare(mark[:32], sum[:]) != 1 || string(mark[32:]) <= string(IDKey(uint64(now.UnixMilli()))) {
		return ErrSetup
	}
	return nil
}

// SetupToken creates a set-up link and returns its token. An earlier link stops working. Only
// the hash of the token is stored. SetupToken returns ErrConflict if an operator exists.
func (o *Operators) SetupToken(by AuditContext) (token string, err error) {
	token = keytext.RandomHex(32)
	err = by.Update(o.store, func(tx *Tx) error {
		n, err := OperatorTable.Count(tx)
		if err != nil {
			return err
		}
		if n > 0 {
			return ErrConflict.With("An operator already exists. Log in, or set a new password with latchkey admin passwd.")
		}
		return tx.PutSigned("meta", []byte("setup"), setupMark(token, by.Late().Add(setupSpan)))
	})
	return token, err
}

// SetPassword changes the password of the operator with this id. It ends all sessions of the
// operator except the session whose token has the hash keep, see endSessions.
// SetPassword returns ErrNotFound if there is no such operator.
func (o *Operators) SetPassword(by AuditContext, id uint64, password string, keep []byte) error {
	op, err := o.Find(id)
	if err != nil {
		return err
	}
	if password, err = newPassword(op.Name, password); err != nil {
		return err
	}
	return o.storePassword(by, id, o.seal(password), keep)
}

// storePassword is like SetPassword for a password that was checked and sealed.
func (o *Operators) storePassword(by AuditContext, id uint64, sealed string, keep []byte) error {
	return by.Update(o.store, func(tx *Tx) error {
		op, err := o.Get(tx, id)
		if err != nil {
			return err
		}
		op.setPassword(sealed, by.Now)
		return errors.Join(OperatorTable.Put(tx, op), endSessions(tx, id, keep, by.Now))
	})
}

func (o *Operators) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(operatorBody("name", "password", "role"))
	if err != nil {
		return err
	}
	name, password := "", ""
	body.String("name", AnyLength, &name)
	body.String("password", AnyLength, &password)
	role := readRole(body)
	if err := body.Err(); err != nil {
		return err
	}
	made, err := o.createAs(r.Deed(), operator{Name: name, Role: role}, password, "")
	if err != nil {
		return err
	}
	shown := showOperator(made, nil)
	if note := o.passwordNote(); note != "" {
		shown["warning"] = note
	}
	return WriteJSON(w, http.StatusCreated, shown)
}

func (o *Operators) change(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	body, err := r.ReadFields(OnlyFields("password"))
	if err != nil {
		return err
	}
	password := ""
	if body.String("password", AnyLength, &password); body.Err() != nil {
		return body.Err()
	}
	sealed, err := o.sealFor(r, id, password)
	if err != nil {
		return err
	}
	if err := o.storePassword(r.Deed(), id, sealed, nil); err != nil {
		return err
	}
	message := "The password was changed, and all sessions of the operator were ended. " + o.passwordNote()
	return WriteJSON(w, http.StatusOK, map[string]string{"message": strings.TrimSpace(message)})
}

func (o *Operators) link(w http.ResponseWriter, r *Request) error {
	token, err := o.SetupToken(r.Deed())
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, o.showLink(SetupPath(token), r.Latest.Add(setupSpan)))
}

// SetupPath returns the path and query of the set-up link with this token.
func SetupPath(token string) string { return "/setup?token=" + token }
