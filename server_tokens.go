package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// Token is a stored admin token. A client of the admin listener must send an admin
// token with each request. Only a hash of the secret is stored.
type Token struct {
	ID         uint64    `json:"id"`
	Name       string    `json:"name"` // what the token is for
	Hint       string    `json:"hint"` // prefix and last four characters of the secret
	Hash       []byte    `json:"hash"` // hash of the secret, made with the current pepper
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // accurate to about a minute; zero if never used
	RevokedAt  time.Time `json:"revoked_at,omitzero"`   // zero if the token is valid
	Scope      string    `json:"scope,omitempty"`       // one of Scopes; "" for a token from before there were scopes, which may do everything
}

// TokenTable stores the admin tokens. Its index finds a token by the hash of its secret.
var TokenTable = Table[Token]{
	Name: "admin_tokens", Signed: true, Audit: AuditPolicy{Object: "token"},
	Key:     func(t Token) []byte { return IDKey(t.ID) },
	Indexes: []Index[Token]{{"hash", func(t Token) [][]byte { return [][]byte{t.Hash} }}},
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
func TokenTables() []Checked { return []Checked{TokenTable} }

// AdminRoutes returns the endpoints that manage admin tokens.
func (t *Tokens) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/tokens", Handle: t.list},
		{Method: "POST", Path: "/admin/v1/tokens", Handle: t.create},
		{Method: "POST", Path: "/admin/v1/tokens/:id/revoke", Handle: t.revoke},
	}
}

// Authenticate returns the caller whose admin token is in the Authorization header field of a
// request. It returns ErrUnauthenticated unless there is exactly one such field, ErrKey if the token
// is malformed, unknown or revoked, or an error of the store. It stores the time as LastUsedAt, at
// most about once a minute.
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
	var token Token
	err := t.store.View(func(tx *Tx) (err error) {
		for _, hash := range t.peppers.Hashes(keytext.DigestOf(secret)) {
			if token, err = TokenTable.One(tx, "hash", hash); !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return ErrNotFound
	})
	if errors.Is(err, ErrNotFound) || err == nil && !token.RevokedAt.IsZero() {
		return nil, bad
	}
	if err != nil {
		return nil, err
	}
	if r.Now.Sub(token.LastUsedAt) > time.Minute {
		t.store.Queue(func(tx *Tx) error { return t.touch(tx, token.ID, r.Now) }, func(error) {})
	}
	return token.caller(r.Client), nil
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

// touch sets LastUsedAt of a token to now.
func (t *Tokens) touch(tx *Tx, id uint64, now time.Time) error {
	token, err := TokenTable.Get(tx, IDKey(id))
	if err != nil {
		return err
	}
	token.LastUsedAt = now
	return TokenTable.Put(tx, token)
}

// create handles the creation of a token. The answer is the only one with the secret.
func (t *Tokens) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	token := Token{CreatedAt: r.Now}
	body.String("name", NameLength, &token.Name)
	token.Scope = ScopeAll
	body.String("scope", AnyLength, &token.Scope)
	if err := body.Err(); err != nil {
		return err
	}
	if token.Name == "" {
		return ErrMissing.With("name is missing. Set it to a text that describes the purpose of the token.")
	}
	if _, ok := FindGrant(Scopes(), token.Scope); !ok {
		return ErrValidation.With("scope must be one of: %s.", strings.Join(GrantNames(Scopes()), ", "))
	}
	secret := keytext.NewSecret(TokenPrefix)
	token.Hint = keytext.Hint(secret, TokenPrefix)
	token.Hash = t.peppers.Hash(keytext.DigestOf(secret))
	err = r.Update(t.store, func(tx *Tx) (err error) {
		if token.ID, err = TokenTable.NextID(tx); err != nil {
			return err
		}
		return TokenTable.Put(tx, token)
	})
	if err != nil {
		return err
	}
	shown := token.show()
	shown["token"] = secret
	return WriteJSON(w, http.StatusCreated, shown)
}

// list answers with a page of the tokens, newest first.
func (t *Tokens) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query("page", "limit")
	if err != nil {
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
			rows = append(rows, token.show())
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
		if token, err = TokenTable.Get(tx, IDKey(id)); err != nil || !token.RevokedAt.IsZero() {
			return err
		}
		token.RevokedAt = r.Now
		return TokenTable.Put(tx, token)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, token.show())
}

// show returns the JSON object that represents the token in answers. It has no secret
// and no hash.
func (t Token) show() map[string]any {
	status := StatusActive
	if !t.RevokedAt.IsZero() {
		status = StatusRevoked
	}
	return map[string]any{
		"id": t.ID, "name": t.Name, "hint": t.Hint, "status": status, "scope": cmp.Or(t.Scope, ScopeAll),
		"created_at": Seconds(t.CreatedAt), "last_used_at": Seconds(t.LastUsedAt),
	}
}
