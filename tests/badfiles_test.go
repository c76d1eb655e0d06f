//go:build linux

package tests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchkey/tests/program"
)

// stockedFolder gives a data folder that was used and stopped, and a key of it.
func stockedFolder(t testing.TB) (data, key string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	out, errs, exit := program.Run(t, "keys", "create", "--data", data, "--name", "kept", "--permission", "all")
	if exit != 0 {
		t.Fatalf("keys create: exit %d, %s", exit, errs)
	}
	if code := p.Stop(t); code != 0 {
		t.Fatalf("stop: exit %d, %s", code, p.Out.String())
	}
	return data, strings.TrimSpace(out)
}

// TestProgram_BadFiles puts things in the place of the files of a data folder.
// Each is refused at the start with a sentence that says what to do, nothing
// of the folder is changed, and with the right file back everything is there.
func TestProgram_BadFiles(t *testing.T) {
	data, key := stockedFolder(t)
	other, _ := stockedFolder(t)
	stranger, err := os.ReadFile(filepath.Join(other, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, b, 0o600) }
	}
	fifo := func(path string) error { return unix.Mkfifo(path, 0o600) }
	dir := func(path string) error { return os.Mkdir(path, 0o700) }
	gone := func(string) error { return nil }
	loop := func(path string) error { return os.Symlink(path, path) }
	for _, tt := range []struct {
		name, file string
		put        func(path string) error
		want       string
	}{
		{"database gone", storeFile, gone, "restore a backup"},
		{"database of zero bytes", storeFile, write(nil), "restore a backup"},
		{"database of one page", storeFile, write(stranger[:4096]), "restore a backup"},
		{"database of zeros", storeFile, write(make([]byte, len(stranger))), "restore a backup"},
		{"half a database", storeFile, write(stranger[:len(stranger)/2/4096*4096]), "restore a backup"},
		{"database of another folder", storeFile, write(stranger), "restore the right database"},
		{"text in place of the database", storeFile, write([]byte(strings.Repeat("SQLite format 3\x00", 2000))), "not a database of latchkey"},
		{"directory in place of the database", storeFile, dir, "not a regular file"},
		{"pipe in place of the database", storeFile, fifo, "not a regular file"},
		{"database that links to itself", storeFile, loop, "too many levels"},
		{"pepper gone", pepperFile, gone, "put the file back"},
		{"pepper empty", pepperFile, write(nil), "is empty"},
		{"pepper short", pepperFile, write([]byte("abcd1234")), "64 hex digits"},
		{"pepper no hex", pepperFile, write([]byte(strings.Repeat("pepper", 20))), "64 hex digits"},
		{"another pepper", pepperFile, write([]byte(strings.Repeat("ab", 32))), "put the right pepper file back"},
		{"directory in place of the pepper", pepperFile, dir, "not a regular file"},
		{"pipe in place of the pepper", pepperFile, fifo, "not a regular file"},
		{"id of another store", markFile, write([]byte("0123\n")), "belongs to another data folder"},
		{"pipe in place of the id", markFile, fifo, "not a regular file"},
		{"directory in place of the id", markFile, dir, "not a regular file"},
		{"directory in place of the lock", lockFile, dir, "is a directory"},
		{"pipe in place of the lock", lockFile, fifo, "lock file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(data, tt.file)
			if err := os.Rename(path, path+".good"); err != nil {
				t.Fatal(err)
			}
			if err := tt.put(path); err != nil {
				t.Fatal(err)
			}
			before := listing(t, data)
			program.ServeFails(t, data, tt.want)
			if after := listing(t, data); after != before {
				t.Errorf("the folder was changed: got\n%swant\n%s", after, before)
			}
			_ = os.Remove(path)
			if err := os.Rename(path+".good", path); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("id gone", func(t *testing.T) { // it can be made again from the database
		if err := os.Remove(filepath.Join(data, markFile)); err != nil {
			t.Fatal(err)
		}
		p := program.Serve(t, data)
		if got, _ := p.Get(t, "/api/v1/key", key); got != 200 {
			t.Errorf("the key: got %d, want 200", got)
		}
		p.Stop(t)
	})
	if said, errs, exit := program.Run(t, "check", "--data", data); exit != 0 {
		t.Errorf("check: exit %d, %s%s", exit, said, errs)
	}
}

// listing tells the names, kinds and sizes of what is in a folder.
func listing(t testing.TB, dir string) (list string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size := info.Size()
		if e.Name() == lockFile {
			size = 0 // it holds the process id, of which the digits vary
		}
		list += fmt.Sprintln(e.Name(), e.Type(), size)
	}
	return list
}

