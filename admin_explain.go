package main

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// explainer serves the endpoint at which an operator learns which checks a request with a
// key would pass. It charges no limit.
type explainer struct{ o ExplainerOptions }

// ExplainerOptions configures an explainer.
type ExplainerOptions struct {
	Store        *Store
	Keyring      *Keyring
	Limiter      *Limiter
	Routes       ExplainedRoutes
	QueryAllowed bool // false: no key may be sent in the query string; true: each key decides
}

// ExplainedRoutes holds all routes of the API listener.
type ExplainedRoutes struct {
	*Routes              // our own routes; only Keyed and Free are used
	Guards  *ProxyRoutes // the guarded routes, which are the routes of the API behind the proxy
}

// NewExplainer returns an explainer for requests to o.Routes.
func NewExplainer(o ExplainerOptions) *explainer { return &explainer{o} }

// AdminRoutes returns the routes for operators.
func (e *explainer) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/keys/:id/explain", Handle: e.explain}}
}

// step is the result of one check. Passes is nil if the request lacks what the check needs,
// such as the IP address.
type step struct {
	Check      string         `json:"check"`
	Passes     *bool          `json:"passes"`
	Status     int            `json:"status,omitempty"`
	Code       string         `json:"error,omitempty"`
	Message    string         `json:"message"`
	RetryAfter int64          `json:"retry_after,omitempty"` // seconds
	Limit      map[string]any `json:"limit,omitempty"`
}

// asked describes the request that the operator wants explained.
type asked struct {
	method, path, carrier string        // path is decoded; carrier is one of CarrierNames
	request               *http.Request // with method, address and no header
	ip                    netip.Addr    // address of the client; invalid: not known
}

// readAsked reads from the body of r which request is to be explained. If the body names no
// carrier, it is CarrierBearer.
func readAsked(r *Request) (q asked, err error) {
	body, err := r.ReadFields(OnlyFields("method", "path", "ip", "carrier"))
	if err != nil {
		return q, err
	}
	ip := ""
	q.carrier = CarrierBearer
	body.String("method", AnyLength, &q.method)
	body.String("path", AnyLength, &q.path)
	body.String("ip", AnyLength, &ip)
	if body.Given("carrier") {
		body.Word("carrier", &q.carrier, CarrierNames()...)
	}
	if err := body.Err(); err != nil {
		return q, err
	}
	u, err := url.ParseRequestURI(q.path)
	if q.method == "" || err != nil || !strings.HasPrefix(u.Path, "/") {
		return q, ErrMissing.With("method or path is missing, or path does not begin with a slash. Send for example GET and /api/v1/calls.")
	}
	q.path, q.request = u.Path, &http.Request{Method: q.method, URL: u}
	if len(q.path) > 1 {
		q.path = strings.TrimSuffix(q.path, "/")
	}
	if q.ip, err = netip.ParseAddr(ip); err != nil && ip != "" {
		return q, ErrValidation.With("ip must be an IP address, such as 192.0.2.1; got %q.", ip)
	}
	return q, nil
}

func (e *explainer) explain(w http.ResponseWriter, r *Request) error {
	q, err := readAsked(r)
	if err != nil {
		return err
	}
	var key *Key
	err = e.o.Store.View(func(tx *Tx) error {
		key, err = e.o.Keyring.Get(tx, r.Params.ByName("id"))
		return err
	})
	if err != nil {
		return err
	}
	found, routeErr := e.route(q)
	steps := []step{verdict("route", routeErr, found.Method+" "+found.Path)}
	if routeErr == nil {
		more, err := e.checks(key, found, q, r)
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

// verdict returns the step for a check. If err is nil the check passed, and good is the
// message of the step. Otherwise the check failed with err.
func verdict(check string, err error, good string) step {
	s := step{Check: check, Passes: new(bool), Message: good}
	if *s.Passes = err == nil; err != nil {
		e := Public(err)
		s.Status, s.Code, s.Message, s.RetryAfter = e.Status, e.Code, e.Message, int64((e.RetryAfter+time.Second-1)/time.Second)
	}
	return s
}

// foundRoute is the route that serves a request.
type foundRoute struct {
	Route
	free bool // whether it is one of our routes that check neither limits nor a permission
	// onlyAuthz is whether only /authz serves the route. Latchkey then does not see the end of a
	// request, so that the limits on requests in flight do not apply.
	onlyAuthz bool
}

// route returns the route that serves a request. Guarded routes are tried first. If several
// of our own routes match, route returns the route with the fewest wildcards. The error is
// ErrRoute, ErrMethod or an error about the path.
func (e *explainer) route(q asked) (found foundRoute, err error) {
	guards := e.o.Routes.Guards.Now()
	if guards.Any() {
		if guard, _, err := guards.Find(q.request); err != nil {
			return found, err
		} else if guard != nil {
			return foundRoute{Route: *guard}, nil
		}
	}
	err = ErrRoute
	var methods []string
	routes := slices.Concat(e.o.Routes.Keyed, e.o.Routes.Free)
	for i, r := range routes {
		switch {
		case !fits(r.Path, q.path):
		case !r.Serves(q.method):
			methods = append(methods, r.Method)
			if err == ErrRoute {
				err = ErrMethod
			}
		case err != nil || strings.Count(r.Path, ":") < strings.Count(found.Path, ":"):
			found, err = foundRoute{Route: r, free: i >= len(e.o.Routes.Keyed)}, nil
		}
	}
	if err == ErrRoute { // a guarded route without an upstream serves only requests to /authz
		guard, _, failed := guards.FindAny(q.request)
		switch {
		case guard != nil:
			return foundRoute{Route: *guard, onlyAuthz: true}, nil
		case failed != nil && len(guards.List) > 0:
			err = failed
		}
	}
	switch err {
	case ErrRoute:
		err = ErrRoute.With("No endpoint and no [[route]] matches %s %s. List them with: latchkey routes", q.method, ClipPath(q.path))
	case ErrMethod:
		slices.Sort(methods)
		err = WrongMethod(q.method, q.path, slices.Compact(methods), routes)
	}
	return found, err
}

// fits reports whether path matches pattern. A part of pattern that begins with ":"
// matches any text except "".
func fits(pattern, path string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == h || strings.HasPrefix(w, ":") && h != "" })
}

