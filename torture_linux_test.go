//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchkey/tests/program"
)

// The power-cut test records every write, sync, cut and renaming of the real
// program's files under load, with strace. From that it makes what a disk may
// hold after a power cut: everything up to some moment that was synced, and of
// the rest any part, torn at 512 or 4096 bytes. The real code opens each such
// image, and what was acknowledged until then has to be in it.
// LATCHKEY_CRASH_IMAGES sets how many there are; a change gets by with few. Every thousand have a load of their own.
const (
	powerCutImages = 60
	powerCutRound  = 1000
)

// diskOp is one thing that the program did to a file.
type diskOp struct {
	at   time.Time
	kind string // create, write, cut, sync, rename, remove
	path string
	to   string // of rename
	pos  int64  // of write; the new length of cut
	data []byte
}

func TestProgram_PowerCut(t *testing.T) {
	t.Parallel() // it waits most of the time
	program.Rounds(t, "LATCHKEY_CRASH_IMAGES", powerCutImages, powerCutRound, powerCut)
}

// powerCut makes a number of images.
func powerCut(t *testing.T, images int) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	begun := time.Now()
	p := serveTraced(t, data, filepath.Join(dir, "first"), diskCalls(data)...)
	l := newLedger(t, p)
	l.load(p, nil, 12)()
	if code := p.Stop(t); code != 0 { // which writes the exact counts
		t.Fatalf("got exit code %d: %s", code, p.Out.String())
	}
	p = serveTraced(t, data, filepath.Join(dir, "second"), diskCalls(data)...)
	l.load(p, nil, 12)()
	p.Kill()
	ops := append(readTrace(t, filepath.Join(dir, "first")), readTrace(t, filepath.Join(dir, "second"))...)
	slices.SortStableFunc(ops, func(a, b diskOp) int { return a.at.Compare(b.at) })
	if n := len(ops); n < 300 || ops[0].at.Before(begun) {
		t.Fatalf("%d operations recorded, the first at %s: too few", n, ops[0].at)
	}
	l.complete(t)
	if !slices.ContainsFunc(ops, func(o diskOp) bool { return o.kind == "sync" && o.path == dir }) {
		t.Error("the entry of the new data folder is never synced")
	}
	seed := rand.Uint64()
	torn := 0
	fast := memoryDir(t)
	for i := range images {
		if i%20 == 0 {
			t.Logf("image %d of %d", i, images) // a sign of life
		}
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		// Every moment in turn where there are more images than moments.
		cut := 1 + (i*len(ops)/images+random.IntN(max(1, len(ops)/images)))%len(ops)
		if images > len(ops) {
			cut = 1 + i%len(ops)
		}
		image := filepath.Join(fast, "image", "data")
		disk := newDisk(ops[:cut], data)
		torn += disk.write(t, image, random)
		problems, err := l.inspect(image, ops[cut-1].at, ops[cut-1].at)
		if err != nil || len(problems) > 0 {
			t.Fatalf("seed %d, image %d, power cut after operation %d of %d (%s %s): %v, %v",
				seed, i, cut, len(ops), ops[cut-1].kind, filepath.Base(ops[cut-1].path), problems, err)
		}
		if err := os.RemoveAll(filepath.Dir(image)); err != nil {
			t.Fatal(err)
		}
	}
	if torn == 0 {
		t.Error("no image lacks a write, so they show nothing")
	}
	t.Logf("%d images of %d operations, %d writes lost or torn; acknowledged: %s", images, len(ops), torn, l.counts())
}

// diskCalls are the options of strace that record what is done to the files of
// a data folder.
func diskCalls(data string) []string {
	args := []string{"-y", "-xx", "-s", "4194304", "-e", "trace=openat,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"}
	for _, name := range []string{storeFile, pepperFile, markFile} {
		args = append(args, "-P", filepath.Join(data, name), "-P", filepath.Join(data, name+".new"))
	}
	return append(args, "-P", data, "-P", filepath.Dir(data))
}

// serveTraced is serveReal under strace.
func serveTraced(t testing.TB, data, into string, options ...string) *program.Server {
	t.Helper()
	return program.ServeCommand(t, tracedCommand(t, data, into, options...), data)
}

