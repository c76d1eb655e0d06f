package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/tests/program"
)

// The configurations pass everything to Latchkey. Each request that the proxy sends has a number that
// no other request has, and the path that the proxy has read. The lenient ones pass on as much as the
// proxy can be made to: fields with invalid names, and bodies as they arrive.
const (
	nginxInFront = `daemon off;
master_process off;
error_log stderr crit;
pid DIR/pid;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
	client_header_timeout 2s; client_body_timeout 2s; proxy_read_timeout 5s;
	LENIENT
	map $request_uri $path_as_sent { "~^(?<path>[^?]*)" $path; } # $uri is decoded: %0d%0a in it would end a field
	upstream latchkey { server LATCHKEY; keepalive 2; }
	server {
		listen LISTEN;
		location / {
			proxy_pass http://latchkey;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header X-Front-Id $request_id;
			proxy_set_header X-Front-Path $path_as_sent;
		}
	}
}
`
	nginxLenient   = "ignore_invalid_headers off; underscores_in_headers on; proxy_request_buffering off; merge_slashes off;"
	haproxyInFront = `defaults
	mode http
	timeout client 2s
	timeout http-request 2s
	timeout connect 5s
	timeout server 5s
frontend front
	bind LISTEN
	LENIENT
	http-request set-header X-Front-Id %[uuid]
	http-request set-header X-Front-Path %[path]
	default_backend latchkey
backend latchkey
	http-reuse always
	server latchkey LATCHKEY
`
	haproxyLenient = "option accept-invalid-http-request"
)

// hiddenPath is the path of the requests that are hidden in others.
const hiddenPath = "/up/hidden"

