package main

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// letterCase is what canonicalPath does about upper and lower case.
type letterCase bool

const (
	foldCase letterCase = true
	keepCase letterCase = false
)

// canonicalPath returns the canonical form of a path that readPath returned. Two spellings that some
// program takes for the same path have the same canonical form. It is compared with other canonical
// forms only; requests are sent on as they came. The canonical form
//   - is unescaped until nothing changes, with %u0061 as well as %61,
//   - is in the Unicode form NFKC, which has no full-width letters, and without invisible characters,
//   - is in lower case if letters is foldCase,
//   - ends at a question mark or number sign, which may have been escaped,
//   - has segments that end at a semicolon or at the stream name of an NTFS file, such as ::$DATA,
//   - has no dots at the end of a segment, no blanks at its ends, and no empty segments.
func canonicalPath(path string, letters letterCase) string {
	return canonicalForms(path, letters)[0]
}

// canonicalForms returns canonicalPath, followed by the forms of programs that take some of the steps
// only: if the path ends at a question mark or number sign, those that take these for part of the
// path, and if segments are divided or left out, those that keep them.
func canonicalForms(path string, letters letterCase) []string {
	whole := foldAll(path, letters)
	forms := []string{joinCanonical(whole)}
	if i := strings.IndexAny(whole, "?#"); i >= 0 {
		forms = []string{joinCanonical(whole[:i]), forms[0]}
	}
	parts := Segments(path)
	for i, part := range parts {
		if folded := Segments(joinCanonical(foldAll(part, letters))); len(folded) == 1 {
			parts[i] = folded[0]
		} else {
			parts[i] = "%" // only wildcards match it
		}
	}
	kept := "/" + strings.Join(parts, "/")
	if slices.Contains(forms, kept) {
		return forms
	}
	if i := strings.IndexAny(kept, "?#"); i >= 0 {
		forms = append(forms, joinCanonical(kept[:i]))
	}
	return append(forms, kept)
}

// foldAll returns text without escapes, in the Unicode form NFKC, without invisible characters and
// in the given case.
func foldAll(text string, letters letterCase) string {
	for before := ""; text != before; {
		before = text
		text = norm.NFKC.String(strings.Map(visible, unescapeAll(text)))
		if letters == foldCase {
			text = foldedPairs.Replace(strings.Map(foldLetter, text))
		}
	}
	return text
}

// joinCanonical returns a path with the segments of a canonical form.
func joinCanonical(path string) string {
	var parts []string
	for part := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		for _, end := range []string{";", "::$", ":$"} {
			part, _, _ = strings.Cut(part, end)
		}
		if part = strings.TrimSpace(part); part == ".." {
			parts = parts[:max(0, len(parts)-1)]
			continue
		}
		if part = strings.TrimRightFunc(part, func(c rune) bool { return c == '.' || unicode.IsSpace(c) }); part != "" {
			parts = append(parts, part)
		}
	}
	return "/" + strings.Join(parts, "/")
}

// isCanonical reports whether a path is plain enough to be its own canonical form, apart from a
// slash at its end. It returns false for some paths that are. It does not allocate.
func isCanonical(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case c >= 'A' && c <= 'Z', c <= ' ', c >= 0x7f:
			return false
		case c == '%', c == ';', c == '?', c == '#', c == '\\':
			return false
		case c == '.' && (i == len(path)-1 || path[i+1] == '/'):
			return false
		case c == '$' && path[i-1] == ':':
			return false
		}
	}
	return true
}

// visible returns c, or -1 for a character that is not displayed. Some file systems ignore these.
func visible(c rune) rune {
	if c > unicode.MaxASCII && unicode.In(c, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) {
		return -1
	}
	return c
}

// foldLetter returns the same lower-case letter for all letters that differ only by case according
// to some program. Besides Unicode's simple case folding, in which the Kelvin sign is a k, it
// treats the Turkish letters \u0131 and \u0130 as i, as conversions to upper and lower case do.
func foldLetter(c rune) rune {
	if c <= unicode.MaxASCII {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	c = unicode.ToUpper(c)
	least := c
	for other := unicode.SimpleFold(c); other != c; other = unicode.SimpleFold(other) {
		least = min(least, other)
	}
	return unicode.ToLower(least)
}

// foldedPairs replaces what foldLetter cannot, because the number of characters changes: \u00df is
// SS in upper case, and \u0130 is i and a dot above in lower case.
var foldedPairs = strings.NewReplacer("\u00df", "ss", "i\u0307", "i")

// unescapeAll returns s with its escapes replaced until none is left. Unlike url.PathUnescape, it
// leaves a percent sign as it is if no escape begins there, as lenient programs do, and it knows the
// form %u0061. The result need not be valid UTF-8.
func unescapeAll(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		out = append(out, s[i])
		for { // the byte may complete an escape, and so may the byte that this escape encodes
			at := bytes.LastIndexByte(out[max(0, len(out)-6):], '%')
			if at < 0 {
				break
			}
			at += max(0, len(out)-6)
			more, ok := lastEscape(out[at:])
			if !ok {
				break
			}
			out = append(out[:at], more...)
		}
	}
	return string(out)
}

