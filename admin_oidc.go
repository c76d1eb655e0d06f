package main

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"latchkey/internal/strictjson"
)

// The bounds of everything that an identity provider is asked.
const (
	providerTimeout = 10 * time.Second // of one request, and of all requests of one login
	providerAnswer  = 1 << 20          // bytes of one answer
	providerKeys    = 100              // keys of a provider
	providerKey     = 2800             // bytes of the longest text in a key: a modulus of 16,384 bits has 2,731
	providerLogins  = 8                // logins that wait for the provider at the same time
	providerFresh   = time.Hour        // how long its addresses and keys are kept
	clockSkew       = time.Minute      // how far its clock may differ
)

// ProviderOptions are the settings of single sign-on.
type ProviderOptions struct {
	Issuer, ClientID, Secret, SecretFile string
	Scopes                               []string // besides openid
	RedirectURL                          string   // to which the provider sends browsers back
	RoleClaim                            string
	Roles                                map[string]string // role for each value of the claim
	DefaultRole                          string            // "none": a login without one of Roles is refused
	Domains                              []string          // mail domains that may log in; nil: all
	Button                               string            // text of the button on the login page
}

// ProviderOf returns the settings of single sign-on in a configuration.
func ProviderOf(c Config) ProviderOptions {
	o := c.Admin.OIDC
	return ProviderOptions{
		Issuer: o.Issuer, ClientID: o.ClientID, Secret: o.ClientSecret, SecretFile: o.ClientSecretFile, Scopes: o.Scopes, RedirectURL: c.RedirectURL(),
		RoleClaim: o.RoleClaim, Roles: o.Roles, DefaultRole: o.DefaultRole, Domains: o.AllowedDomains, Button: o.Button,
	}
}

// ReadSecret returns the secret of the client, "" if it has none. It reads the file each time, so that
// a new secret needs no restart.
func (o ProviderOptions) ReadSecret() (string, error) {
	return SecretSetting{"admin.oidc.client_secret", o.Secret, o.SecretFile}.Read()
}

// identityProvider is the client of an identity provider, by OpenID Connect. It asks the provider only
// when somebody logs in, never at the start, and holds no lock while it waits for an answer. It is safe
// for concurrent use.
type identityProvider struct {
	o      ProviderOptions
	client *http.Client
	logins chan struct{} // has one element for each login that waits for the provider
	asking singleflight.Group

	mu    sync.Mutex
	facts *providerFacts // nil until the provider has been asked
}

// providerFacts is what a provider says of itself.
type providerFacts struct {
	Issuer, Authorize, Token, Keys, UserInfo, EndSession string

	Algorithms []string
	ClientAuth []string // nil if it does not say
	SendsIss   bool

	verifier *oidc.IDTokenVerifier
	until    time.Time // from Clock.Steady
}

// newIdentityProvider returns a client that has asked the provider nothing yet.
func newIdentityProvider(o ProviderOptions) *identityProvider {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.MaxResponseHeaderBytes = 2, 64<<10
	return &identityProvider{
		o: o, logins: make(chan struct{}, providerLogins),
		client: &http.Client{Timeout: providerTimeout, Transport: boundedAnswers{transport}, CheckRedirect: sameHost},
	}
}

// sameHost lets a request follow a redirect only within the same host, and only if it is no POST: that
// one carries the client's secret.
func sameHost(next *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > 3 || first.Method != http.MethodGet || next.URL.Scheme != first.URL.Scheme || next.URL.Host != first.URL.Host {
		return fmt.Errorf("redirect to %s://%s refused", next.URL.Scheme, next.URL.Host)
	}
	return nil
}

// boundedAnswers is a transport whose answers fail after providerAnswer bytes.
type boundedAnswers struct{ http.RoundTripper }

// RoundTrip sends a request.
func (b boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, providerAnswer)
	}
	return answer, err
}

// boundedKeys is a transport that reads sets of keys. It refuses a set that would take long to try: the time
// to check a signature grows with the square of the key's size.
type boundedKeys struct{ http.RoundTripper }

