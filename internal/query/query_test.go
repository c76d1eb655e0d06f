package query

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ raw, want, problem string }{
		{"", "", ""},
		{"&&", "", ""},
		{"a=1&b=x+y%20z", "a=1&b=x+y+z", ""},
		{"a=&b&c=1", "c=1", ""},
		{"a=1&a=2&a=", "a=1&a=2", ""},
		{"p%61ge=2", "page=2", ""},
		{"search=%3B%25", "search=%3B%25", ""},
		{"search=100%", "", `"search" contains a %`},
		{"search=%zz", "", `"search" contains a %`},
		{"a=1&%zz=1", "", `name of the query parameter "%zz"`},
		{"a=1;b=2", "", `"a" contains a semicolon`},
		{";", "", "semicolon"},
		{"a;b", "", "semicolon"},
		{"search=%ff", "", `"search" is not valid UTF-8`},
		{"search=\xff", "", `"search" is not valid UTF-8`},
		{"search=a%00b", "", `"search" contains a NUL`},
		{"%00=a", "", "contains a NUL"},
		{strings.Repeat("n", 1000) + "=%zz", "", `nnn"...`},
	} {
		got, err := Parse(tt.raw)
		var e Error
		if tt.problem != "" && (!errors.As(err, &e) || !strings.Contains(err.Error(), tt.problem) || len(err.Error()) > 300) {
			t.Errorf("%q: got %v, %v; want an error with %s", tt.raw, got, err, tt.problem)
		}
		if tt.problem == "" && (err != nil || got.Encode() != tt.want) {
			t.Errorf("%q: got %v, %v; want %s", tt.raw, got, err, tt.want)
		}
	}
}

// FuzzParse compares with net/url: what Parse accepts, net/url reads without an error and in the same
// way, but for empty values.
func FuzzParse(f *testing.F) {
	for _, raw := range []string{"a=1&b=2", "a=%zz", "a;b", "a=%00", "a=&a=1", "a=+%2b", "%ff"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := Parse(raw)
		want, wantErr := url.ParseQuery(raw)
		if wantErr != nil && err == nil {
			t.Fatalf("%q: got %v, but net/url says %v", raw, got, wantErr)
		}
		if err != nil {
			return
		}
		for name, values := range want {
			kept := []string{}
			for _, v := range values {
				if v != "" {
					kept = append(kept, v)
				}
			}
			if strings.Join(got[name], "\n") != strings.Join(kept, "\n") {
				t.Fatalf("%q: got %v, want %v", raw, got, want)
			}
		}
	})
}

func TestOnce(t *testing.T) {
	values := url.Values{"a": {"1"}, "b": {"1", "2"}, "c": {"3"}}
	if got, err := Once(values, "a", "c", "d"); err != nil || got.Encode() != "a=1&c=3" {
		t.Errorf("got %v, %v; want a and c", got, err)
	}
	if got, err := Once(values, "a", "b"); err == nil || !strings.Contains(err.Error(), `"b" appears 2 times`) {
		t.Errorf("got %v, %v; want an error about b", got, err)
	}
	if got, err := Once(nil, "a"); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v; want nothing", got, err)
	}
}
