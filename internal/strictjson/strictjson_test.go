package strictjson

import (
	"strings"
	"testing"
)

func TestObject(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                              "",
		`{"a": {"b": 1}, "c": [{"b":2}]}`: "",
		`{"a": [{"b": 1}, {"b": 2}]}`:     "",
		`{"a": 1, "a": 2}`:                `The name "a" appears twice in one object.`,
		`{"a": {"b": 1, "\u0062": 2}}`:    `The name "b" appears twice in one object.`,
		`[1]`:                             `The body must be a JSON object, such as {"name": "value"}.`,
		`null`:                            `The body must be a JSON object, such as {"name": "value"}.`,
		`{"a": 1} {}`:                     "The body is not valid JSON. Send one JSON object in UTF-8.",
		"{\"a\": \"\xff\"}":               "The body is not valid UTF-8.",
		`{"a": ` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`:     "The body is nested deeper than 32 levels.",
		`{"a": ` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`: "",
	} {
		got := ""
		members, err := Object([]byte(text))
		if err != nil {
			got = err.Error()
		}
		if got != want || (members == nil) != (want != "") {
			t.Errorf("%q: got %q and %v, want %q", text, got, members, want)
		}
	}
}
