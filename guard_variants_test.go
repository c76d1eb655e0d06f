package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

func TestCanonicalPath(t *testing.T) {
	for _, tt := range []struct{ path, folded, kept string }{
		{"/", "/", "/"},
		{"/admin/x", "/admin/x", "/admin/x"},
		{"/Admin/X", "/admin/x", "/Admin/X"},
		{"/a/", "/a", "/a"},
		{"/%41dmin", "/admin", "/Admin"}, // as the path is after it was unescaped once
		{"/%61dmin", "/admin", "/admin"},
		{"/%2561dmin", "/admin", "/admin"},
		{"/%25%36%31dmin", "/admin", "/admin"},
		{"/%u0061dmin", "/admin", "/admin"},
		{"/100%/%61dmin", "/100%/admin", "/100%/admin"},
		{"/%zz%6", "/%zz%6", "/%zz%6"},
		{"/%ef%bc%8541", "/a", "/A"}, // a full-width percent sign
		{"/admin;x/y", "/admin/y", "/admin/y"},
		{"/admin\u037ex", "/admin", "/admin"}, // a Greek question mark is a semicolon
		{"/admin./x", "/admin/x", "/admin/x"},
		{"/admin. . /x", "/admin/x", "/admin/x"},
		{"/ admin\u00a0/x", "/admin/x", "/admin/x"},
		{"/admin::$DATA/x", "/admin/x", "/admin/x"},
		{"/admin:$I30:$INDEX_ALLOCATION/x", "/admin/x", "/admin/x"},
		{"/users:batch", "/users:batch", "/users:batch"},
		{"/admin?x/y", "/admin", "/admin"},
		{"/admin#x", "/admin", "/admin"},
		{"/;x/admin", "/admin", "/admin"},
		{"/.../admin", "/admin", "/admin"},
		{"/x/\u2025/admin", "/admin", "/admin"}, // two dots in one character
		{"/x\uff0fadmin", "/x/admin", "/x/admin"},
		{"/\uff21dmin", "/admin", "/Admin"},
		{"/ad\u200bm\u00adin", "/admin", "/admin"},
		{"/adm\u0131n", "/admin", "/adm\u0131n"},
		{"/ADM\u0130N", "/admin", "/ADM\u0130N"},
		{"/admi\u0307n", "/admin", "/admi\u0307n"},
		{"/\u212aeys", "/keys", "/Keys"},
		{"/key\u017f", "/keys", "/keys"},
		{"/cafe\u0301", "/caf\u00e9", "/caf\u00e9"},
		{"/CAF\u00c9", "/caf\u00e9", "/CAF\u00c9"},
		{"/stra\u00dfe", "/strasse", "/stra\u00dfe"},
		{"/STRA\u1e9eE", "/strasse", "/STRA\u1e9eE"},
		{"/\u03a3\u03c2\u03c3", "/\u03c3\u03c3\u03c3", "/\u03a3\u03c2\u03c3"},
	} {
		if got := canonicalPath(tt.path, foldCase); got != tt.folded {
			t.Errorf("%q, folded: got %q, want %q", tt.path, got, tt.folded)
		}
		if got := canonicalPath(tt.path, keepCase); got != tt.kept {
			t.Errorf("%q: got %q, want %q", tt.path, got, tt.kept)
		}
	}
}

// All letters of which the standard library says that they differ only by case fold to one.
func TestFoldLetter_All(t *testing.T) {
	for c := rune(0); c <= unicode.MaxRune; c++ {
		f := foldLetter(c)
		for _, other := range []rune{unicode.SimpleFold(c), unicode.ToUpper(c), unicode.ToLower(c), f} {
			if foldLetter(other) != f {
				t.Errorf("%U folds to %U, but %U to %U", c, f, other, foldLetter(other))
			}
		}
	}
}

