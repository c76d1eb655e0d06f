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

// ProxyRoutes are the routes of another API that is guarded, as they are now: LastUse
// puts others in their place, all at once. They are safe for concurrent use.
type ProxyRoutes struct {
	own     func() []string // our endpoints, whose paths no guard can take
	forward func(w http.ResponseWriter, r *Request, g *proxyRoute) error
	now     atomic.Pointer[routeSet]
}

// routeSet is one state of the guards, with the permissions and limits that
// belong to it. A request keeps to the one that it began with. It is shared and
// does not change.
type routeSet struct {
	Rights *Policy
	List   []*proxyRoute
	all    *routeTable
	served *routeTable // those with an upstream, beside our endpoints
	rows   map[*proxyRoute]Route
}

// NewProxyRoutes makes guards beside our own endpoints, none at first. forward
// passes on a request that has been let through.
func NewProxyRoutes(own func() []string, forward func(w http.ResponseWriter, r *Request, g *proxyRoute) error) *ProxyRoutes {
	g := &ProxyRoutes{own: own, forward: forward}
	g.now.Store(&routeSet{all: &routeTable{}, served: &routeTable{}})
	return g
}

// Make makes a state of guards without using it. The error names the guards and
// endpoints that cannot stand beside each other, a line for each.
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

// LastUse puts a state in the place of the present one.
func (g *ProxyRoutes) Use(s *routeSet) { g.now.Store(s) }

// Now is the present state.
func (g *ProxyRoutes) Now() *routeSet { return g.now.Load() }

// Any says whether there is anything for the API door to guard.
func (s *routeSet) Any() bool {
	return slices.ContainsFunc(s.List, func(g *proxyRoute) bool { return g.Upstream != nil })
}

// Find gives the row for a request at the API door, by its method and its path
// on the wire; nil without an error where no guard is for it. The error is that
// of readPath, ErrValidation for a method with a lower-case letter, or ErrMethod with
// the methods that the path takes in allow.
func (s *routeSet) Find(method, raw string) (row *Route, allow []string, err error) {
	return s.find(s.served, method, raw)
}

// FindAny is Find for the routes without an upstream too, and without regard to
// our own endpoints: for the proxies that ask about requests of theirs.
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
		// take delete for DELETE, which may be the method of another route.
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

// ClipPath keeps a path in a message short.
func ClipPath(path string) string {
	const most = 200
	if len(path) > most {
		return path[:most] + "..."
	}
	return path
}

// RouteRow is a [[route]] of a config file: what of another API may be asked
// for by whom, and where it is.
type RouteRow struct {
	Path         string        `toml:"path" check:"pattern" example:"/reports/:id"`
	Methods      []string      `toml:"methods" default:"*" check:"method" single:"true"`
	Permission   []string      `toml:"permission" check:"permission" example:"can_read_reports" single:"true"` // one of them is enough
	Limits       []string      `toml:"limits" default:"" example:"reports_per_hour" check:"limit" single:"true"`
	Cost         int           `toml:"cost" default:"1" min:"0" max:"10000"`
	Upstream     string        `toml:"upstream" default:"" example:"http://127.0.0.1:3000" check:"upstream"` // empty: only for /authz
	StripPrefix  string        `toml:"strip_prefix" default:"" example:"/reports" check:"prefixpath"`
	Timeout      time.Duration `toml:"timeout" default:"60s" min:"0s" max:"24h"`
	MaxBodyBytes int           `toml:"max_body_bytes" default:"0" min:"0" max:"1099511627776"`
}

// ReadProxyRoutes makes the guards that rows describe, for what permissions and
// limits there are. The problems say which row they are of, and how to mend it.
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

// problems lists what is wrong with a row whose values are good by themselves.
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
