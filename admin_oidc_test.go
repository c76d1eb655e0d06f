package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
)

// fakeProvider is an identity provider on loopback that can lie. Its zero lies are an honest one.
type fakeProvider struct {
	*httptest.Server
	t     testing.TB
	clock *clock.Clock
	key   *ecdsa.PrivateKey

	mu     sync.Mutex
	codes  map[string]url.Values // parameters of the authorization request, by code
	asked  map[string]int        // requests by path
	claims map[string]any        // of the person who logs in
	lies   lies
}

// lies changes what a fakeProvider says.
type lies struct {
	metadata func(m map[string]any)
	claims   func(c map[string]any)                       // of the id token
	userinfo map[string]any                               // nil: there is no such endpoint
	sign     func(p *fakeProvider, payload []byte) string // nil: with the key
	answer   func(w http.ResponseWriter, r *http.Request) (handled bool)
	tokens   func(m map[string]any)
	reuse    bool // codes work more than once, with any verifier
}

const fakeKid = "key-1"

func newFakeProvider(t testing.TB) *fakeProvider {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &fakeProvider{t: t, key: key, codes: map[string]url.Values{}, asked: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Server.Close)
	return p
}

// person sets the claims of the person who logs in.
func (p *fakeProvider) person(sub string, more ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = map[string]any{"sub": sub, "preferred_username": sub}
	for i := 0; i < len(more); i += 2 {
		p.claims[more[i].(string)] = more[i+1]
	}
}

// lie sets the lies from now on.
func (p *fakeProvider) lie(l lies) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lies = l
}

func (p *fakeProvider) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

func (p *fakeProvider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	l := p.lies
	p.asked[r.URL.Path]++
	p.mu.Unlock()
	if l.answer != nil && l.answer(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	send := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		m := map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"none", "HS256", "ES256"}, "end_session_endpoint": p.URL + "/logout",
		}
		if l.userinfo != nil {
			m["userinfo_endpoint"] = p.URL + "/userinfo"
		}
		if l.metadata != nil {
			l.metadata(m)
		}
		send(m)
	case "/keys":
		send(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: fakeKid, Algorithm: "ES256", Use: "sig"}}})
	case "/userinfo":
		send(l.userinfo)
	case "/token":
		answer, ok := p.redeem(r, l)
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
		}
		send(answer)
	default:
		http.NotFound(w, r)
	}
}

// redeem is the token endpoint. It checks what a provider has to check: the client, the code, the
// redirect address and PKCE.
func (p *fakeProvider) redeem(r *http.Request, l lies) (answer map[string]any, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	code := r.FormValue("code")
	q, known := p.codes[code]
	if !l.reuse {
		delete(p.codes, code)
	}
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	switch {
	case id != "latchkey" || secret != "hunter2":
		return map[string]any{"error": "invalid_client"}, false
	case !known:
		return map[string]any{"error": "invalid_grant", "error_description": "hunter2"}, false
	case q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]):
		return map[string]any{"error": "invalid_grant", "error_description": "PKCE"}, false
	case r.FormValue("redirect_uri") != q.Get("redirect_uri"):
		return map[string]any{"error": "invalid_grant", "error_description": "redirect_uri"}, false
	}
	now := p.clock.Now().Unix()
	claims := map[string]any{"iss": p.URL, "aud": "latchkey", "iat": now, "exp": now + 300, "nonce": q.Get("nonce"), "at_hash": atHash("access")}
	if q.Get("max_age") == "0" && q.Get("prompt") == "login" {
		claims["auth_time"] = now
	}
	maps.Copy(claims, p.claims)
	if l.claims != nil {
		l.claims(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		p.t.Error(err)
	}
	token := ""
	if l.sign != nil {
		token = l.sign(p, payload)
	} else {
		token = signJWT(p.t, jose.ES256, p.key, fakeKid, payload)
	}
	answer = map[string]any{"access_token": "access", "token_type": "Bearer", "id_token": token}
	if l.tokens != nil {
		l.tokens(answer)
	}
	return answer, true
}

func atHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// signJWT returns a signed JWT.
func signJWT(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, payload []byte) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Error(err)
		return ""
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Error(err)
	}
	return text
}

func newEdKey(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// login is what the person does at the provider: it returns the parameters with which the browser is
// sent back.
func (p *fakeProvider) login(address string) url.Values {
	p.t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Scheme+"://"+u.Host+u.Path != p.URL+"/authorize" {
		p.t.Fatalf("got sent to %s, want the provider", address)
	}
	q := u.Query()
	if q.Get("client_id") != "latchkey" || q.Get("response_type") != "code" || q.Get("redirect_uri") != "http://127.0.0.1:8081/login/oidc/callback" || !strings.HasPrefix(q.Get("scope"), "openid ") {
		p.t.Errorf("got sent to %s", address)
	}
	code := "code" + keytext.RandomHex(8)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.codes[code] = q
	return url.Values{"code": {code}, "state": {q.Get("state")}}
}

// asks returns a handler with the pages of the provider for a browser: a login that asks for nothing,
// and a logout.
func (p *fakeProvider) asks(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch r.URL.Path {
		case "/authorize":
			code := "code" + keytext.RandomHex(8)
			p.mu.Lock()
			p.codes[code] = q
			p.mu.Unlock()
			http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
		case "/logout":
			p.mu.Lock()
			p.asked["/logout"]++
			p.mu.Unlock()
			http.Redirect(w, r, q.Get("post_logout_redirect_uri"), http.StatusFound)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// newSignOn is a service with single sign-on and an admin who has a password, and a browser without a
// session.
func newSignOn(t testing.TB, change ...func(*Config)) (*browser, *fakeProvider) {
	p := newFakeProvider(t)
	set := func(c *Config) {
		c.Admin.BaseURL = "http://127.0.0.1:8081"
		o := &c.Admin.OIDC
		o.Issuer, o.ClientID, o.ClientSecret = p.URL, "latchkey", "hunter2"
		o.Roles = map[string]string{"platform": "admin", "keys": "key_manager", "support": "viewer"}
	}
	a := newTestApp(t, append([]func(*Config){set}, change...)...)
	p.clock = a.clock
	a.Server.ListensAt("http://127.0.0.1:8080")
	b := newBrowser(a)
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	return b, p
}

// beginSignOn begins a login and returns where the browser is sent.
func (b *browser) beginSignOn() string {
	b.t.Helper()
	w := b.get("/login/oidc?next=/audit")
	if w.Code != 303 {
		b.t.Fatalf("begin: got %d %s", w.Code, w.Body)
	}
	return w.Header().Get("Location")
}

// bring brings the answer of the provider.
func (b *browser) bring(q url.Values) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.get("/login/oidc/callback?" + q.Encode())
}

// signOn logs in by single sign-on.
func (b *browser) signOn(p *fakeProvider) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.bring(p.login(b.beginSignOn()))
}

// wantRefused wants that a login was refused: on the page, without a session and with the reason in the
// log and in the audit log.
func (b *browser) wantRefused(w *httptest.ResponseRecorder, status int, reason string) {
	b.t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), `role="alert"`) {
		b.t.Errorf("got %d %s, want %d", w.Code, w.Body, status)
	}
	if again := b.get("/keys"); again.Code != 303 {
		b.t.Errorf("got %d for a page, want no session", again.Code)
	}
	if err := b.Store.Update(func(*Tx) error { return nil }); err != nil { // entries of refusals are queued
		b.t.Fatal(err)
	}
	entry := b.operate(200, "GET", "/admin/v1/audit?limit=1", "")["entries"].([]any)[0].(map[string]any)
	detail, _ := entry["detail"].(map[string]any)
	if got := fmt.Sprint(detail["reason"]); entry["result"] != "refused" || !strings.Contains(got, reason) {
		b.t.Errorf("got %v in the audit log, want a refusal with %q", entry, reason)
	}
	if !strings.Contains(b.log.String(), strings.ReplaceAll(reason, `"`, `\"`)) {
		b.t.Errorf("the log lacks %q: %s", reason, b.log.String())
	}
}

