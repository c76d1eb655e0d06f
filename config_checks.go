package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/idna"
)

// textCheck is a rule for texts, which the check of a tag names.
type textCheck struct {
	// want completes "must be ..." for a text that is not valid.
	want string
	// read returns the value to use for a text: the text itself, or the form in which other programs
	// write the same value, such as a host name without capitals. ok is false if the text is not
	// valid; fix then completes "write ...", or is "" if it is not clear what was meant.
	read func(text string) (value, fix string, ok bool)
}

// matching returns a read function that accepts a text unchanged if test returns true.
func matching(test func(string) bool) func(string) (string, string, bool) {
	return func(text string) (string, string, bool) { return text, "", test(text) }
}

// optional returns a read function that accepts "" and otherwise calls read.
func optional(read func(string) (string, string, bool)) func(string) (string, string, bool) {
	return func(text string) (string, string, bool) {
		if text == "" {
			return "", "", true
		}
		return read(text)
	}
}

// textChecks holds the checks that the check of a tag can name.
var textChecks = map[string]textCheck{
	"address":          {"host:port, the host localhost or an IP address", readAddress},
	"optional-address": {"host:port, the host localhost or an IP address", optional(readAddress)},
	"header":           {"the name of a header field, of letters, digits and -", readHeaderName},
	"proxy":            {"an IP address, a network whose bits past its length are zero, or unix", matching(func(text string) bool { return text == unixPeers || parseNetwork(text).IsValid() })},
	"path":             {"a path", readFilePath},
	"file":             {"a path", optional(readFilePath)},
	"folder":           {"a path", optional(readFilePath)},
	"text":             {"a text", matching(func(string) bool { return true })},
	"limit":            {"2 to 64 of a-z, 0-9 and _, the first a letter", matching(regexp.MustCompile(`^[a-z][a-z0-9_]{1,63}$`).MatchString)},
	"permission":       {"can_ and 1 to 60 of a-z, 0-9 and _", matching(regexp.MustCompile(`^can_[a-z0-9_]{1,60}$`).MatchString)},
	"prefix":           {"1 to 16 of a-z, 0-9 and _, the last a _", matching(regexp.MustCompile(`^[a-z0-9_]{0,15}_$`).MatchString)},
	"word":             {"1 to 32 of a-z, 0-9, - and _, the first a letter", matching(IsWord)},
	"host":             {"a host name or an IP address, without a scheme, a port and a path", readHostSetting},
	"node":             {"1 to 32 of a-z, 0-9 and -", optional(matching(regexp.MustCompile(`^[a-z0-9-]{1,32}$`).MatchString))},
	"etcd":             {"https:// and a host with a port; http:// only for this machine", readEtcd},
	"url":              {"http:// or https:// and a host, without a path", optional(readOrigin)},
	"directory":        {"https:// and a host, with a path and no query", readDirectory},
	"domain":           {"a host name with a dot, of a-z, 0-9 and -", readDomain},
	"email":            {"a mail address", optional(readEmail)},
	"method":           {"* or the name of a method in capitals", readMethod},
	"pattern":          {"a path in its plain form, with :name for a segment and *name at the end for the rest", readPattern},
	"prefixpath":       {"a path in its plain form, without a slash at its end", matching(isPrefixPath)},
	"issuer":           {"https:// and a host, with or without a path, as the provider writes it; http:// only for this machine", optional(readIssuer)},
	"claim":            {"the name of a claim, or names with dots between them", matching(regexp.MustCompile(`^[^\s.]+(\.[^\s.]+)*$`).MatchString)},
	"scope":            {"a scope, a word without spaces and quotes", matching(regexp.MustCompile(`^[!#-\[\]-~]{1,200}$`).MatchString)},
	"button":           {"1 to 60 characters", matching(func(text string) bool { return Length(text) >= 1 && Length(text) <= 60 })},
	"mailserver":       {"the host name or IP address of a mail server, with a port", optional(readMailServer)},
	"upstream":         {"http:// or https:// and a host, with or without a path", optional(readUpstream)},
}

