package dashboard

import (
	"strings"
	"testing"
)

// TestActions wants each action to be a page.
func TestActions(t *testing.T) {
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range actions() {
		if d.needs["GET "+a.Path] == "" {
			t.Errorf("%s: there is no page %s", a.Label, a.Path)
		}
	}
}

func TestSecretIn(t *testing.T) {
	secret := "klen_" + strings.Repeat("aB3", 12)
	for _, tt := range []struct {
		text, want string
		certain    bool
	}{
		{secret, secret, true}, {"curl -H 'Authorization: Bearer " + secret + "'", secret, true}, {"klen_...x9Qa " + secret, secret, true},
		{"x klen_test_" + secret[5:] + ",", "klen_test_" + secret[5:], true}, {secret[:17], secret[:17], true}, {secret[:16], "", false}, {"klen_...x9Qa", "", false}, {"", "", false}, {"key_0123456789abcdef0123456789", "", false},
		{`Bearer "sk_live_0123456789abcdef"`, "sk_live_0123456789abcdef", false}, {"a name of four words", "", false}, {"xklen_" + strings.Repeat("a", 12), "klen_" + strings.Repeat("a", 12), true},
	} {
		if got, certain := secretIn(tt.text, "klen_"); got != tt.want || certain != tt.certain {
			t.Errorf("%q: got %q %v, want %q %v", tt.text, got, certain, tt.want, tt.certain)
		}
	}
	if got, certain := secretIn(secret, ""); got != secret || certain {
		t.Errorf("without a prefix: got %q %v", got, certain)
	}
}
