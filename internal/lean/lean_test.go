package lean

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tried is the handler of the comparison. The query of the request says how it answers, so that
// random requests find every way of answering. It notes what it has been given.
type tried struct {
	mu   sync.Mutex
	seen []string
	lean atomic.Int64 // requests that the lean loop has served
}

func (h *tried) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ok := w.(*response); ok {
		h.lean.Add(1)
	}
	body, err := []byte(nil), error(nil)
	do := func(letter string) bool { return strings.Contains(r.URL.RawQuery, letter) }
	if !do("U") {
		body, err = io.ReadAll(r.Body)
	}
	h.mu.Lock()
	h.seen = append(h.seen, fmt.Sprintf("%s %s %q %q %q %s host=%q close=%v length=%d te=%q body=%q %v force=%v",
		r.Method, r.RequestURI, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.Proto, r.Host, r.Close, r.ContentLength, r.TransferEncoding, body, err, r.URL.ForceQuery))
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		h.seen = append(h.seen, fmt.Sprintf("  %s: %q", name, r.Header[name]))
	}
	h.mu.Unlock()
	h.answer(w, do, len(body))
}

// answer answers as the letters of the query say.
func (h *tried) answer(w http.ResponseWriter, do func(string) bool, n int) {
	f := w.Header()
	for _, field := range [][3]string{
		{"A", "Content-Type", "text/x-one"}, {"C", "Content-Encoding", "gzip"}, {"D", "Date", "Thu, 01 Jan 1970 00:00:00 GMT"}, {"E", "Connection", "close"},
		{"F", "Content-Length", "5"}, {"G", "Content-Length", "100"}, {"H", "X-Line", "one\r\nX-Two: two\n "}, {"J", "Trailer", "X-Late, X-Later"},
		{"K", http.TrailerPrefix + "X-Last", "z"}, {"L", "Transfer-Encoding", "identity"}, {"M", "Transfer-Encoding", "chunked"}, {"N", "Connection", "keep-alive, x"},
	} {
		if do(field[0]) {
			f.Set(field[1], field[2])
		}
	}
	if do("B") {
		f["Content-Type"] = nil
	}
	if do("I") {
		f["bad name"], f["X-Many"] = []string{"x"}, []string{"a", " b", ""}
	}
	if do("O") {
		w.Header().Set("Link", "</x>; rel=preload")
		w.WriteHeader(103)
	}
	for i, status := range []int{204, 304, 404, 799} {
		if do("PQRS"[i : i+1]) {
			w.WriteHeader(status)
		}
	}
	f.Set("X-Late", "late")
	if do("T") {
		panic(http.ErrAbortHandler)
	}
	if do("V") {
		w.(http.Flusher).Flush()
	}
	if do("W") {
		_, _ = io.WriteString(w, "<html>")
	}
	if do("X") {
		_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 300))
	}
	if do("Y") {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 40000))
	}
	if do("V") {
		w.(http.Flusher).Flush()
	}
	if do("Z") {
		panic("on purpose")
	}
	fmt.Fprintf(w, "got %d", n)
}

// pair has the two servers that are compared, on unix sockets: there, closing a connection does not
// destroy what the other end has not read yet.
type pair struct {
	path    [2]string
	handler [2]*tried
	server  *Server
}

func newPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{}
	dir := t.TempDir()
	for i := range 2 {
		p.handler[i] = &tried{}
		p.path[i] = filepath.Join(dir, strconv.Itoa(i))
		l, err := net.Listen("unix", p.path[i])
		if err != nil {
			t.Fatal(err)
		}
		h := &http.Server{
			Handler: p.handler[i], ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: 16 << 10,
			ReadHeaderTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		}
		ended := make(chan struct{})
		if i == 0 {
			go func() { defer close(ended); _ = h.Serve(l) }()
		} else {
			p.server = New(h)
			p.server.restWait = time.Minute
			go func() { defer close(ended); _ = p.server.Serve(l) }()
		}
		t.Cleanup(func() {
			_ = l.Close()
			<-ended
			if i == 1 {
				if err := p.server.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
			}
			_ = h.Close()
		})
	}
	return p
}

