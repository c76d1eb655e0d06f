package tests

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"latchkey/internal/certs/certstest"
)

// weight is what a server holds: memory in KiB and open files.
func (w *wire) weight(t testing.TB) (kib, files int) {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return w.memory(t, "VmRSS:"), len(open)
}

// memory gives a row of the memory of a server, in KiB.
func (w *wire) memory(t testing.TB, row string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), row)
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// settles waits until the server has no more files open than a number, after the
// upstream has closed its idle connections.
func (w *wire) settles(t testing.TB, most int) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		// Otherwise the program keeps its idle connections for 90 s. One on which
		// nothing was sent counts as idle here only after 5 s, so this is repeated.
		w.upstream.Config.SetKeepAlivesEnabled(false)
		_, files := w.weight(t)
		if files <= most {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d files are open, want at most %d again", files, most)
			return
		}
		_ = w.client.Do(t.Context(), "GET", "/healthz", nil, nil) // takes its time
	}
}

// quiet wants a log without a panic.
func (w *wire) quiet(t testing.TB) {
	t.Helper()
	if said := w.Out.String(); strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") {
		t.Errorf("the log has a panic: %s", w.Out.Tail())
	}
}

// Who is silent is cut off at the time of the configuration, nothing of what
// was half sent is stored, and the others are served meanwhile.
func TestProgram_SilentClients(t *testing.T) {
	w := newWire(t, "LATCHKEY_SERVER_READ_HEADER_TIMEOUT=500ms", "LATCHKEY_SERVER_READ_TIMEOUT=1s", "LATCHKEY_SERVER_IDLE_TIMEOUT=1s")
	_, base := w.weight(t)
	post := "POST /api/v1/contacts/create HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nContent-Length: 40\r\n\r\n{\"first_name\":"
	up := "POST /up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n"
	rows := []struct {
		name, door, request string
		want                string // the answers until the end
		least               time.Duration
		paid                int
	}{
		{"no byte", "api", "", "[]", 400 * time.Millisecond, 0},
		{"no byte, admin", "admin", "", "[]", 400 * time.Millisecond, 0},
		{"half a line", "api", "GET /api/v1/ag", "[400]", 400 * time.Millisecond, 0},
		{"headers without end", "api", "GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nA: b", "[]", 400 * time.Millisecond, 0},
		{"headers without end, admin", "admin", "GET /login HTTP/1.1\r\nHost: localhost\r\n", "[]", 400 * time.Millisecond, 0},
		{"a body without end", "api", post, "[400 invalid_json]", 800 * time.Millisecond, 1},
		{"chunks without end", "api", strings.Replace(post, "Content-Length: 40\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n20\r\n", 1), "[400 invalid_json]", 800 * time.Millisecond, 1},
		{"a body without end, guarded", "api", up + "Content-Length: 9\r\n\r\nhalf", "[408 validation_error]", 800 * time.Millisecond, 1},
		{"chunks without end, guarded", "api", up + "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf", "[408 validation_error]", 800 * time.Millisecond, 1},
		{"a form without end", "admin", "POST /login HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 40\r\n\r\nname=", "[401 no JSON]", 800 * time.Millisecond, 0},
		{"nothing after an answer", "api", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "[200]", 800 * time.Millisecond, 0},
	}
	type outcome struct {
		id   string // of a key of its own
		all  []said
		err  error
		took time.Duration
	}
	outcomes := make([]outcome, len(rows))
	var silent sync.WaitGroup
	for i, tt := range rows {
		var made struct{ ID, Key string }
		w.operate("POST", "/admin/v1/keys", `{"name": "silent", "permissions": ["can_use","can_read_agents","can_write_contacts"]}`, &made)
		request := strings.ReplaceAll(tt.request, "<key>", made.Key)
		silent.Go(func() {
			began := time.Now()
			all, err := w.talk(tt.door, request, false)
			outcomes[i] = outcome{made.ID, all, err, time.Since(began)}
		})
	}
	silent.Wait()
	for i, tt := range rows {
		o := outcomes[i]
		w.id = o.id
		paid, contacts := w.used()
		if got := fmt.Sprint(o.all); o.err != nil || got != tt.want && !(strings.HasPrefix(tt.want, "[401") && strings.HasPrefix(got, "[401")) {
			t.Errorf("%s: got %s, %v; want %s", tt.name, got, o.err, tt.want)
		}
		if o.took < tt.least || o.took > 30*time.Second || paid != tt.paid || contacts != 0 {
			t.Errorf("%s: took %s, paid %d, stored %d; want at least %s, %d and none", tt.name, o.took, paid, contacts, tt.least, tt.paid)
		}
	}
	var crowd sync.WaitGroup
	for _, c := range dial(t, w.URL, 300) {
		crowd.Go(func() {
			_, _ = io.WriteString(c, "GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: ")
			_, _ = io.Copy(io.Discard, c) // until the server has enough
		})
	}
	for range 20 {
		if status, _ := w.Get(t, "/api/v1/agents", w.key); status != 200 {
			t.Errorf("beside 300 silent clients: got %d, want 200", status)
		}
	}
	crowd.Wait()
	w.settles(t, base+2)
	w.quiet(t)
}

