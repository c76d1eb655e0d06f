package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"latchkey/internal/clock"
	"latchkey/internal/strictjson"
)

// Body is a JSON object that a client sent. The methods that read a member into a variable leave
// the variable unchanged if the member is absent. Body stores the error for the first unsuitable
// value. Read all members first, and then check Err.
type Body struct {
	data   []byte                     // see Bytes
	fields map[string]json.RawMessage // the members by name
	err    error                      // see Err
}

// ReadBody reads the body of a request as one JSON object. It returns ErrJSON if the body is not a
// JSON object, and the errors of ReadAll.
func (r *Request) ReadBody() (*Body, error) {
	data, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	return r.parse(data)
}

// parse returns the body in data. It explains the body of an HTML form, which is what many programs send
// if they are not told otherwise.
func (r *Request) parse(data []byte) (*Body, error) {
	body, err := ParseBody(data)
	if errors.Is(err, ErrJSON) {
		err = cmp.Or(r.asForm(data), err)
	}
	return body, err
}

// asForm returns ErrJSON if data is a form and not an attempt at JSON, and otherwise nil.
func (r *Request) asForm(data []byte) error {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	data = bytes.TrimSpace(data)
	if kind != "application/x-www-form-urlencoded" && kind != "multipart/form-data" || len(data) == 0 || data[0] == '{' || data[0] == '[' {
		return nil
	}
	return ErrJSON.With("The body is a form (%s). Send one JSON object in UTF-8, with the Content-Type application/json.", kind)
}

// ReadOptionalBody is like ReadBody, but an empty body counts as an empty object.
func (r *Request) ReadOptionalBody() (*Body, error) {
	data, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return &Body{}, nil
	}
	return r.parse(data)
}

// ReadAll returns the whole body of a request. It returns ErrTooLarge if the body has more than
// MaxBody bytes, ErrEncoding if the body has a Content-Encoding, and ErrJSON if the body cannot be
// read to its end.
func (r *Request) ReadAll() ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, ErrEncoding
	}
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, r.MaxBody))
	if err == nil {
		return data, nil
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, ErrTooLarge.With("The body is larger than %d bytes.", r.MaxBody)
	}
	return nil, ErrJSON.With("The body ended too early or could not be read. Check its Content-Length and send the whole body.")
}

// ParseBody parses data as one JSON object. It returns ErrJSON if data is not a JSON object in
// UTF-8, and ErrValidation if a value in it could not be stored as it was sent.
func ParseBody(data []byte) (*Body, error) {
	fields, err := strictjson.Object(data)
	if bad, ok := errors.AsType[*strictjson.Error](err); ok && bad.Value {
		return nil, ErrValidation.With("%s", bad.Text)
	}
	if err != nil {
		return nil, ErrJSON.With("%s", err)
	}
	return &Body{data: data, fields: fields}, nil
}

// Object parses raw as a JSON object, such as a row of an import. It returns ErrValidation if raw
// is not an object.
func (b *Body) Object(raw json.RawMessage) (*Body, error) {
	c := &Body{}
	if err := json.Unmarshal(raw, &c.fields); err != nil || c.fields == nil {
		return nil, ErrValidation.With("Each row must be a JSON object.")
	}
	return c, nil
}

// BodyFields are the members that the body of an operator's request may have. The API ignores other members
// (docs/contract.md, section 1.2); an operator would not notice that a misspelt one has no effect.
type BodyFields struct {
	Set []string // members that set something; if it is empty, every member is accepted
	// Shown are the other members of answers. They have no effect, so that a client can send a record
	// back as it got it.
	Shown []string
	// Brief are members of answers that repeat a part of another one, by name. A body may have them
	// only together with that one: alone they look as if they set it.
	Brief map[string]string
	// Items are the fields of the objects in an array, by the member that has it.
	Items map[string]BodyFields
}

