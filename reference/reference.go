// Package reference serves openapi.json, the same description as an HTML page, and an HTML page for
// each error code. It uses nothing else of the program.
package reference

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed *.html style.css
var files embed.FS

// Reference serves the description of the endpoints as JSON and as a page, and a page for each error
// code. Requests need no key. A Reference is safe for concurrent use.
type Reference struct {
	openAPI   []byte
	errors    []ErrorEntry
	templates *template.Template
	mu        sync.Mutex
	pages     map[Audience]rendered // the latest page /reference for each audience; protected by mu
}

// Audience selects the endpoints that the page /reference describes.
type Audience int

// The audiences of the page /reference.
const (
	Clients   Audience = iota // the endpoints of the API
	Operators                 // all endpoints, also those below /admin/
)

// rendered is a rendered page /reference.
type rendered struct {
	bases Bases // the URLs in its examples
	body  []byte
}

// Bases holds the URLs of the API and of the admin listener, which the examples of the reference
// use. A URL has no slash at its end.
type Bases struct{ API, Admin string }

// ErrorEntry explains an error code to clients.
type ErrorEntry struct {
	Code     string
	Statuses []int  // HTTP statuses of answers with the code
	Means    string // meaning of the code, one sentence
	When     string // when the server answers with the code
	Do       string // what the client should do
	Example  string // body of an answer with the code
}

// New returns a Reference. openAPI is the description of all endpoints (OpenAPI 3.1, as JSON).
// entries explain all error codes. Do not change openAPI or entries afterwards. New returns an error
// if openAPI is not valid JSON.
func New(openAPI []byte, entries []ErrorEntry) (*Reference, error) {
	f := &Reference{openAPI: openAPI, errors: entries, pages: map[Audience]rendered{}}
	if !json.Valid(openAPI) {
		return nil, errors.New("read openapi.json: it is not valid JSON")
	}
	var err error
	if f.templates, err = template.ParseFS(files, "*.html"); err != nil {
		return nil, fmt.Errorf("read the pages of the reference: %w", err)
	}
	return f, nil
}

// Paths returns the paths of the GET requests that the handler of Handler answers. In a path, :code
// is a parameter, the error code.
func Paths() []string {
	return []string{"/openapi.json", "/reference", "/reference/style.css", "/errors", "/errors/:code"}
}

// Handler returns a handler for the requests that Paths lists. The page /reference describes the
// endpoints for audience; /openapi.json always describes all endpoints. bases returns the URLs for
// the examples in the answer to a request. It must be safe for concurrent use.
func (f *Reference) Handler(audience Audience, bases func(*http.Request) Bases) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/openapi.json":
			send(w, r, "application/json", f.openAPI)
		case "/reference":
			f.serve(w, r, audience, bases(r))
		case "/reference/style.css":
			style, _ := files.ReadFile("style.css")
			sendPage(w, r, "text/css; charset=utf-8", style)
		case "/errors":
			f.page(w, r, "errors.html", map[string]any{"Title": "Errors", "Errors": f.errors})
		default:
			f.errorPage(w, r, strings.TrimPrefix(r.URL.Path, "/errors/"))
		}
	})
}

// errorPage answers with the page of an error code, or with 404 if there is no such code.
func (f *Reference) errorPage(w http.ResponseWriter, r *http.Request, code string) {
	for _, e := range f.errors {
		if e.Code == code {
			f.page(w, r, "error.html", map[string]any{"Title": e.Code, "Error": e})
			return
		}
	}
	restrictPage(w)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	_, _ = fmt.Fprintln(w, "There is no such error code. The list of all is at /errors.")
}

// serve answers with the page /reference. It renders the page only if the URLs have changed since
// the last request, because the page is long and anyone can request it without a key.
func (f *Reference) serve(w http.ResponseWriter, r *http.Request, audience Audience, bases Bases) {
	f.mu.Lock()
	page := f.pages[audience]
	if page.body == nil || page.bases != bases {
		// Read again for each rendering: kept, the document would be a large part of an idle server's memory
		var doc document
		err := json.Unmarshal(f.openAPI, &doc)
		var body []byte
		if err == nil {
			body, err = f.render("reference.html", doc.view(audience, bases))
		}
		if err != nil {
			f.mu.Unlock()
			http.Error(w, "The reference cannot be shown.", http.StatusInternalServerError)
			return
		}
		page = rendered{bases: bases, body: body}
		f.pages[audience] = page
	}
	f.mu.Unlock()
	sendPage(w, r, "text/html; charset=utf-8", page.body)
}

// page answers with an HTML template, executed with data.
func (f *Reference) page(w http.ResponseWriter, r *http.Request, name string, data any) {
	body, err := f.render(name, data)
	if err != nil {
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	sendPage(w, r, "text/html; charset=utf-8", body)
}

func (f *Reference) render(name string, data any) ([]byte, error) {
	var buf bytes.Buffer
	if err := f.templates.ExecuteTemplate(&buf, name, data); err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return buf.Bytes(), nil
}

// restrictPage sets header fields that allow a page to load its own style sheet and nothing else.
func restrictPage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
}

// sendPage is like send, and also sets the header fields of restrictPage.
func sendPage(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	restrictPage(w)
	send(w, r, contentType, body)
}

