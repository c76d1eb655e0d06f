package main

import (
	"encoding/base64"
	"net/http"
	"strings"

	"latchkey/internal/keytext"
)

// TokenPrefix is the prefix of every admin token. It differs from the prefixes of API keys.
const TokenPrefix = "lka_"

// Secrets recognizes the secrets of Latchkey that a request may contain. They must not reach an
// upstream. The zero value recognizes only admin tokens.
type Secrets struct {
	Sent   string // the secret of the request's key; "": none
	Prefix string // the prefix of API keys in the configuration; "": other keys are not recognized
}

// shortSecret is the length below which a secret counts only as a whole word, because such a text
// may also be part of an ordinary word. Only imported keys can be so short.
const shortSecret = 16

// DropSecrets removes from the header and the query everything that contains a key or an admin
// token, and the cookies of the dashboard. It returns ErrValidation if the path or the host contains
// one, because these cannot be removed. It does not look at the body, and not at the trailer, which
// is not received yet.
func (r *Request) DropSecrets() error {
	s := r.Secrets
	if s.In(r.URL.Path) || s.In(r.URL.RawPath) {
		return ErrValidation.With("The path contains an API key or an admin token, which is never forwarded. Send the key as Authorization: Bearer KEY.")
	}
	if s.In(r.Host) {
		return ErrValidation.With("The host contains an API key or an admin token, which is never forwarded. Send the key as Authorization: Bearer KEY.")
	}
	if s.In(r.URL.RawQuery) {
		r.URL.RawQuery = s.without(r.URL.RawQuery, "&")
		r.RequestURI = r.URL.RequestURI()
	}
	s.DropFrom(r.Header)
	return nil
}

// DropFrom removes from h every field that contains a secret in its name or a value. From Cookie it
// removes only the cookies that contain a secret, and the cookies of the dashboard.
func (s Secrets) DropFrom(h http.Header) {
	for name, values := range h {
		switch {
		case name == "Cookie":
			s.dropCookies(h)
		case s.inName(name) || s.inAny(values):
			delete(h, name)
		}
	}
}

// inAny reports whether one of values, or all of them together, contain a secret.
func (s Secrets) inAny(values []string) bool {
	for _, v := range values {
		if s.In(v) {
			return true
		}
	}
	return len(values) > 1 && s.In(strings.Join(values, ""))
}

// dropCookies removes the cookies of the dashboard and those that contain a secret. A browser sends
// the dashboard's cookies to every port of its host.
func (s Secrets) dropCookies(h http.Header) {
	var kept []string
	for _, line := range h["Cookie"] {
		if strings.Contains(line, "latchkey_") || s.In(line) {
			line = s.without(line, ";")
		}
		if line != "" {
			kept = append(kept, line)
		}
	}
	if h["Cookie"] = kept; kept == nil || s.In(strings.Join(kept, "")) {
		delete(h, "Cookie")
	}
}

// without returns list without the items that contain a secret or are a cookie of the dashboard. The
// items are separated by sep. It returns "" if a secret is left across several items.
func (s Secrets) without(list, sep string) string {
	var kept []string
	for item := range strings.SplitSeq(list, sep) {
		if !s.In(item) && !(sep == ";" && ownCookie(item)) {
			kept = append(kept, item)
		}
	}
	left := strings.Trim(strings.Join(kept, sep), " ")
	if s.In(left) {
		return ""
	}
	return left
}

// ownCookie reports whether a pair such as "name=value" is a cookie of the dashboard, with or
// without a prefix of RFC 6265bis, section 4.1.3.
func ownCookie(pair string) bool {
	name := strings.Trim(pair, " \t")
	name = strings.TrimPrefix(strings.TrimPrefix(name, "__Host-"), "__Secure-")
	return strings.HasPrefix(name, "latchkey_")
}

// In reports whether text contains a secret: as it is, percent-encoded up to four times, or as part
// of a Base64 text of the standard or the URL alphabet.
func (s Secrets) In(text string) bool {
	for range 5 {
		if len(text) < s.shortest() {
			return false // also the fast exit for most fields
		}
		if s.plain(text) || s.encoded(text) {
			return true
		}
		next := unescape(text)
		if len(next) == len(text) {
			return false
		}
		text = next
	}
	return false
}