// A thousand requests sent at once on one connection are answered in their
// order, and each is charged.
func TestProgram_Pipelined(t *testing.T) {
	w := newWire(t)
	var few struct{ ID, Key string }
	w.operate("POST", "/admin/v1/keys", `{"name": "few", "permissions": ["can_read_agents", "can_use"], "limits": {"requests_per_minute_limit": 60}}`, &few)
	for _, tt := range []struct {
		name, path, id, key string
		pass                int
	}{{"all fit", "/api/v1/agents", w.id, w.key, 1000}, {"few fit", "/api/v1/agents", few.ID, few.Key, 60}} {
		request := "GET " + tt.path + " HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + tt.key + "\r\n\r\n"
		all, err := w.talk("api", strings.Repeat(request, 1000), true)
		if err != nil || len(all) != 1001 {
			t.Fatalf("%s: got %d answers, %v", tt.name, len(all), err)
		}
		for i, a := range all[:1000] {
			want := 200
			if i >= tt.pass {
				want = 429
			}
			if a.status != want {
				t.Fatalf("%s: answer %d is %s, want %d", tt.name, i+1, a, want)
			}
		}
		w.id = tt.id
		if paid, _ := w.used(); paid != tt.pass {
			t.Errorf("%s: paid %d, want %d", tt.name, paid, tt.pass)
		}
	}
	if all, _ := w.talk("api", strings.Repeat("GET /up/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: "+few.Key+"\r\n\r\n", 100), true); len(all) != 101 || w.passed.Load() != 0 {
		t.Errorf("guarded, over the limit: got %d answers, %d went to the upstream", len(all), w.passed.Load())
	}
	w.quiet(t)
}

// frames is an HTTP/2 connection that is spoken to in frames.
type frames struct {
	*http2.Framer
	net.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
	out   *bufio.Writer
	next  uint32
	ended chan error // what the server's side ended with
}

// frames opens one.
func (w *wire) frames(t testing.TB, ca string) *frames {
	t.Helper()
	c, err := tls.Dial("tcp", w.doors["api"], &tls.Config{RootCAs: certstest.Roots(t, ca), ServerName: "localhost", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { _ = c.Close() })
	f := &frames{Conn: c, out: bufio.NewWriter(c), next: 1, ended: make(chan error, 1)}
	f.Framer, f.enc = http2.NewFramer(f.out, c), hpack.NewEncoder(&f.block)
	_, _ = io.WriteString(f.out, http2.ClientPreface)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			frame, err := f.ReadFrame()
			if g, ok := frame.(*http2.GoAwayFrame); ok {
				err = fmt.Errorf("goaway %s", g.ErrCode)
			}
			if err != nil {
				f.ended <- err
				return
			}
		}
	}()
	return f
}

// head gives the fields of a request, with more as "name: value".
func (f *frames) head(method, path, key string, more ...string) []byte {
	f.block.Reset()
	for _, field := range append([]string{":method: " + method, ":scheme: https", ":authority: localhost", ":path: " + path, "x-api-key: " + key}, more...) {
		name, value, _ := strings.Cut(field[1:], ": ")
		_ = f.enc.WriteField(hpack.HeaderField{Name: field[:1] + name, Value: value})
	}
	return f.block.Bytes()
}

