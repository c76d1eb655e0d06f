package main

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// Guards are the routes of another API that is guarded, as they are now: Use
// puts others in their place, all at once. They are safe for concurrent use.
type Guards struct {
	own     []string // our endpoints, whose paths no guard can take
	forward func(w http.ResponseWriter, r *Request, g *Guard) error
	now     atomic.Pointer[Guarding]
}

// Guarding is one state of the guards, with the permissions and limits that
// belong to it. A request keeps to the one that it began with. It is shared and
// does not change.
type Guarding struct {
	Rights *Rights
	List   []*Guard
	all    *RouteTable
	served *RouteTable // those with an upstream, beside our endpoints
	rows   map[*Guard]Route
}

// NewGuards makes guards beside our own endpoints, none at first. forward
// passes on a request that has been let through.
func NewGuards(own []string, forward func(w http.ResponseWriter, r *Request, g *Guard) error) *Guards {
	g := &Guards{own: own, forward: forward}
	g.now.Store(&Guarding{all: &RouteTable{}, served: &RouteTable{}})
	return g
}

// Make makes a state of guards without using it. The error names the guards and
// endpoints that cannot stand beside each other, a line for each.
func (g *Guards) Make(list []*Guard, rights *Rights) (*Guarding, error) {
	s := &Guarding{Rights: rights, List: list, rows: map[*Guard]Route{}}
	var err error
	if s.all, err = NewRouteTable(list, nil); err != nil {
		return nil, err
	}
	served := slices.DeleteFunc(slices.Clone(list), func(one *Guard) bool { return one.Upstream == nil })
	if s.served, err = NewRouteTable(served, g.own); err != nil {
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

// Use puts a state in the place of the present one.
func (g *Guards) Use(s *Guarding) { g.now.Store(s) }

// Now is the present state.
func (g *Guards) Now() *Guarding { return g.now.Load() }

// Any says whether there is anything for the API door to guard.
func (s *Guarding) Any() bool {
	return slices.ContainsFunc(s.List, func(g *Guard) bool { return g.Upstream != nil })
}

// Find gives the row for a request at the API door, by its method and its path
// on the wire; nil without an error where no guard is for it. The error is that
// of ReadPath, or ErrMethod with the methods that the path takes in allow.
func (s *Guarding) Find(method, raw string) (row *Route, allow []string, err error) {
	return s.find(s.served, method, raw)
}

// FindAny is Find for the routes without an upstream too, and without regard to
// our own endpoints: for the proxies that ask about requests of theirs.
func (s *Guarding) FindAny(method, raw string) (row *Route, allow []string, err error) {
	return s.find(s.all, method, raw)
}

func (s *Guarding) find(table *RouteTable, method, raw string) (*Route, []string, error) {
	path, err := ReadPath(raw)
	if err != nil {
		return nil, nil, err
	}
	g, allow := table.Match(method, path)
	switch {
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
