package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// loadText is LoadConfig with a file of the given text, where there is any. It
// returns the name of the file too.
func loadText(t *testing.T, text string, environ []string, flags map[string]string) (Config, Sources, string, error) {
	t.Helper()
	name := ""
	if text != "" {
		name = filepath.Join(t.TempDir(), "latchkey.toml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, sources, err := LoadConfig(name, environ, flags)
	return c, sources, name, err
}

// Every key, also those added later: its tags must allow what they propose.
func TestConfigTags(t *testing.T) {
	c := defaultConfig()
	for _, s := range c.settings() {
		def, example := s.Tag.Get("default"), s.Tag.Get("example")
		if def != "" && example != "" {
			t.Errorf("%s has a default and an example, want one of them", s.Key)
		}
		if want := s.Assign(s.Parse(def + example)); want != "" {
			t.Errorf("%s: got a refusal of %q, want none: must be %s", s.Key, def+example, want)
		}
		if section, _ := s.place(); strings.Contains(section, "_") {
			t.Errorf("got section %q, want none with a _: the names of variables split there", section)
		}
	}
}

func TestLoadConfig_nothing(t *testing.T) {
	c, sources, err := LoadConfig("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := defaultConfig(); !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for _, s := range c.settings() {
		if sources[s.Key] != "default" {
			t.Errorf("%s: got source %q, want default", s.Key, sources[s.Key])
		}
	}
	if got, want := len(sources), len(c.settings()); got != want {
		t.Errorf("got %d sources, want %d", got, want)
	}
}

// The example states every default a second time, and must agree; the tables of
// docs/configuration.md have every setting.
func TestLoadConfig_example(t *testing.T) {
	const name = "config.example.toml"
	c, sources, err := LoadConfig(name, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := defaultConfig(); !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want the defaults %+v", c, want)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.settings() {
		section, key := s.place()
		source, line := "file "+name, "\n"+key+" = "
		if section == "limit" { // each is a comment there
			source, line = "default", "\n# name = \""+key+"\"\n# default = "+s.Text()+"\n"
		}
		if sources[s.Key] != source {
			t.Errorf("%s: got source %q, want %q", s.Key, sources[s.Key], source)
		}
		if !strings.Contains(string(data), line) {
			t.Errorf("%s: the example has no line %q", s.Key, line)
		}
		if v := "# Variable: " + variable(s.Key) + "\n"; !strings.Contains(string(data), v) {
			t.Errorf("%s: the example has no line %q", s.Key, v)
		}
	}
	tables, err := os.ReadFile("docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.settings() {
		section, key := s.place()
		_, table, _ := strings.Cut(string(tables), "\n## `["+section+"]`\n")
		table, _, _ = strings.Cut(table, "\n## ")
		if section != "limit" && !strings.Contains(table, "| `"+key+"` |") {
			t.Errorf("docs/configuration.md lacks %s", s.Key)
		}
	}
	for _, name := range []string{"LATCHKEY_CONFIG ", "LATCHKEY_KEYS_PEPPER ", "LATCHKEY_URL ", "LATCHKEY_ADMIN_TOKEN "} {
		if !strings.Contains(string(data), name) {
			t.Errorf("the example does not mention %s", name)
		}
	}
}

func TestLoadConfig_bad(t *testing.T) {
	names, err := filepath.Glob("testdata/config/bad-*.toml")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 15 {
		t.Fatalf("got %d files, want 15 or more", len(names))
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(data), "\n")
			want, ok := strings.CutPrefix(first, "# want: ")
			if !ok {
				t.Fatalf("got first line %q, want # want: TEXT", first)
			}
			c, sources, err := LoadConfig(name, nil, nil)
			if err == nil {
				t.Fatalf("got no error, want %q", want)
			}
			got := err.Error()
			if !strings.Contains(got, want) {
				t.Errorf("got %q\nwant %q in it", got, want)
			}
			if !strings.HasPrefix(got, "file "+name+": ") {
				t.Errorf("got %q, want the name of the file first", got)
			}
			if strings.Count(got, "file "+name) != 1 {
				t.Errorf("got %q, want one problem", got)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("got %q, want the secret left out", got)
			}
			if sources != nil || !reflect.DeepEqual(c, Config{}) {
				t.Error("got values beside the error, want none")
			}
		})
	}
}

