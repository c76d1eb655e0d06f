// The guard family lets another API be reached only with a valid key. Read guard.go first (the
// [[route]] sections of the configuration), then guard_routes.go (finding the route for a method
// and a path), guard_variants.go (other spellings of a path), guard_proxy.go (sending a request to
// the upstream), guard_fields.go (the fields that describe the client to the upstream),
// guard_answer.go (passing on its answer) and guard_authz.go (answering another proxy that asks
// whether it may pass on a request). This family does not check keys: server.go does, in the same
// order as for Latchkey's own endpoints.

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

// ProxyRoutes holds the guarded routes that are in effect. Use replaces all of them in one step. It
// is safe for concurrent use.
type ProxyRoutes struct {
	own     func() []string // Latchkey's endpoints, such as "GET /healthz"
	forward func(w http.ResponseWriter, r *Request, g *proxyRoute) error
	now     atomic.Pointer[routeSet]
}

// routeSet is one version of the guarded routes, with the policy that they were checked against. A
// request uses the same version from start to end. It is shared between requests and must not be
// changed.
type routeSet struct {
	Rights *Policy
	List   []*proxyRoute
	all    *routeTable // every route in List
	served *routeTable // the routes with an upstream, and Latchkey's own endpoints
	rows   map[*proxyRoute]*Route
}

// NewProxyRoutes returns ProxyRoutes without any routes. The function own must return Latchkey's
// endpoints, each as method and path, such as "GET /healthz". The function forward must send an
// accepted request to the upstream of its route.
func NewProxyRoutes(own func() []string, forward func(w http.ResponseWriter, r *Request, g *proxyRoute) error) *ProxyRoutes {
	g := &ProxyRoutes{own: own, forward: forward}
	g.now.Store(&routeSet{all: &routeTable{}, served: &routeTable{}})
	return g
}

// Make returns a routeSet with the routes in list. It does not put them into effect; Use does. If
// routes conflict with each other or with Latchkey's endpoints, Make returns an error with one line
// for each conflict.
func (g *ProxyRoutes) Make(list []*proxyRoute, rights *Policy) (*routeSet, error) {
	s := &routeSet{Rights: rights, List: list, rows: map[*proxyRoute]*Route{}}
	var err error
	if s.all, err = newRouteTable(list, nil); err != nil {
		return nil, err
	}
	served := slices.DeleteFunc(slices.Clone(list), func(one *proxyRoute) bool { return one.Upstream == nil })
	if s.served, err = newRouteTable(served, g.own()); err != nil {
		return nil, err
	}
	for _, one := range list {
		s.rows[one] = &Route{
			Method: one.MethodNames(), Path: one.Path, Permission: one.Permission, LiveOnly: !one.Sandbox, Limits: one.Limits, Cost: one.Cost,
			Handle: func(w http.ResponseWriter, r *Request) error { return g.forward(w, r, one) },
		}
	}
	return s, nil
}

// Use puts s into effect for all requests that start later.
func (g *ProxyRoutes) Use(s *routeSet) { g.now.Store(s) }

// Now returns the routeSet that is in effect.
func (g *ProxyRoutes) Now() *routeSet { return g.now.Load() }

// Any reports whether at least one route has an upstream, so that the API listener serves it.
func (s *routeSet) Any() bool {
	return slices.ContainsFunc(s.List, func(g *proxyRoute) bool { return g.Upstream != nil })
}

// Find returns the guarded route for a request to the API listener. If no guarded route matches, it
// returns nil without an error. It returns ErrValidation if readPath refuses the path, if the method
// has a lower-case letter, if another spelling of the path belongs to a route with other rules, if
// the query cannot be sent on, or if r is a WebSocket handshake that the route does not accept. It
// returns ErrMethod if the path does not accept the method; allow then lists the methods that it
// accepts. For CONNECT and TRACE, which are never forwarded, allow is nil. The row is shared; do not
// change it.
func (s *routeSet) Find(r *http.Request) (row *Route, allow []string, err error) {
	return s.find(s.served, r, isHandshake)
}

// FindAny is like Find, but it also returns routes without an upstream and ignores Latchkey's own
// endpoints. It is used for the /authz endpoints, where r is the request that a proxy asks about.
func (s *routeSet) FindAny(r *http.Request) (row *Route, allow []string, err error) {
	return s.find(s.all, r, mayBeHandshake)
}

