package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/julienschmidt/httprouter"
)

//go:embed reference
var referenceFiles embed.FS

// Reference serves the description of the endpoints as pages for people, with
// a page for each error code. It needs no key. It is safe for concurrent use.
type Reference struct {
	doc       document
	templates *template.Template
	mu        sync.Mutex
	made      map[bool]rendered // by whether the admin door's endpoints are on it
}

// rendered is the reference as it was last asked for.
type rendered struct {
	key  string
	body []byte
}

// Bases are the addresses that stand in the examples of the reference.
type Bases struct{ API, Admin string }

// NewReference makes the pages ready.
func NewReference() (*Reference, error) {
	r := &Reference{made: map[bool]rendered{}}
	if err := json.Unmarshal(OpenAPI(), &r.doc); err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	var err error
	if r.templates, err = template.ParseFS(referenceFiles, "reference/*.html"); err != nil {
		return nil, fmt.Errorf("read the pages of the reference: %w", err)
	}
	return r, nil
}

// Rows are its endpoints for one door: with admin those of both doors are
// described, else those of the API door. bases tells where they are reached.
func (f *Reference) Rows(admin bool, bases func(*http.Request) Bases) []Row {
	row := func(path string, serve httprouter.Handle) Row { return Row{Route{Method: "GET", Path: path}, serve} }
	return []Row{
		row("/reference", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { f.serve(w, r, admin, bases(r)) }),
		row("/reference/style.css", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
			style, _ := referenceFiles.ReadFile("reference/style.css")
			send(w, r, "text/css; charset=utf-8", style)
		}),
		row("/errors", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
			f.page(w, r, "errors.html", map[string]any{"Title": "Errors", "Errors": ErrorCatalog()})
		}),
		row("/errors/:code", func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
			for _, e := range ErrorCatalog() {
				if e.Code == p.ByName("code") {
					f.page(w, r, "error.html", map[string]any{"Title": e.Code, "Error": e})
					return
				}
			}
			guardPage(w)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprintln(w, "There is no such error code. The list of all is at /errors.")
		}),
	}
}

// serve answers with the reference. It is rendered when an address has changed
// and else sent again: it is long, and everybody may ask for it.
func (f *Reference) serve(w http.ResponseWriter, r *http.Request, admin bool, at Bases) {
	key := at.API + " " + at.Admin
	f.mu.Lock()
	page := f.made[admin]
	if page.key != key {
		body, err := f.render("reference.html", f.doc.view(admin, at))
		if err != nil {
			f.mu.Unlock()
			http.Error(w, "The reference cannot be shown.", http.StatusInternalServerError)
			return
		}
		page = rendered{key: key, body: body}
		f.made[admin] = page
	}
	f.mu.Unlock()
	send(w, r, "text/html; charset=utf-8", page.body)
}

func (f *Reference) page(w http.ResponseWriter, r *http.Request, name string, data any) {
	body, err := f.render(name, data)
	if err != nil {
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	send(w, r, "text/html; charset=utf-8", body)
}

func (f *Reference) render(name string, data any) ([]byte, error) {
	var buf bytes.Buffer
	if err := f.templates.ExecuteTemplate(&buf, name, data); err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return buf.Bytes(), nil
}

// guardPage lets a page load its own style and nothing else.
func guardPage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
}

// send answers with a page that changes only with the program.
func send(w http.ResponseWriter, r *http.Request, kind string, body []byte) {
	guardPage(w)
	h := w.Header()
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(body))
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", kind)
	_, _ = w.Write(body)
}

// document is what the reference shows of openapi.json.
type document struct {
	Info       struct{ Title, Summary, Description string }
	Tags       []struct{ Name string }
	Paths      map[string]map[string]operation
	Components struct {
		Schemas   map[string]Schema
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
	Schema                Schema
}

type media struct{ Schema Schema }

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]media
}

// What the page shows.
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
		Type                []TypePart
	}
	shape struct {
		Name    string
		Type    []TypePart
		Members []SchemaMember
	}
)

// view puts the operations into the order of the tags, then of the paths.
func (d document) view(admin bool, at Bases) view {
	v := view{Title: d.Info.Title, Summary: d.Info.Summary, Description: d.Info.Description, Admin: admin, Bases: at}
	for _, tag := range d.Tags {
		s := section{Name: tag.Name, Anchor: anchor(tag.Name)}
		for _, at := range slices.Sorted(maps.Keys(d.Paths)) {
			for _, method := range []string{"get", "post", "put", "patch", "delete"} {
				op, ok := d.Paths[at][method]
				if ok && slices.Contains(op.Tags, tag.Name) && (admin || !strings.HasPrefix(at, "/admin/")) {
					s.Operations = append(s.Operations, d.show(op, strings.ToUpper(method), at, v.Bases))
				}
			}
		}
		if len(s.Operations) > 0 {
			v.Sections = append(v.Sections, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		s := d.Components.Schemas[name]
		v.Schemas = append(v.Schemas, shape{Name: name, Type: s.Type(), Members: s.Members()})
	}
	return v
}

func anchor(name string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", ":", "").Replace(name))
}

func (d document) show(op operation, method, at string, bases Bases) shown {
	o := shown{operation: op, Method: method, Path: at, Keyed: op.Security == nil}
	for kind, m := range op.Body.Content {
		if o.Body == nil || kind == "application/json" {
			o.Body = &shape{Name: kind, Type: m.Schema.Type(), Members: m.Schema.Members()}
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
				a.Type = append(a.Type, TypePart{Text: kind})
			}
		}
		o.Answers = append(o.Answers, a)
	}
	o.Curl = d.curl(o, bases)
	return o
}

// curl gives a line that asks for the operation, with a sample of what it
// needs.
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
		value := p.Schema.Sample(d.Components.Schemas)
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
		sample, err := json.Marshal(body.Schema.Sample(d.Components.Schemas))
		if err == nil {
			line += ` -d '` + strings.ReplaceAll(string(sample), "'", `'\''`) + `'`
		}
	}
	return line
}

// openAPI describes every endpoint of both doors (OpenAPI 3.1). A test holds
// it against the routes, and every answer in the tests against it.
//
//go:embed openapi.json
var openAPI []byte

// OpenAPI gives the description of all endpoints, as JSON. It must not be
// changed.
func OpenAPI() []byte { return openAPI }

// ServeOpenAPI answers with the description. It needs no key.
func ServeOpenAPI(w http.ResponseWriter, r *http.Request) {
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(openAPI))
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_ = WriteBody(w, http.StatusOK, openAPI)
}
