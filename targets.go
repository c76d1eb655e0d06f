package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// Targets says which addresses webhooks may be sent to, so that nobody can have
// this program ask its own network: no loopback, link-local, private or
// otherwise special address (contract 8.5), and of the ports under 1024 only
// those of HTTP. It is safe for concurrent use.
type Targets struct {
	private  bool // every address and port is allowed
	guardian *ssrf.Guardian
	resolver *net.Resolver // nil: the system's
}

// platform is where Azure tells virtual machines of themselves and takes their
// orders: a public address that leads inside.
var platform = netip.MustParsePrefix("168.63.129.16/32")

// NewTargets allows public addresses, and with private all others too.
func NewTargets(private bool) *Targets {
	return &Targets{private: private, guardian: ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(platform))}
}

// CheckURL is ErrValidation with the reason for a URL that can be no target.
// A name may resolve to something else each time it is asked for, so the
// address itself is checked when a connection is made.
func (t *Targets) CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > 2048 || u.Hostname() == "":
		return ErrValidation.With("url must be a URL such as https://hooks.example.net/klen, of at most 2048 bytes.")
	case u.Scheme != "http" && u.Scheme != "https":
		return ErrValidation.With("url must begin with https:// or http://.")
	case u.User != nil:
		return ErrValidation.With("url must not hold a user name or password. Check the signature at the receiver instead.")
	case u.Fragment != "":
		return ErrValidation.With("url must not have a #fragment: it is never sent.")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if oddAddress(host) {
		return ErrValidation.With("url must name its host, or write an address as 192.0.2.1 or [2001:db8::1].")
	}
	if t.private {
		return nil
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), "443"))
	ip, notIP := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || notIP == nil && t.guardian.SafeAddr(ip.WithZone("")) != nil {
		return ErrValidation.With("url points at an address of this machine or a private network, which the operator has to allow: [webhooks] allow_private_targets = true.")
	}
	if err != nil || !portAllowed(port) {
		return ErrValidation.With("url must have the port 80, 443 or one above 1023.")
	}
	return nil
}

// oddAddress says whether a host is an IPv4 address as only some programs read
// it, such as 127.1, 2130706433 or 0x7f.0.0.1: no name ends in a number.
func oddAddress(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if digits, hex := strings.CutPrefix(last, "0x"); hex {
		last = strings.TrimLeft(digits, "0123456789abcdef")
	} else {
		last = strings.TrimLeft(last, "0123456789")
	}
	return last == ""
}

func portAllowed(port int) bool { return port == 80 || port == 443 || port > 1023 && port < 1<<16 }

// ErrTarget is what a Client's requests fail with where the address is not
// allowed. It does not say which address it was: the name server's answer may
// be nobody's business.
var ErrTarget = errors.New("refused: the name stands for an address of this machine, of a private network or with a port that is not allowed")

// control is called with the address of every connection before it is made,
// after names are resolved: a name that changes its mind gains nothing.
func (t *Targets) control(_ context.Context, network, address string, c syscall.RawConn) error {
	if t.private {
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !portAllowed(int(at.Port())) || t.guardian.Safe(network, address, c) != nil {
		return ErrTarget
	}
	return nil
}

// Client gives a client that connects to allowed addresses alone. It follows no
// redirect and knows no proxy: either would go where nothing checks it.
func (t *Targets) Client() *http.Client {
	dialer := &net.Dialer{Timeout: time.Minute, ControlContext: t.control, Resolver: t.resolver}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: time.Minute,
			DisableCompression:     true, // what a receiver answers is never unpacked
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 100, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
		},
	}
}
