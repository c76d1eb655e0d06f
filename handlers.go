// The handlers family has what all endpoints share. Read handlers.go first (Request, Route, pages
// of lists), then handlers_credential.go (where a key may be sent), handlers_address.go (the
// client's address), handlers_secrets.go (recognizing keys in any form), handlers_body.go (strict
// reading of JSON), handlers_query.go (reading of queries), handlers_heavy.go (bounding searches and imports), handlers_router.go (registering routes
// with the router), handlers_fields.go (header fields of every answer), handlers_records.go
// (creating, listing, changing and importing records of any kind), handlers_import.go (the rows of
// an import, in JSON or CSV) and handlers_idempotency.go (answering a repeated request). It depends
// on no particular kind of record.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"

	"latchkey/internal/strictjson"
)

// Request is a request that has passed all checks of its route. It is passed to the handler and
// must be used by only one goroutine.
type Request struct {
	*http.Request
	Params httprouter.Params
	ID     string     // request id, which is also in the answer and the log
	Route  string     // path pattern of the route, "-" if no route matches
	Client netip.Addr // address of the client, see ClientAddr
	Key    *Key       // the caller's key; nil on the admin listener
	// Secrets recognizes the secret that was sent. It is for DropSecrets and must not be logged.
	Secrets Secrets
	Caller  *Caller // the caller of the admin endpoint; nil on the API listener
	// Effect is where the last change of the request is, if the server is a node of a cluster.
	Effect Effect
	Now    time.Time // time of the wall clock, for stored times and answers
	Steady time.Time // time of the service clock, which never goes back; only for limits
	Latest time.Time // upper bound of the true time (Clock.Latest), to decide whether keys and links have expired
	// Earliest is a lower bound of the true time (Clock.Earliest), to decide whether something may be forgotten.
	Earliest time.Time
	// MaxBody is the maximum size of the body in bytes.
	MaxBody int64
	// Finishes is the field of the Route. A handler sets it for a request whose body ends something.
	Finishes bool
	// Limits has the status of each limit that applies to this request. The server writes it to
	// the header fields of the answer.
	Limits []LimitStatus

	Parameters []string   // the field Query of the Route
	query      url.Values // the parameters of the query; nil: not read yet, or the query is empty
}

// Deed returns who makes the request, its action and the object of the action, for the audit log.
func (r *Request) Deed() AuditContext {
	actor := r.Actor()
	if r.Key != nil {
		actor = "key " + r.Key.ID
	}
	return AuditContext{Actor: actor, Client: r.Client, Action: r.Method + " " + r.Route, Object: RouteObject(r.Route, r.Params), Request: r.ID, Now: r.Now, Latest: r.Latest}
}

// Actor returns the name of the caller of the admin endpoint, or "" if there is none.
func (r *Request) Actor() string {
	if r.Caller == nil {
		return ""
	}
	return r.Caller.Name
}

// Update runs run in a write transaction of store. On the admin listener the same transaction adds
// an audit log entry. A change made with a key has none, because it concerns only the data of
// the key's owner: it has an entry in the activity of the key.
func (r *Request) Update(store *Store, run func(*Tx) error) error {
	by := Writer{}
	if r.Key != nil {
		by = r.writer()
	} else {
		deed, inner := r.Deed(), run
		run = func(tx *Tx) error { return deed.In(tx, inner) }
	}
	effect, err := store.UpdateWith(by, run)
	if effect.Head > r.Effect.Head {
		r.Effect = effect
	}
	return err
}

// writer returns the Writer of changes with the key of the request.
func (r *Request) writer() Writer {
	return Writer{Owner: r.Key.Owner, Key: r.Key.ID, Finishes: r.Finishes, Noter: r}
}

// NoteWrites adds what the request has changed to the activity of the key. The store calls it, see Writer.
func (r *Request) NoteWrites(tx *Tx) error {
	return AddActivity(tx, r.Key.ID, KeyActivity{
		Kind: ActivityWrite, At: r.Now, Method: r.Method, Route: r.Route, Objects: tx.Touched, More: tx.TouchedMore, Client: r.Client, Request: r.ID,
	})
}

// UpdateAudited runs run like Update for a request with a key, and adds both entries: that of the audit log, as
// deed, and that in the activity of the key. The change waits for no other of the owner.
func (r *Request) UpdateAudited(store *Store, deed AuditContext, run func(*Tx) error) error {
	return store.UpdateBy(Writer{Key: r.Key.ID, Noter: r}, func(tx *Tx) error { return deed.In(tx, run) })
}

