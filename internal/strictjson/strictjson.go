// Package strictjson reads and writes JSON so that a value is kept exactly as it was sent, or
// refused. encoding/json accepts, and changes or loses, what this package refuses: invalid UTF-8,
// half of a surrogate pair, a NUL character, a name that appears twice in an object, a number that
// no float64 can hold, and nesting deeper than MaxDepth.
package strictjson

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxDepth is the number of levels to which objects and arrays may be nested. The outermost object
// is level 1.
const MaxDepth = 32

// MaxNumber is the maximum length of a number, in bytes. A whole number in the range of float64 has
// up to 309 digits.
const MaxNumber = 400

// Error is an error in the JSON of a client.
type Error struct {
	Text string // a sentence to send to the client; it begins with Path unless that is ""
	// Path is the place of the value that was refused, such as "contacts[2].first_name". It is ""
	// if the error concerns the whole text.
	Path string
	// Value means that the text is valid JSON in UTF-8, but that one value in it cannot be stored.
	Value bool
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Text }

func errorf(format string, args ...any) *Error { return &Error{Text: fmt.Sprintf(format, args...)} }

// notUTF8 begins the faults of a string that is not text in UTF-8.
const notUTF8 = "is not valid UTF-8"

// at returns an Error about the value at path. what completes a sentence that begins with the path.
func at(path, what string) *Error {
	return &Error{Text: cmp.Or(path, "The value") + " " + what, Path: path, Value: !strings.HasPrefix(what, notUTF8)}
}

// Object returns the members of data by name. It returns an *Error if data is not one JSON object or
// the package refuses it. The values may share the memory of data.
func Object(data []byte) (members map[string]json.RawMessage, err error) {
	if members, ok := cleanObject(data); ok {
		return members, nil
	}
	if err := check(data); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &members); err != nil || members == nil {
		return nil, errorf(`The body must be a JSON object, such as {"name": "value"}.`)
	}
	return members, nil
}

// Text returns the string that data, one JSON value, is. ok is false for a value of another type and for
// a string with escapes or invalid UTF-8, which encoding/json reads.
func Text(data []byte) (text string, ok bool) {
	if len(data) < 2 || data[0] != '"' || bytes.IndexByte(data, '\\') >= 0 || !utf8.Valid(data) {
		return "", false
	}
	return string(data[1 : len(data)-1]), true
}

// Texts returns the strings of data, which is one JSON value. ok is false for anything but an array of
// strings that Text reads.
func Texts(data []byte) (list []string, ok bool) {
	c := cleaner{text: string(data)}
	if !utf8.Valid(data) || !c.next('[') {
		return nil, false
	}
	list = []string{}
	for more := !c.next(']'); more; {
		if c.blanks() != '"' {
			return nil, false
		}
		text, ok := c.string()
		if !ok {
			return nil, false
		}
		list = append(list, text)
		if more = c.next(','); !more && !c.next(']') {
			return nil, false
		}
	}
	return list, true
}

// Value returns data, which may be any JSON value, decoded as by Decode. It returns an *Error if the
// package refuses data.
func Value(data []byte) (value any, err error) {
	if err := check(data); err != nil {
		return nil, err
	}
	return value, Decode(data, &value)
}

// Decode decodes data, which is one JSON value, into the variable that into points to. It works like
// json.Unmarshal, but a number whose type is not given becomes a json.Number and keeps all digits.
// Decode does not refuse what check refuses: use it for JSON that Latchkey has written.
func Decode(data []byte, into any) error {
	if decodePlain(data, into) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more data after the JSON value")
	}
	return nil
}

// decodePlain does what Decode does if the type of the variable says nothing about the value. It
// returns false, and changes nothing, for another variable and for data with an error.
func decodePlain(data []byte, into any) bool {
	switch into := into.(type) {
	case *any:
		if v, ok := parse(string(data)); ok && *into == nil {
			*into = v
			return true
		}
	case *map[string]any:
		v, _ := parse(string(data))
		if members, ok := v.(map[string]any); ok && len(*into) == 0 {
			*into = members
			return true
		}
	}
	return false
}

// Encode returns v as JSON. It returns an *Error if a string in v is not valid UTF-8; json.Marshal
// would replace the invalid bytes.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	// json.Marshal writes \ufffd for invalid bytes, and the character itself if v contains it.
	if !bytes.Contains(data, []byte(`\ufffd`)) {
		return data, nil
	}
	w := walker{data: data, text: func(raw []byte) string {
		for i := 0; i < len(raw); i++ {
			if raw[i] != '\\' {
				continue
			}
			if bytes.HasPrefix(raw[i:], []byte(`\ufffd`)) {
				return notUTF8 + "."
			}
			i++
		}
		return ""
	}}
	if err := w.walk(); err != nil {
		return nil, err
	}
	return data, nil
}

// IsNumber reports whether text is a JSON number (RFC 8259 section 6) that the package accepts.
func IsNumber(text string) bool {
	first := strings.TrimPrefix(text, "-")
	return first != "" && first[0] >= '0' && first[0] <= '9' && json.Valid([]byte(text)) && numberFault(text) == "" && strings.TrimSpace(text) == text
}

// numberFault returns what is wrong with a JSON number, or "".
func numberFault(text string) string {
	if len(text) > MaxNumber {
		return fmt.Sprintf("is a number of %d characters; the maximum is %d. Send a longer one as a string.", len(text), MaxNumber)
	}
	if _, err := strconv.ParseFloat(text, 64); err != nil {
		return "is out of the range of numbers, up to 1.79e308 in size; got " + text + ". Send it as a string."
	}
	return ""
}

