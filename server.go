// The server family checks every request before its handler runs, and writes the answer
// for every error. server.go contains the checks, in their order. server_open.go ends the
// requests that their key may no longer make. server_tokens.go manages the tokens of the
// admin endpoint. server_exchange.go uses the memory of requests again. The family knows
// routes, but no resource.

package main

import (
	"bufio"
	"context"
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
	"latchkey/internal/cluster"
	"latchkey/internal/conns"
	"latchkey/internal/keytext"
)

// wrongKeys is how many wrong keys or admin tokens a client address may send per minute
// before they are answered with ErrRateLimit.
const wrongKeys = 60

// maxImport is the largest body of a request to the admin listener, in bytes. It is
// large because an import sends many records in one request.
const maxImport = 64 << 20

// Server checks every request in a fixed order, then calls its handler. It answers an
// error with the JSON body that the API documents. It is safe for concurrent use.
type Server struct {
	o        ServerOptions
	throttle *Throttle              // counts wrong keys and admin tokens by client address
	boot     string                 // prefix of every request id of this run
	count    atomic.Uint64          // number of requests so far
	draining atomic.Bool            // set by Drain
	address  atomic.Pointer[string] // set by ListensAt
	askers   Proxies                // the proxies that may call /authz
	running  openRequests           // the requests with a key whose handler runs
	heavy    HeavyTurns             // the heavy requests that run
	spare    spareExchanges         // those of requests that have been answered
}

// NewServer returns a Server for the routes of o. It does not check the routes; API and
// Admin return an error if two routes conflict.
func NewServer(o ServerOptions) *Server {
	return &Server{o: o, throttle: NewThrottle(wrongKeys, time.Minute), boot: keytext.RandomHex(4), askers: AuthzProxies(o.Proxies)}
}

// ListensAt sets the URL that Address returns.
func (s *Server) ListensAt(url string) { s.address.Store(&url) }

// Address returns the URL at which clients reach the API, or "" if ListensAt has not been
// called yet.
func (s *Server) Address() string {
	if url := s.address.Load(); url != nil {
		return *url
	}
	return ""
}

// Drain makes /readyz answer 503 from then on, so that load balancers send no new
// requests. Requests that arrive anyway are served.
func (s *Server) Drain() { s.draining.Store(true) }

// API returns the handler of the API listener. It returns an error if two routes
// conflict.
func (s *Server) API() (http.Handler, error) {
	var rows []Row
	for _, row := range s.o.Keyed {
		rows = append(rows, Row{row, s.keyed(row, s.admit)})
	}
	for _, row := range s.o.Free {
		rows = append(rows, Row{row, s.keyed(row, nil)})
	}
	for _, row := range s.o.Open {
		rows = append(rows, Row{row, s.open(row)})
	}
	router, err := s.router(append(rows, s.health(s.o.Pages)...), false)
	if err != nil || s.o.Guards == nil {
		return router, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.authz(w, r) && !s.guarded(w, r) {
			router.ServeHTTP(w, r)
		}
	}), nil
}

// Admin returns the handler of the admin listener, which requires an admin token. It
// returns an error if two routes conflict.
func (s *Server) Admin() (http.Handler, error) { return s.admin(s.checkToken) }

// LocalAdmin is like Admin, but it returns a handler that requires no token and lets every caller
// do everything. It is for callers that are trusted, such as those of the control socket.
func (s *Server) LocalAdmin() (http.Handler, error) { return s.admin(trust) }

// OperatorAdmin is like Admin, but it returns a handler for requests of operators who have logged in.
// ByCaller has stored the operator in each of them.
func (s *Server) OperatorAdmin() (http.Handler, error) { return s.admin(loggedIn) }

// admin returns a handler of the admin routes, which checks the caller with identify.
func (s *Server) admin(identify identifier) (http.Handler, error) {
	if err := checkRules(s.o.Admin); err != nil {
		return nil, err
	}
	var rows []Row
	for _, row := range s.o.Admin {
		if row.Public {
			rows = append(rows, Row{row, s.operated(row, trust)})
		} else {
			rows = append(rows, Row{row, s.operated(row, identify)})
		}
	}
	return s.router(append(rows, s.health(s.o.AdminPages)...), true)
}

