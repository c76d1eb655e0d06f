package main

import (
	"iter"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"latchkey/internal/conns"
)

// Proxies states which peers are proxies, so that their fields about the client are believed. The
// zero value contains none.
type Proxies struct {
	Networks []netip.Prefix // addresses of the proxies
	Unix     bool           // whether every peer on a unix socket is a proxy
}

// None reports whether p contains no proxy.
func (p Proxies) None() bool { return len(p.Networks) == 0 && !p.Unix }

// contain reports whether a is the address of a proxy in p. It returns false for the zero Addr.
func (p Proxies) contain(a netip.Addr) bool {
	for _, network := range p.Networks {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// peer returns the address of the peer of a request and reports whether the peer is a proxy in p.
// The address is the zero Addr for a peer on a unix socket. The listener decides whether the socket
// is a unix socket, because a peer may choose a path such as 192.0.2.1:80 for its own end.
func (p Proxies) peer(r *http.Request) (address netip.Addr, proxy bool) {
	if address = conns.Peer(r.Context()); address.IsValid() { // so it need not be read from text again
		return address, p.contain(address)
	}
	return p.peerOf(onUnixSocket(r), r.RemoteAddr)
}

// Peer is like peer for the peer of a connection.
func (p Proxies) Peer(conn net.Conn) (address netip.Addr, proxy bool) {
	return p.peerOf(conn.LocalAddr().Network() == "unix", conn.RemoteAddr().String())
}

// peerOf is like peer. unix reports whether the connection is on a unix socket. remote is the host
// and port of the peer.
func (p Proxies) peerOf(unix bool, remote string) (address netip.Addr, proxy bool) {
	if unix {
		return netip.Addr{}, p.Unix
	}
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}, false
	}
	address = plainAddr(at.Addr())
	return address, p.contain(address)
}

// onUnixSocket reports whether a request was received on a unix socket.
func onUnixSocket(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// plainAddr returns a in the form that is compared with other addresses: an IPv4-mapped IPv6
// address as IPv4, and without a zone, which names an interface of one machine.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// FromProxy reports whether the connection of a request comes from one of proxies.
func FromProxy(r *http.Request, proxies Proxies) bool {
	if proxies.None() {
		return false
	}
	_, proxy := proxies.peer(r)
	return proxy
}

// ClientAddr returns the address of the client that sent a request, which is the last address that
// ClientPath returns. It is the zero Addr if the address is unknown.
func ClientAddr(r *http.Request, proxies Proxies) netip.Addr {
	if proxies.None() {
		address, _ := proxies.peer(r)
		return address
	}
	hops := ClientPath(r, proxies)
	return hops[len(hops)-1]
}

// ClientPath returns the addresses through which a request came, nearest first. The last address is
// the client, or the zero Addr if the client's address is unknown. A proxy on a unix socket is the
// zero Addr too. Only entries that proxies have added can be trusted, so ClientPath reads
// X-Forwarded-For from its end and stops at the first address that is not in proxies. Without
// X-Forwarded-For it reads Forwarded (RFC 7239) in the same way. The client is unknown if the two
// fields lead to different addresses, because one of them may come from the client.
func ClientPath(r *http.Request, proxies Proxies) []netip.Addr {
	hops, _ := clientPath(r, proxies)
	return hops
}

// UnknownBecause returns why ClientAddr returns the zero Addr for a request, as a clause such as
// "the entry is not an address". It returns "" if the address is known.
func UnknownBecause(r *http.Request, proxies Proxies) string {
	_, why := clientPath(r, proxies)
	return why
}

// clientPath returns the result of ClientPath and, if the client's address is unknown, the reason.
func clientPath(r *http.Request, proxies Proxies) (hops []netip.Addr, why string) {
	peer, proxy := proxies.peer(r)
	hops = []netip.Addr{peer}
	if !proxy {
		switch {
		case peer.IsValid():
			return hops, ""
		case onUnixSocket(r):
			return hops, `the connection comes over a unix socket, and trusted_proxies in [server] does not contain "unix"`
		}
		return hops, "the connection has no IP address"
	}
	hops = proxies.follow(hops, r.Header["X-Forwarded-For"], nodeAddr)
	standard := proxies.follow([]netip.Addr{peer}, r.Header["Forwarded"], forwardedAddr)
	switch {
	case len(hops) == 1:
		hops = standard
	case len(standard) > 1 && standard[len(standard)-1] != hops[len(hops)-1]:
		return []netip.Addr{peer, {}}, "X-Forwarded-For and Forwarded lead to different addresses; let the proxy remove the one that it does not set"
	}
	switch {
	case hops[len(hops)-1].IsValid():
		return hops, ""
	case len(hops) == 1:
		return hops, "the proxy on the unix socket sent neither X-Forwarded-For nor Forwarded"
	}
	return hops, "the entry that the proxy sent for the client in X-Forwarded-For or Forwarded is not an IP address"
}

// follow appends to hops the addresses in the lines of a field, last entry first. It stops after the
// first address that is not in p. The function read returns the address in an entry.
func (p Proxies) follow(hops []netip.Addr, lines []string, read func(entry string) netip.Addr) []netip.Addr {
	for entry := range entriesBackward(lines) {
		next := read(entry)
		hops = append(hops, next)
		if !p.contain(next) {
			break
		}
	}
	return hops
}

// entriesBackward returns the entries of a field, last first. It leaves out empty entries (RFC 9110,
// section 5.6.1.2).
func entriesBackward(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			for rest, more := line, true; more; {
				var entry string
				rest, entry, more = cutLast(rest, ',')
				if strings.Trim(entry, " \t") != "" && !yield(entry) {
					return
				}
			}
		}
	}
}

