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

// Proxy passes requests that have been let through on to the upstream of their
// route. It is safe for concurrent use.
type Proxy struct {
	o          ProxyOptions
	quiet      *log.Logger
	buffers    buffers
	mu         sync.Mutex
	transports map[time.Duration]*http.Transport // by the time they wait for an answer
	upstreams  upstream.Upstreams
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
	p.upstreams.Close()
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

// proxyExchange is one request on its way to its upstream and its answer on the way
// back.
type proxyExchange struct {
	http.ResponseWriter
	proxy   *Proxy
	guard   *proxyRoute
	request *Request
	door    *http.ResponseController
	body    *sentBody
	said    http.Header // what the door has said of the answer before
	last    bool        // the connection ends with this answer
	lost    bool        // the upstream answered 101 over HTTP/2, which has no such status
	err     error

	extended time.Time // the time to write
}

// Forward passes a request on and its answer back. The error is ErrGateway or
// ErrGatewayTime where there is none, ErrTooLarge for a body over the route's
// limit, ErrValidation for a host or query that HTTP/1.1 cannot say. It panics
// with http.ErrAbortHandler where an answer breaks off, so that the client sees
// that too.
func (p *Proxy) Forward(w http.ResponseWriter, r *Request, g *proxyRoute) error {
	x := &proxyExchange{ResponseWriter: w, proxy: p, guard: g, request: r, door: http.NewResponseController(w)}
	if g.MaxBody > 0 && r.ContentLength > g.MaxBody {
		return ErrTooLarge.With("The body is larger than %d bytes.", g.MaxBody)
	}
	if strings.IndexFunc(r.URL.RawQuery, ending) >= 0 { // HTTP/2 has no line that it could not stand in
		return ErrValidation.With("The query has a space or a control character. Send it escaped.")
	}
	if !httpguts.ValidHostHeader(r.Host) { // net/http holds only the Host field of HTTP/1.1 to that
		return ErrValidation.With("The authority of the request is not the name of a host.")
	}
	x.last = w.Header().Get("Connection") == "close"
	if len(w.Header()) > 0 { // early hints would be sent with what is set, and leave nothing of it
		x.said = w.Header().Clone()
		clear(w.Header())
	}
	// The door's times are for a whole request. Here each part has them: what
	// goes on may last, and who is silent is cut off. A time to read that is
	// left standing would end the request as if the client had gone away.
	x.extendRead(r.ContentLength != 0)
	defer x.extendWrite() // for what the door adds at the end
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

// dropUpgrade takes out of a request what asks for another protocol on the
// connection, so that the upstream sees an ordinary one (RFC 9110, section 7.8).
// Only a WebSocket handshake is left as it is: in another protocol, such as
// HTTP/2, further requests would reach the upstream without a check.
func dropUpgrade(r *http.Request) {
	for _, h := range []http.Header{r.Header, r.Trailer} {
		delete(h, "Http2-Settings")
	}
	delete(r.Trailer, "Upgrade")
	if r.Header["Upgrade"] != nil && !isHandshake(r) {
		delete(r.Header, "Upgrade")
	}
}

// isHandshake reports whether a request is a whole WebSocket handshake (RFC
// 6455, section 4.1), also after the fields that Connection names are removed.
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

// onlyWebSocket reports whether websocket, in any case, is the one value of an
// Upgrade field. The length keeps out letters that fold to one of ASCII.
func onlyWebSocket(upgrade []string) bool {
	const name = "websocket"
	return len(upgrade) == 1 && len(upgrade[0]) == len(name) && strings.EqualFold(upgrade[0], name)
}

// head gives what is sent for a request that can go by Upstreams: a read with
// nothing in it for its one connection, and no body. The others take the way of
// the standard library's reverse proxy.
func (x *proxyExchange) head() ([]byte, bool) {
	r, up := x.request.Request, x.guard.Upstream
	if !upstream.SilentKnown || r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0 || up.Scheme != "http" {
		return nil, false
	}
	if strings.ContainsFunc(up.Host, unsendable) || strings.Contains(up.Host, "%") || strings.HasSuffix(up.Host, ":") {
		return nil, false // a name, zone or port that is written in another way in Host
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

// fields appends the client's fields and ours to a head. It is false where one
// is not for Upstreams.
func (x *proxyExchange) fields(b []byte) ([]byte, bool) {
	for name, values := range x.request.Header {
		switch name {
		case "Connection":
			if slices.ContainsFunc(values, func(v string) bool { return !strings.EqualFold(v, "keep-alive") && !strings.EqualFold(v, "close") }) {
				return nil, false
			}
			continue
		case "Keep-Alive", "Proxy-Connection", "Content-Length", "Forwarded", "Host": // HTTP/2 may have Host among them
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

func ending(c rune) bool { return c <= ' ' || c == 0x7f }

func unsendable(c rune) bool { return ending(c) || c > 0x7f }

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// read sends the head of a request and passes on the answer.
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
	_ = x.answer(res) // Upstreams refuses such a status itself
	x.take(res.Header)
	said := slices.Sorted(maps.Keys(res.Trailer))
	if len(said) > 0 {
		x.Header()["Trailer"] = []string{strings.Join(said, ", ")}
	}
	x.WriteHeader(res.StatusCode)
	// What comes bit by bit is for the client as it comes.
	if err := x.copy(res.Body, res.ContentLength < 0 || len(said) > 0); err != nil {
		x.proxy.quiet.Printf("request %s: the answer broke off: %v", x.request.ID, err)
		panic(http.ErrAbortHandler) // the client has to see that this is not the whole
	}
	for name, values := range res.Trailer {
		if !slices.Contains(said, name) {
			name = http.TrailerPrefix + name
		}
		x.Header()[name] = values
	}
}

// take takes over the fields of an answer, but for those that are for the one
// connection it came by (RFC 9110, section 7.6.1).
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

// copy passes on a body, each part at once if live. The error is that of either
// side.
func (x *proxyExchange) copy(from io.Reader, live bool) error {
	buf := x.proxy.buffers.Get()
	defer x.proxy.buffers.Put(buf)
	for {
		if live {
			_ = x.door.Flush() // the next part would tell
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

// extendRead gives the client another while for the next part of its body, or
// all the time where there is none to come.
func (x *proxyExchange) extendRead(more bool) {
	until := time.Time{}
	if more && x.proxy.o.ReadTimeout > 0 {
		until = time.Now().Add(x.proxy.o.ReadTimeout)
	}
	_ = x.door.SetReadDeadline(until) // where that is not possible there is no such time either
}

func (x *proxyExchange) extendWrite() {
	most := x.proxy.o.WriteTimeout
	if now := time.Now(); most > 0 && now.Sub(x.extended) > most/64 { // a part so soon after the last has hardly less
		_ = x.door.SetWriteDeadline(now.Add(most))
		x.extended = now
	}
}

// WriteHeader begins the answer. That the connection ends with it is for the
// door to say, and the reverse proxy takes every word on connections away.
func (x *proxyExchange) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols { // one that is right takes over the connection instead
		x.lost = true
		return
	}
	if x.last && status >= http.StatusOK {
		x.Header().Set("Connection", "close")
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the answer.
func (x *proxyExchange) Write(b []byte) (int, error) {
	x.extendWrite()
	return x.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (x *proxyExchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// sentBody is the body that the client sends. It keeps why it broke off, to
// tell the client's faults from the upstream's.
type sentBody struct {
	*proxyExchange
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
// caching an answer to a key in the URL goes before what the upstream says. What
// a body is the upstream has to say; it is not guessed. The error is for a status
// that net/http reads and does not write, and for a 101 that begins no WebSocket.
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
// WebSocket handshake that it is for. A Sec-WebSocket-Accept with another value
// shows that it is for another request (RFC 6455, section 4.2.2). One that is
// missing is left to the client, which has to give up then (section 4.1).
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

// fail keeps the error for a request that got no answer.
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

// rewrite makes the request to the upstream out of the client's.
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

// target gives the address at the upstream.
func (x *proxyExchange) target() *url.URL {
	in, up := x.request.URL, x.guard.Upstream
	return &url.URL{
		Scheme: up.Scheme, Host: up.Host, Path: up.Path + cutSegments(in.Path, x.stripped()), RawPath: x.path(),
		RawQuery: in.RawQuery, ForceQuery: in.ForceQuery,
	}
}

// path gives the path at the upstream in its form on the wire.
func (x *proxyExchange) path() string {
	return x.guard.Upstream.EscapedPath() + cutSegments(x.request.URL.EscapedPath(), x.stripped())
}

// stripped is how many segments are cut off.
func (x *proxyExchange) stripped() int { return len(Segments(x.guard.StripPrefix)) }

var forwardedFields = [...]string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// forwarded gives the values of forwardedFields.
func (x *proxyExchange) forwarded() [len(forwardedFields)]string {
	in := x.request.Request
	v := [...]string{forwardedFor(in, x.proxy.o.Proxies), in.Host, "http"}
	if in.TLS != nil {
		v[2] = "https"
	}
	if FromProxy(in, x.proxy.o.Proxies) { // then it knows better than we
		for i, name := range forwardedFields[1:] {
			if said := in.Header[name]; len(said) == 1 && said[0] != "" {
				v[1+i] = said[0]
			}
		}
	}
	return v
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

// dropForged takes out of a header what a client must not say to an upstream:
// who it is, where it comes from, that it means another method or path than
// the one that was checked, and its key. Servers that know fields as variables
// see no difference between a hyphen and other characters, so that X_Auth_Key_Id
// is such a name as well.
func dropForged(h http.Header) {
	for name := range h {
		if forged(name) {
			delete(h, name)
		}
	}
}

// forged says whether dropForged takes out fields of a name.
func forged(name string) bool {
	if len(name) < 3 || name[0]|0x20 != 'x' { // all of them begin with it
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

// identify says in a header who asks. Every field is there, if need be empty, so
// that none that a client sent is ever taken for it.
func identify(h http.Header, r *Request) {
	v := identity(r)
	for i, name := range identityFields {
		h[name] = v[i : i+1 : i+1]
	}
}

// identity gives the values of identityFields for a request.
func identity(r *Request) [len(identityFields)]string {
	k := r.Key
	return [...]string{
		k.ID, headerText(k.Name), headerText(k.OwnerName), strings.Join(k.PermissionNames(), ","), headerText(k.Environment), r.ID,
	}
}

// identityFields are the names of the fields that say who asks.
var identityFields = [...]string{"X-Auth-Key-Id", "X-Auth-Key-Name", "X-Auth-Owner", "X-Auth-Permissions", "X-Auth-Environment", "X-Request-Id"}

// headerText gives a text as the value of a header field. What is not printable
// ASCII, a space at either end and the percent sign are escaped byte by byte as
// in a URL (RFC 3986 section 2.1), so that unescaping gives the text back.
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