// wantNoSecrets wants that nothing of the login is in the log, in the audit log or in the store.
func (b *browser) wantNoSecrets(q url.Values, more ...string) {
	b.t.Helper()
	texts := map[string]string{"log": b.log.String(), "audit log": b.control("GET", "/admin/v1/audit?limit=1000", "").Body.String(), "store": b.stored()}
	for where, text := range texts {
		for _, secret := range append(more, q.Get("code"), q.Get("state"), "hunter2") {
			if secret != "" && strings.Contains(text, secret) {
				b.t.Errorf("the %s has %q: %s", where, secret, text)
			}
		}
	}
}

// TestOIDC_Lies holds that each lie of a provider, of a browser or of somebody between them is refused
// with its reason, and leaves no session and no operator.
func TestOIDC_Lies(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, value any) lies {
		return lies{claims: func(c map[string]any) { c[name] = value }}
	}
	time := func(name string, seconds int64) lies { // counted from now
		return lies{claims: func(c map[string]any) { c[name] = c["iat"].(int64) + seconds }}
	}
	without := func(name string) lies { return lies{claims: func(c map[string]any) { delete(c, name) }} }
	signed := func(alg jose.SignatureAlgorithm, key any, kid string) lies {
		return lies{sign: func(p *fakeProvider, payload []byte) string { return signJWT(p.t, alg, key, kid, payload) }}
	}
	unsigned := func(_ *fakeProvider, payload []byte) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	}
	metadata := func(name string, value any) lies {
		return lies{metadata: func(m map[string]any) { m[name] = value }}
	}
	padded := []byte(strings.Repeat("latchkey", 8)) // HS256 needs 32 bytes
	for _, tt := range []struct {
		name   string
		lie    lies
		change func(q url.Values)
		status int
		reason string
	}{
		{"another nonce", claim("nonce", "other"), nil, 403, "nonce of another login"},
		{"no nonce", without("nonce"), nil, 403, "nonce of another login"},
		{"another audience", claim("aud", "other"), nil, 403, "expected audience"},
		{"several audiences without azp", claim("aud", []string{"latchkey", "other"}), nil, 403, "another client (azp)"},
		{"another azp", claim("azp", "other"), nil, 403, "another client (azp)"},
		{"another issuer", claim("iss", "https://other.example"), nil, 403, "issued by a different provider"},
		{"expired", time("exp", -60), nil, 403, "the id token expired at"},
		{"without an end", without("exp"), nil, 403, "the id token expired at"},
		{"not valid yet", time("nbf", 61), nil, 403, "not valid yet"},
		{"issued in the future", time("iat", 61), nil, 403, "not valid yet"},
		{"without the time of issue", without("iat"), nil, 403, "not valid yet"},
		{"issued after the end of the clock", claim("iat", 1e300), nil, 403, "not valid yet"},
		{"not valid before the end of the clock", claim("nbf", 1e300), nil, 403, "not valid yet"},
		{"not valid yet, as a text", claim("nbf", "1e300"), nil, 403, "not valid yet"},
		{"no sub", without("sub"), nil, 403, "no sub"},
		{"a long sub", claim("sub", strings.Repeat("x", 256)), nil, 403, "no sub of 1 to 255 bytes"},
		{"another access token", lies{tokens: func(m map[string]any) { m["access_token"] = "other" }}, nil, 403, "at_hash"},
		{"alg none", lies{sign: unsigned}, nil, 403, "the id token is refused: oidc: malformed jwt"},
		{"HS256 with the id of the client", signed(jose.HS256, padded, fakeKid), nil, 403, "unexpected signature algorithm"},
		{"an algorithm that the provider does not announce", signed(jose.EdDSA, newEdKey(t), fakeKid), nil, 403, "unexpected signature algorithm"},
		{"another key with the same kid", signed(jose.ES256, other, fakeKid), nil, 403, "failed to verify"},
		{"an unknown kid", signed(jose.ES256, other, "key-2"), nil, 403, "failed to verify"},
		{"no id token", lies{tokens: func(m map[string]any) { delete(m, "id_token") }}, nil, 403, "sent no id token"},
		{"an id token that is none", lies{tokens: func(m map[string]any) { m["id_token"] = "a.b" }}, nil, 403, "the id token is refused"},
		{"userinfo about somebody else", lies{claims: func(c map[string]any) { delete(c, "groups") }, userinfo: map[string]any{"sub": "eve", "groups": "platform"}}, nil, 403, "userinfo is about another person"},
		{"metadata with another issuer", metadata("issuer", "https://other.example"), nil, 503, `the provider calls itself "https://other.example"`},
		{"metadata with a slash more", lies{metadata: func(m map[string]any) { m["issuer"] = m["issuer"].(string) + "/" }}, nil, 503, "the provider calls itself"},
		{"a token endpoint without TLS", metadata("token_endpoint", "http://other.example/token"), nil, 503, "token_endpoint is"},
		{"a login page that is a script", metadata("authorization_endpoint", "javascript:alert(1)"), nil, 503, "authorization_endpoint is"},
		{"no keys", metadata("jwks_uri", ""), nil, 503, "jwks_uri is"},

		{"state is missing", lies{}, func(q url.Values) { q.Del("state") }, 400, "the state is missing"},
		{"state of another login", lies{}, func(q url.Values) { q.Set("state", "other") }, 400, "the state is missing"},
		{"an error", lies{}, func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }, 403, `the error "access_denied"`},
		{"no code", lies{}, func(q url.Values) { q.Del("code") }, 403, "sent no code"},
		{"another code", lies{}, func(q url.Values) { q.Set("code", "other") }, 403, `status 400 and the error "invalid_grant"`},
		{"the answer of another issuer", lies{}, func(q url.Values) { q.Set("iss", "https://other.example") }, 403, "(iss)"},
		{"no iss, which is announced", metadata("authorization_response_iss_parameter_supported", true), nil, 403, "(iss)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, p := newSignOn(t)
			p.person("bea", "groups", []string{"platform"})
			p.lie(tt.lie)
			w := b.get("/login/oidc")
			q := url.Values{}
			if w.Code == 303 {
				if q = p.login(w.Header().Get("Location")); tt.change != nil {
					tt.change(q)
				}
				w = b.bring(q)
			}
			b.wantRefused(w, tt.status, tt.reason)
			b.wantNoSecrets(url.Values{"code": q["code"]})
			if n := b.operate(200, "GET", "/admin/v1/operators", "")["count"]; n != 1.0 {
				t.Errorf("got %v operators, want none besides the first", n)
			}
			if strings.Contains(w.Body.String(), tt.reason) {
				t.Errorf("the page has the reason: %s", w.Body)
			}
		})
	}
}