// lastEscape returns what an escape encodes. ok is false if escape is not exactly one escape.
func lastEscape(escape []byte) (encoded []byte, ok bool) {
	switch {
	case len(escape) == 3:
		b, ok := Unescaped(string(escape))
		return []byte{b}, ok
	case len(escape) == 6 && escape[1]|0x20 == 'u':
		n, err := strconv.ParseUint(string(escape[2:]), 16, 16)
		return utf8.AppendRune(nil, rune(n)), err == nil
	}
	return nil, false
}

// canonicalParts returns the segments of a pattern, with its literal segments in canonical form.
func canonicalParts(parts []string, letters letterCase) (list []string) {
	for i, part := range parts {
		if kind(parts, i) != 'x' {
			list = append(list, part)
			continue
		}
		list = append(list, Segments(canonicalPath("/"+part, letters))...)
	}
	return list
}

// variantTable finds the patterns that a path would match for a program that reads it in another
// spelling. Its patterns are in canonical form. It never changes once it is made.
type variantTable struct {
	letters letterCase
	root    place
}

// newVariantTable returns a variantTable of the leaves of a routeTable. With foldCase it leaves out
// the leaves whose routes all have CaseSensitive.
func newVariantTable(leaves []*leaf, letters letterCase) *variantTable {
	v := &variantTable{letters: letters}
	for _, l := range leaves {
		if letters == keepCase || l.own || slices.ContainsFunc(l.routes(), func(g *proxyRoute) bool { return !g.CaseSensitive }) {
			end := v.root.end(canonicalParts(l.parts, letters))
			end.spelled = append(end.spelled, l)
		}
	}
	return v
}

// routes returns the guarded routes of a leaf, which may be repeated.
func (l *leaf) routes() (list []*proxyRoute) {
	if l.any != nil {
		list = append(list, l.any)
	}
	for _, g := range l.byName {
		list = append(list, g)
	}
	return list
}

// variantRequest is a request that a variantTable looks at.
type variantRequest struct {
	method, path string
	guard        *proxyRoute // the route that serves the path as it was sent
	here         []*leaf     // all leaves whose patterns the path matches as it was sent
}

// refuse returns ErrValidation if the path of q belongs in a canonical form to a route with other
// rules, to one of Latchkey's endpoints or to no route. Otherwise it returns nil.
func (v *variantTable) refuse(q variantRequest) error {
	for _, canonical := range canonicalForms(q.path, v.letters) {
		if err := v.refuseAs(q, canonical); err != nil {
			return err
		}
	}
	return nil
}

// refuseAs is refuse for one canonical form of the path.
func (v *variantTable) refuseAs(q variantRequest, canonical string) error {
	ends := v.root.ends(newRemainder(canonical), nil)
	if len(ends) == 0 {
		return ErrValidation.With("Some programs read the path %s as %s, which no route is for. Send it without characters that programs leave out or replace.",
			ClipPath(q.path), ClipPath(canonical))
	}
	stays := slices.ContainsFunc(ends, func(end *leaf) bool {
		return slices.ContainsFunc(end.spelled, func(l *leaf) bool { return slices.Contains(l.routes(), q.guard) })
	}) // the path still matches the pattern of its route
	// All patterns count, not only the narrowest one: a program may read the path in some of the ways
	// of the canonical form and not in others.
	for _, end := range ends {
		for _, l := range end.spelled {
			if !(stays && slices.Contains(q.here, l)) && l.differs(q.method, q.guard, v.letters) {
				advice := ""
				if canonical != canonicalPath(q.path, keepCase) {
					advice = " If the API tells upper and lower case apart, its operator can set case_sensitive = true for the route."
				}
				return ErrValidation.With("Some programs read the path %s as one of /%s, for which other rules apply. If you mean that one, spell it exactly so.%s",
					ClipPath(q.path), strings.Join(l.parts, "/"), advice)
			}
		}
	}
	return nil
}