// RoundTrip sends a request. The body of the answer has only what was checked.
func (b boundedKeys) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusOK {
		return answer, err
	}
	defer answer.Body.Close()
	set, err := readObject(answer.Body)
	if err != nil {
		return nil, err
	}
	keys, _ := set["keys"].([]any)
	if len(keys) > providerKeys {
		return nil, fmt.Errorf("the provider has %d keys; the maximum is %d", len(keys), providerKeys)
	}
	for _, key := range keys {
		members, _ := key.(map[string]any)
		for name, value := range members {
			if text, ok := value.(string); ok && len(text) > providerKey {
				return nil, fmt.Errorf("a key of the provider is too large: its %s has %d bytes; the maximum is %d", shorten(name), len(text), providerKey)
			}
		}
	}
	text, err := strictjson.Encode(map[string]any{"keys": keys})
	if err != nil {
		return nil, err
	}
	answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return answer, nil
}

// known returns the facts of the provider that were read last, or nil.
func (p *identityProvider) known() *providerFacts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.facts
}

// read returns the facts of the provider. It asks the provider if they are not known or too old, once
// for all who wait for them. now is from Clock.Steady.
func (p *identityProvider) read(ctx context.Context, now time.Time) (*providerFacts, error) {
	if f := p.known(); f != nil && now.Before(f.until) {
		return f, nil
	}
	asked := p.asking.DoChan("", func() (any, error) { return p.discover(now) })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case result := <-asked:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*providerFacts), nil
	}
}

// discover asks the provider for its facts and keeps them. The keys are read when they are needed, and
// again if one is unknown.
func (p *identityProvider) discover(now time.Time) (*providerFacts, error) {
	ctx, cancel := context.WithTimeout(context.Background(), providerTimeout)
	defer cancel()
	metadata, err := p.get(ctx, strings.TrimSuffix(p.o.Issuer, "/")+"/.well-known/openid-configuration", "")
	if err != nil {
		return nil, fmt.Errorf("read the metadata of the provider: %w", err)
	}
	f := factsIn(metadata)
	f.until = now.Add(providerFresh)
	if f.Issuer != p.o.Issuer {
		return nil, fmt.Errorf("the provider calls itself %q; set admin.oidc.issuer to exactly that, or correct the provider", shorten(f.Issuer))
	}
	for _, endpoint := range []struct {
		name, url string
		needed    bool
	}{
		{"authorization_endpoint", f.Authorize, true}, {"token_endpoint", f.Token, true}, {"jwks_uri", f.Keys, true},
		{"userinfo_endpoint", f.UserInfo, false}, {"end_session_endpoint", f.EndSession, false},
	} {
		if (endpoint.needed || endpoint.url != "") && !p.usable(endpoint.url) {
			return nil, fmt.Errorf("the provider's %s is %q, which is no address with https://", endpoint.name, shorten(endpoint.url))
		}
	}
	client := *p.client
	client.Transport = boundedKeys{client.Transport}
	f.verifier = oidc.NewVerifier(p.o.Issuer, remoteKeys{oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), &client), f.Keys)},
		&oidc.Config{ClientID: p.o.ClientID, SupportedSigningAlgs: asymmetric(f.Algorithms), SkipExpiryCheck: true}) // verify checks the times
	p.mu.Lock()
	defer p.mu.Unlock()
	p.facts = f
	return f, nil
}

// factsIn returns the facts in the metadata of a provider.
func factsIn(metadata map[string]any) *providerFacts {
	text := func(name string) string {
		v, _ := metadata[name].(string)
		return v
	}
	return &providerFacts{
		Issuer: text("issuer"), Authorize: text("authorization_endpoint"), Token: text("token_endpoint"), Keys: text("jwks_uri"),
		UserInfo: text("userinfo_endpoint"), EndSession: text("end_session_endpoint"),
		Algorithms: textsIn(metadata["id_token_signing_alg_values_supported"]), ClientAuth: textsIn(metadata["token_endpoint_auth_methods_supported"]),
		SendsIss: metadata["authorization_response_iss_parameter_supported"] == true,
	}
}

// asymmetric returns the algorithms of a provider with which it alone can sign. A list without any is
// taken for RS256, which each provider must support.
func asymmetric(algorithms []string) []string {
	allowed := []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}
	found := slices.DeleteFunc(slices.Clone(algorithms), func(name string) bool { return !slices.Contains(allowed, name) })
	if len(found) == 0 {
		return []string{oidc.RS256}
	}
	return found
}

