package main

import (
	"net/http"
	"slices"
)

// These are values of header fields. They are shared by all answers, so they must not be changed.
var (
	noStore    = []string{"no-store"}
	noSniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}

	VaryKey    = []string{"Authorization, X-API-Key"} // Vary of answers that depend on a key
	VaryCaller = []string{"Authorization, Cookie"}    // Vary of answers that depend on a token or a login
)

// LineWriter is a ResponseWriter that takes fields of the answer as lines, such as that of
// internal/lean, which explains the methods.
type LineWriter interface {
	FieldLines() []byte
	SetFieldLines(lines []byte)
}

// WriteOwnFields sets the header fields that every answer of Latchkey itself has: no cache stores
// it, no browser guesses its type, and no link on it reveals the address, which may contain a
// secret. A handler that answers with something public sets another Cache-Control afterwards.
// Answers of the upstreams of guarded routes do not get these fields.
func WriteOwnFields(h http.Header) {
	// The fields are set directly because Header.Set would allocate a slice for each.
	h["Cache-Control"], h["X-Content-Type-Options"], h["Referrer-Policy"] = noStore, noSniff, noReferrer
}

// WriteVary adds the names of request fields to Vary, because the answer depends on these fields. An
// answer of an upstream may have a Vary already.
func WriteVary(h http.Header, names []string) {
	if vary := h["Vary"]; vary != nil {
		names = append(slices.Clip(vary), names...)
	}
	if names != nil {
		h["Vary"] = names
	}
}

// AppendVary appends the fields Vary of WriteVary as the lines of an HTTP/1.1 answer.
func AppendVary(b []byte, names []string) []byte {
	for _, name := range names {
		b = append(append(append(b, "Vary: "...), name...), "\r\n"...)
	}
	return b
}
