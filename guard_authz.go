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

// authzFamily is a kind of proxy that asks whether a request of its own may
// pass. Each has an endpoint, at which only its own header fields are believed:
// one endpoint for all would let a client send those of another family, which
// its proxy passes on unread.
type authzFamily int

const (
	// authzNginx is the auth_request of nginx: X-Original-Method and
	// X-Original-URI, and an answer of 200, 401 or 403. Of anything else nginx
	// makes 500.
	authzNginx authzFamily = iota + 1
	// authzForward is what Caddy, Traefik, APISIX and the recipe for HAProxy do:
	// X-Forwarded-Method and X-Forwarded-Uri, and any answer.
	authzForward
	// authzEnvoy is the ext_authz of Envoy over HTTP: the method of the request
	// itself, and its path and query behind a prefix. Only 200 lets it pass.
	authzEnvoy
)

const (
	pathNginx   = "/authz/nginx"
	pathForward = "/authz/forward"
	pathEnvoy   = "/authz/envoy"
)

// AuthzEndpoints lists the endpoints, which take any method.
func AuthzEndpoints() []string {
	return []string{"* " + pathNginx, "* " + pathForward, "* " + pathEnvoy + "/*path"}
}

// FindAuthz gives the family whose endpoint a path on the wire is, 0 for none.
func FindAuthz(path string) authzFamily {
	rest, ok := strings.CutPrefix(path, "/authz/") // most requests are none
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

// AuthzProxies gives the networks that may ask: those that are declared or,
// where none are, this machine.
func AuthzProxies(declared []netip.Prefix) []netip.Prefix {
	if len(declared) > 0 {
		return declared
	}
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Ask gives the request that is asked about: its method and address, with the
// header fields that came with the question, which hold its key. Where the
// family's own fields do not tell, the error says which, and the request has
// the method of the question and no address.
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

func unclear(c rune) bool { return c <= ' ' || c == '#' || c == 0x7f }

// single gives the value of a field that the proxy must set once.
func single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) != 1 || values[0] == "" {
		return "", ErrValidation.With("The proxy must send %s once, with a value of its own; it came %d times. docs/proxies.md has recipes.", name, len(values))
	}
	return values[0], nil
}

// Authorized answers that the request that is asked about may pass: who asks,
// and X-Auth-Uri, its address without a key. It is always 200, and nothing may
// keep it: the next request is another question.
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

// Answer gives what an answer to the family is written to.
func (f authzFamily) Answer(w http.ResponseWriter) http.ResponseWriter {
	return &authzAnswer{ResponseWriter: w, family: f}
}

// authzAnswer is an answer to a proxy.
type authzAnswer struct {
	http.ResponseWriter
	family authzFamily
	held   int // a refusal whose body is to come
}

// WriteHeader sends the status, or for nginx keeps that of a refusal until its
// body is there, which becomes a field.
func (a *authzAnswer) WriteHeader(status int) {
	h := a.Header()
	delete(h, "Link") // to a page of ours, which is not where the client asked
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

// Write sends a part of the body.
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

// Unwrap is for http.ResponseController.
func (a *authzAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// asciiJSON gives JSON in the form of a header field: one line of ASCII.
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
