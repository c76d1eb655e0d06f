package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"latchkey/tests/program"
)

func TestProgram_Notify(t *testing.T) {
	n := program.ListenForNotices(t)
	c := program.Command(t, "serve", "--data", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	c.Env = append(c.Env, "NOTIFY_SOCKET="+n.Path, "WATCHDOG_USEC=100000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill() }()
	if got := n.Next(); !strings.HasPrefix(got, "READY=1\nSTATUS=API on 127.0.0.1:") {
		t.Errorf("got %q, want READY=1 first", got)
	}
	for range 3 {
		if got := n.Next(); got != "WATCHDOG=1" {
			t.Errorf("got %q, want a sign of life", got)
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := n.After("WATCHDOG=1"); got != "STOPPING=1" {
		t.Errorf("got %q, want STOPPING=1", got)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// startActivated starts the real program on sockets that the test holds, as a
// service manager does.
func startActivated(t *testing.T, data, notify string, sockets ...*os.File) *exec.Cmd {
	t.Helper()
	path := program.Path(t)
	c := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", path, "serve", "--data", data, "--listen", "192.0.2.1:1", "--admin-listen", "192.0.2.1:2")
	c.Env = []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=api:admin", "NOTIFY_SOCKET=" + notify, "LATCHKEY_SERVER_INSECURE_HTTP=true", "LATCHKEY_ADMIN_INSECURE_HTTP=true"}
	c.ExtraFiles = sockets
	c.Stderr = t.Output()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// hammer asks without a pause until it is told to stop, and counts what it got.
type hammer struct {
	url, key       string
	answers, fails atomic.Int64
	first          atomic.Pointer[string] // of the failures
	beat           chan struct{}          // after each answer
	stop           chan struct{}
	all            sync.WaitGroup
}

// wait waits for so many further answers.
func (h *hammer) wait(more int64) {
	for end := h.answers.Load() + more; h.answers.Load() < end; {
		<-h.beat
	}
}

func (h *hammer) run(client *http.Client, method, path, body string) {
	h.all.Go(func() {
		for {
			select {
			case <-h.stop:
				return
			default:
			}
			if err := h.ask(client, method, path, body); err != nil {
				h.fails.Add(1)
				text := err.Error()
				h.first.CompareAndSwap(nil, &text)
			}
			h.answers.Add(1)
			select {
			case h.beat <- struct{}{}:
			default:
			}
		}
	})
}

func (h *hammer) ask(client *http.Client, method, path, body string) error {
	r, err := http.NewRequestWithContext(context.Background(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-API-Key", h.key)
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	return nil
}

// With its sockets held by somebody else, the service is replaced under load
// and every request gets its answer.
func TestProgram_RestartUnderLoad(t *testing.T) {
	data, n := filepath.Join(t.TempDir(), "data"), program.ListenForNotices(t)
	var files []*os.File
	var url string
	for range 2 {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		if url == "" {
			url = "http://" + l.Addr().String()
		}
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_ = l.Close() // the file holds it
		files = append(files, f)
	}
	c := startActivated(t, data, n.Path, files...)
	if got := n.Next(); !strings.Contains(got, "READY=1") || !strings.Contains(got, strings.TrimPrefix(url, "http://")) {
		t.Fatalf("got %q, want it ready on %s", got, url)
	}
	out, errs, exit := program.Run(t, "keys", "create", "--data", data, "--name", "load", "--permission", "all", "--limit", "requests_per_minute_limit=1000000", "--limit", "calls_per_day_limit=1000000", "--json")
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || exit != 0 {
		t.Fatalf("keys create: exit %d, %s %s", exit, out, errs)
	}
	if _, errs, exit := program.Run(t, "agents", "create", "--data", data, "--name", "Front desk", "--role", "outbound agent", "--phone", "+4930555001"); exit != 0 {
		t.Fatalf("agents create: exit %d, %s", exit, errs)
	}
	h := &hammer{url: url, key: made.Key, beat: make(chan struct{}, 1), stop: make(chan struct{})}
	client := func(keep bool) *http.Client {
		tr := &http.Transport{DisableKeepAlives: !keep}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: time.Minute}
	}
	for range 3 {
		h.run(client(true), "GET", "/api/v1/agents", "")
		h.run(client(false), "GET", "/api/v1/agents", "")
	}
	// A POST is not sent twice, so not over a connection that may be closing.
	h.run(client(false), "POST", "/api/v1/calls", `{"phone_number": "+4930555044", "agent_id": 1}`)
	for range 3 {
		h.wait(200)
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatalf("stop: %v", err)
		}
		if got := n.Next(); got != "STOPPING=1" {
			t.Errorf("got %q, want STOPPING=1", got)
		}
		c = startActivated(t, data, n.Path, files...)
		if got := n.Next(); !strings.Contains(got, "READY=1") {
			t.Errorf("got %q, want READY=1", got)
		}
	}
	h.wait(200)
	close(h.stop)
	h.all.Wait()
	t.Logf("%d answers over 3 restarts, %d failures", h.answers.Load(), h.fails.Load())
	if h.fails.Load() != 0 {
		t.Errorf("got %d failures of %d, want none; the first: %s", h.fails.Load(), h.answers.Load(), *h.first.Load())
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// A request that is under way when the process is told to stop gets its answer,
// and what was reserved ahead of the limits is given back.
func TestProgram_GracefulStop(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	if _, errs, exit := program.Run(t, "agents", "create", "--data", data, "--name", "Front desk", "--role", "outbound agent", "--phone", "+4930555001"); exit != 0 {
		t.Fatalf("agents create: exit %d, %s", exit, errs)
	}
	out, _, _ := program.Run(t, "keys", "create", "--data", data, "--name", "slow", "--permission", "all", "--limit", "requests_per_minute_limit=80", "--json")
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p.Get(t, "/api/v1/agents", made.Key)
	}
	address := strings.TrimPrefix(p.URL, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = `{"phone_number": "+4930555044", "agent_id": 1}`
	if _, err := fmt.Fprintf(conn, "POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", made.Key, len(body)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100") { // the body is being waited for
		t.Fatalf("got %q, %v; want 100 Continue", line, err)
	}
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for { // until the door is closed
		c, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadString('\n'); err != nil { // the end of 100 Continue
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	_, _ = said.ReadFrom(answer.Body)
	if answer.StatusCode != http.StatusCreated {
		t.Errorf("the request under way: got %d %s, want 201", answer.StatusCode, &said)
	}
	if exit := p.Wait(t); exit != 0 {
		t.Errorf("stop: got exit %d, %s", exit, p.Out)
	}
	p = program.Serve(t, data)
	r, err := http.NewRequestWithContext(t.Context(), "GET", p.URL+"/api/v1/agents", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", made.Key)
	again, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Body.Close()
	if got := again.Header.Get("X-RateLimit-Remaining"); got != "76" {
		t.Errorf("after the restart: got %s of 80 remaining, want 76: 4 requests were made, and no more is reserved", got)
	}
}
