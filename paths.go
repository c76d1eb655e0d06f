package main

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ReadPath gives the path of a request for Match, of its form on the wire
// without the query. What servers and libraries are known to read in different
// ways is ErrValidation rather than a guess: another program behind us could
// see another path than the one that was checked. That is a path with no slash
// at its start, two slashes in a row, the segments . and .., a backslash, a
// semicolon, a control character, an escaped slash or backslash, bytes that are
// no UTF-8, and what would be one of these if it were unescaped twice.
func ReadPath(raw string) (string, error) {
	path := raw
	if strings.IndexByte(raw, '%') >= 0 {
		if hasEscape(raw, "/\\") {
			return "", badPath("an escaped slash or backslash")
		}
		var err error
		if path, err = url.PathUnescape(raw); err != nil {
			return "", badPath("a percent sign that escapes nothing")
		}
		for deeper := path; strings.IndexByte(deeper, '%') >= 0; {
			if hasEscape(deeper, "/\\.;") || hasControlEscape(deeper) {
				return "", badPath("something that was escaped twice")
			}
			was := deeper
			if deeper, err = url.PathUnescape(was); err != nil || deeper == was {
				break // a percent sign that is one
			}
		}
	}
	switch {
	case path == "" || path[0] != '/':
		return "", badPath("no slash at its start")
	case strings.Contains(path, "//"):
		return "", badPath("two slashes in a row")
	case strings.IndexByte(path, '\\') >= 0:
		return "", badPath("a backslash")
	case strings.IndexByte(raw, ';') >= 0:
		return "", badPath("a semicolon")
	case !utf8.ValidString(path):
		return "", badPath("bytes that are no UTF-8")
	case strings.IndexFunc(path, unicode.IsControl) >= 0:
		return "", badPath("a control character")
	case hasDots(path):
		return "", badPath("a segment . or ..")
	}
	return path, nil
}

func badPath(what string) error {
	return ErrValidation.With("The path has %s, which programs read in different ways. Send the path in its plain form.", what)
}

// hasDots finds the segments . and .., also with parameters as in /..;x/.
func hasDots(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		name, _, _ := strings.Cut(part, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

// hasEscape finds the escaped form of one of some characters.
func hasEscape(s, of string) bool {
	for i := strings.IndexByte(s, '%'); i >= 0 && i+2 < len(s); i++ {
		if b, ok := unescaped(s[i:]); ok && strings.IndexByte(of, b) >= 0 {
			return true
		}
	}
	return false
}

func hasControlEscape(s string) bool {
	for i := range s {
		if b, ok := unescaped(s[i:]); ok && (b < ' ' || b == 0x7f) {
			return true
		}
	}
	return false
}

// unescaped gives the byte that s opens with in its escaped form.
func unescaped(s string) (b byte, ok bool) {
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
