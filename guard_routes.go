package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// proxyRoute is what one [[route]] of the configuration asks of a request and where
// it goes. It is shared and must not be changed.
type proxyRoute struct {
	Index      int        // of the [[route]], from 1
	Methods    []string   // none: any
	Path       string     // literals, :name for a segment, *name at the end for the rest
	Permission Permission // one of them is enough; 0: none is needed
	Limits     []string   // beside the minute limit
	Cost       int        // units of each of Limits
	Upstream   *url.URL   // nil: only /authz answers for the route, the API door does not
	// StripPrefix is cut off the path on its way to Upstream, "" for none.
	StripPrefix string
	Timeout     time.Duration // until the upstream's header fields are there; 0: without end
	MaxBody     int64         // bytes; 0: without end
}

// String names the guard in messages.
func (g *proxyRoute) String() string {
	return fmt.Sprintf("route %d (%s %s)", g.Index, g.MethodNames(), g.Path)
}

// MethodNames lists the methods with commas, * for any.
func (g *proxyRoute) MethodNames() string { return cmp.Or(strings.Join(g.Methods, ","), "*") }

// routeTable finds the guard of a request. The path decides first: of the
// patterns that fit, the narrowest owns the request, and a method that it does
// not name is refused even where a wider one would take it, so that a narrow
// rule cannot be passed by with another method. It is read-only once made,
// and safe for concurrent use.
type routeTable struct{ root place }

// place is where a segment of a path leads.
type place struct {
	literals map[string]*place
	one      *place // any segment
	here     *leaf  // the path ends here
	rest     *leaf  // it may go on
}

// leaf is what stands at the end of a pattern.
type leaf struct {
	parts  []string // the pattern's
	byName map[string]*proxyRoute
	any    *proxyRoute
	own    bool // an endpoint of ours is here
}

// pattern is a path pattern and whose it is.
type pattern struct {
	parts []string
	guard *proxyRoute // nil: an endpoint of ours
	name  string      // for messages
}

// newRouteTable makes a table of guards beside our own endpoints, such as
// "GET /healthz", which keep their paths whatever the method. Two guards that share a method and a path,
// neither of them the narrower one, are an error that names both; so is a guard
// that would take a path away from an endpoint of ours.
func newRouteTable(guards []*proxyRoute, own []string) (*routeTable, error) {
	var list []pattern
	for _, name := range own {
		_, path, _ := strings.Cut(name, " ")
		list = append(list, pattern{Segments(path), nil, "the endpoint " + name})
	}
	for _, g := range guards {
		list = append(list, pattern{Segments(g.Path), g, g.String()})
	}
	var problems []string
	for i, b := range list {
		if b.guard == nil {
			continue
		}
		for _, a := range list[:i] {
			if problem := conflict(a, b); problem != "" {
				problems = append(problems, problem)
			}
		}
	}
	if problems != nil {
		return nil, errors.New(strings.Join(problems, "\n"))
	}
	t := &routeTable{}
	for _, p := range list {
		t.add(p)
	}
	return t, nil
}

// conflict says why two patterns cannot stand beside each other, "" where they
// can.
func conflict(a, b pattern) string {
	relation := relate(a.parts, b.parts)
	switch {
	case relation == disjoint:
		return ""
	case a.guard == nil && relation != narrower:
		return fmt.Sprintf("%s takes a path from %s; give it another path, and strip_prefix if the upstream does not know that one", b.name, a.name)
	case a.guard == nil, relation == narrower, relation == wider:
		return ""
	case relation == same && (a.guard.Methods == nil) != (b.guard.Methods == nil):
		return "" // a named method goes before any
	}
	method := sharedMethod(a.guard.Methods, b.guard.Methods)
	if method == "" {
		return ""
	}
	if relation == same {
		return fmt.Sprintf("%s and %s are for the same paths with %s; remove one, or change its methods", a.name, b.name, method)
	}
	return fmt.Sprintf("%s and %s both fit %s with %s, and neither is the narrower one; change one of the paths", a.name, b.name, sharedPath(a.parts, b.parts), method)
}

