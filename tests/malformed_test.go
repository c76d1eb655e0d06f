package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/tests/program"
)

// wire is a server of the real program with a guarded route, to be spoken to in
// bytes.
type wire struct {
	*program.Server
	t        testing.TB
	client   *program.Client
	doors    map[string]string // host and port of api and admin
	upstream *httptest.Server
	passed   atomic.Int64 // requests that the upstream got
	id, key  string
}

// newWire starts one; more goes to serveReal.
func newWire(t testing.TB, more ...string) *wire {
	t.Helper()
	w := &wire{t: t}
	w.upstream = httptest.NewServer(http.HandlerFunc(func(a http.ResponseWriter, r *http.Request) {
		w.passed.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(a, "upstream")
	}))
	t.Cleanup(w.upstream.Close)
	dir := t.TempDir()
	config := filepath.Join(dir, "latchkey.toml")
	text := fmt.Sprintf("[[permission]]\nname = \"can_use\"\ndescription = \"Use it.\"\n\n[[route]]\npath = \"/up/*rest\"\npermission = [\"can_use\"]\nupstream = %q\n", w.upstream.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	w.Server = program.Serve(t, data, append([]string{"--config", config}, more...)...)
	w.client = program.NewClient(data)
	_, api, _ := strings.Cut(w.URL, "://")
	w.doors = map[string]string{"api": api, "admin": w.Admin}
	var made struct{ ID, Key string }
	w.operate("POST", "/admin/v1/keys", `{"name": "wire", "permissions": ["can_use","can_read_agents","can_read_contacts","can_write_contacts"], "limits": {"requests_per_minute_limit": 100000}}`, &made)
	w.id, w.key = made.ID, made.Key
	return w
}

func (w *wire) operate(method, path, body string, into any) {
	w.t.Helper()
	var v any
	if body != "" {
		v = json.RawMessage(body)
	}
	if err := w.client.Do(context.Background(), method, path, v, into); err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
}

// used is what the key has paid and how many contacts are stored.
func (w *wire) used() (units, contacts int) {
	w.t.Helper()
	var key struct {
		Usage map[string]struct{ Used int }
	}
	w.operate("GET", "/admin/v1/keys/"+w.id, "", &key)
	var list struct{ Count int }
	w.operate("GET", "/admin/v1/contacts", "", &list)
	return key.Usage["requests_per_minute_limit"].Used, list.Count
}

// said is one answer on the wire.
type said struct {
	status int
	code   string // of the error, "" for none
	header http.Header
	body   string
}

func (s said) String() string { return strings.TrimSpace(fmt.Sprint(s.status, " ", s.code)) }

// talk sends bytes on a connection of their own, then, as its last request, a
// question after /healthz. It gives all answers until the server closes.
func (w *wire) talk(door, request string, probe bool) (all []said, err error) {
	c, err := net.Dial("tcp", w.doors[door])
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	request = strings.ReplaceAll(request, "<key>", w.key)
	if probe {
		request += "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	}
	go func() {
		_, _ = io.WriteString(c, request) // may be cut off by the answer
	}()
	return readAnswers(c)
}

// readAnswers reads what a server says until it closes the connection.
func readAnswers(c io.Reader) (all []said, err error) {
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			if strings.Contains(err.Error(), "reset by peer") || err == io.ErrUnexpectedEOF || err == io.EOF {
				return all, nil
			}
			return all, err
		}
		var body bytes.Buffer
		_, err = io.Copy(&body, r.Body)
		_ = r.Body.Close()
		var e struct{ Error string }
		_ = json.Unmarshal(body.Bytes(), &e)
		all = append(all, said{r.StatusCode, e.Error, r.Header, body.String()})
		if err != nil {
			return all, nil
		}
	}
}

