package main

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// explainer shows the operator which checks a request with a key would pass. It
// charges no limit.
type explainer struct {
	store        *Store
	keyring      *Keyring
	limiter      *Limiter
	routes       ExplainedRoutes
	queryAllowed bool
}

// ExplainedRoutes are all routes of the API listener. Keyed routes have every check;
// free routes check neither limits nor a permission. Guards are the routes of the
// API behind the proxy.
type ExplainedRoutes struct {
	*Routes
	Guards *ProxyRoutes
}

// NewExplainer returns an explainer of routes. queryAllowed is whether a key may be
// sent in the query string, unless the key has its own setting.
func NewExplainer(store *Store, keyring *Keyring, limiter *Limiter, routes ExplainedRoutes, queryAllowed bool) *explainer {
	return &explainer{store: store, keyring: keyring, limiter: limiter, routes: routes, queryAllowed: queryAllowed}
}

// AdminRoutes lists the endpoints.
func (e *explainer) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/keys/:id/explain", Handle: e.explain}}
}

// step is the result of one check. Passes is nil if the result cannot be known, such
// as the address check without an ip.
type step struct {
	Check      string         `json:"check"`
	Passes     *bool          `json:"passes"`
	Status     int            `json:"status,omitempty"`
	Code       string         `json:"error,omitempty"`
	Message    string         `json:"message"`
	RetryAfter int64          `json:"retry_after,omitempty"` // seconds
	Limit      map[string]any `json:"limit,omitempty"`
}

// asked describes the request whose outcome is to be explained.
type asked struct {
	method, path, carrier string
	raw                   string     // the path as sent, with its percent-encoding
	ip                    netip.Addr // invalid if the caller sent none
}

func readAsked(r *Request) (q asked, err error) {
	body, err := r.ReadBody(false)
	if err != nil {
		return q, err
	}
	ip := ""
	q.carrier = CarrierBearer
	body.String("method", &q.method)
	body.String("path", &q.path)
	body.String("ip", &ip)
	if body.Given("carrier") {
		body.Word("carrier", &q.carrier, CarrierNames()...)
	}
	if err := body.Err(); err != nil {
		return q, err
	}
	u, err := url.Parse(q.path)
	if q.method == "" || err != nil || !strings.HasPrefix(u.Path, "/") {
		return q, ErrMissing.With("method and path are needed, such as GET and /api/v1/calls.")
	}
	q.path, q.raw = u.Path, u.EscapedPath()
	if len(q.path) > 1 {
		q.path = strings.TrimSuffix(q.path, "/")
	}
	if q.ip, err = netip.ParseAddr(ip); err != nil && ip != "" {
		return q, ErrValidation.With("ip must be an address, such as 192.0.2.1; got %q.", ip)
	}
	return q, nil
}

func (e *explainer) explain(w http.ResponseWriter, r *Request) error {
	q, err := readAsked(r)
	if err != nil {
		return err
	}
	var key *Key
	err = e.store.View(func(tx *Tx) error {
		key, err = e.keyring.Get(tx, r.Params.ByName("id"))
		return err
	})
	if err != nil {
		return err
	}
	row, free, routeErr := e.route(q)
	steps := []step{verdict("route", routeErr, row.Method+" "+row.Path)}
	if routeErr == nil {
		more, err := e.checks(key, row, free, q, r)
		if err != nil {
			return err
		}
		steps = append(steps, more...)
	}
	answer := map[string]any{"id": key.ID, "method": q.method, "path": q.path, "allowed": true, "refused_by": nil, "checks": steps}
	for _, s := range steps {
		if s.Passes != nil && !*s.Passes {
			answer["allowed"], answer["refused_by"], answer["status"], answer["error"], answer["message"] = false, s.Check, s.Status, s.Code, s.Message
			break
		}
	}
	return WriteJSON(w, http.StatusOK, answer)
}

// verdict returns a step that failed with err, or that passed with the message good
// if err is nil.
func verdict(check string, err error, good string) step {
	s := step{Check: check, Passes: new(bool), Message: good}
	if *s.Passes = err == nil; err != nil {
		e := Public(err)
		s.Status, s.Code, s.Message, s.RetryAfter = e.Status, e.Code, e.Message, int64((e.RetryAfter+time.Second-1)/time.Second)
	}
	return s
}