func TestLoadConfig_missingFile(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, want string }{
		{filepath.Join(dir, "none.toml"), "does not exist; name an existing file"},
		{dir, "is a directory"},
	} {
		_, _, err := LoadConfig(tt.name, nil, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "file "+tt.name+": ") {
			t.Errorf("got %v, want %q with the name of the file", err, tt.want)
		}
	}
	t.Chdir(dir)
	for _, tt := range []struct {
		environ []string
		want    string
	}{
		{nil, "file none.toml: does not exist in " + dir + "; name an existing file"},
		{[]string{"LATCHKEY_CONFIG=none.toml"}, "file none.toml: does not exist in " + dir + ", and LATCHKEY_CONFIG names it; name an existing file"},
		{[]string{"LATCHKEY_CONFIG=other.toml"}, "file none.toml: does not exist in " + dir + "; name an existing file"},
	} {
		if _, _, err := LoadConfig("none.toml", tt.environ, nil); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %q", tt.environ, err, tt.want)
		}
	}
}

// TestLoadConfig_days loads durations in days, as the flags of the commands take them. The error says what to write.
func TestLoadConfig_days(t *testing.T) {
	name := filepath.Join(t.TempDir(), "latchkey.toml")
	if err := os.WriteFile(name, []byte("[[limit]]\nname = \"reports_a_week\"\ndefault = 5\nwindow = \"7d\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := LoadConfig(name, []string{"LATCHKEY_KEYS_PAUSE_UNUSED=90d"}, nil)
	for _, want := range []string{
		`window must be a duration in hours, minutes or seconds, here "168h"; got "7d"`,
		`keys.pause_unused must be a duration in hours, minutes or seconds, here "2160h"; got "90d"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestLoadConfig_precedence(t *testing.T) {
	const text = `
[server]
listen = "127.0.0.1:1"
data = "from-file"
[admin]
listen = "127.0.0.1:2"
[[limit]]
name = "calls_per_day_limit"
default = 7
[[limit]]
name = "requests_per_minute_limit"
default = 8
`
	environ := []string{
		"PATH=/bin",
		"LATCHKEY_SERVER_LISTEN=127.0.0.1:3",
		"LATCHKEY_ADMIN_LISTEN=127.0.0.1:4",
		"LATCHKEY_LIMIT_CALLS_PER_DAY_LIMIT=200",
	}
	flags := map[string]string{"server.listen": "127.0.0.1:0", "limit.calendar_events_per_day_limit": "9"}
	c, sources, file, err := loadText(t, text, environ, flags)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Server.Listen = "127.0.0.1:0"
	want.Server.Data = "from-file"
	want.Admin.Listen = "127.0.0.1:4"
	want.Limit.RequestsPerMinute = 8
	want.Limit.CallsPerDay = 200
	want.Limit.CalendarEventsPerDay = 9
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	wantLimits := map[string]int{"requests_per_minute_limit": 8, "calls_per_day_limit": 200, "calendar_events_per_day_limit": 9,
		"owner_requests_per_minute_limit": 0, "owner_calls_per_day_limit": 0, "owner_calendar_events_per_day_limit": 0,
		"concurrent_requests": 64, "concurrent_streams": 1000, "owner_concurrent_requests": 0, "owner_concurrent_streams": 0}
	if got := c.LimitDefaults(); !maps.Equal(got, wantLimits) {
		t.Errorf("got %v, want %v", got, wantLimits)
	}
	for key, want := range map[string]string{
		"server.listen":                       "flag",
		"server.data":                         "file " + file,
		"server.base_url":                     "default",
		"admin.listen":                        "env LATCHKEY_ADMIN_LISTEN",
		"limit.requests_per_minute_limit":     "file " + file,
		"limit.calls_per_day_limit":           "env LATCHKEY_LIMIT_CALLS_PER_DAY_LIMIT",
		"limit.calendar_events_per_day_limit": "flag",
	} {
		if sources[key] != want {
			t.Errorf("%s: got source %q, want %q", key, sources[key], want)
		}
	}
}

// A secret in the file is used, and neither printed nor in an error.
func TestConfig_Secret(t *testing.T) {
	const text = "[admin]\nbase_url = \"https://keys.example.com\"\n[admin.oidc]\nissuer = \"https://id.example.com\"\nclient_id = \"x\"\ndefault_role = \"viewer\"\nclient_secret = "
	c, sources, _, err := loadText(t, text+`"hunter2"`, nil, nil)
	if err != nil || c.Admin.OIDC.ClientSecret != "hunter2" {
		t.Fatalf("got %q, %v", c.Admin.OIDC.ClientSecret, err)
	}
	var b bytes.Buffer
	if err := c.Print(&b, sources); err != nil || strings.Contains(b.String(), "hunter2") || !strings.Contains(b.String(), "# client_secret is set and not shown # file ") {
		t.Errorf("got %s, %v, want no secret", &b, err)
	}
	for _, bad := range []string{"[\"hunter2\"]", `"hunter2\u0007"`} {
		if _, _, _, err := loadText(t, text+bad, nil, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want a refusal without the secret", err)
		}
	}
}

// Every key by its variable and by its flag, also those added later.
func TestLoadConfig_everyKey(t *testing.T) {
	text := func(s setting) string { // something other than the default
		switch field := s.Field.(type) {
		case *bool:
			if *field {
				return "false"
			}
			return "true"
		case *int, *int64, *time.Duration:
			return s.Tag.Get("max")
		case *map[string]string:
			return s.Tag.Get("example")
		}
		if words := strings.Split(s.Tag.Get("in"), ","); len(words) > 1 {
			return words[len(words)-1]
		}
		switch s.Tag.Get("check") {
		case "address":
			return "[::1]:0"
		case "claim":
			return "realm_access.roles"
		case "scope":
			return "email"
		case "button":
			return "Log in at work"
		case "prefix":
			return "acme_"
		case "directory":
			return "https://ca.example.net/directory"
		case "header":
			return "X-Signature"
		case "path":
			return "elsewhere"
		}
		return s.Tag.Get("example")
	}
	def := defaultConfig()
	var environ []string
	flags := map[string]string{}
	for _, s := range def.settings() {
		environ = append(environ, variable(s.Key)+"="+text(s))
		flags[s.Key] = text(s)
	}
	byEnv, sources, err := LoadConfig("", environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range byEnv.settings() {
		if reflect.DeepEqual(s.Field, def.settings()[i].Field) {
			t.Errorf("%s: got the default from %s", s.Key, environ[i])
		}
		if want := "env " + variable(s.Key); sources[s.Key] != want {
			t.Errorf("%s: got source %q, want %q", s.Key, sources[s.Key], want)
		}
	}
	byFlag, _, err := LoadConfig("", nil, flags)
	if err != nil || !reflect.DeepEqual(byFlag, byEnv) {
		t.Errorf("got %v, %+v by flags\nwant %+v", err, byFlag, byEnv)
	}
}

func TestLoadConfig_environ(t *testing.T) {
	for _, tt := range []struct{ entry, want string }{
		{"LATCHKEY_SERVER_LISEN=hunter2", "env LATCHKEY_SERVER_LISEN: unknown variable: did you mean LATCHKEY_SERVER_LISTEN?"},
		{"LATCHKEY_LISTEN=hunter2", "env LATCHKEY_LISTEN: unknown variable: did you mean LATCHKEY_SERVER_LISTEN?"},
		{"LATCHKEY_KEYS_PEPER=hunter2", "env LATCHKEY_KEYS_PEPER: unknown variable: "},
		{"LATCHKEY_KEYS_PEPPER_FIEL=x", "env LATCHKEY_KEYS_PEPPER_FIEL: unknown variable: did you mean LATCHKEY_KEYS_PEPPER_FILE?"},
		{"LATCHKEY_KEYS=hunter2", "env LATCHKEY_KEYS: unknown variable: "},
		{"LATCHKEY_server_LISTEN=x", "env LATCHKEY_server_LISTEN: unknown variable: did you mean LATCHKEY_SERVER_LISTEN?"},
		{"LATCHKEY_LIMIT_CALLS=5", "env LATCHKEY_LIMIT_CALLS: unknown variable: did you mean LATCHKEY_LIMIT_CALLS_PER_DAY_LIMIT?"},
		{"LATCHKEY_NONSENSE=1", "env LATCHKEY_NONSENSE: unknown variable: 'latchkey config print' lists all"},
		{"LATCHKEY_PORT=9090", "env LATCHKEY_PORT: unknown variable: "},
		{"LATCHKEY_=1", "env LATCHKEY_: unknown variable: "},
		{"LATCHKEY_SERVER_LISTEN=", `env LATCHKEY_SERVER_LISTEN: server.listen must be host:port, the host localhost or an IP address, such as "127.0.0.1:8080"; got ""`},
		{"LATCHKEY_SERVER_MAX_BODY_BYTES=1MiB", `server.max_body_bytes must be a whole number from 1024 to 67108864, such as 1048576; got "1MiB"`},
		{"LATCHKEY_SERVER_MAX_BODY_BYTES=99999999999999999999", `got "99999999999999999999"`},
		{"LATCHKEY_SERVER_IDLE_TIMEOUT=60", `server.idle_timeout must be a duration with a unit, such as "60s"; got "60"`},
		{"LATCHKEY_LOG_ACCESS=yes", `env LATCHKEY_LOG_ACCESS: log.access must be true or false; got "yes"`},
		{"LATCHKEY_SERVER_DATA=a\xffb", "server.data must be UTF-8 text without control characters"},
		{"LATCHKEY_SERVER_TRUSTED_PROXIES=10.0.0.0/8,10.0.0.0/33", "server.trusted_proxies must be a list, each item an IP address, a network"},
		{"LATCHKEY_SERVER_LISTEN=192.0.2.1:80", "env LATCHKEY_SERVER_LISTEN: server.listen is \"192.0.2.1:80\", where keys would travel in clear"},
	} {
		_, _, err := LoadConfig("", []string{tt.entry}, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v\nwant %q", tt.entry, err, tt.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want the text left out", tt.entry, err)
		}
	}
}

func TestLoadConfig_environOfOthers(t *testing.T) {
	c, _, err := LoadConfig("", []string{
		"HOME=/root", "LATCHKEYS=1", "latchkey_x=1", "=C:=C:\\",
		"LATCHKEY_KEYS_PEPPER=secret", "LATCHKEY_CONFIG=/etc/latchkey.toml",
		"LATCHKEY_URL=http://127.0.0.1:8081", "LATCHKEY_ADMIN_TOKEN=secret",
		"LATCHKEY_CRASH_AT=commit", "LATCHKEY_BENCH_URL=x", "LATCHKEY_TEST_X=1",
		// As Kubernetes does for services called latchkey and latchkey-server.
		"LATCHKEY_SERVICE_HOST=10.0.0.1", "LATCHKEY_SERVICE_PORT=8080", "LATCHKEY_SERVICE_PORT_HTTP=8080",
		"LATCHKEY_PORT=tcp://10.0.0.1:8080", "LATCHKEY_PORT_8080_TCP=tcp://10.0.0.1:8080", "LATCHKEY_PORT_8080_TCP_ADDR=10.0.0.1",
		"LATCHKEY_SERVER_SERVICE_HOST=10.0.0.1", "LATCHKEY_SERVER_PORT=tcp://10.0.0.1:8080", "LATCHKEY_SERVER_PORT_8080_TCP_PROTO=tcp",
	}, nil)
	if err != nil || !reflect.DeepEqual(c, defaultConfig()) {
		t.Errorf("got %v, %+v, want the defaults", err, c)
	}
}

func TestLoadConfig_lists(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"10.0.0.0/8", []string{"10.0.0.0/8"}},
		{" 10.0.0.0/8 , 2001:db8::/32,192.0.2.7,", []string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.7"}},
		{"", nil},
		{" , ", nil},
	} {
		const text = "[server]\ntrusted_proxies = [\"::1\"]"
		c, _, _, err := loadText(t, text, []string{"LATCHKEY_SERVER_TRUSTED_PROXIES=" + tt.text}, nil)
		if err != nil || !slices.Equal(c.Server.TrustedProxies, tt.want) {
			t.Errorf("%q: got %v, %q, want %q", tt.text, err, c.Server.TrustedProxies, tt.want)
		}
	}
}

func TestLoadConfig_baseURL(t *testing.T) {
	for text, want := range map[string]string{ // no value is a refusal
		"https://example.com":       "https://example.com",
		"https://example.com/":      "https://example.com",
		"http://127.0.0.1:8080":     "http://127.0.0.1:8080",
		"http://[::1]:8080/":        "http://[::1]:8080",
		"example.com":               "",
		"ftp://example.com":         "",
		"https://":                  "",
		"https://example.com//":     "",
		"https://example.com/v1":    "",
		"https://example.com?x=1":   "",
		"https://example.com#x":     "",
		"https://example.com:port":  "",
		"https://two words.example": "",
	} {
		c, _, err := LoadConfig("", nil, map[string]string{"server.base_url": text})
		if c.Server.BaseURL != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", text, c.Server.BaseURL, err, want)
		}
	}
}

func TestLoadConfig_clearText(t *testing.T) {
	for listen, open := range map[string]bool{
		"127.0.0.1:8080":          false,
		"127.8.9.1:8080":          false,
		"localhost:8080":          false,
		"[::1]:8080":              false,
		"[::ffff:127.0.0.1]:8080": false,
		"0.0.0.0:8080":            true,
		":8080":                   true,
		"[::]:8080":               true,
		"192.168.1.5:0":           true,
		"[fe80::1%eth0]:8080":     true,
		"[::ffff:192.0.2.1]:8080": true,
	} {
		for _, section := range []string{"server", "admin"} {
			flags := map[string]string{"server.listen": "127.0.0.1:0", "admin.listen": "127.0.0.1:0"}
			flags[section+".listen"] = listen
			_, _, err := LoadConfig("", nil, flags)
			if got := err != nil && strings.Contains(err.Error(), "flag: "+section+".listen is "); got != open {
				t.Errorf("%s.listen = %q: got %v, want a refusal: %v", section, listen, err, open)
			}
			flags[section+".insecure_http"] = "true"
			if _, _, err := LoadConfig("", nil, flags); err != nil {
				t.Errorf("%s.listen = %q with insecure_http: got %v, want no error", section, listen, err)
			}
		}
	}
}

func TestLoadConfig_severalErrors(t *testing.T) {
	const text = `
[server]
lisen = "x"
idle_timeout = 60
[log]
level = "loud"
`
	environ := []string{"LATCHKEY_LOG_FORMAT=xml", "LATCHKEY_NONSENSE=1"}
	flags := map[string]string{"server.listen": "0.0.0.0:80", "keys.prefix": "-", "keys.cash": "1"}
	_, _, file, err := loadText(t, text, environ, flags)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		`env LATCHKEY_LOG_FORMAT: log.format must be one of auto, text, json; got "xml"`,
		`env LATCHKEY_NONSENSE: unknown variable: 'latchkey config print' lists all`,
		"file " + file + `: log.level must be one of debug, info, warn, error; got "loud"`,
		"file " + file + `: server.idle_timeout must be a duration with a unit, such as "60s"; got 60`,
		"file " + file + `: unknown key "server.lisen": did you mean "server.listen"?`,
		`flag: keys.prefix must be 1 to 16 of a-z, 0-9 and _, the last a _, such as "klen_"; got "-"`,
		`flag: server.listen is "0.0.0.0:80", where keys would travel in clear; set server.tls_cert_file and server.tls_key_file, or put TLS in front and set server.insecure_http = true, or listen on 127.0.0.1`,
		`flag: unknown key "keys.cash": did you mean "keys.cache"?`,
	}
	if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", err, strings.Join(want, "\n"))
	}
}

// A bad value is reported even where a flag overrides it, and a file that does
// not parse hides no other problem, nor is blamed for what it may well hold.
func TestLoadConfig_errorsElsewhere(t *testing.T) {
	_, _, _, err := loadText(t, "[log]\nlevel = 3", nil, map[string]string{"log.level": "warn"})
	if err == nil || !strings.Contains(err.Error(), "log.level must be a string, such as \"info\"; got 3") {
		t.Errorf("got %v, want the bad value named", err)
	}
	_, _, _, err = loadText(t, "[log", []string{"LATCHKEY_LOG_LEVEL=3"}, map[string]string{"server.listen": ":80"})
	if err == nil || !strings.Contains(err.Error(), "line 1") || !strings.Contains(err.Error(), "LATCHKEY_LOG_LEVEL") {
		t.Errorf("got %v, want both problems", err)
	} else if strings.Contains(err.Error(), "insecure_http") {
		t.Errorf("got %v, want nothing about insecure_http", err)
	}
}

func TestConfig_Print(t *testing.T) {
	odd := defaultConfig()
	odd.Server.Listen = "[::]:0"
	odd.Server.InsecureHTTP = true
	odd.Server.Data = `C:\data "x" # caf` + "\u00e9 \U0001f511 \u200b"
	odd.Server.BaseURL = "https://keys.example.com"
	odd.Server.TrustedProxies = []string{"10.0.0.0/8", "::1"}
	odd.Server.IdleTimeout = 1500 * time.Millisecond
	odd.Server.ReadTimeout = 100*time.Millisecond + 1
	odd.Server.WriteTimeout = time.Hour - 1
	odd.Keys.RetiredPepperFiles = []string{`a" "b`, `c\`, `" "`}
	odd.Log.Access = false
	odd.Limit.CallsPerDay = 1_000_000_000
	odd.Admin.BaseURL, odd.Admin.PasswordLogin = "https://keys.example.com", false
	odd.Admin.OIDC.Issuer, odd.Admin.OIDC.ClientID, odd.Admin.OIDC.Button = "https://id.example.com/", "latchkey", `Log in at "work"`
	odd.Admin.OIDC.Roles = map[string]string{`a "b"`: "admin", "c = d": "viewer"}
	for name, c := range map[string]Config{"defaults": defaultConfig(), "all odd": odd} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			sources := Sources{"server.listen": "file two\nlines", "server.insecure_http": "env X", "limit.calendar_events_per_day_limit": "flag"}
			if err := c.Print(&b, sources); err != nil {
				t.Fatal(err)
			}
			got, sources, file, err := loadText(t, b.String(), nil, nil)
			if err != nil {
				t.Fatalf("%v\n%s", err, &b)
			}
			if !reflect.DeepEqual(got, c) {
				t.Errorf("got %+v\nwant %+v from\n%s", got, c, &b)
			}
			for _, s := range c.settings() {
				if sources[s.Key] != "file "+file {
					t.Errorf("%s: got source %q, want it printed", s.Key, sources[s.Key])
				}
			}
			for _, want := range []string{
				"# file two\\nlines\n",
				" # env X\n\n[admin]\nlisten = \"127.0.0.1:8081\" # \n",
				"shutdown_timeout = \"10s\"",
				"\n[[limit]]\nname = \"calendar_events_per_day_limit\"\ndefault = 50 # flag\n",
			} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("got %s\nwant %q in it", &b, want)
				}
			}
		})
	}
}

func TestConfig_TrustedProxies(t *testing.T) {
	c, _, err := LoadConfig("", nil, map[string]string{
		"server.trusted_proxies": "10.0.0.0/8,192.0.2.7,2001:db8::/32,unix,::1,::ffff:192.0.2.8",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("192.0.2.7/32"),
		netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("192.0.2.8/32"), // as it looks once unmapped
	}
	if got := c.TrustedProxies(); !slices.Equal(got.Networks, want) || !got.Unix {
		t.Errorf("got %v, want %v and unix sockets", got, want)
	}
	for _, text := range []string{"", "10.0.0.5/8", "10.0.0.0/33", "10.0.0", "fe80::1%eth0", "::ffff:10.0.0.0/104", "proxy.example", "Unix", "unix:/run/x"} {
		if p := parseNetwork(text); p.IsValid() {
			t.Errorf("%q: got %v, want a refusal", text, p)
		}
	}
}

// What a file adds is loaded, and what is printed of it loads to the same.
func TestConfig_rows(t *testing.T) {
	const text = `
[[limit]]
name = "calls_per_day_limit"
observe = true
[[limit]]
name = "owner_calls_per_day_limit"
default = 500
observe = false
[[limit]]
name = "reports_per_hour"
window = "1h"
default = 20
[[limit]]
name = "trial"
window = "720h"
default = 0
scope = "owner"
observe = true
[[limit]]
name = "reports_at_once"
kind = "concurrent"
default = 4
scope = "owner"
[[limit]]
name = "concurrent_streams"
kind = "concurrent"
default = 0
[[permission]]
name = "can_read_reports"
description = "Read \"reports\"."
`
	c, sources, file, err := loadText(t, text, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Limit.OwnerCallsPerDay = 500
	want.Observed = []string{CallsPerDay}
	want.Limits = []limitRow{
		{Name: "reports_per_hour", Window: time.Hour, Default: 20, Scope: "key", Kind: "window"},
		{Name: "trial", Window: 720 * time.Hour, Scope: "owner", Observe: true, Kind: "window"},
	}
	want.Concurrent = []concurrentRow{{Name: "reports_at_once", Kind: "concurrent", Default: 4, Scope: "owner"}}
	want.Limit.ConcurrentStreams = 0
	want.Permissions = []permissionRow{{"can_read_reports", `Read "reports".`}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	var b strings.Builder
	if err := c.Print(&b, sources); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "[[limit]] # file "+file) {
		t.Errorf("got %s, want the source of the limits", b.String())
	}
	again, _, _, err := loadText(t, b.String(), nil, nil)
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("printed and loaded again: got %+v, %v\nwant %+v", again, err, want)
	}
}

// What the example shows as a comment is good, and what is printed of routes
// loads to the same.
func TestConfig_routes(t *testing.T) {
	data, err := os.ReadFile("config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	var uncommented strings.Builder
	for _, section := range []string{"[[limit]]\n# name = \"reports_per_hour\"", "[[permission]]", "[[route]]"} {
		_, rest, ok := strings.Cut(string(data), "# "+section+"\n")
		if !ok {
			t.Fatalf("the example has no section %s", section)
		}
		uncommented.WriteString(strings.ReplaceAll(section, "# ", "") + "\n")
		for line := range strings.Lines(rest) {
			line, ok := strings.CutPrefix(line, "# ")
			if !ok || !strings.Contains(line, " = ") {
				break
			}
			uncommented.WriteString(line)
		}
	}
	more := "[[route]]\npath = \"/\"\npermission = []\n[[route]]\npath = \"/a/*rest\"\nmethods = \"*\"\npermission = [\"can_read_calls\", \"can_read_reports\"]\ntimeout = \"1.5s\"\n"
	c, sources, file, err := loadText(t, uncommented.String()+more, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []RouteRow{
		{Path: "/reports/:id", Methods: []string{"GET"}, Permission: []string{"can_read_reports"}, Limits: []string{"reports_per_hour"}, Cost: 1, Upstream: "http://127.0.0.1:3000", Timeout: time.Minute, WebSocket: true},
		{Path: "/", Methods: []string{"*"}, Cost: 1, Timeout: time.Minute, WebSocket: true},
		{Path: "/a/*rest", Methods: []string{"*"}, Permission: []string{"can_read_calls", "can_read_reports"}, Cost: 1, Timeout: 1500 * time.Millisecond, WebSocket: true},
	}
	if !reflect.DeepEqual(c.Routes, want) {
		t.Errorf("got %+v\nwant %+v", c.Routes, want)
	}
	var b strings.Builder
	if err := c.Print(&b, sources); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "[[route]] # file "+file) {
		t.Errorf("got %s, want the source of the routes", b.String())
	}
	again, _, _, err := loadText(t, b.String(), nil, nil)
	if err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("printed and loaded again: got %+v, %v\nwant %+v", again, err, c)
	}
	guards, _ := ReadProxyRoutes(c.Routes, c.Rights())
	if g := guards[1]; g.Methods != nil || g.Permission != 0 || g.Upstream != nil {
		t.Errorf("got %+v", g)
	}
	if g := guards[0]; g.Permission == 0 || g.Upstream.Host != "127.0.0.1:3000" || g.MethodNames() != "GET" {
		t.Errorf("got %+v", g)
	}
}

func TestIsPattern(t *testing.T) {
	for text, want := range map[string]bool{
		"/": true, "/a": true, "/a/": true, "/a/:id/b": true, "/*rest": true, "/a/*rest": true, "/caf\u00e9": true, "/a.b": true, "/a:b*c": true, "/$count": true, "/a(1)": true, "/a/x:run": true,
		"": false, "a": false, "//": false, "/a//b": false, "/a/:": false, "/a/*": false, "/:1": false, "/*a/b": false, "/*a/": false, "/a/..": false, "/./a": false,
		"/a%20": false, "/a b": false, "/a?b": false, "/a#b": false, "/a;b": false, "/a\\b": false, "/::a": false, "/a\x00": false, "/\xff": false,
		"/{id}": false, "/a/{id:[0-9]+}/b": false, "/a{": false, "/a}b": false, "/[id]": false, "/[a-z]+": false, "/a*": false, "/.*": false, "/.+": false, "/(.*)": false, "/a$": false, "/a/$": false,
	} {
		if isPattern(text) != want {
			t.Errorf("%q: got %v, want %v", text, !want, want)
		}
	}
}

// A table with a mistake is not checked as if its values were missing or empty.
func TestLoadConfig_tables(t *testing.T) {
	for _, tt := range []struct {
		file string
		want []string // the begin of each problem
	}{
		{"[[limit]]\nname = 'reports'\nwindow = '1h'\ndefault = 'x'", []string{`limit "reports": default must be a whole number`}},
		{"[[limit]]\nname = 'Reports'\nwindow = '1h'\ndefaults = 1", []string{`limit "Reports": default must be`, `limit "Reports": name must be`, `limit "Reports": unknown key "defaults"`}},
		{"[[limit]]\nwindow = '1h'\ndefault = 1\n[[limit]]\nwindow = '1h'\ndefault = 1", []string{"limit[0]: name must be", "limit[1]: name must be"}},
		{"[[permission]]\nname = 'a'\n[[permission]]\nname = 'b'", []string{`permission "a": name must be`, `permission "b": name must be`}},
	} {
		_, _, file, err := loadText(t, tt.file, nil, nil)
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != len(tt.want) {
			t.Errorf("%s: got %q, want %d problems", tt.file, lines, len(tt.want))
			continue
		}
		for i, want := range tt.want {
			if !strings.HasPrefix(lines[i], "file "+file+": "+want) {
				t.Errorf("%s: got %q, want %q", tt.file, lines[i], want)
			}
		}
	}
}

// A path in the notation of another program would match no request. The message has it in Latchkey's.
func TestReadPattern(t *testing.T) {
	for text, want := range map[string]string{
		"/a/:id": "", "/a/{id}": "/a/:id", "/a/{id}/b/{n}": "/a/:id/b/:n", "/a/{id}/": "/a/:id/", "/a/{id:[0-9]+}": "/a/:id", "/a/{id:int}": "/a/:id", "/a/[id]": "/a/:id", "/a/<id>/b": "/a/:id/b", "/a/<int:id>": "/a/:id",
		"/a/{rest...}": "/a/*rest", "/a/{*rest}": "/a/*rest", "/a/{**rest}": "/a/*rest", "/a/{file:path}": "/a/*file", "/a/<path:file>": "/a/*file", "/a/[...rest]": "/a/*rest",
		"/a/*": "/a/*rest", "/a/**": "/a/*rest", "/a*": "/a/*rest", "/*": "/*rest", "/a/.*": "/a/*rest", "/a/(.*)": "/a/*rest", "^/a/.+$": "/a/*rest", "^/a$": "/a", "/a/$": "/a/", "/a/*/b": "/a/:id/b", "/a/([a-z])/b": "/a/:id/b", "/a/[0-9]+": "/a/:id",
		"a/{id}": "", "/a{id}": "", "/a//{id}": "", "/***": "", "$": "", "": "", "/{}": "",
	} {
		value, fix, ok := readPattern(text)
		if ok != (value == text && text != "") || ok && text != "/a/:id" || fix != "" && fix != `"`+want+`"` || fix == "" && want != "" {
			t.Errorf("%q: got %q, %s, %v, want the fix %q", text, value, fix, ok, want)
		}
	}
}

// An IP address cannot have passkeys, so a browser is sent to localhost.
func TestConfig_DashboardURL(t *testing.T) {
	var base, files, acme Config
	base.Admin.BaseURL = "https://keys.example.com/"
	files.Admin.TLSCertFile = "cert.pem"
	acme.Admin.TLS, acme.ACME.Domains = "acme", []string{"keys.example.com"}
	for _, tt := range []struct {
		c             Config
		address, want string
	}{
		{Config{}, "127.0.0.1:8081", "http://localhost:8081"},
		{Config{}, "[::1]:8081", "http://localhost:8081"},
		{Config{}, "localhost:8081", "http://localhost:8081"},
		{Config{}, "0.0.0.0:8081", "http://localhost:8081"},
		{Config{}, "[::]:8081", "http://localhost:8081"},
		{Config{}, ":8081", "http://localhost:8081"},
		{Config{}, "127.0.0.2:8081", "http://127.0.0.2:8081"}, // not what localhost means
		{Config{}, "192.0.2.1:8081", "http://192.0.2.1:8081"},
		{base, "127.0.0.1:8081", "https://keys.example.com"},
		{files, "127.0.0.1:8081", "https://127.0.0.1:8081"}, // the certificate may be for the address
		{acme, "127.0.0.1:8081", "https://keys.example.com:8081"},
	} {
		if got := tt.c.DashboardURL(tt.address); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.address, got, tt.want)
		}
	}
	if got := (Config{}).APIURL("127.0.0.1:8080"); got != "http://127.0.0.1:8080" {
		t.Errorf("the API: got %s, want its address", got)
	}
}
