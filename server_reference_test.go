package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

var description = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background(), openapi3.IsOpenAPI31OrLater(), openapi3.EnableExamplesValidation())
})

// described gives what openapi.json says of a request, nil where it knows no
// such endpoint.
func described(t testing.TB, method, path string) *openapi3.Operation {
	t.Helper()
	doc, err := description()
	if err != nil {
		t.Fatalf("openapi.json: %v", err)
	}
	parts := strings.Split(strings.TrimSuffix(path, "/"), "/")
	var found *openapi3.Operation
	literals := -1
	for _, pattern := range doc.Paths.InMatchingOrder() {
		want := strings.Split(pattern, "/")
		if len(want) != len(parts) {
			continue
		}
		same, fits := 0, true
		for i := range want {
			if want[i] == parts[i] {
				same++
			} else if !strings.HasPrefix(want[i], "{") || parts[i] == "" {
				fits = false
			}
		}
		if op := doc.Paths.Find(pattern).GetOperation(method); fits && op != nil && same > literals {
			found, literals = op, same
		}
	}
	return found
}

// conform holds an answer against openapi.json: its status, its header fields
// and its body. The harness calls it for every answer in the tests.
func conform(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	op := described(t, r.Method, r.URL.Path)
	if op == nil || w.Code == http.StatusMethodNotAllowed {
		return // an unknown path or method: TestOpenAPI_Routes holds the known ones against the file
	}
	where := fmt.Sprintf("%s %s: openapi.json (%s)", r.Method, r.URL.Path, op.OperationID)
	answer := op.Responses.Status(w.Code)
	if answer == nil {
		t.Errorf("%s knows no status %d; add it there, or mend the answer: %s", where, w.Code, w.Body)
		return
	}
	for name, header := range answer.Value.Headers {
		value := w.Header().Get(name)
		if value == "" && header.Value.Required {
			t.Errorf("%s wants the field %s with %d", where, name, w.Code)
		}
	}
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	media := answer.Value.Content.Get(kind)
	if media == nil {
		if len(answer.Value.Content) > 0 {
			t.Errorf("%s knows no %s with %d", where, kind, w.Code)
		}
		return
	}
	if kind != "application/json" {
		return
	}
	var body any
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	if err := dec.Decode(&body); err != nil {
		t.Errorf("%s: the body is no JSON: %v", where, err)
		return
	}
	if err := media.Schema.Value.VisitJSON(body, openapi3.EnableJSONSchema2020(), openapi3.VisitAsResponse(), openapi3.MultiErrors()); err != nil {
		t.Errorf("%s: the body does not fit: %v\n%s", where, err, w.Body)
	}
	if list := strays(media.Schema.Value, body, "body"); len(list) > 0 && r.URL.Path != "/openapi.json" {
		t.Errorf("%s lacks the members %v with %d\n%s", where, list, w.Code, w.Body)
	}
	wantCodeListed(t, op, w.Code, body)
}

// TestOpenAPI_Routes holds the file and the program together: the same
// endpoints, with the same permissions and daily limits.
func TestOpenAPI_Routes(t *testing.T) {
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	a := newTestApp(t)
	known := map[string]bool{}
	o := a.Server.o
	rows := slices.Concat(o.Keyed, o.Free, o.Open, o.Admin)
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/reference", "/reference/style.css", "/errors", "/errors/:code", "/admin/v1/routes", "/admin/v1/status", "/authz/nginx", "/authz/forward", "/authz/envoy/:path"} {
		rows = append(rows, Route{Method: "GET", Path: path})
	}
	for _, row := range rows {
		parts := strings.Split(row.Path, "/")
		for i, part := range parts {
			if name, ok := strings.CutPrefix(part, ":"); ok {
				parts[i] = "{" + name + "}"
			}
		}
		path := strings.Join(parts, "/")
		known[row.Method+" "+path] = true
		item := doc.Paths.Value(path)
		if item == nil || item.GetOperation(row.Method) == nil {
			t.Errorf("openapi.json lacks %s %s", row.Method, path)
			continue
		}
		op := item.GetOperation(row.Method)
		says := func(name string) string { s, _ := op.Extensions[name].(string); return s }
		if want := strings.Join(row.Permission.Names(), " or "); says("x-permission") != want {
			t.Errorf("%s %s: x-permission is %q, the program wants %q", row.Method, path, says("x-permission"), want)
		}
		if says("x-limit") != row.Spends {
			t.Errorf("%s %s: x-limit is %q, the program spends %q", row.Method, path, says("x-limit"), row.Spends)
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !known[method+" "+path] {
				t.Errorf("openapi.json has %s %s, the program has not", method, path)
			}
		}
	}
}

