package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Origins says under which names browsers reach a door, and refuses what other
// sites have them send there. It is safe for concurrent use.
type Origins struct {
	listen  string // of the door
	baseURL string
	names   []string
	cookies []string
	cross   *http.CrossOriginProtection
	// Refused, unless it is nil, is told of requests that another site made. It
	// is set before Guard.
	Refused func(r *http.Request)
}

// NewOrigins knows a door by the address it listens on, by further host names,
// and by the URL under which browsers reach it, "" where none is set. cookies
// names those that say who somebody is.
func NewOrigins(listen, baseURL string, hosts, cookies []string) (*Origins, error) {
	o := &Origins{listen: listen, baseURL: baseURL, names: append([]string{"localhost", "control", "local"}, hosts...), cookies: cookies, cross: http.NewCrossOriginProtection()}
	if baseURL == "" {
		return o, nil
	}
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("admin.base_url: %w", err)
	}
	o.names = append(o.names, u.Hostname())
	// A proxy may ask under another host name than the browser does.
	if err := o.cross.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
		return nil, fmt.Errorf("admin.base_url: %w", err)
	}
	return o, nil
}

// Guard sets the header fields that every answer of the door has, and refuses
// requests under a foreign host name, against DNS rebinding, and such as another
// site made that would change something.
func (o *Origins) Guard(next http.Handler) http.Handler {
	deny := func(w http.ResponseWriter, r *http.Request, why string) {
		if o.Refused != nil {
			o.Refused(r)
		}
		http.Error(w, why, http.StatusForbidden)
	}
	o.cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deny(w, r, "This request came from another site, so it was refused.")
	}))
	protected := o.cross.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		switch {
		case !o.known(r.Host):
			http.Error(w, fmt.Sprintf("This server does not know itself as %q. Add the name to hosts under [admin] in the configuration.", r.Host), http.StatusMisdirectedRequest)
		case o.unproven(r):
			deny(w, r, "A browser says where a form was sent from, and this request does not. Use a token for programs.")
		default:
			protected.ServeHTTP(w, r)
		}
	})
}

func (o *Origins) known(hostport string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if ip, err := netip.ParseAddr(host); err == nil {
		// An address is no name that somebody else's DNS could point here.
		return ip.IsLoopback() || !isLoopbackListen(o.listen)
	}
	return host != "" && slices.ContainsFunc(o.names, func(k string) bool { return strings.EqualFold(k, host) })
}

func isLoopbackListen(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// unproven says whether a request that would change something, for a login or
// on a page, lacks both fields by which a browser says what site made it.
// CrossOriginProtection lets such pass, for programs; those have tokens here.
func (o *Origins) unproven(r *http.Request) bool {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method) || r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != "" {
		return false
	}
	if !strings.HasPrefix(r.URL.Path, "/admin/") {
		return true
	}
	return r.Header.Get("Authorization") == "" && slices.ContainsFunc(o.cookies, func(name string) bool {
		_, err := r.Cookie(name)
		return err == nil
	})
}
