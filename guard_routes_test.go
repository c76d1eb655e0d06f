package main

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// guards makes guards of lines such as "GET,POST /a/:id"; * is any method.
func guards(lines ...string) []*proxyRoute {
	var list []*proxyRoute
	for i, line := range lines {
		methods, path, _ := strings.Cut(line, " ")
		g := &proxyRoute{Index: i + 1, Path: path}
		if methods != "*" {
			g.Methods = strings.Split(methods, ",")
		}
		list = append(list, g)
	}
	return list
}

var ownRoutes = []string{"GET /api/v1/calls", "GET /api/v1/calls/:call_id", "POST /api/v1/contacts/create", "GET /healthz"}

func TestRouteTable_Match(t *testing.T) {
	table, err := newRouteTable(guards(
		"* /*all",
		"GET /orders",
		"GET /orders/:id",
		"PUT,PATCH /orders/:id",
		"GET /orders/export",
		"* /orders/export",
		"GET /orders/:id/lines/:line",
		"* /admin/*all",
		"POST /admin/users/:id",
		"GET /a/:x/b",
		"POST /a/c/:y",
		"GET /api/v1/*all",
		"GET /with%space",
	), ownRoutes)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path string
		want         int // index, 0: none
		allow        string
	}{
		{"GET", "/", 1, ""},
		{"GET", "/else", 1, ""},
		{"DELETE", "/else/where", 1, ""},
		{"GET", "/orders", 2, ""},
		{"GET", "/orders/", 2, ""},
		{"POST", "/orders", 0, "GET"},
		{"HEAD", "/orders", 0, "GET"},
		{"get", "/orders", 0, "GET"},
		{"GET", "/orders/7", 3, ""},
		{"PATCH", "/orders/7", 4, ""},
		{"DELETE", "/orders/7", 0, "GET,PATCH,PUT"},
		{"GET", "/orders/export", 5, ""},
		{"DELETE", "/orders/export", 6, ""},
		{"GET", "/orders/7/lines/8", 7, ""},
		{"GET", "/orders/7/lines", 1, ""},
		{"GET", "/orders/7/lines/8/9", 1, ""},
		{"GET", "/admin", 8, ""},
		{"GET", "/admin/", 8, ""},
		{"GET", "/admin/x/y", 8, ""},
		{"GET", "/administer", 1, ""},
		{"POST", "/admin/users/7", 9, ""},
		{"GET", "/admin/users/7", 0, "POST"}, // the narrower rule is not passed by
		{"GET", "/a/c/b", 10, ""},            // neither is narrower, but the methods tell
		{"POST", "/a/c/b", 11, ""},
		{"GET", "/api/v1/other", 12, ""},
		{"GET", "/api/v1/calls", 0, ""}, // ours
		{"DELETE", "/api/v1/calls/7/", 0, ""},
		{"GET", "/healthz", 0, ""},
		{"GET", "/healthz/x", 1, ""},
		{"GET", "/with%space", 13, ""},
	} {
		g, allow := table.Match(tt.method, tt.path)
		got := 0
		if g != nil {
			got = g.Index
		}
		if got != tt.want || strings.Join(allow, ",") != tt.allow {
			t.Errorf("%s %s: got route %d, allow %v; want %d, %q", tt.method, tt.path, got, allow, tt.want, tt.allow)
		}
	}
	empty, err := newRouteTable(nil, ownRoutes)
	if err != nil {
		t.Fatal(err)
	}
	if g, allow := empty.Match("GET", "/x"); g != nil || allow != nil {
		t.Errorf("without guards: got %v, %v", g, allow)
	}
}

// caseSensitive sets case_sensitive for all routes, and a different limit on bodies for each.
func caseSensitive(list []*proxyRoute) []*proxyRoute {
	for i, g := range list {
		g.CaseSensitive, g.MaxBody = true, int64(i)
	}
	return list
}