// differs reports whether a request for the leaf l with this method would be refused or be subject
// to other rules than those of g. With foldCase, routes with CaseSensitive do not count.
func (l *leaf) differs(method string, g *proxyRoute, letters letterCase) bool {
	other := l.route(method)
	if l.own || other == nil {
		return true
	}
	return differ(g, other) && !(letters == foldCase && other.CaseSensitive)
}

// writtenRequest is a request as programs see it that compare paths as they are written. Such a
// program does not find a literal segment that has escapes without need, such as %61dmin for admin,
// nor a pattern if only one of pattern and path ends with a slash. It may then serve the path as one
// of a wider pattern.
type writtenRequest struct {
	method string
	slash  bool  // the path ends with a slash
	marked []int // numbers of the segments that may not be found as literals
}

// refuseWritten returns ErrValidation if a program that compares paths as they are written could take
// the path for one of another route, whose rules g does not cover, or if escapes could make it one
// without a route. rawPath is the path as it was sent, and path is what readPath returned for it.
// refuseWritten does not allocate for a path without escapes and without a slash at the end.
func (t *routeTable) refuseWritten(method, rawPath, path string, g *proxyRoute) error {
	q := writtenRequest{method, path != "/" && strings.HasSuffix(path, "/"), g.markSegments(rawPath, path)}
	if q.marked == nil && (q.slash == strings.HasSuffix(g.Path, "/") || strings.Contains(g.Path, "/*")) {
		return nil
	}
	ends := t.root.ends(newRemainder(path), nil)
	own := slices.IndexFunc(ends, func(l *leaf) bool { return l.route(method) == g })
	for _, l := range ends {
		if other := l.route(method); other != g && !l.own && q.reaches(l, ends, ends[own]) && (other == nil || !g.covers(other)) {
			return q.refusal(rawPath, path, g, "/"+strings.Join(l.parts, "/")+", for which other rules apply")
		}
	}
	if !slices.ContainsFunc(ends, func(l *leaf) bool { return !q.hides(l, nil) }) {
		return q.refusal(rawPath, path, g, "a path without a route")
	}
	return nil
}

// refusal returns the error of refuseWritten.
func (q writtenRequest) refusal(rawPath, path string, g *proxyRoute, as string) error {
	path = strings.TrimSuffix(path, "/")
	if strings.HasSuffix(g.Path, "/") {
		path += "/"
	}
	usual := (&url.URL{Path: path}).EscapedPath()
	return ErrValidation.With("Some programs take the path %s for %s. Send it as %s.", ClipPath(rawPath), as, ClipPath(usual))
}

// reaches reports whether a program may take the path of q for one of l, because it finds neither
// serving, the leaf of the route, nor any other of ends that is narrower than l.
func (q writtenRequest) reaches(l *leaf, ends []*leaf, serving *leaf) bool {
	return !slices.ContainsFunc(ends, func(other *leaf) bool {
		return other != l && (other == serving || relate(other.parts, l.parts) == narrower) &&
			!q.hides(other, l.parts) && !(q.ended(other) && !q.ended(l))
	})
}

// hides reports whether a program may not find a literal segment of l, while it finds all those of
// the pattern with these parts.
func (q writtenRequest) hides(l *leaf, parts []string) bool {
	return slices.ContainsFunc(q.marked, func(i int) bool { return kind(l.parts, i) == 'x' && kind(parts, i) != 'x' })
}

// ended reports whether the pattern of l does not fit, because it or the path ends with a slash.
func (q writtenRequest) ended(l *leaf) bool {
	if n := len(l.parts); n > 0 && kind(l.parts, n-1) == '*' {
		return false
	}
	g := l.route(q.method)
	return q.slash != (g != nil && strings.HasSuffix(g.Path, "/"))
}

// markSegments returns the numbers of the segments of a path for g that a program may not find as they
// are in a pattern. If the upstream gets only the escapes that are needed, in capitals, programs
// agree, and markSegments returns nil. Otherwise some, such as chi, compare every segment with its
// escapes.
func (g *proxyRoute) markSegments(rawPath, path string) (marked []int) {
	if !strings.ContainsFunc(rawPath, unusual) {
		return nil
	}
	removed := len(Segments(g.StripPrefix))
	rawPath = cutSegments(rawPath, removed)
	if (&url.URL{Path: cutSegments(path, removed)}).EscapedPath() == rawPath {
		return nil
	}
	for i, part := range Segments(rawPath) {
		if strings.ContainsFunc(part, unusual) {
			marked = append(marked, removed+i)
		}
	}
	return marked
}

