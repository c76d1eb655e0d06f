package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"latchkey/internal/keytext"
	"latchkey/internal/sorted"
)

// loginSession is the stored record of a login to the dashboard. Its token is not stored.
type loginSession struct {
	Hash      []byte    `json:"hash"`         // SHA-256 of the token
	ID        string    `json:"id,omitempty"` // public id; "" for a session of an earlier version, see publicID
	Operator  uint64    `json:"operator"`     // id of the operator
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at"`             // last request, give or take seenStep
	ProvenAt  time.Time `json:"proven_at,omitzero"`  // when the operator last confirmed the password; zero: not since the login
	Agent     string    `json:"agent,omitempty"`     // User-Agent field of the login, see cleanAgent; "" if there was none
	From      string    `json:"from,omitempty"`      // address of the client that logged in; "" if it is not known
	SeenFrom  string    `json:"seen_from,omitempty"` // address of the client of the last request, give or take seenStep
	SignedOn  bool      `json:"signed_on,omitempty"` // began by single sign-on
}

// publicID returns the id under which the session is listed. It is not secret: nobody can use it as
// the token. For a session that an earlier version has stored, it follows from the hash.
func (s loginSession) publicID() string {
	if s.ID != "" {
		return s.ID
	}
	sum := sha256.Sum256(s.Hash)
	return sessionPrefix + hex.EncodeToString(sum[:8])
}

// sessionPrefix begins the public id of each session.
const sessionPrefix = "ses_"

// agentLength is the maximum length of loginSession.Agent in bytes.
const agentLength = 200

// cleanAgent returns a User-Agent field as it is stored: at most agentLength bytes of printable text.
func cleanAgent(field string) string {
	field = strings.ToValidUTF8(field[:min(len(field), agentLength)], "")
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, field))
}

// deviceName returns a short name for a User-Agent field, such as "Firefox on Linux". It returns the
// field itself if it names no known browser or no known system, and "unknown" if the field is empty.
func deviceName(agent string) string {
	browser, system := firstWord(agent, browserWords), firstWord(agent, systemWords)
	if browser == "" || system == "" {
		return cmp.Or(agent, "unknown")
	}
	return browser + " on " + system
}

// browserWords and systemWords have pairs: a part of User-Agent fields, and the name that it shows.
// Browsers name others that they are compatible with, so the more exact words are first.
var (
	browserWords = []string{
		"Edg/", "Edge", "EdgA/", "Edge", "OPR/", "Opera", "SamsungBrowser/", "Samsung Internet", "Firefox/", "Firefox", "FxiOS/", "Firefox",
		"CriOS/", "Chrome", "Chromium/", "Chromium", "Chrome/", "Chrome", "Safari/", "Safari",
	}
	systemWords = []string{"Android", "Android", "iPhone", "iPhone", "iPad", "iPad", "Windows", "Windows", "CrOS", "ChromeOS", "Mac OS X", "macOS", "Linux", "Linux"}
)

// firstWord returns the name of the first pair in pairs whose part is in text, or "".
func firstWord(text string, pairs []string) string {
	for pair := range slices.Chunk(pairs, 2) {
		if strings.Contains(text, pair[0]) {
			return pair[1]
		}
	}
	return ""
}

var sessionTable = Table[loginSession]{
	Name: "sessions", Signed: true,
	Secure: func(before, after *loginSession) bool { return before != nil && after == nil },
	Key:    func(s loginSession) []byte { return s.Hash },
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
func SessionTables() []Checked { return []Checked{&sessionTable} }

// Longest returns the maximum length of a session, counted from the login.
func (s *Sessions) Longest() time.Duration { return s.maxAge }

// sessionHash returns the SHA-256 of a token, which identifies its stored session.
func sessionHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// sessionStart describes the login with which a session begins.
type sessionStart struct {
	Agent    string // User-Agent field
	SignedOn bool   // by single sign-on
}

// Begin stores a new session of the operator with this id. It returns the token of the
// session, which is 256 random bits in hex. The token is always new, so an attacker gains
// nothing by giving a browser a token before the login.
// Begin returns an ErrLogin if the operator may not log in.
func (s *Sessions) Begin(by AuditContext, operator uint64, start sessionStart) (token string, err error) {
	token = keytext.RandomHex(32)
	from := addressText(by.Client)
	return token, by.Update(s.store, func(tx *Tx) error {
		if err := beginLogin(tx, operator, by.Late()); err != nil {
			return err
		}
		return sessionTable.Put(tx, loginSession{
			Hash: sessionHash(token), ID: sessionPrefix + keytext.RandomHex(8), Operator: operator, CreatedAt: by.Late(), SeenAt: by.Late(),
			Agent: cleanAgent(start.Agent), From: from, SeenFrom: from, SignedOn: start.SignedOn,
		})
	})
}

// addressText returns an address as it is stored, "" for the zero Addr.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return AddrText(a)
}