// How the paths of one pattern lie to those of another.
const (
	disjoint = iota
	same
	narrower // all of them are the other's too, but not the other way round
	wider
	across // some are shared, and each has others
)

func relate(a, b []string) int {
	narrow, wide := false, false
	for i := 0; ; i++ {
		p, q := kind(a, i), kind(b, i)
		switch {
		case p == '*' || q == '*' || p == 0 && q == 0:
			narrow, wide = narrow || q == '*' && p != '*', wide || p == '*' && q != '*'
			switch {
			case narrow && wide:
				return across
			case narrow:
				return narrower
			case wide:
				return wider
			}
			return same
		case p == 0 || q == 0 || p == 'x' && q == 'x' && a[i] != b[i]:
			return disjoint
		}
		narrow, wide = narrow || p == 'x' && q == ':', wide || p == ':' && q == 'x'
	}
}

// kind tells what stands at a place of a pattern: x for a literal, : and * for
// wildcards, 0 for its end.
func kind(parts []string, i int) byte {
	switch {
	case i >= len(parts):
		return 0
	case parts[i][0] == ':' || parts[i][0] == '*':
		return parts[i][0]
	}
	return 'x'
}

// sharedMethod gives a method that two guards take, "" where there is none.
func sharedMethod(a, b []string) string {
	switch {
	case a == nil && b == nil:
		return "any method"
	case a == nil:
		return b[0]
	case b == nil:
		return a[0]
	}
	for _, m := range a {
		if slices.Contains(b, m) {
			return m
		}
	}
	return ""
}

// sharedPath gives a path that fits both of two patterns that share some.
func sharedPath(a, b []string) string {
	var out strings.Builder
	for i := range max(len(a), len(b)) {
		p, q := kind(a, i), kind(b, i)
		switch {
		case p == 'x' || (q == 0 || q == '*') && p == ':':
			out.WriteString("/" + a[i])
		case q != 0 && q != '*':
			out.WriteString("/" + b[i])
		}
	}
	return cmp.Or(out.String(), "/")
}

