package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"latchkey/internal/keytext"
)

// operator is somebody who may log in to the dashboard, as stored.
type operator struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Password  string    `json:"password"` // argon2id, in the PHC string format
	CreatedAt time.Time `json:"created_at"`
	ChangedAt time.Time `json:"changed_at,omitzero"` // of the password
}

var operatorTable = Table[operator]{
	Name: "operators", Audit: AuditPolicy{Object: "operator"},
	Key:     func(o operator) []byte { return IDKey(o.ID) },
	Indexes: []Index[operator]{{"name", func(o operator) [][]byte { return [][]byte{[]byte(strings.ToLower(o.Name))} }}},
}

// The cost of a password's hash (RFC 9106 section 4; the second set of the
// OWASP password storage cheat sheet): memory in KiB, passes, lanes.
const (
	hashMemory = 19 * 1024
	hashPasses = 2
	hashLanes  = 1
)

// The length of a password: at least, in characters, and at most, in bytes.
const (
	minPassword = 10
	maxPassword = 1024
)

// setupSpan is how long a set-up link holds.
const setupSpan = 30 * time.Minute

// Actor is the operator for the audit log.
func (o operator) Actor() string { return fmt.Sprintf("operator %d %s", o.ID, o.Name) }

// Operators keeps who may log in. It is safe for concurrent use.
type Operators struct {
	store   *Store
	hashing chan struct{} // bounds how much memory hashing takes
}

// NewOperators keeps operators in a store.
func NewOperators(store *Store) *Operators {
	return &Operators{store: store, hashing: make(chan struct{}, 2)}
}

// OperatorTables returns the tables of operators, for checks.
func OperatorTables() []Checked { return []Checked{operatorTable} }

// AdminRoutes lists the endpoints.
func (o *Operators) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/operators", Handle: o.list},
		{Method: "POST", Path: "/admin/v1/operators", Handle: o.create},
		{Method: "POST", Path: "/admin/v1/operators/:id/password", Handle: o.change},
		{Method: "DELETE", Path: "/admin/v1/operators/:id", Handle: o.remove},
		{Method: "POST", Path: "/admin/v1/setup-link", Handle: o.link},
	}
}

func (o *Operators) hash(password string, salt []byte) []byte {
	o.hashing <- struct{}{}
	defer func() { <-o.hashing }()
	return argon2.IDKey([]byte(password), salt, hashPasses, hashMemory, hashLanes, 32)
}

// seal gives the stored form of a password.
func (o *Operators) seal(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails; the program ends if the system has none
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashPasses, hashLanes, b64.EncodeToString(salt), b64.EncodeToString(o.hash(password, salt)))
}

// opens says whether a password is that of a stored form.
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

