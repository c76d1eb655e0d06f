package routers

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode"
	"unicode/utf8"
)

// values are what a wildcard of a pattern is filled with: among them names that other patterns have
// in the same place, and what looks like a wildcard.
var values = []string{"1", "me", "files", "public", "admin", "users", "settings", ":id", "*rest", "{id}", "x.json", "caf\u00e9", "a b", "%61", "\u212a", "7-8_9~"}

// changes are other ways to write a segment of a path. Each gets an escaped segment and returns
// another form of it.
var changes = []func(r *rand.Rand, s string) string{
	func(r *rand.Rand, s string) string { return escapeOne(r, s, "%%%02x") },
	func(r *rand.Rand, s string) string { return escapeOne(r, s, "%%%02X") },
	func(r *rand.Rand, s string) string { return escapeOne(r, s, "%%25%02x") },
	func(r *rand.Rand, s string) string { return escapeOne(r, s, "%%%%32%%35%02x") },
	func(r *rand.Rand, s string) string { return escapeOne(r, s, "%%u00%02x") },
	func(r *rand.Rand, s string) string { return escapeOne(r, s, "%%c0%%%02x") }, // too long for UTF-8
	func(_ *rand.Rand, s string) string { return escapeAll(s) },
	func(_ *rand.Rand, s string) string { return strings.ToUpper(s) },
	func(_ *rand.Rand, s string) string { return strings.ToLower(s) },
	func(r *rand.Rand, s string) string { return replaceOne(r, s, unicode.ToUpper) },
	func(r *rand.Rand, s string) string { return replaceOne(r, s, unicode.SimpleFold) },
	func(r *rand.Rand, s string) string { return escapeText(replaceOne(r, s, unicode.SimpleFold)) },
	func(r *rand.Rand, s string) string {
		return escapeText(replaceOne(r, s, func(c rune) rune { return c + 0xfee0 })) // full width
	},
	func(_ *rand.Rand, s string) string {
		return strings.NewReplacer("k", "%E2%84%AA", "s", "%C5%BF", "i", "%C4%B1").Replace(s)
	},
	func(_ *rand.Rand, s string) string {
		return strings.NewReplacer("%C3%A9", "e%CC%81", "e", "%65").Replace(s)
	},
	func(_ *rand.Rand, s string) string {
		return strings.NewReplacer("%C3%A9", "%c3%a9", "a", "%61").Replace(s)
	},
	func(_ *rand.Rand, s string) string { return strings.ReplaceAll(s, "%C3%A9", "\u00e9") },
	func(_ *rand.Rand, s string) string { return strings.ReplaceAll(s, "%C3%A9", "\xe9") },
	func(_ *rand.Rand, s string) string { return strings.ReplaceAll(s, "%", "%25") },
	func(r *rand.Rand, s string) string { return s + pick(r, ends) },
	func(r *rand.Rand, s string) string { return pick(r, ends) + s },
	func(r *rand.Rand, s string) string { return s + "/" + pick(r, between) },
	func(r *rand.Rand, s string) string { return pick(r, between) + "/" + s },
	func(r *rand.Rand, s string) string { return s + pick(r, slashes) + pick(r, values) },
	func(r *rand.Rand, s string) string { return s + pick(r, slashes) },
	func(r *rand.Rand, s string) string { return pick(r, slashes) + s },
	func(r *rand.Rand, s string) string { return escapeText(pick(r, values)) },
	func(r *rand.Rand, s string) string { return s + ".." + pick(r, slashes) + ".." + pick(r, slashes) + s },
	func(_ *rand.Rand, s string) string { return "" },
}

// ends are what programs cut off, leave out or read in their own ways, at the ends of a segment.
var ends = []string{
	";", ";x=1", "%3B", "%3bx", ";/", ".", "..", "%2e", "%2E%2E", "%252e", ".json", "%20", "%2520", " ", "+", "%00", "%00.json", "\x00", "%09", "\t", "\x7f", "%7f", "%0d%0a", "%0a", "%2509",
	"%3F", "%3Fx", "?", "%23", "#", "#x", "::$DATA", ":$I30", "*", ":", "%3a", "%2a", "%80", "\xff", "%ed%a0%80", "%E2%80%8B", "%C2%AD", "%EF%BB%BF", "%C2%A0", "%CC%87", "%CD%BE", "%EF%BC%9B", "%",
	"%2", "%zz", "%%", "%25", "%u003b", "\\", "|", "\"", "<", "^", "`", "{", "}", "[", "]", "@", "!", "'", "(", ")", ",", "=", "&", "~",
}

// slashes are what some programs read as a slash, or as several.
var slashes = []string{"/", "//", "///", "%2f", "%2F", "%252f", "%252F", "%25%32%66", "\\", "%5c", "%5C", "%255c", "/./", "/%2e/", "/../", "/x/../", "/..;/", "/%2e%2e/", "/.%2e/", "/%252e%252e/", "/;/", "/%20/",
	"%EF%BC%8F", "%E2%88%95", "%E2%81%84", "%c0%af", "%e0%80%af", "%u002f", "%u2215", "/%EF%BC%8E%EF%BC%8E/", "/%E2%80%A5/", "/.../", "/?/", "/#/"}