// readAddress reads host:port with a numeric port. An empty host means all addresses of the machine.
// The only name that it accepts as host is localhost, because other names could resolve to any
// address.
func readAddress(text string) (value, fix string, ok bool) {
	host, port, err := net.SplitHostPort(text)
	n, portErr := strconv.ParseUint(port, 10, 16)
	_, hostErr := netip.ParseAddr(host)
	if strings.EqualFold(host, "localhost") {
		host, hostErr = "localhost", nil
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), "", err == nil && portErr == nil && (host == "" || hostErr == nil)
}

// readFilePath reads the path of a file or a folder.
func readFilePath(text string) (value, fix string, ok bool) {
	if text == "~" || strings.HasPrefix(text, "~/") {
		return "", "the whole path, because only a shell replaces ~", false
	}
	return text, "", text != ""
}

// readHeaderName reads the name of a header field that webhook requests can have beside the others.
func readHeaderName(text string) (value, fix string, ok bool) {
	taken := []string{
		"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Expect",
		"Accept-Encoding", "User-Agent", "X-Klen-Delivery",
	}
	if slices.ContainsFunc(taken, func(name string) bool { return strings.EqualFold(name, text) }) {
		return "", "another name, because requests have a field " + text + " with another meaning", false
	}
	return text, "", headerName.MatchString(text)
}

var headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)

// hostName matches a host name in lower case, without a dot at its end.
var hostName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// readHost reads a host name or an IP address. value has the form in which browsers send it: in lower
// case, without a dot at its end, an IPv6 address shortened and without brackets.
func readHost(text string) (value, fix string, ok bool) {
	text = strings.ToLower(text)
	bare := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		bare = text[1 : len(text)-1]
	}
	if ip, err := netip.ParseAddr(bare); err == nil {
		return ip.String(), "", ip.Zone() == "" && (bare == text || ip.Is6())
	}
	text = strings.TrimSuffix(text, ".")
	if strings.ContainsFunc(text, func(c rune) bool { return c > unicode.MaxASCII }) {
		if ascii, err := idna.Lookup.ToASCII(text); err == nil && hostName.MatchString(ascii) {
			fix = strconv.Quote(ascii)
		}
		return "", fix, false
	}
	last := text[strings.LastIndexByte(text, '.')+1:]
	_, numeric := strconv.ParseUint(last, 0, 64)
	// Browsers take a name whose last part is a number for an IPv4 address.
	return text, "", hostName.MatchString(text) && len(text) <= 253 && numeric != nil
}

// readHostSetting reads a host of a list of hosts. It also accepts the default ports, which browsers
// leave out.
func readHostSetting(text string) (value, fix string, ok bool) {
	if value, fix, ok = readHost(text); ok || fix != "" {
		return value, fix, ok
	}
	if host, port, err := net.SplitHostPort(text); err == nil && (port == "80" || port == "443") {
		return readHost(host)
	}
	if strings.HasPrefix(text, "*") {
		return "", "each host name, because * is no host", false
	}
	whole := text
	if !strings.Contains(text, "://") {
		whole = "//" + text
	}
	if u, err := url.Parse(whole); err == nil && u.User == nil {
		if bare, _, ok := readHost(u.Hostname()); ok {
			fix = strconv.Quote(bare)
		}
	}
	return "", fix, false
}

// readAuthority reads a host with or without a port, as in a URL. value has the port only if it is
// not the default of scheme, which browsers leave out.
func readAuthority(scheme, text string) (value, fix string, ok bool) {
	host, port := text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
		host, port = text[:i], text[i+1:]
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", "", false
		}
		port = strconv.FormatUint(n, 10)
	}
	value, fix, ok = readHost(host)
	switch {
	case !ok && fix != "":
		return "", strconv.Quote(scheme + "://" + strings.Trim(fix, `"`) + text[len(host):]), false
	case !ok:
		return "", "", false
	case strings.Contains(value, ":"):
		if !strings.HasPrefix(host, "[") {
			return "", "", false
		}
		value = "[" + value + "]"
	}
	if port != "" && port != defaultPort(scheme) {
		value += ":" + port
	}
	return value, "", true
}

