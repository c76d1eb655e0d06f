package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// planServer answers requests to apply with plans, and counts those that are no dry run.
type planServer struct {
	t      *testing.T
	steps  string // the plan, as JSON
	secret string
	status int // of an answer that is no dry run
	made   int
	dir    string
	url    string
}

func newPlanServer(t *testing.T, steps string) *planServer {
	s := &planServer{t: t, steps: steps, secret: "[]", status: http.StatusOK, dir: t.TempDir()}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// ServeHTTP answers a request to apply.
func (s *planServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Dry         bool `json:"dry_run"`
		Fingerprint string
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != "/admin/v1/apply" {
		s.t.Errorf("got a request for %s, %v", r.URL.Path, err)
	}
	secrets := "[]"
	if !body.Dry {
		s.made++
		if secrets = s.secret; body.Fingerprint != "f1" {
			s.t.Errorf("the changes are asked for with the fingerprint %q, want that of the plan", body.Fingerprint)
		}
		if s.status != http.StatusOK {
			w.WriteHeader(s.status)
			_, _ = fmt.Fprint(w, `{"error": "conflict", "message": "it has changed"}`)
			return
		}
	}
	_, _ = fmt.Fprintf(w, `{"count": 1, "fingerprint": "f1", "message": "Done.", "plan": %s, "secrets": %s}`, s.steps, secrets)
}

// apply runs the command with a file.
func (s *planServer) apply(args ...string) (exit int, stdout, stderr string) {
	s.t.Helper()
	path := filepath.Join(s.dir, "keys.toml")
	if err := os.WriteFile(path, []byte("[[key]]\nref = \"a\"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var out, errs bytes.Buffer
	env := Environment{Stdin: strings.NewReader("yes\n"), Stdout: &out, Stderr: &errs, Environ: []string{"LATCHKEY_ADMIN_TOKEN=lka_x"}, Words: testWords()}
	exit = Run(context.Background(), append([]string{"latchkey", "--url", s.url, "apply", path}, args...), env)
	return exit, out.String(), errs.String()
}

const createStep = `[{"action": "create", "kind": "key", "ref": "a", "name": "k\u001b", "secret": true, "fields": [{"field": "paused", "before": null, "after": true}]}]`

// Secrets of a plan need a new file. They are in it and nowhere else.
func TestApply_Secrets(t *testing.T) {
	s := newPlanServer(t, createStep)
	s.secret = `[{"kind": "key", "id": "key_1", "ref": "a", "name": "k", "secret": "klen_canary"}]`
	exit, out, errs := s.apply("--dry-run")
	if want := "+ create key a (k?)\n    paused: true\nPlan: 1 to create, 0 to change, 0 to revoke, 0 to delete.\nDone.\n"; exit != 0 || out != want || s.made != 0 {
		t.Errorf("dry run: got %d, %q, %s, %d requests; want %q", exit, out, errs, s.made, want)
	}
	if exit, _, errs = s.apply(); exit != 1 || !strings.Contains(errs, "--secrets FILE") || s.made != 0 {
		t.Errorf("without --secrets: got %d, %s, %d requests", exit, errs, s.made)
	}
	path := filepath.Join(s.dir, "new.toml")
	if exit, _, errs = s.apply("--secrets", filepath.Join(s.dir, "none", "new.toml")); exit != 1 || s.made != 0 {
		t.Errorf("a folder that does not exist: got %d, %s, %d requests", exit, errs, s.made)
	}
	s.status = http.StatusConflict
	if exit, _, errs = s.apply("--secrets", path); exit != 1 || !strings.Contains(errs, "it has changed") || s.made != 1 {
		t.Errorf("refused: got %d, %s, %d requests", exit, errs, s.made)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file for secrets was left behind: %v", err)
	}
	s.status = http.StatusOK
	exit, out, errs = s.apply("--secrets", path)
	if exit != 0 || strings.Contains(out+errs, "canary") {
		t.Errorf("got %d, %s %s", exit, out, errs)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v; want a file only for its owner", info, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "[[secret]]\nkind = \"key\"\nref = \"a\"\nname = \"k\"\nid = \"key_1\"\nsecret = \"klen_canary\"\n" {
		t.Errorf("got %s, %v", text, err)
	}
	if exit, _, errs = s.apply("--secrets", path); exit != 1 || !strings.Contains(errs, "exists already") || s.made != 2 {
		t.Errorf("a file that exists: got %d, %s, %d requests", exit, errs, s.made)
	}
	if exit, out, errs = s.apply("--json", "--secrets", filepath.Join(s.dir, "json.toml")); exit != 0 || strings.Contains(out+errs, "canary") || !json.Valid([]byte(out)) {
		t.Errorf("--json: got %d, %s %s", exit, out, errs)
	}
}

// What ends needs --yes if there is no terminal, and is listed before.
func TestApply_Confirmation(t *testing.T) {
	s := newPlanServer(t, `[{"action": "revoke", "kind": "key", "id": "key_1", "ref": "a", "name": "k", "secret": false, "fields": []}]`)
	if exit, out, errs := s.apply("--prune"); exit != 1 || s.made != 0 || !strings.Contains(out, "- revoke key a (k)\n") || !strings.Contains(errs, "--yes") {
		t.Errorf("got %d, %s %s, %d requests", exit, out, errs, s.made)
	}
	if exit, _, errs := s.apply("--prune", "--yes"); exit != 0 || s.made != 1 {
		t.Errorf("with --yes: got %d, %s, %d requests", exit, errs, s.made)
	}
	for answer, agreed := range map[string]bool{"yes\n": true, "yes": true, "": false, "y\n": false, "no\n": false} {
		var out bytes.Buffer
		if err := endsQuestion(3).ask(strings.NewReader(answer), &out); (err == nil) != agreed || !strings.Contains(out.String(), "3 records") {
			t.Errorf("%q: got %v, %s", answer, err, out.String())
		}
	}
	if exit, out, _ := newPlanServer(t, "[]").apply(); exit != 0 || out != "Done.\n" {
		t.Errorf("no changes: got %d, %q", exit, out)
	}
}
