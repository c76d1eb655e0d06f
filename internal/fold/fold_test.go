package fold

import (
	"strings"
	"testing"
	"unicode"

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

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		query  string
		fields []string
		want   bool
	}{
		{"lind MAR", []string{"Mara", "Lind"}, true}, {"mara lind", []string{"Lind", "Mara"}, true}, {"aralin", []string{"Mara", "Lind"}, false},
		{"jurgen", []string{"J\u00fcrgen"}, true}, {"J\u00dcRGEN", []string{"Jurgen"}, true}, {"ju\u0308r", []string{"J\u00fcrgen"}, true},
		{"strasse", []string{"Stra\u00dfe"}, true}, {"istanbul", []string{"\u0130stanbul"}, true}, {"\u03c3\u03b9\u03c3", []string{"\u03a3\u03af\u03c3"}, true},
		{"\u304b", []string{"\u304c"}, false}, {"\u0915\u093f", []string{"\u0915\u0941"}, false}, {"\u0434\u0438", []string{"\u0414\u0439"}, true},
		{" \t ", []string{"Mara"}, true}, {"", nil, true}, {"mara mara", []string{"Mara"}, true}, {"mara x", []string{"Mara"}, false},
		{"a\u00a0b", []string{"b", "a"}, true},
	} {
		for _, form := range []norm.Form{norm.NFC, norm.NFD} {
			var fields []string
			for _, field := range tt.fields {
				fields = append(fields, form.String(field))
			}
			if got := Match(Words(form.String(tt.query)), fields...); got != tt.want {
				t.Errorf("%q in %q: got %v, want %v", tt.query, fields, got, tt.want)
			}
		}
	}
}

func FuzzWords(f *testing.F) {
	f.Add("Mara J\u00fcrgen \u0130\u0131 \u1fb3")
	f.Fuzz(func(t *testing.T, s string) {
		once := Search(s)
		if twice := Search(once); twice != once {
			t.Errorf("%q: got %q, and again %q", s, once, twice)
		}
		if nfd := Search(norm.NFD.String(s)); nfd != once {
			t.Errorf("%q: got %q, but %q from NFD", s, once, nfd)
		}
		words := Words(s)
		if !Match(words, s) {
			t.Errorf("%q does not match itself", s)
		}
		for _, word := range words {
			if word == "" || strings.ContainsFunc(word, unicode.IsSpace) {
				t.Errorf("%q: got the word %q", s, word)
			}
		}
	})
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