// usable reports whether an address of the provider can be used. Only a provider on this machine may do
// without TLS.
func (p *identityProvider) usable(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && IsLocalHost(u.Hostname()) && strings.HasPrefix(p.o.Issuer, "http://")
}

// get returns the members of the JSON object that answers a GET request. token is sent as a bearer token
// unless it is "".
func (p *identityProvider) get(ctx context.Context, address, token string) (map[string]any, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := p.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("got status %d", answer.StatusCode)
	}
	return readObject(answer.Body)
}

// readObject returns the members of a JSON object. Their names are as they were sent: encoding/json takes
// "AUD" for a field "aud" of a struct.
func readObject(body io.Reader) (map[string]any, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	value, err := strictjson.Value(text)
	members, ok := value.(map[string]any)
	if err != nil || !ok {
		return nil, errors.New("the answer is not the JSON object that it must be")
	}
	return members, nil
}

// shorten returns a text of a stranger as it may appear in a log line.
func shorten(text string) string { return cleanAgent(text) }

// oauth returns the configuration for the exchange of a code, with the client's secret.
func (p *identityProvider) oauth(f *providerFacts, secret string) *oauth2.Config {
	style := oauth2.AuthStyleInHeader
	basic := f.ClientAuth == nil || slices.Contains(f.ClientAuth, "client_secret_basic")
	if secret == "" || !basic && slices.Contains(f.ClientAuth, "client_secret_post") {
		style = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: p.o.ClientID, ClientSecret: secret, RedirectURL: p.o.RedirectURL, Scopes: append([]string{oidc.ScopeOpenID}, p.o.Scopes...),
		Endpoint: oauth2.Endpoint{AuthURL: f.Authorize, TokenURL: f.Token, AuthStyle: style},
	}
}

// address returns where a browser is sent to log in at the provider.
func (p *identityProvider) address(f *providerFacts, t signOnTicket) string {
	options := []oauth2.AuthCodeOption{oidc.Nonce(t.Nonce), oauth2.S256ChallengeOption(t.Verifier)}
	if t.Purpose == signOnConfirm {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	return p.oauth(f, "").AuthCodeURL(t.State, options...)
}

// endSession returns where a browser is sent to log out at the provider, or "" if that is not known. The
// provider recognizes this service by its id: with the id token as a hint, each session would have to
// keep a token that has personal data. Providers that see no hint ask the person first.
func (p *identityProvider) endSession(home string) string {
	f := p.known()
	if f == nil || f.EndSession == "" {
		return ""
	}
	u, err := url.Parse(f.EndSession)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.o.ClientID)
	q.Set("post_logout_redirect_uri", home)
	u.RawQuery = q.Encode()
	return u.String()
}

// errBusy means that too many logins wait for the provider.
var errBusy = errors.New("too many logins wait for the provider")

// errProvider means that a provider could not be asked. The login can be tried again.
var errProvider = errors.New("the provider cannot be asked")

// exchange redeems a code for tokens. It returns errProvider if the provider does not answer as it
// should.
func (p *identityProvider) exchange(ctx context.Context, f *providerFacts, code string, t signOnTicket) (*oauth2.Token, error) {
	secret, err := p.o.ReadSecret()
	if err != nil {
		return nil, fmt.Errorf("%w: read the secret of the client: %w", errProvider, err)
	}
	tokens, err := p.oauth(f, secret).Exchange(oidc.ClientContext(ctx, p.client), code, oauth2.VerifierOption(t.Verifier))
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok { // its text has the whole answer
		status := 0
		if refused.Response != nil {
			status = refused.Response.StatusCode
		}
		err = fmt.Errorf("the provider refused the code with status %d and the error %q", status, shorten(refused.ErrorCode))
		if status >= http.StatusInternalServerError {
			err = fmt.Errorf("%w: %w", errProvider, err)
		}
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: redeem the code: %s", errProvider, shorten(err.Error()))
	}
	return tokens, nil
}

// person is somebody, as the provider has confirmed it.
type person struct {
	Subject  string
	Name     string // for a new operator
	Email    string
	Verified bool     // the provider has verified Email
	Groups   []string // values of the claim with roles
	AuthTime time.Time
}