// Authenticate gives the operator of a name and a password; ErrLogin. It takes
// as long for a name that does not exist.
func (o *Operators) Authenticate(name, password string) (operator, error) {
	if len(password) > maxPassword {
		return operator{}, ErrLogin
	}
	var found operator
	err := o.store.View(func(tx *Tx) (err error) {
		found, err = operatorTable.One(tx, "name", []byte(strings.ToLower(name)))
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

// Get reads an operator; ErrNotFound.
func (o *Operators) Get(tx *Tx, id uint64) (operator, error) { return operatorTable.Get(tx, IDKey(id)) }

// Find reads an operator in a transaction of its own; ErrNotFound.
func (o *Operators) Find(id uint64) (op operator, err error) {
	err = o.store.View(func(tx *Tx) error {
		op, err = o.Get(tx, id)
		return err
	})
	return op, err
}

// SetupHolds says whether the token of a set-up link holds: ErrSetup.
func (o *Operators) SetupHolds(token string, now time.Time) error {
	return o.store.View(func(tx *Tx) error { return o.CheckSetup(tx, token, now) })
}

// Any says whether there is an operator.
func (o *Operators) Any() (bool, error) {
	n := 0
	err := o.store.View(func(tx *Tx) (err error) {
		n, err = operatorTable.Count(tx)
		return err
	})
	return n > 0, err
}

// checkPassword says what is wrong with a new password, nil for nothing.
func checkPassword(password string) error {
	if utf8.RuneCountInString(password) < minPassword || len(password) > maxPassword {
		return ErrValidation.With("password must have %d characters or more, and at most %d bytes.", minPassword, maxPassword)
	}
	return nil
}

// Create stores an operator. With setup, which is the token of a set-up link,
// it does so only as the first, and once: ErrSetup. ErrConflict: the name is
// taken.
func (o *Operators) Create(by AuditContext, name, password, setup string) (made operator, err error) {
	if name = strings.TrimSpace(name); name == "" || len(name) > 100 {
		return made, ErrValidation.With("name must have 1 to 100 bytes.")
	}
	if err := checkPassword(password); err != nil {
		return made, err
	}
	if setup != "" { // before any hashing, which is dear
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
		if operatorTable.Has(tx, "name", []byte(strings.ToLower(name))) {
			return ErrConflict.With("There is an operator named %q.", name)
		}
		id, err := operatorTable.NextID(tx)
		if err != nil {
			return err
		}
		made = operator{ID: id, Name: name, Password: sealed, CreatedAt: by.Now}
		return errors.Join(operatorTable.Put(tx, made), tx.Delete("meta", []byte("setup")))
	})
	return made, err
}

// setupMark is the one link that is open, by its hash.
func setupMark(token string, until time.Time) []byte {
	sum := sha256.Sum256([]byte(token))
	return append(sum[:], IDKey(uint64(until.UnixMilli()))...)
}

// CheckSetup says whether the token of a set-up link holds: ErrSetup.
func (o *Operators) CheckSetup(tx *Tx, token string, now time.Time) error {
	n, err := operatorTable.Count(tx)
	if err != nil {
		return err
	}
	if n > 0 {
		return ErrSetup
	}
	mark, err := tx.Get("meta", []byte("setup"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(token))
	if len(mark) != 40 || subtle.ConstantTimeCompare(mark[:32], sum[:]) != 1 || string(mark[32:]) <= string(IDKey(uint64(now.UnixMilli()))) {
		return ErrSetup
	}
	return nil
}

// SetupToken makes the token of a set-up link, in place of any before, of
// which only a hash is kept; ErrConflict where there is an operator already.
func (o *Operators) SetupToken(by AuditContext) (token string, err error) {
	token = keytext.RandomHex(32)
	err = by.Update(o.store, func(tx *Tx) error {
		n, err := operatorTable.Count(tx)
		if err != nil {
			return err
		}
		if n > 0 {
			return ErrConflict.With("There is an operator already. Log in, or use latchkey admin passwd.")
		}
		return tx.Put("meta", []byte("setup"), setupMark(token, by.Late().Add(setupSpan)))
	})
	return token, err
}

// SetPassword changes a password and ends every session of the operator but
// keep, which may be nil.
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
		return errors.Join(operatorTable.Put(tx, op), endSessions(tx, id, keep))
	})
}

func showOperator(op operator) map[string]any {
	return map[string]any{"id": op.ID, "name": op.Name, "created_at": Seconds(op.CreatedAt), "password_changed_at": Seconds(op.ChangedAt)}
}

func (o *Operators) list(w http.ResponseWriter, r *Request) error {
	rows := []any{}
	err := o.store.View(func(tx *Tx) error {
		for op, err := range operatorTable.All(tx, false) {
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
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	name, password := "", ""
	body.String("name", &name)
	body.String("password", &password)
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
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	password := ""
	if body.String("password", &password); body.Err() != nil {
		return body.Err()
	}
	if err := o.SetPassword(r.Deed(), id, password, nil); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "Changed. All sessions of the operator are ended."})
}

func (o *Operators) remove(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	err = r.Update(o.store, func(tx *Tx) error {
		return errors.Join(operatorTable.Delete(tx, IDKey(id)), endSessions(tx, id, nil))
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "Deleted."})
}

func (o *Operators) link(w http.ResponseWriter, r *Request) error {
	token, err := o.SetupToken(r.Deed())
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"path": SetupPath(token), "expires_at": Seconds(r.Latest.Add(setupSpan))})
}

// SetupPath is the path and query of a set-up link.
func SetupPath(token string) string { return "/setup?token=" + token }

