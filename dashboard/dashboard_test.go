package dashboard

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

// An idle service keeps the templates of all pages, so they share what they have in common.
func TestNew_Memory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	d, err := New(Options{Now: time.Now, APIURL: func() string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	if after := heap(); after > before+2<<20 {
		t.Errorf("got %d KiB for the pages, want less than 2048", (after-before)>>10)
	}
	runtime.KeepAlive(d)
}

// A refusal that a proxy in front causes names the setting that is for it, and not only the one that
// leaves the cookie without Secure.
func TestOriginCheck_Proxy(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for _, tt := range []struct {
		name, baseURL, host, origin string
		status                      int
		want                        []string
	}{
		{"the host of the proxy's target", "", "127.0.0.1:8081", "https://keys.example.com", 403, []string{"came from another site", "base_url under [admin]"}},
		{"the host in the browser", "", "keys.example.com", "https://keys.example.com", 421, []string{`"keys.example.com" is not a known host name`, "base_url under [admin] in the configuration to https://", "hosts"}},
		{"both, with base_url", "https://keys.example.com", "keys.example.com", "https://keys.example.com", 204, nil},
		{"the target, with base_url", "https://keys.example.com", "127.0.0.1:8081", "https://keys.example.com", 204, nil},
		{"another site, with base_url", "https://keys.example.com", "keys.example.com", "https://evil.example.com", 403, []string{"came from another site"}},
	} {
		o, err := newOriginCheck("127.0.0.1:8081", tt.baseURL, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/login", nil)
		r.Host = tt.host
		r.Header.Set("Origin", tt.origin)
		w := httptest.NewRecorder()
		o.protect(page).ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: got %d %s, want %d", tt.name, w.Code, w.Body, tt.status)
		}
		for _, want := range tt.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: got %q, want %q in it", tt.name, w.Body, want)
			}
		}
	}
}
