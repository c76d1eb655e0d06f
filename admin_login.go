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

// operator is a stored person who may log in to the dashboard.
type operator struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Password  string    `json:"password"` // argon2id hash, in the PHC string format
	CreatedAt time.Time `json:"created_at"`
	ChangedAt time.Time `json:"changed_at,omitzero"` // last change of the password; zero: never
}

var operatorTable = Table[operator]{
	Name: "operators", Audit: AuditPolicy{Object: "operator"},
	Key:     func(o operator) []byte { return IDKey(o.ID) },
	Indexes: []Index[operator]{{"name", func(o operator) [][]byte { return [][]byte{[]byte(strings.ToLower(o.Name))} }}},
}

// The cost of hashing a password with argon2id (RFC 9106 section 4): memory in KiB,
// passes, lanes. The numbers are the second set of the OWASP password storage cheat
// sheet.
const (
	hashMemory = 19 * 1024
	hashPasses = 2
	hashLanes  = 1
)

// The length of a password: the minimum in characters, the maximum in bytes.
const (
	minPassword = 10
	maxPassword = 1024
)

// setupSpan is how long a set-up link is valid.
const setupSpan = 30 * time.Minute

// Actor returns the operator's name in the audit log.
func (o operator) Actor() string { return fmt.Sprintf("operator %d %s", o.ID, o.Name) }

// Operators stores the operators who may log in. It is safe for concurrent use.
type Operators struct {
	store   *Store
	hashing chan struct{} // one slot per running hash, which bounds the memory for hashing
}

// NewOperators returns Operators that keeps its records in store.
func NewOperators(store *Store) *Operators {
	return &Operators{store: store, hashing: make(chan struct{}, 2)}
}

// OperatorTables returns the tables of operators, for the check of the store.
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

// seal returns the stored form of a password: a hash with a new salt.
func (o *Operators) seal(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails; the program ends if the system has no random bytes
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashPasses, hashLanes, b64.EncodeToString(salt), b64.EncodeToString(o.hash(password, salt)))
}

// opens reports whether password matches the stored form. It uses the costs in the
// stored form, so hashes made with other costs still match.
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

// Authenticate returns the operator with this name and password, or ErrLogin. It
// takes as long for an unknown name as for a wrong password, so the time does not
// show which names exist.
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

// Get returns an operator, or ErrNotFound.
func (o *Operators) Get(tx *Tx, id uint64) (operator, error) { return operatorTable.Get(tx, IDKey(id)) }

// Find is Get in a transaction of its own.
func (o *Operators) Find(id uint64) (op operator, err error) {
	err = o.store.View(func(tx *Tx) error {
		op, err = o.Get(tx, id)
		return err
	})
	return op, err
}

// SetupHolds is CheckSetup in a transaction of its own.
func (o *Operators) SetupHolds(token string, now time.Time) error {
	return o.store.View(func(tx *Tx) error { return o.CheckSetup(tx, token, now) })
}

// Any reports whether there is an operator.
func (o *Operators) Any() (bool, error) {
	n := 0
	err := o.store.View(func(tx *Tx) (err error) {
		n, err = operatorTable.Count(tx)
		return err
	})
	return n > 0, err
}

// checkPassword returns ErrValidation if a new password is too short or too long.
func checkPassword(password string) error {
	if utf8.RuneCountInString(password) < minPassword || len(password) > maxPassword {
		return ErrValidation.With("password must have %d characters or more, and at most %d bytes.", minPassword, maxPassword)
	}
	return nil
}

// Create stores a new operator. If setup is not "" it must be the token of a valid
// set-up link, which works only once and only for the first operator; otherwise
// Create returns ErrSetup. It returns ErrConflict if the name is taken, and
// ErrValidation if the name or the password is not allowed.
func (o *Operators) Create(by AuditContext, name, password, setup string) (made operator, err error) {
	if name = strings.TrimSpace(name); name == "" || len(name) > 100 {
		return made, ErrValidation.With("name must have 1 to 100 bytes.")
	}
	if err := checkPassword(password); err != nil {
		return made, err
	}
	if setup != "" { // first, because hashing is expensive
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

// setupMark returns the stored form of the one valid set-up link: the SHA-256 of its
// token and its end.
func setupMark(token string, until time.Time) []byte {
	sum := sha256.Sum256([]byte(token))
	return append(sum[:], IDKey(uint64(until.UnixMilli()))...)
}

// CheckSetup returns ErrSetup unless token is that of the valid set-up link and there
// is no operator yet. now is of Clock.Latest.
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

// SetupToken returns the token of a new set-up link, which replaces any earlier one.
// Only its hash is stored. It returns ErrConflict if there is an operator already.
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

// SetPassword changes a password and ends every session of the operator except the
// one with the hash keep. A nil keep ends all of them.
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

// SetupPath returns the path and query of a set-up link.
func SetupPath(token string) string { return "/setup?token=" + token }

// session is a stored login to the dashboard. Of its token only the hash is stored.
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

// Sessions stores the logins to the dashboard. A session holds only an identity,
// which is why no session library is used. It is safe for concurrent use.
type Sessions struct {
	store     *Store
	idle, max time.Duration
}

// NewSessions returns Sessions that keeps its records in store. A session ends
// when it has had no request for the duration idle, or when the duration most has
// passed since the login.
func NewSessions(store *Store, idle, most time.Duration) *Sessions {
	return &Sessions{store: store, idle: idle, max: most}
}

// SessionTables returns the tables of sessions, for the check of the store.
func SessionTables() []Checked { return []Checked{sessionTable} }

// Longest returns how long a session can last.
func (s *Sessions) Longest() time.Duration { return s.max }

// sessionHash returns the hash under which the session of a token is stored.
func sessionHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Begin stores a new session of an operator and returns its token, 256 random bits in
// hex. The token is always new, so a token that was planted before the login is
// useless.
func (s *Sessions) Begin(by AuditContext, operator uint64) (token string, err error) {
	token = keytext.RandomHex(32)
	return token, by.Update(s.store, func(tx *Tx) error {
		return sessionTable.Put(tx, session{Hash: sessionHash(token), Operator: operator, CreatedAt: by.Late(), SeenAt: by.Late()})
	})
}

// seenStep is the least time between two writes of a session in use.
const seenStep = time.Minute

// Find returns the operator of the session with this token, and records the use. It
// returns ErrNotFound if there is no such session or it has ended. now is of
// Clock.Latest.
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
		// Read again: if the session was ended meanwhile, this must not restore it.
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

// endSessions ends the sessions of an operator, except the one with the hash keep.
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

// Sweep deletes up to 1000 sessions that are older than a session can last. Call it
// about once a minute; now is of Clock.Earliest.
func (s *Sessions) Sweep(now time.Time) error {
	return Sweep(s.store, sessionTable, "created", IDKey(uint64(now.Add(-s.max).UnixNano())), sessionTable.Delete)
}
