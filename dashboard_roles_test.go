package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"latchkey/dashboard"
)

// roleCrawl opens the pages of the dashboard as an operator with one role.
type roleCrawl struct {
	*browser
	role     Grant
	needs    map[string]string // for each page, by its pattern
	mux      *http.ServeMux    // finds the pattern of an address
	seen     map[string]bool   // patterns of the pages that were opened, and of the forms on them
	ids      map[string]string // ids of records with each kind of content, by the pattern of their page
	disabled string            // id of an operator who is disabled
}

// newRoleCrawl returns a crawl of a store in which each form is on some page: it has a record of
// each kind, a failed delivery, a key that was rotated, and webhooks that are held back.
func newRoleCrawl(t *testing.T) roleCrawl {
	v := newReceiver(t, 503, 503, 503, 503, 503, 503)
	a := newHookApp(t)
	keys, _ := fillBusiness(a)
	hook, _ := a.hook(v.URL, "", OperatorEventTypes()...)
	a.raise(WebhookEvent{Type: "call.queued", Operator: true}, 1)
	a.operate(200, "PATCH", "/admin/v1/webhooks/1", `{"is_active": false}`)
	for range 6 {
		a.send()
		a.clocks.Pass(7 * time.Hour)
	}
	if err := a.Store.Update(func(tx *Tx) error { return HoldWebhooks(tx, a.clock.Now()) }); err != nil {
		t.Fatal(err)
	}
	a.backups.o.Dir = t.TempDir()
	if err := a.backups.Due(a.clock.Now()); err != nil {
		t.Fatal(err)
	}
	a.accounts.provider = newIdentityProvider(ProviderOptions{Issuer: "https://id.example.com", Button: "Log in at work"})
	a.joinMade(newMadeCluster()) // so that there is a node to remove
	b := newBrowser(a)
	if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
		t.Fatalf("log in: got %d %s", w.Code, w.Body)
	}
	if w := newBrowser(a).post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 { // another session of the same operator
		t.Fatalf("log in: got %d %s", w.Code, w.Body)
	}
	d, err := dashboard.New(dashboard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = a.Store.Update(func(tx *Tx) error { // a second factor of ann, and one of the operator that is disabled below
		_, err1 := addFactor(tx, factor{Operator: 1, Kind: factorTOTP})
		_, err2 := addFactor(tx, factor{Operator: 2, Kind: factorTOTP})
		address, _ := a.accounts.PasskeyURL()
		here, err3 := url.Parse(address)
		for i := range 2 { // so that ann could remove the password
			_, err := addFactor(tx, factor{Operator: 1, Kind: factorPasskey, CredentialID: []byte{byte(i)}, Credential: fmt.Appendf(nil, `{"host": %q}`, here.Hostname())})
			err3 = errors.Join(err3, err)
		}
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		t.Fatal(err)
	}
	disabled := fmt.Sprint(a.operate(201, "POST", "/admin/v1/operators", `{"name": "Disabled", "password": "`+operatorPassword+`"}`)["id"])
	a.operate(200, "PATCH", "/admin/v1/operators/"+disabled, `{"disabled": true}`)
	refused := a.operate(201, "POST", "/admin/v1/keys", `{"name": "refused", "permissions": ["can_read_calls"]}`)["key"].(string)
	if w := a.ask("GET", "/api/v1/agents", refused, ""); w.Code != 403 {
		t.Fatalf("got %d, want 403", w.Code)
	}
	if err := a.notices.Flush(); err != nil { // otherwise the background work stores these events at some time of the test
		t.Fatal(err)
	}
	request := a.operate(200, "GET", "/admin/v1/requests?code=permission_denied", "")["requests"].([]any)[0].(map[string]any)["request_id"].(string)
	c := roleCrawl{disabled: disabled, browser: b, needs: d.Needs(), mux: http.NewServeMux(), ids: map[string]string{"/reference/": "listCalls", "/docs/": "limits", "/cluster/": "c", "/requests/": request, "/keys/": keys["crm"], "/backups/": backupName(a.clock.Now()), "/webhooks/": fmt.Sprint(hook), "/variables/": keys["opening_hours"]}}
	for pattern := range c.needs {
		c.mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	return c
}

// as lets the operator who has logged in have role.
func (c roleCrawl) as(role Grant) roleCrawl {
	c.change(func(op *operator, _ *loginSession) { // linked, so that the pages of single sign-on are there
		op.Role, op.Issuer, op.Subject = role.Name, "https://id.example.com", "1"
	})
	c.role, c.seen = role, map[string]bool{}
	return c
}

// pattern returns the pattern of the page at an address, or "" if it is not a page.
func (c roleCrawl) pattern(method, address string) string {
	_, pattern := c.mux.Handler(httptest.NewRequest(method, address, nil))
	return pattern
}

// may reports whether the role may use the page with a pattern.
func (c roleCrawl) may(pattern string) bool {
	return c.needs[pattern] == "any role" || c.role.Rights.May(c.needs[pattern])
}

// address returns an address of a page, of a record that exists.
func (c roleCrawl) address(pattern string) string {
	_, path, _ := strings.Cut(pattern, " ")
	id := "1"
	for prefix, other := range c.ids {
		if strings.HasPrefix(path, prefix) {
			id = other
		}
	}
	return strings.NewReplacer("{id}", id, "{verb}", "resume", "{entry}", "1", "{$}", "").Replace(path)
}

// open opens a page and wants that each of its links and forms leads to what the role may use.
func (c roleCrawl) open(address string) {
	c.t.Helper()
	w := c.get(address)
	if w.Code != 200 {
		c.t.Errorf("%s: %s: got %d, want 200", c.role.Name, address, w.Code)
		return
	}
	if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		return
	}
	root, err := html.Parse(w.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	for n := range root.Descendants() {
		at := attributes(n)
		if n.Type == html.ElementNode && n.Data == "a" {
			c.follow(address, "GET", at["href"])
		}
		if n.Type == html.ElementNode && n.Data == "form" {
			c.follow(address, strings.ToUpper(at["method"]), at["action"])
		}
		if n.Type == html.ElementNode && n.Data == "button" && at["formaction"] != "" {
			c.follow(address, strings.ToUpper(cmp.Or(at["formmethod"], "post")), at["formaction"])
		}
	}
}

// follow checks a link or form on the page at address, and opens the page that a link leads to if no
// other link has led to its kind of page yet.
func (c roleCrawl) follow(from, method, to string) {
	c.t.Helper()
	u, err := url.Parse(to)
	if err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		return
	}
	pattern := c.pattern(method, to)
	switch {
	case pattern == "" && method == "GET":
		if w := c.get(to); w.Code == 401 || w.Code == 403 {
			c.t.Errorf("%s: %s has a link to %s, which answers %d", c.role.Name, from, to, w.Code)
		}
		return
	case pattern == "" || !c.may(pattern):
		c.t.Errorf("%s: %s has a link or form to %s %s, which the role may not use", c.role.Name, from, method, to)
		return
	}
	if !c.seen[pattern] {
		c.seen[pattern] = true
		if method == "GET" {
			c.open(to)
		}
	}
}

// scripted are the pages that answer a script, or to which another page redirects. No link leads to them.
var scripted = []string{"GET /keys/rows", "GET /keys/{id}/used", "GET /confirm"}

// An operator sees each page that the role allows, without a link or form that is refused, and with
// those for all that it allows. Every other page answers 403.
func TestRoles_Pages(t *testing.T) {
	crawl := newRoleCrawl(t)
	for _, role := range Roles() {
		c := crawl.as(role)
		for pattern := range c.needs {
			if !strings.HasPrefix(pattern, "GET ") {
				continue
			}
			if c.may(pattern) {
				c.open(c.address(pattern))
			} else if w := c.get(c.address(pattern)); w.Code != 403 || !strings.Contains(w.Body.String(), "Your role is "+plainRole(role.Name)+".") {
				t.Errorf("%s: %s: got %d %s, want 403 that names the role", role.Name, pattern, w.Code, w.Body)
			}
		}
		c.open("/webhooks/1") // it is paused
		c.open("/operators/" + c.disabled)
		for _, id := range []string{"booking site", "old import"} { // an active and a paused key
			c.open("/keys/" + c.operate(200, "GET", "/admin/v1/keys?search="+url.QueryEscape(id), "")["keys"].([]any)[0].(map[string]any)["id"].(string))
		}
		c.post("/space", "space", "sandbox", "next", "/owners")
		c.open("/owners/1")
		c.post("/space", "space", "live", "next", "/owners")
		for pattern := range c.needs {
			if want := c.may(pattern) && !slices.Contains(scripted, pattern); c.seen[pattern] != want {
				t.Errorf("%s: a link or form for %s: got %v, want %v", role.Name, pattern, c.seen[pattern], want)
			}
		}
		head := c.get("/account").Body.String()
		if shown := strings.Contains(head, "<span><bdi>Ann</bdi> <small>"+plainRole(role.Name)+"</small></span>"); shown != (role.Name != RoleAdmin) {
			t.Errorf("%s: the role in the header: got %v", role.Name, shown)
		}
	}
}

// stored returns the records that the forms of the dashboard change.
func (a *testApp) stored() (text string) {
	for _, kind := range []string{"keys", "owners", "webhooks", "calls", "agents", "contacts", "events", "schedules", "variables", "do-not-call", "teams"} {
		text += a.control("GET", "/admin/v1/"+kind+"?limit=1000", "").Body.String() + "\n"
	}
	return waitingEvents.ReplaceAllString(text, "")
}

// waitingEvents are numbers that change meanwhile: notices about keys and limits are stored in the background.
var waitingEvents = regexp.MustCompile(`"waiting(_bytes)?":\d+,?`)

// A form that the role does not allow answers 403 and changes nothing. The endpoint would refuse it
// too: a page that the role allows calls no endpoint that refuses the role.
func TestRoles_Forms(t *testing.T) {
	crawl := newRoleCrawl(t)
	for _, role := range Roles()[:2] {
		c := crawl.as(role)
		refused := func() (n int) {
			if err := c.Store.Update(func(*Tx) error { return nil }); err != nil { // the entries before it are stored
				t.Fatal(err)
			}
			for _, entry := range c.operate(200, "GET", "/admin/v1/audit?result=refused&limit=1000", "")["entries"].([]any) {
				if entry.(map[string]any)["code"] == ErrPermission.Code {
					n++
				}
			}
			return n
		}
		before := c.stored()
		for pattern := range c.needs {
			if !strings.HasPrefix(pattern, "POST ") || c.may(pattern) {
				continue
			}
			if w := c.post(c.address(pattern), "name", "new"); w.Code != 403 || !strings.Contains(w.Body.String(), "Your role is "+plainRole(role.Name)+". This needs the role ") {
				t.Errorf("%s: %s: got %d %s, want 403", role.Name, pattern, w.Code, w.Body)
			}
		}
		if after := c.stored(); after != before {
			t.Errorf("%s: a refused form has changed something: got\n%s\nwant\n%s", role.Name, after, before)
		}
		c.clocks.Pass(2 * time.Minute) // the log has room for all refusals again
		known := refused()
		if known == 0 {
			t.Errorf("%s: the audit log has no refused form", role.Name)
		}
		for pattern := range c.needs {
			if strings.HasPrefix(pattern, "GET ") && c.may(pattern) {
				c.get(c.address(pattern))
			} else if c.may(pattern) && c.needs[pattern] != "any role" {
				if w := c.post(c.address(pattern), "overlap", "0"); w.Code == 403 {
					t.Errorf("%s: %s: got %s", role.Name, pattern, w.Body)
				}
			}
		}
		if now := refused(); now != known {
			t.Errorf("%s: %d requests of allowed pages were refused by the endpoint", role.Name, now-known)
		}
	}
}

// The pages name only endpoints that exist, so that a typing error hides nothing.
func TestRoles_PageEndpoints(t *testing.T) {
	d, err := dashboard.New(dashboard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for pattern, needs := range d.Needs() {
		if _, ok := endpointRules[needs]; !ok && needs != "any role" {
			t.Errorf("the page %s needs %q, which is no endpoint", pattern, needs)
		}
	}
	files, err := filepath.Glob("dashboard/*.*")
	if err != nil {
		t.Fatal(err)
	}
	names, asked := regexp.MustCompile(`[mM]ay\(? ?"([^"]+)"`), 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range names.FindAllStringSubmatch(string(data), -1) {
			asked++
			if _, ok := endpointRules[found[1]]; !ok {
				t.Errorf("%s asks for %q, which is no endpoint", file, found[1])
			}
		}
	}
	if asked < 20 {
		t.Errorf("found %d questions of pages, want more", asked)
	}
}

// setRoleOf changes the role of the operator with a name.
func (a *testApp) setRoleOf(name, role string) {
	a.t.Helper()
	for _, row := range a.operate(200, "GET", "/admin/v1/operators", "")["operators"].([]any) {
		if op := row.(map[string]any); strings.EqualFold(op["name"].(string), name) {
			a.setRole(int(op["id"].(float64)), role)
			return
		}
	}
	a.t.Fatalf("there is no operator %q", name)
}