// shortest returns the length of the shortest secret that s recognizes.
func (s Secrets) shortest() int {
	n := min(len(TokenPrefix), len(s.Prefix)) + keytext.SecretLength
	if s.Sent != "" {
		n = min(n, len(s.Sent))
	}
	return n
}

// plain reports whether text contains a secret as it is.
func (s Secrets) plain(text string) bool {
	for at := 0; s.Sent != ""; {
		i := strings.Index(text[at:], s.Sent)
		if i < 0 {
			break
		}
		start, end := at+i, at+i+len(s.Sent)
		if len(s.Sent) >= shortSecret || (start == 0 || !wordByte(text[start-1])) && (end == len(text) || !wordByte(text[end])) {
			return true
		}
		at = start + 1
	}
	return s.Prefix != "" && hasSecret(text, s.Prefix) || hasSecret(text, TokenPrefix)
}

// hasSecret reports whether text contains a well-formed secret with this prefix.
func hasSecret(text, prefix string) bool {
	for {
		i := strings.Index(text, prefix)
		if i < 0 || len(text)-i < len(prefix)+keytext.SecretLength {
			return false
		}
		if keytext.Leading(text[i:], prefix) != "" {
			return true
		}
		text = text[i+1:]
	}
}

// encoded reports whether a Base64 text in text contains a secret. The beginning of the Base64 text
// may be anywhere in a run of such characters, so each run is decoded at four positions.
func (s Secrets) encoded(text string) bool {
	least := max(8, base64.RawStdEncoding.EncodedLen(s.shortest()))
	for start := 0; start+least <= len(text); {
		end := start
		for end < len(text) && (wordByte(text[end]) || strings.IndexByte("+/-_", text[end]) >= 0) {
			end++
		}
		if end-start >= least && s.inRun(text[start:end]) {
			return true
		}
		start = end + 1
	}
	return false
}

// inRun reports whether run contains a secret if it is decoded at one of four positions.
func (s Secrets) inRun(run string) bool {
	b := []byte(run)
	for i, c := range b {
		switch c {
		case '-':
			b[i] = '+'
		case '_':
			b[i] = '/'
		}
	}
	decoded := make([]byte, len(b))
	for shift := range 4 {
		part := b[shift:]
		if len(part)%4 == 1 {
			part = part[:len(part)-1]
		}
		n, _ := base64.RawStdEncoding.Decode(decoded, part) // no error is possible: every character is in the alphabet
		if s.plain(string(decoded[:n])) {
			return true
		}
	}
	return false
}

// inName reports whether the name of a header field contains a secret. net/http has changed its
// letters to upper or lower case, so the checksum of other keys cannot be compared.
func (s Secrets) inName(name string) bool {
	if len(name) < max(s.shortest(), shortSecret) {
		return false
	}
	name = strings.ToLower(name)
	return len(s.Sent) >= shortSecret && strings.Contains(name, strings.ToLower(s.Sent)) ||
		s.Prefix != "" && inNameForm(name, s.Prefix) || inNameForm(name, TokenPrefix)
}

// inNameForm reports whether a name in lower case contains prefix, followed by as many letters and
// digits as a secret has, with or without keytext.SandboxMark.
func inNameForm(name, prefix string) bool {
	_, rest, found := strings.Cut(name, prefix)
	rest = strings.TrimPrefix(rest, keytext.SandboxMark)
	return found && len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz0123456789")) >= keytext.SecretLength
}

// wordByte reports whether c is an ASCII letter or digit.
func wordByte(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
}

// unescape returns text with each percent-encoded byte decoded. It leaves a percent sign that is not
// followed by two hex digits as it is.
func unescape(text string) string {
	if strings.IndexByte(text, '%') < 0 {
		return text
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c, ok := Unescaped(text[i:])
		if !ok {
			b = append(b, text[i])
			continue
		}
		b = append(b, c)
		i += len("%2F") - 1
	}
	return string(b)
}

// Unescaped returns the byte that the escape at the start of s encodes, such as '/' for %2F. ok is
// false if s does not start with an escape.
func Unescaped(s string) (b byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	for _, c := range []byte(s[1:3]) {
		switch {
		case c >= '0' && c <= '9':
			b = b<<4 + (c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			b = b<<4 + ((c | 0x20) - 'a' + 10)
		default:
			return 0, false
		}
	}
	return b, true
}
