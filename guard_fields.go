package main

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// fieldKind is what happens to a header field of a client's request before it reaches an upstream.
type fieldKind int

const (
	fieldPasses  fieldKind = iota // forwarded as it is
	fieldDropped                  // never forwarded
	fieldAddress                  // set to the client's address if a trusted proxy sent the field, otherwise dropped
	fieldPlace                    // forwarded if a trusted proxy sent it, otherwise dropped
)

// clientFields lists the fields that say who or where the client is, or what it asked for. Programs
// behind a proxy believe them, so a client must not choose their values. A * at either end of a name
// means any text. If several names fit, one without * decides, then one that begins the field,
// then one that ends it. docs/guard.md has the same table.
var clientFields = []struct {
	about string // what the fields say
	kind  fieldKind
	names string // separated by spaces
}{
	{"The client's address", fieldAddress, `Ali-CDN-Real-IP CF-Connecting-IP CDN-Src-IP Client-IP DO-Connecting-IP EO-Client-IP EO-Connecting-IP
		Fastly-Client-IP Fly-Client-IP Incap-Client-IP Proxy-Client-IP Remote-Addr True-Client-IP WL-Proxy-Client-IP X-AppEngine-User-IP
		X-Azure-ClientIP X-Client-Addr X-Client-Address X-Client-IP X-Cluster-Client-IP X-Envoy-External-Address X-IP X-NF-Client-Connection-IP
		X-Originating-IP X-ProxyUser-IP X-Real-IP X-Remote-Addr X-Remote-IP X-Source-IP X-Sucuri-ClientIP X-True-Client-IP X-User-IP
		*-Client-IP *-ClientIP *-Connecting-IP *-Real-IP *-Remote-Addr *-Remote-IP`},
	{"Where the client is", fieldPlace, `CF-IPCity CF-IPContinent CF-IPCountry CF-IPLatitude CF-IPLongitude CF-Metro-Code CF-Postal-Code CF-Region
		CF-Region-Code CF-Timezone CloudFront-Viewer-* GeoIP-* X-Akamai-Edgescape X-AppEngine-City X-AppEngine-CityLatLong X-AppEngine-Country
		X-AppEngine-Region X-GeoIP-* X-Sucuri-Country X-Vercel-IP-*`},
	{"Other addresses and ports", fieldDropped, `CF-Connecting-IPv6 CF-Pseudo-IPv4 CloudFront-Viewer-Address Forwarded* Remote-Host Remote-Port
		X-AppEngine-* X-Azure-SocketIP X-Client-Port X-Envoy-* X-Forward* X-Real-Port X-Remote-* *-Forwarded-For *-Forwarded-Port`},
	{"The host and the scheme", fieldDropped, `CF-Visitor Front-End-Https X-ARR-SSL X-Client-Proto X-Client-Scheme X-Host X-Host-Override X-HTTP-Host*
		X-HTTPS X-Original-Host X-Original-Port X-Original-Proto X-Original-Scheme X-Proto X-Proxy-Host X-Scheme X-URL-Scheme X-URLScheme
		*-Forwarded-Host *-Forwarded-Proto *-Forwarded-SSL`},
	{"The path and the method", fieldDropped, `Path-Info Request-URI Script-Name X-Accel-Mapping X-Accel-Redirect X-HTTP-DestinationURL X-HTTP-Method*
		X-Method X-Method-Override X-Original-Method X-Original-Path X-Original-Query X-Original-URI X-Original-URL X-Override-Method X-Override-URL
		X-Path-Info X-Proxy-URL X-Replaced-Path X-Request-Method X-Request-URI X-Rewrite-* X-Script-Name X-Sendfile-Type X-WAWS-Unencoded-URL`},
	{"The user", fieldDropped, `Auth-User Authenticated-User CF-Access-Authenticated-User-* IV-Creds* IV-Groups IV-User Logon-User OSSO-User-* Remote-*
		Shib-* SM-User* Tailscale-* X-Amzn-OIDC-Identity X-Anonymous-Consumer X-Auth-Email X-Auth-Groups X-Auth-Request-* X-Auth-Roles X-Auth-User*
		X-Authenticated-* X-Authentik-* X-Consumer-* X-Credential-* X-Goog-Authenticated-User-* X-IISNode-* X-Logged-In-User X-MS-Client-Principal*
		X-Original-User X-Pomerium-Claim-* X-Proxy-User X-SSO-* X-User X-User-Email X-User-Groups X-User-ID X-User-Name X-User-Role X-User-Roles
		X-UserID X-Username X-Vouch-* X-WebAuth-* *-Remote-User`},
	{"The client's certificate", fieldDropped, `CF-Client-Cert-* Client-Cert* SSL-* WL-Proxy-* X-Amzn-MTLS-* X-ARR-ClientCert X-Client-Cert*
		X-Client-DN X-Client-Verify X-MTLS-* X-SSL* X-TLS-* $WS*`},
	{"The proxy that the upstream would use for its own requests (httpoxy)", fieldDropped, `Proxy`},
	{"What Latchkey itself says", fieldDropped, `X-API-Key X-Auth-Body X-Auth-Environment X-Auth-Key-* X-Auth-Owner X-Auth-Permissions X-Auth-RateLimit*
		X-Auth-Retry-After X-Auth-Sandbox X-Auth-Status X-Auth-URI X-Request-ID`},
}

