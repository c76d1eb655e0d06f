package cli

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestClient_WrongURL sends requests to servers that are not the one that --url should name. The error says what to
// change, and errors of the right server stay as they are.
func TestClient_WrongURL(t *testing.T) {
	answer := func(w http.ResponseWriter, status int, body string) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	admin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer klen_admin_x" {
			t.Errorf("%s came without the token", r.URL.Path)
		}
		if r.URL.Path == "/admin/v1/status" {
			answer(w, 403, `{"error": "permission_denied", "message": "This token may not."}`)
			return
		}
		answer(w, 404, `{"error": "not_found", "message": "There is no key with this id."}`)
	})
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 404, `{"error": "not_found", "message": "No such endpoint: GET /admin/v1/keys. Check the path."}`)
	})
	other := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, 404, "<h1>Not found</h1>") })
	overTLS := httptest.NewUnstartedServer(admin)
	overTLS.Config.ErrorLog = log.New(io.Discard, "", 0)
	overTLS.StartTLS()
	t.Cleanup(overTLS.Close)
	serve := func(h http.Handler) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	const wrong = "--url (or LATCHKEY_URL) must be the URL of the admin listener, which by default is at port 8081"
	for _, tt := range []struct{ name, url, want string }{
		{"the admin listener", serve(admin), "There is no key with this id."},
		{"the API listener", serve(api), wrong},
		{"another server", serve(other), wrong},
		{"an unknown authority", overTLS.URL, "; name the authority with --ca FILE (or LATCHKEY_CA)"},
		{"http to a port with TLS", "http://" + strings.TrimPrefix(overTLS.URL, "https://"), "write https:// in --url (or LATCHKEY_URL)"},
		{"https to a port without TLS", "https://" + strings.TrimPrefix(serve(admin), "http://"), "write http:// in --url (or LATCHKEY_URL)"},
	} {
		c := NewTCPClient(tt.url, "klen_admin_x", nil)
		for way, err := range map[string]error{
			"Do":   c.Do(context.Background(), Request{http.MethodGet, "/admin/v1/keys/7", nil}, nil),
			"Copy": c.Copy(context.Background(), "/admin/v1/backup", io.Discard),
		} {
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "--url") && tt.name == "the admin listener" {
				t.Errorf("%s by %s: got %v, want %q", tt.name, way, err, tt.want)
			}
		}
	}
}