// check returns ErrValidation for the first member that the body must not have, with its name.
func (f BodyFields) check(b *Body) (name string, err error) {
	if len(f.Set) == 0 || len(f.Items) == 0 && f.allowsAll(b) {
		return "", nil
	}
	for _, name := range b.Names() {
		if !f.allows(b, name) {
			return name, UnknownField(name, f.Set)
		}
		fields, ok := f.Items[name]
		var items []map[string]json.RawMessage
		if !ok || json.Unmarshal(b.fields[name], &items) != nil {
			continue // what reads the member reports what is wrong with it
		}
		for i, item := range items {
			if inner, err := fields.check(&Body{fields: item}); err != nil {
				at := fmt.Sprintf("%s[%d]", name, i)
				return at + "." + inner, ErrValidation.With("%s: %s", at, Public(err).Message)
			}
		}
	}
	return "", nil
}

// allows reports whether b may have a member with this name.
func (f BodyFields) allows(b *Body, name string) bool {
	whole, brief := f.Brief[name]
	return slices.Contains(f.Set, name) || slices.Contains(f.Shown, name) || brief && b.Has(whole)
}

// allowsAll reports whether b may have all its members. It allocates nothing.
func (f BodyFields) allowsAll(b *Body) bool {
	for name := range b.fields {
		if !f.allows(b, name) {
			return false
		}
	}
	return true
}

// OnlyFields are the members of a request that does something and stores no record.
func OnlyFields(names ...string) BodyFields { return BodyFields{Set: names} }

// UnknownField returns the error for a member called name, if only known can be set.
func UnknownField(name string, known []string) error {
	return ErrValidation.With("There is no field %q. The fields are %s.", name, strings.Join(known, ", "))
}

// ReadFields is like ReadBody, and it returns the error of CheckFields.
func (r *Request) ReadFields(fields BodyFields) (*Body, error) {
	body, err := r.ReadBody()
	if err != nil {
		return nil, err
	}
	return body, r.CheckFields(body, fields)
}

// ReadOptionalFields is like ReadOptionalBody, and it returns the error of CheckFields.
func (r *Request) ReadOptionalFields(fields BodyFields) (*Body, error) {
	body, err := r.ReadOptionalBody()
	if err != nil {
		return nil, err
	}
	return body, r.CheckFields(body, fields)
}

// CheckFields returns ErrValidation if the body of an operator's request has a member that it must not
// have. It returns nil for a request with a key. A request that changes a record calls it after the record
// is found, because an unknown record is 404 whatever the body.
func (r *Request) CheckFields(b *Body, fields BodyFields) error {
	if r.Key != nil {
		return nil
	}
	return fields.Check(b)
}

// CheckBody returns ErrValidation if an operator's request has a body with members and the route takes none: nobody would notice
// that they have no effect. Clients may send an empty object.
func (r Route) CheckBody(q *Request) error {
	if !r.NoBody {
		return nil
	}
	data, err := q.ReadAll()
	if err != nil {
		return err
	}
	body, err := ParseBody(data)
	if err != nil || len(body.fields) == 0 {
		return nil // nothing that asks for something
	}
	return ErrValidation.With("There is no field %q: %s %s takes no body.", body.Names()[0], r.Method, r.Path)
}

// Check returns ErrValidation if the body has a member that it must not have.
func (f BodyFields) Check(b *Body) error {
	_, err := f.check(b)
	return err
}

// Bytes returns the body exactly as it was sent. It returns nil for a Body that Object or Bodies
// returned.
func (b *Body) Bytes() []byte { return b.data }

// Err returns the error for the first value that was not suitable, or nil if there was none.
func (b *Body) Err() error { return b.err }

// Names returns the names of all members, in alphabetical order.
func (b *Body) Names() []string { return slices.Sorted(maps.Keys(b.fields)) }

// Only reports whether name is the only member of the body and its value is one of values, which are
// JSON.
func (b *Body) Only(name string, values ...string) bool {
	return len(b.fields) == 1 && slices.Contains(values, string(b.fields[name]))
}

// Has reports whether the body has a member with this name, even if its value is null.
func (b *Body) Has(name string) bool {
	_, ok := b.fields[name]
	return ok
}

// Given reports whether the body has a member with this name whose value is not null.
func (b *Body) Given(name string) bool {
	raw, ok := b.fields[name]
	return ok && string(raw) != "null"
}

// Raw returns the JSON of a member as it was sent, or nil if the member is absent.
func (b *Body) Raw(name string) json.RawMessage { return b.fields[name] }

