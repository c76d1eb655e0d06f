package main

import (
	"crypto/subtle"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// credential is a key as it was sent.
type credential struct {
	Secret  string
	Carrier string
}

// ReadCredential takes the key out of a request's header and URL, so that
// nothing after it can log or forward it. The same key sent in two
// ways is fine. ErrUnauthenticated: none was sent. ErrValidation: two that
// differ, an empty one, or a header that stands twice (RFC 6750 section 2
// allows one method a request).
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
			return c, conflicting("The key stands more than once in %s. Send it once.", sent.carrier)
		}
		if sent.carrier == CarrierBearer {
			var ok bool
			if secret, ok = bearer(secret); !ok {
				continue // another scheme is none of ours
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
		if _, ok := bearer(values[0]); ok { // another scheme is for whom the request goes to
			delete(r.Header, "Authorization")
		}
	}
	delete(r.Header, "X-Api-Key")
	return c, nil
}

func conflicting(format string, args ...any) error {
	e := ErrValidation.With(format, args...)
	e.Challenge = `Bearer realm="latchkey", error="invalid_request"`
	return e
}

// bearer takes the token out of an Authorization value; the scheme's case does
// not matter (RFC 9110 section 11.1).
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

// cutQuery takes the values of api_key out of a request's URL, and leaves the
// rest of the query byte for byte as it was.
func cutQuery(r *http.Request) (values []string, err error) {
	raw := r.URL.RawQuery
	if !strings.Contains(raw, "api") && !strings.Contains(raw, "%") {
		return nil, nil // the name cannot be in there, plain or escaped
	}
	readable, rest := true, make([]string, 0, 4)
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		plain, nameErr := url.QueryUnescape(name)
		switch {
		case strings.Contains(pair, ";"): // programs do not agree on what that is
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

// ClientAddr is the address that a request comes from: the last of ClientPath.
func ClientAddr(r *http.Request, proxies []netip.Prefix) netip.Addr {
	if len(proxies) == 0 {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		return peer.Addr().Unmap()
	}
	hops := ClientPath(r, proxies)
	return hops[len(hops)-1]
}

// ClientPath lists the addresses that a request came by, the nearest first.
// X-Forwarded-For counts only as far as declared proxies wrote it: it is read
// from its end, past every declared one, to the first that is none. What cannot
// be read ends the walk at the last address that could.
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

// FromProxy says whether a request comes from a declared proxy.
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