// unusual reports whether a character of a path begins an escape or ought to be escaped.
func unusual(c rune) bool { return c == '%' || c >= utf8.RuneSelf }

// covers reports whether everything that the rules of g let pass may pass by those of other too.
func (g *proxyRoute) covers(other *proxyRoute) bool {
	switch {
	case other.Permission != 0 && (g.Permission == 0 || g.Permission&^other.Permission != 0):
		return false
	case slices.ContainsFunc(other.Limits, func(name string) bool { return !slices.Contains(g.Limits, name) || g.Cost < other.Cost }):
		return false
	case other.MaxBody != 0 && (g.MaxBody == 0 || g.MaxBody > other.MaxBody):
		return false
	}
	return (other.WebSocket || !g.WebSocket) && (other.Sandbox || !g.Sandbox)
}

// differ reports whether two routes have different rules for requests, or send them elsewhere.
func differ(a, b *proxyRoute) bool {
	switch {
	case a == b:
		return false
	case a.Permission != b.Permission, !slices.Equal(a.Limits, b.Limits), len(a.Limits) > 0 && a.Cost != b.Cost, !slices.Equal(a.Methods, b.Methods):
		return true
	case a.MaxBody != b.MaxBody, a.WebSocket != b.WebSocket, a.Sandbox != b.Sandbox, a.StripPrefix != b.StripPrefix, (a.Upstream == nil) != (b.Upstream == nil):
		return true
	}
	return a.Upstream != nil && a.Upstream.String() != b.Upstream.String()
}

// ends appends to list the ends of all patterns below a node that the rest of a path matches.
func (at *place) ends(rest remainder, list []*leaf) []*leaf {
	if rest.ended && at.here != nil {
		list = append(list, at.here)
	}
	if at.rest != nil {
		list = append(list, at.rest)
	}
	if rest.ended {
		return list
	}
	part, rest := rest.cut()
	if next := at.literals[part]; next != nil {
		list = next.ends(rest, list)
	}
	if at.one != nil && part != "" {
		list = at.one.ends(rest, list)
	}
	return list
}

// lookalike reports whether two patterns are spelled differently but have the same canonical form,
// so that no request for either of them could be accepted.
func lookalike(a, b pattern) bool {
	if b.guard.CaseSensitive || a.guard != nil && a.guard.CaseSensitive {
		return relate(a.kept, b.kept) == same
	}
	return relate(a.folded, b.folded) == same
}

// RouteOverlap is a pair of guarded routes with different rules. Another spelling of a path of the
// route Narrow, such as /Admin for /admin, would belong to the route Wide. Such requests are
// refused.
type RouteOverlap struct {
	Narrow, Wide string // for messages
	// CaseAllowed is true if spellings that differ only by upper and lower case are not refused,
	// because one of the routes has case_sensitive.
	CaseAllowed bool
}

// FindOverlaps returns the overlaps of the routes in rows, which must be valid.
func FindOverlaps(rows []RouteRow, r *Policy) (list []RouteOverlap) {
	guards, _ := ReadProxyRoutes(rows, r)
	folded := make([][]string, len(guards))
	for i, g := range guards {
		folded[i] = canonicalParts(Segments(g.Path), foldCase)
	}
	for i, narrow := range guards {
		for j, wide := range guards {
			relation := relate(folded[i], folded[j])
			if differ(narrow, wide) && (relation == narrower || relation == across) && escapes(narrow, wide) {
				list = append(list, RouteOverlap{narrow.String(), wide.String(), narrow.CaseSensitive || wide.CaseSensitive})
			}
		}
	}
	return list
}

// escapes reports whether some literal segment of the path of narrow can be spelled so that the path
// of wide still matches.
func escapes(narrow, wide *proxyRoute) bool {
	a, b := Segments(narrow.Path), Segments(wide.Path)
	for i := range a {
		other := kind(b, min(i, len(b)-1)) // if the path of wide is shorter, it ends with *
		if kind(a, i) == 'x' && (other != 'x' || a[i] != b[i]) {
			return true
		}
	}
	return false
}

// String returns one line for the overlap.
func (o RouteOverlap) String() string {
	if o.CaseAllowed {
		return fmt.Sprintf("%s and %s: other spellings are refused, but not those that differ only by case (case_sensitive)", o.Narrow, o.Wide)
	}
	return fmt.Sprintf("%s and %s: other spellings are refused", o.Narrow, o.Wide)
}
