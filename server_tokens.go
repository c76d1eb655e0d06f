package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// Token is a stored admin token. A client of the admin listener must send an admin
// token with each request. Only hashes of its secrets are stored.
type Token struct {
	ID         uint64         `json:"id"`
	Name       string         `json:"name"` // what the token is for
	Hint       string         `json:"hint"` // prefix and last four characters of the secret
	Hash       []byte         `json:"hash"` // hash of the secret, made with the current pepper
	CreatedAt  time.Time      `json:"created_at"`
	LastUsedAt time.Time      `json:"last_used_at,omitzero"` // accurate to about a minute; zero if never used
	LastUsedIP netip.Addr     `json:"last_used_ip,omitzero"` // the address of the client at LastUsedAt
	RevokedAt  time.Time      `json:"revoked_at,omitzero"`   // zero if the token was not revoked
	Scope      string         `json:"scope,omitempty"`       // one of Scopes; "" for a token from before there were scopes, which may do everything
	ExpiresAt  time.Time      `json:"expires_at,omitzero"`   // zero if the token never expires
	AllowedIPs []netip.Prefix `json:"allowed_ips,omitempty"` // empty: any address
	MadeBy     string         `json:"made_by,omitempty"`     // Caller.Name of who created it; "" for a token from before this was stored
	RotatedAt  time.Time      `json:"rotated_at,omitzero"`
	RotatedBy  string         `json:"rotated_by,omitempty"` // Caller.Name
	Previous   []tokenSecret  `json:"previous,omitempty"`   // secrets that were replaced, oldest first
	// Operator and Session are those of the Caller who was shown the secret. If that was no operator,
	// they are 0 and nil.
	Operator uint64 `json:"operator,omitempty"`
	Session  []byte `json:"session,omitempty"`
	// ExpiryNoticed is the value of ExpiresAt for which the webhook event token.expiring was
	// published. It is zero if none was.
	ExpiryNoticed time.Time `json:"expiry_noticed,omitzero"`
}

