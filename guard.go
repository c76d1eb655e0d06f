// The guard family stands in front of another API. Read guard.go first (the rows of
// [[route]]), then guard_routes.go (matching a method and a path), guard_proxy.go
// (passing a request on) and guard_authz.go (answers to proxies that ask). It makes
// no check of a key: server.go does, in the same order as for our own endpoints.

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

// ProxyRoutes holds the current routes of the guarded API. Use replaces all of
// them at once. It is safe for concurrent use.
type ProxyRoutes struct {
	own     func() []string // our own endpoints, which keep their paths; see newRouteTable
	forward func(w http.ResponseWriter, r *Request, g *proxyRoute) error
	now     atomic.Pointer[routeSet]
}

// routeSet is one state of the guarded routes, with the policy that belongs to
// it. A request uses the same state from start to end. It is shared and must
// not be changed.
type routeSet struct {
	Rights *Policy
	List   []*proxyRoute
	all    *routeTable
	served *routeTable // the routes with an upstream, and our own endpoints
	rows   map[*proxyRoute]Route
}

// NewProxyRoutes returns ProxyRoutes without a route. own returns our
// endpoints, such as "GET /healthz". forward sends an accepted request to its
// upstream.
func NewProxyRoutes(own func() []string, forward func(w http.ResponseWriter, r *Request, g *proxyRoute) error) *ProxyRoutes {
	g := &ProxyRoutes{own: own, forward: forward}
	g.now.Store(&routeSet{all: &routeTable{}, served: &routeTable{}})
	return g
}

// Make returns a new state without making it the current one. If routes
// conflict with each other or with our endpoints, it returns an error with one
// line for each conflict.
func (g *ProxyRoutes) Make(list []*proxyRoute, rights *Policy) (*routeSet, error) {
	s := &routeSet{Rights: rights, List: list, rows: map[*proxyRoute]Route{}}
	var err error
	if s.all, err = newRouteTable(list, nil); err != nil {
		return nil, err
	}
	served := slices.DeleteFunc(slices.Clone(list), func(one *proxyRoute) bool { return one.Upstream == nil })
	if s.served, err = newRouteTable(served, g.own()); err != nil {
		return nil, err
	}
	for _, one := range list {
		s.rows[one] = Route{
			Method: one.MethodNames(), Path: one.Path, Permission: one.Permission, Limits: one.Limits, Cost: one.Cost,
			Handle: func(w http.ResponseWriter, r *Request) error { return g.forward(w, r, one) },
		}
	}
	return s, nil
}

// Use makes s the current state.
func (g *ProxyRoutes) Use(s *routeSet) { g.now.Store(s) }

// Now returns the current state.
func (g *ProxyRoutes) Now() *routeSet { return g.now.Load() }

// Any reports whether the API listener serves a guarded route, that is, one
// with an upstream.
func (s *routeSet) Any() bool {
	return slices.ContainsFunc(s.List, func(g *proxyRoute) bool { return g.Upstream != nil })
}

// Find returns the route for a request at the API listener, or nil without an
// error if no guarded route matches. raw is the path in its escaped form. The
// error is that of readPath, ErrValidation for a method with a lower-case
// letter, or ErrMethod; then allow may list the methods that the path accepts.
func (s *routeSet) Find(method, raw string) (row *Route, allow []string, err error) {
	return s.find(s.served, method, raw)
}

// FindAny is like Find, but it also returns routes without an upstream and
// ignores our own endpoints. It serves the proxies that ask at /authz.
func (s *routeSet) FindAny(method, raw string) (row *Route, allow []string, err error) {
	return s.find(s.all, method, raw)
}

func (s *routeSet) find(table *routeTable, method, raw string) (*Route, []string, error) {
	path, err := readPath(raw)
	if err != nil {
		return nil, nil, err
	}
	g, allow := table.Match(method, path)
	switch {
	case (g != nil || len(allow) > 0) && strings.ContainsFunc(method, unicode.IsLower):
		// Methods are compared exactly (RFC 9110, section 9.1), but some servers
		// read delete as DELETE, which may be the method of another route.
		return nil, nil, ErrValidation.With("The method %s has lower-case letters, and methods are compared exactly. Send it in capitals: %s.", method, strings.ToUpper(method))
	case g != nil && (method == http.MethodConnect || method == http.MethodTrace):
		return nil, nil, ErrMethod.With("%s is never passed on.", method)
	case g != nil:
		row := s.rows[g]
		return &row, nil, nil
	case len(allow) > 0:
		return nil, allow, ErrMethod.With("%s does not take %s, but %s.", ClipPath(path), method, strings.Join(allow, ", "))
	}
	return nil, nil, nil
}

// ClipPath shortens a path over 200 bytes for use in a message.
func ClipPath(path string) string {
	const most = 200
	if len(path) > most {
		return path[:most] + "..."
	}
	return path
}

// RouteRow is a [[route]] of a configuration file: which requests to another
// API are accepted, with which permission, and where they are sent.
type RouteRow struct {
	Path         string        `toml:"path" check:"pattern" example:"/reports/:id"`
	Methods      []string      `toml:"methods" default:"*" check:"method" single:"true"`
	Permission   []string      `toml:"permission" check:"permission" example:"can_read_reports" single:"true"` // one of these is enough
	Limits       []string      `toml:"limits" default:"" example:"reports_per_hour" check:"limit" single:"true"`
	Cost         int           `toml:"cost" default:"1" min:"0" max:"10000"`
	Upstream     string        `toml:"upstream" default:"" example:"http://127.0.0.1:3000" check:"upstream"` // "": only /authz answers
	StripPrefix  string        `toml:"strip_prefix" default:"" example:"/reports" check:"prefixpath"`
	Timeout      time.Duration `toml:"timeout" default:"60s" min:"0s" max:"24h"`
	MaxBodyBytes int           `toml:"max_body_bytes" default:"0" min:"0" max:"1099511627776"`
}

// ReadProxyRoutes returns the guarded routes of rows, checked against the
// permissions and limits of r. Each problem names its route and how to correct
// it. Use the routes only if there are no problems.
func ReadProxyRoutes(rows []RouteRow, r *Policy) (guards []*proxyRoute, problems []string) {
	for i, row := range rows {
		at := fmt.Sprintf("route %d (%q): ", i+1, row.Path)
		for _, problem := range row.problems(r) {
			problems = append(problems, at+problem)
		}
		g := &proxyRoute{
			Index: i + 1, Path: row.Path, Limits: row.Limits, Cost: row.Cost, Timeout: row.Timeout,
			StripPrefix: row.StripPrefix, MaxBody: int64(row.MaxBodyBytes), Methods: row.Methods,
		}
		if len(row.Methods) == 0 || row.Methods[0] == "*" {
			g.Methods = nil
		}
		g.Permission, _ = r.OfOwn(row.Permission)
		if row.Upstream != "" {
			u, err := url.Parse(strings.TrimSuffix(row.Upstream, "/"))
			if err != nil {
				problems = append(problems, at+"upstream cannot be read; it must be such as \"http://127.0.0.1:3000\"")
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

// problems returns what is wrong with a row whose values are each valid.
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
				strings.Join(r.LimitNames(func(l LimitRule) bool { return l.With == "" && l.Name != RequestsPerMinute }), ", "))
		case name == RequestsPerMinute:
			fail("limits has %s, which every request pays; leave it out", name)
		case rule.With != "":
			fail("limits has %s, which is paid along with %s; leave it out", name, rule.With)
		case slices.Contains(row.Limits[:i], name):
			fail("limits has %s twice; leave one out", name)
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