// smuggled lists requests that two programs may read in two ways. In each, HIDDEN is a whole request
// with the key, which a program that reads it wrongly takes for a request of its own.
func smuggled() map[string]string {
	const (
		post   = "POST /up/attack HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n"
		get    = "GET /up/attack HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n"
		chunks = "0\r\n\r\nHIDDEN"
	)
	list := map[string]string{
		"CL.TE":                             post + "Content-Length: SIZE\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
		"TE.CL":                             post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nHEX\r\nHIDDEN\r\n0\r\n\r\n",
		"two lengths, the second covers":    post + "Content-Length: 0\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"two lengths, the first covers":     post + "Content-Length: HIDDENSIZE\r\nContent-Length: 0\r\n\r\nHIDDEN",
		"a list of lengths":                 post + "Content-Length: 0, HIDDENSIZE\r\n\r\nHIDDEN",
		"length with a plus":                post + "Content-Length: +HIDDENSIZE\r\n\r\nHIDDEN",
		"length with a minus":               post + "Content-Length: -1\r\n\r\nHIDDEN",
		"length in hex":                     post + "Content-Length: 0xff\r\n\r\nHIDDEN",
		"length with leading zeros":         post + "Content-Length: 000HIDDENSIZE\r\n\r\nHIDDEN",
		"length with an underscore":         post + "Content-Length: 1_0\r\n\r\nHIDDEN",
		"length with a blank inside":        post + "Content-Length: 1 0\r\n\r\nHIDDEN",
		"empty length":                      post + "Content-Length: \r\n\r\nHIDDEN",
		"length beyond 64 bits":             post + "Content-Length: 18446744073709551616\r\n\r\nHIDDEN",
		"length with a blank before colon":  post + "Content-Length : HIDDENSIZE\r\n\r\nHIDDEN",
		"length with a tab before colon":    post + "Content-Length\t: HIDDENSIZE\r\n\r\nHIDDEN",
		"length with an underscore as name": post + "Content_Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"length behind a bare CR":           post + "A: b\rContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"length behind a bare LF":           post + "A: b\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"length behind a NUL":               post + "A: b\x00\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"folded length":                     post + "Content-Length:\r\n HIDDENSIZE\r\n\r\nHIDDEN",
		"length in a fold":                  post + "A: b\r\n Content-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"length of a GET":                   get + "Content-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"chunks of a GET":                   get + "Transfer-Encoding: chunked\r\n\r\n" + chunks,
		"body of HEAD":                      "HEAD /up/attack HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"chunks in HTTP/1.0":                "POST /up/attack HTTP/1.0\r\nHost: localhost\r\nX-API-Key: <key>\r\nConnection: keep-alive\r\nContent-Length: SIZE\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
		"lines that end in LF":              strings.ReplaceAll(post+"Content-Length: HIDDENSIZE\r\n\r\n", "\r\n", "\n") + "HIDDEN",
		"head that ends in LF LF":           post + "Content-Length: HIDDENSIZE\n\nHIDDEN",
		"head that ends in LF CR LF":        post + "Content-Length: 0\n\r\nHIDDEN",
		"a request in the path":             "GET /up/attack%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0aGET%20/up/hidden HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\n\r\n",
		"length among hop-by-hop names":     post + "Connection: Content-Length\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"coding among hop-by-hop names":     post + "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: SIZE\r\n\r\n" + chunks,
		"Expect with a body":                post + "Expect: 100-continue\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"an unknown Expect with a body":     post + "Expect: what\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"an upgrade with a body":            post + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"a body that is refused":            "POST /up/attack HTTP/1.1\r\nHost: localhost\r\nX-API-Key: none\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"a body for a path without a route": "POST /none HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nContent-Length: HIDDENSIZE\r\n\r\nHIDDEN",
		"pipelined":                         get + "\r\n" + get + "\r\nHIDDEN",
		"blank lines between":               get + "\r\n\r\n\r\n\n\r\nHIDDEN",
	}
	for name, field := range map[string]string{
		"blank before colon": "Transfer-Encoding : chunked", "tab before colon": "Transfer-Encoding\t: chunked", "tab": "Transfer-Encoding:\tchunked",
		"vertical tab": "Transfer-Encoding: \x0bchunked", "form feed": "Transfer-Encoding: \x0cchunked", "no-break space": "Transfer-Encoding: \xa0chunked",
		"NUL": "Transfer-Encoding: chunked\x00", "quoted": `Transfer-Encoding: "chunked"`, "capitals": "Transfer-Encoding: CHUNKED", "xchunked": "Transfer-Encoding: xchunked",
		"chunked, identity": "Transfer-Encoding: chunked, identity", "identity, chunked": "Transfer-Encoding: identity, chunked", "gzip, chunked": "Transfer-Encoding: gzip, chunked",
		"comma before": "Transfer-Encoding: ,chunked", "comma after": "Transfer-Encoding: chunked,", "twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
		"twice, one unknown": "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "underscore": "Transfer_Encoding: chunked", "parameter": "Transfer-Encoding: chunked;q=1",
		"folded": "Transfer-Encoding:\r\n chunked", "in a fold": "A: b\r\n Transfer-Encoding: chunked", "behind a bare CR": "A: b\rTransfer-Encoding: chunked",
		"behind a bare LF": "A: b\nTransfer-Encoding: chunked", "before a bare CR": "Transfer-Encoding: chunked\r", "first field folded": " Transfer-Encoding: chunked",
		"bytes above 127": "Transfer-Encoding\xff: chunked", "empty": "Transfer-Encoding: ", "colon twice": "Transfer-Encoding:: chunked",
	} {
		list["coding, "+name+", and a length that covers"] = post + field + "\r\nContent-Length: SIZE\r\n\r\n" + chunks
		list["coding, "+name+", and a short length"] = post + "Content-Length: 4\r\n" + field + "\r\n\r\nHEX\r\nHIDDEN\r\n0\r\n\r\n"
		list["coding, "+name+", alone"] = post + field + "\r\n\r\n" + chunks
	}
	for name, line := range map[string]string{
		"extension": "HEX;a=b\r\n", "quoted extension": "HEX;a=\"\r\n\"\r\n", "bare CR in an extension": "HEX;a\rb\r\n", "bare LF in an extension": "HEX;a\nb\r\n",
		"bare CR": "HEX\r", "bare LF": "HEX\n", "0x": "0xHEX\r\n", "sign": "+HEX\r\n", "blank before": " HEX\r\n", "blank after": "HEX \r\n", "leading zeros": "0000HEX\r\n",
		"seventeen digits": "100000000000000HEX\r\n", "an underscore": "0_HEX\r\n", "NUL": "HEX\x00\r\n", "a letter": "HEXg\r\n",
	} {
		list["chunk size, "+name] = post + "Transfer-Encoding: chunked\r\n\r\n" + line + "HIDDEN\r\n0\r\n\r\n"
		list["last chunk, "+name] = post + "Transfer-Encoding: chunked\r\n\r\n" + strings.ReplaceAll(line, "HEX", "0") + "\r\nHIDDEN"
	}
	for name, end := range map[string]string{"none": "", "LF": "\n", "CR": "\r", "two bytes": "xx", "CR LF too much": "\r\n\r\n"} {
		list["end of a chunk, "+name] = post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc" + end + "0\r\n\r\nHIDDEN"
		list["end of the last chunk, "+name] = post + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + end + "HIDDEN"
	}
	for name, field := range map[string]string{"a length": "Content-Length: HIDDENSIZE", "a coding": "Transfer-Encoding: chunked", "no colon": "what", "a fold": " x"} {
		list["trailer, "+name] = post + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + field + "\r\n\r\nHIDDEN"
	}
	return list
}

