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
	args    []string // of go test, without packages
	start   func(*exec.Cmd) error
}

// build compiles the tests into the file binary and returns the name of the package.
func (s spread) build(binary string) (name string, err error) {
	list := exec.Command("go", "list", s.pkg)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return "", err
	}
	compile := exec.Command("go", slices.Concat([]string{"test", "-c", "-o", binary}, s.args, []string{s.pkg})...)
	compile.Stdout, compile.Stderr = os.Stderr, os.Stderr
	return strings.TrimSpace(string(out)), compile.Run()
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

// run runs all tests in binary and passes their events to w. The events of each worker have a package
// name of their own, so that w can tell which tests a process that has died was running.
func (s spread) run(w *watch, name, binary string) error {
	folder, err := filepath.Abs(s.pkg)
	if err != nil {
		return err
	}
	list := exec.Command(binary, "-test.list", ".")
	list.Dir, list.Stderr = folder, os.Stderr
	out, err := list.Output()
	if err != nil {
		return err
	}
	chunks := make(chan []string)
	go func() {
		defer close(chunks)
		for chunk := range slices.Chunk(strings.Fields(string(out)), chunkSize) {
			chunks <- chunk
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
			for chunk := range chunks {
				faults[i] = errors.Join(faults[i], s.runChunk(w, part, folder, binary, chunk))
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
func (s spread) runChunk(w *watch, name, folder, binary string, tests []string) error {
	for i, test := range tests {
		tests[i] = regexp.QuoteMeta(test)
	}
	cmd := exec.Command("go", slices.Concat(
		[]string{"tool", "test2json", "-t", "-p", name, binary, "-test.v=test2json", "-test.run", "^(" + strings.Join(tests, "|") + ")$"}, testArgs(s.args))...)
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