// defaultPort returns the port of a URL that has none.
func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// readOrigin reads a scheme, a host and a port, as browsers send them in Origin. A slash may follow;
// value has none.
func readOrigin(text string) (value, fix string, ok bool) {
	scheme, rest, _ := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		if _, _, bare := readHost(text); bare && text != "" {
			fix = strconv.Quote("https://" + text)
		}
		return "", fix, false
	}
	authority, fix, ok := readAuthority(scheme, strings.TrimSuffix(rest, "/"))
	return scheme + "://" + authority, fix, ok
}

// readEtcd reads the URL of an etcd server. Keys and records must not travel in clear, so it accepts
// http:// for this machine alone.
func readEtcd(text string) (value, fix string, ok bool) {
	value, fix, ok = readOrigin(text)
	u, err := url.Parse(value)
	if !ok || err != nil {
		return "", fix, false
	}
	if u.Port() == "" {
		port := defaultPort(u.Scheme)
		if !strings.HasSuffix(strings.TrimSuffix(text, "/"), ":"+port) {
			return "", strconv.Quote(value + ":2379"), false
		}
		value, u.Host = value+":"+port, u.Host+":"+port
	}
	if u.Scheme == "http" && !IsLocalAddress(u.Host) {
		return "", strconv.Quote("https://" + u.Host), false
	}
	return value, "", true
}

// readBase reads a URL with a host and perhaps a path. It returns the host in the form of readOrigin
// and the path unchanged.
func readBase(text string) (origin, path, fix string, ok bool) {
	head, tail := text, ""
	if i := strings.Index(text, "://"); i >= 0 {
		if j := strings.IndexByte(text[i+3:], '/'); j >= 0 {
			head, tail = text[:i+3+j], text[i+3+j:]
		}
	}
	origin, fix, ok = readOrigin(head)
	return origin, tail, fix, ok
}

// readDirectory reads the URL of an ACME directory.
func readDirectory(text string) (value, fix string, ok bool) {
	origin, path, fix, ok := readBase(text)
	return origin + path, fix, ok && strings.HasPrefix(origin, "https://") && directoryPath.MatchString(path)
}

var directoryPath = regexp.MustCompile(`^(/[\w./~-]*)?$`)

// readIssuer reads the URL that names an identity provider. It is compared with what the provider
// says of itself, so value is the text unchanged.
func readIssuer(text string) (value, fix string, ok bool) {
	origin, path, fix, ok := readBase(text)
	if !ok || !directoryPath.MatchString(path) {
		return "", fix, false
	}
	u, err := url.Parse(origin)
	return text, "", err == nil && (u.Scheme == "https" || IsLocalHost(u.Hostname()))
}

// IsLocalHost reports whether host, a name or an IP address, is this machine.
func IsLocalHost(host string) bool {
	ip, ok := machineIP(host)
	return ok && host != "" && ip.IsLoopback()
}

// RedirectPath is the path to which an identity provider sends a browser back after a login.
const RedirectPath = "/login/oidc/callback"

// checkOIDC records a problem if the settings of single sign-on are incomplete, or if nobody could log
// in.
func (l *configLoader) checkOIDC(c Config) {
	o, fail := c.Admin.OIDC, func(name, format string, args ...any) {
		l.fail(l.sources["admin.oidc."+name], "admin.oidc."+name+" "+format, args...)
	}
	if o.Issuer == "" {
		for _, other := range []struct {
			name string
			set  bool
		}{{"client_id", o.ClientID != ""}, {"client_secret", o.ClientSecret != ""}, {"client_secret_file", o.ClientSecretFile != ""}, {"roles", len(o.Roles) > 0}} {
			if other.set {
				fail(other.name, "is set and admin.oidc.issuer is not; set it to the address of the identity provider")
				return
			}
		}
		return
	}
	if o.ClientID == "" {
		fail("issuer", "needs admin.oidc.client_id, the id under which the provider knows this service")
	}
	if c.Admin.BaseURL == "" {
		fail("issuer", "needs admin.base_url, the address of the dashboard in browsers; enter that address with %s after it at the provider", RedirectPath)
	}
	if len(o.Roles) == 0 && o.DefaultRole == "none" {
		fail("issuer", "needs admin.oidc.roles or admin.oidc.default_role, because without them nobody could log in")
	}
	if o.DefaultRole != "none" && len(o.AllowedDomains) == 0 && slices.Contains(publicIssuers, o.Issuer) {
		fail("default_role", "is %q, so that everybody with an account at %s could log in; set admin.oidc.allowed_domains", o.DefaultRole, o.Issuer)
	}
}