// A database that is moved away or replaced under the running server must end
// it: what it writes from then on would be lost. Nothing is acknowledged that
// is not in the file that has the name.
func TestProgram_FileMoved(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		move       func(data, path string) error
	}{
		{"renamed", "was moved or removed", func(_, path string) error { return os.Rename(path, path+".away") }},
		{"removed", "was moved or removed", func(_, path string) error { return os.Remove(path) }},
		{"replaced", "was replaced", func(_, path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path+".copy", b, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".copy", path)
		}},
		{"folder renamed", "was moved or removed", func(data, _ string) error { return os.Rename(data, data+"-away") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			p := program.Serve(t, data)
			client := program.NewClient(data)
			if tt.name == "folder renamed" {
				client = program.NewClient(data + "-away")
			}
			if err := tt.move(data, filepath.Join(data, storeFile)); err != nil {
				t.Fatal(err)
			}
			err := client.Do(context.Background(), "POST", "/admin/v1/teams", map[string]any{"name": "late"}, nil)
			if err == nil {
				t.Error("a change was acknowledged that is in no file of that name")
			}
			p.Fails(t, tt.want)
		})
	}
}

// Many starts at once: one server comes up, the others end and name it. So do
// those that come by a link to the folder, and by a link to the database.
func TestProgram_RacingStarts(t *testing.T) {
	dir := t.TempDir()
	data, link := filepath.Join(dir, "data"), filepath.Join(dir, "link")
	if err := os.Symlink(data, link); err != nil {
		t.Fatal(err)
	}
	// A crash leaves its process id in the lock file, which must not be named.
	p := program.Serve(t, data)
	old := p.Cmd.Process.Pid
	p.Kill()
	const starts = 20
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	type outcome struct {
		pid  int
		said string
	}
	ended := make(chan outcome, starts)
	var running sync.Map
	for i := range starts {
		path := data
		if i%2 == 1 {
			path = link
		}
		cmd := program.Command(t, "serve", "--data", path, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
		out := &program.Output{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running.Store(cmd.Process.Pid, cmd)
		go func() {
			_ = cmd.Wait()
			running.Delete(cmd.Process.Pid)
			ended <- outcome{cmd.Process.Pid, out.String()}
		}()
	}
	var losers []outcome
	for len(losers) < starts-1 {
		select {
		case o := <-ended:
			losers = append(losers, o)
		case <-ctx.Done():
			t.Fatalf("%d of %d starts ended, want all but one", len(losers), starts)
		}
	}
	var winner int
	running.Range(func(pid, _ any) bool {
		winner = pid.(int)
		return true
	})
	if winner == 0 || winner == old {
		t.Fatalf("process %d won", winner)
	}
	for _, o := range losers {
		if want := fmt.Sprintf("in use by process %d;", winner); !strings.Contains(o.said, want) {
			t.Errorf("process %d: got %q, want %q", o.pid, o.said, want)
		}
	}
	// The database alone, in a folder of its own.
	third := filepath.Join(dir, "third")
	if err := os.Mkdir(third, 0o700); err != nil {
		t.Fatal(err)
	}
	pepper, err := os.ReadFile(filepath.Join(data, pepperFile))
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, third, pepperFile, string(pepper))
	if err := os.Symlink(filepath.Join(data, storeFile), filepath.Join(third, storeFile)); err != nil {
		t.Fatal(err)
	}
	program.ServeFails(t, third, "another process has the file open")
	if err := unix.Kill(winner, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if o := <-ended; o.pid != winner {
		t.Errorf("process %d ended, want %d", o.pid, winner)
	}
}

// Out of file descriptors, the server answers who is connected and comes back
// to the others.
func TestProgram_Descriptors(t *testing.T) {
	data, key := stockedFolder(t)
	p := program.Serve(t, data)
	pid := p.Cmd.Process.Pid
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var normal unix.Rlimit
	few := unix.Rlimit{Cur: uint64(len(open) + 6)}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &normal); err != nil {
		t.Fatal(err)
	}
	held := dial(t, p.URL, 1)[0] // a client of before, which keeps its connection
	if status := held.ask(t, key); status != 200 {
		t.Fatalf("got %d, want 200", status)
	}
	few.Max = normal.Max
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	crowd := dial(t, p.URL, 60)
	if status := held.ask(t, key); status != 200 {
		t.Errorf("who is connected: got %d, want 200", status)
	}
	for _, c := range crowd {
		_ = c.Close()
	}
	if got, _ := p.Get(t, "/api/v1/key", key); got != 200 {
		t.Errorf("after the crowd has gone: got %d, want 200", got)
	}
	client := program.NewClient(data)
	if err := client.Do(context.Background(), "POST", "/admin/v1/teams", map[string]any{"name": "t"}, nil); err != nil {
		t.Errorf("a change: %v", err)
	}
	if exit := p.Stop(t); exit != 0 {
		t.Errorf("got exit %d, want 0; %s", exit, p.Out.String())
	}
}

// Out of memory, the process ends, and everything that it acknowledged is
// there when it starts again. A small GOMEMLIMIT alone only makes it slower.
func TestProgram_Memory(t *testing.T) {
	data, key := stockedFolder(t)
	p := program.Serve(t, data)
	size, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(size))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	most := pages*uint64(os.Getpagesize()) + 2<<20
	if err := unix.Prlimit(p.Cmd.Process.Pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
		t.Fatal(err)
	}
	client := program.NewClient(data)
	large := map[string]any{"contacts": strings.Repeat("x", 4<<20)}
	var mu sync.Mutex
	acknowledged := 0
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			for range 40 {
				body := map[string]any{"name": "m", "permissions": []string{"can_read_calls"}}
				if client.Do(context.Background(), "POST", "/admin/v1/keys", body, nil) == nil {
					mu.Lock()
					acknowledged++
					mu.Unlock()
				}
				// What is taken whole into memory, with that of the others beside it.
				err := client.Do(context.Background(), "POST", "/admin/v1/contacts/import", large, nil)
				if gone, ok := errors.AsType[*net.OpError](err); ok && gone.Op == "dial" {
					return // its memory has run out
				}
			}
		})
	}
	wg.Wait()
	p.Fails(t, "goroutine") // the Go runtime's own last words
	p = program.Serve(t, data, "GOMEMLIMIT=1MiB")
	var list struct{ Count int }
	if err := client.Do(context.Background(), "GET", "/admin/v1/keys", nil, &list); err != nil || list.Count < acknowledged+1 {
		t.Errorf("got %d keys, %v; want the %d that were acknowledged", list.Count, err, acknowledged+1)
	}
	var check struct{ Problems []string }
	if err := client.Do(context.Background(), "POST", "/admin/v1/check", nil, &check); err != nil || len(check.Problems) > 0 {
		t.Errorf("check: %v, %v", check.Problems, err)
	}
	if got, _ := p.Get(t, "/api/v1/key", key); got != 200 {
		t.Errorf("the key of before: got %d, want 200", got)
	}
	t.Logf("%d keys acknowledged before the memory ran out", acknowledged)
}

