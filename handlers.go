// The handlers family is what all endpoints share. Read handlers.go first (Request,
// Route, pages of lists), then handlers_credential.go (where a key may be sent),
// handlers_body.go (JSON, read strictly), handlers_router.go (rows into the router),
// handlers_records.go (create, list, change and import any kind of record) and
// handlers_idempotency.go. No resource is named here.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"
)

// Request is a request that has passed every check of its route. A handler
// receives it. It must be used by one goroutine only.
type Request struct {
	*http.Request
	Params httprouter.Params
	ID     string     // request id, also in the answer and the log
	Route  string     // pattern of the path, "-" if no route matches
	Client netip.Addr // address of the client, see ClientAddr
	Key    *Key       // key of the caller, nil on the admin listener
	Actor  string     // caller on the admin listener, for the audit log
	Now    time.Time  // wall clock, for records and people
	Moment time.Time  // service clock, for limits only; it never goes back
	Latest time.Time  // from Clock.Latest, to decide whether keys and links have ended
	// MaxBody is the maximum size of the body in bytes.
	MaxBody int64
	// Limits is the status of the limits that apply to this request. It is
	// written to the header fields of the answer.
	Limits []LimitStatus
}

// Deed returns the caller, the action and the object of a request, for the
// audit log.
func (r *Request) Deed() AuditContext {
	actor := r.Actor
	if r.Key != nil {
		actor = "key " + r.Key.ID
	}
	return AuditContext{Actor: actor, Client: r.Client, Action: r.Method + " " + r.Route, Object: RouteObject(r.Route, r.Params), Request: r.ID, Now: r.Now, Latest: r.Latest}
}

// Update runs Store.Update for a change that a request makes. On the admin
// listener the change and its audit log entry are one transaction. A change
// made with a key has no entry, because it concerns only the data of its owner.
func (r *Request) Update(store *Store, run func(*Tx) error) error {
	if r.Key != nil {
		return store.Update(run)
	}
	return r.Deed().Update(store, run)
}

// Record adds an audit log entry for an action of an operator that changes no
// record. For a request with a key it does nothing.
func (r *Request) Record(store *Store) error {
	if r.Key != nil {
		return nil
	}
	return store.Update(r.Deed().Append)
}

// RouteObject returns the object that a path with an id refers to, such as "key
// key_018c...". It returns "" if the path has no id, or if its value does not
// look like an id: it may be a secret that was put there by mistake.
func RouteObject(route string, params httprouter.Params) string {
	id := params.ByName("id")
	if !objectID.MatchString(id) {
		return ""
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(route, "/admin/v1/"), "/") {
		if part == "do-not-call" {
			part = "number"
		}
		return strings.TrimSuffix(part, "s") + " " + id
	}
	return ""
}

var objectID = regexp.MustCompile(`^(key_[0-9a-f]{1,40}|[0-9]{1,19})$`)

// actorKey is the context key of the actor of a request.
type actorKey struct{}

type actor struct {
	name string
	from netip.Addr
}

// ByActor returns a copy of r that is made in the name of an actor and from an
// address. The control socket and logins use it.
func ByActor(r *http.Request, name string, from netip.Addr) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), actorKey{}, actor{name, from}))
}

// Actor returns the name and address that ByActor attached to r. Without them
// it returns "control socket" and the zero Addr.
func Actor(r *http.Request) (name string, from netip.Addr) {
	if a, ok := r.Context().Value(actorKey{}).(actor); ok {
		return a.name, a.from
	}
	return "control socket", from
}

// Handler writes one answer or returns an error. An *Error is sent to the
// client; any other error is logged and answered as server_error.
type Handler func(w http.ResponseWriter, r *Request) error

// Route is one endpoint. The checks before its handler depend only on these
// fields.
type Route struct {
	Method     string
	Path       string // with :name for a variable part, never a trailing slash
	Permission Permission
	Handle     Handler
	// Spends names the daily limit that the handler charges when it stores
	// something. It is "" if there is none.
	Spends string
	// Limits names further limits that every request pays, Cost units each. A
	// request that is refused for its permission does not pay them.
	Limits []string
	Cost   int
	// Public means that the admin listener requires no token here.
	Public bool
}

// NumberParam returns a path parameter as a record id. It returns ErrNotFound
// if the value is not a positive whole number.
func (r *Request) NumberParam(name string) (uint64, error) {
	id, err := strconv.ParseUint(r.Params.ByName(name), 10, 64)
	if err != nil || id == 0 {
		return 0, ErrNotFound
	}
	return id, nil
}

// SetLimits replaces the status of the limits in list, and appends those that
// r.Limits does not have yet. Limits are compared by name.
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