// TestOIDC_Skew holds the bounds of the times, on the side that is still accepted.
func TestOIDC_Skew(t *testing.T) {
	for name, seconds := range map[string]int64{"exp": -59, "nbf": 60, "iat": 60} {
		b, p := newSignOn(t)
		p.person("bea", "groups", "platform")
		p.lie(lies{claims: func(c map[string]any) { c[name] = c["iat"].(int64) + seconds }})
		if w := b.signOn(p); w.Code != 303 || w.Header().Get("Location") != "/audit" {
			t.Errorf("%s %d seconds from now: got %d %s", name, seconds, w.Code, w.Body)
		}
	}
}

// TestOIDC_Replay holds that an answer works once, in the browser in which the login began, and in time.
func TestOIDC_Replay(t *testing.T) {
	b, p := newSignOn(t)
	p.person("bea", "groups", "platform")
	p.lie(lies{reuse: true})
	address := b.beginSignOn()
	cookies := b.jar.Cookies(b.request("GET", "/").URL)
	q := p.login(address)

	stranger := newBrowser(b.testApp)
	stranger.wantRefused(stranger.bring(q), 400, "no valid ticket")
	stranger.beginSignOn()
	stranger.wantRefused(stranger.bring(q), 400, "the state is missing, or is of another login")

	if w := b.bring(q); w.Code != 303 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	for _, c := range b.jar.Cookies(b.request("GET", "/").URL) {
		if strings.Contains(c.Name, "signon") {
			t.Errorf("the browser still has %s", c.Name)
		}
	}
	thief := newBrowser(b.testApp) // has the answer and the cookie
	thief.jar.SetCookies(b.request("GET", "/").URL, cookies)
	thief.wantRefused(thief.bring(q), 400, "this login was used before")
	b.wantNoSecrets(q, "access")

	p.lie(lies{})
	late := newBrowser(b.testApp)
	q = p.login(late.beginSignOn())
	b.clocks.Pass(10 * time.Minute)
	late.wantRefused(late.bring(q), 400, "no valid ticket")

	once := newBrowser(b.testApp) // the provider refuses a code the second time
	q = p.login(once.beginSignOn())
	delete(p.codes, q.Get("code"))
	once.wantRefused(once.bring(q), 403, "invalid_grant")
}

