package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"latchkey/cli"
)

// TestSignOn_Journey is the life of an operator who logs in by single sign-on: created, with another
// role, renamed at the provider, disabled.
func TestSignOn_Journey(t *testing.T) {
	b, p := newSignOn(t)
	if page := b.get("/login?next=/audit").Body.String(); !strings.Contains(page, `href="/login/oidc?next=%2faudit">Log in with single sign-on</a>`) {
		t.Errorf("got %s, want the button", page)
	}
	p.person("sub-1", "preferred_username", "bea", "groups", []string{"x", "keys", "support"})
	if w := b.signOn(p); w.Code != 303 || w.Header().Get("Location") != "/audit" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/keys"); w.Code != 200 || !strings.Contains(w.Body.String(), "bea") {
		t.Errorf("got %d, want the session of bea", w.Code)
	}
	op := b.operatorNamed("bea")
	if op["role"] != "key_manager" || op["status"] != "active" || op["issuer"] != p.URL || op["subject"] != "sub-1" || op["passwordless"] != true || op["password_changed_at"] != nil {
		t.Errorf("got %v", op)
	}

	p.person("sub-1", "preferred_username", "beatrix", "groups", "platform") // another name at the provider changes nothing
	b.signOn(p)
	if op := b.operatorNamed("bea"); op["role"] != "admin" {
		t.Errorf("got %v, want the role admin", op)
	}
	text := b.control("GET", "/admin/v1/audit?action="+url.QueryEscape("log in by single sign-on"), "").Body.String()
	if !strings.Contains(text, `"after":{"role":"admin"}`) || !strings.Contains(text, `"actor":"operator 2 bea"`) {
		t.Errorf("got %s, want the change of the role", text)
	}

	b.prove()
	made := b.post("/tokens", "name", "deploy", "scope", "all", "expiry", "30d")
	if made.Code >= 400 {
		t.Fatalf("create a token: got %d %s", made.Code, made.Body)
	}
	p.person("sub-1", "groups", "support")
	b.signOn(p)
	if op := b.operatorNamed("bea"); op["role"] != "viewer" {
		t.Errorf("got %v, want the role viewer", op)
	}
	for _, token := range b.operate(200, "GET", "/admin/v1/tokens", "")["tokens"].([]any) {
		if token := token.(map[string]any); token["name"] == "deploy" && token["status"] == "active" {
			t.Errorf("got %v, want the token ended with the role", token)
		}
	}
	if w := b.get("/tokens/new"); w.Code != 403 {
		t.Errorf("got %d for a viewer", w.Code)
	}

	p.person("sub-1", "groups", "other")
	b.post("/logout")
	b.wantRefused(b.signOn(p), 403, `none of the 1 values of the claim "groups" is in roles`)
	p.person("sub-1", "groups", "support")
	b.operate(200, "PATCH", "/admin/v1/operators/2", `{"disabled": true}`)
	p.person("sub-1", "groups", "platform")
	b.wantRefused(b.signOn(p), 403, "operator 2 is disabled")
	if op := b.operatorNamed("bea"); op["role"] != "viewer" {
		t.Errorf("got %v, want nothing changed by the refused login", op)
	}
	p.person("sub-1", "groups", "support")
	b.operate(200, "PATCH", "/admin/v1/operators/2", `{"disabled": false}`)
	if w := b.signOn(p); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// Who may log in, by the mail address, the groups and the name.
