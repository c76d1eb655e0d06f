// The server family makes the checks before every handler, in their one order, and
// turns errors into answers. server.go has the order; server_tokens.go the tokens
// of the admin endpoint. It knows rows and no resource.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
)

// wrongKeys is the number of wrong keys or admin tokens that an address may
// send per minute.
const wrongKeys = 60

// maxImport is the largest body of a request to the admin listener, in bytes.
// Imports need that much.
const maxImport = 64 << 20

// Server runs the checks that every request passes before its handler, in a
// fixed order, and turns errors into the error bodies of the contract. It knows
// routes, but no resource. It is safe for concurrent use.
type Server struct {
	o        ServerOptions
	throttle *Throttle
	boot     string // prefix of every request id of this run
	count    atomic.Uint64
	draining atomic.Bool
	address  atomic.Pointer[string]
	askers   []netip.Prefix // the proxies that may call /authz
}

// NewServer returns a Server for the routes of o. Conflicts between the routes
// are reported by API and Admin.
func NewServer(o ServerOptions) *Server {
	return &Server{o: o, throttle: NewThrottle(wrongKeys, time.Minute), boot: keytext.RandomHex(4), askers: AuthzProxies(o.Proxies)}
}

// ListensAt records the URL at which clients reach the API.
func (s *Server) ListensAt(url string) { s.address.Store(&url) }

// Address returns the URL at which clients reach the API, or "" if it is not
// known yet.
func (s *Server) Address() string {
	if url := s.address.Load(); url != nil {
		return *url
	}
	return ""
}

// Drain makes /readyz answer 503, so that load balancers send no new requests.
func (s *Server) Drain() { s.draining.Store(true) }

// API returns the handler of the API listener. It returns an error if routes
// conflict.
func (s *Server) API() (http.Handler, error) {
	var rows []Row
	for _, row := range s.o.Keyed {
		rows = append(rows, Row{row, s.keyed(row, false)})
	}
	for _, row := range s.o.Free {
		rows = append(rows, Row{row, s.keyed(row, true)})
	}
	for _, row := range s.o.Open {
		rows = append(rows, Row{row, s.open(row)})
	}
	router, err := NewRouter(append(rows, s.health(false)...), s.plain)
	if err != nil || s.o.Guards == nil {
		return router, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.authz(w, r) && !s.guarded(w, r) {
			router.ServeHTTP(w, r)
		}
	}), nil
}

// Admin returns the handler of the admin listener, or an error if routes
// conflict. If trusted is true, as for the control socket, no token is
// required.
func (s *Server) Admin(trusted bool) (http.Handler, error) {
	var rows []Row
	for _, row := range s.o.Admin {
		rows = append(rows, Row{row, s.operated(row, trusted || row.Public)})
	}
	return NewRouter(append(rows, s.health(true)...), s.plain)
}

// health returns the routes of a listener that need no key: its pages, /healthz
// and /readyz. admin selects the admin listener.
func (s *Server) health(admin bool) []Row {
	row := func(path string, ready func() error) Row {
		return Row{Route{Method: "GET", Path: path}, func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
			status, answer := http.StatusOK, map[string]string{"status": "ok"}
			if err := ready(); err != nil {
				status, answer = http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "reason": err.Error()}
			}
			_ = WriteJSON(w, status, answer)
		}}
	}
	return append(s.o.Pages(admin),
		row("/healthz", func() error { return nil }),
		row("/readyz", s.Ready),
	)
}

// Ready returns nil if the server can accept requests, or an error with the
// reason why it cannot.
func (s *Server) Ready() error {
	if err := s.o.Store.Err(); err != nil {
		return errors.New("the store takes no writes; the log says why")
	}
	if s.draining.Load() {
		return errors.New("the server is stopping")
	}
	return nil
}

// exchange is one request, its answer, and what the server records about them.
// Only the goroutine of the request uses it.
type exchange struct {
	Request
	http.ResponseWriter
	status int
	fault  *Error // the public error of the request, nil if there is none
	step   string // the check that ran last
	began  time.Time
	limits [2]LimitStatus // first storage of Request.Limits, which saves an allocation
	meter  *CounterRef
	found  *Key // Outcome.Found
	draft  bool
	rights *Policy // the policy of a guarded route; nil: the policy of the key
	told   Outcome // part of the struct to save an allocation
}

