package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/julienschmidt/httprouter"
)

// Row is a route and what serves it.
type Row struct {
	Route
	Serve httprouter.Handle
}

// node is a place in the tree of one method's paths.
type node struct {
	wild     string // name of the wildcard that stands here, "" for none
	children map[string]*node
}

// NewRouter registers rows with httprouter. That cannot hold a literal beside a
// wildcard (".../create" beside ".../:id/cancel"), so where one would stand
// the literal is registered as a value of the wildcard and told apart when
// asked for. Both forms of a path, with and without a slash at its end, find
// its row, with no redirect, which would lose a body and repeat a key. Two rows that contradict each other are
// an error. plain answers where no row is concerned.
func NewRouter(rows []Row, plain func(*Error) http.Handler) (http.Handler, error) {
	r := httprouter.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.HandleOPTIONS = false, false, false
	r.NotFound, r.MethodNotAllowed = plain(ErrRoute), plain(ErrMethod)
	trees := map[string]*node{}
	for _, row := range rows {
		if trees[row.Method] == nil {
			trees[row.Method] = &node{}
		}
		if err := trees[row.Method].note(row.Path); err != nil {
			return nil, err
		}
	}
	groups := map[string][]Row{}
	var order []string
	for _, row := range rows {
		at := row.Method + " " + trees[row.Method].merge(row.Path)
		if groups[at] == nil {
			order = append(order, at)
		}
		groups[at] = append(groups[at], row)
	}
	for _, at := range order {
		method, path, _ := strings.Cut(at, " ")
		handle, err := choose(groups[at], path, func(w http.ResponseWriter, r *http.Request) {
			if methods := allowed(rows, r.URL.Path); len(methods) > 0 {
				w.Header().Set("Allow", strings.Join(methods, ", "))
				plain(ErrMethod).ServeHTTP(w, r)
				return
			}
			plain(ErrRoute).ServeHTTP(w, r)
		})
		if err != nil {
			return nil, err
		}
		r.Handle(method, path, handle)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if n := len(q.URL.Path); n > 1 && q.URL.Path[n-1] == '/' {
			q.URL.Path = q.URL.Path[:n-1]
		}
		r.ServeHTTP(w, q)
	}), nil
}

func segments(path string) []string { return strings.Split(path, "/")[1:] }

// note writes down where wildcards stand.
func (n *node) note(path string) error {
	for _, part := range segments(path) {
		key := part
		if strings.HasPrefix(part, ":") {
			if n.wild != "" && n.wild != part {
				return fmt.Errorf("route %s: the wildcard %s has another name than %s in the same place", path, part, n.wild)
			}
			n.wild, key = part, ":"
		}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		if n.children[key] == nil {
			n.children[key] = &node{}
		}
		n = n.children[key]
	}
	return nil
}

// merge gives the path under which a row is registered.
func (n *node) merge(path string) string {
	var b strings.Builder
	for _, part := range segments(path) {
		key := part
		if strings.HasPrefix(part, ":") {
			key = ":"
		}
		if n.wild != "" {
			part = n.wild
		}
		b.WriteString("/" + part)
		n = n.children[key]
	}
	return b.String()
}

// choose serves the rows registered under one path: the one whose literals
// are those of the request; none answers where there is no such row.
func choose(rows []Row, path string, none http.HandlerFunc) (httprouter.Handle, error) {
	if len(rows) == 1 && rows[0].Path == path {
		return rows[0].Serve, nil
	}
	var literal []Row
	var rest httprouter.Handle
	for _, row := range rows {
		if row.Path != path {
			literal = append(literal, row)
			continue
		}
		if rest != nil {
			return nil, fmt.Errorf("route %s %s stands twice", row.Method, row.Path)
		}
		rest = row.Serve
	}
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		for _, row := range literal {
			if row.match(r.URL.Path) {
				row.Serve(w, r, p)
				return
			}
		}
		if rest == nil {
			none(w, r)
			return
		}
		rest(w, r, p)
	}, nil
}

// allowed lists the methods of the rows that a path fits, in the order of the
// alphabet.
func allowed(rows []Row, path string) []string {
	var methods []string
	for _, row := range rows {
		if len(segments(row.Path)) == len(segments(path)) && row.match(path) && !slices.Contains(methods, row.Method) {
			methods = append(methods, row.Method)
		}
	}
	slices.Sort(methods)
	return methods
}

// match says whether the row's literals stand in a path of as many parts.
func (row Row) match(path string) bool {
	parts := segments(path)
	for i, part := range segments(row.Path) {
		if !strings.HasPrefix(part, ":") && part != parts[i] {
			return false
		}
	}
	return true
}
