package strictjson

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"
)

func TestObject(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                  "",
		`{"a": {"b": 1}, "c": [{"b":2}]}`:     "",
		`{"a": [{"b": 1}, {"b": 2}]}`:         "",
		`{"a": 1, "a": 2}`:                    `The name "a" appears twice in one object.`,
		`{"a": {"b": 1, "\u0062": 2}}`:        `The name "b" appears twice in one object.`,
		`[1]`:                                 `The body must be a JSON object, such as {"name": "value"}.`,
		`null`:                                `The body must be a JSON object, such as {"name": "value"}.`,
		`{"a": 1} {}`:                         "The body is not valid JSON at character 10. Send one JSON object in UTF-8.",
		`{"phone_number": "+49",}`:            "The body is not valid JSON at character 24. Send one JSON object in UTF-8.",
		"{\"a\": \"\u00e9\u00e9\",\n 'b': 1}": "The body is not valid JSON at character 2 of line 2. Send one JSON object in UTF-8.",
		`a=1`:                                 "The body is not valid JSON at character 1. Send one JSON object in UTF-8.",
		`{"a": [1, 2`:                         "The body is not valid JSON: it ends before it is complete. Send one JSON object in UTF-8.",
		" \n":                                 "The body is empty. Send one JSON object in UTF-8.",
		"\xff\xfe{\x00}\x00":                  "The body is UTF-16 and not valid UTF-8. Convert it to UTF-8.",
		"{\"a\": \xff\"\"}":                   "The body is not valid UTF-8.",
		"{\"a\": \"\xff\"}":                   "a is not valid UTF-8.",
		"{\"a\": [1, {\"b\": \"\xff\"}]}":     "a[1].b is not valid UTF-8.",
		"{\"\xff\": 1}":                       "A name in the body is not valid UTF-8.",
		`{"a": {"\ud800": 1, "\ud801": 2}}`:   `A name in a is not valid UTF-8: \ud800 is half of a surrogate pair.`,
		`{"a": "x\ud83d"}`:                    `a is not valid UTF-8: \ud83d is half of a surrogate pair.`,
		`{"a": "\ud83d\\udc00"}`:              `a is not valid UTF-8: \ud83d is half of a surrogate pair.`,
		`{"a": "\udc00\ud83d"}`:               `a is not valid UTF-8: \udc00 is half of a surrogate pair.`,
		`{"a": "\ud83d\ud83d\ude00"}`:         `a is not valid UTF-8: \ud83d is half of a surrogate pair.`,
		`{"a": "\ud83d\ude00\\ud83d\ufffd\u00e9 \" \uE000"}`:                               "",
		`{"a": "\\\\u0000\u0001"}`:                                                         "",
		`{"a": "\\\u0000"}`:                                                                "a contains a NUL character. Remove it.",
		`{"a": [0, -0, 1E5, 1.0, 12345678901234567890, 1e-999, 1.79e308]}`:                 "",
		`{"a": {"b": [0, 1e999]}}`:                                                         "a.b[1] is out of the range of numbers, up to 1.79e308 in size; got 1e999. Send it as a string.",
		`{"a": -1e400}`:                                                                    "a is out of the range of numbers, up to 1.79e308 in size; got -1e400. Send it as a string.",
		`{"a": 0.` + strings.Repeat("1", MaxNumber-2) + `}`:                                "",
		`{"a": 0.` + strings.Repeat("1", MaxNumber-1) + `}`:                                "a is a number of 401 characters; the maximum is 400. Send a longer one as a string.",
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

// A number keeps its spelling from Value to Encode.
func TestValue(t *testing.T) {
	const text = `{"a":[0,-0,1E5,1.0,12345678901234567890,0.1000000000000000055511151231257827,1e-999]}`
	v, err := Value([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Encode(v); string(again) != text || err != nil {
		t.Errorf("got %s %v, want %s", again, err, text)
	}
	for _, bad := range []string{`{"a": 1} 2`, "", `"\ud800"`, "[1e999]"} {
		if v, err := Value([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, v)
		}
	}
	if err := Decode([]byte("1 2"), new(any)); err == nil {
		t.Error("Decode takes two values")
	}
}

func TestEncode(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  string
	}{
		{map[string]any{"a": "\ufffd é \\ufffd \\\\ufffd"}, ""},
		{map[string]any{"a": json.Number("1e999")}, ""},
		{map[string]any{"a": []string{"x", "M\xfcller"}}, "a[1] is not valid UTF-8."},
		{map[string]any{"metadata": map[string]any{"b\xff": "x"}}, "A name in metadata is not valid UTF-8."},
		{"\xff", "The value is not valid UTF-8."},
	} {
		got := ""
		if _, err := Encode(tt.value); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.value, got, tt.want)
		}
	}
}

func TestIsNumber(t *testing.T) {
	for text, want := range map[string]bool{"0": true, "-0": true, "1E5": true, "12345678901234567890": true, "1.0": true,
		"": false, "-": false, "+1": false, ".5": false, "5.": false, "01": false, "0x1": false, "NaN": false, "Inf": false, "1e999": false, " 1": false, "1 ": false, "true": false, "[1]": false} {
		if IsNumber(text) != want {
			t.Errorf("%q: got %t", text, !want)
		}
	}
}