// WriteHeader records the first final status for the access log and adds the
// limit header fields, with the limits as they are then.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= http.StatusOK {
		x.status = status
		WriteLimitFields(x.Header(), x.Request.Limits, x.Now, x.draft)
	}
	x.ResponseWriter.WriteHeader(status)
}

// Header returns the header of the answer. Request has a Header as well, so the
// choice must be explicit.
func (x *exchange) Header() http.Header { return x.ResponseWriter.Header() }

// Write sends part of the body, after status 200 if none was sent before.
func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(b)
}

// Hijack takes over the connection for a protocol other than HTTP.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	x.status = http.StatusSwitchingProtocols
	return http.NewResponseController(x.ResponseWriter).Hijack()
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// begin returns a new exchange for a request to row.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, p httprouter.Params, row Route) *exchange {
	now := s.o.Clock.Now()
	x := new(exchange) // set field by field: a literal would be copied
	x.ResponseWriter, x.Route, x.draft = w, row.Path, s.o.DraftHeaders
	x.Request.Request, x.Params, x.MaxBody = r, p, s.o.MaxBody
	x.began, x.Now, x.Moment, x.Latest = now, now, s.o.Clock.Service(now), s.o.Clock.Latest(now)
	x.Request.Limits = x.limits[:0]
	x.Client = ClientAddr(r, s.o.Proxies)
	x.ID = s.boot + strconv.FormatUint(s.count.Add(1), 36)
	return x
}

// end finishes an exchange: it recovers from a panic of the handler, answers
// *err unless that is nil, then logs and publishes the outcome.
func (s *Server) end(x *exchange, err *error) {
	if p := recover(); p == http.ErrAbortHandler {
		defer panic(p) // after the outcome of the aborted answer is logged and published
	} else if p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
	if *err != nil {
		s.fail(x, *err)
	}
	if !s.o.Access && len(s.o.Watch) == 0 {
		return
	}
	took := s.o.Clock.Now().Sub(x.began)
	if s.o.Access {
		s.o.Log.Info("request", "id", x.ID, "method", x.Method, "route", x.Route, "status", x.status,
			"key", keyID(x.Key), "client", x.Client, "ms", float64(took.Microseconds())/1000)
	}
	s.tell(x, took)
}

// tell passes the outcome of a request to the functions in Watch.
func (s *Server) tell(x *exchange, took time.Duration) {
	if len(s.o.Watch) == 0 {
		return
	}
	x.told = Outcome{
		ID: x.ID, Method: x.Method, Route: x.Route, Status: x.status, Key: x.Key, Found: x.found, Actor: x.Actor, Client: x.Client, Params: x.Params,
		Began: x.began, Took: took, Limits: x.Request.Limits,
	}
	if x.fault != nil {
		x.told.Code, x.told.Text, x.told.Step = x.fault.Code, x.fault.Message, x.step
		x.told.Method = s.o.Redact(x.Method) // the client may have sent a secret as the method
	}
	for _, watch := range s.o.Watch {
		watch(&x.told)
	}
}

func keyID(k *Key) string {
	if k == nil {
		return ""
	}
	return k.ID
}