// health returns the routes that require neither a key nor a token: /healthz, /readyz and
// pages, which are the reference pages of a listener.
func (s *Server) health(pages []Row) []Row {
	row := func(path string, ready func() error) Row {
		return Row{Route{Method: "GET", Path: path}, func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
			status, answer := http.StatusOK, map[string]string{"status": "ok"}
			if err := ready(); err != nil {
				status, answer = http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "reason": err.Error()}
			}
			_ = WriteJSON(w, status, answer)
		}}
	}
	return append(slices.Clip(pages),
		row("/healthz", func() error { return nil }),
		row("/readyz", s.Ready),
	)
}

// router returns the router for the rows of a listener; admin says which listener. Every answer
// begins with the header fields of WriteOwnFields.
func (s *Server) router(rows []Row, admin bool) (http.Handler, error) {
	for i, row := range rows {
		rows[i].Serve = func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
			WriteOwnFields(w.Header())
			row.Serve(w, r, p)
		}
	}
	return NewRouter(rows, func(e *Error) http.Handler { return s.plain(e, admin) })
}

// noEndpoint returns the error for a request to a path that is unknown at a listener. admin is as in Outcome.
func (s *Server) noEndpoint(r *http.Request, admin bool) *Error {
	const unknown = "No such endpoint: %s %s. Check the path. Those %s."
	switch {
	case admin:
		return ErrRoute.With(unknown, r.Method, ClipPath(r.URL.Path), "for operators begin with /admin/v1")
	case strings.HasPrefix(r.URL.Path, "/admin/"):
		return ErrRoute.With("No such endpoint: %s %s. The admin endpoint is on another port, see the setting admin.listen.", r.Method, ClipPath(r.URL.Path))
	case !s.o.Keyring.Rights().HasContract():
		return NoRoute(r)
	}
	return ErrRoute.With(unknown, r.Method, ClipPath(r.URL.Path), "of the Klen AI API begin with /api/v1, see /reference")
}

// Ready returns nil if the server can serve requests. Otherwise it returns an error that
// contains the reason, which /readyz shows.
func (s *Server) Ready() error {
	if err := s.o.Store.Err(); err != nil {
		return errors.New("the database cannot be written; the log contains the cause")
	}
	if s.draining.Load() {
		return errors.New("the server is stopping")
	}
	if s.o.Serving != nil {
		return s.o.Serving()
	}
	return nil
}

// Stopping reports whether the server ends its connections because the service stops.
func (s *Server) Stopping() bool { return s.draining.Load() }

// exchange is one request with its answer. It is also the http.ResponseWriter of the
// handler. Only the goroutine of the request uses it.
type exchange struct {
	Request
	http.ResponseWriter
	status  int            // the status that was sent; 0 if none has been sent yet
	fault   *Error         // the error in the answer; nil if there is none
	step    string         // the last check that was started, a Step constant
	began   time.Time      // when the request began, by the wall clock
	limits  [2]LimitStatus // memory for Request.Limits, here to save an allocation
	found   *Key           // see Outcome.Found
	proxies Proxies        // the proxies by which Client was read
	draft   bool           // whether to send RateLimit and RateLimit-Policy
	vary    []string       // the request fields that the answer depends on, see WriteVary
	rights  *Policy        // permissions and limits for a guarded route; nil for other routes
	outcome Outcome        // memory for the parameter of Watch, here to save an allocation
	carrier string         // how the key was sent, such as CarrierQuery
	holder  *CacheEntry    // the secret by which the key was found
	open    openRequest    // see Server.EndRequests
	places  Places         // in the limits on requests in flight
	full    *LimitStatus   // the limit on requests in flight that refused the request; nil: none did
	busy    bool           // HeavyTurns has refused the request, and not a limit of the key
	admin   bool           // see Outcome.Admin
	forward bool           // the handler sends the request to an upstream
	streams *Server        // where BeginStream takes places; nil: the exchange cannot become a stream, or is one
	asked   Asked          // see Outcome.Asked
	failed  error          // the error of the checks or the handler, for end; here to save an allocation
}

// WriteHeader sends the status. Before the first status of 200 or higher it adds Vary and
// the header fields with the state of the limits. The access log contains that status.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= http.StatusOK {
		x.status = status
		x.writeFields()
	}
	x.ResponseWriter.WriteHeader(status)
}

