package main

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"latchkey/internal/keytext"
)

// operator is the stored record of a person who may log in to the dashboard.
type operator struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Password  string    `json:"password"` // argon2id hash of the password, in the PHC string format
	CreatedAt time.Time `json:"created_at"`
	ChangedAt time.Time `json:"changed_at,omitzero"` // last change of the password; zero: never changed
	Role      string    `json:"role,omitempty"`      // one of Roles; "" for an operator from before there were roles, who is an admin
}

var OperatorTable = Table[operator]{
	Name: "operators", Signed: true, Audit: AuditPolicy{Object: "operator"},
	Key:     func(o operator) []byte { return IDKey(o.ID) },
	Indexes: []Index[operator]{{"name", func(o operator) [][]byte { return [][]byte{[]byte(strings.ToLower(o.Name))} }}},
}

// The cost of hashing a password with argon2id (RFC 9106 section 4). The values are the
// second set in the OWASP password storage cheat sheet.
const (
	hashMemory = 19 * 1024 // KiB
	hashPasses = 2
	hashLanes  = 1
)

// The allowed length of a password.
const (
	minPassword = 10   // characters
	maxPassword = 1024 // characters
)

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
}

// NewOperators returns an Operators that keeps its records in store.
func NewOperators(store *Store) *Operators {
	return &Operators{store: store, hashing: make(chan struct{}, 2)}
}

// DashboardAt sets the URL at which browsers reach the dashboard, for set-up links.
func (o *Operators) DashboardAt(url string) { o.dashboard.Store(&url) }

// OperatorTables returns the tables of operators, which a check of the store reads.
func OperatorTables() []Checked { return []Checked{OperatorTable} }

// AdminRoutes returns the routes for operators.
func (o *Operators) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/operators", Handle: o.list},
		{Method: "POST", Path: "/admin/v1/operators", Handle: o.create},
		{Method: "POST", Path: "/admin/v1/operators/:id/password", Handle: o.change},
		{Method: "DELETE", Path: "/admin/v1/operators/:id", Handle: o.remove},
		{Method: "POST", Path: "/admin/v1/setup-link", Handle: o.link},
	}
}

// hash returns the argon2id hash of a password, 32 bytes. It waits while two other hashes
// are running.
func (o *Operators) hash(password string, salt []byte) []byte {
	o.hashing <- struct{}{}
	defer func() { <-o.hashing }()
	return argon2.IDKey([]byte(password), salt, hashPasses, hashMemory, hashLanes, 32)
}

// seal returns the stored form of a password, which is a hash with a new random salt.
func (o *Operators) seal(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never returns an error; the program ends if the system has no random bytes
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashPasses, hashLanes, b64.EncodeToString(salt), b64.EncodeToString(o.hash(password, salt)))
}

// opens reports whether password matches stored, the result of seal. It uses the costs that
// are part of stored, so a password still matches after the constants have changed.
func (o *Operators) opens(stored, password string) bool {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	var memory, passes uint32
	var lanes uint8
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes); err != nil {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if errors.Join(err1, err2) != nil {
		return false
	}
	o.hashing <- struct{}{}
	defer func() { <-o.hashing }()
	return subtle.ConstantTimeCompare(argon2.IDKey([]byte(password), salt, passes, memory, lanes, uint32(len(want))), want) == 1
}

