package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// server is a running server process.
type server struct {
	command *exec.Cmd
	url     string
	ready   time.Duration // from the start of the process to its first answer
	stderr  *firstLines
}

// firstLines is a writer that stores the first output of a process and searches it for a pattern.
type firstLines struct {
	mu    sync.Mutex
	text  bytes.Buffer
	want  *regexp.Regexp // the pattern
	found chan string    // receives the first submatch of the pattern
}

func (f *firstLines) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.text.Len() < 1<<16 {
		f.text.Write(p)
	}
	if m := f.want.FindSubmatch(f.text.Bytes()); m != nil {
		select {
		case f.found <- string(m[1]):
		default:
		}
	}
	return len(p), nil
}

// command returns a command whose output goes to standard error.
func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c
}

// The server that is measured has one core to itself. The load and the upstream of the proxies share
// the other core.
const (
	serverCore = "0"
	loadCore   = "1"
)

// launch starts the program in args on a core. It waits until the program has printed its URL, which
// is the first submatch of pattern, and until it has answered a request for path.
func (b *bench) launch(core, pattern, path string, args ...string) (*server, error) {
	c := exec.Command("taskset", append([]string{"-c", core}, args...)...)
	s := &server{command: c, stderr: &firstLines{want: regexp.MustCompile(pattern), found: make(chan string, 1)}}
	c.Env = append(os.Environ(), "LATCHKEY_LOG_ACCESS=false", "LATCHKEY_LOG_FORMAT=json", "LATCHKEY_AUDIT_MAX_ENTRIES=5000000")
	c.Stderr = s.stderr
	began := time.Now()
	if err := c.Start(); err != nil {
		return nil, err
	}
	select {
	case s.url = <-s.stderr.found:
	case <-time.After(time.Minute):
		return nil, s.stop(fmt.Errorf("%v did not print its address within a minute: %s", args, s.stderr.text.String()))
	}
	answer, err := http.Get(s.url + path)
	if err != nil {
		return nil, s.stop(err)
	}
	s.ready = time.Since(began)
	return s, answer.Body.Close()
}

// stop ends the process. It returns err joined with the errors of ending it.
func (s *server) stop(err error) error {
	_ = s.command.Process.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	waitErr := s.command.Wait()
	if errors.As(waitErr, &exit) && exit.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		waitErr = nil // the ceiling does not handle SIGTERM
	}
	return errors.Join(err, waitErr)
}

// ceiling returns a function that starts the program ceiling on a core. The ceiling answers requests
// for path.
func (b *bench) ceiling(core, path string, args ...string) func() (*server, error) {
	return func() (*server, error) {
		return b.launch(core, `listening on (http://\S+)`, path, append([]string{filepath.Join(b.dir, "ceiling"), "-path", path}, args...)...)
	}
}

// starter returns a function that starts latchkey with a data folder.
func (b *bench) starter(folder string, args ...string) func() (*server, error) {
	return b.programStarter(filepath.Join(b.dir, "latchkey"), folder, args...)
}

// programStarter is like starter, but starts the latchkey program at a path.
func (b *bench) programStarter(program, folder string, args ...string) func() (*server, error) {
	return func() (*server, error) {
		return b.launch(serverCore, `"api":"(http://[^"]+)"`, "/healthz", append([]string{program, "serve", "--data", filepath.Join(b.dir, folder),
			"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, args...)...)
	}
}

// latchkey runs a command of latchkey with a data folder and returns its standard output.
func (b *bench) latchkey(folder, stdin string, args ...string) ([]byte, error) {
	c := exec.Command(filepath.Join(b.dir, "latchkey"), append(args, "--data", filepath.Join(b.dir, folder))...)
	c.Stdin, c.Stderr = strings.NewReader(stdin), os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("latchkey %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// seed creates a data folder with an agent and some keys. It returns a function that starts a server
// with the folder, and the path of a file with the keys. In the folder "owners" each key has an owner
// and an agent of its own. It also saves an answer of the server, with
// which the ceiling answers.
func (b *bench) seed(folder string, count int) (start func() (*server, error), keys string, err error) {
	start = b.starter(folder)
	s, err := start()
	if err != nil {
		return nil, "", err
	}
	var list bytes.Buffer
	err = func() error {
		if _, err := b.latchkey(folder, "", "agents", "create", "--name", "Front desk", "--phone", "+4930555001"); err != nil {
			return err
		}
		for i := range count {
			args := []string{"keys", "create", "--name", fmt.Sprint("bench ", i), "--permission", "can_read_agents", "--permission", "can_initiate_calls",
				"--limit", "requests_per_minute_limit=1000000", "--limit", "calls_per_day_limit=1000000", "--json"}
			owner := fmt.Sprint("owner ", i)
			if folder == "owners" {
				args = append(args, "--owner", owner)
			}
			out, err := b.latchkey(folder, "", args...)
			if err == nil && folder == "owners" {
				_, err = b.latchkey(folder, "", "agents", "create", "--name", owner, "--owner", owner, "--phone", fmt.Sprintf("+4930555%04d", i))
			}
			if err != nil {
				return err
			}
			var made struct{ Key string }
			if err := json.Unmarshal(out, &made); err != nil {
				return err
			}
			fmt.Fprintln(&list, made.Key)
		}
		first, _, _ := strings.Cut(list.String(), "\n")
		return b.saveBody(s.url, first)
	}()
	if err := s.stop(err); err != nil {
		return nil, "", err
	}
	keys = filepath.Join(b.dir, folder+".keys")
	return start, keys, os.WriteFile(keys, list.Bytes(), 0o600)
}

// saveBody requests GET /api/v1/agents and stores the body of the answer for the ceiling.
func (b *bench) saveBody(url, key string) error {
	r, err := http.NewRequest("GET", url+"/api/v1/agents", nil)
	if err != nil {
		return err
	}
	r.Header.Set("X-API-Key", key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /api/v1/agents: status %d, %v", answer.StatusCode, err)
	}
	return os.WriteFile(filepath.Join(b.dir, "body"), body, 0o600)
}

// usage returns the CPU time that a process has used, and the memory that it has in RAM, in bytes.
func usage(pid int) (cpu time.Duration, rss int64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // fields[0] is the third field of the file
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, in 1/100 s
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		ticks += n
	}
	pages, err := strconv.ParseInt(fields[21], 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond, pages * int64(os.Getpagesize()), err
}
