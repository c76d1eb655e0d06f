package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// proxyRoute is a [[route]] section of the configuration in checked form. It states which requests
// are accepted and where they are sent. It is shared between requests and must not be changed.
type proxyRoute struct {
	Index      int        // position among the [[route]] sections, from 1
	Methods    []string   // nil: any method
	Path       string     // a pattern: literal segments, :name for any one segment, *name at the end for any further segments
	Permission Permission // a set, of which a key needs one; 0: no permission is needed
	Limits     []string   // names of limits besides the minute limit, which applies to every request
	Cost       int        // units charged to each of Limits
	Upstream   *url.URL   // nil: the route is used only by the /authz endpoints
	// StripPrefix is removed from the start of the path before the request is sent to Upstream. ""
	// removes nothing.
	StripPrefix string
	Timeout     time.Duration // longest wait for the header of the upstream's answer; 0: no timeout
	MaxBody     int64         // largest request body in bytes; 0: no limit
	WebSocket   bool          // WebSocket handshakes are accepted
	Sandbox     bool          // sandbox keys are accepted
	// CaseSensitive is true if the upstream treats paths that differ only by upper and lower case
	// as different paths.
	CaseSensitive bool
}

// String returns the number, methods and path of the route, for messages.
func (g *proxyRoute) String() string {
	return fmt.Sprintf("route %d (%s %s)", g.Index, g.MethodNames(), g.Path)
}

// MethodNames returns the methods separated by commas, or "*" for any method.
func (g *proxyRoute) MethodNames() string { return cmp.Or(strings.Join(g.Methods, ","), "*") }

// routeTable finds the route of a request. Of all patterns that match the path, only the narrowest
// counts. If the routes with that pattern do not accept the method, the request is refused, even if
// a wider pattern accepts it. So nobody can bypass a narrow route by sending another method. A
// routeTable never changes after newRouteTable and is safe for concurrent use.
type routeTable struct {
	root  place
	plain bool            // every pattern is its own canonical form
	looks []*variantTable // for a second look at paths that may have another spelling; see refuse
}

// place is a node of the tree of patterns. It is reached after some leading segments of a path, and
// its fields continue from there.
type place struct {
	literals map[string]*place // for a literal segment of a pattern, by its text
	one      *place            // for :name, which matches any one segment that is not empty
	here     *leaf             // the pattern that ends at this node; nil: none
	rest     *leaf             // the pattern that ends here with *name; nil: none
}

// leaf is the end of a pattern, with all routes that have this pattern.
type leaf struct {
	parts  []string               // segments of the pattern
	byName map[string]*proxyRoute // by method
	any    *proxyRoute            // for methods that byName lacks; nil: none
	own    bool                   // one of Latchkey's endpoints has this path

	spelled []*leaf // only in a variantTable: the leaves whose patterns have the canonical form parts
}

// pattern is the path pattern of a guarded route or of one of Latchkey's endpoints.
type pattern struct {
	parts  []string    // its segments
	folded []string    // parts in canonical form with foldCase
	kept   []string    // parts in canonical form with keepCase
	guard  *proxyRoute // nil: an endpoint of Latchkey
	name   string      // for messages
}

// newPattern returns a pattern. guard is nil for an endpoint of Latchkey.
func newPattern(path string, guard *proxyRoute, name string) pattern {
	parts := Segments(path)
	return pattern{parts, canonicalParts(parts, foldCase), canonicalParts(parts, keepCase), guard, name}
}

