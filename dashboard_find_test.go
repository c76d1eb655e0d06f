package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"golang.org/x/net/html"

	"latchkey/internal/keytext"
)

// linksOf returns the links of a page by their texts.
func linksOf(t *testing.T, page string) map[string]string {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode || n.Data != "a" {
			continue
		}
		text := ""
		for inner := range n.Descendants() {
			if inner.Type == html.TextNode {
				text += inner.Data
			}
		}
		links[strings.TrimSpace(text)] = attributes(n)["href"]
	}
	return links
}

// TestFind searches for things of each kind, as each role.
func TestFind(t *testing.T) {
	crawl := newRoleCrawl(t)
	key := crawl.operate(200, "GET", "/admin/v1/keys?search=booking", "")["keys"].([]any)[0].(map[string]any)["id"].(string)
	request := crawl.ids["/requests/"]
	for _, role := range Roles() {
		c := crawl.as(role)
		for _, tt := range []struct{ query, label, to, needs string }{
			{"booking", "booking site", "/keys/" + key, ""}, {key, "booking site", "/keys/" + key, ""},
			{"booking", "Revoke booking site", "/keys/" + key + "/revoke", "POST /admin/v1/keys/:id/revoke"},
			{"revoke book", "Revoke booking site", "/keys/" + key + "/revoke", "POST /admin/v1/keys/:id/revoke"},
			{"Rotate booking", "Rotate booking site", "/keys/" + key + "/rotate", "POST /admin/v1/keys/:id/rotate"},
			{"lind", "Mara Lind", "/contacts/1", ""}, {"front desk", "Front desk", "/agents/1", ""}, {"admin", "admin", "/owners/1", ""},
			{"#1", "Call 1", "/calls/1", ""}, {"1", "Call 1", "/calls/1", ""}, {request, "Request " + request, "/requests/" + request, ""},
			{"activ", "Activity", "/activity", ""}, {"create", "Create New API Key", "/keys/new", "POST /admin/v1/keys"},
			{"check tampering", "Check the activity for tampering", "/activity/verify", ""}, {"webhooks", "Receiving webhooks", "/docs/webhooks", ""},
			{"", "Create New API Key", "/keys/new", "POST /admin/v1/keys"}, {"", "Webhooks", "/webhooks", ""},
		} {
			may := tt.needs == "" || role.Rights.May(tt.needs)
			for _, part := range []string{"", "1"} {
				w := c.post("/find", "query", tt.query, "part", part)
				page := w.Body.String()
				if part == "" {
					_, page, _ = strings.Cut(page, "<main")
				}
				got, found := "", false
				for text, to := range linksOf(t, page) {
					if strings.HasPrefix(text, tt.label) && (to == tt.to || !may) {
						got, found = to, true
					}
				}
				if w.Code != 200 || found != may || w.Header().Get("Location") != "" {
					t.Errorf("%s: %q (part %q): got %d, %q %v; want %s: %v\n%s", role.Name, tt.query, part, w.Code, got, found, tt.to, may, page)
				}
			}
		}
	}
	c := crawl.as(Roles()[len(Roles())-1])
	for query, want := range map[string]string{"nothing-has-this-name": "0 found.", strings.Repeat("x", 1001): "at most 1000 characters"} {
		if w := c.post("/find", "query", query, "part", "1"); !strings.Contains(w.Body.String(), want) || strings.Contains(w.Body.String(), "<a") {
			t.Errorf("%.30q: got %s, want %q", query, w.Body, want)
		}
	}
}

// TestFind_Actions wants each action to lead to a page.
func TestFind_Actions(t *testing.T) {
	b := newDashboard(t)
	b.prove()
	links := linksOf(t, b.post("/find", "part", "1").Body.String())
	if len(links) < 25 {
		t.Errorf("got %v, want all actions and pages", links)
	}
	for text, to := range links {
		if w := b.get(to); w.Code != 200 {
			t.Errorf("%s: %s: got %d", text, to, w.Code)
		}
	}
}

// pastedForms returns what people paste that has a secret.
func pastedForms(secret string) []string {
	return []string{secret, " " + secret + "\t", `"` + secret + `"`, "'" + secret + "'", "Bearer " + secret, "Authorization: Bearer " + secret, `X-API-Key: "` + secret + `",`, "KEY=" + secret}
}

