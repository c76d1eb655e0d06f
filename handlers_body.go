package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/strictjson"
)

// Body is a JSON object as it was sent: which members are there, and their
// values. Each method reads one member into a variable, leaves it alone where
// the member is absent, and remembers the first value that does not fit; Err
// tells of it once all are read.
type Body struct {
	data   []byte
	fields map[string]json.RawMessage
	err    error
}

// ReadBody reads the body of a request: ErrJSON for what is not one JSON
// object, ErrTooLarge, ErrEncoding. With optional an empty body is an empty
// object.
func (r *Request) ReadBody(optional bool) (*Body, error) {
	data, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(data)) == 0 && optional {
		return &Body{}, nil
	}
	return ParseBody(data)
}

// ReadAll reads the body of a request as it is, up to MaxBody bytes.
func (r *Request) ReadAll() ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, ErrEncoding
	}
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, r.MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, ErrTooLarge.With("The body is larger than %d bytes.", r.MaxBody)
	}
	if err != nil {
		return nil, ErrJSON.With("The body ended early or could not be read. Check its Content-Length and send it whole.")
	}
	return data, nil
}

// ParseBody takes one JSON object apart.
func ParseBody(data []byte) (*Body, error) {
	fields, err := strictjson.Object(data)
	if err != nil {
		return nil, ErrJSON.With("%s", err)
	}
	return &Body{data: data, fields: fields}, nil
}

// Object gives a member as a Body of its own: for rows of an import.
func (b *Body) Object(raw json.RawMessage) (*Body, error) {
	c := &Body{}
	if err := json.Unmarshal(raw, &c.fields); err != nil || c.fields == nil {
		return nil, ErrValidation.With("Each row must be a JSON object.")
	}
	return c, nil
}

// Bytes is the body as it was sent.
func (b *Body) Bytes() []byte { return b.data }

// Err is the first thing that did not fit, nil when all did.
func (b *Body) Err() error { return b.err }

// Names lists the members that were sent, in the order of the alphabet.
func (b *Body) Names() []string { return slices.Sorted(maps.Keys(b.fields)) }

// Has says whether a member was sent, null included.
func (b *Body) Has(name string) bool {
	_, ok := b.fields[name]
	return ok
}

// Given says whether a member was sent with a value other than null.
func (b *Body) Given(name string) bool {
	raw, ok := b.fields[name]
	return ok && string(raw) != "null"
}

// Raw gives a member as it was sent, nil where it was not.
func (b *Body) Raw(name string) json.RawMessage { return b.fields[name] }

// read decodes a member into v, which is what to show as example in the error.
func (b *Body) read(name, want string, v any) bool {
	raw, ok := b.fields[name]
	if !ok || b.err != nil {
		return false
	}
	if err := json.Unmarshal(raw, v); err != nil {
		b.err = ErrValidation.With("%s must be %s.", name, want)
		return false
	}
	return true
}

// MaxString is the longest text member, in bytes, that is not said to be a
// long one.
const MaxString = 64 << 10

// String reads a text; null is the empty text.
func (b *Body) String(name string, into *string) {
	var s string
	if !b.read(name, "a string", &s) {
		return
	}
	if len(s) > MaxString {
		b.err = ErrValidation.With("%s is longer than %d bytes.", name, MaxString)
		return
	}
	if strings.ContainsRune(s, 0) {
		b.err = ErrValidation.With("%s contains a NUL character.", name)
		return
	}
	*into = s
}

// Word reads a text that must be one of a list.
func (b *Body) Word(name string, into *string, words ...string) {
	was := *into
	b.String(name, into)
	if b.err == nil && b.Has(name) && !slices.Contains(words, *into) {
		b.err = ErrValidation.With("%s must be one of %s; got %q.", name, strings.Join(words, ", "), *into)
		*into = was
	}
}

// Bool reads true or false; null is false.
func (b *Body) Bool(name string, into *bool) {
	var v bool
	if b.read(name, "true or false", &v) {
		*into = v
	}
}

// Int reads a whole number from low to high; null is 0.
func (b *Body) Int(name string, into *int, low, high int) {
	var v *json.Number
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	if high == math.MaxInt {
		want = fmt.Sprintf("a whole number from %d", low)
	}
	raw := b.fields[name]
	if len(raw) > 0 && raw[0] == '"' {
		b.fail("%s must be %s, without quotes.", name, want)
	}
	if !b.read(name, want, &v) {
		return
	}
	if v == nil {
		*into = 0
		return
	}
	n, err := strconv.Atoi(v.String())
	if err != nil || n < low || n > high {
		b.fail("%s must be %s; got %s.", name, want, v)
		return
	}
	*into = n
}

// ID reads the number of a record; null is 0, which no record has.
func (b *Body) ID(name string, into *uint64) {
	n := 0
	if !b.Has(name) {
		return
	}
	if b.Int(name, &n, 1, math.MaxInt); b.err == nil {
		*into = uint64(n)
	}
}

// Number reads a number of any kind; null is 0.
func (b *Body) Number(name string, into *float64) {
	var v float64
	if b.read(name, "a number", &v) {
		*into = v
	}
}

// Strings reads an array of texts; null is an empty one.
func (b *Body) Strings(name string, into *[]string) {
	var v []string
	if b.read(name, "an array of strings", &v) {
		*into = v
	}
}

// Map reads an object with values of any kind; null is an empty one. Numbers
// keep the digits they were sent with.
func (b *Body) Map(name string, into *map[string]any) {
	raw, ok := b.fields[name]
	if !ok || b.err != nil {
		return
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		b.fail("%s must be an object.", name)
		return
	}
	*into = v
}

// Time reads an RFC 3339 time; null is none.
func (b *Body) Time(name string, into *time.Time) {
	var s *string
	const want = "a time such as 2026-02-03T09:15:00Z"
	if !b.read(name, want, &s) {
		return
	}
	if s == nil {
		*into = time.Time{}
		return
	}
	t, err := time.Parse(time.RFC3339, *s)
	if err != nil {
		b.fail("%s must be %s; got %q.", name, want, *s)
		return
	}
	*into = t.UTC()
}

// Bodies reads an array of objects, one Body each.
func (b *Body) Bodies(name string) []*Body {
	var rows []json.RawMessage
	if !b.read(name, "an array of objects", &rows) {
		return nil
	}
	var bodies []*Body
	for i, raw := range rows {
		row, err := b.Object(raw)
		if err != nil {
			b.fail("%s[%d] must be an object.", name, i)
			return nil
		}
		bodies = append(bodies, row)
	}
	return bodies
}

func (b *Body) fail(format string, args ...any) {
	if b.err == nil {
		b.err = ErrValidation.With(format, args...)
	}
}
