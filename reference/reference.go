// Package reference serves openapi.json, the same description as an HTML page, and an HTML page for
// each error code. It uses nothing else of the program.
package reference

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"latchkey/internal/packed"
	"latchkey/internal/query"
)

//go:embed *.html style.css
var files embed.FS

// Reference serves the description of the endpoints as JSON and as pages, and a page for each error
// code. Requests need no key. A Reference is safe for concurrent use.
type Reference struct {
	errors []ErrorEntry
	// Nothing is read before the first request for it, because few services are ever asked.
	openAPI   func() ([]byte, error)
	templates func() (*template.Template, error)
	contents  func() (*contents, error)
}

// Audience selects the endpoints that the pages describe.
type Audience int

// The audiences of the pages.
const (
	Clients   Audience = iota // the endpoints of the API
	Operators                 // all endpoints, also those below /admin/
)

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

// New returns a Reference. openAPI returns the description of all endpoints (OpenAPI 3.1, as JSON); it is
// called once, at the first request for it. entries explain all error codes. Do not change either
// afterwards.
func New(openAPI func() ([]byte, error), entries []ErrorEntry) *Reference {
	f := &Reference{errors: entries, openAPI: sync.OnceValues(openAPI)}
	f.contents = sync.OnceValues(f.read)
	f.templates = sync.OnceValues(func() (*template.Template, error) { return template.ParseFS(files, "*.html") })
	return f
}

//go:embed openapi.json.gz
var openAPI []byte

// OpenAPI returns openapi.json, which is part of the program as gzip.
func OpenAPI() ([]byte, error) {
	data, err := packed.Unpack(openAPI)
	if err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	return data, nil
}

// Paths returns the paths of the GET requests that the handler of Handler answers. In a path, :code
// is a parameter, the error code, and :operation the id of an operation.
func Paths() []string {
	return []string{"/openapi.json", "/reference", "/reference/style.css", "/reference/:operation", "/errors", "/errors/:code"}
}

// Handler returns a handler for the requests that Paths lists. The pages below /reference describe the
// endpoints for audience; /openapi.json always describes all endpoints. bases returns the URLs for
// the examples in the answer to a request. It must be safe for concurrent use.
func (f *Reference) Handler(audience Audience, bases func(*http.Request) Bases) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/openapi.json":
			description, err := f.openAPI()
			if err != nil {
				http.Error(w, "The description cannot be read.", http.StatusInternalServerError)
				return
			}
			send(w, r, "application/json", description)
		case "/reference":
			f.index(w, r, audience, bases(r))
		case "/reference/style.css":
			style, _ := files.ReadFile("style.css")
			sendPage(w, r, "text/css; charset=utf-8", style)
		case "/errors":
			f.page(w, r, "errors.html", map[string]any{"Title": "Errors", "Errors": f.errors})
		default:
			if id, is := strings.CutPrefix(r.URL.Path, "/reference/"); is {
				f.operationPage(w, r, id, audience, bases(r))
				return
			}
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
	missing(w, "There is no such error code. The list of all is at /errors.")
}

// index answers with the list of the endpoints.
func (f *Reference) index(w http.ResponseWriter, r *http.Request, audience Audience, bases Bases) {
	all, err := f.contents()
	if err != nil {
		http.Error(w, "The reference cannot be shown.", http.StatusInternalServerError)
		return
	}
	q, err := query.Parse(r.URL.RawQuery)
	if err == nil {
		q, err = query.Once(q, "search")
	}
	if err != nil {
		restrictPage(w)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	search := q.Get("search")
	f.page(w, r, "reference.html", map[string]any{
		"Title": all.Info.Title + " reference", "Info": all.Info, "Admin": audience == Operators, "Bases": bases, "Search": search, "Groups": all.find(audience, search),
	})
}

// operationPage answers with the page of an operation, or with 404 if the audience has no such one.
func (f *Reference) operationPage(w http.ResponseWriter, r *http.Request, id string, audience Audience, bases Bases) {
	all, err := f.contents()
	if err != nil {
		http.Error(w, "The reference cannot be shown.", http.StatusInternalServerError)
		return
	}
	o, err := all.show(audience, id, bases)
	if err != nil {
		missing(w, "There is no such endpoint. The list of all is at /reference.")
		return
	}
	f.page(w, r, "operation.html", map[string]any{"Title": o.Summary, "Operation": o})
}

// missing answers with 404.
func missing(w http.ResponseWriter, text string) {
	restrictPage(w)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	_, _ = fmt.Fprintln(w, text)
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
	templates, err := f.templates()
	if err == nil {
		err = templates.ExecuteTemplate(&buf, name, data)
	}
	if err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return buf.Bytes(), nil
}

// restrictPage sets header fields that allow a page to load its own style sheet and nothing else.
func restrictPage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
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