func TestNewRouteTable_conflicts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		guards []*proxyRoute
		want   []string // in the message; none: no conflict
	}{
		{"twice", guards("GET /a", "GET /a"), []string{"route 1 (GET /a) and route 2 (GET /a) match the same paths and both accept GET"}},
		{"another name", guards("GET /a/:x", "POST,GET /a/:y"), []string{"route 1 (GET /a/:x) and route 2 (POST,GET /a/:y) match the same paths and both accept GET"}},
		{"a slash at the end", guards("* /a", "* /a/"), []string{"route 1 (* /a) and route 2 (* /a/) match the same paths and both accept any method"}},
		{"lookalikes, both with case_sensitive", caseSensitive(guards("GET /a", "GET /\uff41")), []string{"route 2 (GET /\uff41) has a path that many programs take for that of route 1 (GET /a)"}},
		{"another case, both with case_sensitive", caseSensitive(guards("GET /a", "GET /A")), nil},
		{"rest twice", guards("GET /a/*x", "GET /a/*y"), []string{"same paths"}},
		{"crossing", guards("GET /a/:x/b", "GET /a/c/:y"), []string{"route 1", "route 2", "both fit /a/c/b with GET"}},
		{"crossing, any method", guards("* /a/:x/b", "GET /a/c/:y"), []string{"both fit /a/c/b with GET"}},
		{"crossing with a rest", guards("GET /:a/b/*rest", "GET /x/*rest"), []string{"both fit /x/b with GET"}},
		{"crossing where a rest is empty", guards("GET /a/*x", "GET /:y"), []string{"both fit /a with GET"}},
		{"all of them at once", guards("GET /a", "GET /a", "GET /b", "GET /b"), []string{"route 2", "route 4"}},
		{"crossing, other methods", guards("POST /a/:x/b", "GET /a/c/:y"), nil},
		{"other methods", guards("GET /a", "POST /a", "* /a"), nil},
		{"narrower", guards("GET /a/:x", "GET /a/b", "GET /a/*x", "GET /*x", "GET /a"), nil},
		{"apart", guards("GET /a/:x/b", "GET /a/:x/c", "GET /a/:x"), nil},
		{"ours", guards("GET /api/v1/calls"), []string{"route 1 (GET /api/v1/calls) has a path that belongs to the endpoint GET /api/v1/calls"}},
		{"ours, another method", guards("DELETE /api/v1/calls"), []string{"has a path that belongs to the endpoint GET /api/v1/calls"}},
		{"part of ours", guards("GET /api/v1/calls/export"), []string{"has a path that belongs to the endpoint GET /api/v1/calls/:call_id"}},
		{"across ours", guards("GET /api/v1/:x/create"), []string{"has a path that belongs to the endpoint"}},
		{"wider than ours", guards("GET /api/v1/*x", "GET /*x", "GET /api/*x"), nil},
	} {
		_, err := newRouteTable(tt.guards, ownRoutes)
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", tt.name, err, want)
			}
		}
	}
}

// fitsPattern says by the letter of the rule whether a path fits a pattern.
func fitsPattern(pattern, path []string) bool {
	for i, p := range pattern {
		if p[0] == '*' {
			return true
		}
		if i >= len(path) || p[0] != ':' && p != path[i] {
			return false
		}
	}
	return len(pattern) == len(path)
}

// TestRouteTable_Rule holds the table against its rule, on tables and paths
// that nobody thought of: the narrowest pattern that fits owns the path.
func TestRouteTable_Rule(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b", ":x"})
	rapid.Check(t, func(t *rapid.T) {
		var list []*proxyRoute
		for i := range rapid.IntRange(1, 6).Draw(t, "guards") {
			parts := rapid.SliceOfN(part, 0, 3).Draw(t, "parts")
			if rapid.Bool().Draw(t, "rest") {
				parts = append(parts, "*rest")
			}
			g := &proxyRoute{Index: i + 1, Path: "/" + strings.Join(parts, "/")}
			if m := rapid.SampledFrom([]string{"", "GET", "POST"}).Draw(t, "method"); m != "" {
				g.Methods = []string{m}
			}
			if _, err := newRouteTable(append(slices.Clone(list), g), nil); err == nil {
				list = append(list, g)
			}
		}
		table, err := newRouteTable(list, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 4).Draw(t, "path")
		var want *proxyRoute
		for _, g := range list { // the one that takes the method and is no wider than any that fits
			takes := func(g *proxyRoute) bool { return g.Methods == nil || g.Methods[0] == "GET" }
			if !fitsPattern(Segments(g.Path), path) || !takes(g) {
				continue
			}
			if !slices.ContainsFunc(list, func(o *proxyRoute) bool {
				relation := relate(Segments(o.Path), Segments(g.Path))
				return fitsPattern(Segments(o.Path), path) && (relation == narrower || relation == same && o != g && o.Methods != nil && takes(o))
			}) {
				want = g
			}
		}
		if got, _ := table.Match("GET", "/"+strings.Join(path, "/")); got != want {
			t.Fatalf("GET %v with %v: got %v, want %v", path, list, got, want)
		}
	})
}