// WriteJSON writes v as the JSON body of an answer. It encodes v before it
// writes, so that the handler can still answer with an error if encoding fails.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := EncodeJSON(v)
	if err != nil {
		return err
	}
	return WriteBody(w, status, body)
}

// EncodeJSON returns v as the JSON body of an answer, with a newline at its
// end.
func EncodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the body is not HTML
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return buf.Bytes(), nil
}

// WriteBody writes encoded JSON as the body of an answer. It always returns
// nil, because a client that has disconnected is not an error.
func WriteBody(w http.ResponseWriter, status int, body []byte) error {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

var jsonType = []string{"application/json"}

// Page is one page of a list (contract 1.4).
type Page struct {
	Number int // the first page is 1
	Limit  int // maximum number of rows on a page
}

// ReadPage reads the parameters page and limit of a query. limit is the
// default, and a larger value than most is lowered to most. It returns
// ErrValidation if a parameter is not a whole number of at least 1.
func ReadPage(q url.Values, limit, most int) (Page, error) {
	p := Page{Number: 1, Limit: limit}
	for _, f := range []struct {
		name string
		into *int
	}{{"page", &p.Number}, {"limit", &p.Limit}} {
		if !q.Has(f.name) {
			continue
		}
		n, err := strconv.Atoi(q.Get(f.name))
		if errors.Is(err, strconv.ErrRange) && n > 0 {
			err = nil
		}
		if err != nil || n < 1 {
			return p, ErrValidation.With("%s must be a whole number from 1; got %q.", f.name, q.Get(f.name))
		}
		*f.into = n
	}
	p.Limit = min(p.Limit, most)
	p.Number = min(p.Number, 1<<40) // beyond any list; multiplying it by Limit must not overflow
	return p, nil
}

// Bounds returns the half-open range [from, to) of the rows on the page, if the
// list has count rows.
func (p Page) Bounds(count int) (from, to int) {
	if p.Number-1 > count/p.Limit {
		return count, count
	}
	from = min((p.Number-1)*p.Limit, count)
	return from, min(from+p.Limit, count)
}

// Answer returns the body of a list (contract 1.4): count, page, limit, pages,
// and the rows under name.
func (p Page) Answer(count int, name string, rows any) map[string]any {
	return map[string]any{
		"count": count, "page": p.Number, "limit": p.Limit,
		"pages": (count + p.Limit - 1) / p.Limit, name: rows,
	}
}

// Seconds formats a time in UTC with whole seconds (contract 1.5). It returns
// nil for the zero time.
func Seconds(t time.Time) *string { return stamp(t, "2006-01-02T15:04:05Z") }

// Millis formats a time in UTC with milliseconds (contract 1.5). It returns nil
// for the zero time.
func Millis(t time.Time) *string { return stamp(t, "2006-01-02T15:04:05.000Z") }

func stamp(t time.Time, layout string) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(layout)
	return &s
}

// ValidPhone reports whether s has the form of an E.164 number: + and 7 to 15
// digits, the first not 0 (ITU-T E.164 section 6). It does not check whether
// the number range is in use, because that changes too often.
func ValidPhone(s string) bool {
	if len(s) < 8 || len(s) > 16 || s[0] != '+' || s[1] == '0' {
		return false
	}
	return strings.Trim(s[1:], "0123456789") == ""
}

// DisplayWord turns "qualified_lead" into "Qualified Lead".
func DisplayWord(word string) string {
	words := strings.Split(word, "_")
	for i, w := range words {
		if w != "" {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, " ")
}

// TextOrNone returns s, or nil if s is empty, so that JSON has null instead of
// "".
func TextOrNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// The checks of a request in their order (see Server).
const (
	StepRoute      = "route"
	StepCarrier    = "carrier"
	StepKey        = "key"
	StepState      = "state"
	StepAddress    = "address"
	StepLimit      = "limit"
	StepPermission = "permission"
	StepHandler    = "handler" // checks of the endpoint itself
)

// Outcome describes one answered request. It is valid only during the call that
// receives it.
type Outcome struct {
	ID     string
	Method string
	Route  string // pattern of the path, "-" if no route matches; never the path itself
	Status int
	Code   string // code of the error in the answer, "" if there is none
	Text   string // message of that error
	Step   string // the check that failed, a Step constant; "" without an error
	Key    *Key   // key of the caller, nil if no valid key was sent
	Found  *Key   // like Key, but also set if the key is revoked, paused or expired
	Actor  string // caller on the admin listener
	Client netip.Addr
	Params httprouter.Params // values of the variable parts of the path
	Began  time.Time         // wall clock
	Took   time.Duration
	Limits []LimitStatus // status of the limits that apply
}