// FuzzCanonicalPath tries that a canonical form is its own, that plain paths are theirs, and that no
// step which a program takes leads to another.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/A%41", "/a%2541;x/.b./c", "/\uff0f\u2025", "/%ef%bc%85ef%bc%8541", "/ :$", "/\u0130\u0131\u212a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := readPath(raw)
		if err != nil {
			return
		}
		for _, letters := range []letterCase{foldCase, keepCase} {
			c := canonicalPath(path, letters)
			if again := canonicalPath(c, letters); again != c {
				t.Errorf("%q: %q, and of that %q", path, c, again)
			}
			if isCanonical(path) && c != strings.TrimSuffix(path, "/") && path != "/" {
				t.Errorf("%q is plain, but its canonical form is %q", path, c)
			}
		}
	})
}

// readings are what programs do to a path. Each takes it as it is sent.
var readings = map[string]func(string) string{
	"unescapes once more": func(p string) string {
		if again, err := url.PathUnescape(p); err == nil {
			return again
		}
		return p
	},
	"ignores case":             strings.ToLower,
	"ignores case by capitals": func(p string) string { return strings.ToLower(strings.ToUpper(p)) },
	"cuts at semicolons":       eachPart(func(s string) string { s, _, _ = strings.Cut(s, ";"); return s }),
	"drops dots":               eachPart(func(s string) string { return strings.TrimRight(s, ". ") }),
	"drops blanks":             eachPart(strings.TrimSpace),
	"reads wide letters":       norm.NFKC.String,
	"composes":                 norm.NFC.String,
	"ends at ?":                func(p string) string { p, _, _ = strings.Cut(p, "?"); return p },
}

func eachPart(change func(string) string) func(string) string {
	return func(p string) string {
		parts := strings.Split(p, "/")
		for i := range parts {
			parts[i] = change(parts[i])
		}
		return strings.Join(parts, "/")
	}
}

// TestRouteTable_Variants holds random routes and paths against random programs: what a program reads
// as a path of a route with other rules is refused, and what has one spelling only is not.
func TestRouteTable_Variants(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "Ab", "ab.c", "caf\u00e9", ":x"})
	spelled := rapid.SampledFrom([]string{
		"a", "A", "Ab", "ab", "aB", "ab.c", "AB.C", "caf\u00e9", "CAF\u00c9", "cafe\u0301", "a;x", "a.", "a ", "%61", "%2541", "\uff41", "\uff21b", "other", "Other", "a?b",
	})
	names := slices.Sorted(maps.Keys(readings))
	refusals, served := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var list []*proxyRoute
		for range rapid.IntRange(2, 6).Draw(t, "routes") {
			parts := rapid.SliceOfN(part, 0, 3).Draw(t, "parts")
			if rapid.Bool().Draw(t, "rest") {
				parts = append(parts, "*rest")
			}
			g := &proxyRoute{Index: len(list) + 1, Path: "/" + strings.Join(parts, "/"), Permission: Permission(rapid.IntRange(0, 1).Draw(t, "permission"))}
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
		path := "/" + strings.Join(rapid.SliceOfN(spelled, 1, 4).Draw(t, "path"), "/")
		g, _ := table.Match("GET", path)
		if g == nil {
			return
		}
		err = table.refuse("GET", path, g)
		if err != nil {
			refusals++
		} else {
			served++
		}
		steps := rapid.SliceOfN(rapid.SampledFrom(names), 0, 5).Draw(t, "steps")
		read := func(p string) string {
			for _, name := range steps {
				p = readings[name](p)
			}
			return p
		}
		var theirs []*proxyRoute // the routes of a program that reads its own paths in the same way
		for _, other := range list {
			parts := slices.Clone(Segments(other.Path))
			for i := range parts {
				if kind(parts, i) == 'x' {
					parts[i] = read("/" + parts[i])[1:]
				}
			}
			g := *other
			g.Path = "/" + strings.Join(parts, "/")
			theirs = append(theirs, &g)
		}
		their, failed := newRouteTable(theirs, nil)
		if failed != nil {
			return
		}
		now, allow := their.Match("GET", read(path))
		if err == nil && (now != nil && differ(g, list[now.Index-1]) || now == nil && len(allow) > 0) {
			t.Fatalf("%q passed for %v, but is read as %q, which belongs to %v, of %v", path, g, read(path), now, list)
		}
	})
	if !testing.Short() && (refusals == 0 || served == 0) { // the short form tries too few
		t.Errorf("%d were refused and %d passed, want both", refusals, served)
	}
}