// Segments gives the parts of a path or a pattern between slashes. One slash
// at the end does not count, and the path / has none.
func Segments(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func (t *routeTable) add(p pattern) {
	at, end := &t.root, (*leaf)(nil)
	for i, part := range p.parts {
		switch kind(p.parts, i) {
		case '*':
			if at.rest == nil {
				at.rest = &leaf{parts: p.parts}
			}
			end = at.rest
		case ':':
			if at.one == nil {
				at.one = &place{}
			}
			at = at.one
		default:
			if at.literals == nil {
				at.literals = map[string]*place{}
			}
			if at.literals[part] == nil {
				at.literals[part] = &place{}
			}
			at = at.literals[part]
		}
	}
	if end == nil {
		if at.here == nil {
			at.here = &leaf{parts: p.parts}
		}
		end = at.here
	}
	switch {
	case p.guard == nil:
		end.own = true
	case p.guard.Methods == nil:
		end.any = p.guard
	default:
		if end.byName == nil {
			end.byName = map[string]*proxyRoute{}
		}
		for _, m := range p.guard.Methods {
			end.byName[m] = p.guard
		}
	}
}

// search is a walk through the table.
type search struct {
	method string
	found  *proxyRoute
	passed []*leaf // that fit the path, but do not take the method
}

// Match finds the guard for a method and a path as readPath gives it; a slash
// at the end makes no difference. Where there is none, it gives the methods
// that the path takes, none where no guard is for it or an endpoint of ours
// has it. Match makes no garbage when it finds a guard.
func (t *routeTable) Match(method, path string) (g *proxyRoute, allow []string) {
	s := search{method: method}
	if path = strings.TrimPrefix(path, "/"); path != "" && path[len(path)-1] == '/' {
		path = path[:len(path)-1]
	}
	if s.walk(&t.root, path, path == "") {
		return s.found, nil
	}
	for _, l := range s.passed {
		for name := range l.byName {
			other := search{method: name}
			if other.walk(&t.root, path, path == "") && other.found != nil && !slices.Contains(allow, name) {
				allow = append(allow, name)
			}
		}
	}
	slices.Sort(allow)
	return nil, allow
}

// walk goes on from a place with the rest of the path, literals first, so that
// of two patterns the narrower is met first. It returns true once it is known
// whose the request is.
func (s *search) walk(at *place, path string, ended bool) bool {
	if ended {
		return s.take(at.here) || s.take(at.rest)
	}
	part, rest, more := strings.Cut(path, "/")
	if next := at.literals[part]; next != nil && s.walk(next, rest, !more) {
		return true
	}
	if at.one != nil && part != "" && s.walk(at.one, rest, !more) {
		return true
	}
	return s.take(at.rest)
}

// take settles the request at a leaf that its path fits, if it can.
func (s *search) take(l *leaf) bool {
	if l == nil {
		return false
	}
	if l.own {
		return true
	}
	g := l.byName[s.method]
	if g == nil {
		g = l.any
	}
	if g == nil || slices.ContainsFunc(s.passed, func(p *leaf) bool { return relate(p.parts, l.parts) == narrower }) {
		s.passed = append(s.passed, l)
		return false
	}
	s.found = g
	return true
}

// readPath gives the path of a request for Match, of its form on the wire
// without the query. What servers and libraries are known to read in different
// ways is ErrValidation rather than a guess: another program behind us could
// see another path than the one that was checked. That is a path with no slash
// at its start, two slashes in a row, the segments . and .., a backslash, a
// semicolon, a control character, an escaped slash or backslash, bytes that are
// no UTF-8, and what would be one of these if it were unescaped twice.
func readPath(raw string) (string, error) {
	path := raw
	if strings.IndexByte(raw, '%') >= 0 {
		if hasEscape(raw, "/\\") {
			return "", badPath("an escaped slash or backslash")
		}
		var err error
		if path, err = url.PathUnescape(raw); err != nil {
			return "", badPath("a percent sign that escapes nothing")
		}
		for deeper := path; strings.IndexByte(deeper, '%') >= 0; {
			if hasEscape(deeper, "/\\.;") || hasControlEscape(deeper) {
				return "", badPath("something that was escaped twice")
			}
			was := deeper
			if deeper, err = url.PathUnescape(was); err != nil || deeper == was {
				break // a percent sign that is one
			}
		}
	}
	switch {
	case path == "" || path[0] != '/':
		return "", badPath("no slash at its start")
	case strings.Contains(path, "//"):
		return "", badPath("two slashes in a row")
	case strings.IndexByte(path, '\\') >= 0:
		return "", badPath("a backslash")
	case strings.IndexByte(raw, ';') >= 0:
		return "", badPath("a semicolon")
	case !utf8.ValidString(path):
		return "", badPath("bytes that are no UTF-8")
	case strings.IndexFunc(path, unicode.IsControl) >= 0:
		return "", badPath("a control character")
	case hasDots(path):
		return "", badPath("a segment . or ..")
	}
	return path, nil
}

func badPath(what string) error {
	return ErrValidation.With("The path has %s, which programs read in different ways. Send the path in its plain form.", what)
}

// hasDots finds the segments . and .., also with parameters as in /..;x/.
func hasDots(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		name, _, _ := strings.Cut(part, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

// hasEscape finds the escaped form of one of some characters.
func hasEscape(s, of string) bool {
	for i := strings.IndexByte(s, '%'); i >= 0 && i+2 < len(s); i++ {
		if b, ok := unescaped(s[i:]); ok && strings.IndexByte(of, b) >= 0 {
			return true
		}
	}
	return false
}

func hasControlEscape(s string) bool {
	for i := range s {
		if b, ok := unescaped(s[i:]); ok && (b < ' ' || b == 0x7f) {
			return true
		}
	}
	return false
}

// unescaped gives the byte that s opens with in its escaped form.
func unescaped(s string) (b byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	for _, c := range []byte(s[1:3]) {
		switch {
		case c >= '0' && c <= '9':
			b = b<<4 + (c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			b = b<<4 + ((c | 0x20) - 'a' + 10)
		default:
			return 0, false
		}
	}
	return b, true
}
