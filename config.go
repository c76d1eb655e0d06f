// The config family reads the settings from a file, the environment and flags. Read config.go first,
// then config_settings.go (the tags of Config as rules) and config_checks.go (the rules for texts,
// and for values that must fit together). app_check.go compares a configuration with the files that
// it names. The family does not apply the settings: app.go passes them to each part.

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// unusedMin is the shortest time without a use after which something is done about a key. It is longer than
// keys.last_used_interval, after which the last use is stored.
const unusedMin = 24 * time.Hour

// Config holds all settings. config.example.toml explains each of them. The tags of a field are the
// rules for its value: toml is its key, default is its default in the form of a flag, min and max
// are inclusive bounds, in lists the allowed words, check names one of textChecks, and example is a
// valid value if the default is empty. The value of a field with the tag secret is never shown; all
// other secrets are in files of which a Config has the names. A Config is not changed after it was
// loaded, so it is safe for concurrent use.
type Config struct {
	Server struct {
		Listen                   string        `toml:"listen" default:"127.0.0.1:8080" check:"address"`
		Data                     string        `toml:"data" default:"latchkey-data" check:"path"`
		BaseURL                  string        `toml:"base_url" example:"https://keys.example.com" check:"url"`
		TrustedProxies           []string      `toml:"trusted_proxies" example:"10.0.0.0/8" check:"proxy"` // Config.TrustedProxies parses them
		MaxBodyBytes             int           `toml:"max_body_bytes" default:"1048576" min:"1024" max:"67108864"`
		ReadHeaderTimeout        time.Duration `toml:"read_header_timeout" default:"5s" min:"100ms" max:"1h"`
		ReadTimeout              time.Duration `toml:"read_timeout" default:"15s" min:"100ms" max:"1h"`
		WriteTimeout             time.Duration `toml:"write_timeout" default:"30s" min:"100ms" max:"1h"`
		IdleTimeout              time.Duration `toml:"idle_timeout" default:"60s" min:"100ms" max:"1h"`
		ShutdownTimeout          time.Duration `toml:"shutdown_timeout" default:"10s" min:"100ms" max:"1h"`
		MaxConnections           int           `toml:"max_connections" default:"0" min:"0" max:"1000000"`             // 0: as many as the limit of open files allows, see Connections.Use
		MaxConnectionsPerAddress int           `toml:"max_connections_per_address" default:"0" min:"0" max:"1000000"` // 0: a quarter of those of the listener
		Lean                     bool          `toml:"lean" default:"true"`                                           // see internal/lean
		IETFHeaders              string        `toml:"ietf_headers" default:"draft-11" in:"draft-11,off"`
		TLS                      string        `toml:"tls" default:"files" in:"files,acme"`
		TLSCertFile              string        `toml:"tls_cert_file" example:"/etc/latchkey/tls.crt" check:"file"` // "": no TLS, unless TLS is "acme"
		TLSKeyFile               string        `toml:"tls_key_file" example:"/etc/latchkey/tls.key" check:"file"`
		InsecureHTTP             bool          `toml:"insecure_http" default:"false"`
	} `toml:"server"`
	Admin struct {
		Listen       string        `toml:"listen" default:"127.0.0.1:8081" check:"address"`
		BaseURL      string        `toml:"base_url" example:"https://keys-admin.example.com" check:"url"`
		Hosts        []string      `toml:"hosts" example:"keys.internal" check:"host"`
		SessionIdle  time.Duration `toml:"session_idle" default:"12h" min:"1m" max:"720h"`
		SessionMax   time.Duration `toml:"session_max" default:"168h" min:"1m" max:"8760h"`
		SecondFactor bool          `toml:"require_second_factor" default:"false"`
		TLS          string        `toml:"tls" default:"files" in:"files,acme"`
		TLSCertFile  string        `toml:"tls_cert_file" example:"/etc/latchkey/tls.crt" check:"file"`
		TLSKeyFile   string        `toml:"tls_key_file" example:"/etc/latchkey/tls.key" check:"file"`
		InsecureHTTP bool          `toml:"insecure_http" default:"false"`

		PasswordLogin bool `toml:"password_login" default:"true"`

		OIDC struct { // single sign-on, see admin_oidc.go
			Issuer           string            `toml:"issuer" example:"https://login.example.com/realms/main" check:"issuer"` // "": no single sign-on
			ClientID         string            `toml:"client_id" example:"latchkey" check:"text"`
			ClientSecret     string            `toml:"client_secret" example:"the-secret-of-the-provider" check:"text" secret:"true"`
			ClientSecretFile string            `toml:"client_secret_file" example:"/etc/latchkey/oidc-secret" check:"file"`
			RoleClaim        string            `toml:"role_claim" default:"groups" check:"claim"`
			Roles            map[string]string `toml:"roles" example:"platform-team=admin" in:"viewer,key_manager,admin"`
			DefaultRole      string            `toml:"default_role" default:"none" in:"none,viewer,key_manager,admin"`
			AllowedDomains   []string          `toml:"allowed_domains" example:"example.com" check:"domain"`
			Scopes           []string          `toml:"scopes" default:"profile,email" check:"scope"`
			Button           string            `toml:"button" default:"Log in with single sign-on" check:"button"`
		} `toml:"oidc"`
	} `toml:"admin"`
	ACME struct {
		Domains     []string `toml:"domains" example:"keys.example.com" check:"domain"`
		Email       string   `toml:"email" example:"ops@example.com" check:"email"`
		AcceptTerms bool     `toml:"accept_terms" default:"false"`
		Directory   string   `toml:"directory" default:"https://acme-v02.api.letsencrypt.org/directory" check:"directory"`
		CAFile      string   `toml:"ca_file" example:"/etc/latchkey/acme-ca.pem" check:"file"`
		HTTPListen  string   `toml:"http_listen" example:":80" check:"optional-address"` // "": only TLS-ALPN-01
	} `toml:"acme"`
	Log struct {
		Level  string `toml:"level" default:"info" in:"debug,info,warn,error"`
		Format string `toml:"format" default:"auto" in:"auto,text,json"` // auto: text on a terminal, otherwise json
		Access bool   `toml:"access" default:"true"`
	} `toml:"log"`
	Metrics struct {
		Open bool `toml:"open" default:"false"`
	} `toml:"metrics"`
	Audit struct {
		Keep       time.Duration `toml:"keep" default:"9600h" min:"24h" max:"876000h"`
		MaxEntries int           `toml:"max_entries" default:"200000" min:"1000" max:"10000000"`
	} `toml:"audit"`
	Keys struct {
		Prefix             string        `toml:"prefix" default:"klen_" check:"prefix"`
		QueryAllowed       bool          `toml:"query_allowed" default:"true"`
		Cache              int           `toml:"cache" default:"100000" min:"1000" max:"10000000"` // number of keys in memory
		LastUsedInterval   time.Duration `toml:"last_used_interval" default:"30s" min:"1s" max:"1h"`
		ExpiringNotice     time.Duration `toml:"expiring_notice" default:"168h" min:"1h" max:"8760h"`
		UnusedNotice       time.Duration `toml:"unused_notice" default:"720h" min:"0s" max:"87600h"`      // 0: none
		PauseUnused        time.Duration `toml:"pause_unused" default:"0s" min:"0s" max:"87600h"`         // 0: never
		LimitWarning       int           `toml:"limit_warning_percent" default:"80" min:"0" max:"99"`     // 0: none
		PepperFile         string        `toml:"pepper_file" example:"/etc/latchkey/pepper" check:"file"` // "": the file "pepper" in Server.Data
		RetiredPepperFiles []string      `toml:"retired_pepper_files" example:"/etc/latchkey/pepper.old" check:"path"`
		DefaultExpiry      time.Duration `toml:"default_expiry" default:"0s" min:"0s" max:"876000h"`
		MaxExpiry          time.Duration `toml:"max_expiry" default:"0s" min:"0s" max:"876000h"`
		MaxPerOwner        int           `toml:"max_per_owner" default:"0" min:"0" max:"1000000"`
		Environments       []string      `toml:"environments" example:"live" check:"word"` // nil: any word
		SelfRevoke         bool          `toml:"self_revoke" default:"true"`
	} `toml:"keys"`
	Backup struct {
		Dir   string        `toml:"dir" example:"/var/backups/latchkey" check:"folder"` // "": no scheduled backups
		Every time.Duration `toml:"every" default:"24h" min:"1m" max:"8760h"`
		Keep  int           `toml:"keep" default:"7" min:"1" max:"10000"`
	} `toml:"backup"`
	Cluster  ClusterConfig `toml:"cluster"`
	Bounds   Bounds        `toml:"bounds"`
	Contract struct {
		Enabled       bool   `toml:"enabled" default:"true"`
		ContactsWrite string `toml:"contacts_write" default:"can_read_contacts" in:"can_read_contacts,can_write_contacts"`
	} `toml:"contract"`
	Webhooks struct {
		AllowPrivateTargets bool          `toml:"allow_private_targets" default:"false"`
		Timeout             time.Duration `toml:"timeout" default:"10s" min:"100ms" max:"20s"`
		SignatureHeader     string        `toml:"signature_header" default:"X-Klen-Signature" check:"header"`
		Signature           string        `toml:"signature" default:"hex" in:"hex,sha256=hex"`
	} `toml:"webhooks"`
	Mail  MailConfig `toml:"mail"`
	Limit struct {   // in the configuration file these limits are [[limit]] sections with a name and a default
		RequestsPerMinute    int `toml:"requests_per_minute_limit" default:"60" min:"1" max:"1000000000"`
		CallsPerDay          int `toml:"calls_per_day_limit" default:"100" min:"1" max:"1000000000"`
		CalendarEventsPerDay int `toml:"calendar_events_per_day_limit" default:"50" min:"1" max:"1000000000"`
		// Limits that all keys of an owner share; 0: no limit.
		OwnerRequestsPerMinute    int `toml:"owner_requests_per_minute_limit" default:"0" min:"0" max:"1000000000"`
		OwnerCallsPerDay          int `toml:"owner_calls_per_day_limit" default:"0" min:"0" max:"1000000000"`
		OwnerCalendarEventsPerDay int `toml:"owner_calendar_events_per_day_limit" default:"0" min:"0" max:"1000000000"`
		// Limits on requests in flight; 0: no limit.
		ConcurrentRequests      int `toml:"concurrent_requests" default:"64" min:"0" max:"1000000000"`
		ConcurrentStreams       int `toml:"concurrent_streams" default:"1000" min:"0" max:"1000000000"`
		OwnerConcurrentRequests int `toml:"owner_concurrent_requests" default:"0" min:"0" max:"1000000000"`
		OwnerConcurrentStreams  int `toml:"owner_concurrent_streams" default:"0" min:"0" max:"1000000000"`
	} `toml:"limit"`
	// The fields below cannot be set by environment variables or flags. They are read only from the
	// [[...]] sections of a file.
	Observed    []string        // names of built-in limits in observe mode, sorted
	Limits      []limitRow      // limits in a window that are not built in
	Concurrent  []concurrentRow // limits on requests in flight that are not built in
	Permissions []permissionRow // permissions that are not built in
	Routes      []RouteRow      // routes of other APIs that this service guards
}