// Replaced returns a copy of the body in which a member has another value. A value of nil takes the member away.
func (b *Body) Replaced(name string, value json.RawMessage) *Body {
	c := &Body{fields: maps.Clone(b.fields)}
	if c.fields == nil {
		c.fields = map[string]json.RawMessage{}
	}
	if c.fields[name] = value; value == nil {
		delete(c.fields, name)
	}
	return c
}

// read decodes the member name into v and reports whether it did so. It returns false if the member
// is absent or if b.err is already set. If the value does not fit v, it sets b.err to "name must be
// want.", so want must describe the expected value.
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

// text reads a string, like read. null counts as "".
func (b *Body) text(name string) (s string, ok bool) {
	raw, found := b.fields[name]
	if !found || b.err != nil {
		return "", false
	}
	if s, ok = strictjson.Text(raw); ok {
		return s, true
	}
	var other string // not s, which would be allocated for every member
	ok = b.read(name, "a string", &other)
	return other, ok
}

// String reads a string of at most most characters, see Length. null counts as "". A string that is
// longer is accepted if it is equal to *into: older versions stored longer strings, and a client may
// send what it has read.
func (b *Body) String(name string, most int, into *string) {
	s, ok := b.text(name)
	if !ok || s == *into {
		return
	}
	if b.err = CheckLength(name, s, most); b.err == nil && name == "name" {
		b.err = checkVisible(name, s)
	}
	if b.err == nil {
		*into = s
	}
}

// checkVisible returns ErrValidation if text, the value of a field, has characters of which none can be
// seen. Nobody could find or tell apart records with such names.
func checkVisible(field, text string) error {
	seen := strings.TrimFunc(text, func(r rune) bool { return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || unicode.IsSpace(r) })
	if seen != "" || strings.TrimSpace(text) == "" {
		return nil
	}
	return ErrValidation.With("%s has only invisible characters. Send a name that people can read.", field)
}

// CheckLength returns ErrValidation if text, the value of a field, has more than most characters.
func CheckLength(field, text string, most int) error {
	if len(text) <= most || Length(text) <= most {
		return nil
	}
	return ErrValidation.With("%s has %s characters; the maximum is %s. Shorten it.", field, Figure(Length(text)), Figure(most))
}

// CutString is like String, but it cuts a string that is too long, see CutText. It is for reports
// of what has happened already, which must not be refused.
func (b *Body) CutString(name string, most int, into *string) {
	if s, ok := b.text(name); ok {
		*into = CutText(s, most)
	}
}

// Word reads a string that must be one of words.
func (b *Body) Word(name string, into *string, words ...string) {
	s, ok := b.text(name)
	if !ok {
		return
	}
	if !slices.Contains(words, s) {
		b.err = ErrValidation.With("%s must be one of %s; got %q.", name, strings.Join(words, ", "), s)
		return
	}
	*into = s
}

// Bool reads true or false. null counts as false.
func (b *Body) Bool(name string, into *bool) {
	var v bool
	if b.read(name, "true or false", &v) {
		*into = v
	}
}

// Int reads a whole number from low to high. If high is math.MaxInt, there is no upper bound. null
// counts as 0, even if 0 is out of range.
func (b *Body) Int(name string, into *int, low, high int) {
	raw, ok := b.fields[name]
	if !ok || b.err != nil {
		return
	}
	n, err := strconv.Atoi(string(raw))
	switch {
	case string(raw) == "null":
		*into = 0
		return
	case err == nil && n >= low && n <= high:
		*into = n
		return
	}
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	if high == math.MaxInt {
		want = fmt.Sprintf("a whole number of at least %d", low)
	}
	switch {
	case raw[0] == '"':
		b.fail("%s must be %s, without quotes.", name, want)
	case raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9':
		b.fail("%s must be %s; got %s.", name, want, raw)
	default:
		b.fail("%s must be %s.", name, want)
	}
}

// ID reads the id of a record. null counts as 0, which is never the id of a record.
func (b *Body) ID(name string, into *uint64) {
	n := 0
	if !b.Has(name) {
		return
	}
	if b.Int(name, &n, 1, math.MaxInt); b.err == nil {
		*into = uint64(n)
	}
}

