package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"latchkey/cli"
)

// interruption ends a command at one moment of its work, as Ctrl+C does.
type interruption struct {
	cli.Service
	press context.CancelFunc
	step  string // the step of the work in whose first report the command is ended; "": in none
	steps *[]string
	// wrap changes the handler of the admin endpoint; it may be nil.
	wrap func(press context.CancelFunc, h http.Handler) http.Handler
}

// watch returns a cli.Progress that passes on to p and ends the command in the step.
func (i interruption) watch(p cli.Progress) cli.Progress {
	return func(step string, done, total int64) error {
		if !slices.Contains(*i.steps, step) {
			*i.steps = append(*i.steps, step)
		}
		if step == i.step {
			i.press()
		}
		return p(step, done, total)
	}
}

func (i interruption) Restore(o cli.RestoreOptions) (cli.Restored, error) {
	o.Progress = i.watch(o.Progress)
	return i.Service.Restore(o)
}

func (i interruption) CheckFile(path string, p cli.Progress) (cli.CheckResult, error) {
	return i.Service.CheckFile(path, i.watch(p))
}

func (i interruption) Compact(p cli.Progress) (before, after int64, err error) {
	return i.Service.Compact(i.watch(p))
}

func (i interruption) Open() (http.Handler, func() error, error) {
	h, closeIt, err := i.Service.Open()
	if err == nil && i.wrap != nil {
		h = i.wrap(i.press, h)
	}
	return h, closeIt, err
}

// countedContext is a context that ends when Err is called for the given time.
type countedContext struct {
	context.Context
	mu    sync.Mutex
	left  int
	press context.CancelFunc
}

func (c *countedContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		c.press()
		<-c.Done()
	}
	return c.Context.Err()
}

// duringCheck ends the command when the handler looks for the n-th time whether it has ended.
func duringCheck(n int) func(context.CancelFunc, http.Handler) http.Handler {
	return func(press context.CancelFunc, h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(&countedContext{Context: r.Context(), left: n, press: press}))
		})
	}
}

// pressingWriter ends the command at the first write of the body.
type pressingWriter struct {
	http.ResponseWriter
	press context.CancelFunc
}

func (w pressingWriter) Write(b []byte) (int, error) {
	w.press()
	return w.ResponseWriter.Write(b)
}

// duringAnswer ends the command when the handler writes the body of its answer.
func duringAnswer(press context.CancelFunc, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(pressingWriter{w, press}, r) })
}

// duringBody ends the command when one byte of the body of the request was read.
func duringBody(press context.CancelFunc, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var first [1]byte
		_, err := io.ReadFull(r.Body, first[:])
		if press(); err == nil {
			<-r.Context().Done()
		}
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(string(first[:])), r.Body))
		h.ServeHTTP(w, r)
	})
}

// afterBody ends the command when all of the body of the request was read.
func afterBody(press context.CancelFunc, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		press()
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(string(data)), failingReader{err}))
		h.ServeHTTP(w, r)
	})
}

// failingReader fails, or has ended if its error is nil.
type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return 0, io.EOF
}

// blockedInput is a standard input to which nobody writes. The command is ended when it reads.
type blockedInput struct {
	press context.CancelFunc
	never <-chan struct{}
}

func (b blockedInput) Read([]byte) (int, error) {
	b.press()
	<-b.never
	return 0, io.EOF
}

// interruptWalk has a folder with a data folder and a backup in it, of which each run gets a copy.
type interruptWalk struct {
	*testing.T
	master string
}

// interruptedRun is one run of a command that is ended.
type interruptedRun struct {
	args []string // BACKUP and DATA are replaced by paths
	step string
	wrap func(context.CancelFunc, http.Handler) http.Handler
	read bool // ended while it reads standard input
}

// run runs a command on a fresh copy and ends it. It returns what it says and the folder.
func (w interruptWalk) run(r interruptedRun) (exit int, errs, folder string, steps []string) {
	w.Helper()
	folder = filepath.Join(w.TempDir(), "copy")
	if err := os.CopyFS(folder, os.DirFS(w.master)); err != nil {
		w.Fatal(err)
	}
	for _, path := range []string{"data", "data/" + storeFile, "data/" + pepperFile} {
		if err := os.Chmod(filepath.Join(folder, path), 0o700); err != nil {
			w.Fatal(err)
		}
	}
	ctx, press := context.WithCancel(context.Background())
	defer press()
	never := make(chan struct{})
	defer close(never)
	var out, log lockedBuffer
	env := environment(nil, nil)
	env.Stdin, env.Stdout, env.Stderr = strings.NewReader(""), &out, &log
	if r.read {
		env.Stdin = blockedInput{press, never}
	}
	env.Load = func(file string, flags map[string]string) (cli.Service, error) {
		s, err := loadService(file, nil, flags)
		return interruption{s, press, r.step, &steps, r.wrap}, err
	}
	args := []string{"latchkey", "--data", filepath.Join(folder, "data")}
	for _, arg := range r.args {
		args = append(args, strings.ReplaceAll(arg, "FOLDER", folder))
	}
	exit = cli.Run(ctx, args, env)
	return exit, log.String(), folder, steps
}

