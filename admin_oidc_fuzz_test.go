package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"latchkey/dashboard"
)

// The provider of FuzzProvider and what a login at it has.
const (
	fuzzedIssuer = "https://id.example"
	fuzzedNonce  = "nonce-of-this-login"
	fuzzedAccess = "access-token"
)

// fuzzedDocuments are the answers of a provider.
type fuzzedDocuments struct {
	metadata, keys string
	tokens         string // with ID_TOKEN where the id token is
	header, claims string // of the id token
	userinfo       string
	how            uint16 // see the methods
}

// usualDocuments returns answers with which a login succeeds as an admin. key signs the id token.
func usualDocuments(t testing.TB, key *ecdsa.PrivateKey) fuzzedDocuments {
	text := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	now := epoch.Unix()
	return fuzzedDocuments{
		metadata: text(map[string]any{
			"issuer": fuzzedIssuer, "authorization_endpoint": fuzzedIssuer + "/authorize", "token_endpoint": fuzzedIssuer + "/token", "jwks_uri": fuzzedIssuer + "/keys",
			"userinfo_endpoint": fuzzedIssuer + "/userinfo", "end_session_endpoint": fuzzedIssuer + "/logout", "id_token_signing_alg_values_supported": []string{"HS256", "ES256"},
		}),
		keys:     text(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: fakeKid, Algorithm: "ES256", Use: "sig"}}}),
		tokens:   text(map[string]any{"access_token": fuzzedAccess, "token_type": "Bearer", "id_token": "ID_TOKEN"}),
		header:   `{"alg":"ES256","kid":"` + fakeKid + `"}`,
		claims:   text(map[string]any{"iss": fuzzedIssuer, "aud": "latchkey", "sub": "bea", "iat": now, "exp": now + 300, "nonce": fuzzedNonce, "preferred_username": "bea", "groups": []string{"platform"}}),
		userinfo: text(map[string]any{"sub": "bea", "email": "bea@example.com", "email_verified": true, "groups": "keys"}),
	}
}

// signed returns the id token. how chooses who signs it: the provider, somebody else, nobody, or somebody who knows
// the secret of the client.
func (d fuzzedDocuments) signed(t testing.TB, keys [2]*ecdsa.PrivateKey) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(d.header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(d.claims))
	var signature []byte
	switch by := d.how % 4; by {
	case 0, 1:
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, keys[by], sum[:])
		if err != nil {
			t.Fatal(err)
		}
		signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case 2:
	case 3:
		mac := hmac.New(sha256.New, []byte("hunter2"))
		mac.Write([]byte(text))
		signature = mac.Sum(nil)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// form returns the type of the answer with the tokens.
func (d fuzzedDocuments) form() string {
	return []string{"application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", ""}[d.how>>2%4]
}

// broken returns the number of the answer that has another status than 200, and that status: 1 is the metadata, 2
// the keys, 3 the tokens, 4 userinfo, and the others none.
func (d fuzzedDocuments) broken() (which int, status int) {
	return int(d.how >> 4 % 8), []int{500, 400, 302, 204}[d.how>>7%4]
}

func (d fuzzedDocuments) sendsIss() bool      { return d.how>>9%2 == 1 }
func (d fuzzedDocuments) wantsDomain() bool   { return d.how>>10%2 == 1 }
func (d fuzzedDocuments) viewerAtLeast() bool { return d.how>>11%2 == 1 }

// RoundTrip is the provider. It tells apart what it is asked by the method and the bearer token.
func (p *fuzzedProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked = append(p.asked, r)
	which, text := 2, p.keys
	switch {
	case r.Method == "POST":
		which, text = 3, strings.ReplaceAll(p.tokens, "ID_TOKEN", p.token)
	case r.Header.Get("Authorization") != "":
		which, text = 4, p.userinfo
	case len(p.asked) == 1:
		which, text = 1, p.metadata
	}
	answer := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}
	if which == 3 {
		answer.Header.Set("Content-Type", p.form())
	}
	if broken, status := p.broken(); broken == which {
		answer.StatusCode = status
		if status == http.StatusNoContent {
			answer.Body = http.NoBody // an HTTP client reads none, whatever the server sends
		}
		answer.Header.Set("Location", "https://elsewhere.example/")
	}
	return answer, nil
}

