package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"latchkey/reference"
)

// openAPI is openapi.json as the program has it.
var openAPI = func() []byte {
	data, err := reference.OpenAPI()
	if err != nil {
		panic(err)
	}
	return data
}()

// loaded is the description as openapi.json has it.
var loaded = sync.OnceValues(func() (*openapi3.T, error) { return openapi3.NewLoader().LoadFromData(openAPI) })

// description is loaded, with every rule of the format checked, which takes seconds.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := loaded()
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background(), openapi3.IsOpenAPI31OrLater(), openapi3.EnableExamplesValidation())
})

// describedPath is a path of the description, with its parts and its place as a JSON pointer.
type describedPath struct {
	parts []string
	at    string
	item  *openapi3.PathItem
}

// describedPaths lists the paths in the order in which a request is held against them.
var describedPaths = sync.OnceValues(func() (list []describedPath, err error) {
	doc, err := loaded()
	if err != nil {
		return nil, err
	}
	for _, pattern := range doc.Paths.InMatchingOrder() {
		at := "#/paths/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(pattern)
		list = append(list, describedPath{strings.Split(pattern, "/"), at, doc.Paths.Find(pattern)})
	}
	return list, nil
})

// schemas compiles the schemas of openapi.json, each once.
type schemas struct {
	mu       sync.Mutex
	compiler *jsonschema.Compiler // which keeps what it has compiled
}

// describedSchemas are those of the description.
var describedSchemas = sync.OnceValues(func() (*schemas, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPI))
	if err != nil {
		return nil, err
	}
	s := &schemas{compiler: jsonschema.NewCompiler()}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.AssertFormat()
	return s, s.compiler.AddResource("https://latchkey.invalid/openapi.json", doc)
})

// fits holds a body against the schema at a place in openapi.json, which is a JSON pointer.
func (s *schemas) fits(at string, body any) error {
	s.mu.Lock()
	schema, err := s.compiler.Compile("https://latchkey.invalid/openapi.json" + at)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return schema.Validate(body)
}

// described returns what openapi.json says of a request, and where. It returns nil
// where it knows no such endpoint.
func described(t testing.TB, method, path string) (found *openapi3.Operation, at string) {
	t.Helper()
	paths, err := describedPaths()
	if err != nil {
		t.Fatalf("openapi.json: %v", err)
	}
	parts := strings.Split(strings.TrimSuffix(path, "/"), "/")
	literals := -1
	for _, described := range paths {
		if len(described.parts) != len(parts) {
			continue
		}
		same, fits := 0, true
		for i, want := range described.parts {
			if want == parts[i] {
				same++
			} else if !strings.HasPrefix(want, "{") || parts[i] == "" {
				fits = false
			}
		}
		if !fits || same <= literals {
			continue
		}
		if op := described.item.GetOperation(method); op != nil {
			found, at, literals = op, described.at+"/"+strings.ToLower(method), same
		}
	}
	return found, at
}

