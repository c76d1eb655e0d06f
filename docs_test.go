package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDocs_Dialer builds the example of docs/dialer.md and lets it place calls
// of a real server.
func TestDocs_Dialer(t *testing.T) {
	text, err := os.ReadFile("docs/dialer.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```go\n")
	source, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("docs/dialer.md has no example")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"dialer.go": source, "go.mod": "module dialer\n\ngo 1.26\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", "dialer", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data := filepath.Join(dir, "data")
	p := serveReal(t, data)
	socket := NewSocketClient(filepath.Join(data, socketFile))
	post := func(path string, body, into any) {
		t.Helper()
		if err := socket.Do(context.Background(), "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	var token struct{ Token string }
	post("/admin/v1/tokens", map[string]any{"name": "dialer"}, &token)
	post("/admin/v1/agents", map[string]any{"name": "Front desk", "phone_number": "+4930555001"}, nil)
	var made struct{ Key string }
	post("/admin/v1/keys", map[string]any{"name": "caller", "permissions": []string{"can_initiate_calls"}}, &made)
	var door struct {
		Msg       string
		AdminAddr string `json:"admin_addr"`
	}
	for line := range strings.Lines(p.out.String()) {
		if json.Unmarshal([]byte(line), &door) == nil && door.AdminAddr != "" {
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dialer := exec.CommandContext(ctx, filepath.Join(dir, "dialer"), "-admin", "http://"+door.AdminAddr, "-calls", "2")
	dialer.Env = append(os.Environ(), "LATCHKEY_ADMIN_TOKEN="+token.Token)
	ended := make(chan error, 1)
	go func() {
		out, err := dialer.CombinedOutput()
		if err != nil || len(out) > 0 {
			err = fmt.Errorf("%v: %s", err, out)
		}
		ended <- err
	}()
	for range 2 { // while the dialer waits for them, or before
		r, err := http.NewRequestWithContext(ctx, "POST", p.url+"/api/v1/calls", strings.NewReader(`{"phone_number": "+4930555044", "agent_id": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", made.Key)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != 201 {
			t.Fatalf("got %d, want 201", answer.StatusCode)
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var list struct {
		Count int
		Calls []struct{ Status, Summary string }
	}
	if err := socket.Do(context.Background(), "GET", "/admin/v1/calls?status=completed", nil, &list); err != nil {
		t.Fatal(err)
	}
	if list.Count != 2 || list.Calls[0].Summary != "Spoke with +4930555044." {
		t.Errorf("got %+v, want both calls completed", list)
	}
}
