package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// kindOfSetting returns the kind of check that a setting has, or "" if it has none.
func kindOfSetting(s setting) string {
	switch s.Field.(type) {
	case *bool:
		return "bool"
	case *int, *int64:
		return "number"
	case *time.Duration:
		return "duration"
	case *map[string]string:
		return "table"
	}
	if s.Tag.Get("in") != "" {
		return "words"
	}
	return s.Tag.Get("check")
}

// kindSamples holds values of a kind: good ones with the form in which they are used, and bad ones with a
// part of the message, which is the fix if it is clear.
type kindSamples struct {
	good map[string]string
	bad  map[string]string
}

// samples holds values for every kind of check.
func samples() map[string]kindSamples {
	address := map[string]string{"127.0.0.1:0": "127.0.0.1:0", "[::1]:0": "[::1]:0", "LocalHost:0": "localhost:0"}
	badAddress := map[string]string{"127.0.0.1": "host:port", "keys.example.com:80": "host:port", "127.0.0.1:http": "host:port", "127.0.0.1:65536": "host:port", "http://127.0.0.1:80": "host:port"}
	paths := map[string]string{"/etc/latchkey/x": "/etc/latchkey/x", "a b/\u00e9": "a b/\u00e9"}
	badPaths := map[string]string{"~/x": "only a shell replaces ~", "a\x01b": "control characters", "a\xffb": "UTF-8"}
	return map[string]kindSamples{
		"address":          {address, badAddress},
		"optional-address": {address, badAddress},
		"path":             {paths, badPaths},
		"file":             {paths, badPaths},
		"folder":           {paths, badPaths},
		"text":             {map[string]string{"Read reports.": "Read reports."}, map[string]string{"a\x01b": "control characters"}},
		"proxy": {map[string]string{"unix": "unix", "10.0.0.0/8": "10.0.0.0/8", "::1": "::1", "192.0.2.7": "192.0.2.7"},
			map[string]string{"10.0.0.5/8": "network", "10.0.0.0/33": "network", "proxy.example": "network", "10.0.0.1:80": "network", "fe80::1%eth0": "network"}},
		"header": {map[string]string{"X-Signature": "X-Signature"},
			map[string]string{"X Signature": "header field", "content-length": "another name", "Host": "another name", "X-Klen-Delivery": "another name", "x:": "header field"}},
		"host": {
			map[string]string{
				"keys.internal": "keys.internal", "Keys.Internal": "keys.internal", "keys.internal.": "keys.internal", "keys.internal:443": "keys.internal", "[::1]": "::1",
				"2001:DB8:0::1": "2001:db8::1", "192.0.2.7": "192.0.2.7", "xn--bcher-kva.example": "xn--bcher-kva.example", "my_host": "my_host",
			},
			map[string]string{
				"keys.internal:8081": `write "keys.internal"`, "https://keys.internal": `write "keys.internal"`, "https://keys.internal:8081/x": `write "keys.internal"`,
				"*.example.com": "each host name", "*": "each host name", "keys.internal/": `write "keys.internal"`, "b\u00fccher.example": `write "xn--bcher-kva.example"`,
				"[::1]:8081": `write "::1"`, "a b": "a host name", "-a.example": "a host name", "192.0.2.300": "a host name", "a..b": "a host name", "fe80::1%eth0": "a host name",
				"[192.0.2.7]": "a host name", "user@keys.internal": "a host name", strings.Repeat("a", 64): "a host name",
			}},
		"url": {
			map[string]string{
				"https://keys.example.com": "https://keys.example.com", "https://keys.example.com/": "https://keys.example.com", "HTTPS://Keys.Example.com:443": "https://keys.example.com",
				"http://keys.example.com:80": "http://keys.example.com", "https://keys.example.com:8443": "https://keys.example.com:8443", "https://keys.example.com.": "https://keys.example.com",
				"http://[2001:DB8::0:1]:08080/": "http://[2001:db8::1]:8080",
			},
			map[string]string{
				"keys.example.com": `write "https://keys.example.com"`, "https://b\u00fccher.example:8443": `write "https://xn--bcher-kva.example:8443"`, "https://keys.example.com/v1": "without a path",
				"https://keys.example.com:0": "without a path", "https://keys.example.com:65536": "without a path", "https://keys.example.com:": "without a path", "https://": "without a path",
				"https://a b": "without a path", "https://u:p@keys.example.com": "without a path", "https://keys.example.com?x": "without a path", "ftp://keys.example.com": "without a path",
				"https://2001:db8::1": "without a path", "https://*.example.com": "without a path", "https://192.0.2.300": "without a path",
			}},
		"mailserver": {
			map[string]string{"": "", "Mail.Example.com:0587": "mail.example.com:587", "localhost:25": "localhost:25", "[2001:DB8:0::1]:465": "[2001:db8::1]:465", "192.0.2.7:25": "192.0.2.7:25"},
			map[string]string{
				"mail.example.com": `write "mail.example.com:587"`, "smtp://mail.example.com:587": "a mail server", ":587": "a mail server", "mail.example.com:0": "a mail server",
				"mail.example.com:65536": "a mail server", "mail.example.com:smtp": "a mail server", "b\u00fccher.example:25": `write "xn--bcher-kva.example:25"`, "a b:25": "a mail server",
			}},
		"node": {map[string]string{"": ""}, map[string]string{"A": "a-z", "a b": "a-z", strings.Repeat("a", 33): "1 to 32", "a_b": "a-z"}},
		"etcd": {nil, map[string]string{
			"http://192.0.2.1:2379": `write "https://192.0.2.1:2379"`, "https://etcd.example": `write "https://etcd.example:2379"`, "etcd.example:2379": "https:// and a host",
			"https://etcd.example:2379/v3": "https:// and a host", "ftp://etcd.example:2379": "https:// and a host",
		}},
		"directory": {map[string]string{"https://CA.example.net/directory": "https://ca.example.net/directory", "https://ca.example.net:14000": "https://ca.example.net:14000"},
			map[string]string{"http://ca.example.net/d": "https://", "https://ca.example.net/d?x": "https://", "https://ca.example.net:99999/": "https://", "ca.example.net": "https://"}},
		"domain": {map[string]string{"keys.example.com": "keys.example.com", "Keys.Example.com.": "keys.example.com"},
			map[string]string{"*.example.com": "a host name", "localhost": "a host name", "192.0.2.7": "a host name", "b\u00fccher.example": `write "xn--bcher-kva.example"`, "a_b.example": "a host name", "keys.example.com:443": "a host name"}},
		"email": {map[string]string{"ops@example.com": "ops@example.com", "a.b+c@example.com": "a.b+c@example.com"},
			map[string]string{"ops": "mail address", "ops@": "mail address", "@example.com": "mail address", "a@b@example.com": "mail address", "mailto:ops@example.com": "mail address", "ops@ex ample.com": "mail address", "Ops <ops@example.com>": "mail address"}},
		"limit":      {map[string]string{"reports_per_hour": "reports_per_hour"}, map[string]string{"Reports": "a-z", "r": "2 to 64", "a-b": "a-z"}},
		"permission": {map[string]string{"can_read_reports": "can_read_reports"}, map[string]string{"read_reports": "can_", "can_Read": "can_", "can_": "can_"}},
		"prefix":     {map[string]string{"acme_": "acme_", "_": "_"}, map[string]string{"acme": "the last a _", "Acme_": "the last a _", "a-b_": "the last a _"}},
		"word":       {map[string]string{"live": "live"}, map[string]string{"Live": "a-z", "1": "a-z", "a b": "a-z"}},
		"method": {map[string]string{"GET": "GET", "*": "*", "PROPFIND": "PROPFIND", "GETT": "GETT", "X_1": "X_1"},
			map[string]string{"get": `write "GET"`, "Get": `write "GET"`, "GE T": "name of a method", "GET/": "name of a method"}},
		"pattern":    {map[string]string{"/a/:id/*rest": "/a/:id/*rest"}, map[string]string{"a": "plain form", "/a//b": "plain form", "/a%20b": "plain form", "/a?b": "plain form", "/../a": "plain form", "/a/{id}": `write "/a/:id"`, "/a/*": `write "/a/*rest"`}},
		"prefixpath": {map[string]string{"": ""}, map[string]string{"a": "plain form", "/a/": "plain form", "/:id": "plain form", "/{id}": "plain form"}},
		"upstream": {map[string]string{"http://127.0.0.1:3000/x": "http://127.0.0.1:3000/x", "HTTP://Up.Example:80/X": "http://up.example/X"},
			map[string]string{
				"127.0.0.1:3000": "http:// or https://", "http://127.0.0.1:70000": "http:// or https://", "http://b\u00fccher.example/x": "xn--bcher-kva.example", "http://a?b": "http:// or https://",
				"ws://a": "http:// or https://", "http://a/:id": "http:// or https://", "http://a/{id}": "http:// or https://", "http://a:/": "http:// or https://",
			}},
		"issuer": {
			map[string]string{
				"https://login.example.com/realms/main": "https://login.example.com/realms/main", "https://id.example.com/": "https://id.example.com/", "http://127.0.0.1:9000": "http://127.0.0.1:9000",
				"http://localhost:9000/x/": "http://localhost:9000/x/", "": "",
			},
			map[string]string{"http://login.example.com": "only for this machine", "login.example.com": `write "https://login.example.com"`, "https://id.example.com/?x": "https://", "https://u:p@id.example.com": "https://"}},
		"claim": {map[string]string{"groups": "groups", "realm_access.roles": "realm_access.roles", "https://example.com/roles": "https://example.com/roles"},
			map[string]string{"a..b": "name of a claim", ".a": "name of a claim", "a b": "name of a claim"}},
		"scope":    {nil, map[string]string{`a"b`: "a scope", "a b": "a scope"}},
		"button":   {map[string]string{"Log in at work": "Log in at work"}, map[string]string{strings.Repeat("x", 61): "60 characters", "a\x01b": "control characters"}},
		"table":    {nil, map[string]string{"x": "a table", "x=king": "one of", "=admin": "empty name"}},
		"words":    {nil, map[string]string{"never a word": "one of"}},
		"bool":     {map[string]string{"true": "true", "false": "false"}, map[string]string{"yes": "true or false", "1": "true or false"}},
		"number":   {nil, map[string]string{"1.5": "whole number", "x": "whole number", "-1": "whole number", "99999999999999999999": "whole number"}},
		"duration": {nil, map[string]string{"10": "a duration", "x": "a duration", "1d": "a duration", "-1s": "a duration", "9999999h": "a duration"}},
	}
}

