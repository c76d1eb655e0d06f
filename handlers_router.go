package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"
)

// Row is a Route and the httprouter function that serves it.
type Row struct {
	Route
	Serve httprouter.Handle
}

// node is a position in the tree of the paths that the rows of one method have.
type node struct {
	wild     string           // the wildcard at this position, such as ":id"; "" if there is none
	children map[string]*node // by literal; ":" for the wildcard
}

// NewRouter returns a handler that serves rows through httprouter. httprouter cannot register a
// literal beside a wildcard, such as ".../create" beside ".../:id/cancel". NewRouter therefore
// registers the literal as the wildcard too, and compares it with the path of each request. A path
// matches with or without a slash at its end. A row for GET serves HEAD too. There is no redirect to the other form, because a
// client may then drop the body and would send the key a second time. The function plain must
// return the handler for requests that match no row. NewRouter returns an error if a row occurs
// twice or if two rows name the same wildcard differently.
func NewRouter(rows []Row, plain func(*Error) http.Handler) (http.Handler, error) {
	r := httprouter.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.HandleOPTIONS, r.HandleMethodNotAllowed = false, false, false, false
	rows = withHead(rows)
	var routes []Route
	for _, row := range rows {
		routes = append(routes, row.Route)
	}
	unmatched := func(w http.ResponseWriter, r *http.Request) {
		if methods := allowed(rows, r.URL.Path); len(methods) > 0 {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			plain(WrongMethod(r.Method, r.URL.Path, methods, routes)).ServeHTTP(w, r)
			return
		}
		plain(ErrRoute).ServeHTTP(w, r)
	}
	r.NotFound = http.HandlerFunc(unmatched)
	trees, named := map[string]*node{}, map[string]bool{}
	for _, row := range rows {
		name := row.Method + " " + row.Path
		if named[name] {
			return nil, fmt.Errorf("route %s is listed twice; list it once", name)
		}
		named[name] = true
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
		r.Handle(method, path, choose(groups[at], path, unmatched))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if n := len(q.URL.Path); n > 1 && q.URL.Path[n-1] == '/' {
			q.URL.Path = q.URL.Path[:n-1]
		}
		r.ServeHTTP(w, q)
	}), nil
}

// withHead returns rows with a row for HEAD after each row for GET. HEAD is answered like GET, after
// the same checks and at the same cost; net/http leaves out the body (RFC 9110, section 9.3.2).
func withHead(rows []Row) (all []Row) {
	for _, row := range rows {
		all = append(all, row)
		if row.Method == http.MethodGet {
			row.Method = http.MethodHead
			all = append(all, row)
		}
	}
	return all
}

// WrongMethod returns ErrMethod for a request to a path that accepts only the methods in allow. Its
// message has the paths that accept the method and have one more segment, a literal such as "create":
// many APIs create and change a record at the path that only lists or reads it here.
func WrongMethod(method, path string, allow []string, routes []Route) *Error {
	var longer []string
	for _, route := range routes {
		parts := segments(route.Path)
		last := parts[len(parts)-1]
		if route.Method == method && len(parts) == len(segments(path))+1 && !strings.HasPrefix(last, ":") && (Row{Route: route}).match(path+"/"+last) {
			longer = append(longer, ClipPath(path)+"/"+last)
		}
	}
	text := fmt.Sprintf("%s does not accept %s. It accepts %s.", ClipPath(path), method, strings.Join(allow, ", "))
	if len(longer) > 0 {
		text += fmt.Sprintf(" %s is accepted at %s.", method, strings.Join(longer, ", "))
	}
	return ErrMethod.With("%s", text)
}

// ClipPath returns path for use in a message. If path is longer than 200 bytes, it returns the
// first 200 and "...".
func ClipPath(path string) string {
	const limit = 200
	if len(path) > limit {
		return path[:limit] + "..."
	}
	return path
}

// segments returns the segments of a path that begins with a slash.
func segments(path string) []string { return strings.Split(path, "/")[1:] }

