package main

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// Proxy passes requests that have been let through on to the upstream of their
// route. It is safe for concurrent use.
type Proxy struct {
	o          ProxyOptions
	quiet      *log.Logger
	buffers    buffers
	mu         sync.Mutex
	transports map[time.Duration]*http.Transport // by the time they wait for an answer
}

// ProxyOptions are what a Proxy is made of.
type ProxyOptions struct {
	Log     *slog.Logger
	Proxies []netip.Prefix // whose X-Forwarded-... are believed
	// A client may be silent for so long while it sends a body, or takes one.
	ReadTimeout, WriteTimeout time.Duration
}

// NewProxy makes a proxy.
func NewProxy(o ProxyOptions) *Proxy {
	return &Proxy{o: o, quiet: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), transports: map[time.Duration]*http.Transport{}}
}

// transport gives the transport for a time to wait. Connections are kept by it,
// over changes of the routes too.
func (p *Proxy) transport(timeout time.Duration) *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.transports[timeout]
	if t == nil {
		t = &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: timeout,
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   1024, // the standard two would make most requests dial
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // what the client did not ask for it may not understand
		}
		p.transports[timeout] = t
	}
	return t
}

// Close lets go of connections that wait for a request.
func (p *Proxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
}

// buffers lends what bodies are copied with.
type buffers struct{ pool sync.Pool }

// Get lends a buffer.
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

// Put takes it back.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }

// passage is one request on its way to its upstream and its answer on the way
// back.
type passage struct {
	http.ResponseWriter
	proxy   *Proxy
	guard   *Guard
	request *Request
	door    *http.ResponseController
	body    *sentBody
	said    http.Header // what the door has said of the answer before
	last    bool        // the connection ends with this answer
	err     error
}

// Forward passes a request on and its answer back. The error is ErrGateway or
// ErrGatewayTime where there is none, ErrTooLarge for a body over the route's
// limit. It panics with http.ErrAbortHandler where an answer breaks off, so that
// the client sees that too.
func (p *Proxy) Forward(w http.ResponseWriter, r *Request, g *Guard) error {
	x := &passage{ResponseWriter: w, proxy: p, guard: g, request: r, door: http.NewResponseController(w)}
	if g.MaxBody > 0 && r.ContentLength > g.MaxBody {
		return ErrTooLarge.With("The body is larger than %d bytes.", g.MaxBody)
	}
	x.last = w.Header().Get("Connection") == "close"
	x.said = w.Header().Clone() // early hints would be sent with what is set, and leave nothing of it
	clear(w.Header())
	// The door's times are for a whole request. Here each part has them: what
	// goes on may last, and who is silent is cut off. A time to read that is
	// left standing would end the request as if the client had gone away.
	x.extendRead(r.ContentLength != 0)
	x.extendWrite()
	defer x.extendWrite() // for what the door adds at the end
	in := r.Request
	if r.ContentLength != 0 {
		x.body = &sentBody{passage: x, from: in.Body}
		if g.MaxBody > 0 {
			x.body.from = http.MaxBytesReader(nil, in.Body, g.MaxBody)
		}
		in.Body = x.body
	}
	proxy := httputil.ReverseProxy{
		Rewrite: x.rewrite, ModifyResponse: x.answer, ErrorHandler: x.fail, Transport: p.transport(g.Timeout), BufferPool: &p.buffers,
		ErrorLog: p.quiet,
	}
	proxy.ServeHTTP(x, in)
	return x.err
}

// extendRead gives the client another while for the next part of its body, or
// all the time where there is none to come.
func (x *passage) extendRead(more bool) {
	until := time.Time{}
	if more && x.proxy.o.ReadTimeout > 0 {
		until = time.Now().Add(x.proxy.o.ReadTimeout)
	}
	_ = x.door.SetReadDeadline(until) // where that is not possible there is no such time either
}

func (x *passage) extendWrite() {
	if x.proxy.o.WriteTimeout > 0 {
		_ = x.door.SetWriteDeadline(time.Now().Add(x.proxy.o.WriteTimeout))
	}
}