// fieldPattern is a name of clientFields with a * at one end. text is the rest in the form of
// foldName.
type fieldPattern struct {
	text string
	kind fieldKind
}

// fieldIndex finds the kind of a field. Patterns are grouped by the byte at their fixed end.
type fieldIndex struct {
	whole  map[string]fieldKind // by name in the form of foldName
	begins [128][]fieldPattern
	ends   [128][]fieldPattern
}

var fields = indexFields()

// indexFields returns the index of clientFields.
func indexFields() *fieldIndex {
	x := &fieldIndex{whole: map[string]fieldKind{}}
	for _, row := range clientFields {
		for name := range strings.FieldsSeq(row.names) {
			begin, isPrefix := strings.CutSuffix(name, "*")
			end, isSuffix := strings.CutPrefix(name, "*")
			switch {
			case isPrefix:
				text := string(foldName(nil, begin))
				x.begins[text[0]] = append(x.begins[text[0]], fieldPattern{text, row.kind})
			case isSuffix:
				text := string(foldName(nil, end))
				last := text[len(text)-1]
				x.ends[last] = append(x.ends[last], fieldPattern{text, row.kind})
			default:
				x.whole[string(foldName(nil, name))] = row.kind
			}
		}
	}
	return x
}

// foldName appends name to b in the form in which names are compared: in lower case, and with - in
// place of every character except letters and digits. CGI-like servers treat X_Auth_Key_Id and
// X-Auth-Key-Id alike, so they must be compared as equal.
func foldName(b []byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		default:
			c = '-'
		}
		b = append(b, c)
	}
	return b
}

// kindOf returns the kind of the field with this name. A spelling with another character than
// letters, digits and - is never fieldAddress or fieldPlace.
func kindOf(name string) fieldKind {
	switch name { // names that most requests have
	case "", "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Content-Type", "Cookie", "Origin", "Referer", "Traceparent", "User-Agent":
		return fieldPasses
	}
	var buf [64]byte // avoids an allocation for most names
	plain := foldName(buf[:0], name)
	kind, ok := fields.whole[string(plain)]
	if !ok {
		kind = fields.pattern(plain)
	}
	if kind != fieldPasses && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fieldDropped
	}
	return kind
}

