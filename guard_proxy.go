package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"latchkey/internal/upstream"
)

// Proxy sends accepted requests to the upstream of their route. It is safe for
// concurrent use.
type Proxy struct {
	o          ProxyOptions
	quiet      *log.Logger
	buffers    buffers
	mu         sync.Mutex
	transports map[time.Duration]*http.Transport // by ResponseHeaderTimeout
	upstreams  upstream.Upstreams
}

// ProxyOptions configure a Proxy.
type ProxyOptions struct {
	Log     *slog.Logger
	Proxies []netip.Prefix // trusted proxies, whose X-Forwarded fields are used
	// ReadTimeout and WriteTimeout are the longest pauses while a client sends a
	// body or receives an answer. 0 means no timeout.
	ReadTimeout, WriteTimeout time.Duration
}

// NewProxy returns a Proxy. Call Close when it is no longer needed.
func NewProxy(o ProxyOptions) *Proxy {
	return &Proxy{o: o, quiet: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), transports: map[time.Duration]*http.Transport{}}
}

// transport returns the transport for a timeout, which is the wait for the
// header of an answer. Transports are never replaced, so idle connections
// survive a change of the routes.
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
			MaxIdleConnsPerHost:   1024, // with the default of two, most requests would dial
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // the client may not understand a compression that it did not request
		}
		p.transports[timeout] = t
	}
	return t
}

// Close closes the idle connections to upstreams.
func (p *Proxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
	p.upstreams.Close()
}

// buffers is a pool of buffers for copying bodies. It is an
// httputil.BufferPool.
type buffers struct{ pool sync.Pool }

// Get returns a buffer of 32 KiB.
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

// Put returns a buffer from Get to the pool.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }

// proxyExchange is one request to an upstream and its answer. It is the
// ResponseWriter to which the answer is written.
type proxyExchange struct {
	http.ResponseWriter
	proxy   *Proxy
	guard   *proxyRoute
	request *Request
	control *http.ResponseController
	body    *sentBody
	said    http.Header // header fields that the server had set; they override those of the upstream
	last    bool        // close the client's connection after this answer
	lost    bool        // the upstream sent 101 over HTTP/2, which does not have this status
	err     error

	extended time.Time // when the write deadline was last set
}