// newRouteTable returns a table of guarded routes and of Latchkey's endpoints, which are given as
// method and path, such as "GET /healthz". A path of Latchkey's endpoints is never matched by a
// guarded route, whatever the method. Two guarded routes conflict if some request matches both and
// neither pattern is narrower. With the same pattern, a route that names its methods is narrower
// than a route for any method. A guarded route conflicts with an endpoint if some path matches
// both, unless the pattern of the route is the wider one. The error has one line for each conflict.
func newRouteTable(guards []*proxyRoute, own []string) (*routeTable, error) {
	var list []pattern
	for _, name := range own {
		_, path, _ := strings.Cut(name, " ")
		list = append(list, newPattern(path, nil, "the endpoint "+name))
	}
	for _, g := range guards {
		list = append(list, newPattern(g.Path, g, g.String()))
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
	t := &routeTable{plain: true}
	var leaves []*leaf
	sensitive := false
	for _, p := range list {
		if l := t.add(p); !slices.Contains(leaves, l) {
			leaves = append(leaves, l)
		}
		t.plain = t.plain && slices.Equal(p.parts, p.folded)
		sensitive = sensitive || p.guard != nil && p.guard.CaseSensitive
	}
	t.looks = []*variantTable{newVariantTable(leaves, foldCase)}
	if sensitive {
		t.looks = append(t.looks, newVariantTable(leaves, keepCase))
	}
	return t, nil
}

// refuse returns ErrValidation if another spelling of path, which g serves, belongs to a route with
// other rules, to one of Latchkey's endpoints or to no route. The request is then refused, because
// the upstream could read the path in that spelling. If g has CaseSensitive, spellings in other
// letter case do not count. refuse does not allocate if path is in canonical form.
func (t *routeTable) refuse(method, path string, g *proxyRoute) error {
	if t.plain && isCanonical(path) {
		return nil
	}
	here := t.root.ends(newRemainder(path), nil)
	for _, v := range t.looks {
		if v.letters == foldCase && g.CaseSensitive {
			continue
		}
		if err := v.refuse(variantRequest{method, path, g, here}); err != nil {
			return err
		}
	}
	return nil
}

// conflict returns a message if patterns a and b conflict (see newRouteTable), or "" if they do
// not. b must belong to a guarded route.
func conflict(a, b pattern) string {
	relation := relate(a.parts, b.parts)
	switch {
	case relation == disjoint && (a.guard == nil || differ(a.guard, b.guard)) && lookalike(a, b):
		return fmt.Sprintf("%s has a path that many programs take for that of %s; remove one, or set case_sensitive = true if the upstream tells upper and lower case apart", b.name, a.name)
	case relation == disjoint:
		return ""
	case a.guard == nil && relation != narrower:
		return fmt.Sprintf("%s has a path that belongs to %s; choose another path, and set strip_prefix if the upstream does not know that path", b.name, a.name)
	case a.guard == nil, relation == narrower, relation == wider:
		return ""
	case relation == same && (a.guard.Methods == nil) != (b.guard.Methods == nil):
		return "" // a route that names its methods has priority over a route for any method
	}
	method := sharedMethod(a.guard.Methods, b.guard.Methods)
	if method == "" {
		return ""
	}
	if relation == same {
		return fmt.Sprintf("%s and %s match the same paths and both accept %s; remove one, or change its methods", a.name, b.name, method)
	}
	return fmt.Sprintf("%s and %s both fit %s with %s, and neither is the narrower one; change one of the paths", a.name, b.name, sharedPath(a.parts, b.parts), method)
}

// The relations between the paths that pattern a matches and the paths that pattern b matches.
const (
	disjoint = iota // no path matches both
	same            // both patterns match the same paths
	narrower        // b matches all paths of a, and more
	wider           // a matches all paths of b, and more
	across          // some paths match both, and other paths match only a or only b
)

// relate returns how the paths that pattern a matches relate to the paths that pattern b matches:
// disjoint, same, narrower, wider or across.
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

// kind returns the kind of segment i of a pattern: 'x' for a literal, ':' or '*' for a wildcard, 0
// if the pattern has no such segment.
func kind(parts []string, i int) byte {
	switch {
	case i >= len(parts):
		return 0
	case parts[i][0] == ':' || parts[i][0] == '*':
		return parts[i][0]
	}
	return 'x'
}

// sharedMethod returns a method that is in both lists, or "" if there is none. A nil list contains
// every method; if both are nil, sharedMethod returns "any method".
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

// sharedPath returns an example of a path that matches both patterns, for a message. At least one
// path must match both.
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

// Segments splits a path or pattern at its slashes. It ignores slashes at the start and the end.
// For "/" it returns nil.
func Segments(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// add adds a pattern and returns its leaf.
func (t *routeTable) add(p pattern) *leaf {
	end := t.root.end(p.parts)
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
	return end
}

// end returns the leaf of a pattern below a node. It adds what is missing.
func (at *place) end(parts []string) *leaf {
	for i, part := range parts {
		switch kind(parts, i) {
		case '*':
			if at.rest == nil {
				at.rest = &leaf{parts: parts}
			}
			return at.rest
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
	if at.here == nil {
		at.here = &leaf{parts: parts}
	}
	return at.here
}

// route returns the route of a leaf for a method. It returns nil if the leaf does not accept the
// method. Many programs answer HEAD as GET, so a route for any method takes HEAD from a route that
// names GET only if its rules cover those of that one.
func (l *leaf) route(method string) *proxyRoute {
	if g := l.byName[method]; g != nil {
		return g
	}
	if get := l.byName[http.MethodGet]; method == http.MethodHead && get != nil && l.any != nil && !l.any.covers(get) {
		return nil
	}
	return l.any
}

// search is the state of one call of Match.
type search struct {
	method string
	found  *proxyRoute // the result; nil: none yet
	passed []*leaf     // leaves that match the path but do not accept the method
}

// Match returns the route for a method and a path that readPath returned. A slash at the end of the
// path makes no difference. If the path matches but the method is not accepted, g is nil and allow
// lists the accepted methods. If no route matches the path, or it belongs to one of Latchkey's
// endpoints, g and allow are nil. Match does not allocate if it finds a route.
func (t *routeTable) Match(method, path string) (g *proxyRoute, allow []string) {
	s := search{method: method}
	rest := newRemainder(path)
	if s.walk(&t.root, rest) {
		return s.found, nil
	}
	for _, l := range s.passed {
		for name := range l.byName {
			other := search{method: name}
			if other.walk(&t.root, rest) && other.found != nil && !slices.Contains(allow, name) {
				allow = append(allow, name)
			}
		}
	}
	slices.Sort(allow)
	return nil, allow
}

// remainder is the part of a path that a search has not matched yet.
type remainder struct {
	path  string // without a slash at its start
	ended bool   // no segments remain; an empty path may still be one empty segment
}

// newRemainder returns a whole path as a remainder. It ignores a slash at the end.
func newRemainder(path string) remainder {
	if path = strings.TrimPrefix(path, "/"); path != "" && path[len(path)-1] == '/' {
		path = path[:len(path)-1]
	}
	return remainder{path, path == ""}
}

// cut returns the first segment of r and the remainder after it. r must not have ended.
func (r remainder) cut() (part string, rest remainder) {
	part, path, more := strings.Cut(r.path, "/")
	return part, remainder{path, !more}
}

// walk matches the rest of a path against the patterns below a node. It tries literals before
// wildcards, so that it meets the narrower of two patterns first. It returns true once the search
// is decided; s.found is then the route, or nil for one of Latchkey's endpoints.
func (s *search) walk(at *place, rest remainder) bool {
	if rest.ended {
		return s.take(at.here) || s.take(at.rest)
	}
	part, rest := rest.cut()
	if next := at.literals[part]; next != nil && s.walk(next, rest) {
		return true
	}
	if at.one != nil && part != "" && s.walk(at.one, rest) {
		return true
	}
	return s.take(at.rest)
}

// take checks a leaf whose pattern matches the path. It returns true if the search is decided: a
// route of the leaf accepts the method, or the path belongs to one of Latchkey's endpoints. It
// returns false if l is nil, if no route of the leaf accepts the method, or if a narrower leaf has
// already refused the request.
func (s *search) take(l *leaf) bool {
	if l == nil {
		return false
	}
	if l.own {
		return true
	}
	g := l.route(s.method)
	if g == nil || slices.ContainsFunc(s.passed, func(p *leaf) bool { return relate(p.parts, l.parts) == narrower }) {
		s.passed = append(s.passed, l)
		return false
	}
	s.found = g
	return true
}

// readPath returns the unescaped path for Match. rawPath is the path as the client sent it, without
// the query. It returns ErrValidation for forms that programs are known to interpret differently,
// because otherwise the upstream could use another path than the checked one. These forms are: no
// slash at the start, two slashes in a row, the segments . and .., also with blanks, a backslash, an
// unescaped semicolon, number sign or space, a control character, an escaped slash or backslash,
// bytes that are not UTF-8, and a percent sign without two hexadecimal digits. It also refuses a
// slash, backslash, dot, semicolon, control character or byte that is not UTF-8 if it is escaped
// twice.
func readPath(rawPath string) (string, error) {
	path := rawPath
	if strings.IndexByte(rawPath, '%') >= 0 {
		if hasEscape(rawPath, "/\\") {
			return "", badPath("an escaped slash or backslash")
		}
		var err error
		if path, err = url.PathUnescape(rawPath); err != nil {
			return "", badPath("a percent sign without two hexadecimal digits after it")
		}
	}
	switch {
	case path == "" || path[0] != '/':
		return "", badPath("no slash at the start")
	case strings.Contains(path, "//"):
		return "", badPath("two slashes in a row")
	case strings.IndexByte(path, '\\') >= 0:
		return "", badPath("a backslash")
	case strings.IndexByte(rawPath, ';') >= 0:
		return "", badPath("a semicolon")
	case strings.IndexFunc(rawPath, unclear) >= 0:
		return "", badPath("a space, number sign or control character that is not escaped")
	case !utf8.ValidString(path):
		return "", badPath("bytes that are not UTF-8")
	case strings.IndexFunc(path, unicode.IsControl) >= 0:
		return "", badPath("a control character")
	case hasDots(path):
		return "", badPath("a segment . or ..")
	case strings.IndexByte(path, '%') >= 0 && changes(path):
		return "", badPath("a character that is escaped twice")
	}
	return path, nil
}

// changes reports whether a path that is unescaped again has more characters that divide or end it,
// or is no longer valid.
func changes(path string) bool {
	again := unescapeAll(path)
	for _, mark := range []string{"/", "\\", ".", ";"} {
		if strings.Count(again, mark) != strings.Count(path, mark) {
			return true
		}
	}
	return !utf8.ValidString(again) || strings.IndexFunc(again, unicode.IsControl) >= 0 || hasDots(again)
}

func badPath(what string) error {
	return ErrValidation.With("The path has %s, which programs interpret in different ways. Correct the path and send the request again.", what)
}

// hasDots reports whether a path has a segment . or .., also if parameters follow it, as in /..;x/,
// or blanks.
func hasDots(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		name, _, _ := strings.Cut(part, ";")
		if name = strings.TrimSpace(name); name == "." || name == ".." {
			return true
		}
	}
	return false
}

// hasEscape reports whether s contains one of the characters in chars in escaped form, such as %2F
// for a slash.
func hasEscape(s, chars string) bool {
	for i := strings.IndexByte(s, '%'); i >= 0 && i+2 < len(s); i++ {
		if b, ok := Unescaped(s[i:]); ok && strings.IndexByte(chars, b) >= 0 {
			return true
		}
	}
	return false
}