// pattern returns the kind of the first pattern that fits a name in the form of foldName, which must
// not be empty. It returns fieldPasses if none fits.
func (x *fieldIndex) pattern(name []byte) fieldKind {
	for _, p := range x.begins[name[0]] {
		if len(name) >= len(p.text) && string(name[:len(p.text)]) == p.text {
			return p.kind
		}
	}
	for _, p := range x.ends[name[len(name)-1]] {
		if len(name) >= len(p.text) && string(name[len(name)-len(p.text):]) == p.text {
			return p.kind
		}
	}
	return fieldPasses
}

// dropForged removes the fields of clientFields from h, a header or trailer that a client has sent.
func dropForged(h http.Header) {
	for name := range h {
		if kindOf(name) != fieldPasses {
			delete(h, name)
		}
	}
}

// dropUntold is like dropForged for a header that a trusted proxy has sent. It keeps the fields of
// fieldPlace, and sets those of fieldAddress to client, unless that is the zero Addr.
func dropUntold(h http.Header, client netip.Addr) {
	for name := range h {
		switch kind := kindOf(name); {
		case kind == fieldPasses, kind == fieldPlace:
		case kind == fieldAddress && client.IsValid():
			h[name] = []string{AddrText(client)}
		default:
			delete(h, name)
		}
	}
}

// forwardedFields are the header fields that describe the client's request to the upstream.
var forwardedFields = [...]string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// forwarded returns the value of each of forwardedFields, in the same order. It reads the header as
// the client or the proxy sent it, so it must be called before the header is changed.
func (x *proxyExchange) forwarded() [len(forwardedFields)]string {
	in := x.request.Request
	v := [...]string{forwardedFor(in, x.proxy.o.Proxies), in.Host, "http"}
	if in.TLS != nil {
		v[2] = "https"
	}
	if FromProxy(in, x.proxy.o.Proxies) { // a trusted proxy reports the client's host and scheme
		for i, name := range forwardedFields[1:] {
			if said := in.Header[name]; len(said) == 1 && said[0] != "" && !x.request.Secrets.In(said[0]) {
				v[1+i] = said[0]
			}
		}
	}
	return v
}

// forwardedFor returns the X-Forwarded-For value for the upstream: the address of the client, or
// "unknown" (RFC 7239, section 6.2), then the addresses of the trusted proxies between the client
// and Latchkey. It leaves out a proxy on a unix socket, which has no address.
func forwardedFor(r *http.Request, proxies Proxies) string {
	hops := ClientPath(r, proxies)
	last := len(hops) - 1
	if last == 0 {
		return AddrText(hops[0])
	}
	var b strings.Builder
	b.WriteString(AddrText(hops[last]))
	for i := last - 1; i >= 0; i-- {
		if hops[i].IsValid() {
			b.WriteString(", ")
			b.WriteString(AddrText(hops[i]))
		}
	}
	return b.String()
}

// identify sets the header fields that identify the key to the upstream. It sets every field, even
// to "", so that a value sent by the client can never remain.
func identify(h http.Header, r *Request) {
	v := identity(r)
	for i, name := range identityFields {
		h[name] = v[i : i+1 : i+1]
	}
}

// identity returns the value of each of identityFields for a request, in the same order.
func identity(r *Request) [len(identityFields)]string {
	k := r.Key
	return [...]string{
		k.ID, headerText(k.Name), headerText(k.OwnerName), strings.Join(k.PermissionNames(), ","), headerText(k.Environment), strconv.FormatBool(k.Sandbox()), r.ID,
	}
}

// identityFields are the header fields that identify the key to the upstream, and X-Request-Id for
// the request id.
var identityFields = [...]string{"X-Auth-Key-Id", "X-Auth-Key-Name", "X-Auth-Owner", "X-Auth-Permissions", "X-Auth-Environment", "X-Auth-Sandbox", "X-Request-Id"}

// headerText returns s in a form that is allowed in a header field. It percent-encodes (RFC 3986,
// section 2.1) percent signs, spaces at either end and every byte that is not printable ASCII.
// Percent-decoding restores s.
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