// writeFields adds Vary and the state of the limits to the answer. As lines they take a fraction of
// the time and no memory. The answers of an upstream may have fields of the same names, which are
// replaced in the header.
func (x *exchange) writeFields() {
	if x.Effect.Head > 0 {
		x.Header().Set(headField, strconv.FormatInt(int64(x.Effect.Head), 10))
	}
	limits := LimitFields{List: x.Request.Limits, Now: x.Now, Draft: x.draft}
	w, ok := x.ResponseWriter.(LineWriter)
	if !ok || x.forward || x.Header()["Vary"] != nil {
		WriteVary(x.Header(), x.vary)
		WriteLimitFields(x.Header(), limits)
		return
	}
	w.SetFieldLines(AppendLimitFields(AppendVary(w.FieldLines(), x.vary), limits))
}

// Confirmed returns which nodes of a cluster have applied the changes of the request, see WriteJSON.
func (x *exchange) Confirmed() Effect { return x.Effect }

// headField is the field of answers with the position of the change that they answer. A request with this field is
// answered from a state that has the change, on any node.
const headField = "Latchkey-At"

// Header returns the header of the answer. This method is needed because the embedded
// Request has a field Header too.
func (x *exchange) Header() http.Header { return x.ResponseWriter.Header() }

// Write sends part of the body. If no status has been sent yet, it sends status 200
// first.
func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(b)
}

// Hijack takes over the connection for a protocol other than HTTP.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	x.status = http.StatusSwitchingProtocols
	conn, buffer, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil {
		x.open.tunnel(conn)
	}
	return conn, buffer, err
}

// Unwrap returns the ResponseWriter of net/http. http.ResponseController calls it.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// begin returns a new exchange for a request to a route. p may be nil. It reads the
// clocks once, so that all checks of the request use the same time.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, p httprouter.Params, row Route) *exchange {
	now := s.o.Clock.Now()
	x := s.spare.take() // set field by field, because a literal of this size would be copied
	x.ResponseWriter, x.Route, x.draft = w, row.Path, s.o.DraftHeaders
	x.Request.Request, x.Params, x.MaxBody, x.Finishes, x.Parameters = r, p, s.o.MaxBody, row.Finishes, row.Query
	x.began, x.Now, x.Steady = now, now, s.o.Clock.Steady(now)
	x.Earliest, x.Latest = s.o.Clock.Bounds(now)
	x.Request.Limits = x.limits[:0]
	x.Client, x.proxies = ClientAddr(r, s.o.Proxies), s.o.Proxies
	var id [24]byte // 8 digits of boot, and at most 13 of a number in base 36
	x.ID = string(strconv.AppendUint(append(id[:0], s.boot...), s.count.Add(1), 36))
	return x
}

// end finishes an exchange. It answers with *err if that is not nil. Then it logs the
// request and calls the functions in Watch. Defer it directly: it recovers from a panic
// of the handler and answers that as an internal error. x must not be used after it.
func (s *Server) end(x *exchange, err *error) {
	p, ended := recover(), x.open.leave()
	x.places.Release()
	if p != nil && p != http.ErrAbortHandler {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	} else if ended != nil {
		*err = ended
	}
	if p == http.ErrAbortHandler || ended != nil {
		defer panic(http.ErrAbortHandler) // abort the connection, after the request has been logged
	}
	if *err != nil {
		s.fail(x, *err)
	}
	s.report(x)
	if p == nil && *err == nil && !x.forward {
		s.spare.retire(x)
	}
}

// report logs a request that has been answered, and calls the functions in Watch.
func (s *Server) report(x *exchange) {
	if s.o.Access == nil && len(s.o.Watch) == 0 {
		return
	}
	now := s.o.Clock.Now()
	took := now.Sub(x.began)
	if s.o.Access != nil {
		s.o.Access.Write(&AccessLine{At: now, ID: x.ID, Method: x.Method, Route: x.Route, Status: x.status, Key: keyID(x.Key), Client: x.Client, Took: took})
	}
	s.publish(x, took)
}

// publish calls the functions in Watch with the outcome of a request. took is the
// duration of the request.
func (s *Server) publish(x *exchange, took time.Duration) {
	if len(s.o.Watch) == 0 {
		return
	}
	if x.full != nil {
		x.Request.Limits = append(x.Request.Limits, *x.full)
	}
	x.outcome = Outcome{
		ID: x.ID, Method: x.Method, Route: x.Route, Status: x.status, Key: x.Key, Found: x.found, Admin: x.admin, Actor: x.Actor(), Client: x.Client, Params: x.Params,
		Began: x.began, Steady: x.Steady, Took: took, Limits: x.Request.Limits, Asked: x.asked,
		Guarded: x.rights != nil, Forwarded: x.forward,
	}
	if x.found != nil {
		x.outcome.Tally, x.outcome.Holder = &x.holder.Tally, x.holder
	}
	if x.fault != nil {
		x.outcome.Code, x.outcome.Text, x.outcome.Step = x.fault.Code, x.fault.Message, x.step
		x.outcome.Method = s.o.Redact(x.Method) // the client may have sent a secret as the method
	}
	for _, watch := range s.o.Watch {
		watch(&x.outcome)
	}
}

