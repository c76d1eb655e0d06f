//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// A package with many tests runs them one after the other and leaves cores idle while one waits. A
// spread runs the tests of such packages in several processes side by side. Each process runs a few
// tests, so tests of different processes share no memory, and a slow one holds up no others.

// The number of tests that one process runs. The longest tests are among those without the race detector.
const (
	chunkSize      = 16
	plainChunkSize = 2
)

// spread runs the tests of some packages in workers processes at a time.
type spread struct {
	folders []string // of the packages, such as "."
	workers int
	args    []string       // of go test, without packages
	plain   *regexp.Regexp // the tests, as PACKAGE.TEST, to run without the race detector even if args have -race; nil: none
	into    string         // folder for the compiled tests
}

// tested is a package whose tests are spread.
type tested struct{ name, folder string }

// chunk is a part of the tests of a package, which one process runs.
type chunk struct {
	tested
	race  bool // with the race detector
	tests []string
}

// split reports whether some tests run without the race detector and the others with it.
func (s spread) split() bool { return s.plain != nil && slices.Contains(s.args, "-race") }

// binary returns the path of the compiled tests of a package.
func (s spread) binary(p tested, race bool) string {
	return filepath.Join(s.into, fmt.Sprintf("%s race=%t", strings.ReplaceAll(p.name, "/", "_"), race))
}

// packages returns the packages in the folders.
func (s spread) packages() (list []tested, err error) {
	cmd := exec.Command("go", append([]string{"list", "-f", "{{.ImportPath}}\t{{.Dir}}"}, s.folders...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	for line := range strings.Lines(string(out)) {
		name, folder, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		list = append(list, tested{name, folder})
	}
	return list, err
}

// compile compiles the tests of a package.
func (s spread) compile(p tested, race bool) error {
	args := s.args
	if !race {
		args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "-race" })
	}
	cmd := exec.Command("go", slices.Concat([]string{"test", "-c", "-o", s.binary(p, race)}, args, []string{p.name})...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the tests of %s do not build: %w", p.name, err)
	}
	return nil
}

// chunks divides the tests of a package, which are compiled with the race detector or without it.
func (s spread) chunks(p tested, race bool) (plain, raced []chunk, err error) {
	cmd := exec.Command(s.binary(p, race), "-test.list", ".")
	cmd.Dir, cmd.Stderr = p.folder, os.Stderr
	out, err := cmd.Output()
	var first, others []string
	for _, test := range strings.Fields(string(out)) {
		if s.split() && s.plain.MatchString(p.name+"."+test) {
			first = append(first, test)
		} else {
			others = append(others, test)
		}
	}
	for part := range slices.Chunk(first, plainChunkSize) {
		plain = append(plain, chunk{p, false, part})
	}
	for part := range slices.Chunk(others, chunkSize) {
		raced = append(raced, chunk{p, race || s.split(), part})
	}
	return plain, raced, err
}

// testArgs returns the arguments of go test as a compiled test accepts them. Those for the build, such
// as -race, are left out.
func testArgs(args []string) (list []string) {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		switch name {
		case "short", "v", "failfast":
			list = append(list, "-test."+strings.TrimLeft(args[i], "-"))
		case "timeout", "count", "cpu", "parallel":
			list = append(list, "-test."+strings.TrimLeft(args[i], "-"))
			if !joined && i+1 < len(args) {
				i++
				list = append(list, args[i])
			}
		}
	}
	return list
}

// run compiles the tests and runs them, beside other, which needs one core. The tests without the race
// detector come first: it takes long to compile those with it, and the longest are among the former. The
// events of each worker have a package name of their own, so that w can tell which tests a process that
// has died was running.
func (s spread) run(w *watch, list []tested, other func() error) error {
	race := slices.Contains(s.args, "-race") && !s.split()
	var plain, raced []chunk
	for _, p := range list {
		if err := s.compile(p, race); err != nil {
			return err
		}
		first, others, err := s.chunks(p, race)
		if err != nil {
			return err
		}
		plain, raced = append(plain, first...), append(raced, others...)
	}
	compiled := sync.OnceValue(func() (err error) {
		for _, p := range list {
			if s.split() && slices.ContainsFunc(raced, func(c chunk) bool { return c.tested == p }) {
				err = errors.Join(err, s.compile(p, true))
			}
		}
		return err
	})
	type job func(worker int) error
	jobs := []job{func(int) error { return compiled() }, func(int) error { return other() }}
	for _, c := range slices.Concat(plain, raced) {
		jobs = append(jobs, func(worker int) error {
			if c.race && compiled() != nil {
				return nil // the first job returns the error
			}
			return s.runChunk(w, fmt.Sprintf("%s (%d)", c.name, worker), c)
		})
	}
	queue := make(chan job)
	go func() {
		defer close(queue)
		for _, j := range jobs {
			queue <- j
		}
	}()
	began := time.Now()
	var workers sync.WaitGroup
	faults := make([]error, s.workers)
	for i := range s.workers {
		workers.Go(func() {
			for j := range queue {
				faults[i] = errors.Join(faults[i], j(i+1))
			}
		})
	}
	workers.Wait()
	err := errors.Join(faults...)
	word := "ok  "
	if err != nil {
		word = "FAIL"
	}
	var names []string
	for _, p := range list {
		names = append(names, p.name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(w.out, "%s %-36s %6.1f s\n", word, fmt.Sprintf("%s, %d at a time", strings.Join(names, " and "), s.workers), time.Since(began).Seconds())
	return err
}

// runChunk runs some tests in one process, whose events are of the package part.
func (s spread) runChunk(w *watch, part string, c chunk) error {
	w.mu.Lock()
	w.parts[part] = true
	w.mu.Unlock()
	cmd := exec.Command("go", slices.Concat(
		[]string{"tool", "test2json", "-t", "-p", part, s.binary(c.tested, c.race), "-test.v=test2json", "-test.run", "^(" + strings.Join(c.tests, "|") + ")$"}, testArgs(s.args))...)
	cmd.Dir, cmd.Stderr = c.folder, os.Stderr
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
