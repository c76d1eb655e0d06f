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

// wrongKeys is how many wrong keys an address may send in a minute.
const wrongKeys = 60

// maxImport is the most bytes that an import on the admin door may have.
const maxImport = 64 << 20

// Server turns requests into answers: it makes the checks that stand before
// every handler, in their one order, and turns errors into the contract's
// bodies. It knows no resource, only routes.
type Server struct {
	o        ServerOptions
	throttle *Throttle
	boot     string // opens every request id of this run
	count    atomic.Uint64
	draining atomic.Bool
	address  atomic.Pointer[string]
	askers   []netip.Prefix // who may ask at /authz
}

// NewServer serves the routes of its options. Routes that contradict each
// other are an error.
func NewServer(o ServerOptions) *Server {
	return &Server{o: o, throttle: NewThrottle(wrongKeys, time.Minute), boot: keytext.RandomHex(4), askers: AuthzProxies(o.Proxies)}
}

// ListensAt notes where clients reach the API.
func (s *Server) ListensAt(url string) { s.address.Store(&url) }

// Address is where clients reach the API, "" while that is not known.
func (s *Server) Address() string {
	if url := s.address.Load(); url != nil {
		return *url
	}
	return ""
}

// Drain makes /readyz say that no new requests should come.
func (s *Server) Drain() { s.draining.Store(true) }

// API is the handler of the API door.
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

// Admin is the handler of the admin door. With trusted, which is for the
// control socket, no token is asked for.
func (s *Server) Admin(trusted bool) (http.Handler, error) {
	var rows []Row
	for _, row := range s.o.Admin {
		rows = append(rows, Row{row, s.operated(row, trusted || row.Public)})
	}
	return NewRouter(append(rows, s.health(true)...), s.plain)
}

// health lists the rows of the API or the admin door that answer without a key.
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

// Ready says why no requests should come, nil where they may.
func (s *Server) Ready() error {
	if err := s.o.Store.Err(); err != nil {
		return errors.New("the store takes no writes; the log says why")
	}
	if s.draining.Load() {
		return errors.New("the server is stopping")
	}
	return nil
}

// exchange is one request on its way through the server.
type exchange struct {
	Request
	http.ResponseWriter
	status int
	fault  *Error // what was answered instead of the handler's own answer
	step   string // the check that was made last
	began  time.Time
	limits [2]LimitStatus // where Request.Limits begins
	meter  *CounterRef
	found  *Key // Outcome.Found
	draft  bool
	rights *Policy // that the route belongs to, nil for those that the key has
	told   Outcome // here so that telling needs no memory of its own
}

// WriteHeader notes the status for the access log and tells how the limits
// stand by then.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= http.StatusOK {
		x.status = status
		WriteLimitFields(x.Header(), x.Request.Limits, x.Now, x.draft)
	}
	x.ResponseWriter.WriteHeader(status)
}

// Header, Write and Unwrap are those of the ResponseWriter; Request has a
// Header too, so the choice has to be written out.
func (x *exchange) Header() http.Header { return x.ResponseWriter.Header() }

// Write sends part of the answer.
func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(b)
}

// Hijack takes over the connection, for another protocol than HTTP.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	x.status = http.StatusSwitchingProtocols
	return http.NewResponseController(x.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// begin starts an exchange.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, p httprouter.Params, row Route) *exchange {
	now := s.o.Clock.Now()
	x := new(exchange) // filled field by field: a literal would be made and then copied
	x.ResponseWriter, x.Route, x.draft = w, row.Path, s.o.DraftHeaders
	x.Request.Request, x.Params, x.MaxBody = r, p, s.o.MaxBody
	x.began, x.Now, x.Moment, x.Latest = now, now, s.o.Clock.Service(now), s.o.Clock.Latest(now)
	x.Request.Limits = x.limits[:0]
	x.Client = ClientAddr(r, s.o.Proxies)
	x.ID = s.boot + strconv.FormatUint(s.count.Add(1), 36)
	return x
}