// seenStep is the minimum time between two writes of a session. A request within this time
// since the last write does not write the session again.
const seenStep = time.Minute

// sessionUse is a request with a session.
type sessionUse struct {
	At   time.Time  // from Clock.Latest
	From netip.Addr // address of the client
	Live bool       // a script sent it, not the operator, so that it does not make the session last longer
}

// over reports whether the session has ended at a time from Clock.Latest.
func (s *Sessions) over(found loginSession, now time.Time) bool {
	return now.Sub(found.SeenAt) >= s.idleTimeout || now.Sub(found.CreatedAt) >= s.maxAge || now.Before(found.CreatedAt.Add(-time.Minute))
}

// Find returns the session that has this token, and records that it is in use, unless use is live. It
// returns ErrNotFound if there is no such session or if the session has ended.
func (s *Sessions) Find(token string, use sessionUse) (found loginSession, err error) {
	err = s.store.View(func(tx *Tx) (err error) {
		found, err = sessionTable.Get(tx, sessionHash(token))
		return err
	})
	if err != nil {
		return found, err
	}
	if s.over(found, use.At) {
		return found, ErrNotFound
	}
	if !use.Live && use.At.Sub(found.SeenAt) >= seenStep {
		// The session is read again, so that a session that was ended in the meantime is
		// not restored, and a later use on another node of a cluster stays the last one.
		err = s.store.Update(func(tx *Tx) error {
			again, err := sessionTable.Get(tx, found.Hash)
			if err != nil || !use.At.After(again.SeenAt) {
				return err
			}
			again.SeenAt, again.SeenFrom = use.At, addressText(use.From)
			return sessionTable.Put(tx, again)
		})
	}
	return found, err
}

// Prove records that the operator has confirmed the password in the session whose token has this hash.
func (s *Sessions) Prove(by AuditContext, hash []byte) error {
	return by.Update(s.store, func(tx *Tx) error {
		found, err := sessionTable.Get(tx, hash)
		if err != nil {
			return err
		}
		found.ProvenAt = by.Late()
		return sessionTable.Put(tx, found)
	})
}

