package main

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

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
		{Path: "/reports/:id", Methods: []string{"GET"}, Permission: []string{"can_read_reports"}, Limits: []string{"reports_per_hour"}, Cost: 1, Upstream: "http://127.0.0.1:3000", Timeout: time.Minute},
		{Path: "/", Methods: []string{"*"}, Cost: 1, Timeout: time.Minute},
		{Path: "/a/*rest", Methods: []string{"*"}, Permission: []string{"can_read_calls", "can_read_reports"}, Cost: 1, Timeout: 1500 * time.Millisecond},
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
	guards, _ := ReadGuards(c.Routes, c.Rights())
	if g := guards[1]; g.Methods != nil || g.Permission != 0 || g.Upstream != nil {
		t.Errorf("got %+v", g)
	}
	if g := guards[0]; g.Permission == 0 || g.Upstream.Host != "127.0.0.1:3000" || g.MethodNames() != "GET" {
		t.Errorf("got %+v", g)
	}
}

func TestIsPattern(t *testing.T) {
	for text, want := range map[string]bool{
		"/": true, "/a": true, "/a/": true, "/a/:id/b": true, "/*rest": true, "/a/*rest": true, "/caf\u00e9": true, "/a.b": true, "/a:b*c": true,
		"": false, "a": false, "//": false, "/a//b": false, "/a/:": false, "/a/*": false, "/:1": false, "/*a/b": false, "/*a/": false, "/a/..": false, "/./a": false,
		"/a%20": false, "/a b": false, "/a?b": false, "/a#b": false, "/a;b": false, "/a\\b": false, "/::a": false, "/a\x00": false, "/\xff": false,
	} {
		if IsPattern(text) != want {
			t.Errorf("%q: got %v, want %v", text, !want, want)
		}
	}
}