// end answers with the error, if there is one, logs the request and survives
// a handler's panic.
func (s *Server) end(x *exchange, err *error) {
	if p := recover(); p == http.ErrAbortHandler {
		defer panic(p) // the answer breaks off, and is told of like others
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

// tell gives the watchers what became of a request.
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
		x.told.Method = s.o.Redact(x.Method) // which may be anything
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

// fail turns an error into an answer. The store's and other inner faults are
// logged in full; the caller sees no more than server_error.
func (s *Server) fail(x *exchange, err error) {
	e := Public(err)
	if e == ErrServer {
		s.o.Log.Error("request failed", "id", x.ID, "route", x.Route, "error", err)
	}
	if message := s.o.Redact(e.Message); message != e.Message { // what was sent may be a secret put in the wrong place
		clean := *e
		clean.Message, e = message, &clean
	}
	x.fault = e
	if e.Code == ErrRateLimit.Code && x.Key != nil && s.o.Reached != nil {
		s.o.Reached(x.Key, x.Request.Limits, x.Now, x.Moment)
	}
	if x.status != 0 {
		return // an answer is on its way already
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

// keyed makes the handler of a row of the API door: carrier, key, state,
// address, minute limit, permission, then the row's own handler. free rows
// leave out the limit and the permission.
func (s *Server) keyed(row Route, free bool) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		var err error
		defer s.end(x, &err)
		err = s.pass(x, row, free)
	}
}

// guarded serves a request for a route of the guards, and says whether it is one.
func (s *Server) guarded(w http.ResponseWriter, r *http.Request) bool {
	now := s.o.Guards.Now() // to the end of the request, whatever is loaded meanwhile
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

// pass makes all checks of a row, or those of a free one, and has its handler
// answer.
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

// authz serves a proxy that asks whether a request of its own may pass, and
// says whether this is such a question. What is charged, logged and counted is
// the request that is asked about.
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

// open makes the handler of a row that everybody may ask.
func (s *Server) open(row Route) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		var err error
		defer s.end(x, &err)
		x.step = StepHandler
		err = row.Handle(x, &x.Request)
	}
}

// authenticate finds the key of a request and checks that it may be used now
// and from there.
func (s *Server) authenticate(x *exchange) error {
	x.step = StepCarrier
	c, err := ReadCredential(x.Request.Request)
	if err != nil {
		return challenge(err)
	}
	if c.Carrier == CarrierQuery {
		// RFC 6750 section 2.3: such an answer must not be kept by caches.
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

// challenge adds WWW-Authenticate to a 401 (RFC 9110 section 15.5.2): without
// an error code where no key was sent (RFC 6750 section 3.1).
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

// admit charges the limits that every request pays, with those of the row where
// the permission is there, and checks the permission.
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

// spend charges what a request pays before its handler: all of it or nothing.
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

// stand adds how a limit stands that the handler may charge.
func (s *Server) stand(x *exchange, name string) error {
	charges := slices.DeleteFunc(x.Key.Charge(nil, name, 0), func(c Charge) bool { return c.Observe })
	list, err := s.o.Limiter.Statuses(charges, x.Moment)
	x.Request.Limits = append(x.Request.Limits, list...)
	return err
}

// operated makes the handler of a row of the admin door.
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

// plain answers for the router where no row is concerned.
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

// Routes are endpoints by the door that serves them and what it asks for.
type Routes struct {
	Keyed []Route // the API door: a key is needed, every check applies
	Free  []Route // the same, but costing nothing and needing no permission
	Open  []Route // the API door: no key is needed
	Admin []Route // the admin door and the control socket
}

// Add adds the routes of another set.
func (r *Routes) Add(more Routes) {
	r.Keyed = append(r.Keyed, more.Keyed...)
	r.Free = append(r.Free, more.Free...)
	r.Open = append(r.Open, more.Open...)
	r.Admin = append(r.Admin, more.Admin...)
}

// Names lists the routes by door, method and path.
func (r Routes) Names() []string {
	var names []string
	for _, row := range slices.Concat(r.Keyed, r.Free, r.Open) {
		names = append(names, row.Method+" "+row.Path)
	}
	for _, row := range r.Admin {
		names = append(names, row.Method+" "+row.Path+" at the admin door")
	}
	return names
}

// ServerOptions are what a Server is made of.
type ServerOptions struct {
	Clock   *clock.Clock
	Store   *Store
	Keyring *Keyring
	Limiter *Limiter
	Tokens  *Tokens
	Log     *slog.Logger
	Redact  func(string) string // takes secrets out of what an error says

	Routes

	Pages func(admin bool) []Row // what describes a door's endpoints, without a key

	Access       bool  // log every request
	QueryAllowed bool  // take ?api_key=
	DraftHeaders bool  // send RateLimit and RateLimit-Policy
	MaxBody      int64 // bytes of a body on the API door
	Proxies      []netip.Prefix
	Guards       *ProxyRoutes // the routes of another API, nil for none

	// Reached is told of each request that a limit of its key refused: how the
	// limits stood, wall clock and service time. It must be quick.
	Reached func(k *Key, limits []LimitStatus, now, moment time.Time)

	// Watch is told of every request when it has been answered. Each must be
	// quick, and may keep nothing of what it is given but its strings.
	Watch []func(*Outcome)
}

// Own lists the endpoints of the API door, by method and path.
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