// tracedCommand is a server under strace, which writes to files that begin
// with a name, one for each thread. The server is the child of the test.
func tracedCommand(t testing.TB, data, into string, options ...string) *exec.Cmd {
	t.Helper()
	program.NotQuick(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("%v; install the package strace", err)
	}
	cmd := program.Command(t, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", data)
	cmd.Args = slices.Concat([]string{strace, "-D", "-f", "-ff", "--seccomp-bpf", "-ttt", "-q", "-e", "signal=none", "-o", into}, options, []string{cmd.Path}, cmd.Args[1:])
	cmd.Path = strace
	cmd.Env = append(cmd.Env, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	return cmd
}

var (
	traceCall = regexp.MustCompile(`^(\d+)\.(\d+) (\w+)\(`)
	traceFile = regexp.MustCompile(`^(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>`)
)

// readTrace reads what strace has written, in the order of time.
func readTrace(t testing.TB, name string) (ops []diskOp) {
	t.Helper()
	files, err := filepath.Glob(name + ".*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no record of %s: %v", name, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reach := map[string]int64{} // where the next write without a position goes
		for line := range bytes.Lines(b) {
			m := traceCall.FindSubmatch(line)
			// What is written stands in the line and can be long, which no expression
			// should go through.
			end := bytes.LastIndex(line, []byte(") "))
			if m == nil || end < len(m[0]) {
				continue // no call
			}
			given := bytes.TrimLeft(line[end+1:], " ")
			if !bytes.HasPrefix(given, []byte("= ")) || len(given) < 3 || given[2] == '-' {
				continue // one that failed
			}
			seconds, err1 := strconv.ParseInt(string(m[1]), 10, 64)
			micros, err2 := strconv.ParseInt(string(m[2]), 10, 64)
			if err1 != nil || err2 != nil {
				t.Fatalf("%s: %s", file, m[0])
			}
			ops = append(ops, traceOps(t, time.Unix(seconds, micros*1000), string(m[3]), string(line[len(m[0]):end]), reach)...)
		}
	}
	slices.SortStableFunc(ops, func(a, b diskOp) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	return ops
}

// plain undoes what strace does to a text with -xx.
func plain(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, `\x`, ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// traceOps gives what one call did.
func traceOps(t testing.TB, at time.Time, call, args string, reach map[string]int64) []diskOp {
	t.Helper()
	var path string
	if m := traceFile.FindStringSubmatch(args); m != nil {
		path = string(plain(t, m[1]))
	}
	var texts []string
	for i, text := range strings.SplitN(args, `"`, 5) { // in a text everything is a number, also a quote
		if i%2 == 1 {
			texts = append(texts, text)
		}
	}
	last := func() int64 {
		n, err := strconv.ParseInt(strings.TrimSpace(args[strings.LastIndex(args, ",")+1:]), 10, 64)
		if err != nil {
			t.Fatalf("%s(%s): %v", call, args[:min(80, len(args))], err)
		}
		return n
	}
	o := diskOp{at: at, path: path}
	switch call {
	case "openat":
		o.path, reach[string(plain(t, texts[0]))] = string(plain(t, texts[0])), 0
		if !strings.Contains(args, "O_CREAT") {
			return nil
		}
		o.kind = "create"
		if strings.Contains(args, "O_TRUNC") {
			return []diskOp{o, {at: at, kind: "cut", path: o.path}}
		}
	case "pwrite64":
		o.kind, o.data, o.pos = "write", plain(t, texts[0]), last()
	case "write":
		o.kind, o.data, o.pos = "write", plain(t, texts[0]), reach[path]
		reach[path] += int64(len(o.data))
	case "ftruncate":
		o.kind, o.pos = "cut", last()
	case "fsync", "fdatasync":
		o.kind = "sync"
	case "rename", "renameat", "renameat2":
		o.kind, o.path, o.to = "rename", string(plain(t, texts[0])), string(plain(t, texts[1]))
	case "unlink", "unlinkat":
		o.kind, o.path = "remove", string(plain(t, texts[0]))
	}
	return []diskOp{o}
}

// disk is a folder as it may be after a power cut.
type disk struct {
	names   map[string]*diskFile // as they are on the disk for certain
	later   []diskOp             // what was done to names and not synced, in order
	current map[string]*diskFile // as the program saw them
}

// diskFile is the contents of a file and what was done to it since its sync.
type diskFile struct {
	data  []byte
	later []diskOp
}

// newDisk does to a disk what the program did until the power went.
func newDisk(ops []diskOp, dir string) *disk {
	d := &disk{names: map[string]*diskFile{}, current: map[string]*diskFile{}}
	for _, o := range ops {
		switch o.kind {
		case "create":
			if d.current[o.path] == nil {
				d.current[o.path] = &diskFile{}
				d.later = append(d.later, o)
			}
		case "rename", "remove":
			if d.current[o.path] == nil {
				continue
			}
			d.later = append(d.later, o)
			d.entry(d.current, o)
		case "write", "cut":
			if f := d.current[o.path]; f != nil {
				f.later = append(f.later, o)
			}
		case "sync":
			if f := d.current[o.path]; f != nil {
				for _, o := range f.later {
					f.do(o, nil)
				}
				f.later = nil
			} else if o.path == dir {
				d.names, d.later = maps.Clone(d.current), nil
			}
		}
	}
	return d
}

// entry does an operation to the names of files.
func (d *disk) entry(names map[string]*diskFile, o diskOp) {
	switch o.kind {
	case "create":
		names[o.path] = d.created(o)
	case "rename":
		names[o.to] = names[o.path]
		delete(names, o.path)
	case "remove":
		delete(names, o.path)
	}
}

// created gives the file that a creation made: it may have another name by now.
func (d *disk) created(o diskOp) *diskFile {
	path := o.path
	for _, later := range d.later {
		if later.kind == "rename" && later.path == path && !later.at.Before(o.at) {
			path = later.to
		}
	}
	if f := d.current[path]; f != nil {
		return f
	}
	return &diskFile{}
}

// do does an operation to the contents; of a write only the parts that keep
// wants, nil being all. It says whether something was left out.
func (f *diskFile) do(o diskOp, keep func() bool) (lost bool) {
	if o.kind == "cut" {
		if keep != nil && !keep() {
			return true
		}
		if int64(len(f.data)) > o.pos {
			f.data = f.data[:o.pos]
		}
		f.data = append(f.data, make([]byte, o.pos-int64(len(f.data)))...)
		return false
	}
	const sector = 512
	for from := 0; from < len(o.data); from += sector {
		if keep != nil && !keep() {
			lost = true
			continue
		}
		part := o.data[from:min(len(o.data), from+sector)]
		end := o.pos + int64(from+len(part))
		if grow := end - int64(len(f.data)); grow > 0 {
			f.data = append(f.data, make([]byte, grow)...)
		}
		copy(f.data[end-int64(len(part)):end], part)
	}
	return lost
}

// write makes the folder with a random part of what was not synced, and says
// how many writes are missing or torn.
func (d *disk) write(t testing.TB, dir string, random *rand.Rand) (torn int) {
	t.Helper()
	names := maps.Clone(d.names)
	for _, o := range d.later[:random.IntN(len(d.later)+1)] {
		d.entry(names, o)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, f := range names {
		whole := &diskFile{data: slices.Clone(f.data)}
		likely := []float64{0, 0.2, 0.5, 0.9, 1}[random.IntN(5)]
		unit := []int{1, 8, 1 << 30}[random.IntN(3)] // sectors of 512 bytes that are torn from each other
		for _, o := range f.later {
			n, kept := 0, false
			lost := whole.do(o, func() bool {
				if n%unit == 0 {
					kept = random.Float64() < likely
				}
				n++
				return kept
			})
			if lost {
				torn++
			}
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), whole.data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return torn
}

// TestDisk has a disk of which the contents are known.
func TestDisk(t *testing.T) {
	at := time.Unix(1, 0)
	ops := []diskOp{
		{at: at, kind: "create", path: "/d/a.new"},
		{at: at, kind: "write", path: "/d/a.new", data: []byte("old")},
		{at: at, kind: "sync", path: "/d/a.new"},
		{at: at, kind: "rename", path: "/d/a.new", to: "/d/a"},
		{at: at, kind: "sync", path: "/d"},
		{at: at, kind: "write", path: "/d/a", data: bytes.Repeat([]byte("n"), 1024)},
	}
	seen := map[string]bool{}
	for i := range 200 {
		dir := filepath.Join(t.TempDir(), "x")
		newDisk(ops, "/d").write(t, dir, rand.New(rand.NewPCG(uint64(i), 0)))
		b, err := os.ReadFile(filepath.Join(dir, "a"))
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprint(len(b), strings.HasPrefix(string(b), "nnn"))] = true
	}
	for _, want := range []string{"3 false", "1024 true", "512 true", "1024 false"} {
		if !seen[want] {
			t.Errorf("no image with %q among %v", want, slices.Sorted(maps.Keys(seen)))
		}
	}
}

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
func (f syscallFault) names(t testing.TB) []string {
	if program.Long(t, "LATCHKEY_CRASH_FAULTS", 0) == 0 {
		return f.errors[:min(2, len(f.errors))]
	}
	return f.errors
}

// times gives the n to try.
func (f syscallFault) times(t testing.TB) []int {
	most := program.Long(t, "LATCHKEY_CRASH_FAULTS", 0)
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
func serveFaulty(t testing.TB, data, into, call, errno string, n int) *program.Server {
	t.Helper()
	options := []string{"-e", fmt.Sprintf("trace=%s", call), "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", call, errno, n)}
	for _, name := range []string{"", storeFile, storeFile + ".new", pepperFile, pepperFile + ".new", markFile, markFile + ".new", lockFile} {
		options = append(options, "-P", filepath.Join(data, name))
	}
	return program.StartCommand(t, tracedCommand(t, data, into, options...), data)
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
	p := program.Serve(t, used, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	first := newLedger(t, p)
	first.load(p, nil, 2)()
	if code := p.Stop(t); code != 0 {
		t.Fatalf("got exit code %d: %s", code, p.Out.Tail())
	}
	runs, hits, ended, refused := 0, 0, 0, 0
	for _, f := range syscallFaults() {
		for _, errno := range f.names(t) {
			for _, n := range f.times(t) {
				dir, data := t.TempDir(), copyFolder(t, used)
				name := fmt.Sprintf("%s number %d fails with %s", f.call, n, errno)
				t.Log(name) // a sign of life
				p := serveFaulty(t, data, filepath.Join(dir, "trace"), f.call, errno, n)
				came := p.URL != ""
				l := first.copy()
				if came {
					for round := range 3 {
						l.round(p, round)
					}
					p.Terminate()
				}
				code, hit := p.Wait(t), injected(t, filepath.Join(dir, "trace"))
				if code == 0 && l.refused > 0 || code != 0 && !hit || code < 0 {
					t.Errorf("%s: got exit code %d after %d answers of 503: %s", name, code, l.refused, p.Out.Tail())
				}
				if code != 0 && !strings.Contains(p.Out.String(), "latchkey: ") {
					t.Errorf("%s: no last words, but %s", name, p.Out.Tail())
				}
				if l.relapsed > 0 {
					t.Errorf("%s: %d requests were let through after a 503", name, l.relapsed)
				}
				now := time.Now()
				if problems, err := l.inspect(data, now, now); err != nil || len(problems) > 0 {
					t.Errorf("%s: %v, %v", name, problems, err)
				}
				dropCopy(t, data)
				if strings.Contains(p.Out.String(), "in use by") {
					t.Errorf("%s: says that another process has the folder: %s", name, p.Out.Tail())
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
			for _, n := range f.times(t) {
				dir := memoryDir(t)
				data := filepath.Join(dir, "data")
				name := fmt.Sprintf("%s number %d fails with %s", f.call, n, errno)
				p := serveFaulty(t, data, filepath.Join(dir, "trace"), f.call, errno, n)
				if p.URL != "" {
					p.Terminate()
				}
				if code := p.Wait(t); code < 0 {
					t.Errorf("%s: got exit code %d: %s", name, code, p.Out.Tail())
				}
				p = program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false")
				if _, errs, exit := program.Run(t, "keys", "create", "--data", data, "--name", "x", "--permission", "all"); exit != 0 {
					t.Errorf("%s: a key: %s", name, errs)
				}
				if code := p.Stop(t); code != 0 {
					t.Errorf("%s: stop: got exit code %d: %s", name, code, p.Out.Tail())
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

// smallDisk mounts a file system of so many bytes, which takes root.
func smallDisk(t testing.TB, size string) string {
	t.Helper()
	program.NotQuick(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "" && os.Getuid() != 0 {
			t.Skip("mounting a small disk takes root")
		}
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// free gives the free bytes of a disk.
func free(t testing.TB, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// A disk that is full ends the server after a 503 and with a sentence; nothing
// that was acknowledged is lost, and with room again it goes on. While the disk
// is nearly full, keys can store nothing new, and the operator can.
// LATCHKEY_CRASH_DISKS sets how often the disk is filled anew, up to another
// byte. Every ten times are those of one store.
func TestProgram_DiskFull(t *testing.T) {
	program.Rounds(t, "LATCHKEY_CRASH_DISKS", 2, 10, diskFull)
}

// diskFull fills the disk of a server a number of times.
func diskFull(t *testing.T, times int) {
	disk := smallDisk(t, "64m") // keys can store nothing new below 3.2 MB
	data, ballast := filepath.Join(disk, "data"), filepath.Join(disk, "ballast")
	p := program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	l := newLedger(t, p)
	l.load(p, nil, 5)()
	low := false
	for i := range times {
		// Others fill the disk while the server runs, up to some bytes.
		left := rand.Int64N(160_000)
		if err := os.WriteFile(ballast, make([]byte, free(t, disk)-left), 0o600); err != nil {
			t.Fatal(err)
		}
		l.refused, l.relapsed = 0, 0
		status := 0
		for deadline := time.Now().Add(time.Minute); status != http.StatusInsufficientStorage && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			a, _ := do("POST", p.URL+"/api/v1/contacts/create", l.mix.key, []byte(`{"first_name": "Mara"}`))
			if status = a.status; status == http.StatusServiceUnavailable {
				break // the disk is full already
			}
		}
		low = low || status == http.StatusInsufficientStorage
		for round := 0; round < 400 && l.refused == 0; round++ {
			l.round(p, round)
		}
		if l.refused == 0 {
			t.Fatalf("no 503 with the disk full: %s", p.Out.Tail())
		}
		p.Fails(t, "no space left on device")
		if l.relapsed > 0 {
			t.Errorf("%d requests were let through after a 503", l.relapsed)
		}
		// With the disk still full it starts, refuses the first change and ends
		// again: a full disk costs no data, only service.
		again := program.StartCommand(t, program.Command(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), data)
		if again.URL != "" {
			for range 5000 { // the first ones may have room in what the database has used before
				if again.Socket().Do(context.Background(), "POST", "/admin/v1/teams", map[string]any{"name": strings.Repeat("t", 100)}, nil) != nil {
					break
				}
			}
		}
		again.Fails(t, "no space left on device")
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if problems, err := l.inspectCopy(t, data); err != nil || len(problems) > 0 {
			t.Fatalf("disk full number %d: %v, %v", i, problems, err)
		}
		p = program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget)
		l.refused = 0
		if l.round(p, 0); l.refused > 0 {
			t.Fatal("with room again: got a 503")
		}
	}
	l.complete(t)
	if !low {
		t.Error("a key could store something new while the disk was nearly full")
	}
	t.Logf("disk full %d times; acknowledged: %s", times, l.counts())
}

// On a disk that is mounted to be read only the server refuses to start and
// says so; the database can still be checked there.
func TestProgram_ReadOnlyDisk(t *testing.T) {
	disk := smallDisk(t, "8m")
	data := filepath.Join(disk, "data")
	p := program.Serve(t, data)
	if code := p.Stop(t); code != 0 {
		t.Fatalf("got exit code %d: %s", code, p.Out.String())
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	program.ServeFails(t, data, "read-only file system")
	if said, errs, exit := program.Run(t, "check", storePath(data), "--data", data); exit != 0 || !strings.Contains(said, "0 problems") {
		t.Errorf("check: exit %d, %s%s", exit, said, errs)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	p = program.Serve(t, data)
	if code := p.Stop(t); code != 0 {
		t.Errorf("got exit code %d: %s", code, p.Out.String())
	}
}
