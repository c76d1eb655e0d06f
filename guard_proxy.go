package main

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"latchkey/internal/upstream"
)

// Proxy sends accepted requests to the upstream of their route. It is safe for concurrent use.
type Proxy struct {
	o          ProxyOptions
	quiet      *log.Logger // logs to o.Log at debug level
	buffers    buffers
	mu         sync.Mutex
	transports map[time.Duration]upstream.Framed // by their ResponseHeaderTimeout, the Timeout of a route
	upstreams  upstream.Pool
}

// ProxyOptions configure a Proxy.
type ProxyOptions struct {
	Log     *slog.Logger
	Proxies Proxies // trusted proxies: their X-Forwarded-* and Forwarded fields are believed
	// ReadTimeout is the longest pause while a client sends its body. WriteTimeout is the longest
	// pause while it receives its answer. 0 means no timeout.
	ReadTimeout, WriteTimeout time.Duration
	Hold                      upstream.Hold // makes room for each connection to an upstream
}

// NewProxy returns a Proxy. Call Close to close the idle connections when it is no longer needed.
func NewProxy(o ProxyOptions) *Proxy {
	p := &Proxy{o: o, quiet: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), transports: map[time.Duration]upstream.Framed{}}
	p.upstreams.Hold = o.Hold
	return p
}

// transport returns the transport that waits at most timeout for the header of an answer; 0 means
// no timeout. Each transport is kept for as long as the Proxy, so that idle connections survive a
// change of the routes.
func (p *Proxy) transport(timeout time.Duration) upstream.Framed {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.transports[timeout]
	if !ok {
		t = upstream.NewFramed(&http.Transport{
			ResponseHeaderTimeout: timeout,
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   1024, // with the default of 2, most requests would need a new connection
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // the client may not understand a compression that it did not request
		}, p.o.Hold)
		p.transports[timeout] = t
	}
	return t
}

// CloseIdle closes the idle connections to upstreams. Connections in use are kept, and the Proxy
// keeps new idle ones.
func (p *Proxy) CloseIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
	p.upstreams.CloseIdle()
}

// Close closes the idle connections to upstreams. The Proxy must not be used any more.
func (p *Proxy) Close() {
	p.CloseIdle()
	p.upstreams.Close()
}

// buffers is a pool of buffers for copying bodies. It implements httputil.BufferPool.
type buffers struct{ pool sync.Pool }

// Get returns a buffer of 32 KiB.
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

// Put returns a buffer to the pool. buf must come from Get.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }

// headerTime is how long the header of an answer waits for the first part of the body, to be sent
// together. upstream.Pool has about the same time.
const headerTime = 20 * time.Millisecond

// proxyExchange is one request to an upstream and its answer. It is also the ResponseWriter to
// which the answer of the upstream is written.
type proxyExchange struct {
	http.ResponseWriter
	proxy   *Proxy
	guard   *proxyRoute
	request *Request
	control *http.ResponseController
	body    *sentBody                    // nil: the request has no body
	stream  bool                         // the answer's header and each part of its body are sent immediately
	left    int64                        // bytes of the answer's body that are still to be written; negative: unknown
	said    http.Header                  // header fields that Latchkey has set; they override fields of the upstream
	last    bool                         // the client's connection must be closed after this answer
	about   [len(forwardedFields)]string // values of forwardedFields
	lost    bool                         // the upstream sent status 101 over HTTP/2, which does not allow it
	err     error                        // what Forward returns; nil: the answer was written
	cancel  func()                       // cancels the result of Context; nil: Context was not called

	extended time.Time // time of the last change of the write deadline
}

// Ender is a ResponseWriter whose exchange can be ended before its answer is complete.
type Ender interface {
	http.ResponseWriter
	// OnEnd makes the end of the exchange call f, in place of an earlier f. If the exchange was
	// ended already, it calls f immediately. f is not called after the handler has returned.
	OnEnd(f func())
}

