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
// spread runs the tests of such a package in several processes side by side. Each process runs a few
// tests, so tests of different processes share no memory, and a slow one holds up no others.

// chunkSize is the number of tests that one process runs.
const chunkSize = 8

// spread runs the tests of one package in workers processes at a time.
type spread struct {
	pkg     string // folder of the package, such as "."
	workers int
	args    []string       // of go test, without packages
	plain   *regexp.Regexp // the tests to run without the race detector even if args have -race; nil: none
	folder  string         // where the compiled tests are put
	start   func(*exec.Cmd) error
}

// binary returns the path of the compiled tests. The plain ones are without the race detector.
func (s spread) binary(plain bool) string {
	if plain && s.split() {
		return filepath.Join(s.folder, "plain")
	}
	return filepath.Join(s.folder, "test")
}

// split reports whether some tests run without the race detector and the others with it.
func (s spread) split() bool { return s.plain != nil && slices.Contains(s.args, "-race") }

// build compiles the tests and returns the name of the package.
func (s spread) build() (name string, err error) {
	list := exec.Command("go", "list", s.pkg)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return "", err
	}
	compile := func(binary string, args []string) error {
		cmd := exec.Command("go", slices.Concat([]string{"test", "-c", "-o", binary}, args, []string{s.pkg})...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		return cmd.Run()
	}
	err = compile(s.binary(false), s.args)
	if err == nil && s.split() {
		err = compile(s.binary(true), slices.DeleteFunc(slices.Clone(s.args), func(arg string) bool { return arg == "-race" }))
	}
	return strings.TrimSpace(string(out)), err
}

// chunk is a part of the tests, which one process runs.
type chunk struct {
	binary string
	tests  []string
}

// chunks divides tests into parts. Those without the race detector come first, because the longest are
// among them.
func (s spread) chunks(tests []string) (list []chunk) {
	var plain, others []string
	for _, test := range tests {
		if s.split() && s.plain.MatchString(test) {
			plain = append(plain, test)
		} else {
			others = append(others, test)
		}
	}
	for part := range slices.Chunk(plain, chunkSize/4) {
		list = append(list, chunk{s.binary(true), part})
	}
	for part := range slices.Chunk(others, chunkSize) {
		list = append(list, chunk{s.binary(false), part})
	}
	return list
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

// run runs all tests that were built and passes their events to w. The events of each worker have a package
// name of their own, so that w can tell which tests a process that has died was running.
func (s spread) run(w *watch, name string) error {
	folder, err := filepath.Abs(s.pkg)
	if err != nil {
		return err
	}
	list := exec.Command(s.binary(false), "-test.list", ".")
	list.Dir, list.Stderr = folder, os.Stderr
	out, err := list.Output()
	if err != nil {
		return err
	}
	chunks := make(chan chunk)
	go func() {
		defer close(chunks)
		for _, c := range s.chunks(strings.Fields(string(out))) {
			chunks <- c
		}
	}()
	began := time.Now()
	var workers sync.WaitGroup
	faults := make([]error, s.workers)
	for i := range s.workers {
		part := fmt.Sprintf("%s (%d)", name, i+1)
		w.mu.Lock()
		w.parts[part] = true
		w.mu.Unlock()
		workers.Go(func() {
			for c := range chunks {
				faults[i] = errors.Join(faults[i], s.runChunk(w, part, folder, c))
			}
		})
	}
	workers.Wait()
	err = errors.Join(faults...)
	word := "ok  "
	if err != nil {
		word = "FAIL"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(w.out, "%s %-36s %6.1f s\n", word, fmt.Sprintf("%s, %d at a time", name, s.workers), time.Since(began).Seconds())
	return err
}

// runChunk runs some tests in one process.
func (s spread) runChunk(w *watch, name, folder string, c chunk) error {
	cmd := exec.Command("go", slices.Concat(
		[]string{"tool", "test2json", "-t", "-p", name, c.binary, "-test.v=test2json", "-test.run", "^(" + strings.Join(c.tests, "|") + ")$"}, testArgs(s.args))...)
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	lines, err := cmd.StdoutPipe()
	if err == nil {
		err = s.start(cmd)
	}
	if err != nil {
		return err
	}
	w.read(lines)
	return cmd.Wait()
}
