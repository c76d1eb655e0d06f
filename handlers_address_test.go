package main

import (
	"bufio"
	"context"
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// Every usual form of an address in the two fields is read by the one parser, and
// everything else is an unknown client.
func TestClientAddr_Forms(t *testing.T) {
	proxies := Proxies{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for node, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "192.0.2.1:80": "192.0.2.1", " 192.0.2.1\t": "192.0.2.1", `"192.0.2.1:80"`: "192.0.2.1", "192.0.2.1:_x": "192.0.2.1",
		"2001:db8::1": "2001:db8::1", "[2001:db8::1]": "2001:db8::1", "[2001:db8::1]:443": "2001:db8::1", `"[2001:db8::1]:443"`: "2001:db8::1", `"[2001:db8::1]:_p.1"`: "2001:db8::1",
		"fe80::1%eth0": "fe80::1", "[fe80::1%25eth0]:80": "fe80::1", "::ffff:192.0.2.1": "192.0.2.1", "[::ffff:192.0.2.1]:9": "192.0.2.1", `"192.0.2\.1"`: "192.0.2.1",
		"unknown": "unknown", `"unknown"`: "unknown", "_hidden": "unknown", "192.0.2.1:": "unknown", "192.0.2.1:x": "unknown", "192.0.2.1:123456": "unknown", "[192.0.2.1]": "unknown",
		"[2001:db8::1": "unknown", "[2001:db8::1]80": "unknown", "[2001:db8::1]:": "unknown", "2001:db8::1]": "unknown", "192.0.2.256": "unknown", "192.0.2.01": "unknown",
		"1.2.3": "unknown", "example.com": "unknown", `"192.0.2.1`: "unknown", "192.0.2.1;": "unknown", "10": "unknown",
	} {
		for _, field := range []string{"X-Forwarded-For", "Forwarded"} {
			if field == "Forwarded" && strings.HasSuffix(node, ";") {
				continue // there it ends a parameter
			}
			for form, lines := range map[string][]string{
				"alone":          {node},
				"behind another": {"6.6.6.6, " + node},
				"before a proxy": {node + ",10.0.0.2:80"},
				"in lines":       {"6.6.6.6", node, "10.0.0.2"},
				"empty entries":  {"", node + ", ,", ","},
			} {
				r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{}}
				for _, line := range lines {
					if field == "Forwarded" {
						entries := strings.Split(line, ",")
						for i, e := range entries {
							if strings.TrimSpace(e) != "" {
								entries[i] = "proto=http;FOR=" + strings.TrimSpace(e) + `;by="a,b;for=1.1.1.1"`
							}
						}
						line = strings.Join(entries, ",")
					}
					r.Header.Add(field, line)
				}
				got := ClientAddr(r, proxies)
				if AddrText(got) != want || (UnknownBecause(r, proxies) == "") != got.IsValid() {
					t.Errorf("%s %s, %q: got %s, want %s", field, form, r.Header[field], AddrText(got), want)
				}
			}
		}
	}
	for name, tt := range map[string]struct {
		forwarded, standard []string
		want                string
	}{
		"the same":            {[]string{"192.0.2.1, 10.0.0.2"}, []string{`for="192.0.2.1:80"`}, "192.0.2.1"},
		"different":           {[]string{"192.0.2.1"}, []string{"for=192.0.2.2"}, "unknown"},
		"one unknown":         {[]string{"192.0.2.1"}, []string{"for=unknown"}, "unknown"},
		"one empty":           {[]string{""}, []string{"for=192.0.2.1"}, "192.0.2.1"},
		"the other empty":     {[]string{"192.0.2.1"}, []string{" , "}, "192.0.2.1"},
		"no for":              {nil, []string{"proto=https"}, "unknown"},
		"two for":             {nil, []string{"for=192.0.2.1;for=192.0.2.2"}, "unknown"},
		"an open quote":       {nil, []string{`for="6.6.6.6, for=192.0.2.1`}, "192.0.2.1"},
		"an open quote, line": {nil, []string{`for="`, `for=192.0.2.1`}, "192.0.2.1"},
	} {
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": tt.forwarded, "Forwarded": tt.standard}}
		if got := AddrText(ClientAddr(r, proxies)); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

// askUnix sends a request over a unix socket. from is the path of the client's own
// end; "": none. fields are "Name: value".
func askUnix(t *testing.T, socket, from, path string, fields ...string) (status int, body string) {
	t.Helper()
	var local *net.UnixAddr
	if from != "" {
		local = &net.UnixAddr{Name: from, Net: "unix"}
	}
	c, err := net.DialUnix("unix", local, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n\r\n", path, strings.Join(fields, "\r\n"))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, readText(t, res.Body)
}

// A peer on a unix socket has no address: it is a proxy only where trusted_proxies
// says so, and for /authz by default, and its client is unknown without a field.
// Nowhere does that read as an invalid address.
func TestClientAddr_Unix(t *testing.T) {
	for _, tt := range []struct {
		declared             []string
		believed, mayAsk     bool
		plain, told, forward string // what the upstream gets in X-Forwarded-For
	}{
		{nil, false, true, "unknown", "unknown", "unknown"},
		{[]string{"10.0.0.0/8"}, false, false, "unknown", "unknown", "unknown"},
		{[]string{"unix"}, true, true, "unknown", "192.0.2.9", "192.0.2.9"},
		{[]string{"10.0.0.0/8", "unix"}, true, true, "unknown", "192.0.2.9", "192.0.2.9, 10.0.0.7"},
	} {
		g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.Header.Get("X-Forwarded-For")) }, func(c *Config, _ string) {
			c.Server.TrustedProxies, c.Log.Access = tt.declared, true
		})
		dir := t.TempDir()
		t.Chdir(dir) // the path of a socket is short, and may look like an address
		l, err := net.Listen("unix", "api.sock")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: g.api}
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
		id, held := g.testApp.key(`["can_use"]`, `"allowed_ips": ["0.0.0.0/0", "::/0"]`)
		for _, ask := range []struct {
			from, field, want string
		}{
			{"", "X-A: b", tt.plain}, {"", "X-Forwarded-For: 192.0.2.9", tt.told}, {"", "Forwarded: for=192.0.2.9", tt.told}, {"", "X-Forwarded-For: 192.0.2.9, 10.0.0.7", tt.forward},
			{"", "X-Forwarded-For: unknown", "unknown"}, {"", "X-Forwarded-For: 192.0.2.9, _x", "unknown"}, {"192.0.2.1:80", "X-A: b", "unknown"}, {"10.0.0.1:80", "X-A: b", "unknown"},
		} {
			if len(tt.declared) == 1 && tt.believed && ask.want == tt.forward {
				ask.want = strings.TrimSuffix(ask.want, ", 10.0.0.7")
			}
			if strings.Contains(ask.field, "10.0.0.7") && len(tt.declared) == 1 && tt.believed {
				ask.want = "10.0.0.7" // not declared, so it is the client
			}
			status, body := askUnix(t, "api.sock", ask.from, "/up/x", ask.field, "X-API-Key: "+g.key)
			if status != 200 || body != ask.want {
				t.Errorf("declared %v, %s from %q: got %d, X-Forwarded-For %q, want %q", tt.declared, ask.field, ask.from, status, body, ask.want)
			}
			status, body = askUnix(t, "api.sock", strings.Replace(ask.from, ":80", ":81", 1), "/up/x", ask.field, "X-API-Key: "+held)
			if known := ask.want != "unknown"; known != (status == 200) || !known && (status != 403 || !strings.Contains(body, "the address of the client is unknown: ")) {
				t.Errorf("declared %v, %s from %q: a key with allowed_ips got %d %s", tt.declared, ask.field, ask.from, status, body)
			}
		}
		status, body := askUnix(t, "api.sock", "", "/authz/forward", "X-Forwarded-Method: GET", "X-Forwarded-Uri: /up/x", "X-Forwarded-For: 192.0.2.9", "X-API-Key: "+held)
		if want := map[bool]int{true: 200, false: 403}[tt.mayAsk]; status != want || !tt.mayAsk && !strings.Contains(body, `does not contain \"unix\"`) {
			t.Errorf("declared %v: /authz got %d %s, want %d", tt.declared, status, body, want)
		}
		for range wrongKeys { // those with an unknown address are counted together
			_, _ = askUnix(t, "api.sock", "", "/up/x", "X-API-Key: wrong")
		}
		if status, _ := askUnix(t, "api.sock", "", "/up/x", "X-API-Key: wrong"); status != 429 {
			t.Errorf("wrong keys without an address are not counted: got %d", status)
		}
		if status, _ := askUnix(t, "api.sock", "", "/up/x", "X-API-Key: "+g.key); status != 200 {
			t.Errorf("a right key is held up: got %d", status)
		}
		all := g.log.String()
		for _, path := range []string{"/admin/v1/keys", "/admin/v1/keys/" + id, "/admin/v1/refusals", "/admin/v1/audit", "/metrics", "/admin/v1/status"} {
			all += g.control("GET", path, "").Body.String()
		}
		if strings.Contains(strings.ToLower(all), "invalid ip") || !strings.Contains(all, `"client":"unknown"`) {
			t.Errorf("declared %v: an address reads wrongly in\n%.3000s", tt.declared, all)
		}
	}
}