// Streamer is a ResponseWriter whose exchange counts as a request until it becomes a stream.
type Streamer interface {
	http.ResponseWriter
	// BeginStream must be called before the header of a WebSocket connection or of an answer of the
	// type text/event-stream is sent. It returns ErrRateLimit if the key has too many streams.
	BeginStream() error
}

// context returns a context for the request to the upstream. It is canceled with the client's
// request, and also if the exchange is ended early. upstream.Pool calls context only for requests
// that last long, so the others need no context of their own.
func (x *proxyExchange) context() context.Context {
	ctx, cancel := context.WithCancel(x.request.Request.Context())
	x.cancel = cancel
	if e, ok := x.ResponseWriter.(Ender); ok {
		e.OnEnd(cancel)
	}
	return ctx
}

// Forward sends a request to the upstream of g and writes the answer to w. It returns ErrTooLarge
// for a body over the limit of the route, and ErrValidation for a host that HTTP/1.1 cannot
// carry or for a host or path that contains a key. It returns ErrGatewayTime if the upstream
// does not answer in time, and ErrGateway if the upstream fails in another way. It returns
// ErrBodyTime if the client pauses too long while it sends its body, and ErrBroken if the client's
// body ends too early or the client disconnects. If the upstream's answer ends too early, Forward
// panics with http.ErrAbortHandler, so that the client's connection is aborted too.
func (p *Proxy) Forward(w http.ResponseWriter, r *Request, g *proxyRoute) error {
	x := &proxyExchange{ResponseWriter: w, proxy: p, guard: g, request: r, control: http.NewResponseController(w)}
	if g.MaxBody > 0 && r.ContentLength > g.MaxBody {
		return ErrTooLarge.With("The body is larger than %d bytes.", g.MaxBody)
	}
	if !httpguts.ValidHostHeader(r.Host) { // net/http checks this only for HTTP/1.1
		return ErrValidation.With("The Host of the request is not a valid host name. Correct it and send the request again.")
	}
	if err := x.clean(); err != nil {
		return err
	}
	x.last = w.Header().Get("Connection") == "close"
	if len(w.Header()) > 0 { // otherwise an early hints answer would send these fields and then remove them
		x.said = w.Header().Clone()
		delete(x.said, "Connection") // the upstream's says which of its fields must not be forwarded
		clear(w.Header())
	}
	// The deadlines of the listener are for a whole request. Here each part of a body extends
	// them, so a slow transfer may continue, but one without progress is ended. The read deadline
	// must be removed at the end of the body. Otherwise net/http would cancel the request when it
	// passes, as if the client had disconnected.
	if r.ContentLength != 0 {
		x.extendRead()
	} else {
		x.clearRead()
	}
	defer x.extendWrite() // for what the server still writes after Forward
	in := r.Request
	dropUpgrade(in)
	if head, ok := x.head(); ok {
		x.read(head)
		return x.err
	}
	x.extendWrite()
	in = in.WithContext(x.context())
	defer x.cancel()
	if r.ContentLength != 0 {
		x.body = &sentBody{proxyExchange: x, from: in.Body}
		if g.MaxBody > 0 {
			x.body.from = http.MaxBytesReader(nil, in.Body, g.MaxBody)
		}
		in.Body = x.body
	}
	proxy := httputil.ReverseProxy{
		Rewrite: x.rewrite, ModifyResponse: x.answer, ErrorHandler: x.fail, Transport: p.transport(g.Timeout), BufferPool: &p.buffers,
		ErrorLog: p.quiet, FlushInterval: headerTime,
	}
	proxy.ServeHTTP(x, in)
	return x.err
}

// clean prepares the client's request for the upstream, before it is sent in one of the two ways. It
// sets x.about, and removes the secrets of Latchkey and the fields that a client must not choose. It
// returns ErrValidation if a secret cannot be removed.
func (x *proxyExchange) clean() error {
	r := x.request
	x.about = x.forwarded()
	if err := r.DropSecrets(); err != nil {
		return err
	}
	if FromProxy(r.Request, x.proxy.o.Proxies) {
		dropUntold(r.Header, r.Client)
	} else {
		dropForged(r.Header)
	}
	dropForged(r.Trailer)
	r.Secrets.DropFrom(r.Trailer) // its names; the values are received later
	return nil
}

