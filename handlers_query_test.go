package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unreadable are values of a parameter that cannot be read.
var unreadable = []string{"%zz", "100%", "a;b", "%ff", "a%00b"}

// ownPaths are the paths of endpoints that only a login may use.
var ownPaths = regexp.MustCompile(`^/admin/v1/(factors/|factors\?(x|zzz)|recovery-codes|confirm)`)

// queryApp is a dashboard with a key that may do everything, and an answer from any listener.
func queryApp(t *testing.T) (b *browser, ask func(method, path, query string) *httptest.ResponseRecorder) {
	b = newDashboard(t)
	b.prove()
	id, key := b.key(strings.Replace(everyPermission, "]", `,"can_verify_keys"]`, 1), `"limits": {"requests_per_minute_limit": 1000000}`)
	b.operate(201, "POST", "/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)
	return b, func(method, path, query string) *httptest.ResponseRecorder {
		if strings.Contains(path, "/keys/") {
			path = strings.Replace(path, "/1", "/"+id, 1)
		}
		if path += "?" + query; !strings.HasPrefix(path, "/admin/") && !strings.HasPrefix(path, "/metrics") {
			return askDoor(b.api, method, path, "", "X-API-Key: "+key)
		}
		r := b.request(method, path)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		over := b.send(r)
		if ownPaths.MatchString(path) { // the socket has no login
			return over
		}
		if w := askDoor(b.local, method, path, ""); w.Code != over.Code {
			t.Errorf("%s %s: got %d over the control socket and %d over TCP", method, path, w.Code, over.Code)
		}
		return over
	}
}

// steady returns an answer without the values that differ between two equal requests.
func steady(w *httptest.ResponseRecorder) string {
	text := regexp.MustCompile(`"(request_id|uptime_seconds|used|remaining|resets_at|last_used_at|disk_free_bytes)":[^,}]*|[0-9a-f]{32}|[0-9.,]+ ([kMGT]?B|bytes|ms)\b`).ReplaceAllString(w.Body.String(), "")
	return fmt.Sprint(w.Code, text)
}

// TestRequest_EveryParameter sends each parameter that openapi.json lists in every way that cannot
// be read, twice, with a value that is none of its words, and empty.
func TestRequest_EveryParameter(t *testing.T) {
	_, ask := queryApp(t)
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			at := regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllString(path, "1")
			for _, p := range op.Parameters {
				if p.Value.In != "query" {
					continue
				}
				name, schema := p.Value.Name, p.Value.Schema.Value
				refuse := func(value, why string) {
					t.Helper()
					tried++
					w := ask(method, at, name+"="+value)
					said := code(w)
					if w.Code != 400 || !strings.HasPrefix(said, "validation_error") && !strings.HasPrefix(said, "invalid_") || !strings.Contains(w.Body.String(), name) {
						t.Errorf("%s %s?%s=%s, %s: got %d %s, want a 400 that names it", method, path, name, value, why, w.Code, w.Body)
					}
				}
				for _, value := range unreadable {
					refuse(value, "cannot be read")
				}
				without, got := "", "none"
				for range 20 { // the audit log may get an entry between two requests
					if without, got = steady(ask(method, at, "")), steady(ask(method, at, name+"=")); got == without {
						break
					}
				}
				if got != without {
					t.Errorf("%s %s?%s=: got %s, want it as without: %s", method, path, name, got, without)
				}
				switch {
				case schema.Type.Is("integer"):
					refuse("x", "is no number")
					refuse("0", "is too small")
				case len(schema.Enum) > 0:
					refuse("nonsense", "is none of its words")
				case schema.Format == "date" || schema.Pattern != "":
					refuse("x", "is no "+schema.Format)
				}
				if schema.Type.Is("array") {
					continue
				}
				tried++
				if w := ask(method, at, name+"=1&"+name+"=1"); w.Code != 400 || !strings.Contains(w.Body.String(), "appears 2 times") {
					t.Errorf("%s %s: %s twice: got %d %s, want 400", method, path, name, w.Code, w.Body)
				}
			}
		}
	}
	if tried < 500 {
		t.Errorf("only %d requests", tried)
	}
	for query, want := range map[string]int{"unknown=1&unknown=2": 200, "p%61ge=1&page=1": 400, "page=&page=1": 200, "api_key=%zz": 401} {
		if w := ask("GET", "/api/v1/agents", query); query[:3] != "pag" && query[:3] != "p%6" && w.Code != want {
			t.Errorf("agents?%s: got %d, want %d", query, w.Code, want)
		}
		if w := ask("GET", "/api/v1/contacts", query); w.Code != want {
			t.Errorf("contacts?%s: got %d, want %d", query, w.Code, want)
		}
	}
}