// keyID returns the id of a key, or "" if k is nil.
func keyID(k *Key) string {
	if k == nil {
		return ""
	}
	return k.ID
}

// fail answers a request with an error. It logs the full text of an internal error; the
// client receives only the code server_error. If part of the answer has been sent
// already, fail sends nothing more.
func (s *Server) fail(x *exchange, err error) {
	e := Public(err)
	if e == ErrServer {
		s.o.Log.Error("request failed", "id", x.ID, "route", x.Route, "error", err)
	}
	if e == ErrNotFound {
		e = x.Missing()
	}
	if message := s.o.Redact(e.Message); message != e.Message { // the message may quote input that contains a secret
		clean := *e
		clean.Message, e = message, &clean
	}
	x.fault = e
	if e.Code == ErrRateLimit.Code && x.Key != nil && !x.busy && s.o.Reached != nil {
		reached := x.Request.Limits
		if x.full != nil {
			reached = []LimitStatus{*x.full}
		}
		s.o.Reached(x.Key, reached, x.Now, x.Steady)
	}
	if x.status != 0 {
		return // the answer has already begun
	}
	h := x.Header()
	WriteOwnFields(h)                                 // not set yet for a guarded route and for a request that matches no route
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

// keyed returns the handler of a route of the API listener that requires a key. The
// checks are, in this order: how the key was sent, whether it exists, its state, the
// client's address, the limits, and the permission. admit checks the limits and the
// permission; if it is nil, they are not checked.
func (s *Server) keyed(row Route, admit func(*exchange, Route) error) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		x.vary = VaryKey
		defer s.end(x, &x.failed)
		x.failed = s.pass(x, row, admit)
	}
}

// guarded answers a request if it matches a guarded route, which is a path of another
// API that is served only with a key. It reports whether it has answered. It also
// answers if the path is not valid or the method is not allowed.
func (s *Server) guarded(w http.ResponseWriter, r *http.Request) bool {
	now := s.o.Guards.Now() // use the same routes for the whole request, even during a reload
	if !now.Any() {
		return false
	}
	row, allow, err := now.Find(r)
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
	x.vary, x.rights, x.open.routes, x.streams, x.forward = VaryKey, now.Rights, now, s, true
	defer s.end(x, &err)
	err = s.pass(x, *row, s.admit)
	return true
}

// pass runs the checks of a route that requires a key, then its handler. It returns the
// error of the first check that failed, or the error of the handler. admit checks the
// limits and the permission; if it is nil, they are not checked.
func (s *Server) pass(x *exchange, row Route, admit func(*exchange, Route) error) error {
	changes := s.o.Keyring.Changes()
	if err := s.atPresent(x, s.authenticate); err != nil {
		return err
	}
	if admit != nil {
		if err := admit(x, row); err != nil {
			return err
		}
		x.open.permission, x.open.liveOnly, x.open.rights, x.open.key, x.open.changes = row.Permission, row.LiveOnly, x.rights, x.Key, changes
		s.running.enter(x)
		if x.rights == nil && x.Key.Sandbox() && s.o.Sandbox != nil {
			if err := s.o.Sandbox(x.Key.Owner, x.Now); err != nil {
				return err
			}
		}
	}
	return s.handle(x, row)
}

// atPresent identifies the caller of a request, on a node of a cluster by a state that has the change that the request
// names, and that is not older than what was acknowledged to anybody: otherwise the answer is ErrUnavailable. All routes
// pass through it, except /healthz, /readyz and the reference.
func (s *Server) atPresent(x *exchange, identify identifier) error {
	if s.o.Serving == nil {
		return identify(x)
	}
	if err := s.reach(x); err != nil {
		return err
	}
	err := identify(x)
	// Not earlier: the caller must have been looked up while the view was of the present.
	if stale := s.o.Serving(); stale != nil {
		x.step = StepHandler
		return ErrUnavailable.With("This server cannot tell what has changed on the others, so it does not answer: %s.", stale)
	}
	x.Steady = s.o.Clock.Steady(s.o.Clock.Now()) // at first it may have been the time that this node had before it joined the others
	return err
}

