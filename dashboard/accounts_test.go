package dashboard

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestLocalPath(t *testing.T) {
	for next, want := range map[string]string{"/calls?page=2": "/calls?page=2", "https://evil.example": "/keys", "/\\evil.example": "/keys", "": "/keys", "keys": "/keys"} {
		if got := localPath(next); got != want {
			t.Errorf("%q: got %q, want %q", next, got, want)
		}
	}
}

// FuzzLocalPath: after a login no address leads elsewhere, however a browser
// reads it (WHATWG URL: tabs and line ends are dropped, \ is /).
func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/keys?x=1", "//evil.example", "/\t/evil.example", "/\\evil.example", "https:evil.example", "/%2f/evil.example", "/..//evil.example", " /keys", "/\u2215evil.example"} {
		f.Add(s)
	}
	home := &url.URL{Scheme: "http", Host: "127.0.0.1:8081", Path: "/login"}
	f.Fuzz(func(t *testing.T, next string) {
		got := localPath(next)
		r, w := httptest.NewRequest("POST", "http://127.0.0.1:8081/login", nil), httptest.NewRecorder()
		http.Redirect(w, r, got, http.StatusSeeOther)
		as := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(strings.Trim(w.Header().Get("Location"), "\x00 "))
		u, err := home.Parse(as)
		if err != nil || u.Host != home.Host || u.Scheme != home.Scheme || strings.HasPrefix(as, "//") {
			t.Errorf("%q leads to %q: %v, %v", next, as, u, err)
		}
	})
}

// An address of the dashboard that cannot be one is an error that names the setting.
func TestOriginCheck_BaseURL(t *testing.T) {
	for url, good := range map[string]bool{"": true, "https://admin.example.com": true, "http://127.0.0.1:8081": true, "http://[::1": false, "admin.example.com": false, "https://": false} {
		if _, err := newOriginCheck("127.0.0.1:8081", url, nil, nil); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "admin.base_url") {
			t.Errorf("%q: got %v, want it good: %t", url, err, good)
		}
	}
}