// TestSearches_Secrets pastes a secret into each field of each search. No page repeats it, and none
// leads to an address that has it.
func TestSearches_Secrets(t *testing.T) {
	c := newRoleCrawl(t).as(Roles()[len(Roles())-1])
	made := c.operate(201, "POST", "/admin/v1/keys", `{"name": "pasted", "permissions": ["can_read_agents"]}`)
	id, secret := made["id"].(string), made["key"].(string)
	unknown := keytext.NewSecret("klen_")
	searches := map[string]bool{}
	for pattern := range c.needs {
		if !strings.HasPrefix(pattern, "GET ") {
			continue
		}
		w := c.get(c.address(pattern))
		root, err := html.Parse(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		for form := range root.Descendants() {
			at := attributes(form)
			if form.Data != "form" || at["role"] != "search" && !strings.EqualFold(at["method"], "get") {
				continue
			}
			for n := range form.Descendants() {
				if in := attributes(n); n.Data == "input" && (in["type"] == "text" || in["type"] == "search") {
					searches[at["method"]+" "+at["action"]+" "+in["name"]] = true
				}
			}
		}
	}
	for _, want := range []string{"post /keys/find search", "post /find query", "get /requests key", "get /activity object", "get /owners search", "get /contacts search"} {
		if !searches[want] {
			t.Errorf("there is no search %s; got %v", want, searches)
		}
	}
	for search := range searches {
		part := strings.Split(search, " ")
		method, action, field := part[0], part[1], part[2]
		wantSafe := func(way, pasted, secret, to string) {
			t.Helper()
			w := c.post(action, field, pasted)
			switch way {
			case "address":
				w = c.get(action + "?" + url.Values{field: {pasted}, "page": {"1"}}.Encode())
			case "script":
				w = c.post("/keys/find", field, pasted, "search.page", action)
			}
			at := w.Header().Get("Location")
			if strings.Contains(at+w.Body.String(), secret) || strings.Contains(at, url.QueryEscape(secret)) {
				t.Errorf("%s, by %s: %q is repeated: %d %s\n%s", search, way, pasted, w.Code, at, w.Body)
			}
			if w.Code == 200 && action == "/find" && to != "" && strings.Contains(w.Body.String(), "/keys/"+id) || w.Code == 200 && action == "/find" && strings.Contains(w.Body.String(), "looks like a secret") {
				return
			}
			if to != at || (to != "") != (w.Code == 303) {
				t.Errorf("%s, by %s: %q: got %d %q, want %q", search, way, pasted, w.Code, at, to)
			}
			if way == "address" {
				page := c.get(at).Body.String()
				if !strings.Contains(page, "consider") || !strings.Contains(page, "exposed") {
					t.Errorf("%s: %s does not say that the key is exposed", search, at)
				}
			}
		}
		for _, pasted := range pastedForms(secret) {
			if method == "get" {
				wantSafe("address", pasted, secret, "/keys/"+id+"?done=exposed")
				wantSafe("script", pasted, secret, "/keys/"+id+"?done=found")
			} else {
				wantSafe("form", pasted, secret, "/keys/"+id+"?done=found")
			}
		}
		if method == "get" {
			wantSafe("address", unknown, unknown, action+"?done=leaked&page=1")
			wantSafe("script", unknown, unknown, "")
		} else {
			wantSafe("form", unknown, unknown, "")
		}
	}
	t.Run("other texts", func(t *testing.T) {
		const id = "1f0e4f8a-5b7c-4d2e-9c3a-1234567890ab"
		if w := c.post("/keys/find", "owner", id, "status", "", "search.page", "/calls"); w.Code != 303 || w.Header().Get("Location") != "/calls?owner="+id {
			t.Errorf("got %d %s", w.Code, w.Header().Get("Location"))
		}
		if w := c.get("/calls?owner=" + id); w.Code != 200 {
			t.Errorf("got %d, want the page", w.Code)
		}
		for _, page := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", ""} {
			if w := c.post("/keys/find", "search", "x", "search.page", page); w.Code != 303 || w.Header().Get("Location") != "/keys?search=x" {
				t.Errorf("%q: got %d %s", page, w.Code, w.Header().Get("Location"))
			}
		}
	})
	t.Run("without a login", func(t *testing.T) {
		stranger := newBrowser(c.testApp)
		for _, query := range []string{"search=" + secret, "%zz&search=" + secret} {
			if w := stranger.get("/contacts?" + query); w.Code != 303 || w.Header().Get("Location") != "/login?next="+url.QueryEscape("/contacts") {
				t.Errorf("got %d %s", w.Code, w.Header().Get("Location"))
			}
		}
	})
}

