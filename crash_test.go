package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// The crash test starts the real program, loads it over HTTP, kills it at
// random points and holds what it says afterwards against what it had
// answered. LATCHKEY_CRASH_CYCLES sets how often; a change gets by with few.
const crashCycles = 20

// answer is one request and what came of it, on the client's own clock.
type answer struct {
	sent, got time.Time
	status    int // 0: none came
}

// ledger is what clients were told.
type ledger struct {
	mu       sync.Mutex
	admitted map[string][]answer // by key
	calls    map[string]bool     // call ids that were acknowledged
	pending  int                 // calls asked for without an answer
	revoked  map[string]bool     // secrets whose revocation was acknowledged
	live     map[string]string   // id -> secret of keys whose creation was acknowledged
	unsure   map[string]bool     // ids whose revocation was asked for and not answered
}

func TestProgram_Crash(t *testing.T) {
	cycles := crashCycles
	if n, err := strconv.Atoi(os.Getenv("LATCHKEY_CRASH_CYCLES")); err == nil {
		cycles = n
	}
	data := filepath.Join(t.TempDir(), "data")
	l := &ledger{admitted: map[string][]answer{}, calls: map[string]bool{}, revoked: map[string]bool{}, live: map[string]string{}, unsure: map[string]bool{}}
	p := serveReal(t, data, "LATCHKEY_LOG_ACCESS=false")
	socket := NewSocketClient(filepath.Join(data, socketFile))
	ctx := context.Background()
	must := func(path string, body, into any) {
		t.Helper()
		if err := socket.Do(ctx, "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	must("/admin/v1/agents", map[string]any{"name": "A", "phone_number": "+4930555001"}, nil)
	var limited []string
	for _, limit := range []int{1, 5, 60, 500} {
		var made struct{ Key string }
		must("/admin/v1/keys", map[string]any{"name": "limited", "permissions": []string{"can_read_agents"}, "limits": map[string]int{RequestsPerMinute: limit}}, &made)
		limited = append(limited, made.Key)
	}
	var caller struct{ ID, Key string }
	must("/admin/v1/keys", map[string]any{"name": "caller", "permissions": []string{"can_initiate_calls", "can_read_calls"},
		"limits": map[string]int{RequestsPerMinute: 10_000_000, CallsPerDay: 1_000_000}}, &caller)
	for cycle := range cycles {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, key := range limited {
			wg.Go(func() { l.hammer(p.url, key, stop) })
		}
		wg.Go(func() { l.call(p.url, caller.Key, stop) })
		wg.Go(func() { l.churn(socket, stop) })
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond) // the load has to run for a while before the kill
		p.kill()
		close(stop)
		wg.Wait()
		p = serveReal(t, data, "LATCHKEY_LOG_ACCESS=false")
		l.check(t, p, socket, caller.Key, caller.ID)
		if t.Failed() {
			t.Fatalf("in cycle %d", cycle)
		}
	}
	for i, limit := range []int{1, 5, 60, 500} {
		l.checkWindow(t, limited[i], limit, time.Minute)
	}
	t.Logf("%d kills; %d calls, %d keys, %d revocations acknowledged", cycles, len(l.calls), len(l.live)+len(l.revoked), len(l.revoked))
}

// do sends a request and gives what came back; a zero status is no answer.
func do(method, url, key string, body []byte) (answer, []byte) {
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-API-Key", key)
	a := answer{sent: time.Now()}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		return a, nil
	}
	defer w.Body.Close()
	data, err := io.ReadAll(w.Body)
	if err != nil {
		return a, nil
	}
	a.got, a.status = time.Now(), w.StatusCode
	return a, data
}

func (l *ledger) hammer(url, key string, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if a, _ := do("GET", url+"/api/v1/agents", key, nil); a.status == 200 {
			l.mu.Lock()
			l.admitted[key] = append(l.admitted[key], a)
			l.mu.Unlock()
		}
	}
}

