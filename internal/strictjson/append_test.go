package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// encoded returns what Append must write for v.
func encoded(v any) (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(buf.String(), "\n"), err
}

// sample is an Appender, and writes the same with encoding/json.
type sample struct {
	At   time.Time `json:"at"`
	N    int       `json:"n"`
	OK   bool      `json:"ok"`
	Some any       `json:"some"`
	Text string    `json:"text"`
}

func (s *sample) AppendJSON(data []byte) ([]byte, error) {
	m := Begin(data)
	m.Time("at", s.At, "2006-01-02T15:04:05Z")
	m.Int("n", s.N)
	m.Bool("ok", s.OK)
	m.Value("some", s.Some)
	m.Text("text", s.Text)
	return m.End()
}

func TestAppend(t *testing.T) {
	text, number, yes := "a", 7, true
	var noText *string
	var noNumber *int
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, v := range []any{
		nil, true, false, &yes, "", "a\u00e9\u4e16", text, &text, noText, 1, -1, &number, noNumber, int64(math.MinInt64), uint64(math.MaxUint64), int32(3), float32(1.5),
		0.0, math.Copysign(0, -1), 1.5, -2.0, 1e-6, 9.9e-7, 1e20, 1e21, 123456789.125, math.MaxFloat64, math.SmallestNonzeroFloat64,
		"quote \" backslash \\ tab \t line \n null \x00 del \x7f", "<a href='x'>&amp;", "\u2028\u2029", "\ufffd", "bad \xff\xfe", "half \xc3",
		map[string]any{}, map[string]any(nil), map[string]any{"b": 1, "a": "x", "\u00e9": nil, "<": []any{1, "2", nil, map[string]any{"z": []string{}}}},
		map[string]string{"b": "1", "a\n": "\x01"}, map[string]int{"x": -1}, map[string]uint64{"x": math.MaxUint64}, map[string]string(nil),
		[]any{}, []any(nil), []string{"a", "\xff"}, []string(nil), []map[string]any{{"a": 1}, nil}, []map[string]any(nil), []int{1, 2}, map[int]string{2: "b", 1: "a"},
		json.Number("1e5"), json.RawMessage(`{"a": 1}`), at, struct {
			A string `json:"a,omitempty"`
			B *int
		}{"<", nil}, []byte("bytes"),
		&sample{at, -3, true, map[string]any{"x": "\u2028"}, "\"x\""}, []any{&sample{At: at}},
	} {
		want, wantErr := encoded(v)
		got, err := Append([]byte("before "), v)
		if string(got) != "before "+want || err != nil || wantErr != nil {
			t.Errorf("%#v: got %s %v, want %s %v", v, got, err, want, wantErr)
		}
	}
	if got, err := AppendList(nil, []sample{{At: at}, {At: at, Text: "x"}}); err != nil || !json.Valid(got) {
		t.Errorf("got %s %v", got, err)
	}
	if got, err := AppendList(nil, []sample(nil)); string(got) != "null" || err != nil {
		t.Errorf("got %s %v, want null", got, err)
	}
	if got, err := Append(nil, &sample{}); !strings.Contains(string(got), `"at":null`) || err != nil {
		t.Errorf("got %s %v, want null for no time", got, err)
	}
}

// What cannot be encoded is an error at any depth.
func TestAppend_Errors(t *testing.T) {
	bad := func() {}
	for _, v := range []any{bad, math.NaN(), math.Inf(1), []any{bad}, map[string]any{"a": bad}, []any{map[string]any{"a": []any{math.NaN()}}}, []map[string]any{{"a": bad}}, &sample{Some: bad}} {
		if got, err := Append(nil, v); err == nil {
			t.Errorf("%v: got %s, want an error", v, got)
		}
	}
	if _, err := AppendList(nil, []sample{{Some: bad}}); err == nil {
		t.Error("AppendList: got no error")
	}
	var unsupported *json.UnsupportedTypeError
	if _, err := Append(nil, []any{bad}); !errors.As(err, &unsupported) {
		t.Errorf("got %v, want the error of encoding/json", err)
	}
}

// The objects of a list of records cost no allocation.
func TestAppend_Allocations(t *testing.T) {
	text := "2026-03-01T12:00:00Z"
	row := any(map[string]any{"id": "key_1", "at": &text, "n": 1_000_000, "names": []string{"a", "b"}, "counts": map[string]int{"x": 1}, "none": nil, "inner": []any{map[string]any{"a": true}}})
	room := make([]byte, 0, 1<<10)
	if got := testing.AllocsPerRun(100, func() {
		if _, err := Append(room, row); err != nil {
			t.Fatal(err)
		}
	}); got > 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}

// Append writes the same as encoding/json for any JSON.
func FuzzAppend(f *testing.F) {
	for _, text := range []string{`{"b": [1, 2.5, 1e300, -0], "a": {"\u2028": "<\ud83d\ude00>", "": null}}`, `"\u0000\u001f\u007f"`, `[1e-7, 123456789012345678901234567890, true]`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var v any
		if json.Unmarshal([]byte(text), &v) != nil {
			v = text
		}
		want, wantErr := encoded(v)
		if got, err := Append(nil, v); string(got) != want || (err == nil) != (wantErr == nil) {
			t.Errorf("%q: got %s %v, want %s %v", text, got, err, want, wantErr)
		}
	})
}
