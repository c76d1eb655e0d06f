package dashboard

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Reference describes the endpoints. Package main implements it with its reference pages. It must be
// safe for concurrent use.
type Reference interface {
	// List returns a list of the endpoints that match search as HTML. An endpoint has the path
	// "/reference/" and its id.
	List(search string) (template.HTML, error)
	// Endpoint returns the endpoint with an id, with examples for the URLs of r. ok is false if there is
	// no such endpoint.
	Endpoint(r *http.Request, id string) (e Endpoint, ok bool, err error)
}

// Endpoint is an endpoint as its page shows it.
type Endpoint struct {
	Title, Method, Path, Group string
	HTML, Answers              template.HTML // its description, and that of its answers and schemas
	Inputs                     []EndpointInput
	Body, BodyType             string // a sample of the body and its content type; "" if it has none
	Keyed                      bool   // it requires a key
	OnAPI                      bool   // the API listener serves it
}

// EndpointInput is a parameter of an endpoint. In is "path", "query" or "header". Sample is a value that
// fits, or "".
type EndpointInput struct {
	Name, In, Note, Sample string
	Required               bool
}

// Field returns the name of the field for the parameter in the form.
func (in EndpointInput) Field() string { return in.In + "." + in.Name }

// referencePages are the pages of the endpoints, with a form that sends a request to one.
type referencePages struct {
	reference Reference
	api       http.Handler // serves the API listener
	apiURL    func() string
	tries     *tries
}

func newReferencePages(o Options) *referencePages {
	return &referencePages{o.Reference, o.API, o.APIURL, &tries{counts: map[uint64]int{}}}
}

func (p *referencePages) sections() []section {
	return []section{{"Help", "API reference", "/reference"}}
}

// mayTry is the endpoint that an operator must be allowed to use to send requests with a key. Who may
// create keys could create one with the same permissions, so this allows nothing new.
const mayTry = "POST /admin/v1/keys"

func (p *referencePages) pages() map[string]page {
	return map[string]page{
		"GET /reference": {anyRole, p.list}, "GET /reference/{id}": {anyRole, func(v *pageRequest) { p.show(v, endpointPage{}, nil) }},
		"POST /reference/{id}": {mayTry, p.try},
	}
}

func (p *referencePages) list(v *pageRequest) {
	list, err := p.reference.List(v.query.Get("search"))
	if err != nil {
		v.showFault(unexpected())
		return
	}
	v.show(http.StatusOK, "reference", view{Title: "API reference", Data: list, Form: v.query})
}

// endpointPage is the data of the page of an endpoint.
type endpointPage struct {
	Endpoint
	ID     string
	May    bool       // the form is shown
	Sent   url.Values // what the form had, without the key; nil if it was not sent
	Answer *tried     // nil if no request was sent
}

// Value returns what a field of the form shows.
func (p endpointPage) Value(name, sample string) string {
	if p.Sent == nil {
		return sample
	}
	return p.Sent.Get(name)
}

// show shows the page of an endpoint, with what page already has.
func (p *referencePages) show(v *pageRequest, page endpointPage, fault *Fault) {
	page.ID = v.R.PathValue("id")
	e, ok, err := p.reference.Endpoint(v.R, page.ID)
	if err != nil {
		v.showFault(unexpected())
		return
	}
	if !ok {
		v.showFault(&Fault{Status: http.StatusNotFound, Message: "There is no such endpoint."})
		return
	}
	page.Endpoint, page.May = e, e.OnAPI && v.may(mayTry)
	shown, status := view{Title: e.Title, Data: page}, http.StatusOK
	if fault != nil {
		shown.Fault, status = fault.Message, fault.Status
	}
	v.show(status, "endpoint", shown)
}

// tryKey is the field for the key. No page carries it: it is used for one request and then forgotten.
const tryKey = "try.key"

// tried is the answer to a request that was sent from the page.
type tried struct {
	Line         string // method and path of the request
	Status       int
	StatusText   string
	Fields       []namedText
	Body         string
	Cut          bool // the body was longer
	Bytes        int
	Milliseconds int64
}

// try sends a request to the API as any client does: it passes the same checks, costs the same, and is
// among the latest requests. Like every request with a key it has no entry in the audit log: the key
// allows it, not the operator's role, and it can change only the data of the key's owner.
func (p *referencePages) try(v *pageRequest) {
	key, _ := takeField(v.R, tryKey)
	key = strings.TrimSpace(key)
	page := endpointPage{Sent: v.R.PostForm}
	e, ok, err := p.reference.Endpoint(v.R, v.R.PathValue("id"))
	if err != nil || !ok || !e.OnAPI {
		p.show(v, page, nil)
		return
	}
	if e.Keyed && key == "" {
		p.show(v, page, invalid("Enter the key that the request is sent with. No page keeps it."))
		return
	}
	r, fault := e.request(v, key)
	if fault == nil && !p.tries.allow(v.ID, v.now()) {
		fault = &Fault{Status: http.StatusTooManyRequests, Message: fmt.Sprintf("You have sent %d requests from these pages within a minute. Wait a minute, or use curl.", maxTries)}
	}
	if fault != nil {
		p.show(v, page, fault)
		return
	}
	if u, err := url.Parse(p.apiURL()); err == nil && u.Host != "" {
		r.Host = u.Host
	}
	if page.Answer, fault = p.send(v, r, key); fault == nil {
		page.Answer.Line = e.Method + " " + hide(r.URL.RequestURI(), key)
	}
	p.show(v, page, fault)
}

