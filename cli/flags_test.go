package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"
)

// commandTry runs commands and counts what they ask for.
type commandTry struct {
	t      *testing.T
	asked  int    // number of configurations that were loaded and requests that were sent
	server string // URL of a server
}

// newCommandTry returns a commandTry with a server that refuses every request.
func newCommandTry(t *testing.T) *commandTry {
	try := &commandTry{t: t}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		try.asked++
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(server.Close)
	try.server = server.URL
	return try
}

// run runs a command and returns its exit code and its messages.
func (try *commandTry) run(args ...string) (exit int, stdout, stderr string) {
	var out, errs bytes.Buffer
	exit = Run(context.Background(), append([]string{"latchkey"}, args...), try.environment(&out, &errs))
	return exit, out.String(), errs.String()
}

// environment returns an environment whose configuration cannot be loaded.
func (try *commandTry) environment(out, errs *bytes.Buffer) Environment {
	return Environment{Stdin: strings.NewReader(""), Stdout: out, Stderr: errs, Words: testWords(), Load: func(string, map[string]string) (Service, error) {
		try.asked++
		return nil, errors.New("not loaded")
	}}
}

// commands calls visit for each command that does something.
func (try *commandTry) commands(visit func(c *cli.Command, name string)) {
	var walk func(c *cli.Command, words []string)
	walk = func(c *cli.Command, words []string) {
		for _, sub := range c.Commands {
			walk(sub, append(slices.Clone(words), sub.Name))
		}
		if len(c.Commands) == 0 {
			visit(c, strings.Join(words, " "))
		}
	}
	walk(Tree(try.environment(&bytes.Buffer{}, &bytes.Buffer{})), nil)
}

// set returns the arguments that set a flag, or the argument that a flagRule names.
func (try *commandTry) set(flags []cli.Flag, name string) []string {
	try.t.Helper()
	for _, flag := range flags {
		if flag.Names()[0] != name {
			continue
		}
		switch flag.(type) {
		case *cli.BoolFlag:
			return []string{"--" + name}
		case *cli.IntFlag:
			return []string{"--" + name, "1"}
		}
		if name == "url" {
			return []string{"--url", try.server}
		}
		return []string{"--" + name, "a=1"}
	}
	switch name {
	case "FILE", "PATH":
		return []string{"some.json"}
	case "-":
		return []string{"-"}
	}
	if strings.HasPrefix(name, ".") {
		return []string{"some" + name}
	}
	try.t.Errorf("a rule names %q, which is no flag", name)
	return nil
}

// TestFlags_WithoutEffect walks all flags of all commands: each is independent or in a rule of
// flagTable, and each combination that a rule excludes is refused before anything is asked for.
func TestFlags_WithoutEffect(t *testing.T) {
	t.Setenv("LATCHKEY_ADMIN_TOKEN", "")
	try, table, tried := newCommandTry(t), flagTable(), 0
	try.commands(func(c *cli.Command, name string) {
		use, ok := table[name]
		if !ok {
			t.Errorf("%s is not in flagTable", name)
			return
		}
		delete(table, name)
		root := Tree(try.environment(&bytes.Buffer{}, &bytes.Buffer{})).Flags
		flags := slices.Concat(c.Flags, root)
		known := "url json version help " + use.independent + " " + use.place.independent()
		for _, rule := range use.all() {
			known += " " + rule.flags
		}
		for _, flag := range flags {
			if !slices.Contains(strings.Fields(known), flag.Names()[0]) {
				t.Errorf("%s --%s is in no rule and not independent", name, flag.Names()[0])
			}
		}
		for word := range strings.FieldsSeq(use.independent) {
			args := slices.Concat(strings.Fields(name), try.set(flags, word))
			if c.ArgsUsage != "" {
				args = append(args, "1")
			}
			if _, _, errs := try.run(args...); strings.Contains(errs, "no effect") {
				t.Errorf("%s: %s, want --%s to be independent", args, errs, word)
			}
		}
		refuse := func(flag string, others []string, says ...string) {
			t.Helper()
			args := slices.Concat(strings.Fields(name), try.set(flags, flag), others)
			if c.ArgsUsage != "" && c.ArgsUsage != "[FILE]" && !slices.ContainsFunc(others, func(a string) bool { return a == "-" || strings.HasPrefix(a, "some") }) {
				args = append(args, "1")
			}
			tried++
			try.asked = 0
			exit, out, errs := try.run(args...)
			for _, text := range append(says, "--"+flag+" has no effect", "Try: latchkey "+name+" --help") {
				if !strings.Contains(errs, text) {
					t.Errorf("%s: got %q, want %q in it", args, errs, text)
				}
			}
			if exit != 2 || out != "" || try.asked != 0 {
				t.Errorf("%s: exit %d, %q, asked for %d things; want 2 and nothing asked for", args, exit, out, try.asked)
			}
		}
		for _, rule := range use.all() {
			for flag := range strings.FieldsSeq(rule.flags) {
				for other := range strings.FieldsSeq(rule.excludes) {
					refuse(flag, try.set(flags, other), "leave out one of the two")
				}
				if rule.excludes != "" {
					continue
				}
				refuse(flag, nil, "leave")
				for other := range strings.FieldsSeq(rule.needs) {
					if _, _, errs := try.run(slices.Concat(strings.Fields(name), try.set(flags, flag), try.set(flags, other))...); strings.Contains(errs, "without") {
						t.Errorf("%s --%s with %s: %s", name, flag, other, errs)
					}
				}
			}
		}
	})
	for name := range table {
		t.Errorf("flagTable has %s, which is no command", name)
	}
	if tried < 200 {
		t.Errorf("tried %d combinations, want those of all commands", tried)
	}
	if exit, _, errs := try.run("--version", "--url", try.server); exit != 2 || !strings.Contains(errs, "--url has no effect") {
		t.Errorf("--version with --url: exit %d, %s", exit, errs)
	}
}

// TestFlags_Environment has variables that are set for all commands: they are no mistake where they
// have no effect, and a flag that they make useless is.
func TestFlags_Environment(t *testing.T) {
	try := newCommandTry(t)
	for name, value := range map[string]string{"LATCHKEY_URL": try.server, "LATCHKEY_CONFIG": "/nowhere.toml", "LATCHKEY_ADMIN_TOKEN_FILE": "/nowhere", "LATCHKEY_CA": "/nowhere.pem"} {
		t.Setenv(name, value)
	}
	for _, name := range []string{"version", "man", "--version", "config check", "keys list", "healthcheck"} {
		if exit, _, errs := try.run(strings.Fields(name)...); exit == 2 {
			t.Errorf("%s: %s", name, errs)
		}
	}
	if exit, _, errs := try.run("keys", "list", "--data", "d"); exit != 2 || !strings.Contains(errs, "--data has no effect with --url, which LATCHKEY_URL sets") {
		t.Errorf("exit %d, %s", exit, errs)
	}
}

// TestFlags_Arguments calls every command that accepts no argument with one.
func TestFlags_Arguments(t *testing.T) {
	try := newCommandTry(t)
	try.commands(func(c *cli.Command, name string) {
		if c.ArgsUsage != "" {
			return
		}
		try.asked = 0
		want := fmt.Sprintf("unknown argument %q\nTry: latchkey %s --help", "extra", name)
		if exit, _, errs := try.run(append(strings.Fields(name), "extra")...); exit != 2 || !strings.Contains(errs, want) || try.asked != 0 {
			t.Errorf("%s: exit %d, %q, want 2 and %q", name, exit, errs, want)
		}
	})
}
