package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// The table in docs/guard.md is the table of the program.
func TestFields_Docs(t *testing.T) {
	page, err := os.ReadFile("docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	becomes := map[fieldKind]string{fieldDropped: "taken out", fieldAddress: "the client's address", fieldPlace: "passed on from a declared proxy"}
	var want strings.Builder
	for _, row := range clientFields {
		_, _ = fmt.Fprintf(&want, "| %s | %s | `%s` |\n", row.about, becomes[row.kind], strings.Join(strings.Fields(row.names), "`, `"))
	}
	_, after, _ := strings.Cut(string(page), "| The field says | It becomes | Names |\n|---|---|---|\n")
	got, _, _ := strings.Cut(after, "\n\n")
	if got+"\n" != want.String() {
		t.Errorf("the table in docs/guard.md is\n%s\nand must be\n%s", got, want.String())
	}
}

// sentFields returns a field name that matches each name of clientFields, and its kind.
func sentFields() map[string]fieldKind {
	names := map[string]fieldKind{}
	for _, row := range clientFields {
		for name := range strings.FieldsSeq(row.names) {
			names[strings.Replace(strings.Replace(name, "*-", "X9-", 1), "*", "X9", 1)] = row.kind
		}
	}
	delete(names, "X-API-Key") // a second key, which is refused before
	return names
}

// Every field of the table is what the table says, in every spelling, by both
// ways, over HTTP/1.1 and HTTP/2, in the header and in a trailer, from a declared
// proxy and from anybody else.
func TestFields_Walk(t *testing.T) {
	for _, declared := range [][]string{nil, {"127.0.0.1"}} {
		seen := make(chan http.Header, 2)
		g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			seen <- r.Header
			seen <- r.Trailer
		}, func(c *Config, _ string) { c.Server.TrustedProxies = declared })
		plain := &http.Client{Transport: &http.Transport{}}
		second := g.openHTTP2(t)
		for i, odd := range []string{"-", "_", "."} {
			for _, way := range []string{"direct", "other", "body 0", "body 1", "body 2", "body 3", "HTTP/2", "HTTP/2 body 0"} {
				base, client, method := g.door.URL, plain, "GET"
				if strings.HasPrefix(way, "HTTP/2") {
					base, client = second.URL, second.Client()
				}
				part := 0 // of the names that the trailer has, because net/http refuses long trailers
				if _, number, ok := strings.Cut(way, "body "); ok {
					method, part = "POST", int(number[0]-'0')
				}
				r, err := http.NewRequest(method, base+"/up/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header = http.Header{"X-Api-Key": {g.key}, "X-Kept": {"yes"}, "X-User-Agent": {"it"}}
				if declared != nil {
					r.Header["X-Forwarded-For"] = []string{"192.0.2.9"}
				}
				if way == "other" {
					r.Header["Connection"] = []string{"X-No-Such, X-Real-Ip"}
				}
				if method == "POST" {
					r.Body, r.Trailer = io.NopCloser(strings.NewReader("text")), http.Header{"X-Last": {"yes"}}
				}
				for n, name := range slices.Sorted(maps.Keys(sentFields())) {
					name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "-", odd))
					r.Header[name] = []string{"forged"}
					if method == "POST" && n%4 == part {
						r.Trailer[name] = []string{"forged"}
					}
				}
				res, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				if _ = res.Body.Close(); res.StatusCode != 200 {
					t.Fatalf("%s: got %d", way, res.StatusCode)
				}
				header, trailer := <-seen, <-seen
				for name, kind := range sentFields() {
					name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "-", odd))
					want := ""
					hyphens := i == 0 || !strings.Contains(strings.ReplaceAll(name, odd, "-"), "-")
					switch {
					case declared == nil || !hyphens:
					case kind == fieldAddress && !(way == "other" && name == "X-Real-Ip"):
						want = "192.0.2.9"
					case kind == fieldPlace:
						want = "forged"
					}
					if got := header.Get(name); got != want && !(got != "forged" && (strings.HasPrefix(name, "X-Auth-") || name == "X-Request-Id")) {
						t.Errorf("%s, declared %v: %s is %q, want %q", way, declared, name, header[name], want)
					}
					if len(header[name]) > 1 || trailer[name] != nil {
						t.Errorf("%s: %s is %q and %q in the trailer", way, name, header[name], trailer[name])
					}
				}
				if header.Get("X-Kept") != "yes" || header.Get("X-User-Agent") != "it" || method == "POST" && trailer.Get("X-Last") != "yes" {
					t.Errorf("%s: got %v and %v, without a field that passes", way, header, trailer)
				}
			}
		}
	}
}