func (s *routeSet) find(table *routeTable, r *http.Request, handshake func(*http.Request) bool) (*Route, []string, error) {
	method := r.Method
	sent := sentPath(r.URL)
	path, err := readPath(sent)
	if err != nil {
		return nil, nil, err
	}
	g, allow := table.Match(method, path)
	switch {
	case (g != nil || len(allow) > 0) && strings.ContainsFunc(method, unicode.IsLower):
		// Methods are case-sensitive (RFC 9110, section 9.1), but some upstreams treat "delete"
		// as DELETE. A request could then reach DELETE although its route does not allow it.
		return nil, nil, ErrValidation.With("The method %s has lower-case letters, but methods are case-sensitive. Send %s instead.", method, strings.ToUpper(method))
	case g != nil && (method == http.MethodConnect || method == http.MethodTrace):
		return nil, nil, ErrMethod.With("Requests with the method %s are never forwarded. Use another method.", method)
	case g != nil:
		if err := table.refuse(method, path, g); err != nil {
			return nil, nil, err
		}
		if err := table.refuseWritten(method, sent, path, g); err != nil {
			return nil, nil, err
		}
		if strings.IndexFunc(r.URL.RawQuery, unclear) >= 0 {
			return nil, nil, ErrValidation.With("The query contains a space, a # or a control character. Send such characters escaped.")
		}
		if !g.WebSocket && handshake(r) {
			return nil, nil, ErrValidation.With("The route %s does not accept WebSocket connections, because its setting is websocket = false. Send an ordinary request.", g.Path)
		}
		return s.rows[g], nil, nil
	case len(allow) > 0:
		return nil, allow, ErrMethod.With("The path %s does not accept the method %s. It accepts %s.", ClipPath(path), method, strings.Join(allow, ", "))
	}
	return nil, nil, nil
}

// NoRoute returns ErrRoute for a request that no guarded route matches.
func NoRoute(r *http.Request) *Error {
	return ErrRoute.With("No [[route]] of the configuration matches %s %s, so the request is refused.", r.Method, ClipPath(r.URL.Path))
}

// sentPath returns the path of u byte for byte as the client sent it, which EscapedPath does not:
// that escapes characters such as | and non-ASCII letters.
func sentPath(u *url.URL) string {
	if u.RawPath != "" {
		return u.RawPath
	}
	return u.EscapedPath() // an empty RawPath means that this is how it was sent
}

// unclear reports whether c is a control character, a space or #. Programs interpret these
// differently in an address.
func unclear(c rune) bool { return c <= ' ' || c == '#' || c == 0x7f }

// RouteRow is a [[route]] section of the configuration file. It states which requests to another
// API are accepted, which permission they need, and where they are sent.
type RouteRow struct {
	Path         string        `toml:"path" check:"pattern" example:"/reports/:id"`
	Methods      []string      `toml:"methods" default:"*" check:"method" single:"true"`
	Permission   []string      `toml:"permission" check:"permission" example:"can_read_reports" single:"true"` // a key needs only one of these
	Limits       []string      `toml:"limits" default:"" example:"reports_per_hour" check:"limit" single:"true"`
	Cost         int           `toml:"cost" default:"1" min:"0" max:"10000"`
	Upstream     string        `toml:"upstream" default:"" example:"http://127.0.0.1:3000" check:"upstream"` // "": used only by the /authz endpoints
	StripPrefix  string        `toml:"strip_prefix" default:"" example:"/reports" check:"prefixpath"`
	Timeout      time.Duration `toml:"timeout" default:"60s" min:"0s" max:"24h"`
	MaxBodyBytes int           `toml:"max_body_bytes" default:"0" min:"0" max:"1099511627776"`
	WebSocket    bool          `toml:"websocket" default:"true"`
	Sandbox      bool          `toml:"sandbox" default:"false"` // whether sandbox keys are let in too
	// CaseSensitive is true if the upstream treats paths that differ only by case as different paths.
	CaseSensitive bool `toml:"case_sensitive" default:"false"`
}