// Record adds an audit log entry for an operator's action that changes no record. If the request
// was made with a key, it adds an entry to the activity of the key.
func (r *Request) Record(store *Store) error {
	if r.Key == nil {
		return store.Update(r.Deed().Append)
	}
	by := r.writer()
	by.Finishes = true // the action has happened already
	return store.UpdateBy(by, func(tx *Tx) error {
		tx.Touch(RouteObject(r.Route, r.Params), "used")
		return nil
	})
}

// RouteObject returns the object that a request concerns, such as "key key_018c...". It returns ""
// if the path has no id. It also returns "" if the id has another form than Latchkey's ids, because
// it may then be a secret that was put there by mistake.
func RouteObject(route string, params httprouter.Params) string {
	kind := routeKind(route)
	if kind == "" || len(params) == 0 || !ObjectID.MatchString(params[0].Value) {
		return ""
	}
	return kind + " " + params[0].Value
}

// routeKind returns the kind of object whose id is in the path of a route, such as "key". It returns
// "" if the path has no id.
func routeKind(route string) string {
	before, _, found := strings.Cut(route, "/:")
	if !found {
		return ""
	}
	kind := before[strings.LastIndexByte(before, '/')+1:]
	if kind == "do-not-call" {
		return "number"
	}
	return strings.ReplaceAll(strings.TrimSuffix(kind, "s"), "-", " ")
}

// Missing returns ErrNotFound with a message that names the object of the request. The message is the
// same for an object of another owner.
func (r *Request) Missing() *Error {
	if object := RouteObject(r.Route, r.Params); object != "" {
		return ErrNotFound.With("There is no %s.", object)
	}
	if kind := routeKind(r.Route); kind != "" {
		return ErrNotFound.With("There is no %s with this id.", kind)
	}
	return ErrNotFound
}

// ObjectID matches the ids of keys, of sessions and of other records.
var ObjectID = regexp.MustCompile(`^((key|ses)_[0-9a-f]{1,40}|[0-9]{1,19})$`)

// Handler writes one answer or returns an error. An *Error is sent to the client. Any other error
// is logged and answered as server_error.
type Handler func(w http.ResponseWriter, r *Request) error

// Route is one endpoint. Which checks run before its handler depends only on these fields.
type Route struct {
	Method     string
	Path       string     // with :name for a variable segment; without a slash at the end
	Permission Permission // a set, of which a key needs one; 0: no permission is needed
	Handle     Handler
	// Spends is the name of the daily limit that the handler charges when it stores something, or
	// "" if there is none.
	Spends string
	// Limits are the names of further limits. Each request is charged Cost units of every one of
	// them, unless it is refused because the key lacks the permission.
	Limits []string
	Cost   int
	// Public means that the endpoint needs no admin token.
	Public bool
	// Stale means that the endpoint answers also while this node of a cluster may not: it is about the node itself. This is only
	// for callers that are not looked up in the store.
	Stale bool
	// Finishes means that the endpoint finishes or ends something, such as a call. So it works also
	// for an owner whose storage is full and when the disk is nearly full.
	Finishes bool
	// Slow means that the answer may take longer than the write_timeout of the configuration, which
	// then does not apply.
	Slow bool
	// Object returns ErrNotFound if the object whose id is in the path does not exist for a key. It is for Explain, because
	// the handler finds that out by itself. nil: the path has no id.
	Object func(tx *Tx, key *Key, id string) error
	// LiveOnly means that the endpoint refuses sandbox keys with ErrSandboxKey.
	LiveOnly bool
	// Query are the parameters of the query, and Lists those that may appear more than once. An operator's request with others is
	// refused, see CheckQuery; the API ignores others.
	Query, Lists []string
	// NoBody means that the endpoint takes no body. An operator's request with one is refused, see CheckBody.
	NoBody bool
	// Heavy reports whether a request may read or write very many records, such as a search or an
	// import. HeavyTurns bounds how many of those run at the same time. nil: no request is heavy.
	Heavy func(*Request) bool
}

// Serves reports whether the route answers requests with a method. A route for GET also answers HEAD,
// and net/http then leaves out the body (RFC 9110, section 9.3.2).
func (r Route) Serves(method string) bool {
	return method == r.Method || method == http.MethodHead && r.Method == http.MethodGet
}