// recorder is a listener that keeps all bytes that its connections receive.
type recorder struct {
	net.Listener
	mu  sync.Mutex
	got bytes.Buffer
}

type recordedConn struct {
	net.Conn
	to *recorder
}

func (r *recorder) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	return recordedConn{c, r}, err
}

func (c recordedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	c.to.got.Write(b[:n])
	return n, err
}

// take returns the bytes that were received since the last call.
func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.got.Reset()
	return r.got.String()
}

// secretForms are ways to write a secret.
var secretForms = map[string]func(string) string{
	"plain":         func(s string) string { return s },
	"in a text":     func(s string) string { return "x" + s + ".y" },
	"escaped":       func(s string) string { return strings.Replace(url.QueryEscape(s), "_", "%5F", 1) },
	"escaped twice": func(s string) string { return strings.Replace(s, "_", "%255f", 1) },
	"all escaped":   func(s string) string { return strings.ToUpper(fmt.Sprintf("%%%x", s[:1])) + s[1:] },
	"as user":       func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s + ":")) },
	"as password":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte("me:" + s)) },
	"for URLs":      func(s string) string { return "a-" + base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe>"+s+"?")) },
}

// secretPlaces lists the places of a request that can contain a secret, written as <s>.
var secretPlaces = []string{
	"Authorization: <s>", "Authorization: Token <s>", "Authorization: Bearer\t<s>", "Authorization: Basic <s>", "Authorization: Digest username=\"<s>\"",
	"Proxy-Authorization: Basic <s>", "Cookie: kept=1; a=<s>; b=2", "Referer: https://example.com/?key=<s>", "X-Custom: <s>", "X_Api_Key: <s>", "X-Forwarded-Host: <s>",
	"X-Forwarded-For: <s>", "Sec-WebSocket-Protocol: key, <s>", "Connection: close, <s>", "Trailer X-Last: <s>", "Trailer Authorization: <s>", "?t=<s>&kept=1", "?kept=1&<s>=1", "/<s>",
}

// A key or an admin token never reaches an upstream, wherever a client puts it and however it is
// written. The other parts of the same field do.
func TestProxy_NoSecretArrives(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{Listener: l}
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	_ = up.Listener.Close()
	up.Listener = rec
	up.Start()
	t.Cleanup(up.Close)
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Server.TrustedProxies = []string{"127.0.0.1"}
		c.Routes = append(c.Routes, RouteRow{Path: "/rec/*rest", Upstream: up.URL, Timeout: time.Minute})
	})
	second := g.openHTTP2(t)
	dial := func(over2 bool) http.RoundTripper {
		if over2 {
			return second.Client().Transport
		}
		return &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	}
	for what, secret := range map[string]string{"the key": g.key, "another key": keytext.NewSecret("klen_"), "an admin token": keytext.NewSecret(TokenPrefix)} {
		for form, write := range secretForms {
			for _, place := range secretPlaces {
				for _, way := range []string{"direct", "other", "body", "HTTP/2"} {
					written := write(secret)
					at := strings.ReplaceAll(place, "<s>", written)
					target := "/rec/x?kept=1"
					switch place[0] {
					case '?':
						target = "/rec/x" + at
					case '/':
						target = "/rec" + at + "?kept=1"
					}
					base := g.door.URL
					if way == "HTTP/2" {
						base = second.URL
					}
					r, err := http.NewRequest("GET", base+target, nil)
					if err != nil {
						continue // nobody can write this path
					}
					r.Header = http.Header{"X-Api-Key": {g.key}, "X-Kept": {"yes"}}
					if name, value, ok := strings.Cut(at, ": "); ok && place[0] != '?' && place[0] != '/' {
						if name, trailer := strings.CutPrefix(name, "Trailer "); trailer {
							if way != "body" {
								continue
							}
							r.Trailer = http.Header{name: {value}, "X-Ends": {"yes"}}
						} else if way == "HTTP/2" && name == "Connection" {
							continue
						} else {
							r.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
						}
					}
					switch way {
					case "other":
						r.Header["Connection"] = append(r.Header["Connection"], "X-No-Such")
					case "body":
						r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("text"))
					}
					rec.take()
					res, err := dial(way == "HTTP/2").RoundTrip(r)
					if err != nil {
						t.Fatalf("%s %s at %s, %s: %v", what, form, place, way, err)
					}
					_ = res.Body.Close()
					got := rec.take()
					if strings.Contains(got, secret) || strings.Contains(got, written) || strings.Contains(strings.ToLower(got), strings.ToLower(secret)) {
						t.Errorf("%s %s at %s, %s: the upstream got %q", what, form, place, way, got)
					}
					refused := place[0] == '/' && res.StatusCode == 400 && got == "" && res.Header.Get("Vary") != ""
					if !refused && (res.StatusCode != 200 || !strings.Contains(got, "X-Kept: yes") || !strings.Contains(got, "kept=1")) {
						t.Errorf("%s %s at %s, %s: got %d, the upstream %q", what, form, place, way, res.StatusCode, got)
					}
					if strings.HasPrefix(place, "Cookie") && !strings.Contains(got, "Cookie: kept=1; b=2\r\n") {
						t.Errorf("%s %s, %s: other cookies are lost in %q", what, form, way, got)
					}
				}
			}
		}
	}
}

