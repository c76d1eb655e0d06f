package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A revocation binds every request that starts after its answer, whatever is
// under way at that moment. So do a pause and a rotation without overlap.
// LATCHKEY_CRASH_REVOCATIONS sets the number of rounds.
func TestProgram_RevocationRace(t *testing.T) {
	const clients = 64
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data, "LATCHKEY_LOG_ACCESS=false")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: time.Minute}
	get := func(key string) int {
		r, err := http.NewRequest("GET", p.url+"/api/v1/agents", nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("X-API-Key", key)
		w, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer w.Body.Close()
		_, _ = io.Copy(io.Discard, w.Body)
		return w.StatusCode
	}
	post := func(path string, body, into any) {
		t.Helper()
		if err := p.socket().Do(context.Background(), "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	rounds := long("LATCHKEY_CRASH_REVOCATIONS", 100)
	var served, late atomic.Int64
	for round := range rounds {
		var made struct{ ID, Key string }
		post("/admin/v1/keys", map[string]any{"name": "race", "permissions": []string{"can_read_agents"}, "limits": map[string]int{RequestsPerMinute: 10_000_000}}, &made)
		var done atomic.Bool // set after the answer
		var under atomic.Int64
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for {
					after := done.Load() // read before the request begins
					status := get(made.Key)
					under.Add(1)
					if status == 200 {
						served.Add(1)
					}
					if after && status == 200 {
						late.Add(1)
					}
					if status != 200 {
						if !after && status != 401 && status != 429 {
							t.Errorf("got %d", status)
						}
						return
					}
				}
			})
		}
		for under.Load() < int64(clients+rand.IntN(3*clients)) { // the crowd is at it
			time.Sleep(time.Millisecond)
		}
		path, body := "/revoke", any(nil)
		switch round % 4 {
		case 1:
			path = "/pause"
		case 2:
			path, body = "/rotate", map[string]any{"overlap_seconds": 0}
		}
		post("/admin/v1/keys/"+made.ID+path, body, nil)
		done.Store(true)
		if status := get(made.Key); status == 200 {
			t.Errorf("round %d: a request after the answer got 200", round)
		}
		wg.Wait()
		if t.Failed() || late.Load() > 0 {
			t.Fatalf("round %d: %d requests that began after the answer to %s got 200", round, late.Load(), path)
		}
	}
	if served.Load() < int64(rounds*clients) {
		t.Errorf("%d requests were served in %d rounds, too few to show anything", served.Load(), rounds)
	}
	t.Logf("%d rounds with %d clients, %d requests served, %d after an answer", rounds, clients, served.Load(), late.Load())
}
