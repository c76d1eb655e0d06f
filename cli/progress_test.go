package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urfave/cli/v3"
)

// working runs a step of 100 records, one every period, and returns what is shown meanwhile.
func working(terminal bool, period time.Duration, total int64) string {
	var out bytes.Buffer
	s := &session{env: Environment{Stderr: &out}}
	w := s.startWork(context.Background(), &cli.Command{Name: "latchkey restore"})
	w.name, w.redraw = "restore", terminal
	for n := range int64(100) {
		_ = w.Report("copying records", n+1, total)
		time.Sleep(period)
	}
	w.end()
	return out.String()
}

func TestLongWork(t *testing.T) {
	for _, tt := range []struct {
		name     string
		terminal bool
		period   time.Duration
		total    int64
		lines    int // number of lines of the log; on a terminal of updates, at least
		says     string
	}{
		{"quick work with a log", false, 9 * time.Millisecond, 100, 0, ""},
		{"quick work on a terminal", true, 9 * time.Millisecond, 100, 0, ""},
		{"work of 9 s with a log", false, 90 * time.Millisecond, 100, 0, ""},
		{"work of 35 s with a log", false, 350 * time.Millisecond, 100, 3, "restore: copying records, 29 of 100, about 24s left for this step\n"},
		{"many records", false, 350 * time.Millisecond, 1234567, 3, " of 1,234,567, about "},
		{"an unknown number with a log", false, 350 * time.Millisecond, 0, 3, "restore: copying records, 10s so far\n"},
		{"work of 5 s on a terminal", true, 53 * time.Millisecond, 100, 10, "restore: copying records, 50 of 100, about "},
		{"time left on a terminal", true, 500 * time.Millisecond, 100, 10, "restore: copying records, 50 of 100, about 25s left for this step"},
		{"an unknown number on a terminal", true, 50 * time.Millisecond, 0, 10, "restore: copying records, 3s so far"},
	} {
		synctest.Test(t, func(t *testing.T) {
			out := working(tt.terminal, tt.period, tt.total)
			separator := "\n"
			if tt.terminal {
				separator = "restore: "
			}
			got := strings.Count(out, separator)
			if tt.terminal && tt.lines > 0 {
				got = min(got, tt.lines)
			}
			if got != tt.lines || !strings.Contains(out, tt.says) || strings.Contains(out, "\x1b") {
				t.Errorf("%s: got %q, want %d of %q with %q and no escape sequence", tt.name, out, tt.lines, separator, tt.says)
			}
			if last := out[strings.LastIndex(out, "\r")+1:]; tt.terminal && last != "" {
				t.Errorf("%s: %q is left on the line", tt.name, last)
			}
		})
	}
}

// TestStartWork has a terminal on which no line can be written over.
func TestStartWork(t *testing.T) {
	for _, environ := range [][]string{{"TERM=dumb"}, {"TERM=xterm"}} {
		var out bytes.Buffer
		w := (&session{env: Environment{Stderr: &out, Environ: environ}}).startWork(context.Background(), &cli.Command{Name: "compact"})
		w.end()
		if w.redraw {
			t.Errorf("%q: a line is written over though standard error is no terminal", environ)
		}
	}
}
