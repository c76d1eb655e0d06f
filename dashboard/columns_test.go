package dashboard

import "testing"

func TestWebAddress(t *testing.T) {
	for text, want := range map[string]string{"http://a.example/x": "http://a.example/x", "HTTPS://a.example": "https://a.example", "https:alert(1)": "", "mailto:x@example.net": "", "": ""} {
		if got := webAddress(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