// connection is one that a client keeps open to the API.
type connection struct{ net.Conn }

// dial opens connections to a server, which it need not have taken yet.
func dial(t testing.TB, url string, n int) (all []connection) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		all = append(all, connection{c})
	}
	return all
}

// ask asks who a key is, and gives the status.
func (c connection) ask(t testing.TB, key string) int {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET /api/v1/key HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\n\r\n", key); err != nil {
		t.Fatal(err)
	}
	w, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if _, err := io.Copy(io.Discard, w.Body); err != nil {
		t.Fatal(err)
	}
	return w.StatusCode
}

// A write that fails must end the process with a code and a sentence, after an
// answer of 503: nobody can know what of the commit is on disk. The limit on
// the file's size stands in for a full disk. What was acknowledged before is
// there when the server is started again.
func TestProgram_FailedCommit(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	socket := program.NewClient(data)
	var limit unix.Rlimit
	if err := unix.Prlimit(p.Cmd.Process.Pid, unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 64 << 10
	if err := unix.Prlimit(p.Cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	var err error
	for err == nil && acknowledged < 10_000 {
		body := map[string]any{"name": "x", "permissions": []string{"can_read_calls"}, "metadata": map[string]string{"note": strings.Repeat("n", 400)}}
		if err = socket.Do(context.Background(), "POST", "/admin/v1/keys", body, nil); err == nil {
			acknowledged++
		}
	}
	if acknowledged == 0 || err == nil || !strings.Contains(err.Error(), "can be stored at present") {
		t.Fatalf("got %v after %d keys, want some keys and then the answer that nothing can be stored", err, acknowledged)
	}
	p.Fails(t, "commit to")
	if said := p.Out.String(); !strings.Contains(said, "file too large") {
		t.Errorf("the last words do not say what failed: %s", said)
	}
	p = program.Serve(t, data)
	p.Get(t, "/healthz", "")
	var list struct{ Count int }
	if err := socket.Do(context.Background(), "GET", "/admin/v1/keys", nil, &list); err != nil {
		t.Fatal(err)
	}
	if list.Count < acknowledged || list.Count > acknowledged+1 {
		t.Errorf("got %d keys after the restart, want the %d acknowledged ones and at most the one in doubt", list.Count, acknowledged)
	}
}
