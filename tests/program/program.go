// Package program builds the program and drives it as a process, for tests: by
// its command line, over HTTP and over its control socket.
//
// In reading order: program.go (building it, running a command), server.go (a
// running server), client.go (its control socket), etcd.go (an etcd cluster), link.go (a
// network that fails), clocks_linux.go (wrong clocks). The package imports nothing of the program: what it knows, it knows from the
// documentation.
package program

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a process may take to start or to end.
const patience = time.Minute

// folder holds the built program for as long as the tests run.
var folder = filepath.Join(os.TempDir(), fmt.Sprintf("latchkey-test-%d-%s", os.Getpid(), rand.Text()[:8]))

// build and buildCluster return the program as it is, and as a node of a cluster. They build it once for all tests
// of a process, unless LATCHKEY_TEST_PROGRAM or LATCHKEY_TEST_CLUSTER has the path of a built program.
var (
	build        = sync.OnceValues(func() (string, error) { return buildWith("LATCHKEY_TEST_PROGRAM", "") })
	buildCluster = sync.OnceValues(func() (string, error) { return buildWith("LATCHKEY_TEST_CLUSTER", "cluster") })
)

// buildWith returns the path in an environment variable, or else builds the program with build tags.
func buildWith(variable, tags string) (string, error) {
	if built := os.Getenv(variable); built != "" {
		return built, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(folder, "latchkey"+tags)
	c := exec.Command("go", "build", "-tags", tags, "-o", path, "latchkey")
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// Main runs the tests of a package for its TestMain and returns the exit code.
// It is 1 also if goroutines are left after the tests, other than those of the
// functions endless, of libraries that do not end them.
func Main(m *testing.M, endless ...string) int {
	status := m.Run()
	_ = os.RemoveAll(folder) // if it was made: a fuzz worker or a single test may do without
	if status == 0 {
		status = leftOver(endless)
	}
	return status
}

// leftOver returns 1, and prints where they are, if goroutines are left: by then
// everything that the tests started has ended.
func leftOver(endless []string) int {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	// Pebble's validator has no end.
	ignored := []goleak.Option{goleak.IgnoreTopFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks")}
	for _, name := range endless {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	err := goleak.Find(ignored...)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
	return 1
}

// NotQuick skips a test under go test -short, which sh test.sh -quick runs. The
// helpers that start a browser, a proxy, a packaging tool or torture call it, so
// that tests need not.
func NotQuick(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -quick")
	}
}

// Long returns how many rounds a torture test runs: the number in an
// environment variable, or usual if it holds none.
func Long(t testing.TB, variable string, usual int) int {
	t.Helper()
	NotQuick(t)
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// ProgressFile returns the file from which a test that was interrupted goes on: the one with its name in the folder that
// LATCHKEY_TEST_PROGRESS names. It is "" without the variable.
func ProgressFile(t testing.TB) string {
	folder := os.Getenv("LATCHKEY_TEST_PROGRESS")
	if folder == "" {
		return ""
	}
	return filepath.Join(folder, t.Name())
}

// Rounds runs a torture test that takes hours in its long form: run with n of total, a round at a time, until all have passed
// or one has failed. The variable and usual are those of Long. How many have passed is kept in ProgressFile.
func Rounds(t *testing.T, variable string, usual, round int, run func(t *testing.T, n int)) {
	t.Helper()
	total, done, file := Long(t, variable, usual), 0, ProgressFile(t)
	text, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(text), &done)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("LATCHKEY_TEST_PROGRESS: %v", err)
	}
	for done < total {
		n := min(round, total-done)
		if !t.Run(fmt.Sprint("after ", done), func(t *testing.T) { run(t, n) }) {
			return
		}
		done += n
		if file != "" {
			if err := os.WriteFile(file, fmt.Append(nil, done), 0o600); err != nil {
				t.Fatalf("LATCHKEY_TEST_PROGRESS: %v", err)
			}
		}
	}
	t.Logf("%d of %d have passed", done, total)
}

// Path returns where the built program is.
func Path(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ClusterCommand is like Command, for the program that can be a node of a cluster.
func ClusterCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	NotQuick(t)
	path, err := buildCluster()
	if err != nil {
		t.Fatal(err)
	}
	c := Command(t, args...)
	c.Path, c.Args[0] = path, path
	return c
}

// Command returns a command of the program, with a home and an environment of
// its own.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(Path(t), args...)
	c.Env = []string{"PATH=/nowhere", "HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir()}
	if value, set := os.LookupEnv("LATCHKEY_SERVER_LEAN"); set {
		c.Env = append(c.Env, "LATCHKEY_SERVER_LEAN="+value) // all tests must pass with either value
	}
	return c
}

// Run runs a command of the program, which has to end within a minute, and
// returns what it printed and its exit code.
func Run(t testing.TB, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	return RunCommand(t, Command(t, args...))
}

// RunCommand is like Run, for a command that was not started yet.
func RunCommand(t testing.TB, c *exec.Cmd) (stdout, stderr string, exit int) {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	_ = c.Wait()
	if !late.Stop() {
		t.Fatalf("%v: still runs after %s: %s%s", c.Args[1:], patience, &out, &errs)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}