// front is a proxy in front of the program, whose connections to the program all clients share, and an
// upstream that compares what it gets with what the proxy says that it has sent.
type front struct {
	*testing.T
	address  string // of the proxy
	key      string
	opened   atomic.Int64 // connections from the proxy to the program
	requests atomic.Int64 // at the upstream
	attacks  atomic.Int64 // of these, the ones that hide a request, or were hidden

	mu   sync.Mutex
	seen map[string]bool // numbers of the requests at the upstream
}

// ServeHTTP answers with the query of the request, and fails the test if the proxy has not sent it.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	f.requests.Add(1)
	if r.URL.Path != "/up/honest" {
		f.attacks.Add(1)
	}
	id, path := r.Header["X-Front-Id"], r.Header["X-Front-Path"]
	f.mu.Lock()
	if len(id) != 1 || len(path) != 1 || f.seen[id[0]] || path[0] != r.URL.Path && path[0] != r.URL.EscapedPath() {
		f.Errorf("the upstream got %s %s, which the proxy did not send: %q", r.Method, r.RequestURI, r.Header)
	} else {
		f.seen[id[0]] = true
	}
	f.mu.Unlock()
	_, _ = io.WriteString(w, "for "+r.URL.RawQuery)
}

// relay passes connections on to the program, and counts them. It returns its address.
func (f *front) relay(to string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	var pipes sync.WaitGroup
	pipe := func(to, from net.Conn) {
		defer pipes.Done()
		_, _ = io.Copy(to, from)
		_ = to.(*net.TCPConn).CloseWrite()
	}
	pipes.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			f.opened.Add(1)
			f.Cleanup(func() { _, _ = in.Close(), out.Close() })
			pipes.Add(2)
			go pipe(out, in)
			go pipe(in, out)
		}
	})
	f.Cleanup(pipes.Wait) // after the connections have been closed
	f.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// newFront starts a proxy whose configuration is text. args are its arguments; CONFIG is the path of the
// configuration.
func newFront(t *testing.T, path, text string, args ...string) *front {
	t.Helper()
	f := &front{T: t, seen: map[string]bool{}}
	upstream := httptest.NewServer(f)
	t.Cleanup(upstream.Close)
	dir := t.TempDir()
	overwrite(t, dir, "latchkey.toml", fmt.Sprintf("[[route]]\npath = \"/up/*rest\"\npermission = []\nupstream = %q\n", upstream.URL))
	latchkey := program.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "latchkey.toml"))
	var made struct{ Key string }
	if err := latchkey.Socket().Do(context.Background(), "POST", "/admin/v1/keys", json.RawMessage(`{"name":"front","permissions":["can_read_agents"],"limits":{"requests_per_minute_limit":1000000}}`), &made); err != nil {
		t.Fatal(err)
	}
	f.key = made.Key
	to := f.relay(strings.TrimPrefix(latchkey.URL, "http://"))
	for range 3 { // another program may take the port in between
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.address = l.Addr().String()
		_ = l.Close()
		overwrite(t, dir, "proxy.conf", strings.NewReplacer("DIR", dir, "LISTEN", f.address, "LATCHKEY", to).Replace(text))
		var filled []string
		for _, arg := range args {
			filled = append(filled, strings.ReplaceAll(arg, "CONFIG", filepath.Join(dir, "proxy.conf")))
		}
		cmd := exec.Command(path, filled...)
		out := &program.Output{}
		cmd.Stdout, cmd.Stderr = out, out
		if listens(t, cmd, f.address) {
			return f
		}
		t.Logf("%s: %s", cmd.Path, out)
	}
	t.Fatal("the proxy does not listen")
	return nil
}