// session is a login to the dashboard, as stored: by the hash of its token.
type session struct {
	Hash      []byte    `json:"hash"`
	Operator  uint64    `json:"operator"`
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at"`
}

var sessionTable = Table[session]{
	Name: "sessions",
	Key:  func(s session) []byte { return s.Hash },
	Indexes: []Index[session]{
		{"operator", func(s session) [][]byte { return [][]byte{IDKey(s.Operator)} }},
		{"created", func(s session) [][]byte { return [][]byte{IDKey(uint64(s.CreatedAt.UnixNano()))} }},
	},
}

// Sessions keeps the logins to the dashboard: an identity and nothing else,
// which is why no session library is used. It is safe for concurrent use.
type Sessions struct {
	store     *Store
	idle, max time.Duration
}

// NewSessions keeps sessions in a store, that end after so long without a
// request, and after so long in any case.
func NewSessions(store *Store, idle, most time.Duration) *Sessions {
	return &Sessions{store: store, idle: idle, max: most}
}

// SessionTables returns the tables of sessions, for checks.
func SessionTables() []Checked { return []Checked{sessionTable} }

// Longest is how long a session lasts at most.
func (s *Sessions) Longest() time.Duration { return s.max }

// sessionHash is by what a session is stored.
func sessionHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Begin makes a session for an operator and gives its token, of 256 bits. It
// is always a new one: who knows a token from before the login gains nothing.
func (s *Sessions) Begin(by AuditContext, operator uint64) (token string, err error) {
	token = keytext.RandomHex(32)
	return token, by.Update(s.store, func(tx *Tx) error {
		return sessionTable.Put(tx, session{Hash: sessionHash(token), Operator: operator, CreatedAt: by.Late(), SeenAt: by.Late()})
	})
}

// seenStep is how often a session in use is written, at most.
const seenStep = time.Minute

// Find gives the operator whose session a token is; ErrNotFound where there is
// none or it is over. now is of Clock.Latest.
func (s *Sessions) Find(token string, now time.Time) (operator uint64, err error) {
	var found session
	err = s.store.View(func(tx *Tx) (err error) {
		found, err = sessionTable.Get(tx, sessionHash(token))
		return err
	})
	if err != nil {
		return 0, err
	}
	if now.Sub(found.SeenAt) >= s.idle || now.Sub(found.CreatedAt) >= s.max || now.Before(found.CreatedAt.Add(-time.Minute)) {
		return 0, ErrNotFound
	}
	if now.Sub(found.SeenAt) >= seenStep {
		// Read anew inside: it may have been ended meanwhile, and must not return.
		err = s.store.Update(func(tx *Tx) error {
			again, err := sessionTable.Get(tx, found.Hash)
			if err != nil {
				return err
			}
			again.SeenAt = now
			return sessionTable.Put(tx, again)
		})
	}
	return found.Operator, err
}

// End ends the session of a token, if there is one.
func (s *Sessions) End(by AuditContext, token string) error {
	err := by.Update(s.store, func(tx *Tx) error { return sessionTable.Delete(tx, sessionHash(token)) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// EndAll ends every session of an operator.
func (s *Sessions) EndAll(by AuditContext, operator uint64) error {
	return by.Update(s.store, func(tx *Tx) error { return endSessions(tx, operator, nil) })
}

// endSessions ends the sessions of an operator but the one with the hash keep.
func endSessions(tx *Tx, operator uint64, keep []byte) error {
	var hashes [][]byte
	for _, hash := range sessionTable.Find(tx, "operator", IDKey(operator), false) {
		if string(hash) != string(keep) {
			hashes = append(hashes, append([]byte(nil), hash...))
		}
	}
	for _, hash := range hashes {
		if err := sessionTable.Delete(tx, hash); err != nil {
			return err
		}
	}
	return nil
}

// Sweep forgets sessions that are over in any case, up to 1000 of them. It is
// to be called about once a minute; now is of Clock.Earliest.
func (s *Sessions) Sweep(now time.Time) error {
	return Sweep(s.store, sessionTable, "created", IDKey(uint64(now.Add(-s.max).UnixNano())), sessionTable.Delete)
}