// dropUpgrade removes the header fields that request another protocol, so that the upstream
// receives an ordinary request (RFC 9110, section 7.8). It leaves a valid WebSocket handshake as it
// is. With another protocol, such as HTTP/2, further requests could be sent through the connection
// without a check.
func dropUpgrade(r *http.Request) {
	for _, h := range []http.Header{r.Header, r.Trailer} {
		delete(h, "Http2-Settings")
	}
	delete(r.Trailer, "Upgrade")
	if r.Header["Upgrade"] != nil && !isHandshake(r) {
		delete(r.Header, "Upgrade")
	}
}

// isHandshake reports whether a request is a complete WebSocket handshake (RFC 6455, section 4.1).
// It returns false if Connection names a field of the handshake, because named fields are removed
// before the request is forwarded.
func isHandshake(r *http.Request) bool {
	h, key := r.Header, r.Header["Sec-Websocket-Key"]
	named := func(token string) bool { return httpguts.HeaderValuesContainsToken(h["Connection"], token) }
	switch {
	case r.Method != http.MethodGet, r.ProtoMajor != 1, r.ProtoMinor != 1, r.ContentLength != 0:
		return false
	case !onlyWebSocket(h["Upgrade"]), !slices.Equal(h["Sec-Websocket-Version"], []string{"13"}), len(key) != 1:
		return false
	case !named("Upgrade"), named("Sec-WebSocket-Key"), named("Sec-WebSocket-Version"):
		return false
	}
	nonce, err := base64.StdEncoding.DecodeString(key[0])
	return err == nil && len(nonce) == 16
}

// onlyWebSocket reports whether an Upgrade field has the single value websocket, in upper or lower
// case. The length is checked because EqualFold treats some non-ASCII letters as equal to ASCII
// letters.
func onlyWebSocket(upgrade []string) bool {
	const name = "websocket"
	return len(upgrade) == 1 && len(upgrade[0]) == len(name) && strings.EqualFold(upgrade[0], name)
}

// head returns the head of the request to the upstream, if upstream.Pool can send the request.
// This is so only for GET and HEAD over plain HTTP, without a body or an upgrade, and only if
// upstream.SilentKnown is true. Otherwise head returns false, and the caller must use
// httputil.ReverseProxy.
func (x *proxyExchange) head() ([]byte, bool) {
	r, up := x.request.Request, x.guard.Upstream
	if !upstream.SilentKnown || r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0 || up.Scheme != "http" {
		return nil, false
	}
	if strings.ContainsFunc(up.Host, unsendable) || strings.Contains(up.Host, "%") || strings.HasSuffix(up.Host, ":") {
		return nil, false // in the Host field, such a name, zone or port must be written differently
	}
	uri := x.path()
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		uri += "?" + r.URL.RawQuery
	}
	b := append(make([]byte, 0, 1024), r.Method...)
	b = append(append(b, ' '), uri...)
	b = append(append(b, " HTTP/1.1\r\nHost: "...), up.Host...)
	b = append(b, "\r\n"...)
	b, ok := x.fields(b)
	return append(b, "\r\n"...), ok
}

