//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The fault test lets the n-th call of a kind on the files of the data folder
// fail, with strace, for each n until a run has no such call any more. Whatever
// fails, what was acknowledged is there afterwards, and after the first change
// that could not be stored nothing is acknowledged.
// LATCHKEY_CRASH_FAULTS sets the most n for each call and error; a change gets
// by with the few below.

// syscallFault is a kind of call and how it may fail.
type syscallFault struct {
	call   string
	errors []string
	quick  []int // the n of the short form
}

func syscallFaults() []syscallFault {
	return []syscallFault{
		{"pwrite64", []string{"ENOSPC", "EIO", "EDQUOT", "EINTR"}, []int{6, 17}},
		{"fdatasync", []string{"EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR"}, []int{1, 4, 5}},
		{"fsync", []string{"EIO", "ENOSPC", "EROFS"}, []int{1}},
		{"ftruncate", []string{"EIO", "ENOSPC", "EROFS"}, []int{1, 2}},
		{"openat", []string{"EIO", "EROFS", "ENOMEM", "EMFILE"}, []int{1, 3}},
		{"mmap", []string{"ENOMEM"}, []int{1}},
		{"flock", []string{"EIO", "ENOMEM", "EINTR"}, []int{1, 2}},
		{"/^rename", []string{"EIO", "ENOSPC", "EROFS"}, []int{1}},
		{"/stat", []string{"EIO", "ENOMEM"}, []int{9}},
	}
}

// names gives the errors to try.
func (f syscallFault) names() []string {
	if long("LATCHKEY_CRASH_FAULTS", 0) == 0 {
		return f.errors[:min(2, len(f.errors))]
	}
	return f.errors
}

// times gives the n to try.
func (f syscallFault) times() []int {
	most := long("LATCHKEY_CRASH_FAULTS", 0)
	if most == 0 {
		return f.quick
	}
	var all []int
	for n := range most {
		all = append(all, n+1)
	}
	return all
}

// serveFaulty starts the server with one call that fails. It need not come up.
func serveFaulty(t testing.TB, data, into, call, errno string, n int) *process {
	t.Helper()
	options := []string{"-e", fmt.Sprintf("trace=%s", call), "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", call, errno, n)}
	for _, name := range []string{"", storeFile, storeFile + ".new", pepperFile, pepperFile + ".new", markFile, markFile + ".new", lockFile} {
		options = append(options, "-P", filepath.Join(data, name))
	}
	return startCommand(t, tracedCommand(t, data, into, options...), data)
}

// injected says whether the call that was to fail came at all.
func injected(t testing.TB, into string) bool {
	t.Helper()
	files, err := filepath.Glob(into + ".*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no record of %s: %v", into, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("(INJECTED)")) {
			return true
		}
	}
	return false
}

func TestProgram_SyscallFails(t *testing.T) {
	used := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, used, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	first := newLedger(t, p)
	first.load(p, nil, 2)()
	if code := p.stop(t); code != 0 {
		t.Fatalf("got exit code %d: %s", code, tail(p.out.String()))
	}
	runs, hits, ended, refused := 0, 0, 0, 0
	for _, f := range syscallFaults() {
		for _, errno := range f.names() {
			for _, n := range f.times() {
				dir, data := t.TempDir(), copyFolder(t, used)
				name := fmt.Sprintf("%s number %d fails with %s", f.call, n, errno)
				p := serveFaulty(t, data, filepath.Join(dir, "trace"), f.call, errno, n)
				came := p.url != ""
				l := first.copy()
				if came {
					for round := range 3 {
						l.round(p, round)
					}
					p.terminate()
				}
				code, hit := p.over(t), injected(t, filepath.Join(dir, "trace"))
				if code == 0 && l.refused > 0 || code != 0 && !hit || code < 0 {
					t.Errorf("%s: got exit code %d after %d answers of 503: %s", name, code, l.refused, tail(p.out.String()))
				}
				if code != 0 && !strings.Contains(p.out.String(), "latchkey: ") {
					t.Errorf("%s: no last words, but %s", name, tail(p.out.String()))
				}
				if l.relapsed > 0 {
					t.Errorf("%s: %d requests were let through after a 503", name, l.relapsed)
				}
				now := time.Now()
				if problems, err := l.inspect(data, now, now); err != nil || len(problems) > 0 {
					t.Errorf("%s: %v, %v", name, problems, err)
				}
				dropCopy(t, data)
				if strings.Contains(p.out.String(), "in use by") {
					t.Errorf("%s: says that another process has the folder: %s", name, tail(p.out.String()))
				}
				runs, refused = runs+1, refused+l.refused
				if code != 0 {
					ended++
				}
				if !hit {
					break // the run has no such call any more
				}
				hits++
			}
		}
	}
	if ended == 0 || refused == 0 {
		t.Errorf("%d calls failed, %d ended the process, with %d answers of 503; want some", hits, ended, refused)
	}
	t.Logf("%d runs, in %d a call failed, %d of them ended the process, with %d answers of 503", runs, hits, ended, refused)
}

// TestProgram_FirstStartFails lets calls of the very first start fail. The next
// start goes on with what is there, and has a whole store.
func TestProgram_FirstStartFails(t *testing.T) {
	runs, hits := 0, 0
	for _, f := range syscallFaults() {
		for _, errno := range f.errors[:1] {
			for _, n := range f.times() {
				dir := memoryDir(t)
				data := filepath.Join(dir, "data")
				name := fmt.Sprintf("%s number %d fails with %s", f.call, n, errno)
				p := serveFaulty(t, data, filepath.Join(dir, "trace"), f.call, errno, n)
				if p.url != "" {
					p.terminate()
				}
				if code := p.over(t); code < 0 {
					t.Errorf("%s: got exit code %d: %s", name, code, tail(p.out.String()))
				}
				p = serveReal(t, data, "LATCHKEY_LOG_ACCESS=false")
				if _, errs, exit := run(t, "keys", "create", "--data", data, "--name", "x", "--permission", "all"); exit != 0 {
					t.Errorf("%s: a key: %s", name, errs)
				}
				if code := p.stop(t); code != 0 {
					t.Errorf("%s: stop: got exit code %d: %s", name, code, tail(p.out.String()))
				}
				runs++
				if !injected(t, filepath.Join(dir, "trace")) {
					break
				}
				hits++
			}
		}
	}
	t.Logf("%d first starts, in %d a call failed", runs, hits)
}
