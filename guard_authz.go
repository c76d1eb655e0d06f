package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
)

// authzFamily is a kind of proxy that asks /authz whether it may pass on a
// request. Each family has its own endpoint, which reads only the header fields
// of that family. A single endpoint would be unsafe: a client could send the
// fields of another family, and its proxy would pass them on.
type authzFamily int

const (
	// authzNginx is the auth_request of nginx. It sends X-Original-Method and
	// X-Original-URI. The endpoint answers only 200, 401 or 403, because nginx
	// turns other refusals into 500.
	authzNginx authzFamily = iota + 1
	// authzForward is the protocol of Caddy, Traefik, APISIX and the recipe for
	// HAProxy. They send X-Forwarded-Method and X-Forwarded-Uri, and accept any
	// status.
	authzForward
	// authzEnvoy is the ext_authz filter of Envoy over HTTP. It sends the
	// original method, and the path and query after a prefix. Only status 200
	// lets the request pass.
	authzEnvoy
)

const (
	pathNginx   = "/authz/nginx"
	pathForward = "/authz/forward"
	pathEnvoy   = "/authz/envoy"
)

// AuthzEndpoints returns the endpoints, each with * as its method: they accept
// any method.
func AuthzEndpoints() []string {
	return []string{"* " + pathNginx, "* " + pathForward, "* " + pathEnvoy + "/*path"}
}

// FindAuthz returns the family whose endpoint has this escaped path, or 0 if it
// is not an /authz endpoint.
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

// AuthzProxies returns the networks that may call /authz: the declared proxies
// or, if there are none, the loopback addresses.
func AuthzProxies(declared []netip.Prefix) []netip.Prefix {
	if len(declared) > 0 {
		return declared
	}
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Ask returns the request that the proxy asks about. It has the original method
// and address, and shares the header of r, which holds the client's key. If a
// field of the family is missing or malformed, or the path is not valid, the
// error is ErrValidation. The returned request then has an empty address, and
// may still have the method of r.
func (f authzFamily) Ask(r *http.Request) (*http.Request, error) {
	asked := r.WithContext(r.Context()) // a copy
	asked.URL, asked.RequestURI = new(url.URL), ""
	path, query, marked := "", "", false
	if f == authzEnvoy {
		path, query = strings.TrimPrefix(r.URL.EscapedPath(), pathEnvoy), r.URL.RawQuery
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
			return asked, ErrValidation.With("%s must be the method of the request, such as GET.", methodField)
		}
		asked.Method = method
		path, query, marked = strings.Cut(address, "?")
	}
	if strings.IndexFunc(path, unclear) >= 0 || strings.IndexFunc(query, unclear) >= 0 {
		return asked, ErrValidation.With("The address has a space, a # or a control character, which programs read in different ways.")
	}
	plain, err := readPath(path)
	if err != nil {
		return asked, err
	}
	asked.URL.Path, asked.URL.RawPath, asked.URL.RawQuery, asked.URL.ForceQuery = plain, path, query, marked && query == ""
	return asked, nil
}

// unclear reports whether a character of an address is a control character, a
// space or #.
func unclear(c rune) bool { return c <= ' ' || c == '#' || c == 0x7f }

// single returns the value of a field that the proxy must send exactly once.
// Otherwise the error is ErrValidation.
func single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) != 1 || values[0] == "" {
		return "", ErrValidation.With("The proxy must send %s once, with a value of its own; it came %d times. docs/proxies.md has recipes.", name, len(values))
	}
	return values[0], nil
}

// Authorized answers 200: the proxy may pass on the request. The header fields
// identify the key, and X-Auth-Uri is the address without the key. The answer
// must not be cached, because the next request may be decided differently.
func Authorized(w http.ResponseWriter, r *Request) error {
	h := w.Header()
	identify(h, r)
	address := r.URL.RawPath
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		address += "?" + r.URL.RawQuery
	}
	h["X-Auth-Uri"] = []string{address}
	if h["Cache-Control"] == nil {
		h["Cache-Control"] = []string{"no-store"}
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// Answer returns a ResponseWriter that adapts an answer to the family.
func (f authzFamily) Answer(w http.ResponseWriter) http.ResponseWriter {
	return &authzAnswer{ResponseWriter: w, family: f}
}

// authzAnswer adapts an answer to a family. For nginx it copies the status, the
// limits and the body of a refusal into X-Auth fields, because nginx drops them
// otherwise.
type authzAnswer struct {
	http.ResponseWriter
	family authzFamily
	held   int // status of a refusal whose body is not written yet; 0: none
}

// WriteHeader sends the status. For nginx it holds the status of a refusal
// until the first Write, which puts the body into a header field.
func (a *authzAnswer) WriteHeader(status int) {
	h := a.Header()
	delete(h, "Link") // a link to our own pages, which the client cannot reach at its address
	if a.family != authzNginx {
		a.ResponseWriter.WriteHeader(status)
		return
	}
	for _, name := range []string{"Retry-After", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"} {
		if v := h[name]; v != nil {
			h["X-Auth-"+strings.TrimPrefix(name, "X-")] = v
		}
	}
	h["X-Auth-Status"] = []string{strconv.Itoa(status)}
	if status < http.StatusBadRequest {
		a.ResponseWriter.WriteHeader(status)
		return
	}
	a.held = status
}

// Write sends part of the body. A refusal for nginx must be a single Write.
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

// asciiJSON returns JSON without surrounding white space and with all non-ASCII
// characters escaped, so that it fits in a header field. text must be JSON on
// one line.
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
