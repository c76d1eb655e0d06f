package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCommands_Events makes, lists and cancels an event, and makes a context
// variable, with the real program.
func TestCommands_Events(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	serveReal(t, data)
	for _, tt := range []struct {
		args []string
		exit int
		want string // in what is printed
	}{
		{[]string{"events", "create", "--title", "Fitting", "--start", "2036-03-02T09:00:00+01:00", "--end", "2036-03-02T09:45:00+01:00", "--owner", "ann"}, 0, "2036-03-02T08:00:00.000Z"},
		{[]string{"events", "create", "--title", "Fitting", "--start", "tomorrow", "--end", "2036-03-02T09:45:00+01:00"}, 1, "start_time must be"},
		{[]string{"events", "create"}, 2, "--title is needed"},
		{[]string{"events", "list"}, 0, "TITLE"},
		{[]string{"events", "cancel", "1", "--reason", "ill"}, 0, "cancelled"},
		{[]string{"events", "cancel", "9"}, 1, "No such object"},
		{[]string{"variables", "create", "--name", "visits", "--display-name", "Visits", "--type", "number", "--context", "contact"}, 0, "visits"},
		{[]string{"variables", "list"}, 0, "preferred_language"},
		{[]string{"variables", "delete", "1"}, 1, "Built-in"},
	} {
		out, errs, exit := run(t, append(tt.args, "--data", data)...)
		if exit != tt.exit || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: exit %d, %s %s; want %d and %q", strings.Join(tt.args, " "), exit, out, errs, tt.exit, tt.want)
		}
	}
}