func TestSignOn_Admission(t *testing.T) {
	domains := func(c *Config) { c.Admin.OIDC.AllowedDomains = []string{"example.com"} }
	nested := func(c *Config) { c.Admin.OIDC.RoleClaim = "realm_access.roles" }
	viewers := func(c *Config) { c.Admin.OIDC.DefaultRole = "viewer" }
	for _, tt := range []struct {
		name   string
		change func(*Config)
		claims []any
		role   string // "": refused
		reason string
	}{
		{"no claim", nil, nil, "", `sent no claim "groups"`},
		{"no claim, with a default", viewers, nil, "viewer", ""},
		{"a claim and a default", viewers, []any{"groups", "keys"}, "key_manager", ""},
		{"a number", nil, []any{"groups", 7}, "", `sent no claim "groups"`},
		{"a list with other things", nil, []any{"groups", []any{7, "support", nil}}, "viewer", ""},
		{"two roles", nil, []any{"groups", []string{"support", "platform", "keys"}}, "admin", ""},
		{"other letters", nil, []any{"groups", "Platform"}, "", "none of the 1 values"},
		{"nested", nested, []any{"realm_access", map[string]any{"roles": []string{"keys"}}}, "key_manager", ""},
		{"nested, but flat", nested, []any{"realm_access.roles", "keys"}, "key_manager", ""},
		{"nested in nothing", nested, []any{"realm_access", "keys"}, "", "sent no claim"},
		{"a good domain", domains, []any{"groups", "keys", "email", "bea@Example.com", "email_verified", true}, "key_manager", ""},
		{"verified as a text", domains, []any{"groups", "keys", "email", "bea@example.com", "email_verified", "true"}, "key_manager", ""},
		{"not verified", domains, []any{"groups", "keys", "email", "bea@example.com", "email_verified", false}, "", "email_verified"},
		{"not said whether verified", domains, []any{"groups", "keys", "email", "bea@example.com"}, "", "email_verified"},
		{"no address", domains, []any{"groups", "keys"}, "", "sent no email"},
		{"another domain", domains, []any{"groups", "keys", "email", "bea@evil.example", "email_verified", true}, "", `"evil.example" of the mail address`},
		{"a domain below", domains, []any{"groups", "keys", "email", "bea@sub.example.com", "email_verified", true}, "", "of the mail address"},
		{"two signs", domains, []any{"groups", "keys", "email", "bea@evil.example@example.com", "email_verified", true}, "", "of the mail address"},
		{"another domain with a default", func(c *Config) { domains(c); viewers(c) }, []any{"email", "bea@evil.example", "email_verified", true}, "", "of the mail address"},
		{"no name", nil, []any{"groups", "keys", "preferred_username", ""}, "", "no name for a new operator"},
		{"a name from the address", nil, []any{"groups", "keys", "preferred_username", "", "email", "bea"}, "key_manager", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, p := newSignOn(t, func(c *Config) {
				if tt.change != nil {
					tt.change(c)
				}
			})
			p.person("bea", tt.claims...)
			w := b.signOn(p)
			if tt.role == "" {
				b.wantRefused(w, 403, tt.reason)
				return
			}
			if w.Code != 303 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			if op := b.operatorNamed("bea"); op["role"] != tt.role {
				t.Errorf("got %v, want the role %s", op, tt.role)
			}
		})
	}
}

// What the id token lacks is read from userinfo, and the mail address is from one source as a whole.
func TestSignOn_UserInfo(t *testing.T) {
	b, p := newSignOn(t, func(c *Config) { c.Admin.OIDC.AllowedDomains = []string{"example.com"} })
	for i, tt := range []struct {
		token, userinfo map[string]any
		want            int
	}{
		{map[string]any{}, map[string]any{"groups": "keys", "email": "a@example.com", "email_verified": true}, 303},
		{map[string]any{"groups": "keys"}, map[string]any{"email": "a@example.com", "email_verified": true}, 303},
		{map[string]any{"email": "a@example.com", "email_verified": false}, map[string]any{"groups": "keys", "email": "a@example.com", "email_verified": true}, 403},
		{map[string]any{"email_verified": true}, map[string]any{"groups": "keys", "email": "a@example.com"}, 403},
		{map[string]any{"groups": "other", "email": "a@example.com", "email_verified": true}, map[string]any{"groups": "platform"}, 403},
	} {
		sub := fmt.Sprint("sub", i)
		p.person(sub)
		for name, value := range tt.token {
			p.claims[name] = value
		}
		tt.userinfo["sub"] = sub
		p.lie(lies{userinfo: tt.userinfo})
		b.clocks.Pass(2 * time.Hour) // metadata is read again
		if w := newBrowser(b.testApp).signOn(p); w.Code != tt.want {
			t.Errorf("%v and %v: got %d %s, want %d", tt.token, tt.userinfo, w.Code, w.Body, tt.want)
		}
	}
}