// send answers with body and its ETag. If the request's If-None-Match is that ETag, it answers with
// 304 and no body.
func send(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	h := w.Header()
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(body))
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

// document holds the parts of openapi.json that the reference shows.
type document struct {
	Info       struct{ Title, Summary, Description string }
	Tags       []struct{ Name string }
	Paths      map[string]map[string]operation
	Components struct {
		Schemas   map[string]schema
		Responses map[string]response
	}
}

type operation struct {
	ID          string `json:"operationId"`
	Summary     string
	Description string
	Tags        []string
	Permission  string `json:"x-permission"`
	Limit       string `json:"x-limit"`
	Security    *[]any
	Parameters  []parameter
	Body        struct {
		Required bool
		Content  map[string]media
	} `json:"requestBody"`
	Responses map[string]response
}

type parameter struct {
	Name, In, Description string
	Required              bool
	Schema                schema
}

type media struct{ Schema schema }

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]media
}

// view is the data of the page /reference. It contains the other types.
type (
	view struct {
		Title, Summary, Description string
		Admin                       bool
		Bases                       Bases
		Sections                    []section
		Schemas                     []shape
	}
	section struct {
		Name, Anchor string
		Operations   []shown
	}
	shown struct {
		operation
		Method, Path, Curl string
		Body               *shape
		Answers            []shownAnswer
		Keyed              bool
	}
	shownAnswer struct {
		Status, Description string
		Type                []typePart
	}
	shape struct {
		Name    string
		Type    []typePart
		Members []member
	}
)

// view returns the data of the page /reference. It has a section for each tag, in the order of the
// document. In a section, operations are sorted by path and then by method. For Clients, paths below
// /admin/ are left out.
func (d document) view(audience Audience, bases Bases) view {
	admin := audience == Operators
	v := view{Title: d.Info.Title, Summary: d.Info.Summary, Description: d.Info.Description, Admin: admin, Bases: bases}
	for _, tag := range d.Tags {
		s := section{Name: tag.Name, Anchor: anchor(tag.Name)}
		for _, route := range slices.Sorted(maps.Keys(d.Paths)) {
			for _, method := range []string{"get", "post", "put", "patch", "delete"} {
				op, ok := d.Paths[route][method]
				if ok && slices.Contains(op.Tags, tag.Name) && (admin || !strings.HasPrefix(route, "/admin/")) {
					s.Operations = append(s.Operations, d.show(op, strings.ToUpper(method), route, v.Bases))
				}
			}
		}
		if len(s.Operations) > 0 {
			v.Sections = append(v.Sections, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		s := d.Components.Schemas[name]
		v.Schemas = append(v.Schemas, shape{Name: name, Type: s.Type(), Members: s.members()})
	}
	return v
}

// anchor returns the HTML id of the section with a name.
func anchor(name string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", ":", "").Replace(name))
}

// show returns the data of one operation on the page.
func (d document) show(op operation, method, route string, bases Bases) shown {
	o := shown{operation: op, Method: method, Path: route, Keyed: op.Security == nil}
	for kind, m := range op.Body.Content {
		if o.Body == nil || kind == "application/json" {
			o.Body = &shape{Name: kind, Type: m.Schema.Type(), Members: m.Schema.members()}
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		answer := op.Responses[status]
		if answer.Ref != "" {
			answer = d.Components.Responses[path.Base(answer.Ref)]
		}
		a := shownAnswer{Status: status, Description: answer.Description}
		for _, kind := range slices.Sorted(maps.Keys(answer.Content)) {
			if kind == "application/json" {
				a.Type = answer.Content[kind].Schema.Type()
			} else {
				a.Type = append(a.Type, typePart{Text: kind})
			}
		}
		o.Answers = append(o.Answers, a)
	}
	o.Curl = d.curl(o, bases)
	return o
}

// curl returns a curl command that calls the operation. It has sample values for the parameters in
// the path, the required query parameters and the body.
func (d document) curl(o shown, bases Bases) string {
	base, key := bases.API, ""
	switch {
	case strings.HasPrefix(o.Path, "/admin/"):
		base, key = bases.Admin, "$LATCHKEY_ADMIN_TOKEN"
	case o.Keyed:
		key = "$KEY"
	}
	at, query := o.Path, ""
	for _, p := range o.Parameters {
		value := p.Schema.sample(d.Components.Schemas)
		if p.In == "path" {
			at = strings.ReplaceAll(at, "{"+p.Name+"}", fmt.Sprint(value))
		}
		if p.In == "query" && p.Required {
			query += fmt.Sprintf("&%s=%v", p.Name, value)
		}
	}
	if query != "" {
		query = "?" + query[1:]
	}
	line := "curl"
	if o.Method != "GET" && (o.Method != "POST" || o.Body == nil) {
		line += " -X " + o.Method
	}
	if key != "" {
		line += ` -H "Authorization: Bearer ` + key + `"`
	}
	line += ` "` + base + at + query + `"`
	if o.Body != nil {
		body, ok := o.operation.Body.Content["application/json"]
		if !ok {
			return line + " -d token=..."
		}
		sample, err := json.Marshal(body.Schema.sample(d.Components.Schemas))
		if err == nil {
			line += ` -d '` + strings.ReplaceAll(string(sample), "'", `'\''`) + `'`
		}
	}
	return line
}
