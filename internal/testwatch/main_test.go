//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// played returns what a watch prints for events, and whether the run has failed.
func played(t *testing.T, policy skips, events string) (string, bool) {
	t.Helper()
	var out bytes.Buffer
	w := newWatch(&out, time.Minute)
	w.read(strings.NewReader(events))
	failed := w.summarize(policy)
	return out.String(), failed
}

func TestWatch(t *testing.T) {
	const start = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"said by A\n"}
`
	for _, tt := range []struct {
		name, events string
		policy       skips
		fail         bool
		want, absent string
	}{
		{"passes", start + `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":2.5}
{"Action":"pass","Package":"p","Elapsed":3}`, skipsFail, false, "    2.5 s TestA of p\n1 passed, 0 failed, 0 skipped", "said by A"},
		{"fails", start + `{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, skipsPass, true, "said by A", "none"},
		{"never ends", start + `{"Action":"output","Package":"p","Output":"panic: timeout\n"}
{"Action":"fail","Package":"p"}`, skipsPass, true, "panic: timeout", "none"},
		{"does not build", `{"ImportPath":"p.test","Action":"build-output","Output":"undefined: x\n"}
{"Action":"fail","Package":"p","FailedBuild":"p.test"}`, skipsPass, true, "undefined: x", "ok"},
		{"skips", start + `{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, skipsPass, false, "0 passed, 0 failed, 1 skipped", "CI is set"},
		{"skips in CI", start + `{"Action":"skip","Package":"p","Test":"TestA/b"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, skipsFail, true, "TestA/b of p was skipped", "FAIL"},
		{"not of a test", "go: no such tool\n", skipsPass, false, "go: no such tool", "FAIL"},
	} {
		got, failed := played(t, tt.policy, tt.events)
		if failed != tt.fail || !strings.Contains(got, tt.want) || strings.Contains(got, tt.absent) {
			t.Errorf("%s: got failed %t, %q; want %t, with %q and without %q", tt.name, failed, got, tt.fail, tt.want, tt.absent)
		}
	}
}

func TestWatch_Stuck(t *testing.T) {
	began := time.Now()
	w := newWatch(&bytes.Buffer{}, time.Minute)
	at := func(after time.Duration, action, test string) {
		w.handle(event{Action: action, Package: "p", Test: test}, began.Add(after))
	}
	stuck := func(after time.Duration, want string) {
		t.Helper()
		if id, _ := w.stuckTest(began.Add(after)); id.name != want {
			t.Errorf("after %s: got %q, want %q", after, id.name, want)
		}
	}
	at(0, "run", "TestWaits")
	at(0, "pause", "TestWaits")
	at(0, "run", "TestLong")
	at(50*time.Second, "run", "TestLong/part")
	stuck(100*time.Second, "")
	at(100*time.Second, "output", "TestLong/part")
	stuck(160*time.Second, "")
	stuck(161*time.Second, "TestLong")
	at(170*time.Second, "pass", "TestLong")
	at(170*time.Second, "cont", "TestWaits")
	stuck(230*time.Second, "")
	stuck(231*time.Second, "TestWaits")
}

// A spread runs each test once, reports a test that fails and a process that dies, and passes on the
// arguments of tests.
func TestSpread(t *testing.T) {
	folder := t.TempDir()
	var source strings.Builder
	source.WriteString("package p\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n")
	for i := range 20 {
		body := "t.Log(\"runs\")"
		switch i {
		case 3:
			body = `t.Error("said by 3")`
		case 11:
			body = `if testing.Short() { println("dies"); os.Exit(3) }`
		}
		fmt.Fprintf(&source, "\nfunc Test%d(t *testing.T) { %s }\n", i, body)
	}
	source.WriteString("\nvar _ = os.Exit\n")
	for name, text := range map[string]string{"go.mod": "module p\n\ngo 1.26\n", "p_test.go": source.String()} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-timeout", "1m", "./..."}, "19 passed, 1 failed, 0 skipped"},
		{[]string{"-short", "-timeout=1m", "./..."}, "FAIL p, "},
	} {
		var out bytes.Buffer
		if code := run(&out, time.Minute, parted{folders: []string{"."}}, tt.args); code != 1 || !strings.Contains(out.String(), tt.want) || !strings.Contains(out.String(), "said by 3") {
			t.Errorf("%q: got %d and\n%s\nwant 1 and %q", tt.args, code, out.String(), tt.want)
		}
	}
}

// Some tests of a spread run without the race detector, the others with it.
func TestSpread_Plain(t *testing.T) {
	if testing.Short() {
		t.Skip("builds with the race detector")
	}
	folder := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":     "module p\n\ngo 1.26\n",
		"on_test.go": "//go:build race\n\npackage p\n\nconst raced = true\n", "off_test.go": "//go:build !race\n\npackage p\n\nconst raced = false\n",
		"p_test.go": "package p\n\nimport \"testing\"\n\n" +
			"func TestWalk_Pages(t *testing.T) { if raced { t.Error(\"raced\") } }\n\nfunc TestWalks(t *testing.T) { if !raced { t.Error(\"plain\") } }\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	for _, tt := range []struct {
		plain, args, want string
		code              int
	}{
		{`\.TestWalk_`, "-race", "2 passed, 0 failed", 0},
		{"", "-race", "1 passed, 1 failed", 1},
		{`\.TestWalk_`, "-v", "1 passed, 1 failed", 1},
		{"(", "-race", "-plain", 1},
	} {
		var out bytes.Buffer
		if code := run(&out, time.Minute, parted{[]string{"."}, tt.plain}, []string{tt.args, "./..."}); code != tt.code || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%q %s: got %d and\n%s\nwant %d and %q", tt.plain, tt.args, code, out.String(), tt.code, tt.want)
		}
	}
}