// cutLast returns the text before and after the last sep that is not in a quoted string (RFC 9110,
// section 5.6.4). It reads text from its end, because a client may have written the beginning: a
// quote that is open there must not hide what a proxy has added. found is false if there is no such
// sep, and after is then text.
func cutLast(text string, sep byte) (before, after string, found bool) {
	for i := len(text) - 1; i >= 0; i-- {
		switch text[i] {
		case sep:
			return text[:i], text[i+1:], true
		case '"':
			for i--; i >= 0 && (text[i] != '"' || escaped(text, i)); i-- {
			}
		}
	}
	return "", text, false
}

// escaped reports whether an odd number of backslashes precedes position i.
func escaped(text string, i int) bool {
	return (i-len(strings.TrimRight(text[:i], `\`)))%2 == 1
}

// forwardedAddr returns the address in the parameter for of one element of Forwarded. It returns the
// zero Addr if the parameter is missing, repeated or not an address.
func forwardedAddr(element string) netip.Addr {
	node, count := "", 0
	for rest, more := element, true; more; {
		var pair string
		rest, pair, more = cutLast(rest, ';')
		if name, value, _ := strings.Cut(pair, "="); strings.EqualFold(strings.Trim(name, " \t"), "for") {
			node, count = value, count+1
		}
	}
	if count != 1 {
		return netip.Addr{}
	}
	return nodeAddr(node)
}

// nodeAddr returns the address in a node of X-Forwarded-For or Forwarded: an IPv4 address with or
// without a port, or an IPv6 address in brackets, with or without a port, or without both. A zone
// and quotes are allowed. It returns the zero Addr for anything else, such as unknown or an
// obfuscated identifier (RFC 7239, section 6).
func nodeAddr(node string) netip.Addr {
	node = strings.Trim(node, " \t")
	if n := len(node); n >= 2 && node[0] == '"' && node[n-1] == '"' {
		node = strings.ReplaceAll(node[1:n-1], `\`, "") // no address contains a backslash
	}
	host, port, ported := strings.Cut(node, ":")
	bracketed := strings.HasPrefix(node, "[")
	switch {
	case bracketed:
		inside, rest, closed := strings.Cut(node[1:], "]")
		if !closed {
			return netip.Addr{}
		}
		if host, ported = inside, rest != ""; ported {
			if rest[0] != ':' {
				return netip.Addr{}
			}
			port = rest[1:]
		}
	case strings.Contains(port, ":"): // IPv6 without brackets, and so without a port
		host, ported = node, false
	}
	a, err := netip.ParseAddr(host)
	if err != nil || bracketed && a.Is4() || ported && !isPort(port) {
		return netip.Addr{}
	}
	return plainAddr(a)
}

// isPort reports whether text is a port of RFC 7239, section 6: 1 to 5 digits, or an obfuscated port
// such as _x.
func isPort(text string) bool {
	if rest, ok := strings.CutPrefix(text, "_"); ok {
		return rest != "" && strings.Trim(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
	}
	return text != "" && len(text) <= 5 && strings.Trim(text, "0123456789") == ""
}

// AddrOrNone returns the text of a, or nil for the zero Addr, so that JSON contains null.
func AddrOrNone(a netip.Addr) any {
	if !a.IsValid() {
		return nil
	}
	return AddrText(a)
}