// attack sends bytes on a connection of their own, and reads what comes back until the proxy closes it.
// It fails if that has an answer for another client.
func (f *front) attack(text string) error {
	hidden := "GET " + hiddenPath + "?hidden HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nA: "
	hidden += strings.Repeat("x", 0x100-len(hidden)-len("\r\n\r\n")-len(f.key)+len("<key>")) + "\r\n\r\n" // 256 bytes
	text = strings.NewReplacer("HIDDENSIZE", "256", "HIDDEN", hidden, "SIZE", fmt.Sprint(256+len("0\r\n\r\n")), "HEX", "100").Replace(text)
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, strings.ReplaceAll(text, "<key>", f.key)); err == nil {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	got, _ := io.ReadAll(c) // the connection may be reset
	for _, name := range []string{"for after", "for beside"} {
		if strings.Contains(string(got), name) {
			return fmt.Errorf("the client of the attack got the answer of another: %q", got)
		}
	}
	return nil
}

// honest sends a request on a connection that is kept, and wants its own answer.
type honest struct {
	front *front
	conn  net.Conn
	in    *bufio.Reader
	sent  int
	name  string
}

// ask sends the next request.
func (h *honest) ask() error {
	if h.conn == nil {
		c, err := net.Dial("tcp", h.front.address)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
		h.conn, h.in = c, bufio.NewReader(c)
	}
	h.sent++
	query := fmt.Sprint(h.name, "-", h.sent)
	if _, err := fmt.Fprintf(h.conn, "GET /up/honest?%s HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\n\r\n", query, h.front.key); err != nil {
		return err
	}
	r, err := http.ReadResponse(h.in, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK || string(body) != "for "+query {
		return fmt.Errorf("a client that asked for %s got %d %q", query, r.StatusCode, body)
	}
	if r.Close {
		h.close()
	}
	return nil
}

func (h *honest) close() {
	if h.conn != nil {
		_ = h.conn.Close()
		h.conn = nil
	}
}

// check sends all attacks. After each, and beside it, honest clients ask over the same connections from
// the proxy to the program.
func (f *front) check() {
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		beside := &honest{front: f, name: "beside"}
		defer beside.close()
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := beside.ask(); err != nil {
				ended <- err
				return
			}
		}
	}()
	after := &honest{front: f, name: "after"}
	defer after.close()
	for name, text := range smuggled() {
		err := f.attack(text)
		for range 2 {
			if err == nil {
				err = after.ask()
			}
		}
		if err != nil || f.Failed() {
			f.Errorf("%s: %v", name, err)
			break
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		f.Errorf("beside the attacks: %v", err)
	}
	f.Logf("%d requests over %d connections to the program; %d of them were attacks", f.requests.Load(), f.opened.Load(), f.attacks.Load())
	if f.attacks.Load() == 0 {
		f.Error("no attack has passed the proxy")
	}
	if f.opened.Load() >= f.requests.Load() {
		f.Errorf("the clients did not share connections: %d requests over %d", f.requests.Load(), f.opened.Load())
	}
}

// Each test sends requests that two programs may read in two ways through a real proxy. The upstream
// gets only requests that the proxy has sent, and every client gets its own answers.
func TestSmuggling_Nginx(t *testing.T) {
	program.NotQuick(t)
	path := nginxProgram(t)
	for name, lenient := range map[string]string{"strict": "", "lenient": nginxLenient} {
		t.Run(name, func(t *testing.T) {
			newFront(t, path, strings.Replace(nginxInFront, "LENIENT", lenient, 1), "-e", "stderr", "-c", "CONFIG").check()
		})
	}
}

func TestSmuggling_HAProxy(t *testing.T) {
	program.NotQuick(t)
	path := installed(t, "haproxy")
	for name, lenient := range map[string]string{"strict": "", "lenient": haproxyLenient} {
		t.Run(name, func(t *testing.T) {
			newFront(t, path, strings.Replace(haproxyInFront, "LENIENT", lenient, 1), "-db", "-f", "CONFIG").check()
		})
	}
}