// stringFault returns what is wrong with a string, or "". raw is the string as sent, with quotes.
func stringFault(raw []byte) string {
	if !utf8.Valid(raw) {
		return notUTF8 + "."
	}
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return ""
		}
		raw = raw[i:]
		if raw[1] != 'u' {
			raw = raw[2:]
			continue
		}
		switch unit, _ := strconv.ParseUint(string(raw[2:6]), 16, 16); {
		case unit == 0:
			return "contains a NUL character. Remove it."
		case unit < 0xd800 || unit > 0xdfff:
			raw = raw[6:]
		case unit < 0xdc00 && isLow(raw[6:]):
			raw = raw[12:]
		default:
			return fmt.Sprintf(notUTF8+": %s is half of a surrogate pair.", raw[:6])
		}
	}
}

// isLow reports whether raw begins with the escaped second half of a surrogate pair.
func isLow(raw []byte) bool {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return false
	}
	unit, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return err == nil && unit >= 0xdc00 && unit <= 0xdfff
}

// check returns an *Error if the package refuses data.
func check(data []byte) error {
	if isClean(string(data)) {
		return nil
	}
	return checkAll(data)
}

// checkAll is check for data that may have anything.
func checkAll(data []byte) error {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return errorf("The body is empty. Send one JSON object in UTF-8.")
	case bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")):
		return errorf("The body is UTF-16 and not valid UTF-8. Convert it to UTF-8.")
	case !json.Valid(data) && !utf8.Valid(data):
		return errorf("The body is not valid UTF-8.")
	case !json.Valid(data):
		return errorf("The body is not valid JSON%s. Send one JSON object in UTF-8.", placeOf(data))
	}
	w := walker{data: data, text: stringFault, number: numberFault}
	return w.walk()
}

// placeOf returns where a text stops being JSON, as the end of a sentence. It returns "" for JSON.
func placeOf(data []byte) string {
	var fault *json.SyntaxError
	if !errors.As(json.Unmarshal(data, new(json.RawMessage)), &fault) {
		return ""
	}
	// Offset is that of the end of the wrong character, except at the end of the text.
	good := data[:max(0, min(fault.Offset, int64(len(data)))-1)]
	if strings.HasPrefix(fault.Error(), "unexpected end") {
		return ": it ends before it is complete"
	}
	line := bytes.Count(good, []byte("\n"))
	character := utf8.RuneCount(good[bytes.LastIndexByte(good, '\n')+1:]) + 1
	if line == 0 {
		return fmt.Sprintf(" at character %d", character)
	}
	return fmt.Sprintf(" at character %d of line %d", character, line+1)
}

// walker visits the values of a JSON text.
type walker struct {
	data   []byte                  // valid JSON
	text   func(raw []byte) string // returns what is wrong with a string or a name, or ""
	number func(text string) string
	open   []level
}

// level is an object or an array that is open.
type level struct {
	names map[string]bool // nil in an array
	value bool            // in an object: the next token begins a value and is not a name
	name  string          // in an object: the name of that value
	index int             // in an array: index of the next value
}

// path returns the place of the next value.
func (w *walker) path() string {
	var b strings.Builder
	for _, l := range w.open {
		switch {
		case l.names == nil:
			fmt.Fprintf(&b, "[%d]", l.index)
		case b.Len() > 0:
			b.WriteString("." + l.name)
		default:
			b.WriteString(l.name)
		}
	}
	return b.String()
}

// walk returns an *Error for the first value that the walker refuses.
func (w *walker) walk() error {
	dec := json.NewDecoder(bytes.NewReader(w.data))
	dec.UseNumber()
	for {
		from := dec.InputOffset()
		tok, err := dec.Token()
		if err != nil {
			return nil // data is valid JSON, so this is its end
		}
		// The token follows blanks and the comma or colon before it.
		raw := bytes.TrimLeft(w.data[from:dec.InputOffset()], " \t\r\n,:")
		if err := w.token(tok, raw); err != nil {
			return err
		}
	}
}

// token visits one token. raw is its text.
func (w *walker) token(tok json.Token, raw []byte) error {
	top := len(w.open) - 1
	switch tok := tok.(type) {
	case string:
		if top >= 0 && w.open[top].names != nil && !w.open[top].value {
			return w.name(tok, raw)
		}
		if what := w.text(raw); what != "" {
			return at(w.path(), what)
		}
	case json.Number:
		if w.number != nil {
			if what := w.number(tok.String()); what != "" {
				return at(w.path(), what)
			}
		}
	case json.Delim:
		if tok == '{' || tok == '[' {
			return w.enter(tok)
		}
		w.open = w.open[:top]
	}
	if top = len(w.open) - 1; top >= 0 {
		w.open[top].value = false
		w.open[top].index++
	}
	return nil
}

// name visits the name of a member.
func (w *walker) name(name string, raw []byte) error {
	in := &w.open[len(w.open)-1]
	if what := w.text(raw); what != "" {
		in.name = ""
		place := cmp.Or(strings.TrimSuffix(w.path(), "."), "the body")
		return &Error{Text: fmt.Sprintf("A name in %s %s", place, what), Value: !strings.HasPrefix(what, notUTF8)}
	}
	if in.names[name] {
		return errorf("The name %q appears twice in one object.", name)
	}
	in.names[name], in.name, in.value = true, name, true
	return nil
}

// enter opens an object or an array.
func (w *walker) enter(kind json.Delim) error {
	if len(w.open) == MaxDepth {
		return errorf("The body is nested deeper than %d levels.", MaxDepth)
	}
	next := level{}
	if kind == '{' {
		next.names = map[string]bool{}
	}
	w.open = append(w.open, next)
	return nil
}