// publicIssuers are providers at which everybody can have an account.
var publicIssuers = []string{"https://accounts.google.com", "https://appleid.apple.com", "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"}

// RedirectURL returns the address that an identity provider must know, to which it sends browsers
// back. It is "" if there is no single sign-on.
func (c Config) RedirectURL() string {
	if c.Admin.OIDC.Issuer == "" {
		return ""
	}
	return c.Admin.BaseURL + RedirectPath
}

// readUpstream reads the URL of an upstream server, with or without a path.
func readUpstream(text string) (value, fix string, ok bool) {
	origin, path, fix, ok := readBase(text)
	return origin + path, fix, ok && (path == "" || isPattern(path) && !strings.ContainsAny(path, ":*"))
}

// readDomain reads a host name for which an authority issues a certificate.
func readDomain(text string) (value, fix string, ok bool) {
	value, fix, ok = readHost(text)
	_, err := netip.ParseAddr(value)
	return value, fix, ok && err != nil && strings.Contains(value, ".") && !strings.Contains(value, "_")
}

// readEmail reads a mail address.
func readEmail(text string) (value, fix string, ok bool) {
	local, domain, _ := strings.Cut(text, "@")
	odd := func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`"(),:;<>@[\]`, c) }
	_, _, ok = readDomain(domain)
	return text, "", ok && local != "" && len(local) <= 64 && !strings.ContainsFunc(local, odd)
}

// readMethod reads the name of an HTTP method, or *.
func readMethod(text string) (value, fix string, ok bool) {
	if !methodName.MatchString(text) {
		return "", "", false
	}
	if upper := strings.ToUpper(text); upper != text {
		return "", strconv.Quote(upper), false
	}
	return text, "", true
}

var methodName = regexp.MustCompile(`^(\*|[A-Za-z][A-Za-z0-9_-]{0,31})$`)

// methods are the methods of RFC 9110, RFC 5789 and of the WebDAV family, without those that a guarded
// route refuses.
const methods = "GET HEAD POST PUT PATCH DELETE OPTIONS QUERY PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH ACL BIND UNBIND REBIND " +
	"MKCALENDAR MKACTIVITY MKWORKSPACE MKREDIRECTREF UPDATEREDIRECTREF ORDERPATCH VERSION-CONTROL CHECKOUT CHECKIN UNCHECKOUT UPDATE LABEL MERGE BASELINE-CONTROL " +
	"LINK UNLINK PURGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE"

