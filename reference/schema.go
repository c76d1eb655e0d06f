package reference

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
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
	Name     string
	Required bool
	Type     []typePart
	Note     string
}

// members returns the members of an object, or of the objects in an array. It returns required
// members first and then optional members, both sorted by name.
func (s schema) members() (list []member) {
	if s.Items != nil && s.Items.Ref == "" {
		return s.Items.members()
	}
	names := slices.Sorted(maps.Keys(s.Properties))
	for _, required := range []bool{true, false} {
		for _, name := range names {
			if slices.Contains(s.Required, name) == required {
				p := s.Properties[name]
				list = append(list, member{Name: name, Required: required, Type: p.Type(), Note: p.Note()})
			}
		}
	}
	return list
}

// Note returns the description of the schema, its allowed values and an example.
func (s schema) Note() string {
	var notes []string
	if s.Description != "" {
		notes = append(notes, s.Description)
	}
	if len(s.Enum) > 0 {
		notes = append(notes, "one of "+join(s.Enum))
	}
	if s.Const != nil {
		notes = append(notes, "always "+join([]any{s.Const}))
	}
	if len(s.Examples) > 0 {
		notes = append(notes, "such as "+join(s.Examples[:1]))
	}
	return strings.Join(notes, "; ")
}

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