// ask sends pieces to one of the servers, ends the stream, and returns what came back and what the
// handler has seen.
func (p *pair) ask(t testing.TB, i int, pieces [][]byte) (answer []byte, seen []string) {
	t.Helper()
	c, err := net.Dial("unix", p.path[i])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	received := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(c)
		received <- all
	}()
	for _, piece := range pieces {
		if _, err := c.Write(piece); err != nil {
			break // the server has closed the connection
		}
	}
	_ = c.(*net.UnixConn).CloseWrite()
	answer = <-received
	p.handler[i].mu.Lock()
	defer p.handler[i].mu.Unlock()
	seen, p.handler[i].seen = p.handler[i].seen, nil
	return answer, seen
}

// normal returns the answers in a form that does not depend on the order of fields and on the time.
// requests has the methods, because an answer to HEAD has no body.
func normal(raw []byte, seen []string) string {
	var methods, queries []string
	for _, s := range seen {
		if method, rest, _ := strings.Cut(s, " "); method != "" {
			target, _, _ := strings.Cut(rest, " ")
			_, query, _ := strings.Cut(target, "?")
			methods, queries = append(methods, method), append(queries, query)
		}
	}
	var out strings.Builder
	rest := bytes.NewReader(raw)
	b := bufio.NewReaderSize(rest, 1<<20)
	for i := 0; ; {
		if _, err := b.Peek(1); err != nil {
			return out.String()
		}
		method, query := "GET", ""
		if i < len(methods) {
			method, query = methods[i], queries[i]
		}
		left, _ := b.Peek(b.Buffered())
		r, err := http.ReadResponse(b, &http.Request{Method: method})
		if err != nil {
			fmt.Fprintf(&out, "unreadable: %v %q\n", err, left)
			return out.String()
		}
		if r.StatusCode >= 200 {
			i++
		}
		body, err := io.ReadAll(r.Body)
		if errors.Is(err, io.ErrUnexpectedEOF) && strings.Contains(query, "Z") { // a panic: net/http has dropped the last bytes
			body = body[:min(len(body), holdSize)]
		}
		if _, ok := r.Header["Date"]; ok && r.Header.Get("Date") != "Thu, 01 Jan 1970 00:00:00 GMT" {
			r.Header.Set("Date", "now")
		}
		fmt.Fprintf(&out, "%s %v length=%d te=%v close=%v trailer=%v\n%q %v\n", r.Status, r.Header, r.ContentLength, r.TransferEncoding, r.Close, r.Trailer, body, err)
	}
}

// compare sends the same pieces to both servers. It returns how many requests the lean loop served.
func (p *pair) compare(t testing.TB, pieces [][]byte) int64 {
	t.Helper()
	before := p.handler[1].lean.Load()
	var text [2]string
	for i := range 2 {
		answer, seen := p.ask(t, i, pieces)
		text[i] = normal(answer, seen) + "\n" + strings.Join(seen, "\n")
	}
	if text[0] != text[1] {
		t.Errorf("%q:\nnet/http:\n%s\nlean:\n%s", pieces, text[0], text[1])
	}
	return p.handler[1].lean.Load() - before
}