func TestRouteTable_NoGarbage(t *testing.T) {
	table, err := newRouteTable(guards("* /*all", "GET /orders/:id", "GET /orders/:id/lines", "POST /orders/x/lines"), ownRoutes)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		path, err := readPath("/orders/7/lines")
		if g, _ := table.Match("GET", path); err != nil || g == nil || g.Index != 3 {
			t.Fatal("got another route")
		}
	}); n > 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func TestReadPath(t *testing.T) {
	for raw, want := range map[string]string{ // "" is a refusal
		"/":                             "/",
		"/a/b":                          "/a/b",
		"/a/b/":                         "/a/b/",
		"/a%20b":                        "/a b",
		"/caf%C3%A9":                    "/caf\u00e9",
		"/caf\u00e9":                    "/caf\u00e9",
		"/100%25":                       "/100%",
		"/100%2525":                     "/100%25",
		"/a%2520b":                      "/a%20b",
		"/a.b/...":                      "/a.b/...",
		"/.well-known/x":                "/.well-known/x",
		"/a%3Bb":                        "/a;b",
		"":                              "",
		"*":                             "",
		"a/b":                           "",
		"http://elsewhere/a":            "",
		"//a":                           "",
		"/a//b":                         "",
		"/a//":                          "",
		"/a/%2Fb":                       "",
		"/a%2fb":                        "",
		"/a%5Cb":                        "",
		"/a%5cb":                        "",
		"/a\\b":                         "",
		"/a/./b":                        "",
		"/a/../b":                       "",
		"/..":                           "",
		"/a/.":                          "",
		"/a/%2e%2e/b":                   "",
		"/a/.%2E/b":                     "",
		"/a/..;x=1/b":                   "",
		"/a/..%3Bx/b":                   "",
		"/a;x=1/b":                      "",
		"/a%00b":                        "",
		"/a%0Ab":                        "",
		"/a%0d%0ab":                     "",
		"/a%7f":                         "",
		"/a\x00":                        "",
		"/a%C0%AFb":                     "",
		"/a%ff":                         "",
		"/a%E0%80%AE":                   "",
		"/a%C2%85b":                     "", // a control character of Latin-1
		"/a%252fb":                      "",
		"/a%252e%252e/b":                "",
		"/a%255cb":                      "",
		"/a%2500":                       "",
		"/a%25252fb":                    "",
		"/a%253bb":                      "",
		"/a%":                           "",
		"/a%zz":                         "",
		"/a%2":                          "",
		"/" + strings.Repeat("a/", 200): "/" + strings.Repeat("a/", 200),
	} {
		got, err := readPath(raw)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrValidation) {
			t.Errorf("%q: got %q, %v; want %q", raw, got, err, want)
		}
	}
}

// Whatever is accepted must be one thing however often it is unescaped.
func FuzzReadPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%2e%2e/", "/a%252fb", "/a;b", "/\xff", "/%25%32%66"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := readPath(raw)
		if err != nil {
			return
		}
		for _, part := range strings.Split(path, "/") {
			if part == ".." || part == "." {
				t.Errorf("%q: a dot segment passed", raw)
			}
		}
		if strings.ContainsAny(path, "\\\x00\r\n") || strings.Contains(path, "//") || strings.Count(path, "/") != strings.Count(raw, "/") {
			t.Errorf("%q: got %q", raw, path)
		}
		if again, err := readPath(path); err == nil && strings.Count(again, "/") != strings.Count(path, "/") {
			t.Errorf("%q: another path when unescaped twice: %q", raw, again)
		}
	})
}

// An escape is a percent sign and two hex digits; all pairs of bytes are tried.
func TestUnescaped_AllPairs(t *testing.T) {
	for i := range 1 << 16 {
		digits := string([]byte{byte(i >> 8), byte(i)})
		want, err := hex.DecodeString(digits)
		got, ok := Unescaped("%" + digits)
		if ok != (err == nil) || ok && got != want[0] {
			t.Fatalf("%%%q: got %#x, %v; want %#x, %v", digits, got, ok, want, err)
		}
	}
	for _, s := range []string{"", "%", "%4", "x41", "441"} {
		if got, ok := Unescaped(s); ok {
			t.Errorf("%q: got %#x, want no escape", s, got)
		}
	}
}

// With a route for GET and one for any method, a HEAD request goes to the latter only if every key that may use it may use
// the route for GET as well.
func TestRouteTable_HEAD(t *testing.T) {
	for _, tt := range []struct {
		get, other Permission
		methods    string
		want       int // index of the route; 0: none
	}{
		{1, 2, "GET", 0}, {1, 1, "GET", 2}, {0, 2, "GET", 2}, {3, 2, "GET", 2}, {2, 3, "GET", 0}, {1, 2, "GET,HEAD", 1},
	} {
		list := guards(tt.methods+" /a", "* /a")
		list[0].Permission, list[1].Permission = tt.get, tt.other
		table, err := newRouteTable(list, nil)
		if err != nil {
			t.Fatal(err)
		}
		g, allow := table.Match("HEAD", "/a")
		got := 0
		if g != nil {
			got = g.Index
		}
		if got != tt.want || g == nil && !slices.Equal(allow, []string{"GET"}) {
			t.Errorf("%s with %b, others with %b: got route %d, allow %v, want route %d", tt.methods, tt.get, tt.other, got, allow, tt.want)
		}
	}
}