// files returns the names of all files in and below a folder, without the lock file.
func (w interruptWalk) files(folder string) (names []string) {
	w.Helper()
	err := fs.WalkDir(os.DirFS(folder), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != lockFile {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return names
}

// records returns the number of records of the store in a folder, which must be whole. It leaves out
// the audit log, which also has refused requests.
func (w interruptWalk) records(folder string) int {
	w.Helper()
	c := defaultConfig()
	c.Server.Data = filepath.Join(folder, "data")
	result, err := CheckStoreFile(storePath(c.Server.Data), c, "", nil)
	if err != nil || len(result.Problems) > 0 || result.NotVerified != "" {
		w.Fatalf("the database is damaged: %+v, %v", result, err)
	}
	n := 0
	for name := range contents(w.T, storePath(c.Server.Data)) {
		if !strings.HasPrefix(name, "audit") && !strings.Contains(name, "/audit") {
			n++
		}
	}
	return n
}

// unchanged runs a command, ends it, and requires that the folder is as before.
func (w interruptWalk) unchanged(name string, r interruptedRun) {
	w.Helper()
	exit, errs, folder, _ := w.run(r)
	if exit != 130 || !strings.Contains(errs, "interrupted; no") {
		w.Errorf("%s: got exit code %d, %q, want 130 and that nothing was changed", name, exit, errs)
	}
	if got, want := w.files(folder), w.files(w.master); !slices.Equal(got, want) {
		w.Errorf("%s: the folder has the files %q, want %q", name, got, want)
	}
	if got, want := w.records(folder), w.records(w.master); got != want {
		w.Errorf("%s: the database has %d records, want %d", name, got, want)
	}
}

// TestInterrupt ends every long command in the middle of each of its steps.
func TestInterrupt(t *testing.T) {
	walk := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	args := walk.args()
	w := interruptWalk{t, t.TempDir()}
	data := filepath.Join(w.master, "data")
	a := newTestApp(t, func(c *Config) { c.Server.Data = data })
	a.operate(201, "POST", "/admin/v1/keys", `{"name": "k", "permissions": ["can_read_calls"]}`)
	if err := os.Rename(a.saveBackup(), filepath.Join(w.master, "backup.db")); err != nil {
		t.Fatal(err)
	}
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "a", "last_name": "b", "email": "a@example.net"}`)
	if err := errors.Join(a.Close(), os.Remove(filepath.Join(data, lockFile))); err != nil {
		t.Fatal(err)
	}
	a.App = nil

	for _, command := range []string{"restore FOLDER/backup.db", "restore FOLDER/backup.db --dry-run", "compact", "check FOLDER/backup.db"} {
		line := strings.Fields(command)
		exit, errs, _, steps := w.run(interruptedRun{args: line})
		if exit != 0 || len(steps) < 2 {
			t.Fatalf("%s: got exit code %d, %s, with the steps %q", command, exit, errs, steps)
		}
		for _, step := range steps {
			w.unchanged(command+", "+step, interruptedRun{args: line, step: step})
		}
	}
	for _, n := range []int{1, 20} {
		w.unchanged("check", interruptedRun{args: []string{"check"}, wrap: duringCheck(n)})
		w.unchanged("backup", interruptedRun{args: []string{"backup", "FOLDER/new.db"}, wrap: duringCheck(n)})
		w.unchanged("backup in the data folder", interruptedRun{args: []string{"backup", "FOLDER/data/new.db"}, wrap: duringCheck(n)})
	}
	w.unchanged("backup, receiving", interruptedRun{args: []string{"backup", "FOLDER/new.db"}, wrap: duringAnswer})
	imports := 0
	for _, name := range leaves(cli.Tree(walk.environment("", io.Discard, io.Discard)), "") {
		if !strings.HasSuffix(name, " import") {
			continue
		}
		imports++
		line := append(strings.Fields(name), args[name]()...)
		w.unchanged(name+", reading", interruptedRun{args: append(strings.Fields(name), "-"), read: true})
		w.unchanged(name+", sending", interruptedRun{args: line, wrap: duringBody})
		exit, errs, folder, _ := w.run(interruptedRun{args: line, wrap: afterBody})
		if exit != 130 || !strings.Contains(errs, "all rows are stored") {
			t.Errorf("%s, storing: got exit code %d, %q, want 130 and that all is stored", name, exit, errs)
		}
		if got, was := w.records(folder), w.records(w.master); got <= was {
			t.Errorf("%s, storing: the database has %d records, want more than the %d before", name, got, was)
		}
	}
	if imports < 8 {
		t.Errorf("got %d commands that import, want 8 or more", imports)
	}
}