// Number reads a number, which may have a fraction. null counts as 0. It refuses a number that a
// float64 can hold only rounded.
func (b *Body) Number(name string, into *float64) {
	var v *json.Number
	if raw := b.fields[name]; len(raw) > 0 && raw[0] == '"' {
		b.fail("%s must be a number, without quotes.", name)
	}
	if !b.read(name, "a number", &v) {
		return
	}
	if v == nil {
		*into = 0
		return
	}
	n, err := v.Float64()
	if err != nil || !isExact(v.String(), n) {
		b.fail("%s must be a number with at most 15 digits; got %s.", name, v)
		return
	}
	*into = n
}

// isExact reports whether n is written as the number text, apart from its spelling: 1E5 and 100000
// are the same number.
func isExact(text string, n float64) bool {
	if n == 0 {
		mantissa, _, _ := strings.Cut(strings.ToLower(text), "e")
		return !strings.ContainsAny(mantissa, "123456789")
	}
	sent, ok := new(big.Rat).SetString(text)
	kept, ok2 := new(big.Rat).SetString(strconv.FormatFloat(n, 'g', -1, 64))
	return ok && ok2 && sent.Cmp(kept) == 0
}

// texts reads an array of strings, like read. null counts as nil.
func (b *Body) texts(name string) (list []string, ok bool) {
	raw, found := b.fields[name]
	if !found || b.err != nil {
		return nil, false
	}
	if list, ok = strictjson.Texts(raw); ok {
		return list, true
	}
	var other []string // not list, which would be allocated for every member
	ok = b.read(name, "an array of strings", &other)
	return other, ok
}

// ListBound is how many strings an array can have, and how many characters each of them.
type ListBound struct{ Items, Length int }

// Strings reads an array of strings. null counts as an empty array. An array that is beyond the bound
// is accepted if it is equal to *into, see String.
func (b *Body) Strings(name string, most ListBound, into *[]string) {
	v, ok := b.texts(name)
	if !ok || v != nil && slices.Equal(v, *into) {
		return
	}
	if len(v) > most.Items {
		b.fail("%s has %s entries; the maximum is %s.", name, Figure(len(v)), Figure(most.Items))
		return
	}
	for i, s := range v {
		if b.err = CheckLength(fmt.Sprintf("%s[%d]", name, i), s, most.Length); b.err != nil {
			return
		}
	}
	*into = v
}

// Map reads an object with values of any type. null counts as an empty object. Numbers are decoded
// as json.Number, so they keep all their digits.
func (b *Body) Map(name string, into *map[string]any) {
	raw, ok := b.fields[name]
	if !ok || b.err != nil {
		return
	}
	var v map[string]any
	if err := strictjson.Decode(raw, &v); err != nil {
		b.fail("%s must be an object.", name)
		return
	}
	*into = v
}

// Time reads a time in the form of clock.ParseTime. null counts as the zero
// time.
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
	t, err := clock.ParseTime(*s)
	if err != nil {
		b.fail("%s must be %s, and its year in UTC from 1 to 9999; got %q.", name, want, *s)
		return
	}
	*into = t
}

// How long the previous secret stays valid after a rotation, in seconds: the default and the maximum.
const (
	usualOverlap = 24 * 60 * 60
	MaxOverlap   = 30 * usualOverlap
)

// ReadOverlap returns how long the previous secret stays valid after a rotation, which is the member
// overlap_seconds of the body.
func ReadOverlap(body *Body) (time.Duration, error) {
	overlap := usualOverlap
	if body.Given("overlap_seconds") {
		body.Int("overlap_seconds", &overlap, 0, MaxOverlap)
	}
	return time.Duration(overlap) * time.Second, body.Err()
}

// Bodies reads an array of objects and returns one Body for each object. It returns nil if the
// member is absent or null, and also if it is not an array of objects; then Err returns an error.
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

// fail sets b.err unless an earlier value has set it.
func (b *Body) fail(format string, args ...any) {
	if b.err == nil {
		b.err = ErrValidation.With(format, args...)
	}
}