// WriteHeader begins the answer. That the connection ends with it is for the
// door to say, and the reverse proxy takes every word on connections away.
func (x *passage) WriteHeader(status int) {
	if x.last && status >= http.StatusOK {
		x.Header().Set("Connection", "close")
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the answer.
func (x *passage) Write(b []byte) (int, error) {
	x.extendWrite()
	return x.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (x *passage) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// sentBody is the body that the client sends. It keeps why it broke off, to
// tell the client's faults from the upstream's.
type sentBody struct {
	*passage
	from io.ReadCloser
	err  error
	ends http.Header // the trailer of the request to the upstream, nil for none
}

// Read gives the next part.
func (b *sentBody) Read(buf []byte) (int, error) {
	b.extendRead(true)
	n, err := b.from.Read(buf)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		b.err = err // the time to read stays: the door reads on for a while, to keep the connection
		return n, err
	}
	b.extendRead(false)
	for name := range b.ends { // they came with the end
		b.ends[name] = b.request.Trailer[name]
	}
	return n, err
}

// Close ends the reading.
func (b *sentBody) Close() error { return b.from.Close() }

// answer prepares the upstream's answer for the client. What we said about
// caching an answer to a key in the URL goes before what the upstream says.
func (x *passage) answer(res *http.Response) error {
	maps.Copy(res.Header, x.said)
	return nil
}

// fail keeps the error for a request that got no answer.
func (x *passage) fail(w http.ResponseWriter, r *http.Request, err error) {
	maps.Copy(w.Header(), x.said)
	var tooLarge *http.MaxBytesError
	var late net.Error
	switch {
	case errors.As(err, &tooLarge):
		x.err = ErrTooLarge.With("The body is larger than %d bytes.", tooLarge.Limit)
		return
	case x.body != nil && x.body.err != nil && errors.Is(x.body.err, os.ErrDeadlineExceeded):
		x.err = ErrBodyTime
		return
	case x.body != nil && x.body.err != nil, errors.Is(err, context.Canceled):
		x.err = ErrBroken
		return
	case errors.As(err, &late) && late.Timeout():
		x.err = ErrGatewayTime
	default:
		x.err = ErrGateway
	}
	x.proxy.o.Log.Warn("upstream failed", "id", x.request.ID, "route", x.guard.Path, "upstream", x.guard.Upstream.Host, "error", err)
}

// rewrite makes the request to the upstream out of the client's.
func (x *passage) rewrite(pr *httputil.ProxyRequest) {
	out, up := pr.Out, x.guard.Upstream
	out.URL.Scheme, out.URL.Host, out.Host = up.Scheme, up.Host, ""
	raw := cutSegments(pr.In.URL.EscapedPath(), len(Segments(x.guard.StripPrefix)))
	out.URL.Path = up.Path + cutSegments(pr.In.URL.Path, len(Segments(x.guard.StripPrefix)))
	out.URL.RawPath = up.EscapedPath() + raw
	out.URL.RawQuery, out.URL.ForceQuery = pr.In.URL.RawQuery, pr.In.URL.ForceQuery
	DropForged(out.Header)
	DropForged(out.Trailer)
	if x.body != nil && len(out.Trailer) > 0 {
		x.body.ends = out.Trailer
	}
	h := out.Header
	Identify(h, x.request)
	h["X-Forwarded-For"] = []string{forwardedFor(pr.In, x.proxy.o.Proxies)}
	h["X-Forwarded-Host"], h["X-Forwarded-Proto"] = []string{pr.In.Host}, []string{"http"}
	if pr.In.TLS != nil {
		h["X-Forwarded-Proto"] = []string{"https"}
	}
	if FromProxy(pr.In, x.proxy.o.Proxies) { // then it knows better than we
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
			if said := pr.In.Header[name]; len(said) == 1 && said[0] != "" {
				h[name] = said
			}
		}
	}
}

// cutSegments takes the first n segments from a path, which has no empty ones.
func cutSegments(path string, n int) string {
	for range n {
		i := strings.IndexByte(path[1:], '/')
		if i < 0 {
			return "/"
		}
		path = path[i+1:]
	}
	return path
}

// forwardedFor lists the addresses that the request came by, as far as they are
// known: the client's first, and those of declared proxies.
func forwardedFor(r *http.Request, proxies []netip.Prefix) string {
	hops := ClientPath(r, proxies)
	if len(hops) == 1 {
		return hops[0].String()
	}
	var b strings.Builder
	for i := range hops {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(hops[len(hops)-1-i].String())
	}
	return b.String()
}
