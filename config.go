package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"
)

// Config is everything an operator can set; config.example.toml explains each
// key. The tags are the rules: the name, the default as a flag would give it,
// min and max (both allowed), the words allowed in it, one of textChecks, and an
// example where the default is empty. It has names of files with secrets, never
// a secret. Once loaded, it may be read by several goroutines.
type Config struct {
	Server struct {
		Listen            string        `toml:"listen" default:"127.0.0.1:8080" check:"address"`
		Data              string        `toml:"data" default:"latchkey-data" check:"path"`
		BaseURL           string        `toml:"base_url" example:"https://keys.example.com" check:"url"` // without a slash at the end
		TrustedProxies    []string      `toml:"trusted_proxies" example:"10.0.0.0/8" check:"network"`    // parsed by Config.TrustedProxies
		MaxBodyBytes      int           `toml:"max_body_bytes" default:"1048576" min:"1024" max:"67108864"`
		ReadHeaderTimeout time.Duration `toml:"read_header_timeout" default:"5s" min:"100ms" max:"1h"`
		ReadTimeout       time.Duration `toml:"read_timeout" default:"15s" min:"100ms" max:"1h"`
		WriteTimeout      time.Duration `toml:"write_timeout" default:"30s" min:"100ms" max:"1h"`
		IdleTimeout       time.Duration `toml:"idle_timeout" default:"60s" min:"100ms" max:"1h"`
		ShutdownTimeout   time.Duration `toml:"shutdown_timeout" default:"10s" min:"100ms" max:"1h"`
		IETFHeaders       string        `toml:"ietf_headers" default:"draft-11" in:"draft-11,off"`
		InsecureHTTP      bool          `toml:"insecure_http" default:"false"`
	} `toml:"server"`
	Admin struct {
		Listen       string `toml:"listen" default:"127.0.0.1:8081" check:"address"`
		InsecureHTTP bool   `toml:"insecure_http" default:"false"`
	} `toml:"admin"`
	Log struct {
		Level  string `toml:"level" default:"info" in:"debug,info,warn,error"`
		Format string `toml:"format" default:"auto" in:"auto,text,json"` // auto is text on a terminal, json otherwise
		Access bool   `toml:"access" default:"true"`
	} `toml:"log"`
	Keys struct {
		Prefix             string        `toml:"prefix" default:"klen_" check:"prefix"`
		QueryAllowed       bool          `toml:"query_allowed" default:"true"`
		Cache              int           `toml:"cache" default:"100000" min:"1000" max:"10000000"` // keys
		LastUsedInterval   time.Duration `toml:"last_used_interval" default:"30s" min:"1s" max:"1h"`
		PepperFile         string        `toml:"pepper_file" example:"/etc/latchkey/pepper"` // empty is the file pepper in Server.Data
		RetiredPepperFiles []string      `toml:"retired_pepper_files" example:"/etc/latchkey/pepper.old" check:"path"`
	} `toml:"keys"`
	Contract struct {
		ContactsWrite string `toml:"contacts_write" default:"can_read_contacts" in:"can_read_contacts,can_write_contacts"`
	} `toml:"contract"`
	Limit struct { // in a file each is a [[limit]] with name and default
		RequestsPerMinute    int `toml:"requests_per_minute_limit" default:"60" min:"1" max:"1000000000"`
		CallsPerDay          int `toml:"calls_per_day_limit" default:"100" min:"1" max:"1000000000"`
		CalendarEventsPerDay int `toml:"calendar_events_per_day_limit" default:"50" min:"1" max:"1000000000"`
	} `toml:"limit"`
}

// Sources tells where the value of each key, such as "server.listen" or
// "limit.NAME", came from: "default", "file NAME", "env NAME" or "flag".
type Sources map[string]string

// DefaultConfig returns the config without any file, variable or flag.
func DefaultConfig() Config {
	var c Config
	for _, s := range c.settings() {
		s.assign(s.parse(s.tag.Get("default")))
	}
	return c
}

