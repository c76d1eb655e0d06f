//go:build unix

// Command testwatch runs `go test -json` with its own arguments. It prints a line with the duration
// of each package, the output of failed tests, and the slowest tests.
//
// If a test has printed nothing, and none of its subtests has begun or ended, for the time in -stuck,
// testwatch assumes a deadlock. It then ends the run with SIGQUIT, so that the tests print the stacks
// of their goroutines. If the environment variable CI is set, a skipped test fails the run.
//
// With -spread FOLDERS the tests of the packages in those folders run beside those of all other packages, in
// one process more than there are cores, since many tests wait for something.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
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
	ImportPath  string // package that is being built, for the action build-output
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// testID identifies a test, or a package if name is "".
type testID struct{ pkg, name string }

// top returns the top-level test that contains the test id. For a top-level test it returns id.
func (id testID) top() testID {
	id.name, _, _ = strings.Cut(id.name, "/")
	return id
}

// finished is a test that has ended.
type finished struct {
	testID
	seconds float64
}

// skips is what skipped tests mean for a run.
type skips int

const (
	skipsPass skips = iota // a skipped test does not fail the run
	skipsFail              // a skipped test fails the run
)

// watch follows one run of `go test -json`. Its methods are safe for concurrent use, except summarize,
// which is called after the run.
type watch struct {
	out   io.Writer
	stuck time.Duration

	mu      sync.Mutex
	output  map[testID]string    // the output so far of each test, package or build
	active  map[testID]time.Time // for each running top-level test, the time of its last event
	counts  map[string]int       // number of ended top-level tests by action (pass, fail, skip), and of failed packages
	ended   []finished           // the top-level tests that have ended
	groups  []int                // process groups of the running commands
	parts   map[string]bool      // names under which processes run some tests of a package, see spread; they get no line of their own
	skipped []testID             // the tests and subtests that were skipped
}

// newWatch returns a watch that prints to out. A test without events for longer than stuck counts as
// stuck; 0 means never.
func newWatch(out io.Writer, stuck time.Duration) *watch {
	return &watch{out: out, stuck: stuck, output: map[testID]string{}, active: map[testID]time.Time{}, counts: map[string]int{}, parts: map[string]bool{}}
}

func main() {
	stuck := flag.Duration("stuck", 2*time.Minute, "end the run if a test prints nothing for this long; 0 for never")
	var some parted
	flag.Func("spread", "run the tests of the packages in these folders, which have spaces between them, in several processes; they must be of ./...", func(text string) error {
		some.folders = strings.Fields(text)
		return nil
	})
	flag.StringVar(&some.plain, "plain", "", "run the tests of those packages with these names (a regular expression of PACKAGE.TEST) without the race detector")
	flag.Parse()
	os.Exit(run(os.Stdout, *stuck, some, flag.Args()))
}

// parted are the packages whose tests are spread over several processes.
type parted struct {
	folders []string // nil if there are none
	plain   string   // pattern of the tests to run without the race detector; "" if there are none
}

// run runs `go test -json` with args and prints the results to out. It returns the exit code.
func run(out io.Writer, stuck time.Duration, some parted, args []string) (code int) {
	w := newWatch(out, stuck)
	done := make(chan struct{})
	go w.monitor(done, w.kill)
	err := w.test(some, args)
	close(done)
	policy := skipsPass
	if os.Getenv("CI") != "" {
		policy = skipsFail
	}
	failed := w.summarize(policy)
	if err != nil && !failed {
		fmt.Fprintln(out, "testwatch:", err)
	}
	if err != nil || failed {
		return 1
	}
	return 0
}

// test runs the tests. With folders, the last argument must be the pattern of all packages.
func (w *watch) test(some parted, args []string) error {
	if len(some.folders) == 0 {
		return w.goTest(args)
	}
	last := len(args) - 1
	temporary, err := os.MkdirTemp("", "testwatch")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	s := spread{folders: some.folders, workers: runtime.NumCPU() + 1, args: args[:last], into: temporary}
	if some.plain != "" {
		if s.plain, err = regexp.Compile(some.plain); err != nil {
			return fmt.Errorf("-plain: %w", err)
		}
	}
	list, err := s.packages()
	if err != nil {
		return err
	}
	others, err := packages(args[last], list)
	if err != nil {
		return err
	}
	return s.run(w, list, func() error {
		if len(others) == 0 {
			return nil
		}
		return w.goTest(slices.Concat([]string{"-p", "1"}, args[:last], others))
	})
}

// packages returns the packages that match pattern, without those in a list.
func packages(pattern string, without []tested) ([]string, error) {
	list := exec.Command("go", "list", pattern)
	list.Stderr = os.Stderr
	out, err := list.Output()
	return slices.DeleteFunc(strings.Fields(string(out)), func(name string) bool {
		return slices.ContainsFunc(without, func(p tested) bool { return p.name == name })
	}), err
}

// goTest runs `go test -json` with args.
func (w *watch) goTest(args []string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err == nil {
		err = w.start(cmd)
	}
	if err != nil {
		return err
	}
	w.read(lines)
	return cmd.Wait()
}