// TestOIDC_Provider holds that a provider that does not answer, or with too much, is refused soon, and
// never in the way of a login with a password.
func TestOIDC_Provider(t *testing.T) {
	at := func(path string, answer func(w http.ResponseWriter, r *http.Request)) lies {
		return lies{answer: func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, path) {
				answer(w, r)
				return true
			}
			return false
		}}
	}
	huge := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"issuer": "`)
		for range 64 {
			_, _ = io.WriteString(w, strings.Repeat("x", 64<<10))
		}
	}
	slow := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server sees that the client has gone
		<-r.Context().Done()
	}
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("the redirect to another host was followed") }))
	defer away.Close()
	for _, tt := range []struct {
		name   string
		lie    lies
		status int
		reason string
	}{
		{"metadata is huge", at("openid-configuration", huge), 503, "request body too large"},
		{"the tokens are huge", at("token", huge), 503, "redeem the code"},
		{"the keys are huge", at("keys", huge), 503, "request body too large"},
		{"a key takes hours to try", at("keys", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"keys": [{"kty": "RSA", "kid": %q, "e": "AQAB", "n": %q}]}`, fakeKid, strings.Repeat("_", 900_000))
		}), 503, "its n has 900000 bytes"},
		{"there are too many keys", at("keys", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"keys": [{}%s]}`, strings.Repeat(", {}", providerKeys))
		}), 503, "has 101 keys"},
		{"metadata redirects in a loop", at("openid-configuration", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) }), 503, "redirect to"},
		{"metadata is elsewhere", at("openid-configuration", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, away.URL, http.StatusFound) }), 503, "redirect to"},
		{"the token endpoint is elsewhere", at("token", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, away.URL, http.StatusTemporaryRedirect)
		}), 503, "redirect to"},
		{"the token endpoint redirects", at("token", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		}), 503, "redirect to"},
		{"the keys are elsewhere", at("keys", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, away.URL, http.StatusFound) }), 503, "redirect to"},
		{"metadata is no JSON", at("openid-configuration", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") }), 503, "not the JSON object"},
		{"it is down", at("", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) }), 503, "got status 502"},
		{"metadata is slow", at("openid-configuration", slow), 503, "exceeded"},
		{"the token endpoint is slow", at("token", slow), 503, "exceeded"},
		{"the keys are slow", at("keys", slow), 503, "exceeded"},
		{"the keys are down", at("keys", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) }), 503, "502"},
		{"the token endpoint is down", at("token", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) }), 503, "status 502"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, p := newSignOn(t)
			p.person("bea", "groups", "platform")
			p.lie(tt.lie)
			client := b.accounts.provider.client
			if strings.Contains(tt.name, "slow") {
				client.Timeout = 200 * time.Millisecond
			}
			w := b.get("/login/oidc")
			if w.Code == 303 {
				w = b.bring(p.login(w.Header().Get("Location")))
			}
			b.wantRefused(w, tt.status, tt.reason)
			client.Timeout = providerTimeout
			if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
				t.Errorf("log in with a password: got %d", w.Code)
			}
			p.lie(lies{})
			next := newBrowser(b.testApp)
			if w := next.signOn(p); w.Code != 303 {
				t.Errorf("when the provider works again: got %d %s", w.Code, w.Body)
			}
		})
	}
}