// fuzzedProvider is a provider that answers with documents.
type fuzzedProvider struct {
	fuzzedDocuments
	token string
	asked []*http.Request
}

// mayLogIn returns the role with which the documents let somebody log in, or the reason why they must not. It reads
// them with nothing but encoding/json, by the names as OpenID Connect spells them.
func (d fuzzedDocuments) mayLogIn(keys [2]*ecdsa.PrivateKey) (subject, role, reason string) {
	metadata, header, claims, userinfo := objectIn(d.metadata), objectIn(d.header), objectIn(d.claims), objectIn(d.userinfo)
	broken, _ := d.broken()
	userinfoURL, _ := metadata["userinfo_endpoint"].(string)
	now, subject := float64(epoch.Unix()), ""
	subject, _ = claims["sub"].(string)
	number := func(name string) float64 { // NaN if it is neither a number nor a text with one
		value := claims[name]
		if text, ok := value.(string); ok && json.Unmarshal([]byte(text), &value) != nil {
			return math.NaN()
		}
		if v, ok := value.(float64); ok {
			return v
		}
		return math.NaN()
	}
	algorithms, _ := metadata["id_token_signing_alg_values_supported"].([]any)
	audience, several := claims["aud"].([]any)
	if !several {
		audience = []any{claims["aud"]}
	}
	bearer, idToken := d.answered()
	hash, hashed := claims["at_hash"].(string)
	for _, rule := range []struct {
		holds  bool
		reason string
	}{
		{broken < 1 || broken > 3, "an answer has another status than 200"},
		{metadata["issuer"] == fuzzedIssuer, "the metadata is of another issuer"},
		{d.sendsIss() || metadata["authorization_response_iss_parameter_supported"] != true, "the answer lacks iss"},
		{isSecure(metadata["token_endpoint"]) && isSecure(metadata["jwks_uri"]) && isSecure(metadata["authorization_endpoint"]), "an endpoint has no TLS"},
		{idToken == "ID_TOKEN", "the answer has no id token"},
		{slices.Contains(algorithms, any("ES256")) && header["alg"] == "ES256", "the algorithm is another one"},
		{d.how%4 < 2 && hasKey(d.keys, keys[d.how%4&1], header["kid"]), "the provider has not signed it"},
		{header["crit"] == nil, "an extension must be understood"},
		{claims["iss"] == fuzzedIssuer, "another issuer"},
		{slices.Contains(audience, any("latchkey")), "another audience"},
		{(len(audience) < 2 || claims["azp"] != nil) && (claims["azp"] == nil || claims["azp"] == "latchkey"), "another azp"},
		{claims["nonce"] == fuzzedNonce, "another nonce"},
		{number("exp") > now-60, "it has expired"},
		{number("iat") < now+61, "it was issued in the future"},
		{claims["nbf"] == nil || number("nbf") < now+61, "it is not valid yet"},
		{len(subject) >= 1 && len(subject) <= 255, "there is no sub"},
		{claims["at_hash"] == nil || hashed && (hash == "" || hash == atHash(bearer)), "another access token"},
	} {
		if !rule.holds {
			return "", "", rule.reason
		}
	}
	texts := func(v any) (list []string) {
		if text, ok := v.(string); ok {
			return []string{text}
		}
		all, ok := v.([]any)
		if ok {
			list = []string{}
		}
		for _, one := range all {
			if text, ok := one.(string); ok {
				list = append(list, text)
			}
		}
		return list
	}
	groups, mail := texts(claims["groups"]), claims
	named := slices.ContainsFunc([]string{"preferred_username", "email", "name"}, func(name string) bool {
		text, _ := claims[name].(string)
		_, err := cleanName(text)
		return err == nil
	})
	email, _ := claims["email"].(string)
	if userinfoURL != "" && (!named || groups == nil || d.wantsDomain() && email == "") { // something is missing
		if broken == 4 || userinfo["sub"] != subject || !isSecure(userinfoURL) {
			return "", "", "userinfo cannot be read, or is about somebody else"
		}
		if groups == nil {
			groups = texts(userinfo["groups"])
		}
		if email == "" {
			mail = userinfo
			email, _ = mail["email"].(string)
		}
	}
	if verified := mail["email_verified"]; d.wantsDomain() && (!strings.HasSuffix(strings.ToLower(email), "@example.com") || strings.Count(email, "@") != 1 || verified != true && verified != "true") {
		return "", "", "the mail address is not of example.com, or not verified"
	}
	for _, of := range []struct{ group, role string }{{"platform", "admin"}, {"keys", "key_manager"}, {"support", "viewer"}} {
		if slices.Contains(groups, of.group) {
			return subject, of.role, ""
		}
	}
	if d.viewerAtLeast() {
		return subject, "viewer", ""
	}
	return "", "", "there is no role"
}