func TestOpenAPI_Served(t *testing.T) {
	a := newTestApp(t)
	for _, door := range []http.Handler{a.api, a.admin, a.local} {
		w := httptest.NewRecorder()
		door.ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
		if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), openAPI) || w.Header().Get("ETag") == "" {
			t.Errorf("got %d, %d bytes", w.Code, w.Body.Len())
		}
		r := httptest.NewRequest("GET", "/openapi.json", nil)
		r.Header.Set("If-None-Match", w.Header().Get("ETag"))
		again := httptest.NewRecorder()
		if door.ServeHTTP(again, r); again.Code != 304 || again.Body.Len() != 0 {
			t.Errorf("with its tag: got %d, %d bytes", again.Code, again.Body.Len())
		}
	}
}

// TestOpenAPI_Errors holds the catalogue against the source: a code that the
// program can answer with has a page, and a page is of such a code.
func TestOpenAPI_Errors(t *testing.T) {
	codes := map[string]bool{}
	for _, f := range sources(t, token.NewFileSet(), "*.go") {
		ast.Inspect(f.File, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if kind, isName := lit0(lit, ok); !isName || kind != "Error" {
				return true
			}
			for _, e := range lit.Elts {
				pair, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				name, _ := pair.Key.(*ast.Ident)
				if value, ok := pair.Value.(*ast.BasicLit); ok && name != nil && name.Name == "Code" {
					code, _ := strconv.Unquote(value.Value)
					codes[code] = true
				}
			}
			return true
		})
	}
	if len(codes) < 30 {
		t.Fatalf("found only %d codes in the source", len(codes))
	}
	for _, e := range ErrorCatalog() {
		if !codes[e.Code] {
			t.Errorf("the catalogue has %s, which the program never answers with, or has it twice", e.Code)
		}
		delete(codes, e.Code)
		for _, text := range []string{e.Means, e.When, e.Do} {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("%s: %q is no sentence", e.Code, text)
			}
		}
		if body := object(t, e.Example); body["error"] != e.Code || body["message"] == "" {
			t.Errorf("%s: got the example %s", e.Code, e.Example)
		}
	}
	for code := range codes {
		t.Errorf("explanations in errors.go lack %s: say what it means, when it comes and what to do", code)
	}
	readme, err := os.ReadFile("docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{ // of the contract, whatever the program does
		"validation_error", "invalid_json", "authentication_required", "invalid_key", "permission_denied", "not_found", "rate_limit_exceeded", "server_error",
		"missing_phone_number", "missing_agent_id", "invalid_phone_number", "insufficient_funds", "do_not_call", "agent_not_found", "no_phone_number",
		"missing_first_name", "team_not_found", "team_access_denied", "missing_parameter", "invalid_parameter_format", "invalid_datetime_format", "invalid_duration",
		"duplicate_variable", "invalid_value", "undefined_variable", "delete_not_allowed",
	} {
		if !slices.ContainsFunc(ErrorCatalog(), func(e errorEntry) bool { return e.Code == code }) {
			t.Errorf("the catalogue lacks %s of the contract", code)
		}
		if code != "server_error" && !strings.Contains(string(readme), code) {
			t.Errorf("docs/api.md lacks %s", code)
		}
	}
}

func lit0(lit *ast.CompositeLit, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	name, ok := lit.Type.(*ast.Ident)
	if !ok {
		return "", false
	}
	return name.Name, true
}

// fetchPage asks a door for a page.
func fetchPage(t *testing.T, door http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	r, w := httptest.NewRequest("GET", path, nil), httptest.NewRecorder()
	r.Host = "localhost:8081"
	door.ServeHTTP(w, r)
	conform(t, r, w)
	return w
}

var ids = regexp.MustCompile(`id="([^"]+)"`)

