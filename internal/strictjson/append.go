package strictjson

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Append appends v as JSON to data and returns the result. It writes what a json.Encoder with
// SetEscapeHTML(false) writes, without the line break at the end. Maps, slices and simple values are
// written without reflection: encoding/json allocates two objects for each member of a map. Append
// returns an error if v cannot be encoded.
func Append(data []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(data, "null"...), nil
	case bool:
		return appendBool(data, v)
	case *bool:
		return appendPointer(data, v, appendBool)
	case string:
		return appendText(data, v)
	case *string:
		return appendPointer(data, v, appendText)
	case int:
		return appendInt(data, v)
	case *int:
		return appendPointer(data, v, appendInt)
	case int64:
		return strconv.AppendInt(data, v, 10), nil
	case uint64:
		return appendUint(data, v)
	case float64:
		return appendFloat(data, v)
	case map[string]any:
		return appendMap(data, v, Append)
	case map[string]string:
		return appendMap(data, v, appendText)
	case map[string]int:
		return appendMap(data, v, appendInt)
	case map[string]uint64:
		return appendMap(data, v, appendUint)
	case []any:
		return appendList(data, v, Append)
	case []map[string]any:
		return appendList(data, v, func(data []byte, m map[string]any) ([]byte, error) { return appendMap(data, m, Append) })
	case []string:
		return appendList(data, v, appendText)
	case Appender:
		return v.AppendJSON(data)
	}
	return appendOther(data, v)
}

func appendBool(data []byte, b bool) ([]byte, error) { return strconv.AppendBool(data, b), nil }

func appendInt(data []byte, n int) ([]byte, error) { return strconv.AppendInt(data, int64(n), 10), nil }

func appendUint(data []byte, n uint64) ([]byte, error) { return strconv.AppendUint(data, n, 10), nil }

// appendPointer appends the value that p points to, or null if p is nil.
func appendPointer[T any](data []byte, p *T, one func([]byte, T) ([]byte, error)) ([]byte, error) {
	if p == nil {
		return append(data, "null"...), nil
	}
	return one(data, *p)
}

// AppendList appends an array with the elements of a list, or null if it is nil.
func AppendList[T any, P interface {
	*T
	Appender
}](data []byte, list []T) ([]byte, error) {
	if list == nil {
		return append(data, "null"...), nil
	}
	var err error
	data = append(data, '[')
	for i := range list {
		if i > 0 {
			data = append(data, ',')
		}
		if data, err = P(&list[i]).AppendJSON(data); err != nil {
			return data, err
		}
	}
	return append(data, ']'), nil
}

// maxGrown is the number of bytes up to which appendList makes room for a list at once.
const maxGrown = 1 << 20

// appendList appends an array whose elements are written by one, or null if the list is nil.
func appendList[T any](data []byte, list []T, one func([]byte, T) ([]byte, error)) ([]byte, error) {
	if list == nil {
		return append(data, "null"...), nil
	}
	var err error
	data = append(data, '[')
	begin := len(data)
	for i, value := range list {
		if i > 0 {
			data = append(data, ',')
		}
		if i == 1 { // the others are about as long as the first
			data = slices.Grow(data, min((len(data)-begin)*len(list), maxGrown))
		}
		if data, err = one(data, value); err != nil {
			return data, err
		}
	}
	return append(data, ']'), nil
}

// appendMap appends an object with its names in ascending order, or null if the map is nil. Its values
// are written by one.
func appendMap[T any](data []byte, m map[string]T, one func([]byte, T) ([]byte, error)) ([]byte, error) {
	if m == nil {
		return append(data, "null"...), nil
	}
	var room [48]string // most objects have fewer members, so that the names stay on the stack
	names := room[:0]
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	var err error
	data = append(data, '{')
	for i, name := range names {
		if i > 0 {
			data = append(data, ',')
		}
		if data, err = appendText(data, name); err != nil {
			return data, err
		}
		if data, err = one(append(data, ':'), m[name]); err != nil {
			return data, err
		}
	}
	return append(data, '}'), nil
}

// appendFloat appends a number.
func appendFloat(data []byte, f float64) ([]byte, error) {
	if size := math.Abs(f); size == 0 || size >= 1e-6 && size < 1e21 {
		return strconv.AppendFloat(data, f, 'f', -1, 64), nil
	}
	return appendOther(data, f) // with an exponent, or no number of JSON
}

// appendText appends a string. encoding/json writes it if it has a character that must be escaped.
func appendText(data []byte, text string) ([]byte, error) {
	if !isPlain(text) {
		return appendOther(data, text)
	}
	data = append(data, '"')
	data = append(data, text...)
	return append(data, '"'), nil
}

// isPlain reports whether a string is written as it is, between quotes.
func isPlain(text string) bool {
	ascii := true
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' {
			return false
		} else if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	if ascii {
		return true
	}
	for _, r := range text {
		if r == utf8.RuneError || r == '\u2028' || r == '\u2029' {
			return false // RuneError is also what invalid bytes become
		}
	}
	return true
}

// appendOther appends what encoding/json writes.
func appendOther(data []byte, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // an answer is not HTML
	if err := enc.Encode(v); err != nil {
		return data, err
	}
	return append(data, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...), nil
}

// Appender is a value that Append writes by calling AppendJSON, which appends the value as JSON to
// data and returns the result. encoding/json does not know the method: the type needs a MarshalJSON
// if it appears in a struct.
type Appender interface {
	AppendJSON(data []byte) ([]byte, error)
}

// Members writes an object member by member, for an Appender of which there are many. The names must
// be plain text. End returns the first error.
type Members struct {
	data []byte
	err  error
	some bool
}

// Begin begins an object that is appended to data.
func Begin(data []byte) Members { return Members{data: append(data, '{')} }

// name begins a member.
func (m *Members) name(name string) {
	if m.some {
		m.data = append(m.data, ',')
	}
	m.some = true
	m.data = append(m.data, '"')
	m.data = append(m.data, name...)
	m.data = append(m.data, '"', ':')
}

// Text adds a string.
func (m *Members) Text(name, value string) {
	m.name(name)
	m.set(appendText(m.data, value))
}

// Int adds a whole number.
func (m *Members) Int(name string, n int) {
	m.name(name)
	m.data = strconv.AppendInt(m.data, int64(n), 10)
}

// Bool adds true or false.
func (m *Members) Bool(name string, value bool) {
	m.name(name)
	m.data = strconv.AppendBool(m.data, value)
}

// Time adds a time in UTC in the layout of the package time, or null if it is zero.
func (m *Members) Time(name string, t time.Time, layout string) {
	m.name(name)
	if t.IsZero() {
		m.data = append(m.data, "null"...)
		return
	}
	m.data = append(t.UTC().AppendFormat(append(m.data, '"'), layout), '"')
}

// Value adds any value that Append can write.
func (m *Members) Value(name string, v any) {
	m.name(name)
	m.set(Append(m.data, v))
}

func (m *Members) set(data []byte, err error) {
	if m.data = data; m.err == nil {
		m.err = err
	}
}

// End closes the object. It returns the data with the object, or the first error.
func (m *Members) End() ([]byte, error) { return append(m.data, '}'), m.err }
