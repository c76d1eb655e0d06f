package main

import (
	"encoding/json"
	"fmt"
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

// TestUses_Unused waits until keys are unused for 30 days.
func TestUses_Unused(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	const day = 24 * time.Hour
	used, secret := a.key(everyPermission)
	never, _ := a.key(everyPermission)
	paused, _ := a.key(everyPermission)
	revoked, _ := a.key(everyPermission)
	expired, _ := a.key(everyPermission, `"expires_at": "`+*Seconds(epoch.Add(day))+`"`)
	a.operate(200, "POST", "/admin/v1/keys/"+paused+"/pause", "")
	a.operate(200, "POST", "/admin/v1/keys/"+revoked+"/revoke", "")
	a.clocks.Pass(day)
	a.uses(secret, "192.0.2.1")
	look := a.told(v, func(now time.Time) error { return a.notices.Unused(now) }, keyUnused, used, never, paused, revoked, expired)
	look(30*day-time.Hour, nil) // nobody listens, and nothing is noted
	a.hook(v.URL, "", "key.unused")
	look(0, map[string]int{never: 1})
	a.restart()
	look(2*time.Hour, map[string]int{never: 1, used: 1})
	if body := v.all()[1].body; !strings.Contains(body, `"last_used_at":"`+*Seconds(epoch.Add(day))+`"`) {
		t.Errorf("got %s, want the last use", body)
	}
	look(90*day, map[string]int{never: 1, used: 1})
	a.use(secret, "192.0.2.1", CarrierBearer) // not stored yet
	look(30*day-time.Hour, map[string]int{never: 1, used: 1})
	a.uses(secret)
	look(2*time.Hour, map[string]int{never: 1, used: 2})
}

// TestUses_Pause waits until keys are unused for so long that they are paused.
func TestUses_Pause(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t, func(c *Config) { c.Keys.PauseUnused, c.Keys.UnusedNotice = 90*24*time.Hour, 30*24*time.Hour })
	const day = 24 * time.Hour
	used, secret := a.key(everyPermission)
	never, _ := a.key(everyPermission)
	byHand, _ := a.key(everyPermission)
	expired, _ := a.key(everyPermission, `"expires_at": "`+*Seconds(epoch.Add(day))+`"`)
	status := func(id string) any { return a.operate(200, "GET", "/admin/v1/keys/"+id, "")["status"] }
	look := a.told(v, func(now time.Time) error { return a.notices.Unused(now) }, KeyPaused, used, never, byHand, expired)
	a.hook(v.URL, "", "key.paused")
	a.clocks.Pass(day)
	a.uses(secret, "192.0.2.1")
	a.operate(200, "POST", "/admin/v1/keys/"+byHand+"/pause", "")
	look(89*day+pauseSlack-time.Second, map[string]int{byHand: 1})
	look(time.Second, map[string]int{byHand: 1, never: 1})
	if got := status(never); got != statusPaused {
		t.Errorf("got %v, want it paused", got)
	}
	if body := v.all()[1].body; !strings.Contains(body, `"reason":"unused"`) || !strings.Contains(body, `"last_used_at":null`) || !strings.Contains(body, `"status":"paused"`) {
		t.Errorf("got %s, want the reason", body)
	}
	if body := v.all()[0].body; strings.Contains(body, "reason") {
		t.Errorf("got %s, want no reason of a key that an operator has paused", body)
	}
	if got := a.newestSentence(); got != "Latchkey paused the key test" {
		t.Errorf("got the audit entry %q", got)
	}
	if entry := a.operate(200, "GET", "/admin/v1/audit", "")["entries"].([]any)[0].(map[string]any); entry["object"] != "key "+never || entry["actor"] != ActorSelf {
		t.Errorf("got %v, want an entry about the key", entry)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+never+"/resume", "")
	a.operate(200, "POST", "/admin/v1/keys/"+byHand+"/resume", "")
	look(day, map[string]int{byHand: 1, never: 1, used: 1})
	if got := a.use(secret, "192.0.2.1", CarrierBearer); got != 401 {
		t.Errorf("got %d with the paused key, want 401", got)
	}
	a.restart()
	look(88*day, map[string]int{byHand: 1, never: 1, used: 1})
	a.operate(200, "POST", "/admin/v1/keys/"+never+"/resume", "") // it is not paused, so this is no new begin
	look(day+pauseSlack, map[string]int{byHand: 2, never: 2, used: 1})
	if got := status(expired); got != "expired" {
		t.Errorf("got %v, want an expired key as it was", got)
	}
}

