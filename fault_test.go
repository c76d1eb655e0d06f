//go:build linux

package main

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A write that fails must end the process with a code and a sentence, after an
// answer of 503: nobody can know what of the commit is on disk. The limit on
// the file's size stands in for a full disk. What was acknowledged before is
// there when the server is started again.
func TestProgram_FailedCommit(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	socket := NewSocketClient(filepath.Join(data, socketFile))
	var limit unix.Rlimit
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 64 << 10
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
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
	if acknowledged == 0 || err == nil || !strings.Contains(err.Error(), "takes no writes") {
		t.Fatalf("got %v after %d keys, want some keys and then the answer that the store takes no writes", err, acknowledged)
	}
	select {
	case err := <-p.end:
		close(p.end)
		if err == nil {
			t.Error("the process ended with code 0, want another one")
		}
	case <-time.After(time.Minute):
		t.Fatal("the process goes on after a failed commit")
	}
	if said := p.out.String(); !strings.Contains(said, "commit to") || !strings.Contains(said, "file too large") {
		t.Errorf("the last words do not say what failed: %s", said)
	}
	p = serveReal(t, data)
	fetch(t, http.DefaultClient, p.url+"/healthz")
	var list struct{ Count int }
	if err := socket.Do(context.Background(), "GET", "/admin/v1/keys", nil, &list); err != nil {
		t.Fatal(err)
	}
	if list.Count < acknowledged || list.Count > acknowledged+1 {
		t.Errorf("got %d keys after the restart, want the %d acknowledged ones and at most the one in doubt", list.Count, acknowledged)
	}
}
