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

// proxyRoute is one [[route]] of the configuration: which requests it accepts
// and where it sends them. It is shared and must not be changed.
type proxyRoute struct {
	Index      int        // position among the [[route]] sections, from 1
	Methods    []string   // nil: any method
	Path       string     // pattern: literals, :name for one segment, *name at the end for the rest
	Permission Permission // one of these is enough; 0: no permission is needed
	Limits     []string   // in addition to the minute limit
	Cost       int        // units charged to each of Limits
	Upstream   *url.URL   // nil: only /authz answers, the API listener does not
	// StripPrefix is removed from the path before it is sent to Upstream; ""
	// removes nothing.
	StripPrefix string
	Timeout     time.Duration // for the header of the upstream's answer; 0: no timeout
	MaxBody     int64         // bytes; 0: no limit
}

// String returns the name of the route for messages.
func (g *proxyRoute) String() string {
	return fmt.Sprintf("route %d (%s %s)", g.Index, g.MethodNames(), g.Path)
}

// MethodNames returns the methods, separated by commas, or * for any method.
func (g *proxyRoute) MethodNames() string { return cmp.Or(strings.Join(g.Methods, ","), "*") }

// routeTable finds the route of a request. The path decides first: of the
// patterns that match, the narrowest owns the request. If that pattern does not
// name the method, the request is refused even if a wider pattern would accept
// it. So nobody can avoid a narrow rule by sending another method. A routeTable
// does not change after newRouteTable and is safe for concurrent use.
type routeTable struct{ root place }

// place is a node of the tree. Its fields are the ways on for the next segment.
type place struct {
	literals map[string]*place
	one      *place // any one segment that is not empty
	here     *leaf  // if the path ends here
	rest     *leaf  // if the path ends or continues
}

// leaf is the end of a pattern, with the routes that have this pattern.
type leaf struct {
	parts  []string // of the pattern
	byName map[string]*proxyRoute
	any    *proxyRoute
	own    bool // one of our own endpoints has this path
}

// pattern is the path pattern of a route or of one of our endpoints.
type pattern struct {
	parts []string
	guard *proxyRoute // nil: one of our own endpoints
	name  string      // for messages
}

// newRouteTable returns a table of guards and our own endpoints, such as "GET
// /healthz". Our endpoints keep their paths for every method. Two guards
// conflict if they share a method and a path and neither is the narrower one;
// for the same path, a named method is narrower than any method. A guard and an
// endpoint conflict if they share a path and the guard is not wider. The error
// has one line for each conflict, which names both.
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

// conflict returns why two patterns conflict, or "" if they do not. b is a
// guard.
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
		return "" // a route that names the method has priority over one for any method
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

// Relations between the paths that pattern a matches and those that pattern b
// matches.
const (
	disjoint = iota
	same
	narrower // b matches all paths of a, and more
	wider
	across // some paths are shared, and each matches others as well
)

// relate returns the relation of the paths of a to those of b.
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

// kind returns the kind of segment i of a pattern: x for a literal, : or * for
// a wildcard, 0 after the last segment.
func kind(parts []string, i int) byte {
	switch {
	case i >= len(parts):
		return 0
	case parts[i][0] == ':' || parts[i][0] == '*':
		return parts[i][0]
	}
	return 'x'
}

// sharedMethod returns a method that both guards accept, or "" if there is
// none. nil means any method.
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

// sharedPath returns a path that matches both patterns. The patterns must share
// one.
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

// Segments returns the segments of a path or pattern. Slashes at the start and
// the end do not count; the path / has no segments.
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

// search is the state of one Match.
type search struct {
	method string
	found  *proxyRoute
	passed []*leaf // leaves that match the path, but refuse the request
}

// Match returns the route for a method and a path from readPath. A slash at the
// end makes no difference. If no route accepts the method, g is nil and allow
// lists the methods that the path accepts. allow is empty if no route matches
// the path or if one of our endpoints owns it. Match does not allocate if it
// finds a route.
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

// walk searches below a node for the rest of the path. It tries literals first,
// so that the narrower of two patterns is found first. It returns true once the
// owner of the request is known.
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

// take reports whether the search ends at a leaf that matches the path: either
// its route accepts the method, or the leaf is one of our endpoints. A leaf
// that is wider than one that refused the method is refused as well.
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

// readPath returns the unescaped path for Match. raw is the path in its escaped
// form, without the query. It returns ErrValidation for forms that programs are
// known to read differently. Otherwise a program behind us could see another
// path than the one we checked. These forms are: no slash at the start, two
// slashes in a row, the segments . and .., a backslash, an unescaped semicolon,
// a control character, an escaped slash or backslash, bytes that are not UTF-8,
// and a percent sign without two hexadecimal digits. A slash, backslash, dot,
// semicolon or control character that is escaped twice is refused as well.
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
				break // a literal percent sign
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

// hasDots reports whether a path has a segment . or .., also with parameters as
// in /..;x/.
func hasDots(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		name, _, _ := strings.Cut(part, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

// hasEscape reports whether s contains the escaped form of a character in of.
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

// unescaped decodes the escape at the start of s. ok is false if there is none.
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