// checks returns one step for each check that Server makes after it has found the key, in
// the order of Server. An error means that the limits cannot be read. It does not mean
// that a check failed.
func (e *explainer) checks(key *Key, row foundRoute, q asked, r *Request) ([]step, error) {
	steps := []step{verdict("state", key.Check(r.Latest), "The key is active.")}
	var err error
	if q.carrier == CarrierQuery && !(e.o.QueryAllowed && key.AllowsQuery()) {
		err = ErrQueryKey
	}
	steps = append(steps, verdict("carrier", err, "The key may be sent with the carrier "+q.carrier+"."), e.address(key, q.ip))
	if row.free {
		return steps, nil
	}
	if !row.onlyAuthz {
		places, err := e.standings(key.Places(row.Limits), r)
		if err != nil {
			return nil, err
		}
		steps = append(steps, places...)
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
	needed := strings.Join(e.o.Keyring.Rights().Names(row.Permission), " or ")
	if needed == "" {
		needed = "none"
	}
	object, failed := e.object(key, row, q)
	if failed != nil {
		return nil, failed
	}
	return slices.Concat(steps, minute, []step{verdict("permission", Permitted(key, row.Permission, row.LiveOnly), "The key has the required permission: "+needed+".")}, rest, object), nil
}

// object returns a step that reports whether the object in the path exists for a key with Resources. Without these,
// and for guarded routes, there is no such step.
func (e *explainer) object(key *Key, row foundRoute, q asked) ([]step, error) {
	if key.Resources == nil || !strings.HasPrefix(row.Path, "/api/") {
		return nil, nil
	}
	only := "The key is limited to " + key.Resources.String() + " by its resources. "
	if row.Object == nil {
		return []step{verdict("resources", nil, only+"Everything else is left out.")}, nil
	}
	want, have := strings.Split(row.Path, "/"), strings.Split(q.path, "/")
	id := have[slices.IndexFunc(want, func(part string) bool { return strings.HasPrefix(part, ":") })]
	var limited, all error
	err := e.o.Store.View(func(tx *Tx) error {
		free := key.Clone()
		free.Resources = nil
		limited, all = row.Object(tx, key, id), row.Object(tx, free, id)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case limited == nil:
		return []step{verdict("resources", nil, only+"The object in the path is one of them, or belongs to one.")}, nil
	case !errors.Is(limited, ErrNotFound):
		return nil, limited
	case all == nil:
		return []step{verdict("resources", ErrNotFound.With("%sThe object in the path is none of them and belongs to none, so the answer is the same as if it did not exist.", only), "")}, nil
	}
	return []step{verdict("resources", ErrNotFound.With("The object in the path does not exist for the owner of the key."), "")}, nil
}

// limits returns a step for each limit that a request would be charged to. names are the
// names of limits, and cost is the number of units for each of them. A limit in observe
// mode always passes.
func (e *explainer) limits(key *Key, names []string, cost int, r *Request) (steps []step, err error) {
	var charges []Charge
	for _, name := range names {
		charges = key.Charge(charges, name, cost)
	}
	return e.standings(charges, r)
}

// standings returns a step for each charge.
func (e *explainer) standings(charges []Charge, r *Request) (steps []step, err error) {
	list, err := e.o.Limiter.Statuses(charges, r.Steady)
	if err != nil {
		return nil, err
	}
	for i, s := range list {
		steps = append(steps, standingStep(charges[i], s, r.Now))
	}
	return steps, nil
}

// address returns the step that compares ip with the allowed addresses of the key.
func (e *explainer) address(key *Key, ip netip.Addr) step {
	switch {
	case len(key.AllowedIPs) == 0:
		return verdict("address", nil, "The key may be used from any address.")
	case !ip.IsValid():
		return step{Check: "address", Message: "The key may be used only from certain addresses. Send ip to check an address."}
	case !key.Allows(ip):
		return verdict("address", ErrPermission.With("This key may not be used from %s. Its allowed_ips say from where.", AddrText(ip)), "")
	}
	return verdict("address", nil, "The key may be used from "+AddrText(ip)+".")
}

// standingStep returns the step for one limit, from its charge and its status at now.
func standingStep(c Charge, s LimitStatus, now time.Time) step {
	var err error
	good := "The limit has enough units left."
	if s.Limit.Concurrent() {
		good = "The limit on requests in flight has a place left."
	}
	switch {
	case s.Remaining() < c.Cost && c.Observe:
		good = "The limit is reached, but it is in observe mode and refuses no request."
	case s.Remaining() < c.Cost: // a cost above one unit may need a longer wait than s.Next
		err = c.Refused(max(s.Wait, s.Next))
	}
	made := verdict("limit "+s.Limit.Name, err, good)
	made.Limit = map[string]any{"kind": s.Limit.Kind(), "max": s.Limit.Max, "used": s.Used, "remaining": s.Remaining(), "resets_at": Seconds(s.ResetsAt(now))}
	return made
}

// maxRefusals is the maximum number of refused requests in memory. Beyond it the oldest
// is dropped.
const maxRefusals = 10_000

// Refusals holds the latest refused requests in memory. With the id of a request, an
// operator can look up why it was refused. Refusals is safe for concurrent use.
type Refusals struct {
	mu   sync.Mutex
	list []refused // a ring buffer, once it has maxRefusals entries
	next int       // index of the oldest entry in a full list; the next refusal replaces it
}

// refused describes one request that was answered with an error.
type refused struct {
	id, method, route, step, code, message string
	status                                 int
	key, name, owner                       string
	sandbox                                bool   // the key is a sandbox key
	state                                  string // of the key at the time of the request; "" without a key
	client                                 netip.Addr
	at                                     time.Time
	limits                                 []LimitStatus
}

// NewRefusals returns a Refusals without entries.
func NewRefusals() *Refusals { return &Refusals{} }

// Note adds a request to the list if it was answered with an error. The server calls it
// after each request. Note copies the values that it needs, so the caller may reuse o.
func (f *Refusals) Note(o *Outcome) {
	if o.Code == "" || o.Status < http.StatusBadRequest {
		return
	}
	r := refused{
		id: o.ID, method: o.Method, route: o.Route, step: o.RefusedBy(), code: o.Code, message: o.Text, status: o.Status, client: o.Client, at: o.Began,
		limits: slices.Clone(o.Limits),
	}
	if o.Found != nil {
		r.key, r.name, r.owner, r.sandbox, r.state = o.Found.ID, o.Found.Name, o.Found.OwnerName, o.Found.Sandbox(), o.Found.Status(o.Began)
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

// AdminRoutes returns the routes for operators.
func (f *Refusals) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/refusals", Handle: f.show, Query: []string{"page", "limit", "id", "key", "code"}}}
}

// show answers with a page of the list, newest first. The query may filter it by id, key
// and code.
func (f *Refusals) show(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	id, key, code := q.Get("id"), q.Get("key"), q.Get("code")
	if code != "" && !KnownCode(code) {
		return ErrValidation.With("code must be one of the error codes that the page /errors lists; got %q.", code)
	}
	found, shown := []int{}, []refused{} // the entries are large, so only those of the page are copied
	f.mu.Lock()
	for i := range f.list { // i counts back from the newest entry
		n := len(f.list)
		at := (f.next - 1 - i + 2*n) % n
		one := &f.list[at]
		if (id == "" || one.id == id) && (key == "" || one.key == key) && (code == "" || one.code == code) {
			found = append(found, at)
		}
	}
	from, to := page.Bounds(len(found))
	for _, at := range found[from:to] {
		shown = append(shown, f.list[at])
	}
	f.mu.Unlock()
	rows := []any{}
	for _, one := range shown {
		rows = append(rows, one.shown())
	}
	answer := page.Answer(len(found), "refusals", rows)
	answer["kept"] = maxRefusals
	return WriteJSON(w, http.StatusOK, answer)
}

// shown returns the JSON fields of a refused request.
func (r refused) shown() map[string]any {
	limits := []any{}
	for _, s := range r.limits {
		limits = append(limits, map[string]any{
			"name": s.Limit.Name, "kind": s.Limit.Kind(), "max": s.Limit.Max, "used": s.Used, "remaining": s.Remaining(), "window_seconds": int(s.Limit.Window / time.Second),
			"retry_after": int64((s.Wait + time.Second - 1) / time.Second),
		})
	}
	shown := map[string]any{
		"request_id": r.id, "at": Millis(r.at), "method": r.method, "route": r.route, "status": r.status, "error": r.code, "message": r.message,
		"refused_by": r.step, "key_id": TextOrNone(r.key), "key_name": TextOrNone(r.name), "owner": TextOrNone(r.owner), "sandbox": r.sandbox, "client": AddrOrNone(r.client), "limits": limits,
	}
	return shown
}
