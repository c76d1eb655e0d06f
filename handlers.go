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

// Request is what a handler gets: a request that has passed every check of its
// route. It belongs to one goroutine.
type Request struct {
	*http.Request
	Params httprouter.Params
	ID     string     // request id, also in the log
	Route  string     // the pattern of the path, "-" where none fits
	Client netip.Addr // who is asked from
	Key    *Key       // who asks, nil on the admin door
	Actor  string     // who asks on the admin door, for the record
	Now    time.Time  // wall clock, for records and people
	Moment time.Time  // service clock, for limits only: it never goes back
	Latest time.Time  // by which keys and links end (Clock.Latest)
	// MaxBody is the most bytes that a body may have.
	MaxBody int64
	// Limits are the limits that apply to this request and how they stand,
	// shown in the answer's header fields.
	Limits []LimitStatus
}

// AuditContext says who asks for what, for the audit log.
func (r *Request) Deed() AuditContext {
	actor := r.Actor
	if r.Key != nil {
		actor = "key " + r.Key.ID
	}
	return AuditContext{Actor: actor, Client: r.Client, Action: r.Method + " " + r.Route, Object: RouteObject(r.Route, r.Params), Request: r.ID, Now: r.Now, Latest: r.Latest}
}

// Update is Store.Update for what a request changes. On the admin door the
// change and its entry in the audit log are one transaction; what keys change
// of their owners' data has no entry.
func (r *Request) Update(store *Store, run func(*Tx) error) error {
	if r.Key != nil {
		return store.Update(run)
	}
	return r.Deed().Update(store, run)
}

// Record adds an entry to the audit log for something an operator has asked for
// that changes no record.
func (r *Request) Record(store *Store) error {
	if r.Key != nil {
		return nil
	}
	return store.Update(r.Deed().Append)
}

// RouteObject is what the path of a route with an id is about, such as "key
// key_018c...", "" where there is no id, or what stands there is none: it may
// be a secret put in the wrong place.
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

// actorKey is where a request says in whose name it is made.
type actorKey struct{}

type actor struct {
	name string
	from netip.Addr
}

// ByActor gives a request that is made in somebody's name and from an address,
// on the control socket or for a login.
func ByActor(r *http.Request, name string, from netip.Addr) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), actorKey{}, actor{name, from}))
}

// Actor is in whose name a request is made and from where: as of ByActor, or
// by the socket.
func Actor(r *http.Request) (name string, from netip.Addr) {
	if a, ok := r.Context().Value(actorKey{}).(actor); ok {
		return a.name, a.from
	}
	return "control socket", from
}

// Handler writes one answer, or returns why it cannot: an *Error for what the
// caller may know, anything else for a fault.
type Handler func(w http.ResponseWriter, r *Request) error

// Route is one endpoint. The checks that stand before its handler follow from
// the row alone.
type Route struct {
	Method     string
	Path       string // with :name for a value, never a trailing slash
	Permission Permission
	Handle     Handler
	// Spends names the daily limit that the handler charges with what it
	// stores, "" for none.
	Spends string
	// Limits names limits of which every request pays Cost units too, unless it
	// is refused.
	Limits []string
	Cost   int
	// Public says that the admin door asks nobody for a token here.
	Public bool
}

// NumberParam gives a path value as the id of a record; anything but a
// positive whole number finds nothing and is ErrNotFound.
func (r *Request) NumberParam(name string) (uint64, error) {
	id, err := strconv.ParseUint(r.Params.ByName(name), 10, 64)
	if err != nil || id == 0 {
		return 0, ErrNotFound
	}
	return id, nil
}

// SetLimits puts the standings of limits in place of earlier ones of the same
// names, or adds them.
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

// WriteJSON sends a value as the JSON body of an answer. It encodes first, so
// that a fault can still become another answer.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := EncodeJSON(v)
	if err != nil {
		return err
	}
	return WriteBody(w, status, body)
}

// EncodeJSON gives a value as the body of an answer.
func EncodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // a body is no page
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return buf.Bytes(), nil
}

// WriteBody sends ready JSON as the body of an answer. A client that has gone
// away is no error.
func WriteBody(w http.ResponseWriter, status int, body []byte) error {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

var jsonType = []string{"application/json"}

// Page is one page of a list (contract 1.4).
type Page struct {
	Number int // from 1
	Limit  int // rows on a page
}

// ReadPage reads page and limit of a query. A limit above the most is lowered
// to it; anything that is not a whole number from 1 is ErrValidation.
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
	p.Number = min(p.Number, 1<<40) // far past any end, and its product with Limit still fits
	return p, nil
}

// Bounds gives the first row of the page and the first one after it, of count
// rows in all.
func (p Page) Bounds(count int) (from, to int) {
	if p.Number-1 > count/p.Limit {
		return count, count
	}
	from = min((p.Number-1)*p.Limit, count)
	return from, min(from+p.Limit, count)
}

// Answer gives the body of a list: count, page, limit, pages and the rows
// under their name.
func (p Page) Answer(count int, name string, rows any) map[string]any {
	return map[string]any{
		"count": count, "page": p.Number, "limit": p.Limit,
		"pages": (count + p.Limit - 1) / p.Limit, name: rows,
	}
}

// Seconds writes a time as the contract's whole seconds in UTC, nil for none.
func Seconds(t time.Time) *string { return stamp(t, "2006-01-02T15:04:05Z") }

// Millis writes a time as the contract's milliseconds in UTC, nil for none.
func Millis(t time.Time) *string { return stamp(t, "2006-01-02T15:04:05.000Z") }

func stamp(t time.Time, layout string) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(layout)
	return &s
}

// ValidPhone says whether a number has the shape of E.164: + and 7 to 15
// digits, the first not 0 (ITU-T E.164 section 6). Which ranges are in use
// changes too often to be checked here.
func ValidPhone(s string) bool {
	if len(s) < 8 || len(s) > 16 || s[0] != '+' || s[1] == '0' {
		return false
	}
	return strings.Trim(s[1:], "0123456789") == ""
}

// DisplayWord makes "Qualified Lead" of "qualified_lead".
func DisplayWord(word string) string {
	words := strings.Split(word, "_")
	for i, w := range words {
		if w != "" {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, " ")
}

// TextOrNone is a text, nil where it is empty.
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
	StepHandler    = "handler" // what the endpoint itself demands
)

// Outcome tells of one answered request. It is valid for the length of the call
// alone.
type Outcome struct {
	ID     string
	Method string
	Route  string // the pattern, "-" where none fits: never the address itself
	Status int
	Code   string // of the error that was answered, "" for none
	Text   string // its message
	Step   string // the check that was made last, one of the Step constants
	Key    *Key   // who asked, nil where no valid key came
	Found  *Key   // the same, also where the key may not be used: revoked, paused, expired
	Actor  string // who asked on the admin door
	Client netip.Addr
	Params httprouter.Params // what stood in the place of the route's wildcards
	Began  time.Time         // wall clock
	Took   time.Duration
	Limits []LimitStatus // how the limits stood
}