// An operator with the same name is not taken over, unless it has been linked in a session.
func TestSignOn_Link(t *testing.T) {
	b, p := newSignOn(t)
	p.person("sub-ann", "preferred_username", "ANN", "groups", "platform")
	w := b.signOn(p)
	b.wantRefused(w, 403, "already exists and is not linked")
	if !strings.Contains(w.Body.String(), "An operator named") {
		t.Errorf("got %s, want the reason on the page", w.Body)
	}
	b.post("/login", "name", "ann", "password", operatorPassword)
	if w := b.post("/account/link"); w.Code != 403 || !strings.Contains(w.Body.String(), "confirm.password") {
		t.Fatalf("got %d %s, want to be asked for the password", w.Code, w.Body)
	}
	w = b.post("/account/link", "confirm.password", operatorPassword)
	address := refreshOf(w)
	if w.Code != 200 || address == "" {
		t.Fatalf("got %d %s, want to be led to the provider", w.Code, w.Body)
	}
	q := p.login(address)
	stranger := newBrowser(b.testApp) // has the answer, and not the session
	stranger.jar.SetCookies(b.request("GET", "/").URL, b.jar.Cookies(b.request("GET", "/").URL))
	for _, c := range stranger.jar.Cookies(b.request("GET", "/").URL) {
		if strings.HasPrefix(c.Name, "latchkey_session") {
			stranger.jar.SetCookies(b.request("GET", "/").URL, []*http.Cookie{{Name: c.Name, MaxAge: -1, Path: "/"}})
		}
	}
	stranger.wantRefused(stranger.bring(q), 400, "the session has ended in which this began")
	if w := b.bring(q); w.Code != 303 || w.Header().Get("Location") != "/account?done=linked" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if page := b.get("/account").Body.String(); !strings.Contains(page, "This account is linked") {
		t.Errorf("got %s", page)
	}
	fresh := newBrowser(b.testApp)
	if w := fresh.signOn(p); w.Code != 303 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if n := b.operate(200, "GET", "/admin/v1/operators", "")["count"]; n != 1.0 {
		t.Errorf("got %v operators, want the one who was linked", n)
	}
	if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
		t.Errorf("the password: got %d", w.Code)
	}

	// A login is linked to one operator.
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "Cid", "password": "`+operatorPassword+`"}`)
	cid := newBrowser(b.testApp)
	cid.post("/login", "name", "cid", "password", operatorPassword)
	w = cid.post("/account/link", "confirm.password", operatorPassword)
	if w := cid.bring(p.login(refreshOf(w))); w.Code != 403 || !strings.Contains(w.Body.String(), "linked to another operator already (Ann)") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	// The only admin keeps the role, and so does not log in with another.
	b.operate(200, "DELETE", "/admin/v1/operators/2", "")
	p.person("sub-ann", "groups", "support")
	fresh.post("/logout")
	fresh.wantRefused(fresh.signOn(p), 403, "no other operator is an admin")
}

// refreshOf returns where a page leads at once.
func refreshOf(w *httptest.ResponseRecorder) string {
	_, address, _ := strings.Cut(w.Header().Get("Refresh"), "url=")
	return address
}

// An operator without a password confirms an action by a new login at the provider.
func TestSignOn_Confirm(t *testing.T) {
	b, p := newSignOn(t)
	p.person("bea", "groups", "platform")
	b.signOn(p)
	form := []string{"name", "cid", "role", "viewer"}
	asked := b.post("/operators", form...)
	page := asked.Body.String()
	if asked.Code != 403 || strings.Contains(page, "confirm.password") || !strings.Contains(page, `action="/confirm/oidc" target="_blank"`) || !strings.Contains(page, `name="name" value="cid"`) {
		t.Fatalf("got %d %s, want to be asked, with the fields carried", asked.Code, page)
	}
	confirm := func(next string) url.Values {
		w := b.post("/confirm/oidc", "next", next)
		address := refreshOf(w)
		if w.Code != 200 || !strings.Contains(address, "prompt=login") || !strings.Contains(address, "max_age=0") {
			t.Fatalf("got %d %s %s", w.Code, address, w.Body)
		}
		return p.login(address)
	}
	for name, lie := range map[string]func(c map[string]any){
		"an old login":         func(c map[string]any) { c["auth_time"] = c["iat"].(int64) - 61 },
		"no time of login":     func(c map[string]any) { delete(c, "auth_time") },
		"somebody else":        func(c map[string]any) { c["sub"] = "eve" },
		"the time is a text":   func(c map[string]any) { c["auth_time"] = "now" },
		"the nonce is another": func(c map[string]any) { c["nonce"] = "x" },
	} {
		p.lie(lies{claims: lie})
		if w := b.bring(confirm("/login/done")); w.Code != 403 {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
		if w := b.post("/operators", form...); w.Code != 403 {
			t.Errorf("%s: got %d, want the action still unconfirmed", name, w.Code)
		}
	}
	p.lie(lies{})
	if w := b.bring(confirm("/login/done")); w.Code != 303 || w.Header().Get("Location") != "/login/done" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/login/done"); w.Code != 200 {
		t.Errorf("got %d", w.Code)
	}
	if w := b.post("/operators", form...); w.Code >= 400 {
		t.Errorf("go on: got %d %s", w.Code, w.Body)
	}
	b.operatorNamed("cid")

	b.clocks.Pass(11 * time.Minute) // a link is confirmed on its page, and then followed
	if page := b.get("/confirm?next=/admin/v1/backup").Body.String(); !strings.Contains(page, `action="/confirm/oidc"`) || strings.Contains(page, "confirm.password") {
		t.Errorf("got %s", page)
	}
	if w := b.bring(confirm("/admin/v1/backup")); w.Code != 303 || w.Header().Get("Location") != "/admin/v1/backup" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/admin/v1/backup"); w.Code != 200 {
		t.Errorf("got %d", w.Code)
	}
}

// A form is not lost when the session has ended.
func TestSignOn_Carried(t *testing.T) {
	b, p := newSignOn(t, func(c *Config) { c.Admin.PasswordLogin = false })
	p.person("bea", "groups", "platform")
	b.signOn(p)
	b.clocks.Pass(13 * time.Hour)
	page := b.post("/agents", "name", "Desk").Body.String()
	if !strings.Contains(page, `href="/login/oidc?next=/login/done" target="_blank"`) || !strings.Contains(page, `name="name" value="Desk"`) || strings.Contains(page, `type="password"`) {
		t.Fatalf("got %s", page)
	}
	w := b.get("/login/oidc?next=/login/done")
	if w := b.bring(p.login(w.Header().Get("Location"))); w.Header().Get("Location") != "/login/done" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := b.post("/agents", "name", "Desk"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// A login by single sign-on ends at the provider too, one with a password does not.
func TestSignOn_Logout(t *testing.T) {
	b, p := newSignOn(t)
	p.person("bea", "groups", "platform")
	for _, path := range []string{"/logout", "/logout-everywhere"} {
		b.signOn(p)
		w := b.post(path)
		want := p.URL + "/logout?client_id=latchkey&post_logout_redirect_uri=http%3A%2F%2F127.0.0.1%3A8081%2Flogin"
		if got := refreshOf(w); w.Code != 200 || got != want {
			t.Errorf("%s: got %d %s, want %s", path, w.Code, got, want)
		}
		if w := b.get("/keys"); w.Code != 303 {
			t.Errorf("%s: got %d, want no session", path, w.Code)
		}
	}
	b.post("/login", "name", "ann", "password", operatorPassword)
	if w := b.post("/logout"); w.Code != 303 || w.Header().Get("Location") != "/login" {
		t.Errorf("got %d, want the login page", w.Code)
	}
	p.lie(lies{metadata: func(m map[string]any) { delete(m, "end_session_endpoint") }})
	b.clocks.Pass(time.Hour)
	b.signOn(p)
	if w := b.post("/logout"); w.Code != 303 {
		t.Errorf("without an endpoint: got %d", w.Code)
	}
}

// admin.password_login = false ends every use of a password, and not the control socket.
func TestSignOn_PasswordsOff(t *testing.T) {
	b, p := newSignOn(t)
	b.post("/login", "name", "ann", "password", operatorPassword)
	invited := b.invite("Ida", "viewer")
	b.config.Admin.PasswordLogin = false
	b.restart()
	p.clock = b.clock
	b.door = newBrowser(b.testApp).door
	stranger := newBrowser(b.testApp)
	if page := stranger.get("/login").Body.String(); strings.Contains(page, `type="password"`) || !strings.Contains(page, "admin.password_login = true") {
		t.Errorf("got %s", page)
	}
	if w := stranger.post("/login", "name", "ann", "password", operatorPassword); w.Code != 403 || !strings.Contains(w.Body.String(), "accepts no passwords") {
		t.Errorf("log in: got %d %s", w.Code, w.Body)
	}
	if w := stranger.post("/join", "token", invited, "password", "a long password"); w.Code != 403 || !strings.Contains(w.Body.String(), "accepts no passwords") {
		t.Errorf("join: got %d %s", w.Code, w.Body)
	}
	if page := stranger.get("/join?token=" + invited).Body.String(); !strings.Contains(page, "accepts no passwords") {
		t.Errorf("got %s", page)
	}
	if w := b.get("/keys"); w.Code != 200 {
		t.Errorf("the session from before: got %d", w.Code)
	}
	if w := b.post("/account/link", "confirm.password", operatorPassword); w.Code != 403 {
		t.Errorf("confirm: got %d %s", w.Code, w.Body)
	}
	if w := b.post("/account", "old", operatorPassword, "password", "another long password"); w.Code != 403 {
		t.Errorf("change the password: got %d %s", w.Code, w.Body)
	}
	if made := b.operate(201, "POST", "/admin/v1/operators", `{"name": "Cid", "password": "a long password"}`); !strings.Contains(fmt.Sprint(made["warning"]), "admin.password_login = true") {
		t.Errorf("got %v, want to be told how to use the password", made)
	}
	if made := b.operate(200, "POST", "/admin/v1/operators/1/password", `{"password": "a long password"}`); !strings.Contains(fmt.Sprint(made["message"]), "admin.password_login = true") {
		t.Errorf("got %v, want to be told how to use the password", made)
	}
	p.person("bea", "groups", "platform")
	if w := stranger.signOn(p); w.Code != 303 {
		t.Errorf("single sign-on: got %d %s", w.Code, w.Body)
	}
	for _, op := range b.operate(200, "GET", "/admin/v1/operators", "")["operators"].([]any) { // the set-up link
		b.operate(200, "DELETE", "/admin/v1/operators/"+fmt.Sprint(op.(map[string]any)["id"]), "")
	}
	link := b.operate(201, "POST", "/admin/v1/setup-link", "")["path"].(string)
	_, token, _ := strings.Cut(link, "token=")
	if w := stranger.post("/setup", "token", token, "name", "Eve", "password", "a long password"); w.Code != 403 {
		t.Errorf("set up: got %d %s", w.Code, w.Body)
	}
}

// admin.password_login = false is refused until an admin has logged in another way, whether a server
// runs or not.
func TestSignOn_WayIn(t *testing.T) {
	b, p := newSignOn(t)
	check := func(when string, want bool) {
		t.Helper()
		c := b.config
		c.Admin.PasswordLogin = false
		s := service{config: c, sources: Sources{"admin.password_login": "file x"}}
		socket, err := net.Listen("unix", b.folder.Socket())
		if err != nil {
			t.Fatal(err)
		}
		running := &http.Server{Handler: b.local}
		go func() { _ = running.Serve(socket) }()
		if got, err := s.wayIn(); got != want || err != nil {
			t.Errorf("%s, a server is running: got %v, %v", when, got, err)
		}
		_ = running.Close()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = s.Check()
		if got := err == nil; got != want || err != nil && !strings.Contains(err.Error(), "file x: admin.password_login: false would lock everybody out") {
			t.Errorf("%s: got %v, want it allowed: %v", when, err, want)
		}
		b.start()
		p.clock, b.door = b.clock, newBrowser(b.testApp).door
	}
	check("before any login", false)
	p.person("bea", "groups", "keys")
	b.signOn(p)
	check("after a login without the role admin", false)
	p.person("bea", "groups", "platform")
	b.signOn(p)
	check("after a login of an admin", true)
	b.config.Admin.OIDC.Issuer = "https://other.example"
	check("with another provider", false)
	b.config.Admin.OIDC.Issuer = p.URL
	b.operate(200, "PATCH", "/admin/v1/operators/2", `{"disabled": true}`)
	check("when that admin is disabled", false)
}

// config check says what to enter at the provider.
func TestSignOn_Notes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "latchkey.toml")
	text := "[admin]\nbase_url = \"https://keys.example.com\"\n[admin.oidc]\nissuer = \"https://id.example.com\"\nclient_id = \"latchkey\"\nclient_secret = \"hunter2\"\nroles = {a = \"admin\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "check"}, {"config", "check", "--json"}, {"config", "print"}} {
		var out bytes.Buffer
		env := environment(nil, nil)
		env.Stdout, env.Stderr = &out, &out
		exit := cli.Run(t.Context(), append([]string{"latchkey", "--config", file, "--data", filepath.Join(t.TempDir(), "data")}, args...), env)
		if exit != 0 || args[1] == "check" && !strings.Contains(out.String(), "enter https://keys.example.com/login/oidc/callback as the redirect address") {
			t.Errorf("%s: got %d %s", args, exit, &out)
		}
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("%s: got %s, want no secret", args, &out)
		}
	}
}

// zitadelProvider is the OpenID provider of the module zitadel/oidc, with its example store.
type zitadelProvider struct {
	*storage.Storage
	user   string
	groups []string
}

// GetClientByClientID adds to the client the address after a logout.
func (z *zitadelProvider) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	client, err := z.Storage.GetClientByClientID(ctx, id)
	return zitadelClient{client}, err
}

type zitadelClient struct{ op.Client }

// PostLogoutRedirectURIs returns the login page.
func (zitadelClient) PostLogoutRedirectURIs() []string {
	return []string{"http://127.0.0.1:8081/login"}
}

// SetUserinfoFromToken adds the groups.
func (z *zitadelProvider) SetUserinfoFromToken(ctx context.Context, info *zoidc.UserInfo, tokenID, subject, origin string) error {
	info.AppendClaims("groups", z.groups)
	return z.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin)
}

// newZitadel starts the provider on loopback. Its login page logs z.user in at once.
func newZitadel(t *testing.T) (z *zitadelProvider, issuer string) {
	server := httptest.NewUnstartedServer(nil)
	issuer = "http://" + server.Listener.Addr().String()
	clients := map[string]*storage.Client{"latchkey": storage.WebClient("latchkey", "hunter2", "http://127.0.0.1:8081/login/oidc/callback")}
	z = &zitadelProvider{Storage: storage.NewStorageWithClients(storage.NewUserStore(issuer), clients)}
	provider, err := op.NewProvider(&op.Config{CryptoKey: [32]byte{1}, CryptoKeyId: "k", CodeMethodS256: true, AuthMethodPost: true}, z, op.StaticIssuer(issuer), op.WithAllowInsecure())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/login/username", op.NewIssuerInterceptor(provider.IssuerFromRequest).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("authRequestID")
		if err := z.CheckUsernamePassword(z.user, "verysecure", id); err != nil {
			t.Error(err)
		}
		http.Redirect(w, r, op.AuthCallbackURL(provider)(r.Context(), id), http.StatusFound)
	}))
	mux.Handle("/", provider)
	server.Config.Handler = mux
	server.Start()
	t.Cleanup(server.Close)
	return z, issuer
}

// TestSignOn_Zitadel goes through the whole journey with a provider that others have written.
func TestSignOn_Zitadel(t *testing.T) {
	z, issuer := newZitadel(t)
	b, _ := newSignOn(t, func(c *Config) {
		c.Admin.OIDC.Issuer = issuer
		c.Admin.OIDC.AllowedDomains = []string{"zitadel.ch"}
	})
	b.clocks.Pass(time.Since(epoch)) // the provider goes by the wall clock
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == "127.0.0.1:8081" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	visit := func(address string) *httptest.ResponseRecorder {
		t.Helper()
		answer, err := client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		back, err := answer.Location()
		if err != nil {
			t.Fatalf("got %d of %s, want to be sent back", answer.StatusCode, answer.Request.URL)
		}
		return b.get(back.RequestURI())
	}
	login := func(user string, groups ...string) *httptest.ResponseRecorder {
		t.Helper()
		z.user, z.groups = user, groups
		return visit(b.beginSignOn())
	}
	if w := login("test-user2", "platform"); w.Code != 303 {
		t.Fatalf("got %d %s %s", w.Code, w.Body, b.log.String())
	}
	if op := b.operatorNamed("test-user2"); op["role"] != "admin" || op["subject"] != "id2" {
		t.Errorf("got %v", op)
	}
	if w := visit(refreshOf(b.post("/confirm/oidc", "next", "/admin/v1/backup"))); w.Code != 303 || w.Header().Get("Location") != "/admin/v1/backup" {
		t.Errorf("confirm: got %d %s %s", w.Code, w.Body, b.log.String())
	}
	if w := b.get("/admin/v1/backup"); w.Code != 200 {
		t.Errorf("after the confirmation: got %d", w.Code)
	}
	if w := visit(refreshOf(b.post("/logout"))); w.Code != 200 || !strings.Contains(w.Body.String(), "Log in with single sign-on") {
		t.Errorf("log out: got %d, want the login page: %s", w.Code, w.Body)
	}
	if w := login("test-user2", "support"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if op := b.operatorNamed("test-user2"); op["role"] != "viewer" {
		t.Errorf("got %v", op)
	}
	b.post("/logout")
	b.operate(200, "PATCH", "/admin/v1/operators/2", `{"disabled": true}`)
	b.wantRefused(login("test-user2", "support"), 403, "disabled")
	b.wantRefused(login("test-user@127.0.0.1", "other"), 403, "is in roles")
}