// LoadConfig puts the config together: flag before variable of the environment
// before file before default. file may be empty, environ is as of os.Environ,
// flags maps keys such as "server.listen" to text. The error has all problems,
// one a line and sorted, those of values that another goes before included.
func LoadConfig(file string, environ []string, flags map[string]string) (Config, Sources, error) {
	c := DefaultConfig()
	l := configLoader{settings: map[string]setting{}, sources: Sources{}}
	for _, s := range c.settings() {
		section, _, _ := strings.Cut(s.key, ".")
		l.settings[section] = setting{key: section}
		l.settings[s.key] = s
		l.sources[s.key] = "default"
	}
	readable := file == "" || l.readFile(file)
	l.readEnviron(environ)
	for key, text := range flags {
		l.set("flag", key, l.settings[key].parse(text))
	}
	if readable { // else a missing insecure_http may well be in the file
		l.checkDoor("server", c.Server.Listen, c.Server.InsecureHTTP)
		l.checkDoor("admin", c.Admin.Listen, c.Admin.InsecureHTTP)
	}
	if l.problems != nil {
		slices.Sort(l.problems)
		return Config{}, nil, errors.New(strings.Join(l.problems, "\n"))
	}
	c.Server.BaseURL = strings.TrimSuffix(c.Server.BaseURL, "/")
	return c, l.sources, nil
}

// Print writes the config as a TOML file that loads to the same values, each
// with its source in a comment. It shows no secret, for a Config has none.
func (c Config) Print(w io.Writer, sources Sources) error {
	var b strings.Builder
	last := ""
	for _, s := range c.settings() {
		section, name, _ := strings.Cut(s.key, ".")
		if section == "limit" {
			fmt.Fprintf(&b, "\n[[limit]]\nname = %q\n", name)
			name = "default"
		} else if section != last {
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		last = section
		source := strings.Trim(strconv.Quote(sources[s.key]), `"`) // a line break in the name of a file would end the comment
		fmt.Fprintf(&b, "%s = %s # %s\n", name, s.text(), source)
	}
	_, err := io.WriteString(w, strings.TrimPrefix(b.String(), "\n"))
	return err
}

// TrustedProxies returns the networks whose X-Forwarded-For is believed, a
// single address as a network of its own. It parses anew at each call.
func (c Config) TrustedProxies() []netip.Prefix {
	var list []netip.Prefix
	for _, text := range c.Server.TrustedProxies {
		list = append(list, parseNetwork(text))
	}
	return list
}

// LimitDefaults returns the default of each built-in limit by its name, in a
// map of the caller's own.
func (c Config) LimitDefaults() map[string]int {
	return map[string]int{
		"requests_per_minute_limit":     c.Limit.RequestsPerMinute,
		"calls_per_day_limit":           c.Limit.CallsPerDay,
		"calendar_events_per_day_limit": c.Limit.CalendarEventsPerDay,
	}
}

// settings lists the keys of the config in the order of the struct.
func (c *Config) settings() []setting {
	var list []setting
	for section, fields := range reflect.ValueOf(c).Elem().Fields() {
		for f, value := range fields.Fields() {
			key := section.Tag.Get("toml") + "." + f.Tag.Get("toml")
			list = append(list, setting{key: key, tag: f.Tag, field: value.Addr().Interface()})
		}
	}
	return list
}

// setting is one key of a Config.
type setting struct {
	key   string            // such as "server.listen"
	field any               // *string, *bool, *int, *time.Duration, *[]string; nil for a section
	tag   reflect.StructTag // the rules
}

// text gives the value as TOML.
func (s setting) text() string {
	switch field := s.field.(type) {
	case *string:
		return strconv.Quote(*field) // good TOML, as checkText lets no control character in
	case *[]string:
		return strings.ReplaceAll(fmt.Sprintf("%q", *field), `" "`, `", "`) // quotes inside an item follow a backslash
	case *time.Duration:
		return fmt.Sprintf(`"%gs"`, field.Seconds()) // "60s", not "1m0s"
	}
	return fmt.Sprint(reflect.ValueOf(s.field).Elem())
}

// parse turns the text of a variable or a flag into what TOML gives for such a
// value. Text that is none stays text, for assign to refuse.
func (s setting) parse(text string) any {
	switch s.field.(type) {
	case *bool:
		if text == "true" || text == "false" {
			return text == "true"
		}
	case *int:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	case *[]string:
		list := []any{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list
	}
	return text
}

// example gives the text of a good value, quoted. One of the two is empty.
func (s setting) example() string {
	return strconv.Quote(s.tag.Get("example") + s.tag.Get("default"))
}

// assign stores a value as TOML gives it, or says what it must be.
func (s setting) assign(value any) (want string) {
	low, high := s.tag.Get("min"), s.tag.Get("max")
	switch field := s.field.(type) {
	case *string:
		text, want := s.checkText(value)
		if want != "" {
			return want
		}
		*field = text
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return "true or false"
		}
		*field = b
	case *int:
		n, ok := value.(int64)
		least, _ := strconv.ParseInt(low, 10, 64)
		most, _ := strconv.ParseInt(high, 10, 64)
		if !ok || n < least || n > most {
			return fmt.Sprintf("a whole number from %s to %s, such as %s", low, high, s.tag.Get("default"))
		}
		*field = int(n)
	case *time.Duration:
		text, _ := value.(string)
		d, err := time.ParseDuration(text)
		if err != nil {
			return "a duration with a unit, such as " + s.example()
		}
		least, _ := time.ParseDuration(low)
		most, _ := time.ParseDuration(high)
		if d < least || d > most {
			return fmt.Sprintf("a duration from %s to %s, such as %s", low, high, s.example())
		}
		*field = d
	case *[]string:
		items, ok := value.([]any)
		if !ok {
			return "a list of strings, such as [" + s.example() + "]"
		}
		var list []string // an empty one is nil
		for _, item := range items {
			text, want := s.checkText(item)
			if want != "" {
				return "a list, each item " + want
			}
			list = append(list, text)
		}
		*field = list
	default:
		return "a section, such as [" + s.key + "]"
	}
	return ""
}

// checkText returns a value that is a string as the tag wants, or what it must be.
func (s setting) checkText(value any) (text, want string) {
	text, ok := value.(string)
	words := s.tag.Get("in")
	check := textChecks[s.tag.Get("check")]
	switch {
	case !ok:
		want = "a string"
	case strings.ContainsFunc(strings.ToValidUTF8(text, "\x00"), unicode.IsControl):
		want = "UTF-8 text without control characters"
	case words != "" && !slices.Contains(strings.Split(words, ","), text):
		return "", "one of " + strings.ReplaceAll(words, ",", ", ")
	case check.fits != nil && !check.fits(text):
		want = check.want
	default:
		return text, ""
	}
	return "", want + ", such as " + s.example()
}

// textChecks are the checks that a tag can name.
var textChecks = map[string]struct {
	want string
	fits func(string) bool
}{
	"address": {"host:port, the host localhost or an IP address", isAddress},
	"network": {"an IP address or a network whose bits past its length are zero", func(text string) bool { return parseNetwork(text).IsValid() }},
	"path":    {"a path", regexp.MustCompile(`.`).MatchString},
	"prefix":  {"1 to 16 of a-z, 0-9 and _, the last a _", regexp.MustCompile(`^[a-z0-9_]{0,15}_$`).MatchString},
	"url":     {"http:// or https:// and a host, without a path", regexp.MustCompile(`^(https?://([\w.-]+|\[[\da-fA-F:.]+])(:\d{1,5})?/?)?$`).MatchString},
}

// isAddress tells whether text is host:port with a number as port. No host is
// every address of the machine; a name could turn out to be any of them.
func isAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	_, portErr := strconv.ParseUint(port, 10, 16)
	_, hostErr := netip.ParseAddr(host)
	return err == nil && portErr == nil && (host == "" || host == "localhost" || hostErr == nil)
}