// fail answers with the public form of err. The client sees an internal error
// only as server_error; its full text is logged.
func (s *Server) fail(x *exchange, err error) {
	e := Public(err)
	if e == ErrServer {
		s.o.Log.Error("request failed", "id", x.ID, "route", x.Route, "error", err)
	}
	if message := s.o.Redact(e.Message); message != e.Message { // a message may quote a secret that was sent in the wrong place
		clean := *e
		clean.Message, e = message, &clean
	}
	x.fault = e
	if e.Code == ErrRateLimit.Code && x.Key != nil && s.o.Reached != nil {
		s.o.Reached(x.Key, x.Request.Limits, x.Now, x.Moment)
	}
	if x.status != 0 {
		return // the answer has already begun
	}
	h := x.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Link", "</errors/"+e.Code+`>; rel="help"`) // RFC 8288
	if e.Challenge != "" {
		h.Set("WWW-Authenticate", e.Challenge)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	body := map[string]any{"error": e.Code, "message": e.Message, "request_id": x.ID}
	maps.Copy(body, e.Fields)
	_ = WriteJSON(x, e.Status, body)
}

// keyed returns the handler of a route of the API listener. The checks are, in
// this order: carrier, key, state, address, limits, permission. For free routes
// the limits and the permission are not checked.
func (s *Server) keyed(row Route, free bool) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		var err error
		defer s.end(x, &err)
		err = s.pass(x, row, free)
	}
}

// guarded answers a request for a guarded route and reports whether it was one.
func (s *Server) guarded(w http.ResponseWriter, r *http.Request) bool {
	now := s.o.Guards.Now() // one state for the whole request, even during a reload
	if !now.Any() {
		return false
	}
	row, allow, err := now.Find(r.Method, r.URL.EscapedPath())
	if row == nil && err == nil {
		return false
	}
	if err != nil {
		if allow != nil {
			w.Header().Set("Allow", strings.Join(allow, ", "))
		}
		x := s.begin(w, r, nil, Route{Path: "-"})
		x.step = StepRoute
		s.end(x, &err)
		return true
	}
	x := s.begin(w, r, nil, *row)
	x.rights = now.Rights
	defer s.end(x, &err)
	err = s.pass(x, *row, false)
	return true
}

// pass runs the checks of a route, then its handler. For free routes the limits
// and the permission are not checked.
func (s *Server) pass(x *exchange, row Route, free bool) error {
	if err := s.authenticate(x); err != nil {
		return err
	}
	if !free {
		if err := s.admit(x, row); err != nil {
			return err
		}
	}
	x.step = StepHandler
	return row.Handle(x, &x.Request)
}

// authz answers a proxy that asks at /authz whether it may pass on a request,
// and reports whether r is such a question. Charges, logs and counts are for
// the request that the proxy asks about.
func (s *Server) authz(w http.ResponseWriter, r *http.Request) bool {
	family := FindAuthz(r.URL.EscapedPath())
	if family == 0 {
		return false
	}
	asked, err := family.Ask(r)
	x := s.begin(family.Answer(w), asked, nil, Route{Path: "-"})
	defer s.end(x, &err)
	x.Client, x.step = ClientAddr(r, s.askers), StepAddress
	if !FromProxy(r, s.askers) {
		s.o.Log.Warn("/authz asked by an address that is no declared proxy", "id", x.ID, "client", x.Client)
		err = ErrPermission.With("%s is no declared proxy, and only those may ask here. Add the address of the proxy to trusted_proxies in [server].", x.Client)
		return true
	}
	if x.step = StepRoute; err != nil {
		return true
	}
	now := s.o.Guards.Now()
	row, allow, err := now.FindAny(asked.Method, asked.URL.RawPath)
	switch {
	case allow != nil:
		x.Header().Set("Allow", strings.Join(allow, ", "))
	case row == nil && err == nil:
		err = ErrRoute.With("No [[route]] of the configuration is for %s %s, so it is refused.", asked.Method, ClipPath(asked.URL.Path))
	}
	if err != nil {
		return true
	}
	x.Route, x.rights, row.Handle = row.Path, now.Rights, Authorized
	err = s.pass(x, *row, false)
	return true
}

// open returns the handler of a route that needs no key.
func (s *Server) open(row Route) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		var err error
		defer s.end(x, &err)
		x.step = StepHandler
		err = row.Handle(x, &x.Request)
	}
}