// End ends the session with this token. If there is no such session it does nothing.
func (s *Sessions) End(by AuditContext, token string) error {
	err := by.Update(s.store, func(tx *Tx) error { return sessionTable.Delete(tx, sessionHash(token)) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// EndAll signs the operator with this id out everywhere: it ends all sessions and the admin tokens
// that the operator created, and no browser counts as known any more.
func (s *Sessions) EndAll(by AuditContext, operator uint64) error {
	return by.Update(s.store, func(tx *Tx) error { return endEverywhere(tx, operator, by.Now) })
}

// endEverywhere does what EndAll does, in a transaction.
func endEverywhere(tx *Tx, operator uint64, now time.Time) error {
	op, err := OperatorTable.Get(tx, IDKey(operator))
	if err == nil {
		op.Devices++
		err = OperatorTable.Put(tx, op)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return endSessions(tx, operator, nil, now)
}

// endSessions ends all sessions of an operator except the session whose token has the hash
// keep, and the admin tokens that were created in the ended sessions. If keep is nil it ends all
// sessions, and all admin tokens that the operator created: somebody who had one of the sessions
// must not keep access by a token.
func endSessions(tx *Tx, operator uint64, keep []byte, now time.Time) error {
	hashes := sessionsOf(tx, operator, keep)
	if err := deleteSessions(tx, hashes); err != nil {
		return err
	}
	if keep == nil {
		return EndTokensOf(tx, operator, now)
	}
	return EndTokensOfSessions(tx, hashes, now)
}

// sessionsOf returns the hashes of the tokens of an operator's sessions, except the hash keep.
func sessionsOf(tx *Tx, operator uint64, keep []byte) (hashes [][]byte) {
	for _, hash := range sessionTable.Find(tx, "operator", IDKey(operator), Forward) {
		if string(hash) != string(keep) {
			hashes = append(hashes, append([]byte(nil), hash...))
		}
	}
	return hashes
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

// EndLogins ends all sessions of all operators, the set-up link and all invitations.
func EndLogins(tx *Tx) error {
	var hashes [][]byte
	for hash := range tx.Range(sessionTable.Name, nil) {
		hashes = append(hashes, append([]byte(nil), hash...))
	}
	return errors.Join(deleteSessions(tx, hashes), tx.Delete("meta", []byte("setup")), endInvitations(tx))
}

// Sweep deletes up to 1000 sessions that are older than the maximum length of a session. Call
// it about once a minute. now must be from Clock.Earliest.
func (s *Sessions) Sweep(now time.Time) error {
	return Sweep(s.store, &sessionTable, "created", IDKey(uint64(now.Add(-s.maxAge).UnixNano())))
}

// AdminRoutes returns the routes for sessions.
func (s *Sessions) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/sessions", Handle: s.list, Query: []string{"operator", "page", "limit"}},
		{Method: "DELETE", Path: "/admin/v1/sessions/:id", NoBody: true, Handle: s.remove},
		{Method: "POST", Path: "/admin/v1/sessions/end", Handle: s.end},
	}
}

// mayEnd reports whether a caller may see and end the sessions of an operator: its own, and those of
// everybody if it is an admin.
func mayEnd(c *Caller, operator uint64) bool {
	return c.Rights&RightAdmin != 0 || c.Operator != 0 && c.Operator == operator
}

// errOthersSessions is the answer to a caller who may not see or end the sessions of an operator.
var errOthersSessions = ErrPermission.With("Only an admin may see and end the sessions of other operators.")

// list answers with the sessions of the caller, or of the operator in the query. Without one, a caller
// that is not a login gets the sessions of all operators that it may see.
func (s *Sessions) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	of, err := listedOperator(q, r.Caller)
	if err != nil {
		return err
	}
	var found []loginSession
	err = r.View(s.store, func(tx *Tx) error {
		for session, err := range sessionTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if (of == 0 || session.Operator == of) && mayEnd(r.Caller, session.Operator) && !s.over(session, r.Latest) {
				found = append(found, session)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	sorted.StableFunc(found, func(a, b loginSession) int {
		return cmp.Or(b.SeenAt.Compare(a.SeenAt), b.CreatedAt.Compare(a.CreatedAt))
	})
	rows := []any{}
	from, to := page.Bounds(len(found))
	for _, session := range found[from:to] {
		rows = append(rows, s.show(session, r.Caller))
	}
	return WriteJSON(w, http.StatusOK, page.Answer(len(found), "sessions", rows))
}

// listedOperator returns the id of the operator whose sessions a caller asks for, or 0 for all that it
// may see.
func listedOperator(q url.Values, c *Caller) (uint64, error) {
	text := q.Get("operator")
	if text == "" {
		return c.Operator, nil
	}
	of, err := strconv.ParseUint(text, 10, 64)
	if err != nil || of == 0 {
		return 0, ErrParameterFormat.With("operator must be the id of an operator, such as 1; got %q.", text)
	}
	if !mayEnd(c, of) {
		return 0, errOthersSessions
	}
	return of, nil
}

// show returns the JSON object of a session. It has no token and no hash.
func (s *Sessions) show(found loginSession, c *Caller) map[string]any {
	ends := found.SeenAt.Add(s.idleTimeout)
	if last := found.CreatedAt.Add(s.maxAge); last.Before(ends) {
		ends = last
	}
	return map[string]any{
		"id": found.publicID(), "operator": found.Operator, "device": deviceName(found.Agent), "user_agent": TextOrNone(found.Agent),
		"created_at": Seconds(found.CreatedAt), "created_ip": TextOrNone(found.From), "last_used_at": Seconds(found.SeenAt), "last_used_ip": TextOrNone(found.SeenFrom),
		"ends_at": Seconds(ends), "current": c.Session != nil && string(c.Session) == string(found.Hash),
	}
}

// remove ends the session with the id in the path, and the admin tokens that were created in it.
func (s *Sessions) remove(w http.ResponseWriter, r *Request) error {
	id := r.Params.ByName("id")
	err := r.Update(s.store, func(tx *Tx) error {
		for session, err := range sessionTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if session.publicID() == id && mayEnd(r.Caller, session.Operator) {
				return errors.Join(deleteSessions(tx, [][]byte{session.Hash}), EndTokensOfSessions(tx, [][]byte{session.Hash}, r.Now))
			}
		}
		return ErrNotFound
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "The session was ended."})
}

// end ends the sessions of the caller, or of the operator in the body: all, or all except the one that
// the request was sent with.
func (s *Sessions) end(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("operator", "keep"))
	if err != nil {
		return err
	}
	operator, keep := r.Caller.Operator, ""
	body.ID("operator", &operator)
	body.Word("keep", &keep, "this")
	if err := body.Err(); err != nil {
		return err
	}
	switch {
	case operator == 0:
		return ErrMissing.With("operator is missing. Send the id of the operator whose sessions end, because only a login has sessions.")
	case !mayEnd(r.Caller, operator):
		return errOthersSessions
	case keep != "" && r.Caller.Operator != operator:
		return ErrValidation.With("keep must be left out: this request has no session of the operator %d that could be kept.", operator)
	}
	ended := 0
	err = r.Update(s.store, func(tx *Tx) error {
		if keep == "" {
			ended = len(sessionsOf(tx, operator, nil))
			return endEverywhere(tx, operator, r.Now)
		}
		ended = len(sessionsOf(tx, operator, r.Caller.Session))
		return endSessions(tx, operator, r.Caller.Session, r.Now)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"ended": ended})
}