// A secret of a key that was imported has no known form: it is looked up.
func TestSearches_ImportedSecret(t *testing.T) {
	b := newDashboard(t)
	secret := "sk_live_" + strings.Repeat("a1B2", 8)
	b.operate(201, "POST", "/admin/v1/keys/import", fmt.Sprintf(`[{"name": "old", "permissions": ["can_read_calls"], "sha256": "%x"}]`, keytext.DigestOf(secret)))
	id := b.operate(200, "GET", "/admin/v1/keys?search=old", "")["keys"].([]any)[0].(map[string]any)["id"].(string)
	if w := b.get("/contacts?search=" + secret); w.Header().Get("Location") != "/keys/"+id+"?done=exposed" {
		t.Errorf("got %d %s", w.Code, w.Header().Get("Location"))
	}
	if w := b.post("/find", "query", "Bearer "+secret); !strings.Contains(w.Body.String(), "/keys/"+id) || strings.Contains(w.Body.String(), secret) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestBrowser_Find opens the search of everything by the keyboard, and pastes a secret into it and into
// a filter.
func TestBrowser_Find(t *testing.T) {
	p := openBrowser(t)
	var made struct{ ID, Key string }
	p.post("/admin/v1/keys", map[string]any{"name": "billing export", "permissions": []string{"can_read_agents"}}, &made)
	p.load(axeSource(t))
	p.operator("/keys")
	p.focus(`#search`)
	shortcut := func() { p.do(chromedp.KeyEvent("k", chromedp.KeyModifiers(input.ModifierCtrl))) }
	selected := func(text string) {
		t.Helper()
		p.wait("selected "+text, fmt.Sprintf(`document.getElementById(document.querySelector("#palette input").getAttribute("aria-activedescendant")).textContent.includes(%q)
			&& document.querySelectorAll("#found [aria-selected=true]").length === 1`, text))
	}
	shortcut()
	p.visible("#palette")
	p.focused("#palette input")
	selected("Create New API Key")
	p.press("billing")
	selected("billing export")
	p.look("palette")
	p.screen(1280, 900, "light")
	p.press(kb.ArrowDown)
	selected("Revoke billing export")
	p.press(kb.ArrowUp)
	p.press(kb.ArrowUp) // past the first is the last
	selected("Rotate billing export")
	p.press(kb.Escape)
	p.hidden("#palette")
	p.focused("#search") // where it was before

	p.click(`[data-dialog=palette]`)
	p.fill("#palette input", "revoke billing")
	selected("Revoke billing export")
	p.press(kb.Enter)
	p.sees("This cannot be undone")
	p.wait("the page of the revocation", fmt.Sprintf(`location.pathname === "/keys/%s/revoke"`, made.ID))

	// An answer that is late replaces nothing.
	p.open("/keys")
	p.do(chromedp.Evaluate(`(() => {
		const ask = window.fetch;
		window.late = [];
		window.fetch = (path, how) => path === "/find" && how.body.get("query") === "bil"
			? new Promise((done) => { window.late.push(() => done(ask(path, { ...how, signal: null }))); window.ended = how.signal; })
			: ask(path, how);
	})()`, nil))
	shortcut()
	selected("Create New API Key")
	p.fill("#palette input", "bil")
	p.wait("the first question", `window.late.length === 1`)
	p.fill("#palette input", "webhooks")
	selected("Webhooks")
	p.wait("the end of the first", `window.ended.aborted`)
	p.do(chromedp.Evaluate(`window.late[0]()`, nil))
	p.do(chromedp.Evaluate(`fetch("/find", {method: "POST", body: new URLSearchParams({query: "x"})}).then((a) => a.text()).then(() => { window.after = true; })`, nil))
	p.wait("what came after it", `window.after`)
	selected("Webhooks")
	p.press(kb.Escape)

	// A secret is in no address.
	noSecret := func() {
		t.Helper()
		p.do(chromedp.Evaluate(`window.seen = performance.getEntriesByType("navigation").concat(performance.getEntriesByType("resource")).map((e) => e.name).join(" ") + location.href`, nil))
		p.wait("no secret in an address", fmt.Sprintf(`!window.seen.includes(%q)`, made.Key))
	}
	shortcut()
	p.fill("#palette input", " Bearer "+made.Key)
	selected("billing export")
	p.press(kb.Enter)
	p.wait("the page of the key", fmt.Sprintf(`document.readyState === "complete" && location.pathname === "/keys/%s"`, made.ID))
	noSecret()
	p.open("/requests")
	p.fill("#key", made.Key)
	p.press(kb.Enter)
	p.sees("This is the key that has the secret")
	noSecret()
	p.open("/activity")
	p.fill("#object", made.ID)
	p.press(kb.Enter)
	p.wait("the activity of the key", fmt.Sprintf(`document.readyState === "complete" && location.pathname + location.search === "/activity?object=%s"`, made.ID))
	wantStatus(t, p.api, made.Key, http.StatusOK)

	// A request from the page of an endpoint, found by typing.
	p.open("/reference")
	p.fill("#search", "contacts get")
	p.hidden(`.endpoints a[href="/reference/listAgents"]`)
	p.click(`.endpoints a[href="/reference/listContacts"]`)
	p.sees("Try it")
	p.fill("[name='try.key']", made.Key)
	p.press(kb.Enter)
	p.sees("Answer: 403 Forbidden")
	noSecret()
	p.click(".doc .copy")
	p.sees("Copied")
	p.look("endpoint")
}
