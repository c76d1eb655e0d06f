package idlists

import (
	"fmt"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "map[]",
		" ; ":                                "map[]",
		"agents=8":                           "map[agents:[8]]",
		"agents=8,9 contacts=31":             "map[agents:[8 9] contacts:[31]]",
		"agents= 8, 9; contacts=31,agents=7": "map[agents:[8 9 7] contacts:[31]]",
		"agents=":                            "map[agents:[]]",
		"8":                                  `must be kinds with ids, such as agents=8,9 contacts=31; got "8"`,
		"=8":                                 `must be kinds with ids, such as agents=8,9 contacts=31; got "=8"`,
		"agents=x":                           `must be kinds with ids, such as agents=8,9 contacts=31; got "agents=x"`,
		"agents=8,-1":                        `must be kinds with ids, such as agents=8,9 contacts=31; got "-1"`,
		"agents 8":                           `must be kinds with ids, such as agents=8,9 contacts=31; got "agents"`,
	} {
		ids, err := Parse(text)
		got := fmt.Sprint(ids)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