func TestRouteTable_Refuse(t *testing.T) {
	high, low := Permission(2), Permission(1)
	route := func(line string, need Permission, sensitive ...bool) *proxyRoute {
		g := guards(line)[0]
		g.Permission, g.CaseSensitive = need, len(sensitive) > 0
		return g
	}
	limited := route("* /limited", low)
	limited.Limits, limited.Cost = []string{"a"}, 1
	costly := route("* /limited/costly", low)
	costly.Limits, costly.Cost = []string{"a"}, 2
	elsewhere := route("* /elsewhere", low)
	elsewhere.Upstream = &url.URL{Scheme: "http", Host: "b.example"}
	for _, tt := range []struct {
		name   string
		routes []*proxyRoute
		passes string // paths for GET with blanks between them
		fails  string
	}{
		{"permission", []*proxyRoute{route("* /*all", low), route("* /admin/*all", high)}, "/admin /admin/X /x /X /adm /Adminx /x/Admin /x/admin;y",
			"/Admin /aDMIN/x /admin;x/y /admin./x /%61dmin"},
		{"pattern in capitals", []*proxyRoute{route("* /*all", low), route("* /Admin/*all", high)}, "/Admin /Admin/X /x", "/admin /ADMIN/x"},
		{"limits", []*proxyRoute{route("* /*all", low), limited}, "/limited", "/Limited"},
		{"cost", []*proxyRoute{limited, costly, func() *proxyRoute { g := *limited; g.Path = "/limited/*rest"; return &g }()}, "/limited/costly", "/limited/Costly"},
		{"methods", []*proxyRoute{route("* /*all", low), route("GET /a", low), route("POST /b", low)}, "/a /x", "/A /B"},
		{"upstream", []*proxyRoute{route("* /*all", low), elsewhere}, "/elsewhere", "/Elsewhere"},
		{"the same rules", []*proxyRoute{route("* /*all", low), route("* /a", low)}, "/a /A /A;x", ""},
		{"a value", []*proxyRoute{route("* /:name/x", low), route("* /:name/y", high)}, "/A/x /A;b/x /a./y", "/a/X /a/x."},
		{"a literal among values", []*proxyRoute{route("* /r/:id", low), route("* /r/export", high)}, "/r/ABC /r/export", "/r/Export /r/EXPORT/"},
		{"to no route", []*proxyRoute{route("* /r/:id", low)}, "/r/A /r/a;", "/r/; /r/\u2025 /r/..."},
		{"crossing", []*proxyRoute{route("GET /a/:x/b", low), route("POST /a/c/:y", high)}, "/a/c/b /a/D/b", "/a/C/b"},
		{"an endpoint of Latchkey", []*proxyRoute{route("* /*all", low)}, "/healthz/x /api/v1/x", "/Healthz /API/v1/calls /api/v1/Calls/7"},
		{"case_sensitive of the narrow route", []*proxyRoute{route("* /*all", low), route("* /a/*rest", high, true), route("* /b", high)}, "/a /A /A/x /a/X /a/x.y", "/B /a;x /a/..;/x /\uff41/x"},
		{"case_sensitive of the wide route", []*proxyRoute{route("* /*all", low, true), route("* /a/*rest", high)}, "/a /A /A/x /Healthz", "/a;x /a./x /\uff41"},
		{"alike, but for case", []*proxyRoute{route("* /a", low, true), route("* /A", high)}, "/a /A", ""},
	} {
		table, err := newRouteTable(tt.routes, ownRoutes)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for want, paths := range map[bool]string{true: tt.passes, false: tt.fails} {
			for path := range strings.FieldsSeq(paths) {
				g, _ := table.Match("GET", path)
				if g == nil {
					if want {
						t.Errorf("%s: %q: no route", tt.name, path)
					}
					continue // refused anyway
				}
				if err := table.refuse("GET", path, g); (err == nil) != want {
					t.Errorf("%s: %q: got %v, want it to pass: %v", tt.name, path, err, want)
				}
			}
		}
	}
	table, err := newRouteTable([]*proxyRoute{route("* /*all", low), route("* /admin/:id", high)}, ownRoutes)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		const sent = "/admin/some-id_7/a-name-with-more-letters-than-fit-on-a-stack.html"
		path, _ := readPath(sent)
		if g, _ := table.Match("GET", path); table.refuse("GET", path, g) != nil || table.refuseWritten("GET", sent, path, g) != nil {
			t.Fatal("refused")
		}
	}); n > 0 {
		t.Errorf("got %v allocations for a plain path, want none", n)
	}
}