// parseNetwork reads an address or a network; what is neither gives the zero
// Prefix, which contains nothing. In 10.0.0.5/8 either part is not what was
// meant, and a network too wide lets callers forge their address: refused.
func parseNetwork(text string) netip.Prefix {
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		return netip.Prefix{}
	}
	return p
}

// configLoader collects values into the fields of one Config, where they came
// from, and what is wrong with them.
type configLoader struct {
	settings map[string]setting // by key; sections are here too
	sources  Sources
	problems []string
}

// fail notes a problem with what a source says.
func (l *configLoader) fail(source, format string, args ...any) {
	l.problems = append(l.problems, source+": "+fmt.Sprintf(format, args...))
}

// readFile takes the values of a file. It returns false where the file as a
// whole cannot be read.
func (l *configLoader) readFile(name string) bool {
	source, sections := "file "+name, map[string]any{}
	_, err := toml.DecodeFile(name, &sections)
	parse, isParse := errors.AsType[toml.ParseError](err)
	switch {
	case isParse:
		l.fail(source, "%s", strings.TrimSpace(parse.ErrorWithPosition())) // with line and caret
	case errors.Is(err, os.ErrNotExist):
		l.fail(source, "there is no such file; name one that exists, or none to use the defaults")
	case err != nil:
		l.fail(source, "%v", err)
	}
	for section, value := range sections {
		if section == "limit" {
			value = l.limits(source, value)
		}
		table, ok := value.(map[string]any)
		if _, known := l.settings[section]; !ok || !known && len(table) == 0 {
			l.set(source, toml.Key{section}.String(), value)
		}
		for name, value := range table {
			l.set(source, toml.Key{section, name}.String(), value)
		}
	}
	return err == nil
}