// A provider that hangs holds up nobody else, and those who wait for it ask it once.
func TestOIDC_Hangs(t *testing.T) {
	b, p := newSignOn(t)
	release, entered := make(chan struct{}), make(chan struct{}, 100)
	p.lie(lies{answer: func(w http.ResponseWriter, r *http.Request) bool {
		entered <- struct{}{}
		<-release
		return false
	}})
	var all sync.WaitGroup
	for range 20 {
		one := newBrowser(b.testApp)
		all.Go(func() { one.get("/login/oidc") })
	}
	<-entered
	if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
		t.Errorf("log in with a password meanwhile: got %d", w.Code)
	}
	if w := b.get("/keys"); w.Code != 200 {
		t.Errorf("a page meanwhile: got %d", w.Code)
	}
	if w := b.post("/logout"); w.Code != 303 {
		t.Errorf("log out meanwhile: got %d", w.Code)
	}
	close(release)
	all.Wait()
	if n := p.count("/.well-known/openid-configuration"); n > 2 {
		t.Errorf("got %d requests for the metadata, want those who wait to share one", n)
	}
	if got := b.accounts.provider.client.Timeout; got != 10*time.Second {
		t.Errorf("got a timeout of %s", got)
	}
}

// The provider is not asked at the start, its metadata and keys are kept for an hour, and a key that it
// has withdrawn is then no longer accepted.
func TestOIDC_Cache(t *testing.T) {
	b, p := newSignOn(t)
	p.person("bea", "groups", "platform")
	if n := p.count("/.well-known/openid-configuration"); n != 0 {
		t.Errorf("got %d requests at the start", n)
	}
	for range 3 {
		if w := newBrowser(b.testApp).signOn(p); w.Code != 303 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	if metadata, keys := p.count("/.well-known/openid-configuration"), p.count("/keys"); metadata != 1 || keys != 1 {
		t.Errorf("got %d and %d requests for metadata and keys, want 1 and 1", metadata, keys)
	}
	was := p.key
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	b.clocks.Pass(time.Hour)
	p.lie(lies{sign: func(p *fakeProvider, payload []byte) string { return signJWT(p.t, jose.ES256, was, fakeKid, payload) }})
	b.wantRefused(b.signOn(p), 403, "failed to verify")
}

// Somebody who has no login at the provider cannot make the service ask it without end.
func TestOIDC_Throttle(t *testing.T) {
	b, p := newSignOn(t)
	for range signOnsByAddress {
		q := p.login(b.beginSignOn())
		q.Set("code", "guess")
		if w := b.bring(q); w.Code != 403 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	q := p.login(b.beginSignOn())
	if w := b.bring(q); w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 429", w.Code, w.Body)
	}
	if n := p.count("/token"); n != signOnsByAddress {
		t.Errorf("got %d requests, want %d", n, signOnsByAddress)
	}
	if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
		t.Errorf("log in with a password: got %d", w.Code)
	}
}

// TestOIDC_Secret holds the forms of the client's secret.
func TestOIDC_Secret(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		text, want string
		bad        bool
	}{{"hunter2\n", "hunter2", false}, {"", "", true}, {"two\nlines", "", true}, {strings.Repeat("x", 5000), "", true}} {
		file := dir + "/secret"
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ProviderOptions{SecretFile: file}.ReadSecret()
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%.20q: got %q, %v", tt.text, got, err)
		}
	}
	if _, err := (ProviderOptions{Secret: "x", SecretFile: dir + "/secret"}).ReadSecret(); err == nil {
		t.Error("got no error for both forms")
	}
	if _, err := (ProviderOptions{SecretFile: dir + "/none"}).ReadSecret(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
