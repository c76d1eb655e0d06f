package main

import (
	"bytes"
	"os"
	"path/filepath"
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

func TestPeppers(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for _, file := range []string{one, two} {
		if err := CreatePepper(file); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
		}
	}
	if err := CreatePepper(one); err == nil {
		t.Error("an existing pepper was overwritten")
	}
	load := func(value, file string, retired ...string) Peppers {
		t.Helper()
		p, err := LoadPeppers(value, file, retired)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	d := DigestOf("secret")
	first, second := load("", one), load("", two)
	if bytes.Equal(first.Hash(d), second.Hash(d)) || bytes.Contains(first.Hash(d), d[:8]) {
		t.Error("the hash does not depend on the pepper, or shows the digest")
	}
	store := newTestStore(t)
	for _, tt := range []struct {
		name string
		p    Peppers
		ok   bool
	}{
		{"the first time", first, true}, {"the same", first, true}, {"another", second, false},
		{"another with the first retired", load("", two, one), true}, {"from then on that one", second, true}, {"no longer the first", first, false},
	} {
		if err := tt.p.Verify(store); (err == nil) != tt.ok {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	text, _ := os.ReadFile(one)
	if got := load(string(text), "not there"); !bytes.Equal(got.Hash(d), first.Hash(d)) {
		t.Error("a pepper given as a value is not the one of the file")
	}
}

func TestLoadPeppers_Bad(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ value, file, want string }{
		{"", filepath.Join(dir, "none"), "put the file back"},
		{"", short, "64 hex digits"},
		{"hunter2", "", "LATCHKEY_KEYS_PEPPER must be at least 64 hex digits"},
	} {
		_, err := LoadPeppers(tt.value, tt.file, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "abcdef") {
			t.Errorf("got %v, want %q and no part of the pepper", err, tt.want)
		}
	}
}

// TestPeppers_Encrypt opens what was sealed before the pepper was changed.
func TestPeppers_Encrypt(t *testing.T) {
	old, now := bytes.Repeat([]byte{1}, pepperSize), bytes.Repeat([]byte{2}, pepperSize)
	sealed, err := Peppers{[][]byte{old}}.Encrypt("p", []byte("b"), "whsec_x")
	if err != nil || bytes.Contains(sealed, []byte("whsec")) {
		t.Fatalf("got %q, %v", sealed, err)
	}
	if again, _ := (Peppers{[][]byte{old}}).Encrypt("p", []byte("b"), "whsec_x"); bytes.Equal(again, sealed) {
		t.Error("the same text is sealed the same way twice")
	}
	if got, err := (Peppers{[][]byte{now, old}}).Decrypt("p", []byte("b"), sealed); got != "whsec_x" || err != nil {
		t.Errorf("with the old pepper retired: got %q, %v", got, err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := (Peppers{[][]byte{old}}).Decrypt("p", []byte("b"), bad); err == nil {
			t.Errorf("opened with byte %d changed", i)
		}
	}
	if _, err := (Peppers{[][]byte{now}}).Decrypt("p", []byte("b"), sealed); err == nil || !strings.Contains(err.Error(), "retired_pepper_files") {
		t.Errorf("without the old pepper: got %v", err)
	}
}
