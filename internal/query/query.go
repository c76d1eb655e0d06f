// Package query reads the query of a URL. Unlike net/url, it returns an error for a parameter that
// cannot be read. net/url leaves such a parameter out, so a filter would silently match everything.
package query

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Error is an error in the query of a client. Its text is a sentence to send to the client.
type Error string

// Error returns the sentence.
func (e Error) Error() string { return string(e) }

func errorf(format string, args ...any) error { return Error(fmt.Sprintf(format, args...)) }

// Parse returns the values of each parameter in raw, the query without its question mark. An empty
// value counts as not sent, so it is left out. Parse returns an Error if a name or a value has an
// invalid % escape, a semicolon that is not escaped, invalid UTF-8 or a NUL character.
func Parse(raw string) (url.Values, error) {
	values := url.Values{}
	for part := range strings.SplitSeq(raw, "&") {
		sent, text, _ := strings.Cut(part, "=")
		name, problem := unescape(sent)
		if problem != "" {
			return nil, errorf("The name of the query parameter %s %s", clip(sent), problem)
		}
		value, problem := unescape(text)
		if problem != "" {
			return nil, errorf("The query parameter %s %s", clip(name), problem)
		}
		if value != "" {
			values[name] = append(values[name], value)
		}
	}
	return values, nil
}

// unescape returns text without its escapes. If text cannot be read, it returns the end of a sentence
// that explains why.
func unescape(text string) (plain, problem string) {
	if strings.Contains(text, ";") {
		return "", "contains a semicolon, which some programs take for the end of a parameter. Send it as %3B."
	}
	plain, err := url.QueryUnescape(text)
	switch {
	case err != nil:
		return "", "contains a % that is not followed by two hex digits. Send a % itself as %25."
	case !utf8.ValidString(plain):
		return "", "is not valid UTF-8. Encode it as UTF-8, and then escape it."
	case strings.Contains(plain, "\x00"):
		return "", "contains a NUL character. Remove it."
	}
	return plain, ""
}

// Once returns the parameters of values that names lists. It returns an Error if one of them appears
// more than once.
func Once(values url.Values, names ...string) (url.Values, error) {
	one := url.Values{}
	for _, name := range names {
		switch sent := values[name]; len(sent) {
		case 0:
		case 1:
			one[name] = sent
		default:
			return nil, errorf("The query parameter %s appears %d times. Send it once.", clip(name), len(sent))
		}
	}
	return one, nil
}

// clip returns text in quotes for use in a message. It shortens a long text.
func clip(text string) string {
	const limit = 60
	if len(text) > limit {
		return fmt.Sprintf("%q...", text[:limit])
	}
	return fmt.Sprintf("%q", text)
}