// conform holds an answer against openapi.json: its status, its header fields
// and its body. The harness calls it for every answer in the tests.
func conform(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	op, at := described(t, r.Method, r.URL.Path)
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
	at = fmt.Sprintf("%s/responses/%d", at, w.Code)
	if answer.Ref != "" {
		at = answer.Ref
	}
	schemas, err := describedSchemas()
	if err == nil {
		err = schemas.fits(at+"/content/application~1json/schema", body)
	}
	if err != nil {
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
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/reference", "/reference/style.css", "/reference/:operation", "/errors", "/errors/:code", "/admin/v1/routes", "/admin/v1/status", "/authz/nginx", "/authz/forward", "/authz/envoy/:path"} {
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
		if told, taken := queryOf(item, op), slices.Sorted(slices.Values(slices.Concat(row.Query, row.Lists))); strings.HasPrefix(path, "/admin/v1/") {
			if strings.HasSuffix(path, "/import") { // each of them says what is wrong with those that it does not take
				taken = slices.DeleteFunc(taken, func(name string) bool { return !slices.Contains(told, name) })
			}
			if row.NoBody != (op.RequestBody == nil && row.Method != http.MethodGet) {
				t.Errorf("%s %s: openapi.json has a body: %t, the program takes none: %t", row.Method, path, op.RequestBody != nil, row.NoBody)
			}
			if !slices.Equal(told, taken) {
				t.Errorf("%s %s: openapi.json has the parameters %q, the program %q", row.Method, path, told, taken)
			}
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

// queryOf returns the names of the parameters in the query of an operation, in alphabetical order.
func queryOf(item *openapi3.PathItem, op *openapi3.Operation) (names []string) {
	for _, p := range slices.Concat(item.Parameters, op.Parameters) {
		if p.Value.In == "query" {
			names = append(names, p.Value.Name)
		}
	}
	slices.Sort(names)
	return names
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

// TestReference opens the page of every operation on the listeners, follows every link, and wants
// nothing on them that their policy forbids.
func TestReference(t *testing.T) {
	b := newDashboard(t, func(c *Config) { c.Server.BaseURL = "https://api.example.net" })
	b.Server.ListensAt("https://api.example.net")
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	schemas := map[string]bool{}
	for name, get := range map[string]func(string) *httptest.ResponseRecorder{
		"api": func(path string) *httptest.ResponseRecorder { return fetchPage(t, b.api, path) }, "socket": func(path string) *httptest.ResponseRecorder { return fetchPage(t, b.local, path) }, "dashboard": b.get,
	} {
		opened := map[string]bool{}
		open := func(path string) (status int, page string) {
			w := get(path)
			if page = w.Body.String(); w.Code != 200 {
				return w.Code, page
			}
			known := map[string]bool{}
			for _, m := range ids.FindAllStringSubmatch(page, -1) {
				if known[m[1]] {
					t.Errorf("%s: %s: the id %s appears twice", name, path, m[1])
				}
				known[m[1]] = true
			}
			for _, m := range hrefs.FindAllStringSubmatch(page, -1) {
				if anchor, ok := strings.CutPrefix(m[1], "#"); ok && !known[anchor] {
					t.Errorf("%s: %s: the link %s leads nowhere", name, path, m[1])
				} else if !ok && !opened[m[1]] {
					if opened[m[1]] = true; get(m[1]).Code != 200 {
						t.Errorf("%s: %s has a link to %s, which is not there", name, path, m[1])
					}
				}
			}
			if strings.Contains(page, "style=") || strings.Contains(page, "<no value>") || name != "dashboard" && strings.Contains(page, "<script") {
				t.Errorf("%s: %s: something on the page is inline, or empty", name, path)
			}
			return w.Code, page
		}
		_, list := open("/reference")
		for path, item := range doc.Paths.Map() {
			for method, op := range item.Operations() {
				want := name != "api" || !strings.HasPrefix(path, "/admin/")
				if got := strings.Contains(list, `href="/reference/`+op.OperationID+`"`); got != want {
					t.Errorf("%s: %s %s is in the list: %v, want %v", name, method, path, got, want)
				}
				status, page := open("/reference/" + op.OperationID)
				if (status == 200) != want || want && (!strings.Contains(page, "<code>"+path+"</code>") || !strings.Contains(page, html.EscapeString(op.Summary))) {
					t.Errorf("%s: %s %s: got %d %s", name, method, path, status, page)
				}
				for _, m := range regexp.MustCompile(`id="schema-([^"]+)"`).FindAllStringSubmatch(page, -1) {
					schemas[m[1]] = true
				}
			}
		}
		for event, item := range doc.Webhooks {
			for _, m := range regexp.MustCompile(`id="schema-([^"]+)"`).FindAllStringSubmatch(func() string { _, page := open("/reference/" + item.Post.OperationID); return page }(), -1) {
				schemas[m[1]] = true
			}
			if !strings.Contains(list, `href="/reference/`+item.Post.OperationID+`"`) {
				t.Errorf("%s: the list lacks the webhook event %s", name, event)
			}
		}
		for id, want := range map[string]string{
			"listAgents": `curl -H &#34;Authorization: Bearer $KEY&#34; &#34;https://api.example.net/api/v1/agents&#34;`,
			"startCall":  `&#34;https://api.example.net/api/v1/calls&#34; -d &#39;{&#34;agent_id&#34;:2,&#34;phone_number&#34;:&#34;&#43;4930555044&#34;`,
		} {
			if _, page := open("/reference/" + id); !strings.Contains(page, want) {
				t.Errorf("%s: %s lacks %s", name, id, want)
			}
		}
		if status, _ := open("/reference/none"); status != 404 {
			t.Errorf("%s: an endpoint that is not there: got %d, want 404", name, status)
		}
	}
	for schema := range doc.Components.Schemas {
		if !schemas[schema] {
			t.Errorf("no page has the schema %s", schema)
		}
	}
	w := fetchPage(t, b.api, "/reference/listAgents")
	r, again := httptest.NewRequest("GET", "/reference/listAgents", nil), httptest.NewRecorder()
	r.Header.Set("If-None-Match", w.Header().Get("ETag"))
	if b.api.ServeHTTP(again, r); again.Code != 304 {
		t.Errorf("with its tag: got %d, want 304", again.Code)
	}
	if page := b.get("/reference/createKey").Body.String(); !strings.Contains(page, `&#34;http://127.0.0.1:8081/admin/v1/keys&#34;`) {
		t.Errorf("the admin listener's own address is not in its examples: %s", page)
	}
}

// TestReference_Try sends requests from the page of an endpoint.
func TestReference_Try(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents", "can_read_contacts"]`, `"limits": {"requests_per_minute_limit": 5}`)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front <desk>", "phone_number": "+4930555001"}`)
	send := func(endpoint string, wants []string, form ...string) {
		t.Helper()
		w := b.post("/reference/"+endpoint, form...)
		page := w.Body.String()
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("%s %v: got %d, lacks %q: %s", endpoint, form, w.Code, want, page)
			}
		}
		if strings.Contains(page, key) {
			t.Errorf("%s %v: the page repeats the key: %s", endpoint, form, page)
		}
	}
	send("listAgents", []string{"Answer: 200 OK", "Front &lt;desk&gt;", "GET /api/v1/agents", "X-Ratelimit-Remaining: 4"}, "try.key", " "+key+" ")
	send("listCalls", []string{"Answer: 403 Forbidden", "permission_denied", `value="queued"`}, "try.key", key, "query.status", "queued")
	send("createContact", []string{"Answer: 201 Created", "Mara"}, "try.key", key, "body", `{"first_name": "Mara"}`)
	send("listContacts", []string{"Answer: 200 OK", "Mara", "/api/v1/contacts?search=mara"}, "try.key", key, "query.search", "mara")
	send("getContact", []string{"Answer: 404", "not_found"}, "try.key", key, "path.contact_id", "999")
	send("getContact", []string{"Answer: 404", "/api/v1/contacts/..%2F..%2Fkey"}, "try.key", key, "path.contact_id", "../../key")
	send("listAgents", []string{"Answer: 429", "rate_limit_exceeded"}, "try.key", key)
	send("listAgents", []string{"Answer: 401", "invalid_key"}, "try.key", "klen_wrong")
	send("getHealth", []string{"Answer: 200 OK"})
	send("listAgents", []string{"Enter the key", `role="alert"`})
	send("listAgents", []string{"a character that no key has"}, "try.key", "a\nb")
	send("getContact", []string{"contact_id is required"}, "try.key", key, "path.contact_id", "")
	if w := b.post("/reference/createKey", "try.key", key); w.Code != 200 || strings.Contains(w.Body.String(), "Answer:") {
		t.Errorf("an endpoint of the admin listener: got %d %s", w.Code, w.Body)
	}
	// They are requests like all others.
	list := b.operate(200, "GET", "/admin/v1/requests?key="+id, "")["requests"].([]any)
	if len(list) != 6 {
		t.Errorf("got %d requests, want 6: %v", len(list), list)
	}
	for _, row := range list {
		if row.(map[string]any)["client"] != "192.0.2.1" {
			t.Errorf("got %v, want the address of the browser", row)
		}
	}
	audit := fmt.Sprint(b.operate(200, "GET", "/admin/v1/audit?limit=1000", ""))
	if strings.Contains(audit, key) {
		t.Errorf("the audit log has the key: %s", audit)
	}
	b.clocks.Pass(2 * time.Minute)
	for range 30 {
		send("getHealth", []string{"Answer: 200 OK"})
	}
	send("getHealth", []string{"You have sent 30 requests", `role="alert"`})
	b.clocks.Pass(time.Minute)
	send("getHealth", []string{"Answer: 200 OK"})
	send("getOpenAPI", []string{"Answer: 200 OK", "only the beginning is shown"})
	if page := b.post("/reference/getOpenAPI").Body; page.Len() > 200_000 {
		t.Errorf("the page has %d bytes", page.Len())
	}

	// A session that has ended carries the form on, and not the key.
	stranger := newBrowser(b.testApp)
	w := stranger.post("/reference/listContacts", "try.key", key, "query.search", "mara")
	if page := w.Body.String(); w.Code != 401 || strings.Contains(page, key) || !strings.Contains(page, "mara") {
		t.Errorf("got %d %s", w.Code, page)
	}
	r := b.request("POST", "/reference/listAgents", "try.key", key)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if w := b.send(r); w.Code != 403 {
		t.Errorf("from another site: got %d, want 403", w.Code)
	}
	b.setRoleOf("Ann", RoleViewer)
	if w := b.post("/reference/listAgents", "try.key", key); w.Code != 403 {
		t.Errorf("as a viewer: got %d, want 403", w.Code)
	}
	if page := b.get("/reference/listAgents").Body.String(); strings.Contains(page, "try.key") {
		t.Error("a viewer sees the form")
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
