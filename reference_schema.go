package main

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
)

// Schema is what the reference shows of a JSON Schema: the words of it that
// openapi.json uses.
type Schema struct {
	Ref         string `json:"$ref"`
	Kind        any    `json:"type"` // a word, or a list of words
	Properties  map[string]Schema
	Required    []string
	Items       *Schema
	Enum        []any
	Const       any
	OneOf       []Schema
	Format      string
	Pattern     string
	Description string
	Examples    []any
	Default     any
	Minimum     *float64
	Maximum     *float64
	Additional  json.RawMessage `json:"additionalProperties"`
}

// TypePart is a piece of a type's name: text, or the name of a schema.
type TypePart struct{ Text, Schema string }

// Type says in words which values a schema takes.
func (s Schema) Type() []TypePart {
	switch {
	case s.Ref != "":
		return []TypePart{{Schema: path.Base(s.Ref)}}
	case len(s.OneOf) > 0:
		var parts []TypePart
		for i, one := range s.OneOf {
			if i > 0 {
				parts = append(parts, TypePart{Text: " or "})
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
	var parts []TypePart
	for i, word := range words {
		if i > 0 {
			parts = append(parts, TypePart{Text: " or "})
		}
		parts = append(parts, TypePart{Text: word})
		if word == "array" && s.Items != nil {
			parts = append(append(parts, TypePart{Text: " of "}), s.Items.Type()...)
		}
	}
	return parts
}

// SchemaMember is one member of an object.
type SchemaMember struct {
	Name     string
	Required bool
	Type     []TypePart
	Note     string
}

// Members lists the members of an object, the required ones first.
func (s Schema) Members() (list []SchemaMember) {
	if s.Items != nil && s.Items.Ref == "" {
		return s.Items.Members()
	}
	names := slices.Sorted(maps.Keys(s.Properties))
	for _, required := range []bool{true, false} {
		for _, name := range names {
			if slices.Contains(s.Required, name) == required {
				p := s.Properties[name]
				list = append(list, SchemaMember{Name: name, Required: required, Type: p.Type(), Note: p.Note()})
			}
		}
	}
	return list
}

// Note says what the type does not.
func (s Schema) Note() string {
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

// Sample gives a value that fits the schema: its example, or one made of its
// required members.
func (s Schema) Sample(named map[string]Schema) any {
	switch {
	case s.Ref != "":
		return named[path.Base(s.Ref)].Sample(named)
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Const != nil:
		return s.Const
	case s.Default != nil:
		return s.Default
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.OneOf) > 0:
		return s.OneOf[0].Sample(named)
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
		return []any{s.Items.Sample(named)}
	case "object":
		object := map[string]any{}
		for _, name := range s.Required {
			object[name] = s.Properties[name].Sample(named)
		}
		return object
	}
	return "..."
}
