package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Every cookie that the dashboard names is one that does not pass.
func TestSecrets_DashboardCookies(t *testing.T) {
	files, err := filepath.Glob("dashboard/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\w*Cookie\s*=\s*"([^"]+)"`).FindAllSubmatch(text, -1) {
			found++
			if !ownCookie(string(m[1]) + "=x") {
				t.Errorf("%s: the cookie %s would reach upstreams; let its name begin with latchkey_", file, m[1])
			}
		}
	}
	if found < 2 {
		t.Errorf("found %d names of cookies, so this looked at nothing", found)
	}
}

// A short secret, which only an imported key can have, counts as a whole word.
func TestSecrets_Short(t *testing.T) {
	s := Secrets{Sent: "json", Prefix: "klen_"}
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"jsonp, xjson"}, "X-A": {"x; json"}, "X-B": {"JSON"}}
	s.DropFrom(h)
	if h["Accept"] == nil || h["X-A"] != nil || h["Content-Type"] != nil || h["X-B"] == nil {
		t.Errorf("got %v", h)
	}
	if (Secrets{}).In("lka_") || (Secrets{Prefix: "klen_"}).In("klen_tooShort and klen_000000000000000000000000000000000000") {
		t.Error("got a secret where there is none")
	}
}
