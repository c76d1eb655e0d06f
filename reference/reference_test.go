package reference

import (
	"bytes"
	"errors"
	"latchkey/internal/packed"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
)

const small = `{"info": {"title": "Small", "summary": "It is small"}, "tags": [{"name": "things"}], "paths": {
	"/things/{id}": {"put": {"operationId": "change", "summary": "Change a thing", "tags": ["things"],
		"parameters": [{"name": "id", "in": "path", "schema": {"type": "integer", "examples": [7]}}],
		"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
		"responses": {"200": {"description": "It is changed"}}}},
	"/admin/things": {"get": {"operationId": "list", "summary": "List things", "tags": ["things"], "responses": {}}}},
	"components": {"schemas": {"Thing": {"type": "object", "required": ["name"], "properties": {
		"name": {"type": ["string", "null"], "examples": ["it's"]}, "sizes": {"type": "array", "items": {"type": "integer", "minimum": 2}, "maxItems": 9},
		"length": {"type": "integer", "minimum": 1, "maximum": 180, "default": 30}, "day": {"type": "string", "format": "date", "description": "of delivery"},
		"word": {"type": "string", "maxLength": 1000}, "other": {"$ref": "#/components/schemas/Thing"},
		"parts": {"type": ["array", "null"], "items": {"type": "object", "required": ["kind"], "properties": {
			"kind": {"type": "string"}, "holes": {"type": "object", "additionalProperties": {"type": "object", "properties": {"deep": {"type": "boolean"}}}}}}}}}}}}`

func ask(t *testing.T, door http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	door.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

// TestHandler requests every path for both audiences and checks where the answers differ.
func TestHandler(t *testing.T) {
	f := New(func() ([]byte, error) { return []byte(small), nil }, []ErrorEntry{{Code: "too_small", Statuses: []int{400, 413}, Means: "It is too small.", Example: `{"error": "too_small"}`}})
	bases := func(r *http.Request) Bases { return Bases{API: "http://api.example", Admin: "http://" + r.Host} }
	for _, audience := range []Audience{Clients, Operators} {
		admin := audience == Operators
		door := f.Handler(audience, bases)
		for _, path := range Paths() {
			if w := ask(t, door, strings.NewReplacer(":code", "too_small", ":operation", "change").Replace(path)); w.Code != 200 || w.Header().Get("ETag") == "" {
				t.Errorf("%s: got %d %v", path, w.Code, w.Header())
			}
		}
		if w := ask(t, door, "/reference/none"); w.Code != 404 || !strings.Contains(w.Body.String(), "no such endpoint") {
			t.Errorf("an unknown endpoint: got %d %s", w.Code, w.Body)
		}
		if w := ask(t, door, "/errors/none"); w.Code != 404 || !strings.Contains(w.Body.String(), "no such error code") {
			t.Errorf("an unknown code: got %d %s", w.Code, w.Body)
		}
		if got := strings.Contains(ask(t, door, "/reference").Body.String(), `href="/reference/list"`); got != admin {
			t.Errorf("admin %v: the admin listener's endpoint is in the list: %v", admin, got)
		}
		if got := ask(t, door, "/reference/list").Code == 200; got != admin {
			t.Errorf("admin %v: the admin listener's endpoint has a page: %v", admin, got)
		}
		for search, want := range map[string]bool{"CHANGE put": true, "things/": true, "missing": false} {
			if got := strings.Contains(ask(t, door, "/reference?search="+url.QueryEscape(search)).Body.String(), `href="/reference/change"`); got != want {
				t.Errorf("admin %v: %q finds the endpoint: %v, want %v", admin, search, got, want)
			}
		}
		page := ask(t, door, "/reference/change").Body.String()
		for _, want := range []string{
			`curl -X PUT -H &#34;Authorization: Bearer $KEY&#34; &#34;http://api.example/things/7&#34; -d &#39;{&#34;name&#34;:&#34;it&#39;\&#39;&#39;s&#34;}&#39;`,
			`<tr class="inner"><td data-head="Member"><span><code>parts[].kind</code> <span class="must soft">required</span>`, `<code>parts[].holes.*.deep</code>`,
			`<span>default 30; 1 to 180</span>`, `<span>of delivery; YYYY-MM-DD</span>`, `<span>at most 1,000 characters</span>`, `<span>at most 9 entries; each: at least 2</span>`,
			`<span>string or null</span>`, `<span>array of integer</span>`, `<span class="must soft">required</span>`, `<a href="#schema-Thing">Thing</a>`,
		} {
			if !strings.Contains(page, want) {
				t.Errorf("admin %v: the page lacks %s", admin, want)
			}
		}
		if strings.Contains(page, "other.") { // a schema with a name has a section of its own
			t.Errorf("admin %v: the page repeats a schema", admin)
		}
	}
	if got := ask(t, f.Handler(Clients, bases), "/openapi.json"); got.Body.String() != small || got.Header().Get("Content-Security-Policy") != "" {
		t.Errorf("got %v %s", got.Header(), got.Body)
	}
	if got := ask(t, f.Handler(Clients, bases), "/errors/too_small").Body.String(); !strings.Contains(got, "Status 400, 413") {
		t.Errorf("got %s", got)
	}
}

func TestReference_BadDescription(t *testing.T) {
	nobody := func(*http.Request) Bases { return Bases{} }
	f := New(func() ([]byte, error) { return []byte("{"), nil }, nil)
	if _, err := f.contents(); err == nil || !strings.Contains(err.Error(), "read openapi.json") {
		t.Errorf("got %v", err)
	}
	if w := ask(t, f.Handler(Clients, nobody), "/reference"); w.Code != http.StatusInternalServerError {
		t.Errorf("got %d", w.Code)
	}
	f = New(func() ([]byte, error) { return nil, errors.New("no") }, nil)
	if w := ask(t, f.Handler(Clients, nobody), "/openapi.json"); w.Code != http.StatusInternalServerError {
		t.Errorf("got %d", w.Code)
	}
}

// TestOpenAPI wants the packed description to be that of the file.
func TestOpenAPI(t *testing.T) {
	file, err := os.ReadFile("../openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("LATCHKEY_WRITE_DOCS") != "" {
		if err := os.WriteFile("openapi.json.gz", packed.Pack(file), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := OpenAPI(); err != nil || !bytes.Equal(got, file) {
		t.Errorf("reference/openapi.json.gz is not openapi.json; run LATCHKEY_WRITE_DOCS=1 go test -run TestOpenAPI ./reference (%v)", err)
	}
}