// TestConfig_Kinds tries good and bad values at every setting, by each of its ways. A new setting
// needs a check, and a new kind of check needs samples.
func TestConfig_Kinds(t *testing.T) {
	all, c := samples(), defaultConfig()
	for _, s := range c.settings() {
		kind := all[kindOfSetting(s)]
		if kind.bad == nil {
			t.Errorf("%s: got the kind %q, which has no samples; name a check in its tag", s.Key, kindOfSetting(s))
		}
		for text, want := range kind.bad {
			for way, err := range loadEveryWay(t, s, text) {
				if err == nil || !strings.Contains(err.Error(), s.Key+" must be") && !strings.Contains(err.Error(), "toml: ") || !strings.Contains(err.Error(), want) && way != "file" {
					t.Errorf("%s = %q by %s: got %v, want a refusal with %q", s.Key, text, way, err, want)
				}
			}
		}
		for text, want := range kind.good {
			for way, err := range loadEveryWay(t, s, text) {
				if err != nil && strings.Contains(err.Error(), s.Key+" must be") {
					t.Errorf("%s = %q by %s: got %v", s.Key, text, way, err)
				}
			}
			if got := assigned(s, s.Parse(text)); got != want {
				t.Errorf("%s = %q: got %q, want %q", s.Key, text, got, want)
			}
		}
	}
}

