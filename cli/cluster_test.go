package cli

import (
	"bytes"
	"strings"
	"testing"
)

func TestQuestion_Ask(t *testing.T) {
	for typed, want := range map[string]bool{"b\n": true, " b \r\n": true, "b": true, "\n": false, "": false, "y\n": false, "bb\n": false} {
		var out bytes.Buffer
		err := question{text: "Type b: ", want: "b", refused: "not typed"}.ask(strings.NewReader(typed), &out)
		if (err == nil) != want || out.String() != "Type b: " || err != nil && err.Error() != "not typed" {
			t.Errorf("%q: got %v, %q", typed, err, out.String())
		}
	}
}

func TestClusterInit_Report(t *testing.T) {
	for _, tt := range []struct {
		made ClusterInit
		want string
	}{
		{ClusterInit{Pepper: "/x/pepper"}, "Copy the pepper file /x/pepper to each node, with the mode 0600."},
		{ClusterInit{}, "in LATCHKEY_KEYS_PEPPER"},
		{ClusterInit{Restored: true}, "All logins to the dashboard were ended."},
		{ClusterInit{Restored: true, Held: true}, "latchkey webhooks release"},
	} {
		if text := tt.made.report(); !strings.Contains(text, tt.want) || !strings.Contains(text, "latchkey serve") {
			t.Errorf("got %q, want %q", text, tt.want)
		}
	}
}