func (l *ledger) call(url, key string, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		a, data := do("POST", url+"/api/v1/calls", key, []byte(`{"phone_number": "+4930555044", "agent_id": 1}`))
		var made struct {
			CallID string `json:"call_id"`
		}
		l.mu.Lock()
		if a.status == 201 && json.Unmarshal(data, &made) == nil {
			l.calls[made.CallID] = true
		} else if a.status == 0 {
			l.pending++
		}
		l.mu.Unlock()
	}
}

// churn makes keys, revokes every other one and rotates half of the rest.
func (l *ledger) churn(socket *Client, stop chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		var made struct{ ID, Key string }
		err := socket.Do(context.Background(), "POST", "/admin/v1/keys", map[string]any{"name": "churn", "permissions": []string{"can_read_agents"}}, &made)
		if err != nil {
			continue
		}
		l.mu.Lock()
		l.live[made.ID] = made.Key
		l.mu.Unlock()
		if n%4 == 0 { // the secret until now holds too, so no answer means that one of them does
			var rotated struct{ Key string }
			if err := socket.Do(context.Background(), "POST", "/admin/v1/keys/"+made.ID+"/rotate", nil, &rotated); err == nil {
				l.mu.Lock()
				l.live[made.ID] = rotated.Key
				l.mu.Unlock()
			}
		}
		if n%2 == 0 {
			continue
		}
		err = socket.Do(context.Background(), "POST", "/admin/v1/keys/"+made.ID+"/revoke", nil, nil)
		l.mu.Lock()
		if err == nil {
			l.revoked[made.Key] = true
			delete(l.live, made.ID)
		} else {
			l.unsure[made.ID] = true
		}
		l.mu.Unlock()
	}
}

// check holds the restarted server against the ledger.
func (l *ledger) check(t *testing.T, p *process, socket *Client, key, id string) {
	t.Helper()
	sample := 0
	for secret := range l.revoked {
		if a, _ := do("GET", p.url+"/api/v1/key", secret, nil); a.status != 401 && a.status != 429 {
			t.Errorf("a revoked key is answered with %d", a.status)
		}
		if sample++; sample == 20 {
			break
		}
	}
	sample = 0
	for id, secret := range l.live {
		if a, _ := do("GET", p.url+"/api/v1/key", secret, nil); a.status != 200 && !l.unsure[id] {
			t.Errorf("a key whose creation was acknowledged is answered with %d", a.status)
		}
		if sample++; sample == 20 {
			break
		}
	}
	stored := map[string]bool{}
	for page := 1; ; page++ {
		a, data := do("GET", fmt.Sprintf("%s/api/v1/calls?limit=100&page=%d", p.url, page), key, nil)
		var list struct {
			Count int
			Calls []struct{ ID string }
		}
		if err := json.Unmarshal(data, &list); a.status != 200 || err != nil {
			t.Fatalf("list calls: %d %s", a.status, data)
		}
		for _, c := range list.Calls {
			stored[c.ID] = true
		}
		if len(list.Calls) == 0 {
			break
		}
	}
	for call := range l.calls {
		if !stored[call] {
			t.Errorf("the call %s was acknowledged and is not there", call)
		}
	}
	if extra := len(stored) - len(l.calls); extra < 0 || extra > l.pending {
		t.Errorf("%d calls are stored, %d were acknowledged and %d unanswered", len(stored), len(l.calls), l.pending)
	}
	var usage struct {
		Usage map[string]struct{ Used int }
	}
	if err := socket.Do(context.Background(), "GET", "/admin/v1/keys/"+id+"/usage", nil, &usage); err != nil {
		t.Fatal(err)
	}
	if got := usage.Usage[CallsPerDay].Used; got != len(stored) {
		t.Errorf("%d calls are stored and %d charged", len(stored), got)
	}
}

// checkWindow looks for a span in which more than limit requests were both
// sent and answered with success: then there were too many whatever the
// clocks say.
func (l *ledger) checkWindow(t *testing.T, key string, limit int, span time.Duration) {
	t.Helper()
	list := l.admitted[key]
	for i, first := range list {
		n := 0
		for _, a := range list[i:] {
			if a.got.Sub(first.sent) < span && !a.sent.Before(first.sent) {
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
