package program

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a running server of the program. Its methods are safe for concurrent
// use.
type Server struct {
	Cmd   *exec.Cmd
	Data  string  // its data folder, "" if it has chosen one itself
	URL   string  // of the API, without a path; "" if the server did not start to listen
	Admin string  // address of the admin endpoint, as host:port
	Out   *Output // what it prints: the log, and standard output

	ended chan struct{} // closed when the process has ended
}

// Serve starts a server on free ports and waits until it listens. Of more, what
// is NAME=VALUE goes into the environment. The server is killed when the test
// ends.
func Serve(t testing.TB, data string, more ...string) *Server {
	t.Helper()
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, more...)
	if data != "" {
		args = append(args, "--data", data)
	}
	var environ []string
	args = slices.DeleteFunc(args, func(arg string) bool {
		variable := !strings.HasPrefix(arg, "-") && strings.Contains(arg, "=")
		if variable {
			environ = append(environ, arg)
		}
		return variable
	})
	cmd := Command(t, args...)
	cmd.Env = append(cmd.Env, environ...)
	return ServeCommand(t, cmd, data)
}

// ServeCommand starts a server by a command and waits until it listens.
func ServeCommand(t testing.TB, cmd *exec.Cmd, data string) *Server {
	t.Helper()
	s := StartCommand(t, cmd, data)
	if s.URL == "" {
		t.Fatalf("the server did not listen: %s", s.Out)
	}
	return s
}

// ServeLog is like ServeCommand, but once the server listens, its log goes to a
// writer. While that blocks, nobody reads the log.
func ServeLog(t testing.TB, cmd *exec.Cmd, data string, log io.Writer) *Server {
	t.Helper()
	s := start(t, cmd, data, log)
	if s.URL == "" {
		t.Fatalf("the server did not listen: %s", s.Out)
	}
	return s
}

// StartCommand starts a server by a command and waits until it listens or closes
// its log. The server is killed when the test ends.
func StartCommand(t testing.TB, cmd *exec.Cmd, data string) *Server {
	t.Helper()
	return start(t, cmd, data, nil)
}

// start is StartCommand. What follows the line that says where the server listens
// goes to log; nil: to Out.
func start(t testing.TB, cmd *exec.Cmd, data string, log io.Writer) *Server {
	t.Helper()
	s := &Server{Cmd: cmd, Data: data, Out: &Output{}, ended: make(chan struct{})}
	cmd.Stdout = s.Out
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewReader(logs)
	for s.URL == "" && err == nil {
		var text []byte
		text, err = lines.ReadBytes('\n')
		var line struct {
			Msg, API string
			Admin    string `json:"admin_addr"`
		}
		if json.Unmarshal(text, &line) == nil && line.Msg == "listening" {
			s.URL, s.Admin = line.API, line.Admin
		}
		_, _ = s.Out.Write(text)
	}
	if log == nil {
		log = s.Out
	}
	go func() {
		defer close(s.ended)
		_, _ = io.Copy(log, lines)
		_ = cmd.Wait() // Wait reports how it ended
	}()
	return s
}

// Launch starts a server by a command that says where it listens, and does not wait until it does. The server is killed when
// the test ends.
func Launch(t testing.TB, cmd *exec.Cmd, data, url string) *Server {
	t.Helper()
	s := &Server{Cmd: cmd, Data: data, URL: url, Out: &Output{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.Out, s.Out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	go func() {
		defer close(s.ended)
		_ = cmd.Wait() // Wait reports how it ended
	}()
	return s
}

// ServeFails starts a server on a folder, which has to end with exit code 1 and
// a message that contains want.
func ServeFails(t testing.TB, data, want string) {
	t.Helper()
	out, errs, exit := Run(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	if said := out + errs; exit != 1 || !strings.Contains(said, want) || strings.Contains(said, "panic") {
		t.Errorf("got exit %d, %q; want 1 with %q", exit, said, want)
	}
}

// Kill ends the server as a crash would, if it still runs.
func (s *Server) Kill() {
	_ = s.Cmd.Process.Kill()
	<-s.ended
}

// Ended reports whether the process has ended.
func (s *Server) Ended() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Terminate sends SIGTERM, if the server still runs, and does not wait.
func (s *Server) Terminate() { _ = s.Cmd.Process.Signal(syscall.SIGTERM) }

// Wait waits for a server that ends by itself or was asked to, and returns its
// exit code: -1 if a signal ended it.
func (s *Server) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatalf("the process still runs after %s: %s", patience, s.Out.Tail())
	}
	return s.Cmd.ProcessState.ExitCode()
}

// Stop ends the server by SIGTERM and returns its exit code.
func (s *Server) Stop(t testing.TB) int {
	t.Helper()
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return s.Wait(t)
}

// Fails waits for a server that ends by itself, with an exit code other than 0
// and a message that contains want.
func (s *Server) Fails(t testing.TB, want string) {
	t.Helper()
	if s.Wait(t) == 0 {
		t.Error("the process ended with code 0, want another one")
	}
	if !strings.Contains(s.Out.String(), want) {
		t.Errorf("got the last words %q, want %q", s.Out.Tail(), want)
	}
}

// Get asks the API with a key, and returns the status and the Retry-After.
func (s *Server) Get(t testing.TB, path, key string) (status int, retryAfter string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Header.Get("Retry-After")
}

// Socket returns a client of the server's control socket.
func (s *Server) Socket() *Client { return NewClient(s.Data) }

// Output is what a process prints. The zero value is ready; it is safe for
// concurrent use.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write is io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String returns everything that was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Tail returns the last 2,000 bytes.
func (o *Output) Tail() string {
	all := o.String()
	return all[max(0, len(all)-2000):]
}
