package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"latchkey/tests/program"
)

// lostOutputs are standard outputs of a process that keep nothing: each starts
// the shell with one, which runs the rest.
func lostOutputs() map[string]string {
	all := map[string]string{"closed descriptor": `"$@" >&-`, "nothing writable": `"$@" >&- 2>&-`}
	if runtime.GOOS == "linux" {
		all["full disk"], all["full disk for both"] = `"$@" >/dev/full`, `"$@" >/dev/full 2>/dev/full`
	}
	return all
}

// TestProgram_LostSecret has the real program print secrets to where they are
// lost, and follows what it says.
func TestProgram_LostSecret(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("there is no /bin/sh")
	}
	data := filepath.Join(t.TempDir(), "data")
	program.Serve(t, data)
	made, _, _ := program.Run(t, "keys", "create", "--data", data, "--name", "first", "--permission", "can_read_calls", "--json")
	id := regexp.MustCompile(`key_[0-9a-f]+`).FindString(made)
	if id == "" {
		t.Fatalf("got %q, want a key", made)
	}
	gone, sink, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	outputs := lostOutputs()
	outputs["closed pipe"] = `"$@"`
	for _, tt := range []struct {
		args []string
		want string // on standard error, an expression
	}{
		{[]string{"keys", "create", "--name", "ci", "--permission", "can_read_calls"}, `secret of the key (key_\w+) \(ci\).*\n.*latchkey keys rotate key_\w+\n.*latchkey keys revoke key_\w+\n$`},
		{[]string{"keys", "rotate", id, "--overlap", "0"}, `secret of the key ` + id + ` \(first\).*\n.*latchkey keys rotate ` + id + ` --overlap 0\n$`},
		{[]string{"webhooks", "create", "--name", "w", "--target", "https://hooks.example.net/x", "--event", "call.ended"}, `secret of the webhook \d+ \(w\).*\n.*latchkey webhooks delete \d+\n$`},
		{[]string{"admin", "token", "create", "--name", "t"}, `secret of the admin token \d+ \(t\).*\n.*latchkey admin token revoke \d+\n$`},
		{[]string{"admin", "setup-link"}, `the set-up link.*\n.*latchkey admin setup-link\n$`},
		{[]string{"admin", "invite", "--name", "i", "--role", "viewer"}, `secret of the invitation \d+ \(i\).*\n.*latchkey admin invite --name NAME --role ROLE\n$`},
	} {
		for name, script := range outputs {
			c := program.Command(t, slices.Concat(tt.args, []string{"--data", data})...)
			shell := exec.Command("/bin/sh", slices.Concat([]string{"-c", script, "sh"}, c.Args)...)
			var errs bytes.Buffer
			shell.Env, shell.Stderr = c.Env, &errs
			if name == "closed pipe" {
				shell.Stdout = sink
			}
			_ = shell.Run()
			if exit := shell.ProcessState.ExitCode(); exit != 1 {
				t.Errorf("%v, %s: exit %d, %s; want 1", tt.args[:2], name, exit, errs.String())
			}
			silent := name == "nothing writable" || name == "full disk for both"
			if !silent && !regexp.MustCompile(tt.want).MatchString(errs.String()) {
				t.Errorf("%v, %s: got %q, want %q", tt.args[:2], name, errs.String(), tt.want)
			}
		}
	}
	list := program.Command(t, "keys", "list", "--data", data)
	var errs bytes.Buffer
	list.Stdout, list.Stderr = sink, &errs
	if _ = list.Run(); list.ProcessState.ExitCode() != 1 || errs.Len() > 0 {
		t.Errorf("a list to a closed pipe: %v, %q; want exit code 1 and no word", list.ProcessState, errs.String())
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	thrown := program.Command(t, "keys", "rotate", id, "--overlap", "0", "--data", data)
	if thrown.Stdout = null; thrown.Run() != nil {
		t.Errorf("a secret that is thrown away on purpose: %v, want exit code 0", thrown.ProcessState)
	}
}

// TestProgram_LostDemo starts a demo whose key nobody can read.
func TestProgram_LostDemo(t *testing.T) {
	c := program.Command(t, "serve", "--demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	gone, sink, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	c.Stdout, c.Stderr = sink, &errs
	if _ = c.Run(); c.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "the key and the password of the demo could not be printed") {
		t.Errorf("got %v, %s; want exit code 1 and why", c.ProcessState, errs.String())
	}
}