// atAnyTime is like atPresent for a Route that is Stale.
func (s *Server) atAnyTime(x *exchange, identify identifier) error {
	trusted := false
	err := s.atPresent(x, func(x *exchange) error {
		err := identify(x)
		trusted = err == nil && x.Caller.Token == 0 && x.Caller.Operator == 0
		return err
	})
	if trusted {
		return nil
	}
	return err
}

// headTime is how long a request waits for the state that it asks for.
const headTime = time.Second

// reach waits until the view has the state that the field Latchkey-At of a request names, if it has one.
func (s *Server) reach(x *exchange) error {
	text := x.Request.Request.Header.Get(headField)
	if text == "" {
		return nil
	}
	head, err := strconv.ParseInt(text, 10, 64)
	if err != nil || head < 0 {
		return ErrValidation.With("The field %s must have the value that an answer had in the same field, a number.", headField)
	}
	ctx, cancel := context.WithTimeout(x.Request.Context(), headTime)
	defer cancel()
	if s.o.Store.Reach(ctx, cluster.Head(head)) != nil {
		return ErrUnavailable.With("This server does not have the change %d of the cluster yet. Try again shortly.", head)
	}
	return nil
}

// handle runs the handler of a route after it has checked the query and whether the route takes a
// body, and once a heavy request has its turn. It does not check the query of a guarded route, which
// the upstream reads. The answer of a slow route has no deadline.
func (s *Server) handle(x *exchange, row Route) error {
	x.step = StepHandler
	if x.rights == nil {
		if err := row.CheckQuery(&x.Request); err != nil {
			return err
		}
	}
	if err := row.CheckBody(&x.Request); err != nil {
		return err
	}
	if row.Slow {
		if err := x.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
	if row.Heavy != nil && row.Heavy(&x.Request) {
		leave, err := s.heavy.Enter(&x.Request)
		if err != nil {
			x.busy = true
			return err
		}
		defer leave()
	}
	return row.Handle(x, &x.Request)
}

// authz answers a request to /authz, with which a proxy asks whether it may forward a
// client's request. It reports whether r was such a request. It charges limits, logs and
// counts as if the client's request had been sent here. Only addresses in
// trusted_proxies may call /authz.
func (s *Server) authz(w http.ResponseWriter, r *http.Request) bool {
	family := FindAuthz(r.URL.EscapedPath())
	if family == 0 {
		return false
	}
	asked, err := family.Ask(r)
	x := s.begin(family.Answer(w), asked, nil, Route{Path: "-"})
	defer s.end(x, &err)
	WriteOwnFields(x.Header())
	x.vary, x.Client, x.proxies, x.step = VaryKey, ClientAddr(r, s.askers), s.askers, StepAddress
	if !FromProxy(r, s.askers) {
		s.o.Log.Warn("/authz called from an address that is not in trusted_proxies", "id", x.ID, "client", AddrText(x.Client))
		err = notAsker(r, x.Client)
		return true
	}
	if x.step = StepRoute; err != nil {
		return true
	}
	now := s.o.Guards.Now()
	row, allow, err := now.FindAny(asked)
	switch {
	case allow != nil:
		x.Header().Set("Allow", strings.Join(allow, ", "))
	case row == nil && err == nil:
		err = NoRoute(asked)
	}
	if err != nil {
		return true
	}
	answered := *row
	x.Route, x.rights, answered.Handle = row.Path, now.Rights, Authorized
	err = s.pass(x, answered, s.charge) // not admit, because the end of the client's request is not seen here
	return true
}

// notAsker returns the error for a caller of /authz that is not a trusted proxy.
func notAsker(r *http.Request, client netip.Addr) error {
	if client.IsValid() {
		return ErrPermission.With("%s may not call /authz, because it is not in trusted_proxies. Add the address of the proxy to trusted_proxies in [server].", AddrText(client))
	}
	return ErrPermission.With("The caller may not call /authz, because its address is unknown: %s.", UnknownBecause(r, Proxies{}))
}

// open returns the handler of a route of the API listener that requires no key.
func (s *Server) open(row Route) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		defer s.end(x, &x.failed)
		if x.failed = s.atPresent(x, anybody); x.failed == nil {
			x.failed = s.handle(x, row)
		}
	}
}