// Authenticate returns the operator with this name and password. It returns ErrLogin if the
// name or the password is wrong. Upper and lower case of the name are equal. An unknown name
// takes as long as a wrong password, so the time does not show which names exist.
func (o *Operators) Authenticate(name, password string) (operator, error) {
	if Length(password) > maxPassword {
		return operator{}, ErrLogin
	}
	var found operator
	err := o.store.View(func(tx *Tx) (err error) {
		found, err = OperatorTable.One(tx, "name", []byte(strings.ToLower(name)))
		return err
	})
	if errors.Is(err, ErrNotFound) {
		o.hash(password, make([]byte, 16))
		return operator{}, ErrLogin
	}
	if err != nil {
		return operator{}, err
	}
	if !o.opens(found.Password, password) {
		return operator{}, ErrLogin
	}
	return found, nil
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

// checkPassword returns ErrValidation if password is too short or too long for a new one.
func checkPassword(password string) error {
	if n := Length(password); n < minPassword || n > maxPassword {
		return ErrValidation.With("password must have %d to %s characters; it has %s.", minPassword, Figure(maxPassword), Figure(n))
	}
	return nil
}

// Create stores a new operator. If setup is not "", it must be the token of the valid set-up
// link, which works only once and only for the first operator. Create returns ErrSetup if
// setup is not valid, ErrConflict if the name is taken, and ErrValidation if the name or
// the password is not allowed.
func (o *Operators) Create(by AuditContext, name, password, setup string) (made operator, err error) {
	if name = strings.TrimSpace(name); name == "" || Length(name) > WordLength {
		return made, ErrValidation.With("name must have 1 to %d characters; it has %s.", WordLength, Figure(Length(name)))
	}
	// A form is not checked as JSON is.
	if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return made, ErrValidation.With("name must be text in UTF-8 without NUL characters.")
	}
	if err := checkPassword(password); err != nil {
		return made, err
	}
	if setup != "" { // checked before hashing, which is expensive
		if err := o.SetupHolds(setup, by.Late()); err != nil {
			return made, err
		}
	}
	sealed := o.seal(password)
	err = by.Update(o.store, func(tx *Tx) error {
		if setup != "" {
			if err := o.CheckSetup(tx, setup, by.Late()); err != nil {
				return err
			}
		}
		if OperatorTable.Has(tx, "name", []byte(strings.ToLower(name))) {
			return ErrConflict.With("An operator named %q already exists. Choose another name.", name)
		}
		id, err := OperatorTable.NextID(tx)
		if err != nil {
			return err
		}
		made = operator{ID: id, Name: name, Password: sealed, CreatedAt: by.Now}
		return errors.Join(OperatorTable.Put(tx, made), tx.Delete("meta", []byte("setup")))
	})
	return made, err
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
	if err := checkPassword(password); err != nil {
		return err
	}
	sealed := o.seal(password)
	return by.Update(o.store, func(tx *Tx) error {
		op, err := o.Get(tx, id)
		if err != nil {
			return err
		}
		op.Password, op.ChangedAt = sealed, by.Now
		return errors.Join(OperatorTable.Put(tx, op), endSessions(tx, id, keep, by.Now))
	})
}

// showOperator returns the JSON fields of an operator, without the password.
func showOperator(op operator) map[string]any {
	return map[string]any{"id": op.ID, "name": op.Name, "role": op.role().Name, "created_at": Seconds(op.CreatedAt), "password_changed_at": Seconds(op.ChangedAt)}
}

func (o *Operators) list(w http.ResponseWriter, r *Request) error {
	rows := []any{}
	err := o.store.View(func(tx *Tx) error {
		for op, err := range OperatorTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			rows = append(rows, showOperator(op))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"count": len(rows), "operators": rows})
}

func (o *Operators) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	name, password := "", ""
	body.String("name", AnyLength, &name)
	body.String("password", AnyLength, &password)
	if err := body.Err(); err != nil {
		return err
	}
	made, err := o.Create(r.Deed(), name, password, "")
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, showOperator(made))
}

func (o *Operators) change(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	password := ""
	if body.String("password", AnyLength, &password); body.Err() != nil {
		return body.Err()
	}
	if err := o.SetPassword(r.Deed(), id, password, nil); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "The password was changed, and all sessions of the operator were ended."})
}

func (o *Operators) remove(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	err = r.Update(o.store, func(tx *Tx) error {
		return errors.Join(OperatorTable.Delete(tx, IDKey(id)), endSessions(tx, id, nil, r.Now))
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "The operator was deleted."})
}

func (o *Operators) link(w http.ResponseWriter, r *Request) error {
	token, err := o.SetupToken(r.Deed())
	if err != nil {
		return err
	}
	made := map[string]any{"path": SetupPath(token), "url": nil, "expires_at": Seconds(r.Latest.Add(setupSpan))}
	if url := o.dashboard.Load(); url != nil {
		made["url"] = strings.TrimSuffix(*url, "/") + SetupPath(token)
	}
	return WriteJSON(w, http.StatusCreated, made)
}

// SetupPath returns the path and query of the set-up link with this token.
func SetupPath(token string) string { return "/setup?token=" + token }

// loginSession is the stored record of a login to the dashboard. Its token is not stored.
type loginSession struct {
	Hash      []byte    `json:"hash"`     // SHA-256 of the token
	Operator  uint64    `json:"operator"` // id of the operator
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at"`            // last request, give or take seenStep
	ProvenAt  time.Time `json:"proven_at,omitzero"` // when the operator last confirmed the password; zero: not since the login
}

var sessionTable = Table[loginSession]{
	Name: "sessions", Signed: true,
	Key: func(s loginSession) []byte { return s.Hash },
	Indexes: []Index[loginSession]{
		{"operator", func(s loginSession) [][]byte { return [][]byte{IDKey(s.Operator)} }},
		{"created", func(s loginSession) [][]byte { return [][]byte{IDKey(uint64(s.CreatedAt.UnixNano()))} }},
	},
}

// Sessions stores the sessions of operators in the dashboard. A session identifies only an
// operator and holds no other data, so no session library is used. Sessions is safe for
// concurrent use.
type Sessions struct {
	store       *Store
	idleTimeout time.Duration
	maxAge      time.Duration
}

