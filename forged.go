package main

import (
	"net/http"
	"strings"
)

// DropForged takes out of a header what a client must not say to an upstream:
// who it is, where it comes from, that it means another method or path than
// the one that was checked, and its key. Servers that know fields as variables
// see no difference between a hyphen and other characters, so that X_Auth_Key_Id
// is such a name as well.
func DropForged(h http.Header) {
	for name := range h {
		if Forged(name) {
			delete(h, name)
		}
	}
}

// Forged says whether DropForged takes out fields of a name.
func Forged(name string) bool {
	if len(name) < 3 || name[0]|0x20 != 'x' { // all of them begin with it
		return false
	}
	plain := strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c | 0x20
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			return c
		}
		return '-'
	}, name)
	switch plain {
	case "x-auth-key-id", "x-auth-key-name", "x-auth-owner", "x-auth-permissions", "x-auth-environment", "x-request-id", "x-api-key",
		"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-url", "x-rewrite-url", "x-original-uri", "x-original-method",
		"x-http-method", "x-http-method-override", "x-method-override":
		return true
	}
	return strings.HasPrefix(plain, "x-forwarded-")
}

// Identify says in a header who asks. Every field is there, if need be empty, so
// that none that a client sent is ever taken for it.
func Identify(h http.Header, r *Request) {
	v := Identity(r)
	for i, name := range IdentityFields {
		h[name] = v[i : i+1 : i+1]
	}
}

// Identity gives the values of IdentityFields for a request.
func Identity(r *Request) [len(IdentityFields)]string {
	k := r.Key
	return [...]string{
		k.ID, HeaderText(k.Name), HeaderText(k.OwnerName), strings.Join(k.PermissionNames(), ","), HeaderText(k.Environment), r.ID,
	}
}

// IdentityFields are the names of the fields that say who asks.
var IdentityFields = [...]string{"X-Auth-Key-Id", "X-Auth-Key-Name", "X-Auth-Owner", "X-Auth-Permissions", "X-Auth-Environment", "X-Request-Id"}

// HeaderText gives a text as the value of a header field. What is not printable
// ASCII, a space at either end and the percent sign are escaped byte by byte as
// in a URL (RFC 3986 section 2.1), so that unescaping gives the text back.
func HeaderText(s string) string {
	safe := func(i int) bool {
		return s[i] > ' ' && s[i] < 0x7f && s[i] != '%' || s[i] == ' ' && i > 0 && i < len(s)-1
	}
	plain := true
	for i := range len(s) {
		plain = plain && safe(i)
	}
	if plain {
		return s
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if safe(i) {
			b.WriteByte(s[i])
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[s[i]>>4])
		b.WriteByte(digits[s[i]&15])
	}
	return b.String()
}
