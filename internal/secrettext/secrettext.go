// Package secrettext reads secrets that a person or a program supplies in a file, in an environment
// variable or on standard input. A secret means the same whichever way it takes.
package secrettext

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSize is the largest size of a secret in bytes.
const maxSize = 64 << 10

// Kind is the kind of a secret. It determines which characters around it are removed.
type Kind int

// The kinds of secrets.
const (
	// Token is a secret that a program has made, such as an admin token or a pepper. White space
	// around it is removed. It consists of visible ASCII characters.
	Token Kind = iota
	// Password is a secret that a person has chosen. Only line ends after it are removed, because
	// blanks may be a part of it.
	Password
)

// Clean returns the secret in data. It removes a byte order mark, and the characters that the kind
// names. It returns an error if the rest is empty or cannot be a secret of that kind. The error
// completes a message that begins with the source of data; it does not contain the secret.
func (k Kind) Clean(data []byte) (string, error) {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return "", errors.New("is text in UTF-16; save it as UTF-8")
	}
	if len(data) > maxSize {
		return "", fmt.Errorf("is larger than %d bytes, so it is not a secret", maxSize)
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	if !utf8.ValidString(text) {
		return "", errors.New("is not text in UTF-8; save it as UTF-8")
	}
	if k == Token {
		text = strings.TrimSpace(text)
	} else {
		text = strings.TrimRight(text, "\r\n")
	}
	switch {
	case strings.TrimSpace(text) == "":
		return "", errors.New("is empty; put the secret into it")
	case strings.ContainsAny(text, "\r\n"):
		return "", errors.New("has several lines; it must contain one secret on one line")
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", errors.New("contains a control character; remove it")
	case k == Token && strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", errors.New("contains a blank or a character outside ASCII, which no token has; copy the token again")
	}
	return text, nil
}

// ReadFile returns the secret in the file at path, as Clean does. If path is "-" and stdin is not nil,
// it reads stdin. source is the flag or the variable that names the file, for messages.
func (k Kind) ReadFile(source, path string, stdin io.Reader) (string, error) {
	name := source + ": the file " + path
	if path == "-" && stdin != nil {
		name = source + ": standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", source, err)
		}
		defer f.Close()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxSize+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", source, err)
	}
	text, err := k.Clean(data)
	if err != nil {
		return "", fmt.Errorf("%s %w", name, err)
	}
	return text, nil
}

// FromVariable returns the secret in the value of an environment variable, as Clean does. name is the
// name of the variable, for messages.
func (k Kind) FromVariable(name, value string) (string, error) {
	text, err := k.Clean([]byte(value))
	if err != nil {
		return "", fmt.Errorf("%s %w", name, err)
	}
	return text, nil
}
