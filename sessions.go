package main

import (
	"crypto/sha256"
	"errors"
	"time"
)

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

// Tables lists what it keeps in the store, for checks.
func (s *Sessions) Tables() []Checked { return []Checked{sessionTable} }

// Longest is how long a session lasts at most.
func (s *Sessions) Longest() time.Duration { return s.max }

// SessionHash is by what a session is stored.
func SessionHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Begin makes a session for an operator and gives its token, of 256 bits. It
// is always a new one: who knows a token from before the login gains nothing.
func (s *Sessions) Begin(by Deed, operator uint64) (token string, err error) {
	token = RandomHex(32)
	return token, by.Update(s.store, func(tx *Tx) error {
		return sessionTable.Put(tx, session{Hash: SessionHash(token), Operator: operator, CreatedAt: by.Late(), SeenAt: by.Late()})
	})
}

// seenStep is how often a session in use is written, at most.
const seenStep = time.Minute

// Find gives the operator whose session a token is; ErrNotFound where there is
// none or it is over. now is of Clock.Latest.
func (s *Sessions) Find(token string, now time.Time) (operator uint64, err error) {
	var found session
	err = s.store.View(func(tx *Tx) (err error) {
		found, err = sessionTable.Get(tx, SessionHash(token))
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
func (s *Sessions) End(by Deed, token string) error {
	err := by.Update(s.store, func(tx *Tx) error { return sessionTable.Delete(tx, SessionHash(token)) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// EndAll ends every session of an operator.
func (s *Sessions) EndAll(by Deed, operator uint64) error {
	return by.Update(s.store, func(tx *Tx) error { return EndSessions(tx, operator, nil) })
}

// EndSessions ends the sessions of an operator but the one with the hash keep.
func EndSessions(tx *Tx, operator uint64, keep []byte) error {
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