// start starts a command in a process group of its own, so that kill ends it with the tests that it
// runs and what they have started.
func (w *watch) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groups = append(w.groups, cmd.Process.Pid)
	return nil
}

// kill ends all commands.
func (w *watch) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, group := range w.groups {
		_ = syscall.Kill(-group, syscall.SIGQUIT)
	}
}

// read processes the events in lines until the input ends. It prints a line that is not an event.
func (w *watch) read(lines io.Reader) {
	in := bufio.NewReader(lines)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(w.out, "%s", line)
			} else {
				w.handle(e, time.Now())
			}
		}
		if err != nil {
			return
		}
	}
}

// handle processes one event, which arrived at now.
func (w *watch) handle(e event, now time.Time) {
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
		w.active[id.top()] = now
	case "pause":
		delete(w.active, id) // a top-level test that is paused is not stuck; other ids are not in the map
		w.alive(id, now)
	case "pass", "fail", "skip":
		w.end(id, e, now)
	}
}

// alive records at now that the top-level test of id is not stuck. It does nothing if that test is not
// running.
func (w *watch) alive(id testID, now time.Time) {
	if _, running := w.active[id.top()]; running && id.name != "" {
		w.active[id.top()] = now
	}
}

// end records that a test or a package has ended. It prints the output of a failed test.
func (w *watch) end(id testID, e event, now time.Time) {
	switch {
	case id.name == "":
		w.endPackage(id, e)
		return
	case id == id.top():
		delete(w.active, id)
		w.ended = append(w.ended, finished{id, e.Elapsed})
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

// endPackage prints the line of a package that has ended. If the package has failed, it first prints
// the output of the build, of the package and of tests that have not ended.
func (w *watch) endPackage(id testID, e event) {
	word := map[string]string{"pass": "ok  ", "fail": "FAIL", "skip": "none"}[e.Action]
	if e.Action == "fail" {
		fmt.Fprint(w.out, w.output[testID{pkg: e.FailedBuild}])
		for other, text := range w.output { // of tests that have not ended, and of the package itself
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
	for test := range w.active {
		if test.pkg == id.pkg {
			delete(w.active, test)
		}
	}
	if !w.parts[id.pkg] {
		fmt.Fprintf(w.out, "%s %-36s %6.1f s\n", word, id.pkg, e.Elapsed)
	}
	if e.Action == "fail" {
		w.counts["failed package"]++
	}
}

// monitor prints the progress once a minute, and looks for stuck tests once a second. If it finds one,
// it calls kill and returns. Otherwise it returns when done is closed.
func (w *watch) monitor(done <-chan struct{}, kill func()) {
	tick, began := time.NewTicker(time.Second), time.Now()
	defer tick.Stop()
	for printed := 0; ; {
		select {
		case <-done:
			return
		case now := <-tick.C:
			if minutes := int(now.Sub(began).Minutes()); minutes > printed {
				printed = minutes
				w.progress(minutes)
			}
			if id, ok := w.stuckTest(now); ok {
				w.mu.Lock()
				fmt.Fprintf(w.out, "testwatch: %s of %s has printed nothing for %s; ending the run, the stacks of its goroutines follow\n", id.name, id.pkg, w.stuck)
				w.mu.Unlock()
				kill()
				return
			}
		}
	}
}

// progress prints which tests are running. minutes is the time since the start.
func (w *watch) progress(minutes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for id := range w.active {
		names = append(names, id.name)
	}
	slices.Sort(names)
	fmt.Fprintf(w.out, "...  %d min, %d tests have ended, now running: %s\n", minutes, len(w.ended), strings.Join(names, " "))
}

// stuckTest returns a test that is stuck at now, and whether there is one.
func (w *watch) stuckTest(now time.Time) (testID, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, last := range w.active {
		if w.stuck > 0 && now.Sub(last) > w.stuck {
			return id, true
		}
	}
	return testID{}, false
}

// summarize prints the slowest tests and the numbers of tests. It reports whether the run has failed:
// whether a test or a package has, or with skipsFail whether a test was skipped.
func (w *watch) summarize(policy skips) (failed bool) {
	slices.SortFunc(w.ended, func(a, b finished) int { return int((b.seconds - a.seconds) * 1000) })
	for i, t := range w.ended {
		if i == 10 || t.seconds < 1 {
			break
		}
		if i == 0 {
			fmt.Fprintln(w.out, "The slowest tests:")
		}
		fmt.Fprintf(w.out, "%7.1f s %s of %s\n", t.seconds, t.name, t.pkg)
	}
	if policy == skipsFail {
		for _, id := range w.skipped {
			fmt.Fprintf(w.out, "testwatch: %s of %s was skipped, which fails the run because CI is set\n", id.name, id.pkg)
		}
	}
	fmt.Fprintf(w.out, "%d passed, %d failed, %d skipped\n", w.counts["pass"], w.counts["fail"], w.counts["skip"])
	return w.counts["fail"] > 0 || w.counts["failed package"] > 0 || policy == skipsFail && len(w.skipped) > 0
}