// answered returns the access token and the id token in the answer with the tokens.
func (d fuzzedDocuments) answered() (access, id string) {
	if form := d.form(); strings.HasPrefix(form, "text/plain") || strings.Contains(form, "urlencoded") {
		values, _ := url.ParseQuery(d.tokens)
		return values.Get("access_token"), values.Get("id_token")
	}
	fields := objectIn(d.tokens)
	access, _ = fields["access_token"].(string)
	id, _ = fields["id_token"].(string)
	return access, id
}

// objectIn returns the members of a JSON object, or nil.
func objectIn(text string) (fields map[string]any) {
	if json.Unmarshal([]byte(text), &fields) != nil {
		return nil
	}
	return fields
}

func isSecure(address any) bool {
	text, _ := address.(string)
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

// hasKey reports whether a set of keys has the public half of key, under an id that a header may have.
func hasKey(set string, key *ecdsa.PrivateKey, kid any) bool {
	list, _ := objectIn(set)["keys"].([]any)
	public, err := key.PublicKey.Bytes()
	return err == nil && slices.ContainsFunc(list, func(one any) bool {
		fields, _ := one.(map[string]any)
		coordinate := func(name string) []byte {
			text, _ := fields[name].(string)
			data, _ := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
			return data
		}
		return fields["kty"] == "EC" && fields["crv"] == "P-256" && (kid == nil || kid == "" || kid == fields["kid"]) &&
			bytes.Equal(public[1:33], coordinate("x")) && bytes.Equal(public[33:], coordinate("y"))
	})
}

// FuzzProvider has an identity provider answer with any documents: somebody is logged in only if mayLogIn says so of
// them, as the person and with the role that they name, and after a bounded number of requests, of which none takes
// a secret elsewhere. A refusal leaves no session and no operator, and is never a fault of the server.
func FuzzProvider(f *testing.F) {
	var signers [2]*ecdsa.PrivateKey
	for i := range signers {
		var err error
		if signers[i], err = ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(int64(7+i)).FillBytes(make([]byte, 32))); err != nil {
			f.Fatal(err)
		}
	}
	usual := usualDocuments(f, signers[0])
	add := func(change func(d *fuzzedDocuments)) {
		d := usual
		change(&d)
		f.Add(d.metadata, d.keys, d.tokens, d.header, d.claims, d.userinfo, d.how)
	}
	for how := range uint16(8) {
		add(func(d *fuzzedDocuments) { d.how = how })
		add(func(d *fuzzedDocuments) { d.how = how << 4 })
		add(func(d *fuzzedDocuments) { d.how = how << 9; d.claims = strings.Replace(d.claims, `"groups"`, `"g"`, 1) })
	}
	for _, with := range []string{
		`"aud":["latchkey","other"],"azp":"latchkey"`, `"nbf":1770109200`, `"nbf":"1770109200"`, `"nbf":1e300`, `"iat":1e300`, `"exp":1e300`, `"exp":1770109140.5`, `"at_hash":"` + atHash(fuzzedAccess) + `"`,
		`"AUD":"latchkey","aud":"other"`, `"aud":"other","AUD":"latchkey"`, `"nonce":"x","Nonce":"` + fuzzedNonce + `"`, `"sub":"eve"`, `"sub":7`, `"groups":{"a":["keys"]}`, `"groups":[]`, `"email":"bea@example.com","email_verified":"true"`,
		`"email":"bea@evil.example","email_verified":true`, `"auth_time":1e300`, `"azp":null`, `"_claim_names":{"groups":"src1"},"_claim_sources":{"src1":{"endpoint":"https://elsewhere.example"}}`,
	} {
		add(func(d *fuzzedDocuments) { d.claims = strings.Replace(d.claims, "}", ","+with+"}", 1) })
		add(func(d *fuzzedDocuments) { d.claims = strings.Replace(d.claims, "{", "{"+with+",", 1); d.how = 1 << 10 })
	}
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"HS256"}`, `{"alg":"ES256"}`, `{"alg":"ES256","crit":["b64"],"b64":false}`, `{"alg":"ES256","kid":"key-2"}`, `{"alg":"ES384"}`, `{"Alg":"ES256","alg":"none"}`} {
		for how := range uint16(4) {
			add(func(d *fuzzedDocuments) { d.header, d.how = header, how })
		}
	}
	embedded, err := json.Marshal(jose.JSONWebKey{Key: signers[1].Public()})
	if err != nil {
		f.Fatal(err)
	}
	add(func(d *fuzzedDocuments) { d.header, d.how = `{"alg":"ES256","jwk":`+string(embedded)+`}`, 1 })
	add(func(d *fuzzedDocuments) { d.tokens, d.how = "access_token=a&id_token=ID_TOKEN&expires_in=5", 4 })
	add(func(d *fuzzedDocuments) { d.tokens = `{"error":"x"}` })
	add(func(d *fuzzedDocuments) { d.tokens = `{"access_token":"a","expires_in":"1e9","id_token":["ID_TOKEN"]}` })
	add(func(d *fuzzedDocuments) {
		d.keys = strings.Replace(d.keys, "[", `[{"kty":"oct","k":"aHVudGVyMg","kid":"key-1"},`, 1)
	})
	add(func(d *fuzzedDocuments) { d.keys = `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","x5c":["MA"]}]}` })
	for _, with := range []string{
		`"issuer":"https://other.example"`, `"Issuer":"https://other.example"`, `"token_endpoint":"http://id.example/token"`, `"jwks_uri":"https://user@id.example/#x"`, `"userinfo_endpoint":"javascript:x"`,
		`"authorization_response_iss_parameter_supported":true`, `"id_token_signing_alg_values_supported":["none","HS256"]`, `"id_token_signing_alg_values_supported":null`, `"token_endpoint_auth_methods_supported":["client_secret_post"]`,
	} {
		add(func(d *fuzzedDocuments) { d.metadata = strings.Replace(d.metadata, "}", ","+with+"}", 1) })
	}
	b := newFuzzedSignOn(f)
	f.Fuzz(func(t *testing.T, metadata, keys, tokens, header, claims, userinfo string, how uint16) {
		d := fuzzedDocuments{metadata, keys, tokens, header, claims, userinfo, how}
		p := &fuzzedProvider{fuzzedDocuments: d, token: d.signed(t, signers)}
		end, log, err := b.finish(t, p)
		subject, role, reason := d.mayLogIn(signers)
		if d == usual && (err != nil || role != "admin") {
			t.Fatalf("the usual documents: got %v, %s", err, reason)
		}
		if fault, ok := errors.AsType[*dashboard.Fault](err); err != nil && (!ok || !slices.Contains([]int{400, 403, 503}, fault.Status) || strings.Contains(log, "hunter2")) {
			t.Errorf("got %v and the log %s", err, log)
		}
		p.wantRequests(t)
		operators, sessions := b.madeBy(t)
		if err != nil {
			if len(operators)+sessions > 0 || end.Login.Token != "" {
				t.Errorf("refused with %v, but there are %v and %d sessions", err, operators, sessions)
			}
			return
		}
		if reason != "" || len(operators) != 1 || sessions != 1 || operators[0].Subject != subject || operators[0].Issuer != fuzzedIssuer || operators[0].Role != role {
			t.Errorf("%+v: logged in %+v with %d sessions, want %q as %q, or nobody because %q", d, operators, sessions, subject, role, reason)
		}
	})
}

