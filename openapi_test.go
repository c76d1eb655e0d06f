package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

var description = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI())
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
		if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), OpenAPI()) || w.Header().Get("ETag") == "" {
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