// TestRequest_EveryRoute sends a query that cannot be read to every route, also to those without
// parameters: 400, and nothing is changed. So it is with a parameter that an operator's endpoint does
// not have, beside those that it has; the API and the metrics ignore it.
func TestRequest_EveryRoute(t *testing.T) {
	b, ask := queryApp(t)
	o := b.Server.o
	for _, row := range slices.Concat(o.Keyed, o.Free, o.Open, o.Admin) {
		for _, value := range unreadable {
			if w := ask(row.Method, fill(row.Path, "1"), "x="+value); w.Code != 400 || code(w) != "validation_error" || !strings.Contains(w.Body.String(), `\"x\"`) {
				t.Errorf("%s %s?x=%s: got %d %s, want 400", row.Method, row.Path, value, w.Code, w.Body)
			}
		}
	}
	operators := 0
	for _, row := range o.Admin {
		if !strings.HasPrefix(row.Path, "/admin/v1/") {
			continue
		}
		operators++
		query := "zzz=1" // the last one in the order in which they are checked
		for _, name := range slices.Concat(row.Query, row.Lists) {
			query += "&" + name + "=1"
		}
		if w := ask(row.Method, fill(row.Path, "1"), query); w.Code != 400 || !strings.Contains(w.Body.String(), `There is no query parameter \"zzz\"`) {
			t.Errorf("%s %s?%s: got %d %s, want 400", row.Method, row.Path, query, w.Code, w.Body)
		}
	}
	for _, one := range b.operate(200, "GET", "/admin/v1/refusals?code=validation_error", "")["refusals"].([]any) {
		if one := one.(map[string]any); one["refused_by"] != StepHandler {
			t.Errorf("got %v, want that the endpoint refused it", one)
		}
	}
	if operators < 90 {
		t.Errorf("got %d endpoints of operators", operators)
	}
	for _, path := range []string{"/api/v1/key", "/metrics"} {
		if w := ask("GET", path, "zzz=1"); w.Code != 200 {
			t.Errorf("%s afterwards: got %d, want 200", path, w.Code)
		}
	}
}

// TestDashboard_EveryQuery does the same with every page.
func TestDashboard_EveryQuery(t *testing.T) {
	b, _ := queryApp(t)
	for _, pattern := range append(pagePatterns(t), "GET /login", "GET /setup", "GET /join") {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.ReplaceAll(path, "{id}", "1")
		send := func(query string) *httptest.ResponseRecorder {
			r := b.request(method, path+"?"+query)
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			return b.send(r)
		}
		for _, value := range append(slices.Clone(unreadable), "1&x=1") {
			want := 400
			if value == "1&x=1" && strings.HasSuffix(path, "/new") { // the fields of its form may be repeated
				want = 200
			}
			if w := send("x=" + value); w.Code != want {
				t.Errorf("%s?x=%s: got %d, want %d", pattern, value, w.Code, want)
			}
		}
		if method != http.MethodGet {
			continue
		}
		without := steady(send(""))
		for _, name := range []string{
			"page", "search", "status", "owner", "sort", "order", "environment", "permission", "unused_days", "zone", "week", "start_date", "end_date",
			"object", "actor", "action", "result", "done", "type", "agent_id", "tag", "stage", "context_type", "next", "token", "preset", "perm",
		} {
			if got := steady(send(name + "=")); got != without {
				t.Errorf("%s?%s=: differs from the page without it", pattern, name)
			}
		}
	}
	for _, path := range []string{"/calendar?zone=Mars", "/calendar/events?zone=Mars", "/calendar?week=x", "/keys?status=odd", "/calls?type=odd", "/variables?context_type=odd", "/activity?result=odd"} {
		if w := b.get(path); w.Code != 400 {
			t.Errorf("%s: got %d, want 400", path, w.Code)
		}
	}
}

// TestRequest_OneReader wants no code to read a query by itself: net/url leaves out what it cannot
// read.
func TestRequest_OneReader(t *testing.T) {
	files := token.NewFileSet()
	for _, f := range sources(t, files, "*.go", "dashboard/*.go", "reference/*.go") {
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			from, _ := fun.X.(*ast.SelectorExpr)
			if fun.Sel.Name == "FormValue" || fun.Sel.Name == "Query" && from != nil && from.Sel.Name == "URL" || fun.Sel.Name == "ParseQuery" && f.name != "admin_verify.go" {
				t.Errorf("%s: %s reads a query; use Request.Query, or query of the pageRequest", files.Position(n.Pos()), fun.Sel.Name)
			}
			return true
		})
	}
}