// route returns the route that serves a request and whether it is free. Routes of
// the proxy are tried first. Of several own routes that match, the one with the
// fewest wildcards wins. It returns ErrRoute, ErrMethod or an error about the path.
func (e *explainer) route(q asked) (row Route, free bool, err error) {
	guards := e.routes.Guards.Now()
	if guards.Any() {
		if guard, _, err := guards.Find(q.method, q.raw); err != nil {
			return row, false, err
		} else if guard != nil {
			return *guard, false, nil
		}
	}
	err = ErrRoute
	for i, r := range slices.Concat(e.routes.Keyed, e.routes.Free) {
		switch {
		case !fits(r.Path, q.path):
		case r.Method != q.method:
			if err == ErrRoute {
				err = ErrMethod
			}
		case err != nil || strings.Count(r.Path, ":") < strings.Count(row.Path, ":"):
			row, free, err = r, i >= len(e.routes.Keyed), nil
		}
	}
	if err == ErrRoute { // a route without an upstream is known only to /authz
		guard, _, failed := guards.FindAny(q.method, q.raw)
		switch {
		case guard != nil:
			return *guard, false, nil
		case failed != nil && len(guards.List) > 0:
			err = failed
		}
	}
	return row, free, err
}

func fits(pattern, path string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == h || strings.HasPrefix(w, ":") && h != "" })
}

// checks returns the steps of the checks that Server makes once it has found the
// key. An error means that the limits could not be read, not that a check failed.
func (e *explainer) checks(key *Key, row Route, free bool, q asked, r *Request) ([]step, error) {
	steps := []step{verdict("state", key.Check(r.Latest), "The key is active.")}
	var err error
	if q.carrier == CarrierQuery && !key.AllowsQuery(e.queryAllowed) {
		err = ErrQueryKey
	}
	steps = append(steps, verdict("carrier", err, "The key may be sent this way: "+q.carrier+"."), e.address(key, q.ip))
	if free {
		return steps, nil
	}
	minute, err := e.limits(key, []string{RequestsPerMinute}, 1, r)
	if err != nil {
		return nil, err
	}
	var rest []step
	if row.Cost > 0 {
		rest, err = e.limits(key, row.Limits, row.Cost, r)
	}
	if err == nil && row.Spends != "" {
		rest, err = e.limits(key, []string{row.Spends}, 1, r)
	}
	if err != nil {
		return nil, err
	}
	needed := strings.Join(e.keyring.Rights().Names(row.Permission), " or ")
	if row.Permission != 0 && !key.Has(row.Permission) {
		err = ErrPermission.With("This key lacks the permission %s. It has %s.", needed, key.Holds())
	}
	if needed == "" {
		needed = "none"
	}
	return slices.Concat(steps, minute, []step{verdict("permission", err, "The key has what is needed: "+needed+".")}, rest), nil
}

// limits returns a step for each limit of these names that a request would be charged
// with. A limit that is only observed always passes.
func (e *explainer) limits(key *Key, names []string, cost int, r *Request) (steps []step, err error) {
	for _, name := range names {
		for _, c := range key.Charge(nil, name, cost) {
			list, err := e.limiter.Statuses([]Charge{c}, r.Moment)
			if err != nil {
				return nil, err
			}
			steps = append(steps, standingStep(c, list[0], r.Now))
		}
	}
	return steps, nil
}

func (e *explainer) address(key *Key, ip netip.Addr) step {
	switch {
	case len(key.AllowedIPs) == 0:
		return verdict("address", nil, "The key may be used from everywhere.")
	case !ip.IsValid():
		return step{Check: "address", Message: "The key may be used from some addresses only. Name one as ip to check it."}
	case !key.Allows(ip):
		return verdict("address", ErrPermission.With("This key may not be used from %s. Its allowed_ips say from where.", ip), "")
	}
	return verdict("address", nil, "The key may be used from "+ip.String()+".")
}