// verify returns who the tokens are about. It refuses tokens that are not for this service, for the
// login of t and for now, a time from Clock.Latest. What the id token does not have is read from the
// provider's userinfo endpoint.
func (p *identityProvider) verify(ctx context.Context, f *providerFacts, tokens *oauth2.Token, t signOnTicket, now time.Time) (who person, err error) {
	text, ok := tokens.Extra("id_token").(string)
	if !ok || text == "" {
		return who, errors.New("the provider sent no id token")
	}
	ctx, unread := withKeyFault(ctx)
	id, err := f.verifier.Verify(ctx, text)
	if *unread != nil {
		return who, fmt.Errorf("%w: read its keys: %s", errProvider, shorten((*unread).Error()))
	}
	if err != nil {
		return who, fmt.Errorf("the id token is refused: %s", shorten(err.Error()))
	}
	claims, err := p.checkClaims(id, t, now)
	if hash := claims["at_hash"]; err == nil && hash != nil && (hash != id.AccessTokenHash || id.VerifyAccessToken(tokens.AccessToken) != nil) {
		err = errors.New("the access token is not the one of the id token (at_hash)")
	}
	if err != nil {
		return who, err
	}
	who = p.identityIn(claims, id.Subject)
	if f.UserInfo == "" || !p.incomplete(who) {
		return who, nil
	}
	more, err := p.get(ctx, f.UserInfo, tokens.AccessToken)
	if err != nil {
		return who, fmt.Errorf("%w: read userinfo: %s", errProvider, shorten(err.Error()))
	}
	if sub, _ := more["sub"].(string); sub != id.Subject {
		return who, errors.New("userinfo is about another person (sub)")
	}
	return who.with(p.identityIn(more, id.Subject)), nil
}

// checkClaims returns the claims of an id token whose signature was checked. It refuses claims that are not for
// this service, for the login of t and for now. It reads them by their exact names.
func (p *identityProvider) checkClaims(id *oidc.IDToken, t signOnTicket, now time.Time) (claims map[string]any, err error) {
	var raw json.RawMessage
	if err := id.Claims(&raw); err != nil {
		return nil, errors.New("the id token has no claims")
	}
	if claims, err = readObject(bytes.NewReader(raw)); err != nil {
		return nil, errors.New("the claims of the id token are not a JSON object that can be read in one way only")
	}
	text := func(name string) string {
		v, _ := claims[name].(string)
		return v
	}
	audience := textsIn(claims["aud"])
	if audience == nil {
		audience = []string{text("aud")}
	}
	expiry, issued, begin := timeClaim(claims, "exp"), timeClaim(claims, "iat"), timeClaim(claims, "nbf")
	switch azp := text("azp"); {
	case text("iss") != p.o.Issuer || !slices.Contains(audience, p.o.ClientID):
		err = errors.New("the id token is of another issuer, or for another client (iss, aud)")
	case id.Subject == "" || len(id.Subject) > 255 || text("sub") != id.Subject:
		err = errors.New("the id token has no sub of 1 to 255 bytes")
	case subtle.ConstantTimeCompare([]byte(text("nonce")), []byte(t.Nonce)) != 1:
		err = errors.New("the id token has the nonce of another login")
	case len(audience) > 1 && azp == "" || claims["azp"] != nil && azp != p.o.ClientID:
		err = errors.New("the id token was issued to another client (azp)")
	case !now.Before(expiry.Add(clockSkew)):
		err = fmt.Errorf("the id token expired at %s; compare the clocks", expiry.UTC().Format(time.RFC3339))
	case issued.IsZero() || issued.After(now.Add(clockSkew)) || begin.After(now.Add(clockSkew)) || begin.IsZero() && claims["nbf"] != nil:
		err = errors.New("the id token is not valid yet; compare the clocks")
	}
	return claims, err
}

// remoteKeys are the keys of a provider. A verifier keeps only the text of an error, so the reason why the
// keys cannot be read is stored in the context, see withKeyFault.
type remoteKeys struct{ keys oidc.KeySet }

// VerifySignature returns the payload of a signed token.
func (k remoteKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.keys.VerifySignature(ctx, token)
	if fault, ok := ctx.Value(keyFault{}).(*error); ok && errors.Unwrap(err) != nil { // only a fault on the way to the keys is wrapped
		*fault = err
	}
	return payload, err
}

type keyFault struct{}