// newFuzzedSignOn is a service with single sign-on at the provider of FuzzProvider, and with an admin.
func newFuzzedSignOn(t testing.TB) *fuzzedSignOn {
	a := newTestApp(t, func(c *Config) {
		c.Admin.BaseURL = "http://127.0.0.1:8081"
		o := &c.Admin.OIDC
		o.Issuer, o.ClientID, o.ClientSecret = fuzzedIssuer, "latchkey", "hunter2"
		o.Roles = map[string]string{"platform": "admin", "keys": "key_manager", "support": "viewer"}
	})
	a.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	return &fuzzedSignOn{a}
}

type fuzzedSignOn struct{ *testApp }

// finish has a browser bring the answer of a provider, and returns what becomes of the login and the log.
func (b *fuzzedSignOn) finish(t *testing.T, p *fuzzedProvider) (end dashboard.SignOnEnd, log string, err error) {
	t.Helper()
	var out bytes.Buffer
	o := b.accounts.o
	o.Log = slog.New(slog.NewTextHandler(&out, nil))
	o.Refused = func(AuditContext, *Error) {} // it would queue entries without end
	if p.wantsDomain() {
		o.Provider.Domains = []string{"example.com"}
	}
	if p.viewerAtLeast() {
		o.Provider.DefaultRole = "viewer"
	}
	accounts := NewAccounts(o)
	accounts.provider.client.Transport = boundedAnswers{p}
	ticket, err := signOnTickets.issue(o.Peppers, signOnTicket{Purpose: signOnLogin, State: "state", Nonce: fuzzedNonce, Verifier: "verifier-of-this-login", BeganAt: epoch}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	q := url.Values{"code": {"code-of-this-login"}, "state": {"state"}}
	if p.sendsIss() {
		q.Set("iss", fuzzedIssuer)
	}
	r := httptest.NewRequest("GET", "/login/oidc/callback?"+q.Encode(), nil)
	end, err = accounts.FinishSignOn(r, dashboard.SignOnAnswer{Query: q, Ticket: ticket})
	return end, out.String(), err
}

// wantRequests wants few requests, each with TLS and to an address that the metadata names. The secret of the
// client goes only to the token endpoint, and the access token only to userinfo.
func (p *fuzzedProvider) wantRequests(t *testing.T) {
	t.Helper()
	metadata := objectIn(p.metadata)
	if len(p.asked) > 6 {
		t.Errorf("got %d requests", len(p.asked))
	}
	for i, r := range p.asked {
		name := "jwks_uri"
		id, secret, basic := r.BasicAuth()
		switch {
		case r.Method == "POST":
			name = "token_endpoint"
			text := ""
			if r.GetBody != nil {
				body, _ := r.GetBody()
				data, _ := io.ReadAll(body)
				text = string(data)
			}
			if basic && (id != "latchkey" || secret != "hunter2") || !basic && !strings.Contains(text, "client_secret=hunter2") || !strings.Contains(text, "code_verifier=verifier-of-this-login") {
				t.Errorf("the request for tokens is %v %q", r.Header, text)
			}
		case r.Header.Get("Authorization") != "":
			name = "userinfo_endpoint"
		case i == 0:
			if r.URL.String() != fuzzedIssuer+"/.well-known/openid-configuration" {
				t.Errorf("the metadata was read from %s", r.URL)
			}
			continue
		}
		want, _ := metadata[name].(string)
		u, err := url.Parse(want)
		if err != nil || !isSecure(want) || r.URL.Scheme != "https" || r.URL.Host != strings.TrimSuffix(u.Host, ":") || r.URL.Path != u.Path {
			t.Errorf("%s %s was asked as the %s, which is %q", r.Method, r.URL, name, want)
		}
	}
}

// madeBy returns the operators besides the first and how many sessions there are, and removes them.
func (b *fuzzedSignOn) madeBy(t *testing.T) (operators []operator, sessions int) {
	t.Helper()
	var hashes [][]byte
	err := b.Store.View(func(tx *Tx) error {
		for op, err := range OperatorTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if op.ID > 1 {
				operators = append(operators, op)
			}
		}
		for s, err := range sessionTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			hashes = append(hashes, s.Hash)
		}
		return nil
	})
	if err == nil && len(operators)+len(hashes) > 0 {
		err = b.Store.Update(func(tx *Tx) error {
			for _, op := range operators {
				if err := OperatorTable.Delete(tx, IDKey(op.ID)); err != nil {
					return err
				}
			}
			for _, hash := range hashes {
				if err := sessionTable.Delete(tx, hash); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return operators, len(hashes)
}