// NewSessions returns a Sessions that keeps its records in store. A session ends when it had
// no request for idleTimeout, or when maxAge has passed since the login.
func NewSessions(store *Store, idleTimeout, maxAge time.Duration) *Sessions {
	return &Sessions{store: store, idleTimeout: idleTimeout, maxAge: maxAge}
}

// SessionTables returns the tables of sessions, which a check of the store reads.
func SessionTables() []Checked { return []Checked{sessionTable} }

// Longest returns the maximum length of a session, counted from the login.
func (s *Sessions) Longest() time.Duration { return s.maxAge }

// sessionHash returns the SHA-256 of a token, which identifies its stored session.
func sessionHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Begin stores a new session of the operator with this id. It returns the token of the
// session, which is 256 random bits in hex. The token is always new, so an attacker gains
// nothing by giving a browser a token before the login.
func (s *Sessions) Begin(by AuditContext, operator uint64) (token string, err error) {
	token = keytext.RandomHex(32)
	return token, by.Update(s.store, func(tx *Tx) error {
		return sessionTable.Put(tx, loginSession{Hash: sessionHash(token), Operator: operator, CreatedAt: by.Late(), SeenAt: by.Late()})
	})
}

// seenStep is the minimum time between two writes of a session. A request within this time
// since the last write does not write the session again.
const seenStep = time.Minute

// Find returns the session that has this token, and records that it is in use. It returns ErrNotFound if there is no such session or if the session
// has ended. now must be from Clock.Latest.
func (s *Sessions) Find(token string, now time.Time) (found loginSession, err error) {
	err = s.store.View(func(tx *Tx) (err error) {
		found, err = sessionTable.Get(tx, sessionHash(token))
		return err
	})
	if err != nil {
		return found, err
	}
	if now.Sub(found.SeenAt) >= s.idleTimeout || now.Sub(found.CreatedAt) >= s.maxAge || now.Before(found.CreatedAt.Add(-time.Minute)) {
		return found, ErrNotFound
	}
	if now.Sub(found.SeenAt) >= seenStep {
		// The session is read again, so that a session that was ended in the meantime is
		// not restored.
		err = s.store.Update(func(tx *Tx) error {
			again, err := sessionTable.Get(tx, found.Hash)
			if err != nil {
				return err
			}
			again.SeenAt = now
			return sessionTable.Put(tx, again)
		})
	}
	return found, err
}

// End ends the session with this token. If there is no such session it does nothing.
func (s *Sessions) End(by AuditContext, token string) error {
	err := by.Update(s.store, func(tx *Tx) error { return sessionTable.Delete(tx, sessionHash(token)) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// EndAll ends all sessions of the operator with this id, and the admin tokens that the operator
// created.
func (s *Sessions) EndAll(by AuditContext, operator uint64) error {
	return by.Update(s.store, func(tx *Tx) error { return endSessions(tx, operator, nil, by.Now) })
}

// endSessions ends all sessions of an operator except the session whose token has the hash
// keep, and the admin tokens that were created in the ended sessions. If keep is nil it ends all
// sessions, and all admin tokens that the operator created: whoever had one of the sessions must not
// keep access by a token.
func endSessions(tx *Tx, operator uint64, keep []byte, now time.Time) error {
	var hashes [][]byte
	for _, hash := range sessionTable.Find(tx, "operator", IDKey(operator), Forward) {
		if string(hash) != string(keep) {
			hashes = append(hashes, append([]byte(nil), hash...))
		}
	}
	if err := deleteSessions(tx, hashes); err != nil {
		return err
	}
	if keep == nil {
		return EndTokensOf(tx, operator, now)
	}
	return EndTokensOfSessions(tx, hashes, now)
}

// deleteSessions deletes the sessions whose tokens have these hashes.
func deleteSessions(tx *Tx, hashes [][]byte) error {
	for _, hash := range hashes {
		if err := sessionTable.Delete(tx, hash); err != nil {
			return err
		}
	}
	return nil
}

// EndLogins ends all sessions of all operators and the set-up link.
func EndLogins(tx *Tx) error {
	var hashes [][]byte
	for hash := range tx.Range(sessionTable.Name, nil) {
		hashes = append(hashes, append([]byte(nil), hash...))
	}
	return errors.Join(deleteSessions(tx, hashes), tx.Delete("meta", []byte("setup")))
}

// Sweep deletes up to 1000 sessions that are older than the maximum length of a session. Call
// it about once a minute. now must be from Clock.Earliest.
func (s *Sessions) Sweep(now time.Time) error {
	return Sweep(s.store, sessionTable, "created", IDKey(uint64(now.Add(-s.maxAge).UnixNano())))
}
