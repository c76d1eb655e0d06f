package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// pieces gives a text in reads of some size.
type pieces struct {
	text []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.text)
	p.text = p.text[n:]
	return n, nil
}

// TestScanKeys hides keys in noise that looks like their beginning, also over
// the seams of the chunks, and wants each of them on its line.
func TestScanKeys(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var text bytes.Buffer
		var want []string
		line := 1
		for range rapid.IntRange(0, 12).Draw(rt, "parts") {
			noise := rapid.SampledFrom([]string{"\n", "klen_", "k", "klen_klen_", "GET /?api_key=", "\x00\xff", strings.Repeat("x", leakChunk-3), strings.Repeat("klen_\n", 100), NewSecret("klen_")[:40] + "\n", NewSecret("acme_")}).Draw(rt, "noise")
			text.WriteString(noise)
			line += strings.Count(noise, "\n")
			if rapid.Bool().Draw(rt, "key") {
				secret := NewSecret("klen_")
				text.WriteString(secret)
				want = append(want, fmt.Sprint(secret, ":", line))
			}
		}
		var got []string
		size := rapid.SampledFrom([]int{7, 1000, leakChunk, 10 * leakChunk}).Draw(rt, "size")
		err := ScanKeys(&pieces{text.Bytes(), size}, "klen_", func(secret string, line int) { got = append(got, fmt.Sprint(secret, ":", line)) })
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			rt.Fatalf("got %v, %v; want %v", got, err, want)
		}
	})
}