// ask gets a URL and returns the status and the major version of HTTP.
func ask(t testing.TB, client *http.Client, url string) (status, major int) {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.ProtoMajor
}

// TestProgram_HTTP2 floods the door by what HTTP/2 has for it. The connection
// ends, or the requests fail one by one; the server keeps nothing of it.
func TestProgram_HTTP2(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := certstest.NewAuthority(t)
	ca.Issue(cert, key, time.Now().Add(time.Hour))
	w := newWire(t, "LATCHKEY_SERVER_TLS_CERT_FILE="+cert, "LATCHKEY_SERVER_TLS_KEY_FILE="+key)
	client := certstest.Client(t, ca.File, nil)
	var other struct{ Key string } // the key that floods may have no place in its limit on requests in flight
	w.operate("POST", "/admin/v1/keys", `{"name": "other", "permissions": ["can_read_agents"]}`, &other)
	healthy := func(when string) {
		t.Helper()
		if status, major := ask(t, client, w.URL+"/api/v1/agents?api_key="+other.Key); status != 200 || major != 2 {
			t.Errorf("%s: got %d over HTTP/%d, want 200 over HTTP/2", when, status, major)
		}
	}
	healthy("at first")
	kib, files := w.weight(t)
	for _, tt := range []struct {
		name  string
		flood func(f *frames) error // one step of it
		ends  bool                  // the server has to end the connection
	}{
		{"rapid reset", func(f *frames) error {
			id := f.next
			f.next += 2
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head("GET", "/up/a", w.key), EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		}, false},
		{"continuations without end", func(f *frames) error {
			if f.next == 1 {
				f.next = 3
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("GET", "/api/v1/agents", w.key), EndStream: true})
			}
			return f.WriteContinuation(1, false, f.head("GET", "/", "", "a: "+strings.Repeat("b", 8<<10)))
		}, true},
		{"empty continuations", func(f *frames) error {
			if f.next == 1 {
				f.next = 3
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("GET", "/api/v1/agents", w.key), EndStream: true})
			}
			return f.WriteContinuation(1, false, nil)
		}, false},
		{"pings and settings", func(f *frames) error {
			return f.WritePing(false, [8]byte{1})
		}, false},
		{"bodies that never come", func(f *frames) error {
			id := f.next
			f.next += 2
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head("POST", "/up/a", w.key), EndHeaders: true})
		}, false},
		{"a body longer than it says", func(f *frames) error {
			id := f.next
			f.next += 2
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head("POST", "/api/v1/contacts/create", w.key, "content-length: 4"), EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteData(id, true, []byte(`{"first_name":"A"}`))
		}, false},
		{"fields of HTTP/1", func(f *frames) error {
			id := f.next
			f.next += 2
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head("GET", "/up/a", w.key, "transfer-encoding: chunked", "connection: x-api-key"), EndHeaders: true, EndStream: true})
		}, false},
	} {
		f := w.frames(t, ca.File)
		var err error
		for i := 0; i < 5000 && err == nil; i++ {
			err = tt.flood(f)
			select {
			case err = <-f.ended:
			default:
			}
		}
		_ = f.out.Flush()
		if tt.ends && err == nil {
			err = <-f.ended // within the deadline of the connection
		}
		if ne, ok := err.(net.Error); tt.ends && (err == nil || ok && ne.Timeout()) {
			t.Errorf("%s: the connection goes on: %v", tt.name, err)
		}
		healthy("after " + tt.name)
		_ = f.Close()
		t.Logf("%s: ended with %v", tt.name, err)
	}
	w.settles(t, files+4)
	if _, contacts := w.used(); contacts != 0 {
		t.Errorf("%d contacts were stored", contacts)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var key struct {
			Usage map[string]struct{ Used int }
		}
		w.operate("GET", "/admin/v1/keys/"+w.id, "", &key)
		if used := key.Usage["concurrent_requests"].Used; used == 0 {
			break
		} else if time.Now().After(end) {
			t.Errorf("%d requests still hold places in the limit on requests in flight", used)
			break
		}
	}
	if now, _ := w.weight(t); now > kib+96<<10 {
		t.Errorf("the server holds %d KiB, held %d", now, kib)
	}
	w.quiet(t)
}