// ReadProxyRoutes converts rows into guarded routes and checks them against the permissions and
// limits of r. Each problem names its route and how to correct it. If there are problems, the
// returned routes must not be used.
func ReadProxyRoutes(rows []RouteRow, r *Policy) (guards []*proxyRoute, problems []string) {
	for i, row := range rows {
		at := fmt.Sprintf("route %d (%q): ", i+1, row.Path)
		for _, problem := range row.problems(r) {
			problems = append(problems, at+problem)
		}
		g := &proxyRoute{
			Index: i + 1, Path: row.Path, Limits: row.Limits, Cost: row.Cost, Timeout: row.Timeout,
			StripPrefix: row.StripPrefix, MaxBody: int64(row.MaxBodyBytes), Methods: row.Methods,
			WebSocket: row.WebSocket, Sandbox: row.Sandbox, CaseSensitive: row.CaseSensitive,
		}
		if len(row.Methods) == 0 || row.Methods[0] == "*" {
			g.Methods = nil
		}
		g.Permission, _ = r.OfOwn(row.Permission)
		if row.Upstream != "" {
			u, err := url.Parse(strings.TrimSuffix(row.Upstream, "/"))
			if err != nil {
				problems = append(problems, at+"upstream is not a valid URL; write one such as \"http://127.0.0.1:3000\"")
			}
			g.Upstream = u
		}
		guards = append(guards, g)
	}
	if problems == nil {
		if _, err := newRouteTable(guards, nil); err != nil {
			problems = strings.Split(err.Error(), "\n")
		}
	}
	return guards, problems
}

// problems checks how the values of a row fit together and returns one text for each problem. The
// form of each single value has been checked before.
func (row RouteRow) problems(r *Policy) (list []string) {
	fail := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for i, m := range row.Methods {
		switch {
		case m == "*" && len(row.Methods) > 1:
			fail("methods has * and others; leave the others out, or the *")
		case m == "CONNECT" || m == "TRACE":
			fail("methods has %s, which is never passed on; leave it out", m)
		case slices.Contains(row.Methods[:i], m):
			fail("methods has %s twice; leave one out", m)
		}
	}
	if _, unknown := r.OfOwn(row.Permission); len(unknown) > 0 {
		fail("permission %q does not exist; add a [[permission]] of that name, or choose one of %s", unknown[0], strings.Join(r.Names(^Permission(0)), ", "))
	}
	for i, name := range row.Limits {
		rule, ok := r.Limit(name)
		switch {
		case !ok:
			fail("limit %q does not exist; add a [[limit]] of that name, or choose one of %s", name,
				strings.Join(r.LimitNames(func(l LimitRule) bool {
					return l.With == "" && l.Name != RequestsPerMinute && !(l.Concurrent() && l.Builtin)
				}), ", "))
		case name == RequestsPerMinute:
			fail("limits has %s, which every request pays; leave it out", name)
		case rule.Concurrent() && rule.Builtin:
			fail("limits has %s, which counts requests without being named; leave it out", name)
		case rule.Concurrent() && row.Upstream == "":
			fail("limits has %s, which counts requests in flight, but without upstream the end of a request is not seen; add an upstream, or leave the limit out", name)
		case rule.With != "":
			fail("limits has %s, which is paid along with %s; leave it out", name, rule.With)
		case slices.Contains(row.Limits[:i], name):
			fail("limits has %s twice; leave one out", name)
		}
	}
	for i, part := range Segments(row.Path) {
		if read := canonicalPath("/"+part, keepCase)[1:]; kind(Segments(row.Path), i) == 'x' && misread(part, read) {
			fail("path has the segment %q, which some programs read as %q; choose another", part, read)
		}
	}
	if parts, prefix := Segments(row.Path), Segments(row.StripPrefix); len(prefix) > len(parts) || !slices.Equal(prefix, parts[:len(prefix)]) {
		fail("strip_prefix %q is not what its path begins with; the path of every request begins with it, or it is left out", row.StripPrefix)
	}
	if row.Upstream == "" && row.StripPrefix != "" {
		fail("strip_prefix is of no use without upstream; add one, or leave it out")
	}
	return list
}

// misread reports whether the canonical form of a literal segment is not one literal segment, or has a slash or the mark of
// a wildcard that the segment does not have.
func misread(part, canonical string) bool {
	if canonical == "" || kind([]string{canonical}, 0) != 'x' {
		return true
	}
	return strings.ContainsFunc(canonical, func(c rune) bool { return strings.ContainsRune("/:*", c) && !strings.ContainsRune(part, c) })
}
