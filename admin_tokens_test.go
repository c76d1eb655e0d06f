package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// ending creates an admin token that ends a time after epoch.
func (a *testApp) ending(name string, after time.Duration) (secret string) {
	a.t.Helper()
	return a.operate(201, "POST", "/admin/v1/tokens", fmt.Sprintf(`{"name": %q, "expires_at": %q}`, name, *Seconds(epoch.Add(after))))["token"].(string)
}

// The event token.expiring comes once for each token, 14 days before its end.
func TestNoticeTokens(t *testing.T) {
	const day = 24 * time.Hour
	v := newReceiver(t)
	a := newHookApp(t)
	secret := a.ending("soon", 15*day)
	a.ending("later", 40*day)
	a.ending("revoked", 15*day)
	a.operate(200, "POST", "/admin/v1/tokens/3/revoke", "")
	a.operate(201, "POST", "/admin/v1/tokens", `{"name": "never", "expires_at": "never"}`)
	a.ending("expired", time.Hour)
	look := func(pass time.Duration, want ...string) {
		t.Helper()
		a.clocks.Pass(pass)
		for range 2 {
			if err := NoticeTokens(a.Store, a.clock.Latest(a.clock.Now())); err != nil {
				t.Fatal(err)
			}
		}
		a.send()
		var names []string
		for _, r := range v.all() {
			var e struct {
				EventType string `json:"event_type"`
				Token     map[string]any
			}
			if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.EventType != TokenExpiring || strings.Contains(r.body, secret) {
				t.Errorf("got %s, %v", r.body, err)
			}
			names = append(names, fmt.Sprint(e.Token["name"]))
		}
		if !slices.Equal(names, want) {
			t.Errorf("after %s: got %q, want %q", pass, names, want)
		}
	}
	look(2 * day) // no webhook subscribes, so no token is marked
	a.hook(v.URL, "", "token.expiring")
	look(0, "soon")
	a.restart()
	look(day, "soon")
	look(24*day, "soon", "later")
	look(30*day, "soon", "later")
}

func TestStatus_EndingTokens(t *testing.T) {
	const day = 24 * time.Hour
	a := newTestApp(t)
	for name, after := range map[string]time.Duration{"third": 14*day + time.Hour, "first": day, "second": 10 * day, "ended": time.Minute} {
		a.ending(name, after)
	}
	a.clocks.Pass(2 * time.Hour)
	var names []string
	for _, row := range a.operate(200, "GET", "/admin/v1/status", "")["ending_tokens"].([]any) {
		names = append(names, row.(map[string]any)["name"].(string))
	}
	if want := []string{"first", "second", "third"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	for n := range maxEndingTokens {
		a.ending(fmt.Sprint(n), 3*day)
	}
	if rows := a.operate(200, "GET", "/admin/v1/status", "")["ending_tokens"].([]any); len(rows) != maxEndingTokens {
		t.Errorf("got %d tokens, want at most %d", len(rows), maxEndingTokens)
	}
}

func TestMetrics_Tokens(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/tokens", `{"name": "never", "expires_at": "never"}`)
	secret := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "m", "expires_at": "never", "scope": "metrics"}`)["token"].(string)
	_, text := a.scrape(secret)
	wantLines(t, text, `latchkey_admin_tokens{state="active"} 2`, `latchkey_admin_tokens{state="expired"} 0`)
	if strings.Contains(text, "latchkey_admin_token_next_end_seconds ") {
		t.Error("there is a next end although no token has one")
	}
	a.ending("soon", time.Hour)
	a.ending("later", 2*time.Hour)
	a.ending("revoked", time.Minute)
	a.operate(200, "POST", "/admin/v1/tokens/5/revoke", "")
	a.clocks.Pass(90 * time.Minute)
	_, text = a.scrape(secret)
	wantLines(t, text, `latchkey_admin_tokens{state="active"} 3`, `latchkey_admin_tokens{state="expired"} 1`, `latchkey_admin_tokens{state="revoked"} 1`, `latchkey_admin_token_next_end_seconds 1800`)
}