// malformed lists requests and the expected result of each: the answers of the API listener and of
// the admin listener, the last of them to GET /healthz if the connection stays open. For the API
// listener it also has the units that the key is charged, and the records that are stored and the
// requests that are sent to the upstream.
func malformed() []struct {
	name, request, api, admin string
	paid, stored, passed      int
} {
	const (
		get   = "GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\n"
		keyed = get + "X-API-Key: <key>\r\n"
		post  = "POST /api/v1/contacts/create HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n"
		up    = "POST /up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n"
		body  = `{"first_name":"A"}`
		chunk = "12\r\n" + body + "\r\n0\r\n\r\n"
		hide  = keyed + "\r\n"
	)
	return []struct {
		name, request, api, admin string
		paid, stored, passed      int
	}{
		{"plain", keyed + "\r\n", "200 200", "404 200", 1, 0, 0},
		{"no host", "GET /api/v1/agents HTTP/1.1\r\nX-API-Key: <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"two hosts", keyed + "Host: y\r\n\r\n", "400", "400", 0, 0, 0},
		{"space in host", "GET /api/v1/agents HTTP/1.1\r\nHost: a b\r\nX-API-Key: <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"HTTP/0.9", "GET /api/v1/agents\r\n", "400", "400", 0, 0, 0},
		{"HTTP/1.0", "GET /api/v1/agents HTTP/1.0\r\nX-API-Key: <key>\r\n\r\n", "200", "421", 1, 0, 0},
		{"HTTP/3.0", "GET /api/v1/agents HTTP/3.0\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", "505", "505", 0, 0, 0},
		{"HTTP/1.2", "GET /api/v1/agents HTTP/1.2\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", "200 200", "421 200", 1, 0, 0},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 validation_error", "421", 0, 0, 0},
		{"NUL in a header", keyed + "A: b\x00c\r\n\r\n", "400", "400", 0, 0, 0},
		{"space before colon", get + "X-API-Key : <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"space first", " GET /api/v1/agents HTTP/1.1\r\nHost: x\r\n\r\n", "400", "400", 0, 0, 0},
		{"first header folded", "GET /api/v1/agents HTTP/1.1\r\n Host: x\r\n\r\n", "400", "400", 0, 0, 0},
		{"no colon", keyed + "what\r\n\r\n", "400", "400", 0, 0, 0},
		{"empty name", keyed + ": what\r\n\r\n", "400", "400", 0, 0, 0},
		{"two lengths", post + "Content-Length: 18\r\nContent-Length: 19\r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"one length twice", post + "Content-Length: 18\r\nContent-Length: 18\r\n\r\n" + body, "201 200", "403 200", 1, 1, 0},
		{"a list of lengths", post + "Content-Length: 18, 18\r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"length -1", post + "Content-Length: -1\r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"length +18", post + "Content-Length: +18\r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"length in hex", post + "Content-Length: 0x12\r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"length of 20 digits", post + "Content-Length: 99999999999999999999\r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"length empty", post + "Content-Length: \r\n\r\n" + body, "400", "400", 0, 0, 0},
		{"length 0", post + "Content-Length: 0\r\n\r\n", "400 invalid_json 200", "403 200", 1, 0, 0},
		{"Content-Length, then chunks", post + "Content-Length: 18\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, "201", "403", 1, 1, 0},
		{"chunks, then Content-Length", post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunk, "201", "403", 1, 1, 0},
		{"a request hidden behind the chunks", up + "Content-Length: 90\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hide, "200", "403", 1, 0, 1},
		{"a request hidden in a chunk", up + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + hide + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"unknown coding", up + "Transfer-Encoding: xchunked\r\n\r\n" + chunk, "501", "501", 0, 0, 0},
		{"chunked twice", up + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, "501", "501", 0, 0, 0},
		{"chunked, identity", up + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunk, "501", "501", 0, 0, 0},
		{"gzip, chunked", up + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk, "501", "501", 0, 0, 0},
		{"chunked in another case", up + "Transfer-Encoding: cHuNkEd\r\n\r\n" + chunk, "200", "403", 1, 0, 1},
		{"coding behind a vertical tab", up + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunk, "400", "400", 0, 0, 0},
		{"blank before the colon of the coding", up + "Transfer-Encoding : chunked\r\n\r\n" + chunk, "400", "400", 0, 0, 0},
		{"chunks in HTTP/1.0", "POST /up/a HTTP/1.0\r\nX-API-Key: <key>\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, "200", "421", 1, 0, 1},
		{"chunk of no size", up + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk size with 0x", up + "Transfer-Encoding: chunked\r\n\r\n0x12\r\n" + body + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk size too large", up + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + body + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk size negative", up + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + body + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk size ends in LF", up + "Transfer-Encoding: chunked\r\n\r\n12\n" + body + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk extension", up + "Transfer-Encoding: chunked\r\n\r\n12;a=b\r\n" + body + "\r\n0\r\n\r\n", "200", "403", 1, 0, 1},
		{"LF in a chunk extension", up + "Transfer-Encoding: chunked\r\n\r\n12;a\nb\r\n" + body + "\r\n0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk without its end", up + "Transfer-Encoding: chunked\r\n\r\n12\r\n" + body + "0\r\n\r\n", "400 validation_error", "403", 1, 0, 1},
		{"chunk of no size, stored", post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body + "\r\n0\r\n\r\n", "400 invalid_json", "403", 1, 0, 0},
		{"folded header", get + "X-API-Key: <key>\r\nA: b\r\n c\r\n\r\n", "200 200", "404 200", 1, 0, 0},
		{"fold before the key", get + "X-API-Key:\r\n <key>\r\n\r\n", "200 200", "404 200", 1, 0, 0},
		{"fold within the scheme", get + "Authorization: Bearer\r\n <key>\r\n\r\n", "200 200", "404 200", 1, 0, 0},
		{"fold after the key", get + "X-API-Key: <key>\r\n x\r\n\r\n", "401 invalid_key 200", "404 200", 0, 0, 0},
		{"bare LF", strings.ReplaceAll(keyed+"\r\n", "\r\n", "\n"), "200 200", "404 200", 1, 0, 0},
		{"bare CR", get + "A: b\rX-API-Key: <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"absolute form, another host", "GET http://evil.example/api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "200 200", "421 200", 1, 0, 0},
		{"absolute form, guarded", "GET http://evil.example/up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "200 200", "421 200", 1, 0, 1},
		{"CONNECT to elsewhere", "CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400 validation_error 200", "421 200", 0, 0, 0},
		{"CONNECT to a path", "CONNECT /up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "405 method_not_allowed 200", "403 200", 0, 0, 0},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "200 200", "200 200", 0, 0, 0},
		{"GET *", "GET * HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400 validation_error 200", "400", 0, 0, 0},
		{"no slash", "GET api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"bad escape", "GET /api/%zz HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"lower method", "get /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "405 method_not_allowed 200", "403 200", 0, 0, 0},
		{"TRACE", "TRACE /up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "405 method_not_allowed 200", "403 200", 0, 0, 0},
		{"method bad", "G(T /up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400", "400", 0, 0, 0},
		{"dot segments", "GET /up/../api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400 validation_error 200", "307 200", 0, 0, 0},
		{"two slashes", "GET //up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "400 validation_error 200", "307 200", 0, 0, 0},
		{"unknown Expect", up + "Expect: 200-ok\r\nContent-Length: 18\r\n\r\n" + body, "417", "417", 0, 0, 0},
		{"Expect: 100-continue", post + "Expect: 100-continue\r\nContent-Length: 18\r\n\r\n" + body, "100 201 200", "403", 1, 1, 0},
		{"upgrade to h2c", keyed + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", "200 200", "404 200", 1, 0, 0},
		{"big header", keyed + "A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", "431", "431", 0, 0, 0},
		{"many headers", keyed + strings.Repeat("A: b\r\n", 5000) + "\r\n", "431", "431", 0, 0, 0},
		{"long url", "GET /api/v1/agents?" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "431", "431", 0, 0, 0},
		{"10,001 parameters", "GET /api/v1/agents?" + strings.Repeat("&", 10001) + " HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n", "200 200", "404 200", 1, 0, 0},
		{"two keys", keyed + "X-API-Key: <key>\r\n\r\n", "400 validation_error 200", "404 200", 0, 0, 0},
		{"two auth", get + "Authorization: Bearer <key>\r\nAuthorization: Bearer <key>\r\n\r\n", "400 validation_error 200", "404 200", 0, 0, 0},
		{"8-bit key", get + "X-API-Key: <key>\xff\r\n\r\n", "401 invalid_key 200", "404 200", 0, 0, 0},
		{"bearer two", get + "Authorization: Bearer <key> x\r\n\r\n", "401 invalid_key 200", "404 200", 0, 0, 0},
		{"bearer tab", get + "Authorization: Bearer\t<key>\r\n\r\n", "401 authentication_required 200", "404 200", 0, 0, 0},
		{"key in a form", "POST /api/v1/contacts/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 49\r\n\r\napi_key=<key>", "401 authentication_required 200", "421 200", 0, 0, 0},
		{"byte order mark", post + "Content-Length: 21\r\n\r\n\xef\xbb\xbf" + body, "400 invalid_json 200", "403 200", 1, 0, 0},
		{"packed body", post + "Content-Encoding: gzip\r\nContent-Length: 18\r\n\r\n" + body, "415 validation_error 200", "403 200", 1, 0, 0},
		{"body of a GET", "GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nContent-Length: 5\r\n\r\nhello", "200 200", "404 200", 1, 0, 0},
		{"empty body of a GET", "GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nContent-Length: 0\r\n\r\n", "200 200", "404 200", 1, 0, 0},
		{"TLS on a plain port", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n", "400", "400", 0, 0, 0},
		{"identity among hop-by-hop names", up + "Connection: X-API-Key, Content-Length, X-Auth-Key-Id\r\nContent-Length: 18\r\n\r\n" + body, "200 200", "403 200", 1, 0, 1},
		{"identity in a trailer", up + "Transfer-Encoding: chunked\r\nTrailer: X-Auth-Key-Id\r\n\r\n12\r\n" + body + "\r\n0\r\nX-Auth-Key-Id: x\r\n\r\n", "200", "403", 1, 0, 1},
		{"length in a trailer", up + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n12\r\n" + body + "\r\n0\r\nContent-Length: 5\r\n\r\n", "400", "400", 0, 0, 0},
	}
}

// TestProgram_Malformed sends them. net/http refuses most by itself; the table
// says so for each, so that another version of it cannot change that unseen.
//
// Two it takes that others refuse. A folded header is one with a blank in the
// place of the fold (RFC 9112 section 5.2), so a key is found behind one and
// not with one in it. Chunks go before a Content-Length, and then the
// connection ends (section 6.3): nothing behind them is answered.
func TestProgram_Malformed(t *testing.T) {
	w := newWire(t)
	for _, tt := range malformed() {
		paid, stored := w.used()
		passed := w.passed.Load()
		api, err := w.talk("api", tt.request, true)
		paidNow, storedNow := w.used()
		if got := strings.Trim(fmt.Sprint(api), "[]"); err != nil || got != tt.api {
			t.Errorf("%s: got %q, %v; want %q", tt.name, got, err, tt.api)
		}
		// A body that is refused may end the request before the upstream has begun with it.
		early := tt.api == "400 validation_error"
		if p, s, u := paidNow-paid, storedNow-stored, int(w.passed.Load()-passed); p != tt.paid || s != tt.stored || u > tt.passed || u < tt.passed && !early {
			t.Errorf("%s: paid %d, stored %d, passed on %d; want %d, %d and %d", tt.name, p, s, u, tt.paid, tt.stored, tt.passed)
		}
		admin, err := w.talk("admin", tt.request, true)
		if got := strings.Trim(fmt.Sprint(admin), "[]"); err != nil || got != tt.admin {
			t.Errorf("%s, admin listener: got %q, %v; want %q", tt.name, got, err, tt.admin)
		}
		for _, answer := range append(api, admin...) {
			if answer.status == 200 && strings.HasPrefix(tt.api, "4") && len(answer.body) > 100 {
				t.Errorf("%s: got %s", tt.name, answer.body)
			}
			if to := answer.header.Get("Location"); to != "" && (!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.Contains(to, w.key)) {
				t.Errorf("%s: sent to %q", tt.name, to)
			}
		}
		if now, s := w.used(); now != paidNow || s != storedNow || int(w.passed.Load()-passed) > tt.passed {
			t.Errorf("%s: the admin listener charged, stored or passed on", tt.name)
		}
	}
	w.quiet(t)
}