// Every text that contains an address is made by AddrText, because the zero Addr
// would read "invalid IP" by its own method.
func TestAddrText_Everywhere(t *testing.T) {
	fset := token.NewFileSet()
	var files []*ast.File
	for _, f := range sources(t, fset, "*.go") {
		if !strings.HasPrefix(f.name, "system_") {
			files = append(files, f.File)
		}
	}
	info := types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: onlyNetip{importer.ForCompiler(fset, "source", nil)}, Error: func(error) {}} // other packages stay unresolved
	pkg, _ := conf.Check("main", fset, files, &info)
	isAddr := func(e ast.Expr) bool {
		return info.Types[e].Type != nil && info.Types[e].Type.String() == "net/netip.Addr"
	}
	found := 0
	fault := func(at token.Pos) { t.Errorf("%s: use AddrText or AddrOrNone for an address", fset.Position(at)) }
	for _, file := range files {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && (f.Name.Name == "AddrText" || f.Name.Name == "readHost") { // readHost has just parsed its address
				found++
				continue
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if isAddr(n.X) && (n.Sel.Name == "String" || n.Sel.Name == "StringExpanded" || strings.HasPrefix(n.Sel.Name, "Marshal")) {
						fault(n.Pos())
					}
				case *ast.CallExpr:
					takes, _ := info.Types[n.Fun].Type.(*types.Signature)
					for i, arg := range n.Args {
						if !isAddr(arg) {
							continue
						}
						found++
						if takes == nil || i >= takes.Params().Len() || !isNetip(takes.Params().At(i).Type()) {
							called, _ := n.Fun.(*ast.SelectorExpr)
							if id, ok := n.Fun.(*ast.Ident); !(ok && id.Name == "append" || called != nil && called.Sel.Name == "SafeAddr") {
								fault(arg.Pos())
							}
						}
					}
				case *ast.CompositeLit:
					m, ok := info.Types[n].Type.(*types.Map)
					for _, e := range n.Elts {
						if kv, pair := e.(*ast.KeyValueExpr); pair && ok && isAddr(kv.Value) && !isNetip(m.Elem()) {
							fault(kv.Pos())
						}
					}
				}
				return true
			})
		}
	}
	if pkg == nil || found < 20 {
		t.Errorf("found %d addresses, so this looked at nothing", found)
	}
}

func isNetip(t types.Type) bool { return strings.HasPrefix(t.String(), "net/netip.") }

// onlyNetip imports net/netip alone.
type onlyNetip struct{ types.Importer }

func (o onlyNetip) Import(path string) (*types.Package, error) {
	if path != "net/netip" {
		return nil, fmt.Errorf("%s is not needed", path)
	}
	return o.Importer.Import(path)
}