// anybody is the identifier of the routes of the API listener that require no key.
func anybody(*exchange) error { return nil }

// authenticate finds the key of a request and sets x.Key. It returns an error if no
// valid key was sent, or if the key may not be used from the client's address. It counts
// wrong keys by client address. Beyond wrongKeys per minute it returns ErrRateLimit for
// a wrong key.
func (s *Server) authenticate(x *exchange) error {
	x.step = StepCarrier
	c, err := ReadCredential(x.Request.Request)
	if err != nil {
		return challenge(err)
	}
	if c.Carrier == CarrierQuery {
		// The URL contains the key, so caches must not store this answer (RFC 6750,
		// section 2.3).
		x.Header().Set("Cache-Control", "private, no-store")
		x.Header().Set("Referrer-Policy", "no-referrer")
	}
	x.step = StepKey
	key, holder, err := s.o.Keyring.Find(c.Secret)
	if err == nil {
		key = key.Fit(x.rights)
		x.found, x.holder, x.carrier = key, holder, c.Carrier
		x.step, err = s.usable(x, key, x.Latest)
	}
	if err != nil && x.step != StepAddress {
		if errors.Is(err, ErrKey) {
			if wait := s.throttle.Fail(x.Client, x.Steady); wait > 0 {
				return ErrRateLimit.With("Too many wrong keys from this address. Wait for the time in Retry-After.").After(wait)
			}
		}
		return challenge(err)
	}
	x.Secrets = Secrets{Sent: c.Secret, Prefix: s.o.Keyring.Prefix()}
	if x.Key = key; err != nil {
		if !x.Client.IsValid() {
			return ErrPermission.With("This key may be used only from its allowed_ips, but the address of the client is unknown: %s.", UnknownBecause(x.Request.Request, x.proxies))
		}
		return err
	}
	conns.MarkKeyed(x.Request.Context())
	s.o.Keyring.Used(holder, LastUse{At: x.Now, IP: x.Client, Carrier: c.Carrier})
	return nil
}

// usable returns nil if the key may be used at now, a time from Clock.Latest, as the request of x
// sends it. Otherwise it returns an error. step is the last check that was made. It is used before
// the handler runs and for as long as it runs.
func (s *Server) usable(x *exchange, key *Key, now time.Time) (step string, err error) {
	if err := key.Check(now); err != nil {
		return StepState, err
	}
	if x.carrier == CarrierQuery && !(s.o.QueryAllowed && key.AllowsQuery()) {
		return StepCarrier, ErrQueryKey
	}
	if !key.Allows(x.Client) {
		return StepAddress, ErrPermission.With("This key may not be used from %s. Use an address in its allowed_ips.", AddrText(x.Client))
	}
	return StepAddress, nil
}

// challenge adds a WWW-Authenticate challenge to an error with status 401 that has none,
// because RFC 9110, section 15.5.2, requires one. It returns other errors unchanged. The
// challenge contains an error code only if a key was sent (RFC 6750, section 3.1).
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

// admit takes the places of a request in the limits on requests in flight, which end
// returns, and then does what charge does. A request that finds no place is not charged.
func (s *Server) admit(x *exchange, row Route) error {
	x.step = StepLimit
	if err := s.takePlaces(x, x.Key.Places(row.Limits)); err != nil {
		if fault := s.addStatus(x, RequestsPerMinute); fault != nil {
			return fault
		}
		return err
	}
	return s.charge(x, row)
}

// takePlaces takes a place for each charge. If a limit has none left, it sets x.full.
func (s *Server) takePlaces(x *exchange, charges []Charge) error {
	if len(charges) == 0 {
		return nil
	}
	full, err := s.o.Limiter.TakePlaces(&x.places, CountedID{x.Key.ID, &x.holder.Meter}, charges, x.Steady)
	if err != nil {
		status := full // full itself would be allocated for every request
		x.full = &status
	}
	return err
}

// BeginStream moves the exchange from the limit on requests to the limit on streams, see Streamer.
func (x *exchange) BeginStream() error {
	if x.streams == nil {
		return nil
	}
	if err := x.streams.takePlaces(x, x.Key.StreamPlaces()); err != nil {
		x.step = StepLimit
		return err
	}
	x.streams = nil
	x.places.Leave(ConcurrentRequests, OwnerConcurrentRequests)
	return nil
}

