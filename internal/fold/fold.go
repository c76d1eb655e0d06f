// Package fold compares texts as a reader does: upper and lower case are equal, and so are the ways
// in which Unicode writes one letter, such as "é" as one character or as "e" with an accent after it.
package fold

import (
	"strings"
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