// tokenSecret is a secret that a rotation of a token replaced. It is valid until EndsAt.
type tokenSecret struct {
	Hash       []byte    `json:"hash"`
	Hint       string    `json:"hint"`
	EndsAt     time.Time `json:"ends_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // since the rotation; accurate to about a minute
	Operator   uint64    `json:"operator,omitempty"`    // as in Token
	Session    []byte    `json:"session,omitempty"`
}

// tokenLife is how long a token is valid if it is created without expires_at.
const tokenLife = 365 * 24 * time.Hour

// TokenNotice is how long before its end a token is reported.
const TokenNotice = 14 * 24 * time.Hour

// unused returns the token without what its use changes.
func (t Token) unused() Token {
	t.LastUsedAt, t.ExpiryNoticed, t.Operator, t.Session = time.Time{}, time.Time{}, 0, nil
	t.Previous = slices.Clone(t.Previous)
	for i := range t.Previous {
		t.Previous[i].LastUsedAt = time.Time{}
	}
	return t
}

// TokenTable stores the admin tokens. Its index finds a token by the hash of a secret.
var TokenTable = Table[Token]{
	Name: "admin_tokens", Signed: true, Audit: AuditPolicy{Object: "token"},
	Secure: func(before, after *Token) bool {
		return before != nil && (after == nil || !reflect.DeepEqual(before.unused(), after.unused()))
	},
	Key: func(t Token) []byte { return IDKey(t.ID) },
	Indexes: []Index[Token]{{"hash", func(t Token) [][]byte {
		hashes := [][]byte{t.Hash}
		for _, p := range t.Previous {
			hashes = append(hashes, p.Hash)
		}
		return hashes
	}}},
}

// TokenStates returns the states of a token.
func TokenStates() []string { return []string{StatusActive, StatusExpired, StatusRevoked} }

// Status returns the state of the token at now, a time from Clock.Latest.
func (t Token) Status(now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return StatusRevoked
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return StatusExpired
	}
	return StatusActive
}

// EndsSoon reports whether the token is active at now and ends within TokenNotice.
func (t Token) EndsSoon(now time.Time) bool {
	return t.Status(now) == StatusActive && !t.ExpiresAt.IsZero() && t.ExpiresAt.Sub(now) <= TokenNotice
}

// replaced returns the index in Previous of the secret with this hash, or -1 if it is the current
// secret.
func (t Token) replaced(hash []byte) int {
	return slices.IndexFunc(t.Previous, func(p tokenSecret) bool { return bytes.Equal(p.Hash, hash) })
}

// check returns nil if the secret with this hash is valid at now, a time from Clock.Latest.
// Otherwise it returns ErrKey with the reason, which does not help to guess a secret: the client has
// sent a correct one.
func (t Token) check(hash []byte, now time.Time) error {
	utc := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	switch t.Status(now) {
	case StatusRevoked:
		return ErrKey.With("This admin token was revoked on %s. Create another one: latchkey admin token create --name NAME", utc(t.RevokedAt))
	case StatusExpired:
		return ErrKey.With("This admin token expired on %s. Create another one: latchkey admin token create --name NAME", utc(t.ExpiresAt))
	}
	if i := t.replaced(hash); i >= 0 && !now.Before(t.Previous[i].EndsAt) {
		return ErrKey.With("This admin token was replaced, and its old secret was valid until %s. Use the new secret.", utc(t.Previous[i].EndsAt))
	}
	return nil
}

// Tokens creates, checks and revokes admin tokens. It is safe for concurrent
// use.
type Tokens struct {
	store   *Store
	peppers Peppers
}

// NewTokens returns a Tokens for the admin tokens in store. Secrets are hashed with
// peppers.
func NewTokens(store *Store, peppers Peppers) *Tokens {
	return &Tokens{store: store, peppers: peppers}
}

// TokenTables returns the tables in which admin tokens are stored, for CheckStore.
func TokenTables() []Checked { return []Checked{&TokenTable} }

// AdminRoutes returns the endpoints that manage admin tokens.
func (t *Tokens) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/tokens", Handle: t.list, Query: []string{"page", "limit", "ends_soon"}},
		{Method: "POST", Path: "/admin/v1/tokens", Handle: t.create},
		{Method: "POST", Path: "/admin/v1/tokens/:id/revoke", NoBody: true, Handle: t.revoke},
		{Method: "POST", Path: "/admin/v1/tokens/:id/rotate", Handle: t.rotate},
	}
}

// Authenticate returns the caller whose admin token is in the Authorization header field of a
// request. It returns ErrUnauthenticated unless there is exactly one such field, ErrKey if the token
// is malformed, unknown, revoked or expired, ErrPermission if it may not be used from the address of
// the client, or an error of the store. If the token is valid, it stores the time and the address of
// its use, at most about once a minute.
func (t *Tokens) Authenticate(r *Request) (*Caller, error) {
	sent := r.Header["Authorization"]
	if len(sent) != 1 {
		return nil, ErrUnauthenticated.With("No admin token was sent. Create one with: latchkey admin token create --name NAME, and send it as Authorization: Bearer TOKEN.")
	}
	scheme, secret, _ := strings.Cut(sent[0], " ")
	bad := ErrKey.With("This admin token is not valid. Create one with: latchkey admin token create --name NAME")
	if !strings.EqualFold(scheme, "Bearer") || !keytext.WellFormed(secret, TokenPrefix) {
		return nil, bad
	}
	token, hash, err := t.find(secret)
	if errors.Is(err, ErrNotFound) {
		return nil, bad
	}
	if err == nil {
		err = token.check(hash, r.Latest)
	}
	if err != nil {
		return nil, err
	}
	if !AddressAllowed(token.AllowedIPs, r.Client) {
		return nil, ErrPermission.With("This admin token may not be used from the address %s. Use an address in its allowed_ips, or create a token that allows this one.", AddrText(r.Client))
	}
	if token.usedAgain(hash, r.Now) {
		use := tokenUse{token.ID, r.Client, r.Now} // not r itself, which is used again for other requests
		t.store.Queue(func(tx *Tx) error { return touch(tx, hash, use) }, func(error) {})
	}
	return token.caller(r.Client), nil
}

// find returns the token with this secret, and the hash by which it was found. It returns
// ErrNotFound if there is no such token.
func (t *Tokens) find(secret string) (token Token, found []byte, err error) {
	err = t.store.View(func(tx *Tx) (err error) {
		for _, hash := range t.peppers.Hashes(keytext.DigestOf(secret)) {
			if token, err = TokenTable.One(tx, "hash", hash); !errors.Is(err, ErrNotFound) {
				found = hash
				return err
			}
		}
		return ErrNotFound
	})
	return token, found, err
}

// caller returns the caller that sends the token from an address. A scope that is not known, such as
// one of a later version, allows nothing.
func (t Token) caller(from netip.Addr) *Caller {
	scope := cmp.Or(t.Scope, ScopeAll)
	held, _ := FindGrant(Scopes(), scope)
	return &Caller{
		Name: fmt.Sprintf("token %d %s", t.ID, t.Name), From: from, Token: t.ID,
		Rights: held.Rights, Grant: fmt.Sprintf("This admin token has the scope %s.", scope),
	}
}

// tokenUse is a use of the token with this id.
type tokenUse struct {
	token uint64
	from  netip.Addr
	at    time.Time
}

// usedAgain reports whether the last stored use of the secret with this hash is more than a minute
// before now.
func (t Token) usedAgain(hash []byte, now time.Time) bool {
	last := t.LastUsedAt
	if i := t.replaced(hash); i >= 0 {
		last = t.Previous[i].LastUsedAt
	}
	return now.Sub(last) > time.Minute
}

// touch stores a use of the secret with this hash. It changes nothing if a use was stored in the last
// minute, or if the token no longer has the secret.
func touch(tx *Tx, hash []byte, u tokenUse) error {
	token, err := TokenTable.Get(tx, IDKey(u.token))
	i := token.replaced(hash)
	if err != nil || !token.usedAgain(hash, u.at) || i < 0 && !bytes.Equal(token.Hash, hash) {
		return err
	}
	if i >= 0 {
		token.Previous[i].LastUsedAt = u.at
	}
	token.LastUsedAt, token.LastUsedIP = u.at, u.from.WithZone("")
	return TokenTable.Put(tx, token)
}

// tokenBody returns the members that the body of a token may have.
func tokenBody() BodyFields {
	return BodyFields{
		Set: []string{"name", "scope", "allowed_ips", "expires_at"},
		Shown: []string{
			"id", "hint", "status", "created_at", "made_by", "rotated_at", "rotated_by", "revoked_at", "last_used_at", "last_used_ip", "previous_secrets",
		},
	}
}

// create handles the creation of a token. Its answer and that of rotate are the only ones with a
// secret.
func (t *Tokens) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(tokenBody())
	if err != nil {
		return err
	}
	var token Token
	var secret string
	err = r.Update(t.store, func(tx *Tx) (err error) {
		token, secret, err = t.Create(tx, r, body)
		return err
	})
	if err != nil {
		return err
	}
	return reveal(w, http.StatusCreated, token.Show(r.Latest), secret)
}

// Create stores a new token with the fields of body and returns it with its secret, which is not stored.
func (t *Tokens) Create(tx *Tx, r *Request, body *Body) (token Token, secret string, err error) {
	if token, err = NewToken(r, body); err != nil {
		return token, "", err
	}
	secret = t.newSecret(&token, r.Caller)
	if token.ID, err = TokenTable.NextID(tx); err != nil {
		return token, "", err
	}
	return token, secret, TokenTable.Put(tx, token)
}

// NewToken returns a token without a secret with the fields of body, which it checks.
func NewToken(r *Request, body *Body) (Token, error) {
	token := Token{CreatedAt: r.Now, MadeBy: r.Caller.Name, ExpiresAt: r.Latest.Add(tokenLife).Truncate(time.Second)}
	return token, token.Fill(body, r.Latest)
}

// reveal answers with a token and its new secret.
func reveal(w http.ResponseWriter, status int, shown map[string]any, secret string) error {
	shown["token"] = secret
	return WriteJSON(w, status, shown)
}

// newSecret replaces the secret of the token and returns the new one. caller is who will see it.
func (t *Tokens) newSecret(token *Token, caller *Caller) (secret string) {
	secret = keytext.NewSecret(TokenPrefix)
	token.Hint, token.Hash = keytext.Hint(secret, TokenPrefix), t.peppers.Hash(keytext.DigestOf(secret))
	token.Operator, token.Session = caller.Operator, caller.Session
	return secret
}

// tokenNever is the value of expires_at for a token that never expires.
const tokenNever = "never"

// Fill sets the fields of a new token that the body has. now is from Clock.Latest. The scope and the allowed
// addresses that it does not have get their defaults.
func (t *Token) Fill(body *Body, now time.Time) error {
	scope, allowed := ScopeAll, []string{}
	body.String("name", NameLength, &t.Name)
	body.Word("scope", &scope, GrantNames(Scopes())...)
	body.Strings("allowed_ips", ListBound{MaxNetworks, AnyLength}, &allowed)
	never := string(body.Raw("expires_at")) == `"`+tokenNever+`"`
	if never {
		t.ExpiresAt = time.Time{}
	} else if body.Has("expires_at") {
		body.Time("expires_at", &t.ExpiresAt)
	}
	if err := body.Err(); err != nil {
		return err
	}
	if strings.TrimSpace(t.Name) == "" {
		return ErrMissing.With("name is missing. Set it to a text that describes the purpose of the token.")
	}
	switch {
	case never:
	case t.ExpiresAt.IsZero():
		return ErrValidation.With("expires_at must be a time such as 2027-02-03T09:15:00Z, or %q for a token that never expires. Leave it out for one year.", tokenNever)
	case !t.ExpiresAt.After(now):
		return ErrValidation.With("expires_at is not in the future. The time of the server is %s.", now.UTC().Format(time.RFC3339))
	}
	var err error
	t.Scope = scope
	t.AllowedIPs, err = ParseNetworks(allowed)
	return err
}

// list answers with a page of the tokens, newest first.
func (t *Tokens) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err = errors.Join(err, CheckWord(q, "ends_soon", "true")); err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	rows := []any{}
	err = r.View(t.store, func(tx *Tx) error {
		for token, err := range TokenTable.All(tx, Backward) {
			if err != nil {
				return err
			}
			if q.Get("ends_soon") == "" || token.EndsSoon(r.Latest) {
				rows = append(rows, token.Show(r.Latest))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	from, to := page.Bounds(len(rows))
	return WriteJSON(w, http.StatusOK, page.Answer(len(rows), "tokens", rows[from:to]))
}

// revoke revokes a token. It changes nothing if the token is already revoked.
func (t *Tokens) revoke(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	var token Token
	err = r.Update(t.store, func(tx *Tx) (err error) {
		token, err = EndToken(tx, id, r.Now)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, token.Show(r.Latest))
}

// EndToken revokes the token with this id and returns it. It changes nothing if the token is already revoked.
func EndToken(tx *Tx, id uint64, now time.Time) (Token, error) {
	token, err := TokenTable.Get(tx, IDKey(id))
	if err != nil || !token.RevokedAt.IsZero() {
		return token, err
	}
	token.RevokedAt = now
	return token, TokenTable.Put(tx, token)
}

// rotate replaces the secret of a token and answers with the new one. The previous secret stays
// valid for overlap_seconds, a field of the body; 0 ends all previous secrets.
func (t *Tokens) rotate(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	body, err := r.ReadOptionalFields(OnlyFields("overlap_seconds"))
	if err != nil {
		return err
	}
	overlap, err := ReadOverlap(body)
	if err != nil {
		return err
	}
	var token Token
	var secret string
	err = r.Update(t.store, func(tx *Tx) (err error) {
		if token, err = TokenTable.Get(tx, IDKey(id)); err != nil {
			return err
		}
		if status := token.Status(r.Latest); status != StatusActive {
			return ErrConflict.With("The admin token is %s, so it cannot be rotated. Create another one.", status)
		}
		if err := token.retire(r.Latest, overlap); err != nil {
			return err
		}
		secret = t.newSecret(&token, r.Caller)
		token.RotatedAt, token.RotatedBy = r.Now, r.Caller.Name
		return TokenTable.Put(tx, token)
	})
	if err != nil {
		return err
	}
	return reveal(w, http.StatusOK, token.Show(r.Latest), secret)
}

// retire moves the secret of the token to Previous, where it is valid for overlap after now, and
// drops the secrets that have ended by now. With an overlap of 0 it drops all. It returns ErrConflict
// if MaxPreviousSecrets are still valid.
func (t *Token) retire(now time.Time, overlap time.Duration) error {
	previous := slices.DeleteFunc(slices.Clone(t.Previous), func(p tokenSecret) bool { return overlap == 0 || !now.Before(p.EndsAt) })
	if len(previous) >= MaxPreviousSecrets {
		return ErrConflict.With("%d earlier secrets of this admin token are still valid. Rotate it with overlap_seconds 0, which ends them.", MaxPreviousSecrets)
	}
	if overlap > 0 {
		previous = append(previous, tokenSecret{Hash: t.Hash, Hint: t.Hint, EndsAt: now.Add(overlap), LastUsedAt: t.LastUsedAt, Operator: t.Operator, Session: t.Session})
	}
	t.Previous = previous
	return nil
}

// SameSecrets reports whether two states of a token have the same secrets.
func (t Token) SameSecrets(other Token) bool {
	return bytes.Equal(t.Hash, other.Hash) && slices.EqualFunc(t.Previous, other.Previous, func(a, b tokenSecret) bool {
		return bytes.Equal(a.Hash, b.Hash) && a.EndsAt.Equal(b.EndsAt)
	})
}

// TakeSecrets replaces the secrets of the token with those of from, another state of the same token.
func (t *Token) TakeSecrets(from Token) {
	t.Hash, t.Hint, t.Previous, t.Operator, t.Session = from.Hash, from.Hint, from.Previous, from.Operator, from.Session
	t.RotatedAt, t.RotatedBy = from.RotatedAt, from.RotatedBy
}

// EndTokensOf revokes the tokens whose secret was shown to an operator, and ends the previous secrets
// that were. Call it in the transaction that removes or disables the operator, or that ends all of the
// operator's sessions.
func EndTokensOf(tx *Tx, operator uint64, now time.Time) error {
	return endSecrets(tx, now, func(p tokenSecret) bool { return p.Operator == operator })
}

// EndTokensOfSessions is like EndTokensOf for the secrets that were shown in the sessions whose tokens
// have these hashes.
func EndTokensOfSessions(tx *Tx, sessions [][]byte, now time.Time) error {
	return endSecrets(tx, now, func(p tokenSecret) bool {
		return slices.ContainsFunc(sessions, func(hash []byte) bool { return bytes.Equal(hash, p.Session) })
	})
}

// endSecrets ends the secrets of tokens for which ended returns true. A token whose current secret
// ends is revoked.
func endSecrets(tx *Tx, now time.Time, ended func(tokenSecret) bool) error {
	var changed []Token
	for token, err := range TokenTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		if !token.RevokedAt.IsZero() {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(token.Previous), ended)
		revoked := ended(tokenSecret{Operator: token.Operator, Session: token.Session})
		if !revoked && len(left) == len(token.Previous) {
			continue
		}
		if token.Previous = left; revoked {
			token.RevokedAt = now
		}
		changed = append(changed, token)
	}
	for _, token := range changed {
		if err := TokenTable.Put(tx, token); err != nil {
			return err
		}
	}
	return nil
}

// Show returns the JSON object that represents the token in answers at now, a time from Clock.Latest.
// It has no secret and no hash.
func (t Token) Show(now time.Time) map[string]any {
	allowed, previous := []string{}, []any{}
	for _, network := range t.AllowedIPs {
		allowed = append(allowed, network.String())
	}
	for _, p := range t.Previous {
		if now.Before(p.EndsAt) {
			previous = append(previous, map[string]any{"hint": p.Hint, "ends_at": Seconds(p.EndsAt), "last_used_at": Seconds(p.LastUsedAt)})
		}
	}
	return map[string]any{
		"id": t.ID, "name": t.Name, "hint": t.Hint, "status": t.Status(now), "scope": cmp.Or(t.Scope, ScopeAll),
		"created_at": Seconds(t.CreatedAt), "made_by": TextOrNone(t.MadeBy), "expires_at": Seconds(t.ExpiresAt), "revoked_at": Seconds(t.RevokedAt), "allowed_ips": allowed,
		"last_used_at": Seconds(t.LastUsedAt), "last_used_ip": AddrOrNone(t.LastUsedIP),
		"rotated_at": Seconds(t.RotatedAt), "rotated_by": TextOrNone(t.RotatedBy), "previous_secrets": previous,
	}
}