func standingStep(c Charge, s LimitStatus, now time.Time) step {
	var err error
	good := "The limit has room."
	switch {
	case s.Remaining() < c.Cost && c.Observe:
		good = "The limit is reached, but only observed: it refuses nothing."
	case s.Remaining() < c.Cost: // a cost above one unit may have to wait longer
		err = c.Refused(max(s.Wait, s.Next))
	}
	made := verdict("limit "+s.Limit.Name, err, good)
	made.Limit = map[string]any{"max": s.Limit.Max, "used": s.Used, "remaining": s.Remaining(), "resets_at": nil}
	if s.Used > 0 {
		made.Limit["resets_at"] = Seconds(now.Add(s.Next + time.Second - 1))
	}
	return made
}

// maxRefusals is how many refusals are kept. The oldest is dropped first.
const maxRefusals = 10_000

// Refusals keeps the latest refused requests in memory, so that an operator who has a
// request id can see why it was refused. It is safe for concurrent use.
type Refusals struct {
	mu   sync.Mutex
	list []refused // a ring, once it has maxRefusals entries
	next int       // index of the oldest entry in a full ring, which is replaced next
}

// refused is one request that was answered with an error.
type refused struct {
	id, method, route, step, code, message string
	status                                 int
	key, name, owner                       string
	client                                 netip.Addr
	at                                     time.Time
	limits                                 []LimitStatus
}

// NewRefusals returns empty Refusals.
func NewRefusals() *Refusals { return &Refusals{} }

// Note records the outcome of a request if it was answered with an error. The server
// calls it after each request; it copies what it keeps of o.
func (f *Refusals) Note(o *Outcome) {
	if o.Code == "" || o.Status < http.StatusBadRequest {
		return
	}
	r := refused{
		id: o.ID, method: o.Method, route: o.Route, step: o.Step, code: o.Code, message: o.Text, status: o.Status, client: o.Client, at: o.Began,
		limits: slices.Clone(o.Limits),
	}
	if r.step == StepHandler && r.code == ErrRateLimit.Code {
		r.step = StepLimit // a handler charges daily limits in the transaction of its change
	}
	if o.Found != nil {
		r.key, r.name, r.owner = o.Found.ID, o.Found.Name, o.Found.OwnerName
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) < maxRefusals {
		f.list = append(f.list, r)
		return
	}
	f.list[f.next] = r
	f.next = (f.next + 1) % maxRefusals
}

// AdminRoutes lists the endpoints.
func (f *Refusals) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/refusals", Handle: f.show}}
}

func (f *Refusals) show(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	id, key, code := q.Get("id"), q.Get("key"), q.Get("code")
	var found []refused
	f.mu.Lock()
	for i := range f.list { // newest first
		n := len(f.list)
		one := f.list[(f.next-1-i+2*n)%n]
		if (id == "" || one.id == id) && (key == "" || one.key == key) && (code == "" || one.code == code) {
			found = append(found, one)
		}
	}
	f.mu.Unlock()
	rows := []any{}
	from, to := page.Bounds(len(found))
	for _, one := range found[from:to] {
		rows = append(rows, one.shown())
	}
	answer := page.Answer(len(found), "refusals", rows)
	answer["kept"] = maxRefusals
	return WriteJSON(w, http.StatusOK, answer)
}

func (r refused) shown() map[string]any {
	limits := []any{}
	for _, s := range r.limits {
		limits = append(limits, map[string]any{
			"name": s.Limit.Name, "max": s.Limit.Max, "used": s.Used, "remaining": s.Remaining(), "window_seconds": int(s.Limit.Window / time.Second),
			"retry_after": int64((s.Wait + time.Second - 1) / time.Second),
		})
	}
	shown := map[string]any{
		"request_id": r.id, "at": Millis(r.at), "method": r.method, "route": r.route, "status": r.status, "error": r.code, "message": r.message,
		"refused_by": r.step, "key_id": TextOrNone(r.key), "key_name": TextOrNone(r.name), "owner": TextOrNone(r.owner), "client": nil, "limits": limits,
	}
	if r.client.IsValid() {
		shown["client"] = r.client.String()
	}
	return shown
}
