package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"
)

// TestHelp_Width prints the help of every command: no line has more than 80 columns, no word is lost,
// and a line that the description breaks is not broken again.
func TestHelp_Width(t *testing.T) {
	try, shown := newCommandTry(t), 0
	var walk func(c *cli.Command, words []string)
	walk = func(c *cli.Command, words []string) {
		for _, sub := range c.Commands {
			walk(sub, append(slices.Clone(words), sub.Name))
		}
		exit, out, errs := try.run(append(slices.Clone(words), "--help")...)
		if exit != 0 {
			t.Fatalf("%q: exit %d, %s", words, exit, errs)
		}
		shown++
		for line := range strings.Lines(out) {
			if line = strings.TrimSuffix(line, "\n"); len(line) > 80 || strings.TrimRight(line, " ") != line {
				t.Errorf("%q: %d columns in %q", words, len(line), line)
			}
		}
		for line := range strings.Lines(c.Description) {
			if line = strings.TrimSpace(line); !strings.Contains(out, line+"\n") {
				t.Errorf("%q: the help has no line %q", words, line)
			}
		}
		for _, flag := range c.Flags {
			usage := strings.Join(strings.Fields(strings.ReplaceAll(flag.(cli.DocGenerationFlag).GetUsage(), "`", "")), " ")
			if !strings.Contains(strings.Join(strings.Fields(out), " "), usage) {
				t.Errorf("%q: the help has no %q", words, usage)
			}
		}
	}
	walk(Tree(Environment{}), nil)
	if shown < 60 {
		t.Errorf("got the help of %d commands, want all", shown)
	}
}