// TestReference looks for every operation and schema on the pages of the doors,
// follows every link, and wants nothing on them that their policy forbids.
func TestReference(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Server.BaseURL = "https://api.example.net" })
	a.Server.ListensAt("https://api.example.net")
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := a.AdminDoor()
	if err != nil {
		t.Fatal(err)
	}
	for name, door := range map[string]http.Handler{"api": a.api, "admin": dashboard} {
		w := fetchPage(t, door, "/reference")
		page := w.Body.String()
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
			t.Fatalf("%s: got %d %s", name, w.Code, w.Header())
		}
		for path, item := range doc.Paths.Map() {
			for method, op := range item.Operations() {
				want := name == "admin" || !strings.HasPrefix(path, "/admin/")
				if got := strings.Contains(page, `<article id="`+op.OperationID+`">`); got != want {
					t.Errorf("%s: %s %s is there: %v, want %v", name, method, path, got, want)
				}
			}
		}
		for schema := range doc.Components.Schemas {
			if !strings.Contains(page, `id="schema-`+schema+`"`) {
				t.Errorf("%s: lacks the schema %s", name, schema)
			}
		}
		for _, want := range []string{
			`curl -H &#34;Authorization: Bearer $KEY&#34; &#34;https://api.example.net/api/v1/agents&#34;`,
			`&#34;https://api.example.net/api/v1/calls&#34; -d &#39;{&#34;agent_id&#34;:2,&#34;phone_number&#34;:&#34;&#43;4930555044&#34;`,
		} {
			if !strings.Contains(page, want) {
				t.Errorf("%s: lacks %s", name, want)
			}
		}
		known := map[string]bool{}
		for _, m := range ids.FindAllStringSubmatch(page, -1) {
			if known[m[1]] {
				t.Errorf("%s: the id %s appears twice", name, m[1])
			}
			known[m[1]] = true
		}
		follow(t, door, page, known)
		if strings.Contains(page, "<script") || strings.Contains(page, "style=") || strings.Contains(page, "<no value>") {
			t.Errorf("%s: something on the page is inline, or empty", name)
		}
		r, again := httptest.NewRequest("GET", "/reference", nil), httptest.NewRecorder()
		r.Host = "localhost:8081"
		r.Header.Set("If-None-Match", w.Header().Get("ETag"))
		if door.ServeHTTP(again, r); again.Code != 304 {
			t.Errorf("%s: with its tag: got %d, want 304", name, again.Code)
		}
	}
	if page := fetchPage(t, dashboard, "/reference").Body.String(); !strings.Contains(page, `&#34;http://localhost:8081/admin/v1/keys&#34;`) {
		t.Error("the admin listener's own address is not in its examples")
	}
}

var hrefs = regexp.MustCompile(`href="([^"]+)"`)

// follow wants every link of a page to lead somewhere.
func follow(t *testing.T, door http.Handler, page string, known map[string]bool) {
	t.Helper()
	for _, m := range hrefs.FindAllStringSubmatch(page, -1) {
		if anchor, ok := strings.CutPrefix(m[1], "#"); ok {
			if !known[anchor] {
				t.Errorf("the link #%s leads nowhere", anchor)
			}
			continue
		}
		w := fetchPage(t, door, m[1])
		if w.Code != 200 || w.Header().Get("Content-Security-Policy") == "" && m[1] != "/openapi.json" {
			t.Errorf("%s: got %d %v", m[1], w.Code, w.Header())
		}
	}
}

// An answer with an error leads to the page of its code.
func TestReference_ErrorPages(t *testing.T) {
	a := newTestApp(t)
	w := a.ask("GET", "/api/v1/agents", "", "")
	link := regexp.MustCompile(`^<(/errors/[a-z_]+)>; rel="help"$`).FindStringSubmatch(w.Header().Get("Link"))
	if link == nil {
		t.Fatalf("got the Link %q", w.Header().Get("Link"))
	}
	page := fetchPage(t, a.api, link[1])
	if page.Code != 200 || !strings.Contains(page.Body.String(), "The request has no API key.") {
		t.Errorf("%s: got %d %s", link[1], page.Code, page.Body)
	}
	list := fetchPage(t, a.api, "/errors").Body.String()
	follow(t, a.api, list, nil)
	if n := strings.Count(list, `href="/errors/`); n != len(ErrorCatalog()) {
		t.Errorf("the list has %d errors of %d", n, len(ErrorCatalog()))
	}
	if w := fetchPage(t, a.api, "/errors/none"); w.Code != 404 {
		t.Errorf("an unknown code: got %d, want 404", w.Code)
	}
}