const last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// plain are requests that the lean loop serves itself.
var plain = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a/b-c_d.e~f?x=1&y=%20 HTTP/1.1\r\nHost: example.com:80\r\nX-API-Key: abc\r\nAccept: */*\r\nUser-Agent: curl/8\r\n\r\n",
	"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n",
	"GET /%41%2Fb/../c//d HTTP/1.1\r\nHost: [::1]:80\r\nX-Empty:\r\n\r\n",
	"GET //x? HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a(b)!*'@:;$&+, HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
	"PUT /?U HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
	"PATCH / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
	"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
	"OPTIONS /x HTTP/1.1\r\nHost: x\r\nx-custom-field:  a b  \r\n\r\n",
}

// rare are requests that net/http must decide about.
var rare = []string{
	"GET / HTTP/1.0\r\nHost: x\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nHost:\r\n\r\n", "GET / HTTP/1.1\nHost: x\n\n", "GET / HTTP/1.1\r\nHost: x\n\r\n", "GET /\r\n\r\n", "\r\n\r\n", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", "get / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /  HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /\x80 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /#x HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nX: \xff\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nX:\ta\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nX_Y: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept: b\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 05\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhello",
	"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nPragma: no-cache\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: \r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 30000) + "\r\n\r\n", "GET /" + strings.Repeat("a", 30000) + " HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("b", 20000),
	"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: 1\r\n", 3) + "\r\n", "G", "GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r", "",
}

// cuts divides a text into pieces of at most n bytes.
func cuts(text string, n int) (pieces [][]byte) {
	for piece := range slices.Chunk([]byte(text), n) {
		pieces = append(pieces, piece)
	}
	return pieces
}

// Both servers answer every request in the same way, alone, behind another one, and in pieces. The
// request at the end shows whether the connection is still open.
func TestServer_SameAnswers(t *testing.T) {
	p := newPair(t)
	for _, first := range plain {
		if got := p.compare(t, [][]byte{[]byte(first + last)}); got != 2 {
			t.Errorf("%q: the lean loop served %d requests, want 2", first, got)
		}
		for _, second := range slices.Concat(plain, rare) {
			p.compare(t, [][]byte{[]byte(first), []byte(second + last)})
		}
	}
	for _, only := range slices.Concat(plain, rare) {
		p.compare(t, [][]byte{[]byte(only)})
		p.compare(t, [][]byte{[]byte(only + last)})
		if len(only) < 1000 {
			p.compare(t, cuts(only+last, 7))
			p.compare(t, cuts(only+last, 1))
		}
		p.compare(t, [][]byte{[]byte("POST / HTTP/1.1\r\nHost: x\r\n\r\n\r\n\r\n" + only + last)})
	}
	if n := p.compare(t, [][]byte{[]byte(strings.Repeat(plain[1], 400) + last)}); n != 401 {
		t.Errorf("of 401 requests the lean loop served %d", n)
	}
}

// A body that arrives after its head is waited for, but not for ever: then net/http goes on.
func TestServer_SameBodies(t *testing.T) {
	p := newPair(t)
	const head, tail = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "56789"
	pieces := [][]byte{[]byte(head), []byte("01234"), []byte(tail + head + "0"), []byte("1234"), []byte(tail + last)}
	if n := p.compare(t, pieces); n != 3 {
		t.Errorf("the lean loop served %d requests, want 3", n)
	}
	p.compare(t, pieces[:2])
	p.compare(t, pieces[:3])
	p = newPair(t)
	p.server.restWait = -1
	if n := p.compare(t, [][]byte{[]byte(plain[0] + head)}); n != 1 {
		t.Errorf("without waiting: the lean loop served %d requests, want 1", n)
	}
	p.compare(t, pieces)
}

// Both servers send every kind of answer in the same way.
func TestServer_SameKinds(t *testing.T) {
	p := newPair(t)
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := range letters {
		for j := i; j < len(letters); j++ {
			for k := j; k < len(letters); k += 5 {
				query := string([]byte{letters[i], letters[j], letters[k]})
				for _, method := range []string{"GET", "HEAD"} {
					p.compare(t, [][]byte{[]byte(method + " /?" + query + " HTTP/1.1\r\nHost: x\r\n\r\n" + last)})
				}
			}
		}
	}
}

// FuzzServer compares the two servers with random requests in random pieces.
func FuzzServer(f *testing.F) {
	for i, first := range plain {
		f.Add([]byte(first), byte(i))
	}
	for i, first := range rare {
		if len(first) < 1000 {
			f.Add([]byte(plain[i%len(plain)]+first), byte(i))
		}
	}
	f.Add([]byte("GET /?FXZ HTTP/1.1\r\nHost: x\r\n\r\nPOST /?JKV HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"), byte(9))
	f.Add([]byte("GET /?WXZ HTTP/1.1\r\nHost: x\r\n\r\n"), byte(0))
	p := newPair(f)
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		if len(data) > 4096 {
			return
		}
		n := len(data) + len(last)
		if piece > 0 {
			n = int(piece)
		}
		p.compare(t, cuts(string(data)+last, n))
	})
}
