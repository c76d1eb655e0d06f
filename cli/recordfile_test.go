package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"latchkey/internal/strictjson"
)

const recordSample = `# keys
[[owner]]
name = "acme"

[owner.limits]
owner_requests_per_minute_limit = 5

[[key]]
ref = "a"
name = """
[[key]]
two lines"""
allowed_ips = [
  "192.0.2.0/24", # ]
  "192.0.2.1",
]
limits.requests_per_minute_limit = 5
metadata = { "a.b" = "c" }
expires_at = 2036-01-31T01:00:00+01:00

  [[ key ]] # another
  "ref" = 'b'
  paused = true
`

func TestRecordFile_Read(t *testing.T) {
	f := readRecordFile([]byte(recordSample))
	if len(f.faults) > 0 {
		t.Fatalf("got the mistakes %v", f.faults)
	}
	want := map[string]any{
		"owners": []any{map[string]any{"name": "acme", "limits": map[string]any{"owner_requests_per_minute_limit": int64(5)}}},
		"keys": []any{
			map[string]any{
				"ref": "a", "name": "[[key]]\ntwo lines", "allowed_ips": []any{"192.0.2.0/24", "192.0.2.1"}, "limits": map[string]any{"requests_per_minute_limit": int64(5)},
				"metadata": map[string]any{"a.b": "c"}, "expires_at": "2036-01-31T00:00:00Z",
			},
			map[string]any{"ref": "b", "paused": true},
		},
	}
	if !reflect.DeepEqual(f.members, want) {
		t.Errorf("got %v, want %v", f.members, want)
	}
	for place, line := range map[recordPlace]int{
		{"owner", 1, ""}: 2, {"owner", 1, "name"}: 3, {"owner", 1, "limits"}: 5, {"owner", 1, "limits.owner_requests_per_minute_limit"}: 6, {"owner", 1, "limits.other"}: 5,
		{"key", 1, ""}: 8, {"key", 1, "ref"}: 9, {"key", 1, "name"}: 10, {"key", 1, "allowed_ips"}: 13, {"key", 1, "limits.requests_per_minute_limit"}: 17,
		{"key", 1, "metadata"}: 18, {"key", 1, "owner"}: 8, {"key", 2, ""}: 21, {"key", 2, "ref"}: 22, {"key", 2, "paused"}: 23, {"token", 1, "name"}: 1,
	} {
		if got := f.lineOf(place); got != line {
			t.Errorf("%v is on line %d, want %d", place, got, line)
		}
	}
	if f := readRecordFile([]byte("webhook = []\nkey = [{ref = \"a\"}]\n")); !reflect.DeepEqual(f.members, map[string]any{"webhooks": []any{}, "keys": []any{map[string]any{"ref": "a"}}}) {
		t.Errorf("tables in arrays: got %v", f.members)
	}
}

// Every mistake is named at once with its line: those of the file and those that the server finds.
func TestRecordFile_Mistakes(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		rows []RefusedRow
		want []string
	}{
		"no TOML":       {text: "[[key]]\nref = \n", want: []string{"f.toml:2: this is not valid TOML"}},
		"ends too soon": {text: "[[key]]\nref = \"\"\"\n", want: []string{"f.toml:2: this is not valid TOML"}},
		"other tables":  {text: "[[key]]\nref = \"a\"\n[[kye]]\n[token]\nname = \"t\"\n", want: []string{"f.toml:3: there is no table kye", "f.toml:4: token must be written as [[token]]"}},
		"values": {text: "[[key]]\nexpires_at = 2027-01-31\n[[owner]]\nrate = inf\nbalance = nan\n",
			want: []string{"f.toml:2: key 1: expires_at needs a time with a zone", "f.toml:4: owner 1: rate must be a finite number", "f.toml:5: owner 1: balance must be"}},
		"of the server": {text: "[[key]]\nname = \"k\"\nexpires_at = 2027-01-31\n[[key]]\nlimits = { a = 1 }\n",
			rows: []RefusedRow{{Kind: "key", Row: 2, Field: "limits.a", Message: "wrong\x1b"}, {Kind: "key", Row: 1, Message: "no ref"}, {Kind: "key", Row: 1, Field: "expires_at", Message: "is missing"}},
			want: []string{"f.toml:1: key 1: no ref", "f.toml:3: key 1: expires_at needs", "f.toml:5: key 2: wrong?"}},
	} {
		t.Run(name, func(t *testing.T) {
			var refusal error
			if tt.rows != nil {
				refusal = &ClientError{Status: 400, Rows: tt.rows}
			}
			err := readRecordFile([]byte(tt.text)).refused("f.toml", refusal)
			if err == nil {
				t.Fatal("got no error")
			}
			lines := strings.Split(err.Error(), "\n")[1:]
			if len(lines) != len(tt.want) {
				t.Fatalf("got %q, want %d lines", lines, len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got %q, want %q", lines[i], want)
				}
			}
		})
	}
	f, other := readRecordFile([]byte(recordSample)), errors.New("not reached")
	if err := f.refused("f.toml", other); !errors.Is(err, other) {
		t.Errorf("got %v, want the error of the request", err)
	}
	if err := f.refused("f.toml", nil); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

