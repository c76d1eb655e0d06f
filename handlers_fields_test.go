package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// fieldsDoor is a listener with the credentials for it and all its rows.
type fieldsDoor struct {
	name       string
	server     *httptest.Server
	credential string // "Name: value"; "" if none is needed
	vary       string // what Vary of an answer to the credential names
	rows       []Route
	pages      []string // patterns of the dashboard
}

// fieldsApp serves all listeners on loopback, with one record of some kinds.
func fieldsApp(t *testing.T) (b *browser, doors []fieldsDoor, at func(Route) string) {
	b = newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Night line"}`)
	b.operate(201, "POST", "/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara"}`)
	b.operate(201, "POST", "/admin/v1/events", `{"owner": "admin", "title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`)
	uuid := b.operate(200, "GET", "/admin/v1/events/1", "")["uuid"].(string)
	id, key := b.key(strings.Replace(everyPermission, "]", `,"can_verify_keys"]`, 1), `"limits": {"requests_per_minute_limit": 1000000}`)
	at = func(row Route) string {
		path := strings.ReplaceAll(row.Path, ":uuid", uuid)
		if strings.Contains(path, "/keys/:id") {
			path = strings.ReplaceAll(path, ":id", id)
		}
		return fill(path, "1")
	}
	o, serve := b.Server.o, func(h http.Handler) *httptest.Server {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s
	}
	rowsOf := func(pages []Row, more ...[]Route) []Route {
		rows := []Route{{Method: "GET", Path: "/healthz"}, {Method: "GET", Path: "/readyz"}}
		for _, p := range pages {
			rows = append(rows, p.Route)
		}
		return append(rows, slices.Concat(more...)...)
	}
	cookie := b.sessionCookie()
	pages := append(pagePatterns(t), "GET /login", "POST /login", "GET /setup", "GET /join", "GET /")
	return b, []fieldsDoor{
		{"api", serve(b.api), "X-API-Key: " + key, "Authorization, X-API-Key", rowsOf(o.Pages, o.Keyed, o.Free, o.Open), nil},
		{"admin with a token", serve(b.door), "Authorization: Bearer " + b.token(), "Authorization, Cookie", rowsOf(o.AdminPages, o.Admin), nil},
		{"admin with a login", serve(b.door), "Cookie: " + cookie.Name + "=" + cookie.Value, "Authorization, Cookie", rowsOf(o.AdminPages, o.Admin), pages},
		{"control socket", serve(b.local), "", "Authorization, Cookie", rowsOf(o.AdminPages, o.Admin), nil},
	}, at
}

// fetch sends a request and returns the answer and its body.
func (d fieldsDoor) fetch(t *testing.T, method, path, credential string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, d.server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name, value, ok := strings.Cut(credential, ": "); ok {
		r.Header.Set(name, value)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	res, err := (&http.Transport{DisableCompression: true}).RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return res, string(body)
}

// TestRouter_HEAD asks every route for GET by HEAD too, at every listener: the same status and the
// same fields, no body, and nothing in the audit log.
func TestRouter_HEAD(t *testing.T) {
	b, doors, at := fieldsApp(t)
	asked := 0
	for _, d := range doors {
		for _, pattern := range d.pages {
			if method, path, _ := strings.Cut(pattern, " "); method == "GET" {
				d.rows = append(d.rows, Route{Method: "GET", Path: strings.ReplaceAll(path, "{id}", ":id")})
			}
		}
		if d.pages != nil {
			d.rows = append(d.rows, Route{Method: "GET", Path: "/static/style.css"})
		}
		for _, row := range d.rows {
			if row.Method != "GET" {
				continue
			}
			for _, credential := range []string{d.credential, ""} {
				path := at(row)
				get, text := d.fetch(t, "GET", path, credential)
				before := b.operate(200, "GET", "/admin/v1/audit?limit=1&result=done", "")["count"]
				head, none := d.fetch(t, "HEAD", path, credential)
				asked++
				if after := b.operate(200, "GET", "/admin/v1/audit?limit=1&result=done", "")["count"]; after != before {
					t.Errorf("%s: HEAD %s: got %v entries in the audit log, want %v", d.name, path, after, before)
				}
				if head.StatusCode != get.StatusCode || none != "" || len(head.TransferEncoding) != 0 {
					t.Errorf("%s: HEAD %s: got %s %q, GET %s", d.name, path, head.Status, none, get.Status)
				}
				for _, h := range []http.Header{get.Header, head.Header} {
					for _, name := range []string{"Date", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Ratelimit", headField} {
						delete(h, name)
					}
				}
				if head.Header.Get("Content-Length") == "" && row.Path == "/admin/v1/backup" || path == "/metrics" || get.StatusCode == http.StatusSeeOther || strings.Contains(text, `"request_id"`) || strings.Contains(text, "_seconds") {
					delete(get.Header, "Content-Length") // it differs from one GET to the next, or is known only once the body is made
					delete(head.Header, "Content-Length")
				}
				if !maps.EqualFunc(head.Header, get.Header, slices.Equal) {
					t.Errorf("%s: HEAD %s: got\n%v, GET\n%v", d.name, path, head.Header, get.Header)
				}
			}
		}
	}
	if asked < 200 {
		t.Errorf("only %d routes were asked", asked)
	}
}

// TestRouter_HEADChecks wants HEAD to be charged and refused like GET, and Allow to list it.
func TestRouter_HEADChecks(t *testing.T) {
	_, doors, at := fieldsApp(t)
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {}, func(c *Config, url string) {
		c.Routes[0].Methods = []string{"GET"}
	})
	_, small := g.testApp.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 2}`)
	for i, want := range []int{200, 200, 429} {
		w := askDoor(g.api, "HEAD", "/api/v1/agents", "", "X-API-Key: "+small)
		if w.Code != want || w.Header().Get("X-Ratelimit-Remaining") != fmt.Sprint(max(1-i, 0)) || (want == 429) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("HEAD %d with a limit of 2: got %d %v, want %d", i+1, w.Code, w.Header(), want)
		}
	}
	if w := askDoor(g.api, "HEAD", "/up/x", "", "X-API-Key: "+g.key); w.Code != 405 || w.Header().Get("Allow") != "GET" {
		t.Errorf("HEAD on a guarded route for GET: got %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	for _, d := range doors {
		methods := map[string][]string{}
		for _, row := range d.rows {
			methods[row.Path] = append(methods[row.Path], row.Method)
		}
		for path, list := range methods {
			if slices.Contains(list, "GET") {
				list = append(list, "HEAD")
			}
			slices.Sort(list)
			for _, method := range []string{"TRACE", "PATCH", "HEAD"} {
				if slices.Contains(list, method) {
					continue
				}
				res, _ := d.fetch(t, method, at(Route{Path: path}), d.credential)
				if allow := res.Header.Get("Allow"); res.StatusCode == 405 && !containsAll(strings.Split(allow, ", "), list) || res.StatusCode != 405 && res.StatusCode >= 500 {
					t.Errorf("%s: %s %s: got %s, Allow %q, want %v in it", d.name, method, path, res.Status, allow, list)
				}
			}
		}
	}
}

func containsAll(list, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(list, w) })
}

// TestWriteOwnFields_EveryAnswer asks every route of every listener, every page and what no route
// fits, with and without credentials, and holds the header fields of each answer against the rules.
func TestWriteOwnFields_EveryAnswer(t *testing.T) {
	_, doors, at := fieldsApp(t)
	public := []string{"/healthz", "/readyz", "/openapi.json", "/reference", "/reference/style.css", "/reference/:operation", "/errors", "/errors/:code", "/static/style.css", "/static/script.js", "/static/icon.svg"}
	statuses := map[int]int{}
	for _, d := range doors {
		check := func(method, path, credential, cache, vary string) {
			t.Helper()
			res, body := d.fetch(t, method, path, credential)
			statuses[res.StatusCode]++
			h := res.Header
			want := map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": cache, "Vary": vary, "Server": ""}
			if res.StatusCode == 200 && (path == "/metrics" || strings.HasPrefix(path, "/static/")) {
				vary := strings.Split(strings.Join(h["Vary"], ", "), ", ")
				if !slices.Contains(vary, "Accept-Encoding") { // these are sent as gzip too
					t.Errorf("%s: %s: got Vary %q", d.name, path, vary)
				}
				h["Vary"] = slices.DeleteFunc(vary, func(name string) bool { return name == "Accept-Encoding" })
			}
			for name, value := range want {
				if got := strings.Join(h[name], ", "); got != value {
					t.Errorf("%s: %s %s, %d, credential %t: got %s %q, want %q", d.name, method, path, res.StatusCode, credential != "", name, got, value)
				}
			}
			kind := h.Get("Content-Type")
			if body != "" && (kind == "" || strings.HasPrefix(kind, "text/") && !strings.Contains(kind, "charset=utf-8")) {
				t.Errorf("%s: %s %s: got Content-Type %q", d.name, method, path, kind)
			}
			for status, name := range map[int]string{401: "Www-Authenticate", 405: "Allow", 429: "Retry-After"} {
				if res.StatusCode == status && h.Get(name) == "" {
					t.Errorf("%s: %s %s: got %d without %s", d.name, method, path, status, name)
				}
			}
		}
		for _, row := range d.rows {
			if row.Method == "DELETE" && row.Path == "/api/v1/key" || strings.HasSuffix(row.Path, "/revoke") || row.Method != "GET" && strings.Contains(row.Path, "/operators/") {
				continue // would end the credential of the requests that follow
			}
			cache, vary := "no-store", d.vary
			if slices.Contains(public, row.Path) {
				if vary = ""; !strings.HasSuffix(row.Path, "z") {
					cache = "no-cache"
				}
			}
			if strings.HasSuffix(row.Path, ".ics") {
				vary = ""
			}
			if strings.HasPrefix(d.name, "admin ") && strings.HasPrefix(row.Path, "/reference") && row.Path != "/reference/style.css" {
				continue // the dashboard has a page in its place, which is checked below
			}
			for _, credential := range []string{"", d.credential} {
				if known := map[string]string{":code": "not_found", ":operation": "listCalls"}[path.Base(row.Path)]; known != "" {
					check(row.Method, path.Dir(row.Path)+"/"+known, credential, cache, vary)
					check(row.Method, path.Dir(row.Path)+"/nothing", credential, "no-store", vary)
				} else {
					check(row.Method, at(row), credential, cache, vary)
				}
			}
			if vary != "" {
				check(row.Method, at(row), "Authorization: Bearer klen_wrong", cache, vary)
			}
		}
		for _, pattern := range d.pages {
			method, path, _ := strings.Cut(pattern, " ")
			if path = strings.ReplaceAll(path, "{id}", "1"); strings.HasPrefix(path, "/logout") {
				continue
			}
			check(method, path, "", "no-store", "Cookie")
			check(method, path, d.credential, "no-store", "Cookie")
		}
		if d.pages != nil {
			for _, path := range []string{"/reference/style.css", "/errors", "/errors/not_found", "/static/style.css", "/static/script.js", "/static/icon.svg"} {
				check("GET", path, "", "no-cache", "")
			}
		}
		unknown := "" // what the answer about an unknown path depends on: the dashboard has a page for it
		if strings.HasPrefix(d.name, "admin ") {
			unknown = "Cookie"
		}
		check("GET", "/api/v9/nothing", d.credential, "no-store", unknown)
		check("BREW", "/healthz", d.credential, "no-store", "")
	}
	for _, status := range []int{200, 303, 400, 401, 403, 404, 405, 429} {
		if statuses[status] == 0 {
			t.Errorf("no answer has the status %d: %v", status, statuses)
		}
	}
}

// TestWriteOwnFields_Guarded wants the answers of an upstream to pass as they are, and errors of
// ours on its routes to have our fields.
func TestWriteOwnFields_Guarded(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Header().Set("Vary", "Accept")
		_, _ = w.Write([]byte("x"))
	}, nil)
	w := askDoor(g.api, "GET", "/up/x", "", "X-API-Key: "+g.key)
	if h := w.Header(); w.Code != 200 || h.Get("Cache-Control") != "public, max-age=60" || h.Get("X-Content-Type-Options") != "" || strings.Join(h["Vary"], ", ") != "Accept, Authorization, X-API-Key" {
		t.Errorf("got %d %v, want what the upstream said", w.Code, w.Header())
	}
	if w := askDoor(g.api, "GET", "/up/x?a=%zz;b", "", "X-API-Key: "+g.key); w.Code != 200 {
		t.Errorf("a query that is for the upstream: got %d %s", w.Code, w.Body)
	}
	w = askDoor(g.api, "GET", "/up/x", "")
	if h := w.Header(); w.Code != 401 || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Vary") != "Authorization, X-API-Key" {
		t.Errorf("without a key: got %d %v, want our fields", w.Code, w.Header())
	}
}

// The fields as lines are those of the header.
func TestWriteFields_Lines(t *testing.T) {
	minute := LimitStatus{Limit: Limit{"requests_per_minute_limit", 60, time.Minute}, Used: 3, Next: 1500 * time.Millisecond}
	day := LimitStatus{Limit: Limit{"calls_per_day_limit", 10, 24 * time.Hour}}
	for _, f := range []LimitFields{
		{}, {List: []LimitStatus{minute}, Now: epoch}, {List: []LimitStatus{minute}, Now: epoch, Draft: true},
		{List: []LimitStatus{minute, day}, Now: epoch, Draft: true}, {List: []LimitStatus{day, minute}, Now: epoch},
	} {
		for _, vary := range [][]string{nil, VaryKey, {"A", "B"}} {
			want := http.Header{}
			WriteVary(want, vary)
			WriteLimitFields(want, f)
			lines := string(AppendLimitFields(AppendVary(nil, vary), f)) + "\r\n"
			got, err := textproto.NewReader(bufio.NewReader(strings.NewReader(lines))).ReadMIMEHeader()
			if err != nil || !maps.EqualFunc(want, http.Header(got), slices.Equal) {
				t.Errorf("got %v %v, want %v", got, err, want)
			}
		}
	}
}