// fields appends the header fields for the upstream to b: the fields of the client and the fields
// that Latchkey adds. It returns false if upstream.Pool cannot send one of them.
func (x *proxyExchange) fields(b []byte) ([]byte, bool) {
	for name, values := range x.request.Header {
		switch name {
		case "Connection":
			if slices.ContainsFunc(values, func(v string) bool { return !strings.EqualFold(v, "keep-alive") && !strings.EqualFold(v, "close") }) {
				return nil, false
			}
			continue
		case "Keep-Alive", "Proxy-Connection", "Content-Length", "Host": // over HTTP/2, a client can send Host as well
			continue
		case "Expect", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization":
			return nil, false
		}
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, false
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	for i, v := range identity(x.request) {
		b = appendField(b, identityFields[i], v)
	}
	for i, name := range forwardedFields {
		b = appendField(b, name, x.about[i])
	}
	return b, httpguts.ValidHeaderFieldValue(x.about[1]) && httpguts.ValidHeaderFieldValue(x.about[2])
}

// unsendable reports whether c cannot be part of a host name, because it is not printable ASCII or
// is a space.
func unsendable(c rune) bool { return c <= ' ' || c >= 0x7f }

// appendField appends a header field with its line end to b.
func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// extendRead sets the read deadline for the next part of the client's body.
func (x *proxyExchange) extendRead() {
	if x.proxy.o.ReadTimeout <= 0 {
		x.clearRead()
		return
	}
	// An error means that the writer does not support deadlines.
	_ = x.control.SetReadDeadline(time.Now().Add(x.proxy.o.ReadTimeout))
}

// clearRead removes the read deadline.
func (x *proxyExchange) clearRead() { _ = x.control.SetReadDeadline(time.Time{}) }

// extendWrite sets the write deadline for the next part of the answer.
func (x *proxyExchange) extendWrite() {
	timeout := x.proxy.o.WriteTimeout
	if now := time.Now(); timeout > 0 && now.Sub(x.extended) > timeout/64 { // for a short time the last deadline is still nearly right
		_ = x.control.SetWriteDeadline(now.Add(timeout))
		x.extended = now
	}
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (x *proxyExchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// sentBody is the body that the client sends. It stores why reading failed, so that faults of the
// client can be distinguished from faults of the upstream.
type sentBody struct {
	*proxyExchange
	from io.ReadCloser // the client's body
	err  error         // the error of from; nil: none so far, or only io.EOF
	ends http.Header   // trailer of the request to the upstream; nil: none
}

// Read reads the next part and extends the read deadline. At the end of the body it removes the
// deadline and fills in the trailer.
func (b *sentBody) Read(buf []byte) (int, error) {
	b.extendRead()
	n, err := b.from.Read(buf)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		b.err = err // the deadline stays set, because net/http may still read the rest of the body
		return n, err
	}
	b.clearRead()
	for name := range b.ends { // the trailer is received after the body
		b.ends[name] = b.request.Trailer[name]
	}
	b.request.Secrets.DropFrom(b.ends)
	return n, err
}

// Close closes the client's body.
func (b *sentBody) Close() error { return b.from.Close() }

// fail sets x.err for a request that the upstream did not answer, and logs faults of the upstream.
// It is the ErrorHandler of httputil.ReverseProxy.
func (x *proxyExchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	maps.Copy(w.Header(), x.said)
	if x.last {
		w.Header().Set("Connection", "close")
	}
	var tooLarge *http.MaxBytesError
	var late net.Error
	var refused *Error
	switch {
	case errors.As(err, &refused):
		x.err = refused
		return
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

// rewrite turns the client's request into the request to the upstream. It is the Rewrite function
// of httputil.ReverseProxy.
func (x *proxyExchange) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL, out.Host = x.target(), ""
	if x.body != nil && len(out.Trailer) > 0 {
		x.body.ends = out.Trailer
	}
	identify(out.Header, x.request)
	for i, name := range forwardedFields {
		out.Header[name] = x.about[i : i+1 : i+1]
	}
}

// target returns the URL of the request to the upstream. The path is in Opaque, because net/http
// sends that as it is, whereas it would escape some characters of RawPath.
func (x *proxyExchange) target() *url.URL {
	in, up := x.request.URL, x.guard.Upstream
	return &url.URL{Scheme: up.Scheme, Host: up.Host, Opaque: x.path(), RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
}

// path returns the path of the request to the upstream. What the client sent of it is unchanged,
// byte for byte.
func (x *proxyExchange) path() string {
	return x.guard.Upstream.EscapedPath() + cutSegments(sentPath(x.request.URL), x.stripped())
}

// stripped returns how many segments StripPrefix removes from the path.
func (x *proxyExchange) stripped() int { return len(Segments(x.guard.StripPrefix)) }

// cutSegments returns path without its first n segments, or "/" if nothing remains. path must begin
// with a slash and have no empty segments.
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
