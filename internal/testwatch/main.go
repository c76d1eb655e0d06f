//go:build unix

// Command testwatch runs `go test -json` with the arguments that it is given
// and prints what a person needs of it: a line for each package with its time,
// the output of tests that fail, and the tests that took longest.
//
// A test that has said nothing and in which no subtest has begun or ended for
// -stuck is taken for a deadlock: testwatch ends it with SIGQUIT, so that the
// stacks of its goroutines are printed. Where the variable CI is set, a test
// that was skipped fails the run.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of what is built, for build-output
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// testID names a test, or a package if name is empty.
type testID struct{ pkg, name string }

// top returns the test of which the named one is a subtest.
func (id testID) top() testID {
	id.name, _, _ = strings.Cut(id.name, "/")
	return id
}

type finished struct {
	testID
	seconds float64
}

// watch follows one run. Its methods are safe for concurrent use.
type watch struct {
	out   io.Writer
	stuck time.Duration

	mu      sync.Mutex
	output  map[testID]string    // what a test, package or build has printed so far
	heard   map[testID]time.Time // when a running top-level test was last heard of
	counts  map[string]int       // ended tests by action: pass, fail, skip
	took    []finished           // top-level tests
	skipped []testID
}

func newWatch(out io.Writer, stuck time.Duration) *watch {
	return &watch{out: out, stuck: stuck, output: map[testID]string{}, heard: map[testID]time.Time{}, counts: map[string]int{}}
}

func main() {
	stuck := flag.Duration("stuck", 2*time.Minute, "end a test that shows no sign of life for this long; 0 for never")
	flag.Parse()
	os.Exit(run(os.Stdout, *stuck, flag.Args()))
}

func run(out io.Writer, stuck time.Duration, args []string) (code int) {
	w := newWatch(out, stuck)
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go test, the tests, and what they started
	lines, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(out, "testwatch:", err)
		return 1
	}
	done := make(chan struct{})
	go w.guard(done, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGQUIT) })
	w.read(lines)
	err = cmd.Wait()
	close(done)
	if failed := w.summarize(os.Getenv("CI") != ""); err != nil || failed {
		return 1
	}
	return 0
}

// read takes events until the input ends. A line that is no event is printed.
func (w *watch) read(lines io.Reader) {
	in := bufio.NewReader(lines)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(w.out, "%s", line)
			} else {
				w.take(e, time.Now())
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *watch) take(e event, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "output":
		w.output[id] += e.Output
		w.alive(id, now)
	case "build-output":
		w.output[testID{pkg: e.ImportPath}] += e.Output
	case "run", "cont":
		w.heard[id.top()] = now
	case "pause":
		delete(w.heard, id) // a paused subtest leaves its parent waiting, which is not idle
		w.alive(id, now)
	case "pass", "fail", "skip":
		w.end(id, e, now)
	}
}

// alive records a sign of life of a test that is running.
func (w *watch) alive(id testID, now time.Time) {
	if _, running := w.heard[id.top()]; running && id.name != "" {
		w.heard[id.top()] = now
	}
}

func (w *watch) end(id testID, e event, now time.Time) {
	switch {
	case id.name == "":
		w.endPackage(id, e)
		return
	case id == id.top():
		delete(w.heard, id)
		w.took = append(w.took, finished{id, e.Elapsed})
		if e.Action == "skip" {
			w.skipped = append(w.skipped, id)
		}
		w.counts[e.Action]++
	default:
		if e.Action == "skip" {
			w.skipped = append(w.skipped, id)
		}
		w.alive(id, now)
	}
	if e.Action == "fail" {
		fmt.Fprint(w.out, w.output[id])
	}
	delete(w.output, id)
}

func (w *watch) endPackage(id testID, e event) {
	word := map[string]string{"pass": "ok  ", "fail": "FAIL", "skip": "none"}[e.Action]
	if e.Action == "fail" {
		fmt.Fprint(w.out, w.output[testID{pkg: e.FailedBuild}])
		for other, text := range w.output { // tests that never ended, and what the package itself printed
			if other.pkg == id.pkg {
				fmt.Fprint(w.out, text)
			}
		}
	}
	for other := range w.output {
		if other.pkg == id.pkg {
			delete(w.output, other)
		}
	}
	for test := range w.heard {
		if test.pkg == id.pkg {
			delete(w.heard, test)
		}
	}
	fmt.Fprintf(w.out, "%s %-36s %6.1f s\n", word, id.pkg, e.Elapsed)
	if e.Action == "fail" {
		w.counts["failed package"]++
	}
}

// guard prints a line a minute and looks for stuck tests until done is closed.
// At the first one it calls end and returns.
func (w *watch) guard(done <-chan struct{}, end func()) {
	tick, began := time.NewTicker(time.Second), time.Now()
	defer tick.Stop()
	for said := 0; ; {
		select {
		case <-done:
			return
		case now := <-tick.C:
			if minutes := int(now.Sub(began).Minutes()); minutes > said {
				said = minutes
				w.progress(minutes)
			}
			if id, ok := w.stuckTest(now); ok {
				w.mu.Lock()
				fmt.Fprintf(w.out, "testwatch: %s of %s has shown no sign of life for %s; the goroutines follow\n", id.name, id.pkg, w.stuck)
				w.mu.Unlock()
				end()
				return
			}
		}
	}
}

func (w *watch) progress(minutes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for id := range w.heard {
		names = append(names, id.name)
	}
	slices.Sort(names)
	fmt.Fprintf(w.out, "...  %d min, %d tests have ended, now running: %s\n", minutes, len(w.took), strings.Join(names, " "))
}

func (w *watch) stuckTest(now time.Time) (testID, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, at := range w.heard {
		if w.stuck > 0 && now.Sub(at) > w.stuck {
			return id, true
		}
	}
	return testID{}, false
}

// summarize prints the slowest tests and the counts, and reports whether the
// run has failed.
func (w *watch) summarize(strict bool) (failed bool) {
	slices.SortFunc(w.took, func(a, b finished) int { return int((b.seconds - a.seconds) * 1000) })
	for i, t := range w.took {
		if i == 10 || t.seconds < 1 {
			break
		}
		if i == 0 {
			fmt.Fprintln(w.out, "The slowest tests:")
		}
		fmt.Fprintf(w.out, "%7.1f s %s of %s\n", t.seconds, t.name, t.pkg)
	}
	if strict {
		for _, id := range w.skipped {
			fmt.Fprintf(w.out, "testwatch: %s of %s was skipped, which fails the run because CI is set\n", id.name, id.pkg)
		}
	}
	fmt.Fprintf(w.out, "%d passed, %d failed, %d skipped\n", w.counts["pass"], w.counts["fail"], w.counts["skip"])
	return w.counts["fail"] > 0 || w.counts["failed package"] > 0 || strict && len(w.skipped) > 0
}