// Sources holds the source of each value by its key, such as "server.listen" or "limit.NAME". A
// source is "default", "file NAME", "env NAME" or "flag".
type Sources map[string]string

// defaultConfig returns a Config with the default of each setting.
func defaultConfig() Config {
	var c Config
	for _, s := range c.settings() {
		s.Assign(s.Parse(s.Tag.Get("default")))
	}
	return c
}

// LoadConfig reads the configuration. A flag overrides an environment variable, a variable overrides
// the file, and the file overrides the default. file is a path, or "" if there is no file. environ
// has the form of os.Environ. flags holds the text of each given flag by its key, such as
// "server.listen". The error lists all problems, sorted and one per line. It includes problems
// with values that were overridden.
func LoadConfig(file string, environ []string, flags map[string]string) (Config, Sources, error) {
	c := defaultConfig()
	l := configLoader{settings: map[string]setting{}, sources: Sources{}}
	for _, s := range c.settings() {
		section, _ := s.place()
		l.settings[section] = setting{Key: section}
		l.settings[s.Key] = s
		l.sources[s.Key] = "default"
	}
	readable := file == "" || l.readFile(file, &c, environ)
	l.readEnviron(environ)
	for key, text := range flags {
		l.set("flag", key, l.settings[key].Parse(text))
	}
	if l.problems == nil {
		l.checkAddresses(c)
		l.checkUpstreams(c)
		l.checkOIDC(c)
		l.checkMail(c.Mail)
		_, problems := ReadProxyRoutes(c.Routes, c.Rights())
		for _, problem := range problems {
			l.fail(l.sources["route"], "%s", problem)
		}
	}
	if readable { // a file that cannot be read may set insecure_http, so these checks would be misleading
		l.checkTLS("server", c.ServerTLS(), c)
		l.checkTLS("admin", c.AdminTLS(), c)
		l.checkCluster(c.Cluster)
		l.checkACME(c)
		if !c.Server.InsecureHTTP && !c.ServerTLS().On() {
			l.checkListener("server", c.Server.Listen)
		}
		if !c.Admin.InsecureHTTP && !c.AdminTLS().On() {
			l.checkListener("admin", c.Admin.Listen)
		}
		if c.Keys.UnusedNotice > 0 && c.Keys.UnusedNotice < unusedMin {
			l.fail(l.sources["keys.unused_notice"], "keys.unused_notice is %s; write 0s for no notice, or %s or more", c.Keys.UnusedNotice, unusedMin)
		}
		if c.Keys.PauseUnused > 0 && c.Keys.PauseUnused < unusedMin {
			l.fail(l.sources["keys.pause_unused"], "keys.pause_unused is %s; write 0s to pause no keys, or %s or more", c.Keys.PauseUnused, unusedMin)
		}
		if c.Keys.MaxExpiry > 0 && c.Keys.DefaultExpiry > c.Keys.MaxExpiry {
			l.fail(l.sources["keys.default_expiry"], "keys.default_expiry is %s, longer than keys.max_expiry, %s", c.Keys.DefaultExpiry, c.Keys.MaxExpiry)
		}
	}
	if l.problems != nil {
		slices.Sort(l.problems)
		return Config{}, nil, errors.New(strings.Join(l.problems, "\n"))
	}
	return c, l.sources, nil
}