// TestUses_PauseResumed resumes an unused key in each way. It is not paused again before it has been unused for as long
// as a new key.
func TestUses_PauseResumed(t *testing.T) {
	const day = 24 * time.Hour
	for name, resume := range map[string]func(a *testApp, id, ref string){
		"endpoint": func(a *testApp, id, _ string) { a.operate(200, "POST", "/admin/v1/keys/"+id+"/resume", "") },
		"apply": func(a *testApp, _, ref string) {
			a.applied(`{"keys": [{"ref": "` + ref + `", "name": "test", "permissions": ["can_read_agents"]}]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newHookApp(t, func(c *Config) { c.Keys.PauseUnused = 90 * day })
			id, _ := a.key(`["can_read_agents"]`, `"ref": "idle"`)
			want := func(pass time.Duration, status string) {
				t.Helper()
				a.clocks.Pass(pass)
				if err := a.notices.Unused(a.clock.Now()); err != nil {
					t.Fatal(err)
				}
				if got := a.operate(200, "GET", "/admin/v1/keys/"+id, "")["status"]; got != status {
					t.Fatalf("got %v after %v, want %s", got, pass, status)
				}
			}
			want(90*day+pauseSlack, statusPaused)
			resume(a, id, "idle")
			want(day, "active")
			want(89*day, "active")
			want(pauseSlack, statusPaused)
		})
	}
}

// TestUses_PauseAlone pauses keys while nobody receives events.
func TestUses_PauseAlone(t *testing.T) {
	a := newHookApp(t, func(c *Config) { c.Keys.PauseUnused = 24 * time.Hour })
	id, _ := a.key(everyPermission)
	a.clocks.Pass(25 * time.Hour)
	if err := a.notices.Unused(a.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if got := a.operate(200, "GET", "/admin/v1/keys/"+id, "")["status"]; got != statusPaused {
		t.Errorf("got %v, want it paused", got)
	}
}

// TestUses_UnusedBound looks at more keys than one call does.
func TestUses_UnusedBound(t *testing.T) {
	store := newTestStore(t)
	ring, err := NewKeyring(store, KeyringOptions{Peppers: testPeppers, Prefix: "klen_", Policy: NewPolicy(nil, nil), Cache: 10})
	if err == nil {
		_, err = store.UpdateEach(Writer{}, maxUnused+10, func(tx *Tx, i int) error {
			return ring.Save(tx, &Key{StoredKey: StoredKey{ID: fmt.Sprintf("key_%05d", i), CreatedAt: epoch}})
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	unused := func(tx *Tx) func(string) (bool, error) {
		return func(id string) (bool, error) {
			u, err := ring.Unused(tx, id, epoch)
			return u.Key != nil, err
		}
	}
	err = store.View(func(tx *Tx) error {
		first, next, err := ring.UnusedIDs(tx, "", unused(tx))
		if err != nil || len(first) != maxUnused || next == "" {
			t.Errorf("got %d keys and %q, %v; want %d", len(first), next, err, maxUnused)
		}
		rest, next, err := ring.UnusedIDs(tx, next, unused(tx))
		if len(rest) != 10 || next != "" {
			t.Errorf("got %d keys and %q, want the other 10", len(rest), next)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