// Forward sends a request to the upstream of g and writes the answer to w. It
// returns ErrTooLarge for a body over the limit of the route, and ErrValidation
// for a host or query that HTTP/1.1 cannot carry. It returns ErrGatewayTime if
// the upstream does not answer in time, and ErrGateway if it fails otherwise.
// It returns ErrBodyTime if the client pauses too long in its body, and
// ErrBroken if its body breaks off or the client leaves. If an answer breaks
// off, Forward panics with http.ErrAbortHandler, so that the client notices it
// as well.
func (p *Proxy) Forward(w http.ResponseWriter, r *Request, g *proxyRoute) error {
	x := &proxyExchange{ResponseWriter: w, proxy: p, guard: g, request: r, control: http.NewResponseController(w)}
	if g.MaxBody > 0 && r.ContentLength > g.MaxBody {
		return ErrTooLarge.With("The body is larger than %d bytes.", g.MaxBody)
	}
	if strings.IndexFunc(r.URL.RawQuery, ending) >= 0 { // HTTP/2 allows these, a request line does not
		return ErrValidation.With("The query has a space or a control character. Send it escaped.")
	}
	if !httpguts.ValidHostHeader(r.Host) { // net/http checks this only for HTTP/1.1
		return ErrValidation.With("The authority of the request is not the name of a host.")
	}
	x.last = w.Header().Get("Connection") == "close"
	if len(w.Header()) > 0 { // early hints would send these fields and then clear them
		x.said = w.Header().Clone()
		clear(w.Header())
	}
	// The deadlines of the listener are for a whole request. Here they are extended
	// with each part: a slow transfer may continue, a silent one is cut off. A read
	// deadline that stays set would cancel the request as if the client had left.
	x.extendRead(r.ContentLength != 0)
	defer x.extendWrite() // for what the server writes at the end
	in := r.Request
	dropUpgrade(in)
	if head, ok := x.head(); ok {
		x.read(head)
		return x.err
	}
	x.extendWrite()
	if r.ContentLength != 0 {
		x.body = &sentBody{proxyExchange: x, from: in.Body}
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

// dropUpgrade removes the fields that ask for another protocol, so that the
// upstream sees an ordinary request (RFC 9110, section 7.8). Only a WebSocket
// handshake is left as it is. With another protocol, such as HTTP/2, further
// requests would reach the upstream without a check.
func dropUpgrade(r *http.Request) {
	for _, h := range []http.Header{r.Header, r.Trailer} {
		delete(h, "Http2-Settings")
	}
	delete(r.Trailer, "Upgrade")
	if r.Header["Upgrade"] != nil && !isHandshake(r) {
		delete(r.Header, "Upgrade")
	}
}

// isHandshake reports whether a request is a complete WebSocket handshake (RFC
// 6455, section 4.1), and remains one after the fields that Connection names
// are removed.
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

// onlyWebSocket reports whether an Upgrade field has the one value websocket,
// in any case. The check of the length excludes non-ASCII letters that
// EqualFold treats as equal to ASCII letters.
func onlyWebSocket(upgrade []string) bool {
	const name = "websocket"
	return len(upgrade) == 1 && len(upgrade[0]) == len(name) && strings.EqualFold(upgrade[0], name)
}

// head returns the head of the request to the upstream if Upstreams can send
// it. Upstreams handles only GET and HEAD over plain HTTP, without a body,
// without an upgrade and on systems where SilentKnown is true. For other
// requests head returns false, and httputil.ReverseProxy sends them.
func (x *proxyExchange) head() ([]byte, bool) {
	r, up := x.request.Request, x.guard.Upstream
	if !upstream.SilentKnown || r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0 || up.Scheme != "http" {
		return nil, false
	}
	if strings.ContainsFunc(up.Host, unsendable) || strings.Contains(up.Host, "%") || strings.HasSuffix(up.Host, ":") {
		return nil, false // the Host field spells such a name, zone or port differently
	}
	uri := x.path()
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		uri += "?" + r.URL.RawQuery
	}
	if strings.ContainsFunc(uri, unsendable) {
		return nil, false
	}
	b := append(make([]byte, 0, 1024), r.Method...)
	b = append(append(b, ' '), uri...)
	b = append(append(b, " HTTP/1.1\r\nHost: "...), up.Host...)
	b = append(b, "\r\n"...)
	b, ok := x.fields(b)
	return append(b, "\r\n"...), ok
}

// fields appends the client's header fields and ours to b. It returns false if
// Upstreams cannot send one of them.
func (x *proxyExchange) fields(b []byte) ([]byte, bool) {
	for name, values := range x.request.Header {
		switch name {
		case "Connection":
			if slices.ContainsFunc(values, func(v string) bool { return !strings.EqualFold(v, "keep-alive") && !strings.EqualFold(v, "close") }) {
				return nil, false
			}
			continue
		case "Keep-Alive", "Proxy-Connection", "Content-Length", "Forwarded", "Host": // a request over HTTP/2 may contain Host
			continue
		case "Expect", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization":
			return nil, false
		}
		if forged(name) {
			continue
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
	v := x.forwarded()
	for i, name := range forwardedFields {
		b = appendField(b, name, v[i])
	}
	return b, httpguts.ValidHeaderFieldValue(v[1]) && httpguts.ValidHeaderFieldValue(v[2])
}

// ending reports whether c would end the target in a request line: a control
// character or a space.
func ending(c rune) bool { return c <= ' ' || c == 0x7f }

// unsendable reports whether c must not appear in a request target: it must be
// printable ASCII.
func unsendable(c rune) bool { return ending(c) || c > 0x7f }

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// read sends head through Upstreams and writes the answer.
func (x *proxyExchange) read(head []byte) {
	res, err := x.proxy.upstreams.Ask(x.request.Request, x.guard.Upstream.Host, head, x.guard.Timeout, func(early *http.Response) {
		x.extendWrite()
		x.take(early.Header)
		x.WriteHeader(early.StatusCode)
		clear(x.Header())
	})
	if err != nil {
		x.fail(x, x.request.Request, err)
		return
	}
	defer res.Body.Close()
	_ = x.answer(res) // never an error: Upstreams refuses such a status itself
	x.take(res.Header)
	said := slices.Sorted(maps.Keys(res.Trailer))
	if len(said) > 0 {
		x.Header()["Trailer"] = []string{strings.Join(said, ", ")}
	}
	x.WriteHeader(res.StatusCode)
	// A body of unknown length may be a stream, so each part is flushed.
	if err := x.copy(res.Body, res.ContentLength < 0 || len(said) > 0); err != nil {
		x.proxy.quiet.Printf("request %s: the answer broke off: %v", x.request.ID, err)
		panic(http.ErrAbortHandler) // so that the client sees that the answer is incomplete
	}
	for name, values := range res.Trailer {
		if !slices.Contains(said, name) {
			name = http.TrailerPrefix + name
		}
		x.Header()[name] = values
	}
}

// take copies the header fields of an answer, except those for a single
// connection (RFC 9110, section 7.6.1). Before that it deletes the fields that
// Connection names, in the header it copies.
func (x *proxyExchange) take(from http.Header) {
	for _, list := range from["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			from.Del(strings.TrimSpace(name))
		}
	}
	h := x.Header()
	for name, values := range from {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization":
		default:
			h[name] = values
		}
	}
}

// copy writes a body to the client. If live is true, it flushes after each
// part. The error is that of the reader or of the writer.
func (x *proxyExchange) copy(from io.Reader, live bool) error {
	buf := x.proxy.buffers.Get()
	defer x.proxy.buffers.Put(buf)
	for {
		if live {
			_ = x.control.Flush() // the next Write reports the error
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := x.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// extendRead sets the read deadline for the next part of the body, or removes
// it if more is false.
func (x *proxyExchange) extendRead(more bool) {
	until := time.Time{}
	if more && x.proxy.o.ReadTimeout > 0 {
		until = time.Now().Add(x.proxy.o.ReadTimeout)
	}
	_ = x.control.SetReadDeadline(until) // if deadlines are not supported, none is set
}

// extendWrite sets the write deadline for the next part of the answer.
func (x *proxyExchange) extendWrite() {
	most := x.proxy.o.WriteTimeout
	if now := time.Now(); most > 0 && now.Sub(x.extended) > most/64 { // shortly after the last change the deadline is still nearly right
		_ = x.control.SetWriteDeadline(now.Add(most))
		x.extended = now
	}
}

// WriteHeader begins the answer. It sets Connection: close again if the server
// had set it, because the reverse proxy removes all fields of the connection.
func (x *proxyExchange) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols { // a valid switch of protocols hijacks the connection instead
		x.lost = true
		return
	}
	if x.last && status >= http.StatusOK {
		x.Header().Set("Connection", "close")
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write sends part of the body and extends the write deadline.
func (x *proxyExchange) Write(b []byte) (int, error) {
	x.extendWrite()
	return x.ResponseWriter.Write(b)
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (x *proxyExchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// sentBody is the body that the client sends. It records why reading failed, so
// that faults of the client and of the upstream can be distinguished.
type sentBody struct {
	*proxyExchange
	from io.ReadCloser
	err  error
	ends http.Header // trailer of the request to the upstream; nil: none
}

// Read reads the next part and extends the read deadline. At the end it fills
// in the trailer.
func (b *sentBody) Read(buf []byte) (int, error) {
	b.extendRead(true)
	n, err := b.from.Read(buf)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		b.err = err // the deadline stays: net/http reads on for a while to keep the connection
		return n, err
	}
	b.extendRead(false)
	for name := range b.ends { // the trailer was received with the end of the body
		b.ends[name] = b.request.Trailer[name]
	}
	return n, err
}

// Close closes the client's body.
func (b *sentBody) Close() error { return b.from.Close() }

// answer prepares the header of the upstream's answer for the client. Fields
// that the server had set, such as Cache-Control for a key in the URL, override
// those of the upstream. A missing Content-Type is not guessed. The error is
// for a status below 100, which net/http reads but cannot write, and for a 101
// that does not accept a WebSocket handshake.
func (x *proxyExchange) answer(res *http.Response) error {
	switch {
	case res.StatusCode < 100:
		return fmt.Errorf("an answer with status %d", res.StatusCode)
	case x.lost:
		return errNotAsked
	case res.StatusCode == http.StatusSwitchingProtocols:
		if err := checkSwitch(res); err != nil {
			return err
		}
	}
	if res.Header["Content-Type"] == nil {
		x.Header()["Content-Type"] = nil
	}
	maps.Copy(res.Header, x.said)
	return nil
}

var errNotAsked = errors.New("an answer with status 101, which was not asked for")

// checkSwitch returns an error if an answer with status 101 does not accept the
// WebSocket handshake of its request. Another value of Sec-WebSocket-Accept
// shows that the answer is for another request (RFC 6455, section 4.2.2). A
// missing Sec-WebSocket-Accept is left to the client, which must then fail the
// connection (section 4.1).
func checkSwitch(res *http.Response) error {
	sent := res.Request.Header
	if !onlyWebSocket(sent["Upgrade"]) {
		return errNotAsked
	}
	if to := res.Header["Upgrade"]; !onlyWebSocket(to) {
		return fmt.Errorf("a switch to the protocol %q, where websocket was asked for", strings.Join(to, ", "))
	}
	sum := sha1.Sum([]byte(sent.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if accept := res.Header["Sec-Websocket-Accept"]; accept != nil && !slices.Equal(accept, []string{base64.StdEncoding.EncodeToString(sum[:])}) {
		return errors.New("a switch to websocket with a Sec-WebSocket-Accept for another request")
	}
	return nil
}

// fail stores in x.err what Forward returns for a request without an answer,
// and logs faults of the upstream.
func (x *proxyExchange) fail(w http.ResponseWriter, r *http.Request, err error) {
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

// rewrite turns the client's request into the request to the upstream. It is
// the Rewrite function of httputil.ReverseProxy.
func (x *proxyExchange) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL, out.Host = x.target(), ""
	dropForged(out.Header)
	dropForged(out.Trailer)
	if x.body != nil && len(out.Trailer) > 0 {
		x.body.ends = out.Trailer
	}
	identify(out.Header, x.request)
	v := x.forwarded()
	for i, name := range forwardedFields {
		out.Header[name] = v[i : i+1 : i+1]
	}
}

// target returns the URL at the upstream.
func (x *proxyExchange) target() *url.URL {
	in, up := x.request.URL, x.guard.Upstream
	return &url.URL{
		Scheme: up.Scheme, Host: up.Host, Path: up.Path + cutSegments(in.Path, x.stripped()), RawPath: x.path(),
		RawQuery: in.RawQuery, ForceQuery: in.ForceQuery,
	}
}

// path returns the path at the upstream in its escaped form.
func (x *proxyExchange) path() string {
	return x.guard.Upstream.EscapedPath() + cutSegments(x.request.URL.EscapedPath(), x.stripped())
}

// stripped returns the number of segments that StripPrefix removes.
func (x *proxyExchange) stripped() int { return len(Segments(x.guard.StripPrefix)) }

var forwardedFields = [...]string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// forwarded returns the values of forwardedFields, in that order.
func (x *proxyExchange) forwarded() [len(forwardedFields)]string {
	in := x.request.Request
	v := [...]string{forwardedFor(in, x.proxy.o.Proxies), in.Host, "http"}
	if in.TLS != nil {
		v[2] = "https"
	}
	if FromProxy(in, x.proxy.o.Proxies) { // a trusted proxy knows what the client sent
		for i, name := range forwardedFields[1:] {
			if said := in.Header[name]; len(said) == 1 && said[0] != "" {
				v[1+i] = said[0]
			}
		}
	}
	return v
}

// cutSegments returns path without its first n segments, at least "/". path
// must begin with a slash and have no empty segments.
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

// forwardedFor returns the addresses that the request came through, as far as
// they are known: first the client, then the trusted proxies.
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

// dropForged removes the fields that a client must not send to an upstream: its
// identity, its address, another method or path than the one that was checked,
// and its key. CGI-like servers turn every field into a variable and treat all
// characters except letters and digits alike, so X_Auth_Key_Id counts as
// X-Auth-Key-Id.
func dropForged(h http.Header) {
	for name := range h {
		if forged(name) {
			delete(h, name)
		}
	}
}

// forged reports whether dropForged removes fields with this name.
func forged(name string) bool {
	if len(name) < 3 || name[0]|0x20 != 'x' { // all such names begin with x
		return false
	}
	plain := strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c | 0x20
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			return c
		}
		return '-'
	}, name)
	switch plain {
	case "x-auth-key-id", "x-auth-key-name", "x-auth-owner", "x-auth-permissions", "x-auth-environment", "x-request-id", "x-api-key",
		"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-url", "x-rewrite-url", "x-original-uri", "x-original-method",
		"x-http-method", "x-http-method-override", "x-method-override":
		return true
	}
	return strings.HasPrefix(plain, "x-forwarded-")
}

// identify sets the fields that identify the key. It sets all of them, even to
// "", so that no field of the client can be taken for one of ours.
func identify(h http.Header, r *Request) {
	v := identity(r)
	for i, name := range identityFields {
		h[name] = v[i : i+1 : i+1]
	}
}

// identity returns the values of identityFields for a request, in that order.
func identity(r *Request) [len(identityFields)]string {
	k := r.Key
	return [...]string{
		k.ID, headerText(k.Name), headerText(k.OwnerName), strings.Join(k.PermissionNames(), ","), headerText(k.Environment), r.ID,
	}
}

// identityFields are the fields that identify the key to the upstream, and the
// id of the request.
var identityFields = [...]string{"X-Auth-Key-Id", "X-Auth-Key-Name", "X-Auth-Owner", "X-Auth-Permissions", "X-Auth-Environment", "X-Request-Id"}

// headerText returns a text as the value of a header field. It escapes every
// byte that is not printable ASCII, a space at either end and the percent sign,
// as in a URL (RFC 3986, section 2.1). Unescaping restores the text.
func headerText(s string) string {
	safe := func(i int) bool {
		return s[i] > ' ' && s[i] < 0x7f && s[i] != '%' || s[i] == ' ' && i > 0 && i < len(s)-1
	}
	plain := true
	for i := range len(s) {
		plain = plain && safe(i)
	}
	if plain {
		return s
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if safe(i) {
			b.WriteByte(s[i])
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[s[i]>>4])
		b.WriteByte(digits[s[i]&15])
	}
	return b.String()
}