// between are segments that some programs leave out, or that lead elsewhere.
var between = []string{".", "..", "", "%2e", "%2e%2e", ".%2e", "..;", "..%3b", ";", "%3b", ";x", "...", "%20", "%E2%80%8B", "%00", ".%20", "%20.", "..%20", "x/..", "x/%2e%2e", "%252e", "..%00", "..%09"}

// methods are the methods of requests, the usual ones more often.
var methods = []string{"GET", "GET", "GET", "GET", "GET", "HEAD", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "Get", "head", "delete", "PURGE", "PROPFIND", "M-SEARCH", "GETX", "X"}

// fields are header fields by which a client could make a program serve another path or method.
var fields = []string{"X-HTTP-Method-Override: GET", "X-HTTP-Method: DELETE", "X-Method-Override: POST", "X_HTTP_Method_Override: PUT", "X-Original-URL: /", "X-Original-URI: /%s", "X-Forwarded-Uri: /%s", "X-Forwarded-Method: GET",
	"X-Rewrite-URL: /%s/admin", "X-Forwarded-Prefix: /%s/users", "X-Forwarded-Path: /%s", "Forwarded: path=/%s", "X-Original-Method: GET", "Upgrade: h2c", "X-Auth-Permissions: can_p0", "X-Auth-Uri: /%s", "Expect: 100-continue",
	"Connection: X-API-Key", "Connection: close"}

// queries stand behind a path.
var queries = []string{"", "", "", "", "?", "?a=1", "?a=1&a=2", "?_method=DELETE", "?method=POST", "?;", "?a;b", "?%00", "?/../admin", "?%2e%2e", "??", "?a#b", "?%", "?a b", "?%20=%zz"}

// request is a request line and more fields, as they are sent.
type request struct {
	method, target string
	fields         []string
}

// String returns the request for messages.
func (q request) String() string { return fmt.Sprintf("%s %q %q", q.method, q.target, q.fields) }

// newRequest returns a request for a row of u whose path, method and fields were changed at random.
func newRequest(r *rand.Rand, u *upstream) request {
	row := pick(r, u.Rows)
	parts := []string{u.Name}
	for part := range strings.SplitSeq(strings.Trim(row.Path, "/"), "/") {
		switch {
		case part == "":
		case part[0] == ':':
			parts = append(parts, escapeText(pick(r, values)))
		case part[0] == '*':
			for range r.IntN(4) {
				parts = append(parts, escapeText(pick(r, values)))
			}
		default:
			parts = append(parts, escapeText(part))
		}
	}
	for range pick(r, []int{0, 1, 1, 1, 2, 2, 3, 5}) {
		i := r.IntN(len(parts))
		parts[i] = pick(r, changes)(r, parts[i])
	}
	q := request{method: pick(r, methods), target: "/" + strings.Join(parts, "/")}
	if len(row.Methods) > 0 && r.IntN(2) == 0 {
		q.method = pick(r, row.Methods)
	}
	switch r.IntN(40) {
	case 0, 1, 2:
		q.target += "/"
	case 3:
		q.target = "/" + q.target
	case 4:
		q.target = q.target[1:]
	case 5:
		q.target = "*"
	case 6:
		q.target = "http://x" + q.target
	case 7:
		q.target = "http://x" + pick(r, []string{"", "?", ":80", "@y", "/..", "\\"}) + q.target
	case 8:
		q.target = "//x" + q.target
	case 9:
		q.target = "x:80"
	}
	q.target += pick(r, queries)
	for range pick(r, []int{0, 0, 0, 0, 1, 2}) {
		q.fields = append(q.fields, strings.ReplaceAll(pick(r, fields), "%s", u.Name))
	}
	return q
}

// pick returns one element of list.
func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// escapeText escapes s for a path by the rules of RFC 3986. It keeps escapes that s already has.
func escapeText(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>?[\\]^`{|}/", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// escapeAll returns s with every byte escaped that is not a part of an escape.
func escapeAll(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			end := min(len(s), i+3)
			b.WriteString(s[i:end])
			i = end - 1
			continue
		}
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

// escapeOne replaces one byte of s by its number in a format.
func escapeOne(r *rand.Rand, s, format string) string {
	if s == "" {
		return s
	}
	i := r.IntN(len(s))
	return s[:i] + fmt.Sprintf(format, s[i]) + s[i+1:]
}

// replaceOne replaces one character of s.
func replaceOne(r *rand.Rand, s string, by func(rune) rune) string {
	if s == "" {
		return s
	}
	i := r.IntN(len(s))
	c, n := utf8.DecodeRuneInString(s[i:])
	return s[:i] + string(by(c)) + s[i+n:]
}