// request returns the request that the form of v describes. Its context has nothing of the operator's.
func (e Endpoint) request(v *pageRequest, key string) (*http.Request, *Fault) {
	at, query, header := e.Path, url.Values{}, http.Header{"User-Agent": {"latchkey-dashboard"}}
	for _, in := range e.Inputs {
		value := v.R.PostForm.Get(in.Field())
		switch {
		case strings.ContainsFunc(value, unicode.IsControl):
			return nil, invalid("%s has a control character.", in.Name)
		case in.In == "path" && (value == "" || value == "." || value == ".."):
			return nil, invalid("%s is required.", in.Name)
		case in.In == "path":
			at = strings.ReplaceAll(at, "{"+in.Name+"}", url.PathEscape(value))
		case value == "":
		case in.In == "query":
			query.Set(in.Name, value)
		case in.In == "header":
			header.Set(in.Name, value)
		}
	}
	if len(query) > 0 {
		at += "?" + query.Encode()
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= unicode.MaxASCII }) {
		return nil, invalid("The key has a character that no key has.")
	}
	body := ""
	if e.Body != "" {
		body = v.R.PostForm.Get("body")
		header.Set("Content-Type", e.BodyType)
	}
	if key != "" {
		header.Set("Authorization", "Bearer "+key)
	}
	for _, name := range []string{"X-Forwarded-For", "Forwarded"} { // the client is the operator's browser
		if v.R.Header[name] != nil {
			header[name] = v.R.Header[name]
		}
	}
	r := httptest.NewRequestWithContext(context.Background(), e.Method, at, strings.NewReader(body))
	r.Header, r.RemoteAddr = header, v.R.RemoteAddr
	return r, nil
}

// tryTime is how long the answer to such a request may take.
const tryTime = 20 * time.Second

// send sends a request to the API and returns the answer, in which key is hidden.
func (p *referencePages) send(v *pageRequest, r *http.Request, key string) (t *tried, fault *Fault) {
	ctx, cancel := context.WithTimeout(r.Context(), tryTime)
	defer cancel()
	defer context.AfterFunc(v.R.Context(), cancel)()
	w := &answerStart{header: http.Header{}}
	began := time.Now()
	defer func() {
		if ended := recover(); ended != nil && ended != http.ErrAbortHandler {
			panic(ended)
		} else if ended != nil {
			t, fault = nil, &Fault{Status: http.StatusBadGateway, Message: "The request was ended before its answer was complete."}
		}
	}()
	p.api.ServeHTTP(w, r.WithContext(ctx))
	t = &tried{Status: cmp.Or(w.status, http.StatusOK), Body: hide(w.text(), key), Cut: w.size > w.body.Len(), Bytes: w.size, Milliseconds: time.Since(began).Milliseconds()}
	t.StatusText = http.StatusText(t.Status)
	for _, name := range slices.Sorted(maps.Keys(w.header)) {
		t.Fields = append(t.Fields, namedText{name, hide(strings.Join(w.header[name], ", "), key)})
	}
	return t, nil
}

// hide replaces a key in a text.
func hide(text, key string) string {
	if key == "" {
		return text
	}
	return strings.ReplaceAll(text, key, "(redacted)")
}

// maxAnswer is the number of bytes of an answer that the page shows.
const maxAnswer = 64 << 10

// answerStart is an http.ResponseWriter that keeps the beginning of an answer.
type answerStart struct {
	header http.Header
	status int
	body   bytes.Buffer
	size   int // of the whole body
}

// Header returns the header of the answer.
func (a *answerStart) Header() http.Header { return a.header }

// WriteHeader sets the status.
func (a *answerStart) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

// Write keeps data as far as there is room.
func (a *answerStart) Write(data []byte) (int, error) {
	a.size += len(data)
	a.body.Write(data[:min(len(data), maxAnswer-a.body.Len())])
	return len(data), nil
}

// text returns the body as the page shows it.
func (a *answerStart) text() string {
	var indented bytes.Buffer
	if json.Indent(&indented, a.body.Bytes(), "", "  ") == nil {
		return indented.String()
	}
	text := a.body.String()
	if a.size > a.body.Len() {
		text = strings.ToValidUTF8(text, "")
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return "(not text)"
	}
	return text
}

// maxTries is how many requests an operator may send from the pages in a minute.
const maxTries = 30

// tries counts the requests of each operator in the present minute. It is safe for concurrent use.
type tries struct {
	mu     sync.Mutex
	minute int64
	counts map[uint64]int
}

// allow counts a request, unless the operator has sent maxTries.
func (t *tries) allow(operator uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if minute := now.Unix() / 60; minute != t.minute {
		t.minute = minute
		clear(t.counts)
	}
	if t.counts[operator] >= maxTries {
		return false
	}
	t.counts[operator]++
	return true
}
