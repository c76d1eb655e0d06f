package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"golang.org/x/net/http/httpguts"
)

// authzFamily is a kind of proxy that asks an /authz endpoint whether it may pass on a request.
// Each family has its own endpoint, which reads only the header fields of that family. A single
// endpoint for all would be unsafe: a client could send the fields of another family, and the proxy
// would pass them on to the endpoint.
type authzFamily int

const (
	// authzNginx is the auth_request module of nginx. It sends the original method and address in
	// X-Original-Method and X-Original-URI. Its endpoint answers only 200, 401 or 403, because
	// nginx turns any other status into 500.
	authzNginx authzFamily = iota + 1
	// authzForward is the protocol of Caddy, Traefik and APISIX, and of the HAProxy recipe in
	// docs/proxies.md. These proxies send the original method and address in X-Forwarded-Method
	// and X-Forwarded-Uri. They accept any status in the answer.
	authzForward
	// authzEnvoy is the ext_authz filter of Envoy over HTTP. It calls the endpoint with the
	// original method, and appends the original path and query to the path of the endpoint. It
	// lets the request pass only if the status is 200.
	authzEnvoy
)

const (
	pathNginx   = "/authz/nginx"
	pathForward = "/authz/forward"
	pathEnvoy   = "/authz/envoy"
)

// AuthzEndpoints returns the paths of the /authz endpoints, each after "* ", because they accept
// any method.
func AuthzEndpoints() []string {
	return []string{"* " + pathNginx, "* " + pathForward, "* " + pathEnvoy + "/*path"}
}

// FindAuthz returns the family that uses the endpoint with this escaped path. It returns 0 if the
// path is not that of an /authz endpoint.
func FindAuthz(path string) authzFamily {
	rest, ok := strings.CutPrefix(path, "/authz/") // fast exit for most requests
	switch {
	case !ok:
		return 0
	case rest == "nginx" || rest == "nginx/":
		return authzNginx
	case rest == "forward" || rest == "forward/":
		return authzForward
	case rest == "envoy" || strings.HasPrefix(rest, "envoy/"):
		return authzEnvoy
	}
	return 0
}

// AuthzProxies returns the proxies that may call /authz. These are the declared proxies or, if
// declared contains none, all programs of this machine: the loopback addresses and unix sockets.
func AuthzProxies(declared Proxies) Proxies {
	if !declared.None() {
		return declared
	}
	return Proxies{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, Unix: true}
}

// Ask returns the client's request that the proxy asks about in r. The result has the original
// method and address and shares its header with r, because the header holds the client's key. It
// returns ErrValidation if a field of the family is missing or malformed or if the path is not
// valid. Even then the returned request is not nil, but its address is empty and its method may be
// that of r.
func (f authzFamily) Ask(r *http.Request) (*http.Request, error) {
	asked := r.WithContext(r.Context()) // a copy
	asked.URL, asked.RequestURI = new(url.URL), ""
	path, query, marked := "", "", false
	if f == authzEnvoy {
		path, query = strings.TrimPrefix(sentPath(r.URL), pathEnvoy), r.URL.RawQuery
		marked = query != "" || r.URL.ForceQuery
	} else {
		methodField, addressField := "X-Original-Method", "X-Original-Uri"
		if f == authzForward {
			methodField, addressField = "X-Forwarded-Method", "X-Forwarded-Uri"
		}
		method, err := single(r.Header, methodField)
		if err != nil {
			return asked, err
		}
		address, err := single(r.Header, addressField)
		if err != nil {
			return asked, err
		}
		if strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return asked, ErrValidation.With("%s must contain the method of the client's request, such as GET.", methodField)
		}
		asked.Method = method
		path, query, marked = strings.Cut(address, "?")
	}
	if strings.IndexFunc(query, unclear) >= 0 {
		return asked, ErrValidation.With("The query contains a space, a # or a control character. Send such characters escaped.")
	}
	plain, err := readPath(path)
	if err != nil {
		return asked, err
	}
	asked.URL.Path, asked.URL.RawPath, asked.URL.RawQuery, asked.URL.ForceQuery = plain, path, query, marked && query == ""
	return asked, nil
}

// mayBeHandshake reports whether a request that a proxy asks about has a field of a WebSocket
// handshake. It does not want the whole handshake: the proxy may have removed Connection and Upgrade,
// which are for its own connection, and the proxy itself decides which handshakes it passes on.
func mayBeHandshake(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") || r.Header["Sec-Websocket-Key"] != nil || r.Header["Sec-Websocket-Version"] != nil
}