// authenticate finds the key of a request and checks its state and whether it
// may be used from the client's address. Wrong keys are throttled by address.
func (s *Server) authenticate(x *exchange) error {
	x.step = StepCarrier
	c, err := ReadCredential(x.Request.Request)
	if err != nil {
		return challenge(err)
	}
	if c.Carrier == CarrierQuery {
		// RFC 6750, section 2.3: caches must not store this answer.
		x.Header().Set("Cache-Control", "private, no-store")
		x.Header().Set("Referrer-Policy", "no-referrer")
	}
	x.step = StepKey
	key, holder, err := s.o.Keyring.Find(c.Secret)
	if err == nil {
		key = key.Fit(x.rights)
		x.found, x.step = key, StepState
		if err = key.Check(x.Latest); err == nil && c.Carrier == CarrierQuery && !key.AllowsQuery(s.o.QueryAllowed) {
			x.step, err = StepCarrier, ErrQueryKey
		}
	}
	if err != nil {
		if errors.Is(err, ErrKey) {
			if wait := s.throttle.Fail(x.Client, x.Moment); wait > 0 {
				return ErrRateLimit.With("Too many wrong keys from this address. Wait for the time in Retry-After.").After(wait)
			}
		}
		return challenge(err)
	}
	x.Key, x.meter, x.step = key, &holder.Meter, StepAddress
	if !key.Allows(x.Client) {
		return ErrPermission.With("This key may not be used from %s. Its allowed_ips say from where.", x.Client)
	}
	s.o.Keyring.Used(holder, LastUse{At: x.Now, IP: x.Client, Carrier: c.Carrier})
	return nil
}

// challenge returns err with a WWW-Authenticate challenge added if it is a 401
// without one (RFC 9110, section 15.5.2). The challenge has an error code only
// if a key was sent (RFC 6750, section 3.1).
func challenge(err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusUnauthorized || e.Challenge != "" {
		return err
	}
	c := *e
	c.Challenge = `Bearer realm="latchkey"`
	if e.Code == ErrKey.Code {
		c.Challenge += `, error="invalid_token"`
	}
	return &c
}

// admit charges the minute limit, and the limits of the route if the key has
// the permission. Then it checks the permission.
func (s *Server) admit(x *exchange, row Route) error {
	permitted := row.Permission == 0 || x.Key.Has(row.Permission)
	x.step = StepLimit
	limits, err := s.spend(x, row, permitted)
	x.Request.Limits = limits
	if err == nil && row.Spends != "" {
		err = s.stand(x, row.Spends)
	}
	if err != nil {
		return err
	}
	if !permitted {
		x.step = StepPermission
		names := x.Key.Rights().Names(row.Permission)
		e := ErrPermission.With("This key lacks the permission %s. It has %s.", strings.Join(names, " or "), x.Key.Holds())
		e.Challenge = `Bearer realm="latchkey", error="insufficient_scope", scope="` + strings.Join(names, " ") + `"`
		return e
	}
	return nil
}

// spend charges all limits that apply before the handler, or none if one of
// them is exhausted. It returns their status, appended to x.Request.Limits.
func (s *Server) spend(x *exchange, row Route, permitted bool) ([]LimitStatus, error) {
	short := x.Key.ShortLimits()
	if short != nil && (len(row.Limits) == 0 || row.Cost == 0 || !permitted) {
		return s.o.Limiter.SpendBy(x.meter, x.Key.ID, short, x.Moment, x.Request.Limits)
	}
	charges := x.Key.Charge(nil, RequestsPerMinute, 1)
	if permitted && row.Cost > 0 {
		for _, name := range row.Limits {
			charges = x.Key.Charge(charges, name, row.Cost)
		}
	}
	return s.o.Limiter.Pay(charges, x.Moment, x.Request.Limits)
}

// stand appends the status of a limit that the handler may charge later. Limits
// that are only observed are left out.
func (s *Server) stand(x *exchange, name string) error {
	charges := slices.DeleteFunc(x.Key.Charge(nil, name, 0), func(c Charge) bool { return c.Observe })
	list, err := s.o.Limiter.Statuses(charges, x.Moment)
	x.Request.Limits = append(x.Request.Limits, list...)
	return err
}