// note adds the literals and wildcards of a path to the tree below n. It returns an error if two
// wildcards at the same position have different names.
func (n *node) note(path string) error {
	for _, part := range segments(path) {
		key := part
		if strings.HasPrefix(part, ":") {
			if n.wild != "" && n.wild != part {
				return fmt.Errorf("route %s: the wildcard %s is named %s in another route; use the same name", path, part, n.wild)
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

// merge returns the path under which a row must be registered. In it, each literal beside a
// wildcard is replaced by that wildcard.
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

// choose returns a handler for the rows that are registered under the same path. The handler serves
// the row whose literals match the request, or else the row whose own Path is path. If there is no
// such row, it calls fallback.
func choose(rows []Row, path string, fallback http.HandlerFunc) httprouter.Handle {
	if len(rows) == 1 && rows[0].Path == path {
		return rows[0].Serve
	}
	var literal []Row
	var rest httprouter.Handle
	for _, row := range rows {
		if row.Path != path {
			literal = append(literal, row)
			continue
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
			fallback(w, r)
			return
		}
		rest(w, r, p)
	}
}

// allowed returns the methods of the rows that match a path, in alphabetical order.
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

// match reports whether the literals of the row are equal to the segments of path at the same
// positions. path must have as many segments as the row.
func (row Row) match(path string) bool {
	parts := segments(path)
	for i, part := range segments(row.Path) {
		if !strings.HasPrefix(part, ":") && part != parts[i] {
			return false
		}
	}
	return true
}

// LimitFields is the content of the rate limit fields of an answer.
type LimitFields struct {
	List  []LimitStatus // status of each limit at Now
	Now   time.Time
	Draft bool // also send the fields of draft-ietf-httpapi-ratelimit-headers-11
}

// WriteLimitFields sets the rate limit fields of a header. It sets nothing if f.List is empty. The
// X-RateLimit-* fields describe the limit with the fewest remaining units; X-RateLimit-Reset is in
// Unix seconds. If f.Draft is true, RateLimit-Policy and RateLimit describe all limits.
func WriteLimitFields(h http.Header, f LimitFields) {
	list := f.List
	if len(list) == 0 {
		return
	}
	tight := Tightest(list)
	// All values are parts of one string, and all slices are parts of one array. This saves
	// allocations: for a small answer, writing these fields takes longer than anything else.
	var buf [256]byte
	var cuts [5]int
	b := strconv.AppendInt(buf[:0], int64(tight.Limit.Max), 10)
	cuts[0] = len(b)
	b = strconv.AppendInt(b, int64(tight.Remaining()), 10)
	cuts[1] = len(b)
	b = strconv.AppendInt(b, f.Now.Add(tight.Next+time.Second-1).Unix(), 10)
	cuts[2] = len(b)
	if f.Draft {
		b = appendPolicy(b, list)
		cuts[3] = len(b)
		b = appendState(b, list)
		cuts[4] = len(b)
	}
	all := string(b)
	n := &[5]string{all[:cuts[0]], all[cuts[0]:cuts[1]], all[cuts[1]:cuts[2]]}
	// The fields are set directly because Header.Set would allocate a slice for each.
	h["X-Ratelimit-Limit"], h["X-Ratelimit-Remaining"], h["X-Ratelimit-Reset"] = n[0:1:1], n[1:2:2], n[2:3:3]
	if f.Draft {
		n[3], n[4] = all[cuts[2]:cuts[3]], all[cuts[3]:]
		h["Ratelimit-Policy"], h["Ratelimit"] = n[3:4:4], n[4:5:5]
	}
}

// AppendLimitFields appends the fields of WriteLimitFields as the lines of an HTTP/1.1 answer.
func AppendLimitFields(b []byte, f LimitFields) []byte {
	if len(f.List) == 0 {
		return b
	}
	tight := Tightest(f.List)
	b = strconv.AppendInt(append(b, "X-Ratelimit-Limit: "...), int64(tight.Limit.Max), 10)
	b = strconv.AppendInt(append(b, "\r\nX-Ratelimit-Remaining: "...), int64(tight.Remaining()), 10)
	b = strconv.AppendInt(append(b, "\r\nX-Ratelimit-Reset: "...), f.Now.Add(tight.Next+time.Second-1).Unix(), 10)
	if f.Draft {
		b = appendPolicy(append(b, "\r\nRatelimit-Policy: "...), f.List)
		b = appendState(append(b, "\r\nRatelimit: "...), f.List)
	}
	return append(b, "\r\n"...)
}

// Tightest returns the limit with the fewest remaining units. list must not be empty.
func Tightest(list []LimitStatus) *LimitStatus {
	tight := &list[0]
	for i := range list[1:] {
		if s := &list[1+i]; s.Remaining() < tight.Remaining() {
			tight = s
		}
	}
	return tight
}

// appendPolicy appends the value of RateLimit-Policy: the size and window in seconds of each limit.
func appendPolicy(b []byte, list []LimitStatus) []byte {
	for i := range list {
		s := &list[i]
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendName(b, s)
		b = strconv.AppendInt(append(b, ";q="...), int64(s.Limit.Max), 10)
		b = strconv.AppendInt(append(b, ";w="...), int64(s.Limit.Window/time.Second), 10)
	}
	return b
}

// appendState appends the value of RateLimit: how many units of each limit remain and, if some are
// used, the seconds until the next unit becomes free.
func appendState(b []byte, list []LimitStatus) []byte {
	for i := range list {
		s := &list[i]
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendName(b, s)
		b = strconv.AppendInt(append(b, ";r="...), int64(s.Remaining()), 10)
		if s.Used > 0 {
			b = strconv.AppendInt(append(b, ";t="...), int64((s.Next+time.Second-1)/time.Second), 10)
		}
	}
	return b
}

// appendName appends the name of a limit in quotes, without the ending "_limit".
func appendName(b []byte, s *LimitStatus) []byte {
	b = append(b, '"')
	b = append(b, strings.TrimSuffix(s.Limit.Name, "_limit")...)
	return append(b, '"')
}
