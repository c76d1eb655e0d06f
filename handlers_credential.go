package main

import (
	"crypto/subtle"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// credential is a secret and the way it was sent, one of the Carrier constants.
type credential struct {
	Secret  string
	Carrier string
}

// ReadCredential returns the key of a request and removes it from header and
// URL, so that later code cannot log or forward it. The same key may be sent in
// several ways. It returns ErrUnauthenticated if no key was sent, or if a key
// in the URL cannot be read. It returns ErrValidation for two different keys,
// an empty key or a repeated header (RFC 6750 section 2 allows one method per
// request). After an error the key may still be in the header.
func ReadCredential(r *http.Request) (credential, error) {
	var c credential
	query, err := cutQuery(r)
	if err != nil {
		return c, err
	}
	for _, sent := range [...]struct {
		values  []string
		carrier string
	}{{r.Header["Authorization"], CarrierBearer}, {r.Header["X-Api-Key"], CarrierHeader}, {query, CarrierQuery}} {
		if len(sent.values) == 0 {
			continue
		}
		secret := sent.values[0]
		if len(sent.values) > 1 {
			return c, conflicting("The key appears more than once in %s. Send it once.", sent.carrier)
		}
		if sent.carrier == CarrierBearer {
			var ok bool
			if secret, ok = bearer(secret); !ok {
				continue // another scheme is not for us
			}
		}
		if secret == "" {
			return c, conflicting("The key in %s is empty. Send the whole key, or leave it out.", sent.carrier)
		}
		if c.Secret != "" && subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret)) != 1 {
			return c, conflicting("Two different keys were sent, in %s and %s. Send one.", c.Carrier, sent.carrier)
		}
		if c.Secret == "" {
			c = credential{secret, sent.carrier}
		}
	}
	if c.Secret == "" {
		return c, ErrUnauthenticated
	}
	if values := r.Header["Authorization"]; len(values) > 0 {
		if _, ok := bearer(values[0]); ok { // another scheme is for the upstream
			delete(r.Header, "Authorization")
		}
	}
	delete(r.Header, "X-Api-Key")
	return c, nil
}

// conflicting returns an ErrValidation with the challenge invalid_request (RFC
// 6750 section 3.1).
func conflicting(format string, args ...any) error {
	e := ErrValidation.With(format, args...)
	e.Challenge = `Bearer realm="latchkey", error="invalid_request"`
	return e
}

// bearer returns the token of an Authorization value, and whether its scheme is
// Bearer. The case of the scheme does not matter (RFC 9110 section 11.1).
func bearer(value string) (token string, ok bool) {
	const scheme = "Bearer"
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	rest := value[len(scheme):]
	if rest != "" && rest[0] != ' ' {
		return "", false
	}
	return strings.Trim(rest, " "), true
}

// cutQuery returns the values of api_key in the URL of a request and removes
// them. The rest of the query stays the same byte for byte. If a key cannot be
// read, it removes the whole query and returns ErrUnauthenticated.
func cutQuery(r *http.Request) (values []string, err error) {
	raw := r.URL.RawQuery
	if !strings.Contains(raw, "api") && !strings.Contains(raw, "%") {
		return nil, nil // api_key cannot occur, plain or escaped
	}
	readable, rest := true, make([]string, 0, 4)
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		plain, nameErr := url.QueryUnescape(name)
		switch {
		case strings.Contains(pair, ";"): // some programs read ; as a separator, others do not
			readable = readable && !strings.Contains(pair, "api_key") && !strings.Contains(plain, "api_key")
			rest = append(rest, pair)
		case nameErr != nil || plain != "api_key":
			rest = append(rest, pair)
		default:
			secret, err := url.QueryUnescape(value)
			readable = readable && err == nil
			values = append(values, secret)
		}
	}
	if !readable {
		r.URL.RawQuery, r.RequestURI = "", r.URL.Path
		return nil, ErrUnauthenticated.With("The query cannot be read, so no key in it counts. Send the key as Authorization: Bearer KEY.")
	}
	if values != nil {
		r.URL.RawQuery = strings.Join(rest, "&")
		r.RequestURI = r.URL.RequestURI()
	}
	return values, nil
}

// ClientAddr returns the address of the client that sent a request: the last of
// ClientPath.
func ClientAddr(r *http.Request, proxies []netip.Prefix) netip.Addr {
	if len(proxies) == 0 {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		return peer.Addr().Unmap()
	}
	hops := ClientPath(r, proxies)
	return hops[len(hops)-1]
}

// ClientPath returns the addresses that a request came through, the nearest
// first; the last is the client. It reads X-Forwarded-For from its end, because
// only the entries that declared proxies added can be trusted. It stops at the
// first address that is not a declared proxy, or before an entry that is no
// address. If RemoteAddr cannot be parsed it returns a single zero Addr.
func ClientPath(r *http.Request, proxies []netip.Prefix) []netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return []netip.Addr{{}}
	}
	client := peer.Addr().Unmap()
	hops := []netip.Addr{client}
	if len(proxies) == 0 {
		return hops
	}
	said := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(said) - 1; i >= 0 && declared(client, proxies); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(said[i]))
		if err != nil {
			break
		}
		client = next.Unmap()
		hops = append(hops, client)
	}
	return hops
}

// FromProxy reports whether a request was sent by a declared proxy.
func FromProxy(r *http.Request, proxies []netip.Prefix) bool {
	if len(proxies) == 0 {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && declared(peer.Addr().Unmap(), proxies)
}

func declared(a netip.Addr, proxies []netip.Prefix) bool {
	for _, p := range proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