// NumberParam returns the path parameter name as the id of a record. It returns ErrNotFound if the
// value is not a positive whole number.
func (r *Request) NumberParam(name string) (uint64, error) {
	id, err := strconv.ParseUint(r.Params.ByName(name), 10, 64)
	if err != nil || id == 0 {
		return 0, ErrNotFound
	}
	return id, nil
}

// SetLimits adds the statuses in list to r.Limits. A status replaces an earlier one of the same
// limit. Limits are compared by name.
func (r *Request) SetLimits(list []LimitStatus) {
	for _, s := range list {
		i := slices.IndexFunc(r.Limits, func(old LimitStatus) bool { return old.Limit.Name == s.Limit.Name })
		if i < 0 {
			r.Limits = append(r.Limits, s)
			continue
		}
		r.Limits[i] = s
	}
}

// WriteJSON writes v as the JSON body of an answer. If v cannot be encoded, it returns an error and
// writes nothing, so that the handler can still return the error.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	room, _ := answerBuffers.Get().(*[]byte)
	body, err := appendAnswer((*room)[:0], v)
	if x, ok := w.(interface{ Confirmed() Effect }); ok && err == nil && status < http.StatusBadRequest {
		body = appendEffect(body, x.Confirmed())
	}
	if err == nil {
		err = WriteBody(w, status, body)
	}
	if cap(body) <= maxKeptAnswer {
		*room = body
	}
	answerBuffers.Put(room)
	return err
}

// appendEffect adds to the JSON object in body which nodes of a cluster have applied the change that it answers,
// if the change has waited for them.
func appendEffect(body []byte, e Effect) []byte {
	object, ok := bytes.CutSuffix(body, []byte("}\n"))
	if e.Of == 0 || !ok || len(object) < 2 {
		return body
	}
	return fmt.Appendf(object, `,"effective":{"nodes":%d,"of":%d,"ms":%d}}`+"\n", e.Nodes, e.Of, e.Took.Milliseconds())
}

// answerBuffers keeps the memory of answers for the next answers.
var answerBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxKeptAnswer is the size of the largest buffer in answerBuffers. A page of 1,000 rows fits.
const maxKeptAnswer = 2 << 20

// EncodeJSON returns v as the JSON body of an answer, which ends with a newline.
func EncodeJSON(v any) ([]byte, error) { return appendAnswer(nil, v) }

// appendAnswer appends to body what EncodeJSON returns.
func appendAnswer(body []byte, v any) ([]byte, error) {
	body, err := strictjson.Append(body, v)
	if err != nil {
		return body, fmt.Errorf("encode answer: %w", err)
	}
	return append(body, '\n'), nil
}

