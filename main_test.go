package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"latchkey/internal/keytext"
)

func TestLog_Redacts(t *testing.T) {
	key, token, hook := keytext.NewSecret("klen_"), keytext.NewSecret("lka_"), "whsec_"+keytext.RandomHex(32)
	session := keytext.RandomHex(32)
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		c := defaultConfig()
		c.Log.Format = format
		log, _ := NewLog(&out, c, false, false)
		log.Error("key "+key, "a", key, "b", errors.New("ask "+token+": refused"), "c", fmt.Errorf("wrapped: %w", errors.New("sign with "+hook)))
		log.With("fixed", "Authorization: Bearer "+key).WithGroup("g").Info("x", "url", "/api/v1/calls?api_key="+key+"&x=1", "u", &url.URL{Scheme: "https", Host: "h", Path: "/" + key})
		log.Info("x", "header", http.Header{"X-Api-Key": {key}}, "list", []string{"a", key}, "bytes", []byte("Basic "+token), slog.Group("in", "cookie", "latchkey_session="+session))
		log.Info("x", "link", "/setup?token="+session, "body", `{"password":"hunter2hunter2"}`, "other", "API_KEY="+strings.ToUpper(keytext.RandomHex(8)), "alone", session)
		log.Info("kept", "route", "/api/v1/contacts/:contact_id", "hint", "klen_...x9Qa", "key", "key_018c5b0a1f2e9d3b7c6a55", "id", "5f2a81c07")
		text := out.String()
		wantNoSecrets(t, format, text, []string{key, key[5:], token, token[4:], hook, hook[6:], session, "hunter2"})
		for _, kept := range []string{"/api/v1/contacts/:contact_id", "klen_...x9Qa", "key_018c5b0a1f2e9d3b7c6a55", "5f2a81c07", ": refused", "x=1"} {
			if !strings.Contains(text, kept) {
				t.Errorf("%s: %q is lost: %s", format, kept, text)
			}
		}
	}
}

func TestLog_Forms(t *testing.T) {
	for _, tt := range []struct {
		format          string
		person, journal bool
		json, time      bool
	}{
		{"auto", false, false, true, true},
		{"auto", true, false, false, true},
		{"auto", true, true, false, false},
		{"auto", false, true, true, true}, // what reads JSON takes the time from it
		{"text", false, true, false, false},
		{"text", false, false, false, true},
		{"json", true, false, true, true},
	} {
		var out bytes.Buffer
		c := defaultConfig()
		c.Log.Format, c.Log.Level = tt.format, "warn"
		log, level := NewLog(&out, c, tt.person, tt.journal)
		log.Info("not this")
		log.Warn("hello")
		text := out.String()
		if strings.HasPrefix(text, "{") != tt.json || strings.Contains(text, "time") != tt.time || !strings.Contains(text, "hello") || strings.Contains(text, "not this") {
			t.Errorf("%+v: got %s", tt, text)
		}
		level.Set(slog.LevelInfo)
		if log.Info("and this"); !strings.Contains(out.String(), "and this") {
			t.Errorf("%+v, at another level: got %s", tt, out.String())
		}
	}
}

// TestSecrets_Everywhere puts secrets where nobody thought of, and looks for
// them in everything that the service tells: the answers themselves, the log,
// the metrics and the audit log.
func TestSecrets_Everywhere(t *testing.T) {
	a := newTestApp(t)
	a.redacted = true // methods are logged as they come
	a.restart()
	token := a.token()
	_, key := a.key(everyPermission)
	_, revoked := a.key(everyPermission)
	hook := a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)["secret"].(string)
	secrets := []string{key, key[5:], revoked, revoked[5:], token, token[4:], hook, hook[6:]}
	var answers strings.Builder
	for _, door := range []http.Handler{a.api, a.admin, a.local} {
		for _, secret := range []string{key, revoked, token, hook} {
			for _, ask := range []struct{ method, path, header, value, body string }{
				{"GET", "/api/v1/agents?api_key=" + secret, "", "", ""},
				{"GET", "/api/v1/agents?page=" + secret, "X-API-Key", key, ""},
				{"GET", "/api/v1/calls?status=" + secret, "X-API-Key", key, ""},
				{"GET", "/api/v1/" + secret, "", "", ""},
				{"PUT", "/api/v1/calls/" + secret, "", "", ""},
				{"GET", "/admin/v1/keys/" + secret, "", "", ""},
				{"POST", "/admin/v1/keys/" + secret + "/revoke", "Authorization", "Bearer " + token, ""},
				{"GET", "/admin/v1/keys?status=" + secret, "Authorization", "Bearer " + token, ""},
				{"GET", "/admin/v1/audit?result=" + secret, "Authorization", "Bearer " + token, ""},
				{"POST", "/admin/v1/keys", "Authorization", "Bearer " + token, `{"name": "x", "permissions": ["` + secret + `"]}`},
				{"POST", "/admin/v1/keys", "Authorization", "Bearer " + token, `{"` + secret + `"`},
				{"POST", "/api/v1/contacts/create", "X-API-Key", key, `{"first_name": "x", "status": "` + secret + `"}`},
				{"GET", "/api/v1/agents", "Authorization", "Basic " + secret, ""},
				{"GET", "/api/v1/agents", "Authorization", secret, ""},
				{"GET", "/api/v1/agents", "X-Forwarded-For", secret, ""},
				{"GET", "/api/v1/agents", "Cookie", "latchkey_session=" + secret, ""},
				{secret, "/api/v1/agents", "", "", ""},
			} {
				r := httptest.NewRequest("GET", ask.path, strings.NewReader(ask.body))
				r.Method = ask.method
				if ask.header != "" {
					r.Header.Set(ask.header, ask.value)
				}
				w := httptest.NewRecorder()
				door.ServeHTTP(w, r)
				if w.Code < 400 && ask.path != "/api/v1/agents?api_key="+key {
					continue
				}
				answers.WriteString(w.Body.String())
				for _, values := range w.Header() {
					answers.WriteString(strings.Join(values, " ") + "\n")
				}
			}
		}
	}
	if answers.Len() < 1000 {
		t.Fatalf("got few answers: %s", answers.String())
	}
	_, metrics := a.scrape(token)
	wantNoSecrets(t, "the answers", answers.String(), secrets)
	wantNoSecrets(t, "the log", a.log.String(), secrets)
	wantNoSecrets(t, "the metrics", metrics, secrets)
	wantNoSecrets(t, "the audit log", auditText(t, a), secrets)
}

func BenchmarkLog(b *testing.B) {
	r := NewRedactor("klen_")
	attr := slog.String("route", "/api/v1/contacts/:contact_id")
	b.ReportAllocs()
	for b.Loop() {
		r.Attr(nil, attr)
	}
}