// charge charges the limits that apply before the handler and checks the permission for a
// route. A key without the permission is charged for the limit per minute, but not for
// the further limits of the route.
func (s *Server) charge(x *exchange, row Route) error {
	x.step = StepLimit
	limits, err := s.spend(x, row)
	x.Request.Limits = limits
	x.asked = AskedOf(x.Steady, 1, err)
	if err == nil && row.Spends != "" {
		err = s.addStatus(x, row.Spends)
	}
	if err != nil {
		return err
	}
	if err := Permitted(x.Key, row.Permission, row.LiveOnly); err != nil {
		x.step = StepPermission
		return err
	}
	return nil
}

// Permitted returns an error if a key has none of the permissions in need, unless need is 0. It also does if the key is a
// sandbox key and the route is for live keys only, see Route.LiveOnly.
func Permitted(key *Key, need Permission, liveOnly bool) error {
	if mayUse(key, need, liveOnly) {
		return nil
	}
	if liveOnly && key.Sandbox() {
		return ErrSandboxKey
	}
	names := key.Rights().Names(need)
	e := ErrPermission.With("This key lacks the permission %s. It has %s.", strings.Join(names, " or "), key.Holds())
	e.Challenge = `Bearer realm="latchkey", error="insufficient_scope", scope="` + strings.Join(names, " ") + `"`
	return e
}

// mayUse reports whether Permitted returns no error. It makes none, so it is cheap.
func mayUse(key *Key, need Permission, liveOnly bool) bool {
	return (need == 0 || key.Has(need)) && !(liveOnly && key.Sandbox())
}

// spend charges the limits that apply before the handler. If one of them is used up, it
// charges none and returns ErrRateLimit. In both cases it returns x.Request.Limits with
// the status of these limits appended. It charges the limits in row.Limits only if the
// key has the permission for the route.
func (s *Server) spend(x *exchange, row Route) ([]LimitStatus, error) {
	allowed := mayUse(x.Key, row.Permission, row.LiveOnly)
	short := x.Key.ShortLimits()
	if short != nil && (len(row.Limits) == 0 || row.Cost == 0 || !allowed) {
		return s.o.Limiter.SpendBy(CountedID{x.Key.ID, &x.holder.Meter}, short, x.Steady, x.Request.Limits)
	}
	charges := x.Key.Charge(nil, RequestsPerMinute, 1)
	if allowed && row.Cost > 0 {
		for _, name := range row.Limits {
			charges = x.Key.Charge(charges, name, row.Cost)
		}
	}
	return s.o.Limiter.SpendAll(charges, x.Steady, x.Request.Limits)
}

// addStatus appends the status of the named limit to x.Request.Limits, without charging
// it. The handler may charge it later. Limits in observe mode, which never refuse a
// request, are left out.
func (s *Server) addStatus(x *exchange, name string) error {
	charges := slices.DeleteFunc(x.Key.Charge(nil, name, 0), func(c Charge) bool { return c.Observe })
	list, err := s.o.Limiter.Statuses(charges, x.Steady)
	x.Request.Limits = append(x.Request.Limits, list...)
	return err
}

// identifier sets the caller of a request to the admin endpoint, or returns an error if nobody is
// known to have sent it.
type identifier func(*exchange) error

// trust is the identifier for callers that need no token. The caller is the control socket.
func trust(x *exchange) error {
	x.Caller, x.Client = &Caller{Name: "control socket", Rights: RightAll}, netip.Addr{}
	return nil
}

// loggedIn is the identifier for requests of operators who have logged in.
func loggedIn(x *exchange) error {
	if x.Caller = CallerOf(x.Request.Request); x.Caller == nil {
		return ErrUnauthenticated.With("Nobody is logged in. Log in to the dashboard, or send an admin token.")
	}
	x.Client = x.Caller.From
	return nil
}

// checkToken is the identifier for callers that need an admin token. It counts requests
// without a valid token by client address, but not those with one that the address may not use.
// Beyond wrongKeys per minute it returns ErrRateLimit for a wrong token.
func (s *Server) checkToken(x *exchange) (err error) {
	x.step = StepKey
	if x.Caller, err = s.o.Tokens.Authenticate(&x.Request); err == nil {
		return nil
	}
	if errors.Is(err, ErrPermission) {
		x.step = StepAddress
		if !x.Client.IsValid() {
			err = ErrPermission.With("This admin token may be used only from its allowed_ips, but the address of the client is unknown: %s.", UnknownBecause(x.Request.Request, x.proxies))
		}
		return err
	}
	if wait := s.throttle.Fail(x.Client, x.Steady); wait > 0 && errors.Is(err, ErrKey) {
		err = ErrRateLimit.With("Too many wrong tokens from this address. Wait for the time in Retry-After.").After(wait)
	}
	return challenge(err)
}