// Warnings returns a text for each value that is valid and probably a mistake.
func (c Config) Warnings() (list []string) {
	warn := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	known := strings.Fields(methods)
	for i, row := range c.Routes {
		for _, m := range row.Methods {
			if m != "*" && !slices.Contains(known, m) {
				nearest := slices.MinFunc(known, func(a, b string) int { return editDistance(m, a) - editDistance(m, b) })
				warn("route %d (%q): methods has %s, which is not a registered method; did you mean %s?", i+1, row.Path, m, nearest)
			}
		}
	}
	for _, pair := range []struct {
		short, long string
		shorter     time.Duration
		longer      time.Duration
	}{
		{"admin.session_idle", "admin.session_max", c.Admin.SessionIdle, c.Admin.SessionMax},
		{"server.read_header_timeout", "server.read_timeout", c.Server.ReadHeaderTimeout, c.Server.ReadTimeout},
	} {
		if pair.shorter > pair.longer {
			warn("%s is %s, longer than %s, %s, so it has no effect", pair.short, pair.shorter, pair.long, pair.longer)
		}
	}
	o := c.Admin.OIDC
	if o.Issuer != "" && o.DefaultRole != "none" && len(o.AllowedDomains) == 0 {
		warn("admin.oidc.default_role is %q and admin.oidc.allowed_domains is empty, so everybody whom %s lets in can log in here", o.DefaultRole, o.Issuer)
	}
	if u, err := url.Parse(c.Admin.BaseURL); o.Issuer != "" && err == nil && u.Scheme == "http" && !IsLocalHost(u.Hostname()) {
		warn("admin.base_url is %s, so single sign-on sends browsers back without TLS; use https://", c.Admin.BaseURL)
	}
	if most, each := c.Server.MaxConnections, c.Server.MaxConnectionsPerAddress; most > 0 && each >= most {
		warn("server.max_connections_per_address is %d, and server.max_connections %d, so it has no effect and one address can have all connections", each, most)
	}
	for section, t := range map[string]ListenerTLS{"server": c.ServerTLS(), "admin": c.AdminTLS()} {
		if t.ACME && t.CertFile+t.KeyFile != "" {
			warn(`%s.tls is "acme", so %[1]s.tls_cert_file and %[1]s.tls_key_file have no effect`, section)
		}
	}
	slices.Sort(list)
	return list
}

// checkAddresses records a problem for two listeners that need the same address.
func (l *configLoader) checkAddresses(c Config) {
	all := []struct{ key, address string }{{"server.listen", c.Server.Listen}, {"admin.listen", c.Admin.Listen}}
	if c.ServerTLS().ACME || c.AdminTLS().ACME {
		all = append(all, struct{ key, address string }{"acme.http_listen", c.ACME.HTTPListen})
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if overlap(a.address, b.address) {
				l.fail(l.sources[a.key], "%s is %q, and %s is %q; two listeners cannot have one address, so choose another port", a.key, a.address, b.key, b.address)
			}
		}
	}
}

// checkUpstreams records a problem for a route whose upstream is the API listener: its requests would
// come back without a key.
func (l *configLoader) checkUpstreams(c Config) {
	for i, row := range c.Routes {
		u, err := url.Parse(row.Upstream)
		if err != nil || row.Upstream == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = defaultPort(u.Scheme)
		}
		ip, _ := machineIP(u.Hostname())
		here := (ip.IsLoopback() || ip.IsUnspecified()) && overlap(net.JoinHostPort(u.Hostname(), port), c.Server.Listen)
		origin, _, _, _ := readBase(row.Upstream)
		if here || origin == c.Server.BaseURL || net.JoinHostPort(u.Hostname(), port) == c.Server.Listen {
			l.fail(l.sources["route"], "route %d (%q): upstream %s is the API listener of this server itself; name the server behind it, or change server.listen", i+1, row.Path, row.Upstream)
		}
	}
}

// overlap reports whether two addresses of the form host:port mean the same port of this machine.
// Port 0 is another port each time.
func overlap(a, b string) bool {
	hostA, portA, err1 := net.SplitHostPort(a)
	hostB, portB, err2 := net.SplitHostPort(b)
	if err1 != nil || err2 != nil || portA == "0" || portA != portB {
		return false
	}
	ipA, okA := machineIP(hostA)
	ipB, okB := machineIP(hostB)
	return okA && okB && (ipA == ipB || ipA.IsUnspecified() || ipB.IsUnspecified())
}

// machineIP returns the IP address that a listener or a client uses for host. ok is false for other
// names than localhost.
func machineIP(host string) (ip netip.Addr, ok bool) {
	switch host {
	case "":
		return netip.IPv6Unspecified(), true
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	ip, err := netip.ParseAddr(host)
	return ip.Unmap(), err == nil
}
