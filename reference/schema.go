package reference

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"latchkey/internal/figures"
)

// schema holds the parts of a JSON Schema that openapi.json uses and the reference shows.
type schema struct {
	Ref         string `json:"$ref"`
	Kind        any    `json:"type"` // a string, or an array of strings
	Properties  map[string]schema
	Required    []string
	Items       *schema
	Enum        []any
	Const       any
	OneOf       []schema
	Format      string
	Pattern     string
	Description string
	Examples    []any
	Default     any
	Minimum     *float64
	Maximum     *float64
	MinLength   *int
	MaxLength   *int
	MinItems    *int
	MaxItems    *int
	Additional  json.RawMessage `json:"additionalProperties"`
}

// typePart is a part of the description of a type. It is either plain text, or the name of a schema,
// to which the page links.
type typePart struct{ Text, Schema string }

// Type returns the description of the schema's type, such as "array of string".
func (s schema) Type() []typePart {
	switch {
	case s.Ref != "":
		return []typePart{{Schema: path.Base(s.Ref)}}
	case len(s.OneOf) > 0:
		var parts []typePart
		for i, one := range s.OneOf {
			if i > 0 {
				parts = append(parts, typePart{Text: " or "})
			}
			parts = append(parts, one.Type()...)
		}
		return parts
	}
	var words []string
	switch kind := s.Kind.(type) {
	case string:
		words = []string{kind}
	case []any:
		for _, k := range kind {
			word, _ := k.(string)
			words = append(words, word)
		}
	}
	var parts []typePart
	for i, word := range words {
		if i > 0 {
			parts = append(parts, typePart{Text: " or "})
		}
		parts = append(parts, typePart{Text: word})
		if word == "array" && s.Items != nil {
			parts = append(append(parts, typePart{Text: " of "}), s.Items.Type()...)
		}
	}
	return parts
}

// member describes one member of an object.
type member struct {
	Name     string // with the members that contain it, such as "phone_numbers[].phone_number"
	Inner    bool   // whether another member contains it
	Required bool
	Type     []typePart
	Note     string
}

// members returns the members of an object, or of the objects in an array. It returns required
// members first and then optional members, both sorted by name. After a member whose objects have no
// name of their own follow the members of these.
func (s schema) members() (list []member) {
	if s.Items != nil && s.Items.Ref == "" {
		return s.Items.members()
	}
	return s.within("")
}

// within returns the members of an object. prefix is the name of the member that contains the object,
// with a dot, or "".
func (s schema) within(prefix string) (list []member) {
	names := slices.Sorted(maps.Keys(s.Properties))
	for _, required := range []bool{true, false} {
		for _, name := range names {
			if slices.Contains(s.Required, name) != required {
				continue
			}
			p := s.Properties[name]
			list = append(list, member{Name: prefix + name, Inner: prefix != "", Required: required, Type: p.Type(), Note: p.Note()})
			list = append(list, p.inner(prefix+name)...)
		}
	}
	return list
}

// inner returns the members of the objects in a member called name. An object with a name of its own
// has a section of its own, so its members are left out.
func (s schema) inner(name string) (list []member) {
	if s.Ref != "" {
		return nil
	}
	for _, one := range s.OneOf {
		list = append(list, one.inner(name)...)
	}
	if s.Items != nil {
		list = append(list, s.Items.inner(name+"[]")...)
	}
	var other schema
	if json.Unmarshal(s.Additional, &other) == nil { // otherwise there is none, or it is true or false
		list = append(list, other.inner(name+".*")...)
	}
	return append(list, s.within(name+".")...)
}

// Note returns the description of the schema, its allowed values and an example.
func (s schema) Note() string {
	var notes []string
	add := func(format string, values ...any) {
		if text := fmt.Sprintf(format, values...); !strings.Contains(s.Description, text) {
			notes = append(notes, text)
		}
	}
	if s.Description != "" {
		notes = append(notes, s.Description)
	}
	if len(s.Enum) > 0 {
		add("one of %s", join(s.Enum))
	}
	if s.Const != nil {
		add("always %s", join([]any{s.Const}))
	}
	if s.Default != nil {
		add("default %s", join([]any{s.Default}))
	}
	s.addBounds(add)
	if s.Items != nil {
		if each := s.Items.Note(); each != "" && s.Items.Ref == "" {
			add("each: %s", each)
		}
	}
	if len(s.Examples) > 0 {
		add("such as %s", join(s.Examples[:1]))
	}
	return strings.Join(notes, "; ")
}

// addBounds calls add with texts about the form and the bounds of a value. That a number is not
// negative is left out.
func (s schema) addBounds(add func(format string, values ...any)) {
	switch s.Format {
	case "date":
		add("YYYY-MM-DD")
	case "date-time":
		add("a date and time")
	case "uri":
		add("a URL")
	case "uuid":
		add("a UUID")
	}
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		add("%s to %s", number(*s.Minimum), number(*s.Maximum))
	case s.Maximum != nil:
		add("at most %s", number(*s.Maximum))
	case s.Minimum != nil && *s.Minimum != 0:
		add("at least %s", number(*s.Minimum))
	}
	for _, b := range []struct {
		least, most *int
		of          string
	}{{s.MinLength, s.MaxLength, "characters"}, {s.MinItems, s.MaxItems, "entries"}} {
		switch {
		case b.least != nil && b.most != nil && *b.least == *b.most:
			add("%s %s", figures.Grouped(*b.most), b.of)
		case b.least != nil && b.most != nil && *b.least > 0:
			add("%s to %s %s", figures.Grouped(*b.least), figures.Grouped(*b.most), b.of)
		case b.most != nil:
			add("at most %s %s", figures.Grouped(*b.most), b.of)
		case b.least != nil && *b.least > 0:
			add("not empty")
		}
	}
}

// number returns a number without an exponent.
func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// join returns the values as JSON, separated by commas.
func join(values []any) string {
	var words []string
	for _, v := range values {
		text, err := json.Marshal(v)
		if err == nil {
			words = append(words, string(text))
		}
	}
	return strings.Join(words, ", ")
}

// sample returns a value that fits the schema: its example, constant, default or first allowed
// value. If it has none of these, the value depends on the type. named returns the schemas to
// which $ref can refer.
func (s schema) sample(named func(name string) schema) any {
	switch {
	case s.Ref != "":
		return named(path.Base(s.Ref)).sample(named)
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Const != nil:
		return s.Const
	case s.Default != nil:
		return s.Default
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.OneOf) > 0:
		return s.OneOf[0].sample(named)
	}
	kind, _ := s.Kind.(string)
	if list, ok := s.Kind.([]any); ok && len(list) > 0 {
		kind, _ = list[0].(string)
	}
	switch kind {
	case "integer", "number":
		if s.Minimum != nil {
			return max(1, *s.Minimum)
		}
		return 1
	case "boolean":
		return true
	case "array":
		if s.Items == nil {
			return []any{}
		}
		return []any{s.Items.sample(named)}
	case "object":
		object := map[string]any{}
		for _, name := range s.Required {
			object[name] = s.Properties[name].sample(named)
		}
		return object
	}
	return "..."
}