// What a program that compares paths as they are written would take for one of a wider route is
// refused, unless the rules of the narrow one cover those of the wide one.
func TestRouteTable_Written(t *testing.T) {
	const high, low = Permission(2), Permission(1)
	route := func(line string, need Permission, change ...func(*proxyRoute)) *proxyRoute {
		g := guards(line)[0]
		g.Permission = need
		for _, f := range change {
			f(g)
		}
		return g
	}
	rest := route("* /*rest", high)
	for _, tt := range []struct {
		name   string
		routes []*proxyRoute
		passes string // paths for GET with blanks between them
		fails  string
	}{
		{"escapes", []*proxyRoute{rest, route("* /open", low), route("* /open/:id", low)}, "/open /open/%41 /open/%C3%A9 /%41 /%c3%a9/x /open/%c3%a9", "/op%65n /%6Fpen/x /%6fpen/%41"},
		{"values beside a literal", []*proxyRoute{route("* /u/me", low), route("* /u/:id", high)}, "/u/me /u/%41", "/u/m%65 /u/%6d%65"},
		{"to no route", []*proxyRoute{route("* /open", low), route("* /u/:id", low)}, "/open /open/ /u/%41 /u/x/", "/op%65n /%75/x"},
		{"needed escapes", []*proxyRoute{rest, route("* /caf\u00e9/:x", low)}, "/caf%C3%A9/x /caf%C3%A9/%C3%A9 /caf%C3%A9/a%20b", "/caf%c3%a9/x /caf\u00e9/x /caf%C3%A9/%61 /caf%C3%A9/a!b"},
		{"slash", []*proxyRoute{rest, route("* /open", low), route("* /u/:id", low), route("* /files/*rest", low)}, "/open /u/x /files/ /files/x/ /files /x/", "/open/ /u/x/"},
		{"slash of the pattern", []*proxyRoute{rest, route("* /open/", low), route("* /u/:id/", low)}, "/open/ /u/x/", "/open /u/x"},
		{"slash between two", []*proxyRoute{route("* /u/*rest", high), route("* /u", low)}, "/u /u/x", "/u/"},
		{"slash and escapes", []*proxyRoute{rest, route("* /u/*rest", low), route("* /u/:id", low)}, "/u/%41/ /u/x/", "/%75/x/"},
		{"a wide route for any key", []*proxyRoute{route("* /*rest", 0), route("* /open", low), route("* /caf\u00e9", low)}, "/open/ /op%65n /caf%c3%a9/", ""},
		{"a permission of several", []*proxyRoute{route("* /*rest", high|low), route("* /a", low), route("* /b", 0)}, "/a/ /%61", "/b/ /%62"},
		{"another method", []*proxyRoute{route("POST /*rest", low), route("* /open", low)}, "/open", "/open/ /op%65n"},
		{"without what strip_prefix removes", []*proxyRoute{rest, route("* /v1/open", low, func(g *proxyRoute) { g.StripPrefix = "/v1" })}, "/%761/open /v1/open", "/v1/op%65n /v1/open/"},
		{"limits", []*proxyRoute{
			route("* /*rest", low, func(g *proxyRoute) { g.Limits, g.Cost = []string{"l"}, 2 }), route("* /a", low, func(g *proxyRoute) { g.Limits, g.Cost = []string{"k", "l"}, 2 }),
			route("* /b", low, func(g *proxyRoute) { g.Limits, g.Cost = []string{"l"}, 1 }), route("* /c", low),
		}, "/a/", "/b/ /c/"},
		{"bodies", []*proxyRoute{
			route("* /*rest", low, func(g *proxyRoute) { g.MaxBody = 5 }), route("* /a", low, func(g *proxyRoute) { g.MaxBody = 5 }), route("* /b", low, func(g *proxyRoute) { g.MaxBody = 6 }), route("* /c", low),
		}, "/a/", "/b/ /c/"},
		{"WebSockets", []*proxyRoute{route("* /*rest", low), route("* /a", low, func(g *proxyRoute) { g.WebSocket = true })}, "/a", "/a/"},
		{"sandbox keys", []*proxyRoute{route("* /*rest", low), route("* /a", low, func(g *proxyRoute) { g.Sandbox = true })}, "/a", "/a/ /%61"},
		{"a route across", []*proxyRoute{route("GET /a/:x/b", low), route("POST /a/c/:y", high)}, "/a/c/b /a/%64/b /a/c/b/ /a/%63/b", "/%61/c/b"},
	} {
		table, err := newRouteTable(tt.routes, ownRoutes)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for want, paths := range map[bool]string{true: tt.passes, false: tt.fails} {
			for raw := range strings.FieldsSeq(paths) {
				path, err := readPath(raw)
				if err != nil {
					t.Fatal(err)
				}
				g, _ := table.Match("GET", path)
				if g == nil {
					t.Errorf("%s: %q: no route", tt.name, raw)
					continue
				}
				if err := table.refuseWritten("GET", raw, path, g); (err == nil) != want {
					t.Errorf("%s: %q: got %v, want it to pass: %v", tt.name, raw, err, want)
				}
			}
		}
	}
}

