package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"latchkey/tests/program"
)

// The crash test starts the real program, loads it over HTTP, kills it at
// random points, every fifth time by SIGTERM, sent twice, and holds what is stored afterwards against what it had
// answered. LATCHKEY_CRASH_CYCLES sets how often; a change gets by with few.
const crashCycles = 20

const anyTarget = "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true"

func TestProgram_Crash(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	serve := func() *program.Server { return program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget) }
	p := serve()
	l := newLedger(t, p)
	tight := map[string]int{} // by secret
	for _, limit := range []int{1, 5, 60} {
		var made struct{ Key string }
		body := map[string]any{"name": "tight", "permissions": []string{"can_read_agents"}, "limits": map[string]int{RequestsPerMinute: limit}}
		if err := p.Socket().Do(context.Background(), "POST", "/admin/v1/keys", body, &made); err != nil {
			t.Fatal(err)
		}
		tight[made.Key] = limit
	}
	passed := map[string][]answer{}
	cycles := program.Long(t, "LATCHKEY_CRASH_CYCLES", crashCycles)
	for cycle := range cycles {
		stop := make(chan struct{})
		wait := l.load(p, stop, 0)
		for secret := range tight {
			for range 3 {
				if a, _ := do("GET", p.URL+"/api/v1/agents", secret, nil); a.status == 200 {
					passed[secret] = append(passed[secret], a)
				}
			}
		}
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond) // the load has to run for a while before the kill
		if cycle%5 == 4 {                                               // that they are asked to end must cost nothing either
			p.Terminate()
			p.Terminate()
			if code := p.Wait(t); code != 0 {
				t.Errorf("SIGTERM under load: got exit code %d: %s", code, p.Out.Tail())
			}
		}
		p.Kill()
		close(stop)
		wait()
		problems, err := l.inspectCopy(t, data)
		if err != nil || len(problems) > 0 {
			t.Fatalf("after kill %d: %v, %v", cycle, problems, err)
		}
		p = serve()
	}
	passed[l.limited], tight[l.limited] = l.admitted, ledgerLimit
	for secret, limit := range tight {
		checkWindow(t, passed[secret], limit, time.Minute)
	}
	t.Logf("%d ends, every fifth by SIGTERM; acknowledged: %s", cycles, l.counts())
}

// checkWindow looks for a span in which more than limit requests were both
// sent and answered with success: then there were too many whatever the
// clocks say.
func checkWindow(t *testing.T, list []answer, limit int, span time.Duration) {
	t.Helper()
	for i, first := range list {
		n := 0
		for _, a := range list[i:] {
			if a.sent.Sub(first.sent) >= span {
				break
			}
			if a.got.Sub(first.sent) < span {
				n++
			}
		}
		if n > limit {
			t.Errorf("limit %d: %d requests passed within %s", limit, n, span)
			return
		}
	}
	if len(list) == 0 {
		t.Errorf("limit %d: no request passed at all", limit)
	}
}

// A backup under load opens, is whole, and holds everything that was
// acknowledged before it began. LATCHKEY_CRASH_BACKUPS sets how many there are.
func TestProgram_HotBackup(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	l := newLedger(t, p)
	l.load(p, nil, 3)()
	stop := make(chan struct{})
	wait := l.load(p, stop, 0)
	n := program.Long(t, "LATCHKEY_CRASH_BACKUPS", 5)
	for i := range n {
		began := time.Now()
		path := filepath.Join(memoryDir(t), "copy.db")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Socket().Copy(context.Background(), "/admin/v1/backup", f), f.Close()); err != nil {
			t.Fatal(err)
		}
		ended := time.Now()
		if result, err := CheckStoreFile(path); err != nil || len(result.Problems) > 0 {
			t.Errorf("backup %d: %v, %v", i, result.Problems, err)
		}
		// It is put where the database was, as a restore does.
		folder := copyFolder(t, data)
		if err := os.Rename(path, storePath(folder)); err != nil {
			t.Fatal(err)
		}
		if problems, err := l.inspect(folder, began, ended); err != nil || len(problems) > 0 {
			t.Errorf("backup %d: %v, %v", i, problems, err)
		}
		dropCopy(t, folder)
	}
	close(stop)
	wait()
	if code := p.Stop(t); code != 0 {
		t.Errorf("got exit code %d: %s", code, p.Out.Tail())
	}
	l.complete(t)
	t.Logf("%d backups under load; acknowledged: %s", n, l.counts())
}