// What an export prints can be read again, whatever texts it has.
func TestRecordFile_Text(t *testing.T) {
	answer := map[string]any{
		"keys": []any{map[string]any{
			"ref": "a", "name": "quote \" back \\ tab \t line \n del \x7f nul \x00 esc \x1b <&> \u2028 \U0001f511", "limits": map[string]any{"n": 5.0, "with.dot": 6.0},
			"metadata": map[string]any{"": "empty", "a b": "", "\x7f": "del", "\"": "q"}, "paused": true, "rate": 0.25, "large": json.Number("100000000000000000000"), "list": []any{"x", "]"},
		}},
		"webhooks": []any{},
	}
	f := readRecordFile([]byte(recordFileText(answer)))
	got, err1 := strictjson.Encode(f.members["keys"])
	want, err2 := strictjson.Encode(answer["keys"])
	if err := errors.Join(err1, err2); err != nil || len(f.faults) > 0 || string(got) != string(want) {
		t.Errorf("got %s, %v, %v; want %s", got, f.faults, err, want)
	}
}

// A file is read without a panic, each mistake has a line of it, and what was read can be printed and read again.
func FuzzReadRecordFile(f *testing.F) {
	for _, text := range []string{recordSample, "", "[[key]]\n[[key]]\na=[{b=1},2]", "key=[[]]", "a.b.c=1\r\n[[key]]\r\n x = \"\"\"\r\n\"\"\"\r\n", "[[key.a]]\n[key.b]\nc=07:32:00", "[[key]]\nx=1e400"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file := readRecordFile([]byte(text))
		last := max(1, strings.Count(text, "\n")+1)
		for _, one := range file.faults {
			if one.line < 1 || one.line > last || one.text == "" {
				t.Errorf("the mistake %v is not in a file of %d lines", one, last)
			}
		}
		for place, line := range file.lines {
			if line < 1 || line > last {
				t.Errorf("%v is on line %d of %d", place, line, last)
			}
		}
		if err := file.refused("f", nil); (err != nil) != (len(file.faults) > 0) {
			t.Errorf("got %v with the mistakes %v", err, file.faults)
		}
		data, err := strictjson.Encode(file.members)
		if err != nil {
			t.Fatalf("it cannot be sent: %v", err)
		}
		var answer map[string]any
		if err := strictjson.Decode(data, &answer); err != nil {
			t.Fatal(err)
		}
		printed := recordFileText(answer)
		again := readRecordFile([]byte(printed))
		for _, fault := range again.faults {
			if !strings.Contains(fault.text, "not valid TOML") || len(file.members) == 0 {
				t.Fatalf("%s cannot be read again: %v", printed, fault)
			}
			var tables map[string]any
			t.Fatalf("%s cannot be read again: %v, %v", printed, fault, toml.Unmarshal([]byte(printed), &tables))
		}
		for member, rows := range answer {
			got := fmt.Sprint(again.members[member])
			if list := rows.([]any); len(list) > 0 && len(again.members[member].([]any)) != len(list) {
				t.Errorf("%s: got %s, want %v", member, got, rows)
			}
		}
	})
}