// A program that ignores case, and takes a wide slash for a letter, finds as many segments as were
// sent.
func TestCanonicalForms(t *testing.T) {
	for path, want := range map[string][]string{
		"/A/b":                 {"/a/b"},
		"/A/b/":                {"/a/b"},
		"/A?x/b":               {"/a", "/a?x/b"},
		"/A/x\uff0fy/b":        {"/a/x/y/b", "/a/%/b"},
		"/A/.../b":             {"/a/b", "/a/%/b"},
		"/A/x\uff0f\u2025/b?c": {"/a/b", "/a/b?c", "/a/%/b", "/a/%/b?c"},
	} {
		if got := canonicalForms(path, foldCase); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

// Every field of a route is compared, or is named here as one that makes no difference to what a key
// may do.
func TestDiffer_EveryField(t *testing.T) {
	exempt := []string{"Index", "Path", "Timeout", "CaseSensitive"}
	covered := append([]string{"Methods", "Upstream", "StripPrefix"}, exempt...) // who may do what does not follow from these
	for f := range reflect.TypeFor[proxyRoute]().Fields() {
		one, other := proxyRoute{Limits: []string{"a"}, Cost: 1}, proxyRoute{Limits: []string{"a"}, Cost: 1}
		switch field := reflect.ValueOf(&other).Elem().FieldByIndex(f.Index); field.Addr().Interface().(type) {
		case *string:
			field.SetString("/x")
		case *bool:
			field.SetBool(true)
		case *[]string:
			field.Set(reflect.ValueOf([]string{"GET"}))
		case **url.URL:
			field.Set(reflect.ValueOf(&url.URL{Host: "x"}))
		case *Permission:
			field.SetUint(1)
		default:
			field.SetInt(7)
		}
		if got, want := differ(&one, &other) && differ(&other, &one), !slices.Contains(exempt, f.Name); got != want {
			t.Errorf("%s: got %v, want %v", f.Name, got, want)
		}
		if got, want := one.covers(&other) && other.covers(&one), slices.Contains(covered, f.Name); got != want {
			t.Errorf("%s: each covers the other: got %v, want %v", f.Name, got, want)
		}
	}
}

// TestReadProxyRoutes reads upstreams that are URLs, and one that is not.
func TestReadProxyRoutes(t *testing.T) {
	p := defaultConfig().Rights()
	for upstream, want := range map[string]string{"": "", "http://127.0.0.1:3000": "http://127.0.0.1:3000", "http://127.0.0.1:3000/": "http://127.0.0.1:3000", "https://[::1]/a": "https://[::1]/a"} {
		list, problems := ReadProxyRoutes([]RouteRow{{Path: "/a", Upstream: upstream}}, p)
		if len(problems) > 0 || len(list) != 1 || (want == "") != (list[0].Upstream == nil) || want != "" && list[0].Upstream.String() != want {
			t.Errorf("%q: got %+v, %q", upstream, list, problems)
		}
	}
	if _, problems := ReadProxyRoutes([]RouteRow{{Path: "/a", Upstream: "http://[::1"}}, p); len(problems) != 1 || !strings.Contains(problems[0], "upstream is not a valid URL") {
		t.Errorf("got %q", problems)
	}
}

func TestFindOverlaps(t *testing.T) {
	c := Config{Routes: []RouteRow{
		{Path: "/*rest"}, {Path: "/admin/*rest", Permission: []string{"can_read_calls"}}, {Path: "/same"}, {Path: "/b/:id", Permission: []string{"can_read_calls"}, CaseSensitive: true},
		{Path: "/b/new", Permission: []string{"can_read_agents"}}, {Path: "/c/:any/deep", Methods: []string{"GET"}}, {Path: "/c/:two/:three", Methods: []string{"POST"}},
	}}
	c.Contract.Enabled = true
	var got []string
	for _, o := range FindOverlaps(c.Routes, c.Rights()) {
		got = append(got, o.String())
	}
	want := []string{
		"route 2 (* /admin/*rest) and route 1 (* /*rest): other spellings are refused",
		"route 4 (* /b/:id) and route 1 (* /*rest): other spellings are refused, but not those that differ only by case (case_sensitive)",
		"route 5 (* /b/new) and route 1 (* /*rest): other spellings are refused",
		"route 5 (* /b/new) and route 4 (* /b/:id): other spellings are refused, but not those that differ only by case (case_sensitive)",
		"route 6 (GET /c/:any/deep) and route 1 (* /*rest): other spellings are refused",
		"route 6 (GET /c/:any/deep) and route 7 (POST /c/:two/:three): other spellings are refused",
		"route 7 (POST /c/:two/:three) and route 1 (* /*rest): other spellings are refused",
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("got %q, want %q in it", got, line)
		}
	}
	if extra := slices.DeleteFunc(got, func(line string) bool { return slices.Contains(want, line) }); len(extra) > 0 {
		t.Errorf("got also %q", extra)
	}
}

// protected are the first segments of the paths that only a key with can_read_calls may ask for.
var protected = []string{"admin", "keys", "caf\u00e9"}

// spellings returns targets that some programs read as a path below /word. Some are /word itself.
func spellings(word string) (list []string) {
	add := func(changed ...string) {
		for _, w := range changed {
			list = append(list, "/"+w+"/x", "/"+w)
		}
	}
	esc := func(s string) string {
		out := ""
		for _, b := range []byte(s) {
			out += fmt.Sprintf("%%%02x", b)
		}
		return out
	}
	raw := url.PathEscape(word)
	add(raw, word, url.PathEscape(strings.ToUpper(word)), url.PathEscape(norm.NFD.String(word)), url.PathEscape(norm.NFD.String(strings.ToUpper(word))), strings.ToUpper(word))
	for i, c := range word {
		before, after := url.PathEscape(word[:i]), url.PathEscape(word[i+len(string(c)):])
		for _, one := range []string{strings.ToUpper(string(c)), string(unicode.SimpleFold(c)), string(c + 0xfee0), string(c - 32 + 0xfee0)} {
			add(before+esc(one)+after, before+strings.ReplaceAll(esc(one), "%", "%25")+after)
		}
		add(before+strings.ReplaceAll(esc(string(c)), "%", "%25")+after, before+strings.ReplaceAll(strings.ToUpper(esc(string(c))), "%", "%25%32%35")+after)
		add(fmt.Sprintf("%s%%25u%04x%s", before, c, after), before+"%E2%80%8B"+esc(string(c))+after)
		switch c {
		case 'i':
			add(before+esc("\u0131")+after, before+esc("\u0130")+after, before+esc("i\u0307")+after)
		case 'k':
			add(before + esc("\u212a") + after)
		case 's':
			add(before + esc("\u017f") + after)
		}
	}
	for _, end := range []string{"%3B", "%3Bx", "%3b.x", ".", "..", "...", ".%20", "%20", "%20.", "%20%20", "%C2%A0", "%E3%80%80", "%2520", "%252E", "%3F", "%3Fx", "%23", "::$DATA", ":$I30:$INDEX_ALLOCATION", "%E2%80%8D", ";x", "%00", "%09"} {
		add(raw+end, strings.ToUpper(word[:1])+url.PathEscape(word[1:])+end)
	}
	add("%20"+raw, "%3Bx/"+raw, "x/%E2%80%A5/"+raw, ".../"+raw, "%EF%BC%8E/"+raw, "x/%EF%BC%8E%EF%BC%8E/"+raw, "%EF%BC%8F"+raw)
	return list
}

// tellsSecret is an upstream that answers "secret" to what it reads as one of the protected paths.
func tellsSecret(read func(target string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		target, _, _ := strings.Cut(r.RequestURI, "?")
		first, _, _ := strings.Cut(strings.TrimLeft(read(target), "/"), "/")
		if slices.Contains(protected, first) {
			_, _ = io.WriteString(w, "secret")
		} else {
			_, _ = io.WriteString(w, "open")
		}
	}
}

// likeExpress ignores case and unescapes twice.
func likeExpress(target string) string {
	once := readings["unescapes once more"](target)
	return norm.NFC.String(strings.ToLower(strings.ToUpper(readings["unescapes once more"](once))))
}

// likeFlask unescapes once, cuts segments at semicolons, drops what Windows drops at their ends, and
// reads wide letters.
func likeFlask(target string) string {
	p := norm.NFKC.String(readings["unescapes once more"](target))
	p = eachPart(func(s string) string {
		s, _, _ = strings.Cut(s, ";")
		s, _, _ = strings.Cut(s, ":$")
		return strings.TrimRight(s, ": .\u00a0\u3000")
	})(p)
	return strings.ToLower(strings.TrimRight(p, "/"))
}

// behindNginx starts an nginx that unescapes the path of each request, escapes it anew and sends it to
// the server at address. It returns the URL of nginx.
func behindNginx(t *testing.T, address string) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program = "/usr/sbin/nginx"; os.Getenv("CI") != "" {
			t.Fatal("there is no nginx")
		} else if _, err := os.Stat(program); err != nil {
			t.Skip("there is no nginx")
		}
	}
	dir := t.TempDir()
	for range 3 { // another program may take the port in between
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listen := l.Addr().String()
		_ = l.Close()
		conf := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(conf, []byte(`daemon off; master_process off; pid `+dir+`/pid; error_log `+dir+`/error.log;
events {}
http {
  access_log off; client_body_temp_path `+dir+`/b; proxy_temp_path `+dir+`/p; fastcgi_temp_path `+dir+`/f; uwsgi_temp_path `+dir+`/u; scgi_temp_path `+dir+`/s;
  server { listen `+listen+`; location / { proxy_pass http://`+address+`/; } }
}
`), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-p", dir, "-c", conf, "-e", dir+"/error.log")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
			if c, err := net.Dial("tcp", listen); err == nil {
				_ = c.Close()
				return "http://" + listen
			}
			select {
			case <-ended:
				deadline = time.Time{}
			default:
			}
		}
	}
	text, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	t.Fatalf("nginx does not listen: %s", text)
	return ""
}