// single returns the value of the header field name. It returns ErrValidation if the proxy did not
// send the field exactly once or if its value is empty.
func single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) != 1 || values[0] == "" {
		return "", ErrValidation.With("The proxy must send %s exactly once, and not empty; it was sent %d times. See docs/proxies.md for how to configure the proxy.", name, len(values))
	}
	return values[0], nil
}

// Authorized answers 200, so that the proxy passes on the request. Header fields identify the key
// to the upstream, and X-Auth-Uri is the address without any key in its query. Authorized returns
// ErrValidation if the path contains a key.
func Authorized(w http.ResponseWriter, r *Request) error {
	if err := r.DropSecrets(); err != nil {
		return err
	}
	h := w.Header()
	identify(h, r)
	address := r.URL.RawPath
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		address += "?" + r.URL.RawQuery
	}
	h["X-Auth-Uri"] = []string{address}
	w.WriteHeader(http.StatusOK)
	return nil
}

// Answer returns a ResponseWriter that adapts an answer to the family before it writes it to w.
func (f authzFamily) Answer(w http.ResponseWriter) http.ResponseWriter {
	a := authzAnswer{ResponseWriter: w, family: f}
	if lines, ok := w.(LineWriter); ok {
		return &linedAnswer{a, lines}
	}
	return &a
}

// linedAnswer is an authzAnswer that takes fields as lines.
type linedAnswer struct {
	authzAnswer
	LineWriter
}

// SetFieldLines adds fields to the answer, for nginx also their copies.
func (a *linedAnswer) SetFieldLines(lines []byte) {
	if a.family == authzNginx {
		for line := range bytes.Lines(lines) {
			name, _, _ := bytes.Cut(line, []byte(":"))
			if slices.Contains(nginxFields[:], string(name)) {
				lines = append(append(lines, "X-Auth-"...), bytes.TrimPrefix(line, []byte("X-"))...)
			}
		}
	}
	a.LineWriter.SetFieldLines(lines)
}

// nginxFields are the fields of which an answer to nginx has copies.
var nginxFields = [...]string{"Retry-After", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}

// authzAnswer adapts an answer to what a family understands. nginx drops most of a refusal, so for
// nginx it copies the status, the rate limit fields and the body into X-Auth-* fields.
type authzAnswer struct {
	http.ResponseWriter
	family authzFamily
	held   int // for nginx: status of a refusal that is sent with the first Write; 0: none
}

// statusOK is the value of X-Auth-Status for most answers. It is shared, so it must not be changed.
var statusOK = []string{"200"}

// WriteHeader sends the status. For nginx it delays the status of a refusal until the first Write,
// because the body must be copied into a header field first.
func (a *authzAnswer) WriteHeader(status int) {
	h := a.Header()
	delete(h, "Link") // it links to Latchkey's pages, which the client cannot reach through the proxy
	if a.family != authzNginx {
		a.ResponseWriter.WriteHeader(status)
		return
	}
	for _, name := range nginxFields {
		if v := h[name]; v != nil {
			h["X-Auth-"+strings.TrimPrefix(name, "X-")] = v
		}
	}
	if status == http.StatusOK {
		h["X-Auth-Status"] = statusOK
	} else {
		h["X-Auth-Status"] = []string{strconv.Itoa(status)}
	}
	if status < http.StatusBadRequest {
		a.ResponseWriter.WriteHeader(status)
		return
	}
	a.held = status
}

// Write writes part of the body. For nginx the whole body of a refusal must be passed in one call.
func (a *authzAnswer) Write(b []byte) (int, error) {
	if a.held != 0 {
		a.Header()["X-Auth-Body"] = []string{asciiJSON(string(b))}
		if a.held != http.StatusUnauthorized {
			a.held = http.StatusForbidden
		}
		a.ResponseWriter.WriteHeader(a.held)
		a.held = 0
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap returns the wrapped writer, for http.ResponseController.
func (a *authzAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// asciiJSON returns text without surrounding white space and with every non-ASCII character
// escaped, so that it can be the value of a header field. text must be JSON on one line.
func asciiJSON(text string) string {
	var b strings.Builder
	for _, c := range strings.TrimSpace(text) {
		switch {
		case c < 0x7f:
			b.WriteRune(c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}