// Print writes the configuration as a TOML file from which LoadConfig reads the same values. A
// comment names the source of each value. For a secret there is only a comment.
func (c Config) Print(w io.Writer, sources Sources) error {
	var b strings.Builder
	last := ""
	for _, s := range c.settings() {
		section, name := s.place()
		if section == "limit" {
			fmt.Fprintf(&b, "\n[[limit]]\nname = %q\n", name)
			name = "default"
		} else if section != last {
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		last = section
		source := strings.Trim(strconv.Quote(sources[s.Key]), `"`) // a line break in a file name would end the comment
		if s.hidden() {
			fmt.Fprintf(&b, "# %s is set and not shown # %s\n", name, source)
			continue
		}
		fmt.Fprintf(&b, "%s = %s # %s\n", name, s.Text(), source)
		if section == "limit" && slices.Contains(c.Observed, strings.TrimPrefix(s.Key, "limit.")) {
			b.WriteString("observe = true\n")
		}
	}
	for _, row := range c.Limits {
		b.WriteString(printRow("limit", row, sources["limit"]))
	}
	for _, row := range c.Concurrent {
		b.WriteString(printRow("limit", row, sources["limit"]))
	}
	for _, row := range c.Permissions {
		b.WriteString(printRow("permission", row, sources["permission"]))
	}
	for _, row := range c.Routes {
		b.WriteString(printRow("route", row, sources["route"]))
	}
	_, err := io.WriteString(w, strings.TrimPrefix(b.String(), "\n"))
	return err
}

// TrustedProxies returns the proxies whose fields about the client are trusted. It returns a single
// address as a network of one address. It parses the setting in each call.
func (c Config) TrustedProxies() Proxies {
	var p Proxies
	for _, text := range c.Server.TrustedProxies {
		if text == unixPeers {
			p.Unix = true
		} else {
			p.Networks = append(p.Networks, parseNetwork(text))
		}
	}
	return p
}

// LimitDefaults returns the default of each built-in limit by its name. The caller may change the
// map.
func (c Config) LimitDefaults() map[string]int {
	return map[string]int{
		"requests_per_minute_limit":     c.Limit.RequestsPerMinute,
		"calls_per_day_limit":           c.Limit.CallsPerDay,
		"calendar_events_per_day_limit": c.Limit.CalendarEventsPerDay,

		"owner_requests_per_minute_limit":     c.Limit.OwnerRequestsPerMinute,
		"owner_calls_per_day_limit":           c.Limit.OwnerCallsPerDay,
		"owner_calendar_events_per_day_limit": c.Limit.OwnerCalendarEventsPerDay,

		"concurrent_requests":       c.Limit.ConcurrentRequests,
		"concurrent_streams":        c.Limit.ConcurrentStreams,
		"owner_concurrent_requests": c.Limit.OwnerConcurrentRequests,
		"owner_concurrent_streams":  c.Limit.OwnerConcurrentStreams,
	}
}

// Rights returns the Policy with the built-in and the configured permissions and limits.
func (c Config) Rights() *Policy {
	limits := BuiltinLimits(c.LimitDefaults())
	for i := range limits {
		limits[i].Observe = slices.Contains(c.Observed, limits[i].Name)
	}
	for _, row := range c.Limits {
		limits = append(limits, LimitRule{Limit: Limit{row.Name, row.Default, row.Window}, Owner: row.Scope == "owner", Observe: row.Observe})
	}
	for _, row := range c.Concurrent {
		limits = append(limits, LimitRule{Limit: Limit{Name: row.Name, Max: row.Default}, Owner: row.Scope == "owner", Observe: row.Observe})
	}
	var own []PermissionInfo
	for _, row := range c.Permissions {
		own = append(own, PermissionInfo{Name: row.Name, Description: row.Description})
	}
	policy := NewPolicy(own, limits)
	if !c.Contract.Enabled {
		policy = policy.WithoutContract()
	}
	return policy
}

// ServerTLS returns the TLS settings of the API listener.
func (c Config) ServerTLS() ListenerTLS {
	return ListenerTLS{c.Server.TLS == "acme", c.Server.TLSCertFile, c.Server.TLSKeyFile}
}

// AdminTLS returns the TLS settings of the admin listener.
func (c Config) AdminTLS() ListenerTLS {
	return ListenerTLS{c.Admin.TLS == "acme", c.Admin.TLSCertFile, c.Admin.TLSKeyFile}
}

// APIURL returns the URL at which clients reach the API. address is the address of the API listener.
// If the configuration sets a URL, APIURL returns that URL.
func (c Config) APIURL(address string) string {
	if c.Server.BaseURL != "" {
		return strings.TrimSuffix(c.Server.BaseURL, "/")
	}
	return c.hostURL(address, c.ServerTLS())
}

// DashboardURL returns the URL at which browsers reach the dashboard. address is the address of the
// admin listener. If the configuration sets a URL, DashboardURL returns that URL. For a listener on
// loopback without TLS it has the host localhost, since an IP address cannot have passkeys.
func (c Config) DashboardURL(address string) string {
	if c.Admin.BaseURL != "" {
		return strings.TrimSuffix(c.Admin.BaseURL, "/")
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil && !c.AdminTLS().On() && (host == "127.0.0.1" || host == "::1") {
		return "http://" + net.JoinHostPort("localhost", port)
	}
	return c.hostURL(address, c.AdminTLS())
}

// hostURL returns the URL of a listener with this address and these TLS settings. Clients cannot
// connect to 0.0.0.0 or [::], so the URL has localhost instead. If the listener uses ACME, the host is
// the first ACME domain of the configuration.
func (c Config) hostURL(address string, t ListenerTLS) string {
	scheme := "http://"
	if t.On() {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return scheme + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if t.ACME {
		host = c.ACME.Domains[0] // the certificates are valid only for the ACME domains
	}
	return scheme + net.JoinHostPort(host, port)
}

// Differing returns the keys of the settings that differ in other and that only a restart applies.
// It leaves out the settings that a reload applies: the [[...]] sections, the limits, the bounds,
// log.level and the numbers of connections.
func (c Config) Differing(other Config) (keys []string) {
	theirs := other.settings()
	for i, s := range c.settings() {
		if s.Text() != theirs[i].Text() && !reloads(s.Key) {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// reloads reports whether a reload applies a setting.
func reloads(key string) bool {
	section, _, _ := strings.Cut(key, ".")
	return section == "limit" || section == "bounds" || key == "log.level" || strings.HasPrefix(key, "server.max_connections")
}

// settings returns the settings in the order of the struct. The Field of each points into c.
func (c *Config) settings() []setting {
	var list []setting
	for section, fields := range reflect.ValueOf(c).Elem().Fields() {
		if fields.Kind() != reflect.Struct { // a [[...]] section
			continue
		}
		list = append(list, settingsIn(section.Tag.Get("toml"), fields)...)
	}
	return list
}

// settingsIn returns the settings of a section and of the sections in it.
func settingsIn(section string, fields reflect.Value) (list []setting) {
	for f, value := range fields.Fields() {
		key := section + "." + f.Tag.Get("toml")
		if value.Kind() == reflect.Struct {
			list = append(list, settingsIn(key, value)...)
			continue
		}
		list = append(list, setting{Key: key, Tag: f.Tag, Field: value.Addr().Interface()})
	}
	return list
}

// configLoader stores values in the fields of one Config. It records the source of each value and
// the problems that it finds.
type configLoader struct {
	settings map[string]setting // by key; also contains the names of sections, with a nil Field
	sources  Sources
	problems []string
}

// fail records a problem with a value from this source.
func (l *configLoader) fail(source, format string, args ...any) {
	l.problems = append(l.problems, source+": "+fmt.Sprintf(format, args...))
}

// readFile reads a file and stores its values in c. It returns false if the file cannot be read or
// is not valid TOML. environ is as in LoadConfig.
func (l *configLoader) readFile(name string, c *Config, environ []string) bool {
	source, sections := "file "+name, map[string]any{}
	_, err := toml.DecodeFile(name, &sections)
	parse, isParse := errors.AsType[toml.ParseError](err)
	switch {
	case isParse:
		l.fail(source, "%s", parseProblem(parse))
	case errors.Is(err, os.ErrNotExist):
		l.fail(source, "does not exist%s; name an existing file, or no file to use the defaults", whereLooked(name, environ))
	case err != nil:
		l.fail(source, "%v", err)
	}
	for section, value := range sections {
		switch section {
		case "limit":
			value = l.limits(source, value, c)
		case "permission":
			l.permissions(source, value, c)
			continue
		case "route":
			c.Routes = readRows[RouteRow](l, source, section, value)
			continue
		}
		table, ok := value.(map[string]any)
		if _, known := l.settings[section]; !ok || !known && len(table) == 0 {
			l.set(source, toml.Key{section}.String(), value)
		}
		l.setTable(source, toml.Key{section}, table)
	}
	return err == nil
}

// whereLooked returns the end of a sentence about a file that does not exist: the folder that its path
// begins at, if it is not a whole path, and the variable if that names it.
func whereLooked(name string, environ []string) (text string) {
	if dir, err := os.Getwd(); err == nil && !filepath.IsAbs(name) {
		text = " in " + dir
	}
	if slices.Contains(environ, "LATCHKEY_CONFIG="+name) {
		text += ", and LATCHKEY_CONFIG names it"
	}
	return text
}

// setTable stores the values of a section and of the sections in it.
func (l *configLoader) setTable(source string, section toml.Key, table map[string]any) {
	for name, value := range table {
		key := slices.Concat(section, toml.Key{name})
		inner, isTable := value.(map[string]any)
		if s, known := l.settings[key.String()]; isTable && known && s.Field == nil {
			l.setTable(source, key, inner)
			continue
		}
		l.set(source, key.String(), value)
	}
}

// limits reads the [[limit]] tables of a file. It stores the limits that are not built in, and
// the names of built-in limits in observe mode, in c. It returns the defaults of built-in limits by
// name, for set.
func (l *configLoader) limits(source string, value any, c *Config) map[string]any {
	section := map[string]any{}
	tables, ok := value.([]map[string]any)
	if !ok {
		l.fail(source, "limit must be sections [[limit]], each with name and default; got %s", describe(value))
	}
	builtin := Config{}.LimitDefaults()
	seen := map[string]bool{}
	var own, concurrent []map[string]any
	for _, table := range tables {
		name, named := table["name"].(string)
		if named && seen[name] {
			l.fail(source, "limit %q appears twice", name)
			continue
		}
		seen[name] = true
		_, known := builtin[name]
		_, timed := table["window"]
		switch {
		case known:
		case table["kind"] == "concurrent" && timed:
			l.fail(source, `limit %q: a limit of kind "concurrent" has no window, because it counts the requests in flight; leave window out`, name)
			continue
		case table["kind"] == "concurrent":
			concurrent = append(concurrent, table)
			continue
		case timed:
			own = append(own, table)
			continue
		default:
			l.fail(source, `limit %s has no window, is not of kind = "concurrent", and is none of the built-in limits %s`, describe(table["name"]),
				strings.Join(slices.Sorted(maps.Keys(builtin)), ", "))
			continue
		}
		observe, given := table["observe"]
		if number, ok := table["default"]; ok || !given {
			section[name] = number
		}
		if on, ok := observe.(bool); on {
			c.Observed = append(c.Observed, name)
		} else if given && !ok {
			l.fail(source, "limit %q: observe must be true or false; got %s", name, describe(observe))
		}
		l.checkBuiltin(source, name, table)
	}
	slices.Sort(c.Observed)
	c.Limits, c.Concurrent = readRows[limitRow](l, source, "limit", own), readRows[concurrentRow](l, source, "limit", concurrent)
	for _, row := range c.Limits {
		if row.Scope == "key" && row.Default == 0 {
			l.fail(source, "limit %q: default must be 1 or more; 0, for none, is for scope = \"owner\"", row.Name)
		}
	}
	return section
}

// checkBuiltin checks that the [[limit]] of a built-in limit has no keys that are fixed, and no kind but
// that of the limit.
func (l *configLoader) checkBuiltin(source, name string, table map[string]any) {
	rules := BuiltinLimits(nil)
	kind := rules[slices.IndexFunc(rules, func(r LimitRule) bool { return r.Name == name })].Kind()
	for _, key := range slices.Sorted(maps.Keys(table)) {
		switch {
		case key == "kind" && table[key] != kind:
			l.fail(source, "limit %q: kind is %q for this limit, which is built in; got %s", name, kind, describe(table[key]))
		case !slices.Contains([]string{"name", "kind", "default", "observe"}, key):
			l.fail(source, `limit %q: unknown key %q: the limit is built in, so its [[limit]] has name, default and observe only`, name, key)
		}
	}
}

// permissions reads the [[permission]] tables of a file and stores them in c.
func (l *configLoader) permissions(source string, value any, c *Config) {
	c.Permissions = readRows[permissionRow](l, source, "permission", value)
	if len(c.Permissions) > MaxOwnPermissions {
		l.fail(source, "there are %d [[permission]], more than the %d that there may be", len(c.Permissions), MaxOwnPermissions)
	}
	seen := map[string]bool{}
	for _, row := range c.Permissions {
		if seen[row.Name] {
			l.fail(source, "permission %q appears twice", row.Name)
		}
		seen[row.Name] = true
		if slices.ContainsFunc(Permissions(), func(p PermissionInfo) bool { return p.Name == row.Name }) {
			l.fail(source, "permission %q is built in; choose another name", row.Name)
		}
	}
}

// readRows calls ReadRows, and records in l its problems and the source of the section.
func readRows[T any](l *configLoader, source, section string, value any) []T {
	rows, problems := ReadRows[T](section, value)
	for _, problem := range problems {
		l.fail(source, "%s", problem)
	}
	l.sources[section] = source
	return rows
}

// notSettings matches environment entries that begin with LATCHKEY_ but are not settings of Config:
// the pepper itself, variables of the command line client, switches of tests, and variables that
// Kubernetes sets in each container if there is a service named latchkey or latchkey-something.
var notSettings = regexp.MustCompile(`^LATCHKEY_(KEYS_PEPPER=|CONFIG=|URL=|CA=|ADMIN_TOKEN=|ADMIN_TOKEN_FILE=|ADMIN_NAME=|ADMIN_PASSWORD=|ADMIN_PASSWORD_FILE=|CRASH_|BENCH_|TEST_|` +
	`(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=|PORT=(tcp|udp|sctp)://))`)

// readEnviron stores the values of environment variables. environ has the form of os.Environ.
func (l *configLoader) readEnviron(environ []string) {
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		bare, ok := strings.CutPrefix(name, "LATCHKEY_")
		if !ok || notSettings.MatchString(entry) {
			continue
		}
		key := strings.Replace(strings.ToLower(bare), "_", ".", 1) // no section name contains _
		section, rest, _ := strings.Cut(key, "_")
		if inner := l.settings[section]; inner.Key != "" && inner.Field == nil {
			key = section + "." + rest // a section in a section, such as admin.oidc
		}
		if s := l.settings[key]; s.Field != nil && name == variable(key) {
			l.set("env "+name, key, s.Parse(text))
		} else {
			l.fail("env "+name, "unknown variable%s", l.suggest(key, variable)) // does not show the value, which may be a secret
		}
	}
}

// variable returns the name of the environment variable that sets a key.
func variable(key string) string {
	return "LATCHKEY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// set stores the value of a key and its source. If the key is unknown or the value is not valid, it
// records a problem instead. value has a type that the TOML decoder produces.
func (l *configLoader) set(source, key string, value any) {
	s, ok := l.settings[key]
	if section, _, _ := strings.Cut(key, "."); !ok && slices.Contains([]string{"limits", "permissions", "routes"}, section) {
		l.fail(source, "unknown key %q: did you mean [[%s]]?", key, strings.TrimSuffix(section, "s"))
		return
	}
	if !ok {
		l.fail(source, "unknown key %q%s", key, l.suggest(key, strconv.Quote))
		return
	}
	if want := s.Assign(value); want != "" && s.Tag.Get("secret") != "" {
		l.fail(source, "%s must be %s; got another value, which is not shown", key, want)
		return
	} else if want != "" {
		l.fail(source, "%s must be %s; got %s", key, want, describe(value))
		return
	}
	l.sources[key] = source
}

// checkListener records a problem if a listener without TLS would receive keys from other machines.
func (l *configLoader) checkListener(section, listen string) {
	if !IsLocalAddress(listen) {
		l.fail(l.sources[section+".listen"], "%s.listen is %q, where keys would travel in clear; set %s.tls_cert_file and %s.tls_key_file, "+
			"or put TLS in front and set %s.insecure_http = true, or listen on 127.0.0.1", section, listen, section, section, section)
	}
}

// checkTLS records a problem if the TLS settings of a listener are incomplete.
func (l *configLoader) checkTLS(section string, t ListenerTLS, c Config) {
	if key, problem := t.Missing(section, c); key != "" {
		l.fail(l.sources[key], "%s", problem)
	}
}

// checkCluster records a problem if a setting of the cluster needs another.
func (l *configLoader) checkCluster(c ClusterConfig) {
	switch {
	case len(c.Endpoints) > 0 && c.Name == "":
		l.fail(l.sources["cluster.endpoints"], `cluster.endpoints needs cluster.name beside it, the name of this node, such as "a"; each node has another`)
	case len(c.Endpoints) == 0 && c.Name != "":
		l.fail(l.sources["cluster.name"], "cluster.name needs cluster.endpoints beside it, the URLs of the etcd servers")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		l.fail(l.sources["cluster.cert_file"], "cluster.cert_file and cluster.key_file need each other: the certificate of this node, and its key")
	}
}

// checkACME records a problem if acme.domains is set but no listener uses ACME.
// The operator would otherwise believe that there is TLS.
func (l *configLoader) checkACME(c Config) {
	if len(c.ACME.Domains) > 0 && !c.ServerTLS().ACME && !c.AdminTLS().ACME {
		l.fail(l.sources["acme.domains"], `acme.domains is set and no listener uses it for TLS; set server.tls = "acme"`)
	}
}

// suggest returns the end of a message about an unknown key. It names the most similar known key, or
// the command that lists all keys. name returns a key in the form of the source, such as the name
// of an environment variable.
func (l *configLoader) suggest(key string, name func(string) string) string {
	key = strings.ToLower(key)
	bare := key[strings.Index(key, ".")+1:]
	best, least := "", len(bare)/3+2
	for _, known := range slices.Backward(slices.Sorted(maps.Keys(l.settings))) { // reverse order, so that server precedes admin if both are equally similar
		distance := editDistance(key, known)
		_, own, _ := strings.Cut(known, ".")
		if own == bare || bare != key && strings.HasPrefix(known, key) {
			distance = min(distance, 2) // the section is wrong, or the key is incomplete
		}
		if own != "" && distance < least {
			best, least = known, distance
		}
	}
	if best == "" {
		return ": 'latchkey config print' lists all"
	}
	return ": did you mean " + name(best) + "?"
}

// ClusterConfig has the settings of a node that shares its records with others. They are in etcd.
type ClusterConfig struct {
	Name      string        `toml:"name" example:"a" check:"node"`                            // of this node; "": the server is alone
	Endpoints []string      `toml:"endpoints" example:"https://10.0.0.1:2379" check:"etcd"`   // of the etcd servers
	CAFile    string        `toml:"ca_file" example:"/etc/latchkey/etcd-ca.crt" check:"file"` // "": the authorities of the system
	CertFile  string        `toml:"cert_file" example:"/etc/latchkey/etcd.crt" check:"file"`  // of this node as a client of etcd
	KeyFile   string        `toml:"key_file" example:"/etc/latchkey/etcd.key" check:"file"`   // its key
	Lease     time.Duration `toml:"lease" default:"3s" min:"2s" max:"60s"`                    // see cluster.Members
}

// On reports whether the server is a node of a cluster.
func (c ClusterConfig) On() bool { return len(c.Endpoints) > 0 }

// ListenerTLS describes how a listener gets its certificate. The zero value
// means no TLS.
type ListenerTLS struct {
	ACME              bool // the certificate comes from an ACME certificate authority, not from the files
	CertFile, KeyFile string
}

// On reports whether the listener uses TLS.
func (t ListenerTLS) On() bool { return t.ACME || t.CertFile != "" }

// Missing returns the key of a setting that needs another setting, and the text of the problem. key
// is "" if the TLS settings are complete. section is the listener's section, "server" or "admin". c
// has the settings of the section acme.
func (t ListenerTLS) Missing(section string, c Config) (key, problem string) {
	switch {
	case t.ACME && len(c.ACME.Domains) == 0:
		return section + ".tls", fmt.Sprintf(`%s.tls is "acme" and acme.domains is empty; name there what clients call this server`, section)
	case t.ACME && !c.ACME.AcceptTerms:
		return section + ".tls", fmt.Sprintf(`%s.tls is "acme", which needs your agreement to the terms of the authority at %s; read them and set acme.accept_terms = true`, section, c.ACME.Directory)
	case !t.ACME && t.CertFile == "" && t.KeyFile != "":
		return section + ".tls_key_file", fmt.Sprintf("%s.tls_key_file needs %[1]s.tls_cert_file beside it", section)
	case !t.ACME && t.CertFile != "" && t.KeyFile == "":
		return section + ".tls_cert_file", fmt.Sprintf("%s.tls_cert_file needs %[1]s.tls_key_file beside it", section)
	}
	return "", ""
}

// IsLocalAddress reports whether a listener on this host:port is reachable only from this machine.
func IsLocalAddress(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip, _ := netip.ParseAddr(host)
	return host == "localhost" || ip.IsLoopback()
}
