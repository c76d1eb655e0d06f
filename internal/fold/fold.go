// Package fold compares texts as a reader does: upper and lower case are equal, and so are the ways
// in which Unicode writes one letter, such as "é" as one character or as "e" with an accent after it.
package fold

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Text returns s in a form in which texts that a reader takes for equal are equal: Unicode's
// canonical caseless matching, composed (NFC).
func Text(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return norm.NFC.String(cases.Fold().String(norm.NFD.String(s)))
		}
	}
	return strings.ToLower(s)
}

// Contains reports whether s contains folded, which must be a result of Text.
func Contains(s, folded string) bool { return folded == "" || strings.Contains(Text(s), folded) }

// Search returns s in the form in which searches compare texts: Text without accents, so that
// "Jurgen" finds "Jürgen" and the other way round. Stored texts and queries must both have passed
// through the same version of Search. Letters without a decomposition, such as "ø", remain.
func Search(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			plain := strings.Map(withoutAccent, norm.NFD.String(cases.Fold().String(norm.NFD.String(s))))
			return norm.NFC.String(plain)
		}
	}
	return strings.ToLower(s)
}

// withoutAccent returns -1 for a combining accent and any other character unchanged. It keeps the
// signs that are part of a letter: the vowels of Indic scripts and the voicing marks of Japanese.
func withoutAccent(r rune) rune {
	const voiced, semivoiced = '\u3099', '\u309a'
	if r < utf8.RuneSelf || r == voiced || r == semivoiced || !unicode.Is(unicode.Mn, r) || !unicode.Is(unicode.Inherited, r) {
		return r
	}
	return -1
}

// Words returns the words of a query in the form of Search, each once. They contain no white space.
// A text matches the query if each of them is a part of one of its fields, see Match. The result is
// empty if the query is blank.
func Words(query string) []string {
	var words []string
	for word := range strings.FieldsSeq(Search(query)) {
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return words
}

// Match reports whether each of words, a result of Words, is a part of one of fields.
func Match(words []string, fields ...string) bool {
	if len(words) == 0 {
		return true
	}
	text := Search(strings.Join(fields, "\n")) // no word contains a line break
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}