// loadEveryWay loads a configuration with a value of a setting from a file, a variable and a flag.
// It returns the error of each.
func loadEveryWay(t *testing.T, s setting, text string) map[string]error {
	t.Helper()
	section, key, _ := strings.Cut(s.Key, ".")
	value := `"` + text + `"` // not quoted by Go: an escape would hide bytes that are not UTF-8
	switch s.Field.(type) {
	case *[]string:
		value = "[" + value + "]"
	case *int, *int64, *bool:
		value = text
	}
	file := fmt.Sprintf("[%s]\n%s = %s\n", section, key, value)
	if section == "limit" {
		file = fmt.Sprintf("[[limit]]\nname = %q\ndefault = %s\n", key, value)
	}
	_, _, _, byFile := loadText(t, file, nil, nil)
	_, _, byVariable := LoadConfig("", []string{variable(s.Key) + "=" + text}, nil)
	_, _, byFlag := LoadConfig("", nil, map[string]string{s.Key: text})
	found := map[string]error{"file": byFile, "variable": byVariable, "flag": byFlag}
	if _, list := s.Field.(*[]string); list && strings.Contains(text, ",") {
		delete(found, "variable")
		delete(found, "flag")
	}
	return found
}

// assigned returns the value that a setting has after an assignment, as text.
func assigned(s setting, value any) string {
	field := reflect.New(reflect.TypeOf(s.Field).Elem())
	s.Field = field.Interface()
	if want := s.Assign(value); want != "" {
		return "refused: must be " + want
	}
	if list, ok := s.Field.(*[]string); ok {
		return strings.Join(*list, ",")
	}
	return fmt.Sprint(field.Elem())
}

