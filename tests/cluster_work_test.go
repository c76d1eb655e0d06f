//go:build unix

package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"latchkey/tests/program"
)

// TestCluster_Config starts two nodes with different limits. The list of nodes and the log say so, and no longer after a reload.
func TestCluster_Config(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	file := filepath.Join(c.home, "b.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[[limit]]\nname = \"requests_per_minute_limit\"\ndefault = 7\n")
	c.start("a")
	c.nodes["b"] = program.ServeCommand(c, c.command("b", "serve", "--config", file, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), c.folder("b"))
	c.await("b", http.StatusOK)
	eventually := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(); time.Sleep(200 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within a minute; a: %s b: %s", what, c.nodes["a"].Out.Tail(), c.nodes["b"].Out.Tail())
			}
		}
	}
	differ := func(want string) func() bool {
		return func() bool {
			list, errs, exit := program.RunCommand(t, c.command("a", "cluster", "nodes", "--json"))
			if exit != 0 {
				t.Fatalf("cluster nodes: exit %d, %s", exit, errs)
			}
			return strings.Count(list, `"config_differs": `+want) == 2
		}
	}
	eventually("both differ", differ("true"))
	if list, _, _ := program.RunCommand(t, c.command("a", "cluster", "nodes")); strings.Count(list, "differs") != 2 || !strings.Contains(list, "compare their configuration files") {
		t.Errorf("got %s", list)
	}
	eventually("the log of a warns", func() bool { return strings.Contains(c.nodes["a"].Out.String(), "has a different configuration") })
	write("")
	if _, errs, exit := program.RunCommand(t, c.command("b", "reload")); exit != 0 {
		t.Fatalf("reload: exit %d, %s", exit, errs)
	}
	eventually("both are the same after a reload", differ("false"))
}