// WriteBody writes body, which must be JSON, as the body of an answer. It always returns nil,
// because it ignores that a client has disconnected.
func WriteBody(w http.ResponseWriter, status int, body []byte) error {
	w.Header()["Content-Type"] = jsonType
	if len(body) > 2048 { // net/http counts shorter bodies itself
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

var jsonType = []string{"application/json"}

// Page is one page of a list (docs/contract.md, section 1.4).
type Page struct {
	Number int // the first page is 1
	Limit  int // maximum number of rows on a page
}

// ReadPage reads the query parameters page and limit. If limit is missing or empty, it is
// defaultLimit. A limit above maxLimit is lowered to maxLimit. ReadPage returns ErrValidation if a
// parameter is not a whole number of at least 1.
func ReadPage(q url.Values, defaultLimit, maxLimit int) (Page, error) {
	p := Page{Number: 1, Limit: defaultLimit}
	for _, f := range []struct {
		name string
		into *int
	}{{"page", &p.Number}, {"limit", &p.Limit}} {
		if q.Get(f.name) == "" {
			continue
		}
		n, err := strconv.Atoi(q.Get(f.name))
		if errors.Is(err, strconv.ErrRange) && n > 0 {
			err = nil
		}
		if err != nil || n < 1 {
			return p, ErrValidation.With("%s must be a whole number of at least 1; got %q.", f.name, q.Get(f.name))
		}
		*f.into = n
	}
	p.Limit = min(p.Limit, maxLimit)
	p.Number = min(p.Number, 1<<40) // more than any list has; without this bound, Number*Limit could overflow
	return p, nil
}

// Bounds returns the half-open range [from, to) of the rows on the page, for a list of count rows.
// The range is empty if the page is after the last one.
func (p Page) Bounds(count int) (from, to int) {
	if p.Number-1 > count/p.Limit {
		return count, count
	}
	from = min((p.Number-1)*p.Limit, count)
	return from, min(from+p.Limit, count)
}

// Answer returns the body of an answer with a list (docs/contract.md, section 1.4). It has the
// members count (of all rows in the list), page, limit and pages, and the rows of this page as the
// member name.
func (p Page) Answer(count int, name string, rows any) map[string]any {
	return map[string]any{
		"count": count, "page": p.Number, "limit": p.Limit,
		"pages": (count + p.Limit - 1) / p.Limit, name: rows,
	}
}

// Seconds formats t in UTC with whole seconds (docs/contract.md, section 1.5). It returns nil for
// the zero time.
func Seconds(t time.Time) *string { return stamp(t, SecondsLayout) }

// SecondsLayout is the layout of Seconds, for a time in UTC.
const SecondsLayout = "2006-01-02T15:04:05Z"

// Millis formats t in UTC with milliseconds (docs/contract.md, section 1.5). It returns nil for the
// zero time.
func Millis(t time.Time) *string { return stamp(t, "2006-01-02T15:04:05.000Z") }

func stamp(t time.Time, layout string) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(layout)
	return &s
}

// ValidPhone reports whether s has the form of an E.164 number: a plus sign and 7 to 15 digits, of
// which the first is not 0 (ITU-T E.164, section 6). It does not check whether the number range is
// in use, because ranges change too often.
func ValidPhone(s string) bool {
	if len(s) < 8 || len(s) > 16 || s[0] != '+' || s[1] == '0' {
		return false
	}
	return strings.Trim(s[1:], "0123456789") == ""
}

// DisplayWord returns a word for people: "qualified_lead" becomes "Qualified Lead".
func DisplayWord(word string) string {
	capital := func(w string) string {
		if w == "" {
			return ""
		}
		return strings.ToUpper(w[:1]) + w[1:]
	}
	text := ""
	for first, rest, more := strings.Cut(word, "_"); ; first, rest, more = strings.Cut(rest, "_") {
		if text += capital(first); !more {
			return text
		}
		text += " "
	}
}

// TextOrNone returns s, or nil if s is empty, so that it becomes null in JSON.
func TextOrNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// The names of the checks of a request, in the order in which Server makes them.
const (
	StepRoute      = "route"
	StepCarrier    = "carrier"
	StepKey        = "key"
	StepState      = "state"
	StepAddress    = "address"
	StepLimit      = "limit"
	StepPermission = "permission"
	StepHandler    = "handler" // the checks that the endpoint makes itself
)

// Outcome describes one answered request. It is valid only until the function that receives it
// returns.
type Outcome struct {
	ID     string
	Method string
	Route  string // path pattern of the route, never the path itself; "-" if no route matches
	Admin  bool   // the request came to the admin listener or the control socket, or from the dashboard
	Status int
	Code   string // error code in the answer; "" if there is no error
	Text   string // message of the error; "" if there is no error
	Step   string // check that failed, a Step constant; "" if there is no error
	// Guarded is true for a request to a guarded route, also if a proxy asked about it at /authz. Forwarded is true if it
	// was sent on to the upstream, so that Status is that of the upstream if there is no error.
	Guarded, Forwarded bool

	Key    *Key              // the caller's key; nil if no valid key was sent
	Found  *Key              // like Key, but also set for a revoked, paused or expired key
	Tally  *atomic.Value     // memory for a function in Watch about Found; nil if Found is nil
	Holder *CacheEntry       // the secret by which Found was found; nil if Found is nil
	Actor  string            // name of the caller on the admin listener
	Client netip.Addr        // address of the client
	Params httprouter.Params // values of the variable parts of the path
	Began  time.Time         // start of the request by the wall clock
	Steady time.Time         // start of the request by the service clock
	Took   time.Duration     // time until the answer was written
	Limits []LimitStatus     // status of each limit that applies
	Asked  Asked             // of the limit per minute; Units is 0 if the request did not get as far
}

// RefusedBy returns the check that failed, as operators are shown it: a handler charges daily limits
// itself, in its transaction. It returns "" if there is no error.
func (o *Outcome) RefusedBy() string {
	if o.Step == StepHandler && o.Code == ErrRateLimit.Code {
		return StepLimit
	}
	return o.Step
}