// limits turns the [[limit]] tables of a file into one of names and defaults.
func (l *configLoader) limits(source string, value any) map[string]any {
	section := map[string]any{}
	tables, ok := value.([]map[string]any)
	if !ok {
		l.fail(source, "limit must be sections [[limit]], each with name and default; got %s", describe(value))
	}
	names := slices.Sorted(maps.Keys(Config{}.LimitDefaults()))
	for _, table := range tables {
		name, _ := table["name"].(string)
		if _, again := section[name]; again || !slices.Contains(names, name) {
			l.fail(source, "the name of a [[limit]] must be one of %s, each at most once; got %s",
				strings.Join(names, ", "), describe(table["name"]))
			continue
		}
		section[name] = table["default"]
		for key := range table {
			if key != "name" && key != "default" {
				l.fail(source, `unknown key "limit.%s": a [[limit]] has name and default`, key)
			}
		}
	}
	return section
}

// notSettings matches what begins with LATCHKEY_ and is no setting: the pepper
// itself, what the command line reads, switches of tests, and what Kubernetes
// sets in every container near a service called latchkey or latchkey-something.
var notSettings = regexp.MustCompile(`^LATCHKEY_(KEYS_PEPPER=|CONFIG=|URL=|ADMIN_TOKEN=|CRASH_|BENCH_|TEST_|` +
	`(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=|PORT=(tcp|udp|sctp)://))`)

// readEnviron takes the values of the environment.
func (l *configLoader) readEnviron(environ []string) {
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		bare, ok := strings.CutPrefix(name, "LATCHKEY_")
		if !ok || notSettings.MatchString(entry) {
			continue
		}
		key := strings.Replace(strings.ToLower(bare), "_", ".", 1) // no section has a _ in its name
		if s := l.settings[key]; s.field != nil && name == variable(key) {
			l.set("env "+name, key, s.parse(text))
		} else {
			l.fail("env "+name, "unknown variable%s", l.suggest(key, variable)) // without its text, which may be a secret
		}
	}
}

// variable gives the name of the variable that sets a key.
func variable(key string) string {
	return "LATCHKEY_" + strings.ToUpper(strings.Replace(key, ".", "_", 1))
}

// set stores a value as TOML gives it, or notes why it cannot.
func (l *configLoader) set(source, key string, value any) {
	s, ok := l.settings[key]
	if !ok {
		l.fail(source, "unknown key %q%s", key, l.suggest(key, strconv.Quote))
		return
	}
	if want := s.assign(value); want != "" {
		l.fail(source, "%s must be %s; got %s", key, want, describe(value))
		return
	}
	l.sources[key] = source
}

// checkDoor refuses to listen in clear beyond this machine unless told to.
func (l *configLoader) checkDoor(section, listen string, insecure bool) {
	host, _, _ := net.SplitHostPort(listen)
	ip, _ := netip.ParseAddr(host)
	if !insecure && host != "localhost" && !ip.IsLoopback() {
		l.fail(l.sources[section+".listen"], "%s.listen is %q, where keys would travel in clear; "+
			"put TLS in front and set %s.insecure_http = true, or listen on 127.0.0.1", section, listen, section)
	}
}

// suggest ends a message about an unknown key with the key that is probably
// meant. name spells a key as its source does.
func (l *configLoader) suggest(key string, name func(string) string) string {
	key = strings.ToLower(key)
	bare := key[strings.Index(key, ".")+1:]
	best, least := "", len(bare)/3+2
	for _, known := range slices.Backward(slices.Sorted(maps.Keys(l.settings))) { // server before admin
		distance := editDistance(key, known)
		_, own, _ := strings.Cut(known, ".")
		if own == bare || bare != key && strings.HasPrefix(known, key) {
			distance = min(distance, 2) // in the wrong section, or cut short
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

// editDistance counts the bytes to insert, delete or replace to make a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1) // row[j] is the distance from a[:i] to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := i // what row[j] was for a[:i]
		row[0] = i + 1
		for j := range len(b) {
			replaced := corner
			if a[i] != b[j] {
				replaced++
			}
			corner, row[j+1] = row[j+1], min(replaced, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// describe gives a value of a TOML file for a message.
func describe(value any) string {
	switch v := value.(type) {
	case nil:
		return "nothing"
	case string:
		return strconv.Quote(regexp.MustCompile(`//.*@`).ReplaceAllString(v, "//...@")) // less a password in base_url
	case map[string]any:
		return "a section"
	case []map[string]any:
		return "a list of sections"
	}
	return fmt.Sprint(value)
}