// TestGuards_Variants asks for protected paths in all spellings, with a key that may ask for all
// other paths: upstreams that read paths each in their way never serve one, and neither is one
// allowed at /authz or by explain.
func TestGuards_Variants(t *testing.T) {
	for name, read := range map[string]func(string) string{"express": likeExpress, "flask": likeFlask, "nginx": likeFlask, "ours": func(p string) string { return canonicalPath(readings["unescapes once more"](p), foldCase) }} {
		t.Run(name, func(t *testing.T) {
			var up string
			g := newGuarded(t, tellsSecret(read), func(c *Config, url string) {
				if up = url; name == "nginx" {
					up = behindNginx(t, strings.TrimPrefix(url, "http://"))
				}
				c.Routes = append(c.Routes, RouteRow{Path: "/*rest", Permission: []string{"can_use"}, Upstream: up, Timeout: time.Minute})
				for _, word := range protected {
					c.Routes = append(c.Routes, RouteRow{Path: "/" + word + "/*rest", Permission: []string{"can_read_calls"}, Upstream: up, Timeout: time.Minute})
				}
			})
			id, _ := g.testApp.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 100000}`)
			secrets, open := 0, 0
			for _, word := range protected {
				for _, target := range spellings(word) {
					direct := body(t, strings.TrimPrefix(up, "http://"), "GET "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
					if direct == "secret" {
						secrets++
					}
					for _, method := range []string{"GET", "POST"} {
						got := body(t, g.door.Listener.Addr().String(), method+" "+target+" HTTP/1.1\r\nHost: x\r\nX-API-Key: "+g.key+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
						switch got {
						case "secret":
							t.Errorf("%s %s: served by %s", method, target, name)
						case "open":
							open++
						}
					}
					if direct != "secret" {
						continue
					}
					for _, family := range families {
						u, err := url.ParseRequestURI(target)
						if err != nil {
							continue // no proxy could ask for it
						}
						r := httptest.NewRequest("GET", "/", nil)
						r.RemoteAddr, r.Header["X-Api-Key"] = "127.0.0.1:1234", []string{g.key}
						switch r.URL.Path = "/authz/" + family; family {
						case "nginx":
							r.Header["X-Original-Method"], r.Header["X-Original-Uri"] = []string{"GET"}, []string{target}
						case "forward":
							r.Header["X-Forwarded-Method"], r.Header["X-Forwarded-Uri"] = []string{"GET"}, []string{target}
						default:
							r.URL.Path, r.URL.RawPath = "/authz/envoy"+u.Path, "/authz/envoy"+sentPath(u)
						}
						w := httptest.NewRecorder()
						if g.api.ServeHTTP(w, r); w.Code == 200 {
							t.Errorf("%s: allowed for %s, which %s serves", target, family, name)
						}
					}
					text, _ := json.Marshal(target)
					w := g.control("POST", "/admin/v1/keys/"+id+"/explain", `{"method": "GET", "path": `+string(text)+`}`)
					var got struct{ Allowed bool }
					if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Allowed || w.Code != 200 && w.Code != 400 {
						t.Errorf("%s: got %d %s, want explain to refuse it", target, w.Code, w.Body)
					}
				}
			}
			if secrets < 20 || open == 0 {
				t.Errorf("the upstream serves %d spellings when it is asked directly, and %d others through a route; want 20 and some", secrets, open)
			}
			if got := body(t, g.door.Listener.Addr().String(), "GET /Other/%C4%B0.;/..x HTTP/1.1\r\nHost: x\r\nX-API-Key: "+g.key+"\r\nConnection: close\r\n\r\n"); got == "open" {
				t.Errorf("an unescaped semicolon passes: %s", got)
			}
			if got := body(t, g.door.Listener.Addr().String(), "GET /Other/%C4%B0.%3B/K HTTP/1.1\r\nHost: x\r\nX-API-Key: "+g.key+"\r\nConnection: close\r\n\r\n"); got != "open" {
				t.Errorf("a value in capitals: got %s, want it served", got)
			}
		})
	}
}

// body sends a request on a connection of its own and returns the body of the answer.
func body(t *testing.T, address, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(bufio.NewReader(c))
	if err != nil && !bytes.HasPrefix(all, []byte("HTTP/")) {
		t.Fatalf("%q: %v", request, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(all)), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	text, _ := io.ReadAll(res.Body)
	return string(text)
}
