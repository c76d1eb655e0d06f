package tests

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"latchkey/tests/program"
)

// sampleCommand returns the command that runs a sample, and a name for it. It builds samples in Go. The
// command is nil if the interpreter of the sample is not installed.
func sampleCommand(t *testing.T, path string) (name string, command []string) {
	t.Helper()
	interpreter := map[string]string{".py": "python3", ".mjs": "node", ".sh": "sh"}[filepath.Ext(path)]
	if interpreter == "" {
		binary := filepath.Join(t.TempDir(), "sample")
		if out, err := exec.Command("go", "build", "-o", binary, "./"+path).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", path, err, out)
		}
		return path, []string{binary}
	}
	found, err := exec.LookPath(interpreter)
	if err != nil {
		return path, nil
	}
	return path, []string{found, path}
}

// TestSamples_Clients has each client send more requests than the limit of its key allows: it waits for
// Retry-After and all are answered. With a wrong key it fails, and does not wait.
func TestSamples_Clients(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "report") }))
	defer upstream.Close()
	dir := t.TempDir()
	overwrite(t, dir, "c.toml", fmt.Sprintf(`
[[limit]]
name = "reports"
window = "2s"
default = 2

[[permission]]
name = "can_read_reports"

[[route]]
path = "/reports/*rest"
permission = "can_read_reports"
limits = ["reports"]
upstream = %q
`, upstream.URL))
	s := program.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "c.toml"))
	for _, path := range []string{"docs/samples/client.sh", "docs/samples/client.py", "docs/samples/client.mjs", "docs/samples/client"} {
		t.Run(path, func(t *testing.T) {
			_, command := sampleCommand(t, path)
			if command == nil {
				t.Skip("its interpreter is not installed")
			}
			var made struct{ Key string }
			if err := s.Socket().Do(context.Background(), "POST", "/admin/v1/keys", map[string]any{"name": path, "permissions": []string{"can_read_reports"}}, &made); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			run := func(key string) (string, error) {
				c := exec.CommandContext(ctx, command[0], append(command[1:], s.URL+"/reports/today", "4")...)
				c.Env = append(os.Environ(), "LATCHKEY_KEY="+key)
				out, err := c.Output()
				return string(out), err
			}
			if out, err := run(made.Key); err != nil || strings.Count(out, "report") != 4 {
				t.Errorf("got %q, %v; want four answers", out, err)
			}
			if out, err := run(made.Key[:len(made.Key)-1]); err == nil || strings.Contains(out, "report") || ctx.Err() != nil {
				t.Errorf("a wrong key: got %q, %v; want an error", out, err)
			}
		})
	}
}

// TestSamples_Receivers sends each receiver a delivery of a real server, the same once more, and one
// with a wrong signature.
func TestSamples_Receivers(t *testing.T) {
	dir := t.TempDir()
	overwrite(t, dir, "c.toml", "[webhooks]\nallow_private_targets = true\n")
	s := program.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "c.toml"))
	for _, path := range []string{"docs/samples/receiver.py", "docs/samples/receiver.mjs", "docs/samples/receiver"} {
		t.Run(path, func(t *testing.T) {
			_, command := sampleCommand(t, path)
			if command == nil {
				t.Skip("its interpreter is not installed")
			}
			port := freePort(t)
			url := "http://127.0.0.1:" + port + "/"
			var made struct {
				ID     int
				Secret string
			}
			if err := s.Socket().Do(context.Background(), "POST", "/admin/v1/webhooks", map[string]any{"name": path, "url": url, "subscribed_events": []string{"key.created"}}, &made); err != nil {
				t.Fatal(err)
			}
			c := exec.Command(command[0], append(command[1:], port)...)
			c.Env = append(os.Environ(), "WEBHOOK_SECRET="+made.Secret)
			var out program.Output
			c.Stdout, c.Stderr = &out, &out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
			for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
				if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
					_ = conn.Close()
					break
				}
				if time.Since(begun) > time.Minute {
					t.Fatalf("the receiver does not listen: %s", out.String())
				}
			}
			var went struct {
				Success bool
				Status  int `json:"status_code"`
				Message string
			}
			if err := s.Socket().Do(context.Background(), "POST", fmt.Sprintf("/admin/v1/webhooks/%d/test", made.ID), map[string]any{}, &went); err != nil || !went.Success || went.Status != 204 {
				t.Fatalf("got %+v, %v; want 204 of the receiver: %s", went, err, out.String())
			}
			forged, err := http.NewRequest("POST", url, strings.NewReader(`{"event_type": "key.created"}`))
			if err != nil {
				t.Fatal(err)
			}
			forged.Header.Set("X-Klen-Signature", strings.Repeat("0", 64))
			forged.Header.Set("X-Klen-Delivery", "forged")
			answer, err := http.DefaultClient.Do(forged)
			if err != nil {
				t.Fatal(err)
			}
			if answer.Body.Close(); answer.StatusCode != 401 {
				t.Errorf("a wrong signature: got %d, want 401", answer.StatusCode)
			}
			if got := strings.TrimSpace(out.String()); got != "key.created" {
				t.Errorf("the receiver printed %q, want the event once", got)
			}
		})
	}
}

// freePort returns a port on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
