package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// uses makes requests with a key, stores what was noted and sends the events. Each step is an address and a way.
func (a *testApp) uses(secret string, steps ...string) {
	a.t.Helper()
	for _, step := range steps {
		address, way, _ := strings.Cut(step, " ")
		if got := a.use(secret, address, way); got != 200 {
			a.t.Fatalf("%s: got %d, want 200", step, got)
		}
	}
	if err := a.Keyring.Flush(); err != nil {
		a.t.Fatal(err)
	}
	a.send()
}

// TestUses_Events uses a key from networks and in ways that are new, and others that are not.
func TestUses_Events(t *testing.T) {
	v := newReceiver(t)
	other := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "key.new_network", "key.in_url")
	a.hook(other.URL, "test", "call.ended")
	id, secret := a.key(everyPermission)
	_, quiet := a.key(everyPermission)
	var want []string
	check := func(what string, more ...string) {
		t.Helper()
		want = append(want, more...)
		if got := v.told(id); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	a.uses(secret, "192.0.2.1")
	a.uses(quiet, "192.0.2.1")
	check("the first network")
	a.uses(secret, "192.0.2.200")
	check("another address of it")
	a.uses(secret, "198.51.100.1", "198.51.100.2", "198.51.100.1")
	check("another network", keyNetwork)
	a.restart()
	a.uses(secret, "198.51.100.3", "192.0.2.1")
	check("known networks after a restart")
	a.uses(secret, "2001:db8:1::1", "2001:db8:1:2::1", "2001:db8:2::1")
	check("two networks of IPv6 at once", keyNetwork, keyNetwork)
	a.uses(secret, "192.0.2.1 query")
	check("the first time in a URL", keyInURL)
	a.uses(secret, "192.0.2.1 query", "192.0.2.1", "192.0.2.1 query")
	a.uses(secret, "192.0.2.1 header")
	a.clocks.Pass(24*time.Hour - time.Minute)
	a.uses(secret, "192.0.2.1 query")
	a.uses(secret, "192.0.2.1")
	check("within a day")
	a.clocks.Pass(time.Minute)
	a.uses(secret, "192.0.2.1 query")
	check("a day later", keyInURL)
	a.clocks.Pass(48 * time.Hour)
	a.uses(secret, "192.0.2.1 query")
	check("still in URLs")
	if n := len(v.all()); n != len(want) {
		t.Errorf("got %d events, want %d of one key", n, len(want))
	}
	if n := len(other.all()); n != 0 {
		t.Errorf("the webhook of an owner got %d events, want none", n)
	}
	for _, r := range v.all() {
		if strings.Contains(r.body, secret) {
			t.Errorf("got %s, want no secret", r.body)
		}
	}
	var body struct {
		Key struct{ Name string }
		Use map[string]any
	}
	err := json.Unmarshal([]byte(v.all()[0].body), &body)
	if u := body.Use; err != nil || body.Key.Name != "test" || u["network"] != "198.51.100.0/24" || u["client"] != "198.51.100.1" || u["carrier"] != CarrierBearer || u["at"] == nil {
		t.Errorf("got %s, %v", v.all()[0].body, err)
	}
}

// TestUses_NoWebhook uses a key before a webhook is there.
func TestUses_NoWebhook(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	id, secret := a.key(everyPermission)
	a.uses(secret, "192.0.2.1", "198.51.100.1")
	a.hook(v.URL, "", "key.new_network")
	a.uses(secret, "198.51.100.1", "192.0.2.1")
	if got := v.told(id); got != nil {
		t.Errorf("got %v, want nothing about networks that are known", got)
	}
	a.uses(secret, "203.0.113.9")
	if got := v.told(id); !slices.Equal(got, []string{keyNetwork}) {
		t.Errorf("got %v, want one event", got)
	}
}