// operated returns the handler of a route of the admin listener. If trusted is
// true, no token is required.
func (s *Server) operated(row Route, trusted bool) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		x.MaxBody = maxImport
		var err error
		defer s.end(x, &err)
		if trusted {
			x.Actor, x.Client = Actor(r)
		} else {
			x.step = StepKey
			if x.Actor, err = s.o.Tokens.Authenticate(r, x.Now); err != nil {
				if wait := s.throttle.Fail(x.Client, x.Moment); wait > 0 && errors.Is(err, ErrKey) {
					err = ErrRateLimit.With("Too many wrong tokens from this address. Wait for the time in Retry-After.").After(wait)
				}
				err = challenge(err)
				return
			}
		}
		x.step = StepHandler
		err = row.Handle(x, &x.Request)
	}
}

// plain returns the handler for requests that match no route. e is ErrRoute or
// ErrMethod.
func (s *Server) plain(e *Error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := s.begin(w, r, nil, Route{Path: "-"})
		x.step = StepRoute
		said := e
		if e == ErrRoute {
			said = e.With("No such endpoint: %s %s. Check the path; the version prefix is /api/v1.", r.Method, ClipPath(r.URL.Path))
		} else if allow := strings.Replace(w.Header().Get("Allow"), ", OPTIONS", "", 1); allow != "" {
			w.Header().Set("Allow", allow)
			said = e.With("%s does not take %s, but %s.", ClipPath(r.URL.Path), r.Method, allow)
		}
		var err error = said
		s.end(x, &err)
	})
}

// Routes are endpoints, grouped by listener and by the checks they need.
type Routes struct {
	Keyed []Route // API listener: a key is required, every check applies
	Free  []Route // API listener: a key is required, but no limit and no permission
	Open  []Route // API listener: no key is required
	Admin []Route // admin listener and control socket
}

// Add appends the routes of more.
func (r *Routes) Add(more Routes) {
	r.Keyed = append(r.Keyed, more.Keyed...)
	r.Free = append(r.Free, more.Free...)
	r.Open = append(r.Open, more.Open...)
	r.Admin = append(r.Admin, more.Admin...)
}

// Names returns the method and path of each route. Those of the admin listener
// are marked.
func (r Routes) Names() []string {
	var names []string
	for _, row := range slices.Concat(r.Keyed, r.Free, r.Open) {
		names = append(names, row.Method+" "+row.Path)
	}
	for _, row := range r.Admin {
		names = append(names, row.Method+" "+row.Path+" at the admin listener")
	}
	return names
}

// ServerOptions configure a Server. All functions in it may be called
// concurrently.
type ServerOptions struct {
	Clock   *clock.Clock
	Store   *Store
	Keyring *Keyring
	Limiter *Limiter
	Tokens  *Tokens
	Log     *slog.Logger
	Redact  func(string) string // removes secrets from the text of an error

	Routes

	Pages func(admin bool) []Row // pages that describe a listener's endpoints; they need no key

	Access       bool  // log every request
	QueryAllowed bool  // accept ?api_key=
	DraftHeaders bool  // send RateLimit and RateLimit-Policy
	MaxBody      int64 // largest body on the API listener, in bytes
	Proxies      []netip.Prefix
	Guards       *ProxyRoutes // the routes of another API; nil: no guard and no /authz

	// Reached is called for each request that was refused by a limit of its key,
	// with the status of the limits, the wall clock and the service clock. It
	// must be quick; nil turns it off.
	Reached func(k *Key, limits []LimitStatus, now, moment time.Time)

	// Watch functions are called with the outcome of every answered request. Each
	// must be quick, and must not keep the Outcome or anything in it except
	// strings.
	Watch []func(*Outcome)
}

// Own returns the method and path of each endpoint of the API listener. Guarded
// routes cannot take these paths.
func (s *Server) Own() []string {
	names := []string{"GET /healthz", "GET /readyz"}
	names = append(names, AuthzEndpoints()...)
	for _, row := range slices.Concat(s.o.Keyed, s.o.Free, s.o.Open) {
		names = append(names, row.Method+" "+row.Path)
	}
	for _, row := range s.o.Pages(false) {
		names = append(names, row.Method+" "+row.Path)
	}
	return names
}