// TestConfig_RowKinds does the same for the fields of the [[...]] sections, which only a file has.
func TestConfig_RowKinds(t *testing.T) {
	rows := map[string][]setting{"limit": rowSettings(&limitRow{}), "concurrent limit": rowSettings(&concurrentRow{}), "permission": rowSettings(&permissionRow{}), "route": rowSettings(&RouteRow{})}
	// A new [[...]] section has to be added above.
	lists := 0
	for f := range reflect.TypeFor[Config]().Fields() {
		if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			lists++
		}
	}
	if lists != len(rows) {
		t.Errorf("got %d kinds of rows, want %d", lists, len(rows))
	}
	all := samples()
	for _, section := range slices.Sorted(maps.Keys(rows)) {
		for _, s := range rows[section] {
			kind := all[kindOfSetting(s)]
			if kind.bad == nil {
				t.Errorf("%s %s: got the kind %q, which has no samples; name a check in its tag", section, s.Key, kindOfSetting(s))
			}
			for text, want := range kind.bad {
				if got := assigned(s, s.Parse(text)); !strings.Contains(got, want) {
					t.Errorf("%s %s = %q: got %q, want a refusal with %q", section, s.Key, text, got, want)
				}
			}
			for text, want := range kind.good {
				if got := assigned(s, s.Parse(text)); got != want {
					t.Errorf("%s %s = %q: got %q, want %q", section, s.Key, text, got, want)
				}
			}
		}
	}
}

func TestConfig_Warnings(t *testing.T) {
	const route = "[[route]]\npath = \"/x\"\npermission = []\n"
	for text, want := range map[string]string{
		route + "methods = [\"GET\", \"PROPFIND\"]":                          "",
		route + "methods = [\"GETT\"]":                                       "did you mean GET?",
		route + "methods = [\"DELET\"]":                                      "did you mean DELETE?",
		"[admin]\nsession_idle = \"5h\"\nsession_max = \"1h\"":               "admin.session_idle is 5h0m0s",
		"[server]\nread_header_timeout = \"20s\"":                            "server.read_header_timeout is 20s",
		"[server]\nmax_connections_per_address = 5000":                       "",
		"[server]\nmax_connections = 500\nmax_connections_per_address = 499": "",
		"[server]\nmax_connections = 500\nmax_connections_per_address = 500": "server.max_connections_per_address is 500",
	} {
		c, _, _, err := loadText(t, text, nil, nil)
		if got := strings.Join(c.Warnings(), "\n"); err != nil || (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestConfig_Together tries values that are valid alone and cannot work together.
func TestConfig_Together(t *testing.T) {
	route := func(upstream string) string {
		return "[server]\nlisten = \"127.0.0.1:8080\"\nbase_url = \"https://keys.example.com\"\n[[route]]\npath = \"/x\"\npermission = []\nupstream = \"" + upstream + "\"\n"
	}
	listen := func(api, admin string) string {
		return fmt.Sprintf("[server]\nlisten = %q\ninsecure_http = true\n[admin]\nlisten = %q\ninsecure_http = true\n", api, admin)
	}
	for text, want := range map[string]string{
		route("http://127.0.0.1:3000"):           "",
		route("http://192.0.2.7:8080"):           "",
		route("http://127.0.0.1:8080"):           "is the API listener",
		route("http://localhost:8080/api"):       "is the API listener",
		route("http://0.0.0.0:8080"):             "is the API listener",
		route("https://keys.example.com"):        "is the API listener",
		route("https://Keys.Example.com:443/x"):  "is the API listener",
		listen("127.0.0.1:80", "127.0.0.1:81"):   "",
		listen("127.0.0.1:80", "[::1]:80"):       "",
		listen("127.0.0.1:0", "127.0.0.1:0"):     "",
		listen("127.0.0.1:80", "localhost:80"):   "two listeners",
		listen("127.0.0.1:80", ":80"):            "two listeners",
		listen("0.0.0.0:80", "192.0.2.7:80"):     "two listeners",
		listen("[::]:80", "0.0.0.0:80"):          "two listeners",
		listen("127.0.0.1:80", "127.0.0.1:0080"): "two listeners",
	} {
		_, _, _, err := loadText(t, text, nil, nil)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