// operated returns the handler of a route of the admin listener, which checks the caller
// with identify.
func (s *Server) operated(row Route, identify identifier) httprouter.Handle {
	endpoint, check := row.Method+" "+row.Path, s.atPresent
	if row.Stale {
		check = s.atAnyTime
	}
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := s.begin(w, r, p, row)
		x.admin, x.MaxBody = true, maxImport
		var err error
		defer s.end(x, &err)
		x.vary = VaryCaller
		if err = check(x, identify); err != nil {
			return
		}
		if !row.Public {
			conns.MarkKeyed(r.Context())
		}
		if err = permit(x, endpoint); err == nil {
			err = s.handle(x, row)
		}
	}
}

// plain returns the handler for requests that match no route. e is ErrRoute if the path
// is unknown, or ErrMethod if the path has no route with the method. admin is as in Outcome.
func (s *Server) plain(e *Error, admin bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := s.begin(w, r, nil, Route{Path: "-"})
		x.admin, x.step = admin, StepRoute
		answer := e
		if e == ErrRoute {
			answer = s.noEndpoint(r, admin)
		}
		var err error = answer
		s.end(x, &err)
	})
}

// Routes contains routes, grouped by listener and by the checks that apply to them.
type Routes struct {
	Keyed []Route // on the API listener, with all checks
	Free  []Route // on the API listener; a key is required, but limits and permissions are not checked
	Open  []Route // on the API listener; no key is required
	Admin []Route // on the admin listener and the control socket
}

// Add appends the routes in more to r.
func (r *Routes) Add(more Routes) {
	r.Keyed = append(r.Keyed, more.Keyed...)
	r.Free = append(r.Free, more.Free...)
	r.Open = append(r.Open, more.Open...)
	r.Admin = append(r.Admin, more.Admin...)
}

// Names returns a text for each route: its method and its path. For a route in Admin,
// "at the admin listener" follows.
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

// ServerOptions contains the options of NewServer. The functions in it must be safe for
// concurrent use.
type ServerOptions struct {
	Clock   *clock.Clock
	Store   *Store
	Keyring *Keyring
	Limiter *Limiter
	Tokens  *Tokens
	Log     *slog.Logger
	Redact  func(string) string // returns a text with its secrets replaced

	Routes

	Pages      []Row // the reference pages of the API listener; they require no key
	AdminPages []Row // the reference pages of the admin listener; they require no token

	Access       *AccessWriter // writes a line for every request; nil: none
	QueryAllowed bool          // whether keys may be sent as ?api_key=; a key can forbid it for itself
	DraftHeaders bool          // whether to send the header fields RateLimit and RateLimit-Policy
	MaxBody      int64         // largest body of a request to the API listener, in bytes
	Proxies      Proxies       // the proxies that are trusted to name the client's address
	Guards       *ProxyRoutes  // the guarded routes; nil if there are none and no /authz

	// Serving returns nil while this node of a cluster may answer requests, see cluster.Members. It may be nil.
	Serving func() error

	// Sandbox is called with the owner of a sandbox key for each of its requests to the endpoints of Latchkey. It may be nil.
	Sandbox func(owner uint64, now time.Time) error

	// Reached is called for each request that a limit of its key has refused. limits
	// is the status of the limits that apply. now is the time of the wall clock, and moment
	// that of the service clock. Reached must return quickly. It may be nil.
	Reached func(k *Key, limits []LimitStatus, now, moment time.Time)

	// Watch contains functions that are called with the outcome of every request.
	// They must return quickly. The Outcome is valid only during the call, but its
	// strings may be kept.
	Watch []func(*Outcome)
}

// Own returns the method and path of each endpoint that Latchkey itself serves on the API
// listener. A guarded route must not have one of these paths.
func (s *Server) Own() []string {
	names := []string{"GET /healthz", "GET /readyz"}
	names = append(names, AuthzEndpoints()...)
	for _, row := range slices.Concat(s.o.Keyed, s.o.Free, s.o.Open) {
		names = append(names, row.Method+" "+row.Path)
	}
	for _, row := range s.o.Pages {
		names = append(names, row.Method+" "+row.Path)
	}
	return names
}
