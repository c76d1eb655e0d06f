package fold

import (
	"testing"

	"golang.org/x/text/unicode/norm"
)

func TestContains(t *testing.T) {
	for _, tt := range []struct {
		text, search string
		want         bool
	}{
		{"Mara Lind", "MARA LIND", true}, {"Mara Lind", "ra li", true}, {"Mara", "", true}, {"Mara", "Maria", false},
		{"J\u00fcrgen", "ju\u0308RGEN", true}, {"Ju\u0308rgen", "J\u00dcR", true}, {"J\u00fcrgen", "Jurgen", false},
		{"Stra\u00dfe", "STRASSE", true}, {"\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3", true},
		{"\u212bngstr\u00f6m", "\u00e5ngstr\u00f6m", true}, {"\ufb01ne", "FINE", true}, {"\u1fb3", "\u0391\u0345", true},
	} {
		for _, form := range []norm.Form{norm.NFC, norm.NFD} {
			if got := Contains(form.String(tt.text), Text(form.String(tt.search))); got != tt.want {
				t.Errorf("%q in %q: got %v, want %v", tt.search, tt.text, got, tt.want)
			}
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("Mara J\u00fcrgen \u0130\u0131")
	f.Fuzz(func(t *testing.T, s string) {
		once := Text(s)
		if twice := Text(once); twice != once {
			t.Errorf("%q: got %q, and folded again %q", s, once, twice)
		}
		if nfd := Text(norm.NFD.String(s)); nfd != once {
			t.Errorf("%q: got %q, but %q from NFD", s, once, nfd)
		}
	})
}