// Decode returns the same with and without the types of Go that decodePlain knows.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		`{"a": {"b": [1, -0.5e+10, true, false, null, "x\u00e9\ud83d\ude00", "\n"]}, "a": [], "": {}}`, " [ ] ", `"\ud800"`, `"` + "\xff\xc3" + `"`, "1 2", `{"a"}`, `[1,]`, `{"a":1,}`, `{,}`, "01", "1.", "-", "+1", "1e", "nul",
		"\"\x01\"", `"a`, `"a\`, `"\x"`, strings.Repeat("[", 100) + strings.Repeat("]", 100), "", "{} x", `[1 2]`, `{"a" 1}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		type plain any // not known to decodePlain
		var want plain
		wantErr := Decode(data, &want)
		var got any
		if err := Decode(data, &got); (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, any(want)) {
			t.Errorf("%q: got %#v %v, want %#v %v", data, got, err, want, wantErr)
		}
		if wantErr != nil {
			return
		}
		var members map[string]any
		err := Decode(data, &members)
		if object, is := want.(map[string]any); is && (err != nil || !reflect.DeepEqual(members, object)) {
			t.Errorf("%q: got %#v %v, want %#v", data, members, err, object)
		}
	})
}

// A page of the dashboard decodes the rows of a list: the map and what is in it is all that is allocated.
func TestDecode_Allocations(t *testing.T) {
	data := []byte(`{"rows": [` + strings.Repeat(`{"id": "key_1", "name": "one", "n": 12, "yes": true, "none": null, "inner": {"a": "b"}}, `, 99) + `{"id": "key_2"}]}`)
	got := testing.AllocsPerRun(20, func() {
		var v map[string]any
		if err := Decode(data, &v); err != nil {
			t.Fatal(err)
		}
	})
	if most := 100.0 * 9; got > most {
		t.Errorf("got %v allocations for 100 rows, want at most %v", got, most)
	}
}

// What isClean accepts, the full check accepts too, and an ordinary body is clean.
func FuzzClean(f *testing.F) {
	for _, text := range []string{
		`{"key": "lk_1", "cost": 1, "limits": {"a": [1, -2.5, true, false, null]}, "empty": {}, "list": []}`, ` "x" `, `{"a": 1, "a": 2}`, `{"a": 1,}`, `{,}`, `[1,]`, `[`, `{"a"`, `{"a":`, "01", "1.", "-", ".5", "--1", "1-2", "nul", "\"\x01\"", `"\u0000"`,
		`"` + "\xff" + `"`, "1 2", "", " ", strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), "123456789012345678", "1e999",
		"\xff\xfe{\x00}\x00", `{"` + strings.Repeat(`x": 1, "y`, 20) + `": 1}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if isClean(string(data)) {
			if err := checkAll(data); err != nil {
				t.Errorf("%q is called clean, but: %v", data, err)
			}
		}
	})
}

func TestClean(t *testing.T) {
	for text, want := range map[string]bool{
		`{"agent_id": "1", "phone_number": "+4930123456", "custom_variables": {"n\u00e4me": ["x", 1.5, true, null]}}`: false, `{"a": "Jürgen", "n": [0, -1.25], "e": {}, "l": []} `: true,
		`{"a": 1, "a": 2}`: false, `[1e5]`: false, `["a", ]`: false, "": false, "{}": true, strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1): false,
	} {
		if got := isClean(text); got != want {
			t.Errorf("%s: got %t, want %t", text, got, want)
		}
	}
	data := []byte(`{"key": "lk_live_0123456789abcdef", "permission": "can_read_calls", "cost": 2}`)
	if got := testing.AllocsPerRun(100, func() {
		if err := check(data); err != nil {
			t.Fatal(err)
		}
	}); got > 1 {
		t.Errorf("got %v allocations, want at most 1", got)
	}
}

// Text and Texts read what encoding/json reads, or leave it to that.
func TestText(t *testing.T) {
	for text, easy := range map[string]bool{
		`"a"`: true, `""`: true, "\"\u00e4 b\"": true, `"a\n"`: false, `"\""`: false, `null`: false, `1`: false, `true`: false, `{"a": "b"}`: false, "\"\xff\"": false,
		`[]`: true, `[ ]`: true, `["a"]`: true, `[ "a" , "" ]`: true, "[\"\u00e4\",\n\"b\"]": true, `["a",1]`: false, `["a",null]`: false, `["a","\u0041"]`: false,
		`[["a"]]`: false, "[\"\xff\"]": false,
	} {
		var one string
		var many []string
		oneErr, manyErr := json.Unmarshal([]byte(text), &one), json.Unmarshal([]byte(text), &many)
		gotOne, okOne := Text([]byte(text))
		gotMany, okMany := Texts([]byte(text))
		if (okOne || okMany) != easy || okOne && (oneErr != nil || gotOne != one) || okMany && (manyErr != nil || !reflect.DeepEqual(gotMany, many)) {
			t.Errorf("%q: got %q %v and %q %v, want %q %v or %q %v", text, gotOne, okOne, gotMany, okMany, one, oneErr, many, manyErr)
		}
	}
}

// The members of a usual object share the memory of the text, and are what encoding/json reads.
func TestObject_Members(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"a": 1}`, ` { "a" : [1, {"b": "x"}] , "c":null,"d":{"e":{"f":[]}} } `, `{"a":"\u0041"}`, `{"a": 1e5}`, `{"": ""}`, `{"ä": "ä"}`,
		`{"1":1,"2":2,"3":3,"4":4,"5":5,"6":6,"7":7,"8":8,"9":9,"10":10,"11":11,"12":12,"13":13,"14":14,"15":15,"16":16,"17":17}`,
	} {
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		got, err := Object([]byte(text))
		if err != nil || !maps.EqualFunc(got, want, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Errorf("%s: got %s %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{`{"a": 1, "a": 2}`, `{"a": 1} {}`, `{"a": 1`, `[1]`, `null`, `{"a": {"b": 1, "b": 2}}`, "{\"a\": \"\xff\"}", `{"a": 01}`} {
		if got, err := Object([]byte(text)); err == nil {
			t.Errorf("%s: got %s, want an error", text, got)
		}
	}
}
