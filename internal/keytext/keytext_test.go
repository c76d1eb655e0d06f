package keytext

import (
	"fmt"
	"strings"
	"testing"
)

func TestNewSecret(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := NewSecret("klen_")
		if len(s) != 41 || !strings.HasPrefix(s, "klen_") || !WellFormed(s, "klen_") || seen[s] {
			t.Fatalf("got %q", s)
		}
		seen[s] = true
	}
}

// TestWellFormed_Typos checks that no single wrong character and no swap of
// two neighbours gets past the checksum.
func TestWellFormed_Typos(t *testing.T) {
	secret := NewSecret("klen_")
	for i := range secret {
		for _, c := range []byte(base62 + " -\x00") {
			wrong := []byte(secret)
			wrong[i] = c
			if string(wrong) != secret && WellFormed(string(wrong), "klen_") {
				t.Errorf("%q passes for %q", wrong, secret)
			}
		}
		if i > 0 && secret[i] != secret[i-1] {
			wrong := []byte(secret)
			wrong[i], wrong[i-1] = wrong[i-1], wrong[i]
			if WellFormed(string(wrong), "klen_") {
				t.Errorf("%q passes for %q", wrong, secret)
			}
		}
	}
	for _, wrong := range []string{"", "klen_", secret[:40], secret + "0", "xlen_" + secret[5:], strings.Repeat("a", 10_000)} {
		if WellFormed(wrong, "klen_") {
			t.Errorf("%q passes", wrong)
		}
	}
}

// FuzzWellFormed holds the check of a key against a slower one that works it
// out from the front, and wants every other character to be noticed.
func FuzzWellFormed(f *testing.F) {
	f.Add("klen_0123456789ABCDEFGHIJKLMNOPQRST000000", uint8(3), byte('x'))
	f.Add("klen_"+strings.Repeat("a", secretRandom), uint8(40), byte('0'))
	f.Add("", uint8(0), byte(0))
	f.Fuzz(func(t *testing.T, text string, at uint8, other byte) {
		slow := func(s string) bool {
			return len(s) == len("klen_")+SecretLength && strings.HasPrefix(s, "klen_") && check(s[:len(s)-secretCheck]) == s[len(s)-secretCheck:]
		}
		if got := WellFormed(text, "klen_"); got != slow(text) {
			t.Errorf("%q: got %t", text, got)
		}
		body := fmt.Sprintf("klen_%.*s", secretRandom, text+strings.Repeat("0", secretRandom))
		if len(body) != len("klen_")+secretRandom { // cut within a character
			return
		}
		made := []byte(body + check(body))
		if !WellFormed(string(made), "klen_") {
			t.Errorf("%q is not a key", made)
		}
		if i := int(at) % len(made); made[i] != other {
			made[i] = other
			if WellFormed(string(made), "klen_") {
				t.Errorf("%q is still a key with another character at %d", made, i)
			}
		}
	})
}

// Every character is about as likely as the next: of a number of draws none
// deviates from the mean by ten standard deviations, which a character that is
// left out or favoured by the remainder of 256 does.
func TestRandomText_Distribution(t *testing.T) {
	const each = 10_000
	text := randomText(each * len(base62))
	if len(text) != each*len(base62) {
		t.Fatalf("got %d characters, want %d", len(text), each*len(base62))
	}
	for _, c := range base62 {
		if n := strings.Count(text, string(c)); n < each*9/10 || n > each*11/10 {
			t.Errorf("%c: got %d times, want about %d", c, n, each)
		}
	}
}

// TestLeading finds secrets with and without the mark of sandbox keys, and nothing else.
func TestLeading(t *testing.T) {
	live, sandbox := NewSecret("klen_"), NewSecret("klen_"+SandboxMark)
	for text, want := range map[string]string{
		live: live, sandbox: sandbox, live + "x": live, sandbox + ", and": sandbox, sandbox[:len(sandbox)-1]: "", "klen_" + SandboxMark: "", "": "", "x" + live: "",
		strings.Replace(sandbox, SandboxMark, "", 1): "", strings.Replace(live, "klen_", "klen_"+SandboxMark, 1): "", // the checksum is of the whole
	} {
		if got := Leading(text, "klen_"); got != want || WellFormed(text, "klen_") != (got != "" && got == text) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	if got := Hint(sandbox, "klen_"); got != "klen_test_..."+sandbox[len(sandbox)-4:] {
		t.Errorf("got the hint %s", got)
	}
}