// So it is for the host, and for the name of a field.
func TestProxy_NoSecretInNames(t *testing.T) {
	seen := make(chan *http.Request, 1)
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { seen <- r }, nil)
	if line := g.raw(t, "GET /up/x HTTP/1.1\r\nHost: <key>.example\r\nX-API-Key: <key>\r\n\r\n"); !strings.HasPrefix(line, "HTTP/1.1 400 ") {
		t.Errorf("a key in the host: got %s", line)
	}
	for _, name := range []string{g.key, "X-" + g.key, keytext.NewSecret("klen_"), keytext.NewSecret(TokenPrefix)} {
		for _, request := range []string{"GET /up/x HTTP/1.1\r\n" + name + ": 1\r\n\r\n", "POST /up/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: " + name + "\r\n\r\n0\r\n" + name + ": 1\r\n\r\n"} {
			if line := g.raw(t, strings.Replace(request, "1.1\r\n", "1.1\r\nHost: x\r\nX-API-Key: <key>\r\n", 1)); line != "HTTP/1.1 200 OK" {
				t.Fatalf("got %s", line)
			}
			r := <-seen
			for got := range r.Header {
				if strings.Contains(strings.ToLower(got), strings.ToLower(name)) {
					t.Errorf("the upstream got the field %s", got)
				}
			}
			if len(r.Trailer) > 0 {
				t.Errorf("the upstream got the trailer %v", r.Trailer)
			}
		}
	}
}

// The address in the answer of /authz contains no secret either.
func TestAuthz_NoSecretInAddress(t *testing.T) {
	a := newAuthz(t)
	_, key := a.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 100000}`)
	for what, secret := range map[string]string{"the key": key, "another key": keytext.NewSecret("klen_"), "an admin token": keytext.NewSecret(TokenPrefix)} {
		for form, write := range secretForms {
			for _, family := range families {
				written := write(secret)
				for address, want := range map[string]int{"/up/x?t=" + written + "&kept=1": 200, "/up/x?kept=1&" + written: 200, "/up/" + written + "?kept=1": 400} {
					w := a.put(proxyQuestion{family: family, method: "GET", address: address, fields: []string{"X-Api-Key: " + key}})
					if status, _ := refusalTo(t, family, w); status != want && status != 400 || want == 200 && w.Header().Get("X-Auth-Uri") != "/up/x?kept=1" {
						t.Errorf("%s %s to %s at %s: got %d, X-Auth-Uri %q", what, form, family, address, status, w.Header().Get("X-Auth-Uri"))
					}
				}
			}
		}
	}
}

// The cookies of the dashboard, which a browser sends to every port of its host,
// stay here.
func TestProxy_NoDashboardCookie(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintf(w, "%q", r.Header["Cookie"]) }, nil)
	for sent, want := range map[string]string{
		"latchkey_session=abc":                                         "[]",
		"a=1; latchkey_session=abc; b=2":                               `["a=1; b=2"]`,
		"__Host-latchkey_session=abc;a=1":                              `["a=1"]`,
		"mylatchkey_x=1; a=latchkey_session":                           `["mylatchkey_x=1; a=latchkey_session"]`,
		"  latchkey_session=abc ; c=\"x\"":                             `["c=\"x\""]`,
		"__Secure-latchkey_any=1":                                      "[]",
		"a=1":                                                          `["a=1"]`,
		"session=" + strings.Repeat("YWJjZGVmZ2hpamtsbW5vcA", 20):      fmt.Sprintf("[%q]", "session="+strings.Repeat("YWJjZGVmZ2hpamtsbW5vcA", 20)),
		"a=%zz%4; b=" + keytext.NewSecret("other_") + "; c=klen_short": "",
	} {
		got := readText(t, g.send(t, "GET", "/up/x", nil, "Cookie: "+sent).Body)
		if want == "" {
			want = fmt.Sprintf("[%q]", sent)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", sent, got, want)
		}
	}
}
