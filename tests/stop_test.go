package tests

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"latchkey/tests/program"
)

// TestProgram_StopWithStream stops a server while a client reads a stream that has no end. The stream is cut off after
// shutdown_timeout, which is no failure: the exit code is 0, and the log says what happened.
func TestProgram_StopWithStream(t *testing.T) {
	gone := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: begun\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	defer upstream.Close()
	dir := t.TempDir()
	config, data := filepath.Join(dir, "latchkey.toml"), filepath.Join(dir, "data")
	text := "[server]\nshutdown_timeout = \"300ms\"\n\n[[permission]]\nname = \"can_use\"\n\n[[route]]\npath = \"/up/*rest\"\npermission = \"can_use\"\nupstream = \"" + upstream.URL + "\"\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := program.Serve(t, data, "--config", config)
	key, errs, exit := program.Run(t, "keys", "create", "--data", data, "--config", config, "--name", "reader", "--permission", "can_use")
	if exit != 0 {
		t.Fatal(errs)
	}
	r, err := http.NewRequest("GET", p.URL+"/up/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", strings.TrimSpace(key))
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	lines := bufio.NewReader(a.Body)
	if line, err := lines.ReadString('\n'); line != "data: begun\n" || err != nil {
		t.Fatalf("got %d %q, %v", a.StatusCode, line, err)
	}
	if code := p.Stop(t); code != 0 {
		t.Errorf("got exit code %d: %s", code, p.Out.Tail())
	}
	const want = "requests that were in progress for longer than shutdown_timeout were cut off"
	if !strings.Contains(p.Out.String(), want) {
		t.Errorf("the log does not say %q: %s", want, p.Out.Tail())
	}
	if rest, err := io.ReadAll(lines); err == nil && strings.Contains(string(rest), "data: begun") {
		t.Errorf("the stream has begun again: %q", rest)
	}
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the upstream does not learn that the client has gone")
	}
}