// withKeyFault returns a context in which remoteKeys stores why the keys of the provider cannot be read.
func withKeyFault(ctx context.Context) (context.Context, *error) {
	fault := new(error)
	return context.WithValue(ctx, keyFault{}, fault), fault
}

// timeClaim returns a claim with a time, as a number or as a text with one. It returns the zero Time if there is
// no such claim, or if it is something else. A time that is too large for the clock is a very late one.
func timeClaim(claims map[string]any, name string) time.Time {
	text := fmt.Sprint(claims[name])
	if !strictjson.IsNumber(text) {
		return time.Time{}
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return time.Time{}
	}
	const most = 1 << 40 // seconds, some 35,000 years
	return time.Unix(int64(min(max(seconds, 0), most)), 0)
}

// identityIn returns the person that claims describe.
func (p *identityProvider) identityIn(claims map[string]any, subject string) person {
	who := person{Subject: subject, AuthTime: timeClaim(claims, "auth_time"), Groups: groupsIn(claimAt(claims, p.o.RoleClaim))}
	who.Email, _ = claims["email"].(string)
	who.Verified = claims["email_verified"] == true || claims["email_verified"] == "true" // some providers send a text
	for _, claim := range []string{"preferred_username", "email", "name"} {
		text, _ := claims[claim].(string)
		if name, err := cleanName(text); err == nil && who.Name == "" {
			who.Name = name
		}
	}
	return who
}

// incomplete reports whether something is missing that decides over a login.
func (p *identityProvider) incomplete(who person) bool {
	return who.Name == "" || len(p.o.Domains) > 0 && who.Email == "" || len(p.o.Roles) > 0 && who.Groups == nil
}

// with returns who, completed from a second source. The mail address and whether it is verified are
// from one source.
func (who person) with(more person) person {
	if who.Name == "" {
		who.Name = more.Name
	}
	if who.Email == "" {
		who.Email, who.Verified = more.Email, more.Verified
	}
	if who.Groups == nil {
		who.Groups = more.Groups
	}
	return who
}

// claimAt returns a claim. path is its name, or names with dots between them that lead to a claim
// within others.
func claimAt(claims map[string]any, path string) any {
	if value, ok := claims[path]; ok {
		return value
	}
	head, rest, _ := strings.Cut(path, ".")
	inner, ok := claims[head].(map[string]any)
	if !ok {
		return nil
	}
	return claimAt(inner, rest)
}

// groupsIn returns the values of a claim that is a text or a list. It returns nil if the claim is
// missing or something else.
func groupsIn(claim any) []string {
	if text, ok := claim.(string); ok {
		return []string{text}
	}
	return textsIn(claim)
}

// textsIn returns the texts in a list. It returns nil if v is something else.
func textsIn(v any) []string {
	all, ok := v.([]any)
	if !ok {
		return nil
	}
	list := []string{}
	for _, item := range all {
		if text, ok := item.(string); ok {
			list = append(list, text)
		}
	}
	return list
}

// admit returns the role of a person, or an error with the reason why the person may not log in.
func (o ProviderOptions) admit(who person) (role string, err error) {
	if len(o.Domains) > 0 {
		_, domain, _ := strings.Cut(who.Email, "@")
		switch {
		case who.Email == "":
			return "", errors.New("allowed_domains is set and the provider sent no email; add the scope email")
		case !who.Verified:
			return "", errors.New("allowed_domains is set and the provider has not verified the mail address (email_verified)")
		case !slices.ContainsFunc(o.Domains, func(allowed string) bool { return strings.EqualFold(allowed, domain) }):
			return "", fmt.Errorf("the domain %q of the mail address is not in allowed_domains", shorten(domain))
		}
	}
	for _, g := range slices.Backward(Roles()) { // the highest role first
		if slices.ContainsFunc(who.Groups, func(value string) bool { return o.Roles[value] == g.Name }) {
			return g.Name, nil
		}
	}
	if o.DefaultRole != "none" {
		return o.DefaultRole, nil
	}
	if who.Groups == nil {
		return "", fmt.Errorf("the provider sent no claim %q with a text or a list, and there is no default_role", o.RoleClaim)
	}
	return "", fmt.Errorf("none of the %d values of the claim %q is in roles, and there is no default_role", len(who.Groups), o.RoleClaim)
}
