// Package strictjson reads JSON objects. It refuses three things that encoding/json accepts: invalid
// UTF-8, a name that appears twice in an object, and nesting deeper than MaxDepth.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// MaxDepth is the number of levels to which objects and arrays may be nested. The outermost object
// is level 1.
const MaxDepth = 32

// Error is an error in the JSON of a client. Its text is a sentence to send to the client.
type Error string

// Error returns the sentence.
func (e Error) Error() string { return string(e) }

func errorf(format string, args ...any) error { return Error(fmt.Sprintf(format, args...)) }

// Object returns the members of data by name. It returns an Error if data is not one JSON object or
// the package refuses it.
func Object(data []byte) (members map[string]json.RawMessage, err error) {
	if err := check(data); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &members); err != nil || members == nil {
		return nil, Error(`The body must be a JSON object, such as {"name": "value"}.`)
	}
	return members, nil
}

// check returns an Error if data is not valid UTF-8, is not valid JSON, contains an object with a
// name twice, or is nested too deep.
func check(data []byte) error {
	if !utf8.Valid(data) {
		return Error("The body is not valid UTF-8.")
	}
	if !json.Valid(data) {
		return Error("The body is not valid JSON. Send one JSON object in UTF-8.")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	type level struct {
		names map[string]bool // nil in an array
		value bool            // in an object: the next token begins a value and is not a name
	}
	var open []level
	for {
		tok, err := dec.Token()
		if err != nil {
			return nil // data is valid JSON, so this is its end
		}
		top := len(open) - 1
		if name, ok := tok.(string); ok && top >= 0 && open[top].names != nil && !open[top].value {
			if open[top].names[name] {
				return errorf("The name %q appears twice in one object.", name)
			}
			open[top].names[name], open[top].value = true, true
			continue
		}
		if d, ok := tok.(json.Delim); ok && (d == '{' || d == '[') {
			if len(open) == MaxDepth {
				return errorf("The body is nested deeper than %d levels.", MaxDepth)
			}
			next := level{}
			if d == '{' {
				next.names = map[string]bool{}
			}
			open = append(open, next)
			continue
		}
		if _, ok := tok.(json.Delim); ok {
			open = open[:top]
			top--
		}
		if top >= 0 {
			open[top].value = false
		}
	}
}
