package main

import (
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// How a key comes is counted for each way, over restarts and beside each other.
func TestKeyring_carriers(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000}`)
	counts := func() string {
		key := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
		return fmt.Sprint(key["carriers"], " ", key["query_last_at"], " ", key["query_last_ip"])
	}
	send := func(times int, query, header string) {
		var wg sync.WaitGroup
		for range times {
			wg.Go(func() {
				r := httptest.NewRequest("GET", "/api/v1/agents"+query, nil)
				if header != "" {
					r.Header.Set(header, secret)
				}
				w := httptest.NewRecorder()
				if a.api.ServeHTTP(w, r); w.Code != 200 {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
	}
	if got := counts(); got != "map[bearer:0 header:0 query:0] <nil> <nil>" {
		t.Errorf("never used: got %s", got)
	}
	send(7, "", "X-API-Key")
	send(3, "?api_key="+secret, "")
	a.clocks.Pass(time.Minute)
	a.ask("GET", "/api/v1/agents", secret, "")
	const first = "map[bearer:1 header:7 query:3] 2026-02-03T09:00:00Z 192.0.2.1"
	if got := counts(); got != first {
		t.Errorf("before it is stored: got %s, want %s", got, first)
	}
	for range 2 { // storing it counts nothing twice
		if err := a.Keyring.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := counts(); got != first {
			t.Errorf("stored: got %s, want %s", got, first)
		}
	}
	a.restart()
	send(2, "", "X-API-Key")
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", "")
	send(1, "", "X-API-Key") // by the earlier secret
	a.restart()
	if got, want := counts(), "map[bearer:1 header:10 query:3] 2026-02-03T09:00:00Z 192.0.2.1"; got != want {
		t.Errorf("after a rotation: got %s, want %s", got, want)
	}
	if w := a.ask("GET", "/api/v1/key", secret, ""); object(t, w.Body.String())["carriers"] != nil {
		t.Errorf("the holder sees how others send it: %s", w.Body)
	}
}

// A record of before carriers were counted is read, and counted on.
func TestKeyring_carriersOfOld(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(everyPermission)
	err := a.Store.Update(func(tx *Tx) error {
		return tx.Put("key_uses", []byte(id), []byte(`{"at":"2026-01-01T00:00:00Z","ip":"192.0.2.9","carrier":"query"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	key := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if key["last_used_by"] != "query" || fmt.Sprint(key["carriers"]) != "map[bearer:0 header:0 query:0]" {
		t.Errorf("got %v", key)
	}
	a.ask("GET", "/api/v1/agents", secret, "")
	a.restart()
	key = a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if key["last_used_by"] != "bearer" || fmt.Sprint(key["carriers"]) != "map[bearer:1 header:0 query:0]" {
		t.Errorf("got %v", key)
	}
}
