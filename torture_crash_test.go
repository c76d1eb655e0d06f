package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"latchkey/tests/program"
)

// The crash test starts the real program, loads it over HTTP, kills it at
// random points, every fifth time by SIGTERM, sent twice, and holds what is stored afterwards against what it had
// answered. Meanwhile backups are read, and streams of a guarded route stay open. LATCHKEY_CRASH_CYCLES sets how often
// the program is ended; a change gets by with few. Every hundred have a store of their own.
const (
	crashCycles = 20
	crashRound  = 100
)

const anyTarget = "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true"

func TestProgram_Crash(t *testing.T) {
	program.Rounds(t, "LATCHKEY_CRASH_CYCLES", crashCycles, crashRound, crash)
}

// crash ends a program a number of times.
func crash(t *testing.T, cycles int) {
	upstream := httptest.NewServer(http.HandlerFunc(streamOrAnswer))
	t.Cleanup(upstream.CloseClientConnections) // before Close, which waits for the streams
	t.Cleanup(upstream.Close)
	dir := t.TempDir()
	config, data := filepath.Join(dir, "latchkey.toml"), filepath.Join(dir, "data")
	// Each stop waits for the open stream.
	if err := os.WriteFile(config, fmt.Appendf(nil, "server.shutdown_timeout = \"300ms\"\n[[route]]\npath = \"/up/*rest\"\npermission = \"can_read_agents\"\nupstream = %q\n", upstream.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := func() *program.Server {
		return program.Serve(t, data, "--config", config, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	}
	p := serve()
	l := newLedger(t, p)
	create := func(limits map[string]int) string {
		var made struct{ Key string }
		body := map[string]any{"name": "tight", "owner": "tight", "permissions": []string{"can_read_agents"}, "limits": limits}
		if err := p.Socket().Do(context.Background(), "POST", "/admin/v1/keys", body, &made); err != nil {
			t.Fatal(err)
		}
		return made.Key
	}
	tight := map[string]int{} // by secret
	for _, limit := range []int{1, 5, 60} {
		tight[create(map[string]int{RequestsPerMinute: limit})] = limit
	}
	one := create(map[string]int{ConcurrentStreams: 1, RequestsPerMinute: 1_000_000})
	passed := map[string][]answer{}
	streams, backups := 0, 0
	for cycle := range cycles {
		t.Logf("cycle %d", cycle) // a sign of life
		stop := make(chan struct{})
		wait := l.load(p, stop, 0)
		var more sync.WaitGroup
		more.Go(func() {
			if p.Socket().Copy(context.Background(), "/admin/v1/backup", io.Discard) == nil {
				backups++
			}
		})
		more.Go(func() {
			// A crash must not leave a stream that counts for ever.
			if status, begun := stream(p, one); begun {
				streams++
			} else if status != 0 {
				t.Errorf("the only stream of a key: got %d", status)
			}
		})
		for secret := range tight {
			for i := range 3 {
				if a, _ := do("GET", p.URL+[]string{"/api/v1/agents", "/up/x"}[i%2], secret, nil); a.status == 200 {
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
		more.Wait()
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
	if streams == 0 || backups == 0 {
		t.Errorf("%d streams were opened and %d backups were complete, want some", streams, backups)
	}
	l.complete(t)
	t.Logf("%d ends, every fifth by SIGTERM, with %d open streams, %d backups complete; acknowledged: %s", cycles, streams, backups, l.counts())
}

// streamOrAnswer answers at once, or to /up/stream for as long as the client listens.
func streamOrAnswer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/up/stream" {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for range time.Tick(10 * time.Millisecond) {
		if _, err := io.WriteString(w, "data: x\n\n"); err != nil || http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
			return
		}
	}
}

// stream reads a stream until it is cut. begun says whether it was one; a status of 0 is no answer.
func stream(p *program.Server, key string) (status int, begun bool) {
	r, err := http.NewRequest("GET", p.URL+"/up/stream", nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-API-Key", key)
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, false
	}
	defer w.Body.Close()
	_, _ = io.Copy(io.Discard, w.Body) // nothing, if the server ended before the first event
	return w.StatusCode, w.StatusCode == 200
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
		if result, err := CheckStoreFile(path, Config{}, "", nil); err != nil || len(result.Problems) > 0 {
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

// What clients saw while they used one key all at once is held against a key
// that does one thing at a time: some order of the requests, each between its
// beginning and its end, must explain every answer. LATCHKEY_HISTORIES sets
// how many such rounds there are; a change gets by with few.
const histories = 25

// A deed is what one client does.
type deed struct {
	kind  string // ask, call, pause, resume, revoke, pass
	pass  time.Duration
	other bool // by the other key of the owner
	most  int  // what both keys may ask together, 0 for no bound
}

// state is the key as the model has it.
type state struct {
	Now             time.Duration
	Paused, Revoked bool
	Minute, Day     []time.Duration // when units were admitted
	Other           []time.Duration // the same of the other key's minute
	Both            []time.Duration // of what both share
}

const historyLimit = 5

// after does a deed to a state and gives the status it is answered with.
func (d deed) after(s state) (state, int) {
	spend := func(units *[]time.Duration, window time.Duration, status int) int {
		counted := live(*units, s.Now-window)
		if len(counted) >= historyLimit {
			return 429
		}
		*units = append(counted, s.Now)
		return status
	}
	switch d.kind {
	case "pass":
		s.Now += d.pass
		return s, 0
	case "pause", "resume":
		if s.Revoked {
			return s, 409
		}
		s.Paused = d.kind == "pause"
		return s, 200
	case "revoke":
		s.Revoked = true
		return s, 200
	}
	if s.Paused || s.Revoked {
		return s, 401
	}
	if d.kind == "call" {
		return s, spend(&s.Day, 24*time.Hour, 201)
	}
	if d.most > 0 {
		before := s
		if s.Both = live(s.Both, s.Now-time.Minute); len(s.Both) >= d.most {
			return before, 429
		}
		own := &s.Minute
		if d.other {
			own = &s.Other
		}
		status := spend(own, time.Minute, 200)
		if status == 429 {
			return before, 429
		}
		s.Both = append(s.Both, s.Now)
		return s, status
	}
	return s, spend(&s.Minute, time.Minute, 200)
}

// live leaves out what is over.
func live(units []time.Duration, since time.Duration) []time.Duration {
	return slices.DeleteFunc(slices.Clone(units), func(at time.Duration) bool { return at <= since })
}

// oneAtATime is the model for porcupine. Its states are JSON, to be compared.
var oneAtATime = porcupine.Model{
	Init: func() any { return "{}" },
	Step: func(before, input, output any) (bool, any) {
		var s state
		if err := json.Unmarshal([]byte(before.(string)), &s); err != nil {
			panic(err)
		}
		s, want := input.(deed).after(s)
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return want == output.(int), string(b)
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, " -> ", output) },
}

func TestHistories(t *testing.T) {
	rounds := program.Long(t, "LATCHKEY_HISTORIES", histories)
	a := newCallApp(t)
	// Time passes only where the state of the key stays: a request that was let
	// in before a pause may be counted after it, at a later time, so it has no
	// one moment at which it does both.
	for _, tt := range []struct {
		name, limits string
		deeds        []string
		refusal      int
		most         int // of both keys of the owner
	}{
		{"minute", `{"requests_per_minute_limit": 5}`, []string{"ask", "ask", "ask", "pass"}, 429, 0},
		{"owner", `{"requests_per_minute_limit": 5}`, []string{"ask", "ask", "ask", "pass"}, 429, 7},
		{"day", `{"requests_per_minute_limit": 1000000, "calls_per_day_limit": 5}`, []string{"call", "call", "call", "pass"}, 429, 0},
		{"state", `{"requests_per_minute_limit": 5}`, []string{"ask", "ask", "ask", "ask", "pause", "resume", "resume", "revoke"}, 401, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rounds, seen := rounds, map[int]int{}
			if tt.most > 0 {
				rounds = max(1, rounds/3)
			}
			for round := range rounds {
				a.clocks.Pass(time.Hour) // the refusals of the last round made the address slow
				seed := rand.Uint64()
				owner := `"owner": "admin"` // who has the agent that calls need
				if tt.most > 0 {
					owner = fmt.Sprintf(`"owner": "%s %d"`, tt.name, round)
				}
				id, secret := a.key(everyPermission, `"limits": `+tt.limits, owner)
				plan := historyPlan{id: id, secrets: [2]string{secret, secret}, deeds: tt.deeds, most: tt.most, random: rand.New(rand.NewPCG(seed, 0))}
				if tt.most > 0 {
					_, plan.secrets[1] = a.key(everyPermission, `"limits": `+tt.limits, owner)
					a.limitOwner(fmt.Sprintf("%s %d", tt.name, round), OwnerRequestsPerMinute, tt.most)
				}
				events := a.history(plan)
				for _, e := range events {
					seen[e.Output.(int)]++
				}
				if result := porcupine.CheckOperationsTimeout(oneAtATime, events, time.Minute); result != porcupine.Ok {
					for _, e := range events {
						t.Logf("client %d, %d to %d: %v -> %v", e.ClientId, e.Call, e.Return, e.Input, e.Output)
					}
					t.Fatalf("seed %d: no order explains these answers (%s)", seed, result)
				}
			}
			if seen[tt.refusal] == 0 { // or the rounds have shown nothing
				t.Errorf("no %d among the answers: %v", tt.refusal, seen)
			}
		})
	}
}

// historyPlan is what a history is made of.
type historyPlan struct {
	id      string
	secrets [2]string // two of one owner; the second is that of every other client
	deeds   []string
	most    int
	random  *rand.Rand
}

// history lets clients use keys at once and notes what they saw, and when by
// a counter that orders what one client saw after another.
func (a *testApp) history(p historyPlan) []porcupine.Operation {
	const each = 9
	clients := 6
	if p.most > 0 { // two keys have many more orders, all of which are tried
		clients = 4
	}
	var ticks atomic.Int64
	var mu sync.Mutex
	var events []porcupine.Operation
	var wg sync.WaitGroup
	for client := range clients {
		var plan []deed
		for range each {
			plan = append(plan, deed{
				kind: p.deeds[p.random.IntN(len(p.deeds))], pass: time.Duration(1+p.random.IntN(40)) * time.Second, other: client%2 == 1, most: p.most,
			})
		}
		wg.Go(func() {
			for _, d := range plan {
				e := porcupine.Operation{ClientId: client, Input: d, Call: ticks.Add(1)}
				e.Output = a.do(d, p.id, p.secrets[client%2])
				e.Return = ticks.Add(1)
				mu.Lock()
				events = append(events, e)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return events
}

func (a *testApp) do(d deed, id, secret string) int {
	switch d.kind {
	case "pass":
		a.clocks.Pass(d.pass)
		return 0
	case "ask":
		return a.ask("GET", "/api/v1/agents", secret, "").Code
	case "call":
		return a.ask("POST", "/api/v1/calls", secret, `{"phone_number": "+4930555044", "agent_id": 1}`).Code
	}
	return a.control("POST", "/admin/v1/keys/"+id+"/"+d.kind, "").Code
}
