package main

import (
	"net/http"
	"testing"
)

// Every cookie that the dashboard sets is one that does not reach an upstream, with and without TLS.
func TestSecrets_DashboardCookies(t *testing.T) {
	for _, base := range []string{"", "https://keys.example.com"} {
		b := newDashboard(t, func(c *Config) { c.Admin.BaseURL = base })
		set := b.post("/login", "name", "ann", "password", operatorPassword).Result().Cookies()
		if len(set) == 0 {
			t.Error("a login sets no cookie, so this looked at nothing")
		}
		for _, c := range set {
			if !ownCookie(c.Name + "=x") {
				t.Errorf("the cookie %s would reach upstreams; let its name begin with latchkey_", c.Name)
			}
		}
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