// TestScanKeys_LongLine reads a line of 15 MB, in one buffer, and passes on what
// the reader says.
func TestScanKeys_LongLine(t *testing.T) {
	secret := NewSecret("klen_")
	noise := strings.Repeat("klen-0123456789", 1<<20)
	found := 0
	allocs := testing.AllocsPerRun(1, func() {
		found = 0
		err := ScanKeys(io.MultiReader(strings.NewReader(noise), strings.NewReader(secret)), "klen_", func(s string, line int) {
			if s == secret && line == 1 {
				found++
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	if found != 1 || allocs > 20 {
		t.Errorf("got %d keys in %v allocations, want 1 in a handful", found, allocs)
	}
	broken := errors.New("broken")
	if err := ScanKeys(io.MultiReader(strings.NewReader(secret), failing{broken}), "klen_", func(string, int) {}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestProgram_KeyLife goes through the commands with the real program: with a
// server and without one.
func TestProgram_KeyLife(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	create := func(name string, more ...string) (id, key string) {
		t.Helper()
		out, errs, exit := run(t, append([]string{"keys", "create", "--data", data, "--name", name, "--permission", "can_read_agents", "--json"}, more...)...)
		if exit != 0 {
			t.Fatalf("create: exit %d, %s", exit, errs)
		}
		return member(t, out, "id"), member(t, out, "key")
	}
	id, first := create("first", "--environment", "live", "--owner", "ann")
	out, errs, exit := run(t, "keys", "rotate", id, "--overlap", "7d", "--data", data)
	second := strings.TrimSpace(out)
	if exit != 0 || !WellFormed(second, "klen_") || !strings.Contains(errs, "7d more") {
		t.Fatalf("rotate: exit %d, %q, %s", exit, out, errs)
	}
	status := func(when string, want map[string]int) {
		t.Helper()
		for key, code := range want {
			if got, _ := p.get(t, "/api/v1/agents", key); got != code {
				t.Errorf("%s, %s: got %d, want %d", when, Hint(key, "klen_"), got, code)
			}
		}
	}
	status("in the overlap", map[string]int{first: 200, second: 200})
	if out, _, exit := run(t, "keys", "show", "--data", data, id); exit != 0 || !strings.Contains(out, "secret until ") || strings.Count(out, "by header") != 2 {
		t.Errorf("show: exit %d, %s", exit, out)
	}
	if _, errs, exit := run(t, "keys", "rotate", "--data", data, "--finish", "--if-unused", "1h", id); exit != 1 || !strings.Contains(errs, "was used") {
		t.Errorf("finish while used: exit %d, %s", exit, errs)
	}
	if _, errs, exit := run(t, "keys", "rotate", "--data", data, "--finish", id); exit != 0 {
		t.Errorf("finish: exit %d, %s", exit, errs)
	}
	status("finished", map[string]int{first: 401, second: 200})
	if out, _, exit := run(t, "keys", "explain", "--data", data, id, "--method", "GET", "--path", "/api/v1/calls"); exit != 0 || !strings.Contains(out, "refused by permission: 403 permission_denied") {
		t.Errorf("explain: exit %d, %s", exit, out)
	}
	if out, _, exit := run(t, "keys", "list", "--data", data, "--environment", "live", "--owner", "ann"); exit != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("list: exit %d, %s", exit, out)
	}
	headerID, headerKey := create("header", "--query-allowed", "false")
	for _, step := range []struct {
		allowed string
		want    int
	}{{"", 401}, {"true", 200}, {"false", 401}, {"default", 200}} {
		if step.allowed != "" {
			run(t, "keys", "update", "--data", data, headerID, "--query-allowed", step.allowed)
		}
		if got := getQuery(t, p.url+"/api/v1/agents?api_key="+headerKey); got != step.want {
			t.Errorf("query-allowed %q: got %d, want %d", step.allowed, got, step.want)
		}
	}
	leakedLog(t, data, p, second, headerKey, create)
}

// leakedLog is about keys leaked and its exit codes.
func leakedLog(t *testing.T, data string, p *process, live, other string, create func(string, ...string) (string, string)) {
	t.Helper()
	goneID, gone := create("gone")
	run(t, "keys", "revoke", "--data", data, goneID)
	oldID, old := create("rotated")
	out, _, _ := run(t, "keys", "rotate", "--data", data, oldID)
	present := strings.TrimSpace(out)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/access.log": "GET /\nGET /?api_key=" + live + " 200\n" + live + "\n", "a/b/dump.bin": "\x00" + other + "\xff" + gone + NewSecret("klen_"), "old.txt": old + "\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secrets := []string{live, other, gone, old}
	for _, step := range []struct {
		args []string
		exit int
		want []string
	}{
		{[]string{dir}, 1, []string{"3 live keys were found", "access.log:2", "dump.bin:1", "revoked", "that are none here: 1"}},
		{[]string{filepath.Join(dir, "nothing")}, 1, []string{"no such file"}},
		{[]string{"--pattern"}, 0, []string{"klen_[0-9A-Za-z]{36}"}},
		{nil, 2, []string{"Try: latchkey keys leaked --help"}},
		{[]string{dir, "--revoke"}, 0, []string{"revoked now", "ended now"}},
		{[]string{dir}, 0, []string{"revoked"}},
	} {
		out, errs, exit := run(t, append([]string{"keys", "leaked", "--data", data}, step.args...)...)
		for _, want := range step.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("leaked %v: got %s%s, want %q", step.args, out, errs, want)
			}
		}
		if exit != step.exit {
			t.Errorf("leaked %v: got exit %d, want %d; %s", step.args, exit, step.exit, errs)
		}
		for _, secret := range secrets {
			if strings.Contains(out+errs, secret[5:20]) {
				t.Errorf("leaked %v prints a secret", step.args)
			}
		}
	}
	for key, want := range map[string]int{live: 401, other: 401, old: 401, present: 200} {
		if got, _ := p.get(t, "/api/v1/agents", key); got != want {
			t.Errorf("%s: got %d, want %d", Hint(key, "klen_"), got, want)
		}
	}
	export := filepath.Join(dir, "export.json")
	if err := os.WriteFile(export, []byte(`{"keys": [{"token": "`+sha("sk-x")+`", "key_alias": "x", "models": ["m"]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.stop(t)
	if _, errs, exit := run(t, "keys", "import", "--data", data, export, "--from", "litellm"); exit != 1 || !strings.Contains(errs, "--permission") {
		t.Errorf("import without a permission: exit %d, %s", exit, errs)
	}
	if out, errs, exit := run(t, "keys", "import", "--data", data, export, "--from", "litellm", "--permission", "all"); exit != 0 || !strings.Contains(out, "Imported 1 keys") || !strings.Contains(errs, "models has no counterpart") {
		t.Errorf("import: exit %d, %s%s", exit, out, errs)
	}
	if _, errs, exit := run(t, "keys", "import", "--data", data, export, "--from", "kong"); exit != 2 || !strings.Contains(errs, "unkey or litellm") {
		t.Errorf("import from elsewhere: exit %d, %s", exit, errs)
	}
}

// member gives a text member of a JSON object.
func member(t *testing.T, object, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(object), &v); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	text, _ := v[name].(string)
	return text
}

// getQuery asks with nothing but what the URL has.
func getQuery(t *testing.T, url string) int {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}
