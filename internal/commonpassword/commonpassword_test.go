package commonpassword

import (
	"slices"
	"strings"
	"testing"
)

func TestHas(t *testing.T) {
	for password, want := range map[string]bool{
		"qwertyuiop": true, "QwertyUiop": true, "1234567890": true, "password123": true, "manchester": true,
		"": false, "123": false, "correct horse battery": false, "qwertyuiop ": false, "\n": false,
	} {
		if got := Has(password); got != want {
			t.Errorf("%q: got %t, want %t", password, got, want)
		}
	}
}

// The list is as the search needs it: sorted, without duplicates, in lower case, each line long enough.
func TestList(t *testing.T) {
	all := lines()
	if len(all) != 10_000 || !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Fatalf("got %d lines; want 10000, sorted and different", len(all))
	}
	for _, line := range all {
		if len(line) < 10 || line != strings.ToLower(line) || !Has(line) {
			t.Errorf("line %q is too short, not in lower case or not found", line)
		}
	}
}
