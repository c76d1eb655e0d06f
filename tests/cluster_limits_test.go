//go:build unix

package tests

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestCluster_Limits sends the requests of one key to three nodes at once, of which one is killed meanwhile. Together they admit what one
// server admits: no more, and hardly less.
func TestCluster_Limits(t *testing.T) {
	c := newCluster(t, 1)
	names := []string{"a", "b", "c"}
	c.start(names...)
	const most, calls = 60, 12
	agent := map[string]any{"name": "Front desk", "phone_number": "+4930555001", "owner": "ann"}
	if err := c.nodes["a"].Socket().Do(t.Context(), "POST", "/admin/v1/agents", agent, nil); err != nil {
		t.Fatal(err)
	}
	k := c.change("a", "POST", "/admin/v1/keys", fmt.Sprintf(
		`{"name": "k", "owner": "ann", "permissions": ["can_read_agents"], "limits": {"requests_per_minute_limit": %d}}`, most))
	caller := c.change("a", "POST", "/admin/v1/keys", fmt.Sprintf(
		`{"name": "caller", "owner": "ann", "permissions": ["can_initiate_calls"], "limits": {"requests_per_minute_limit": 100000, "calls_per_day_limit": %d}}`, calls))
	if k.Code != http.StatusCreated || caller.Code != http.StatusCreated {
		t.Fatalf("create keys: %d %s, %d %s", k.Code, k.Fault, caller.Code, caller.Fault)
	}
	// spend lets nodes answer requests until all of them have refused for a second, and returns how many they have answered.
	spend := func(call apiCall, key made, names ...string) (admitted int64) {
		t.Helper()
		var passed, last atomic.Int64
		last.Store(time.Now().UnixNano())
		var asking sync.WaitGroup
		for _, name := range names {
			for range 3 {
				asking.Go(func() {
					for time.Now().UnixNano()-last.Load() < int64(time.Second) {
						switch status, body, _ := c.request(name, call, key.Key, key.At); status {
						case http.StatusOK, http.StatusCreated:
							passed.Add(1)
							last.Store(time.Now().UnixNano())
						case http.StatusTooManyRequests:
							time.Sleep(5 * time.Millisecond)
						default:
							t.Errorf("node %s: got %d %s", name, status, body)
							return
						}
					}
				})
			}
		}
		asking.Wait()
		return passed.Load()
	}
	list := apiCall{"GET", "/api/v1/agents", ""}
	began := time.Now()
	got := spend(list, k, names...)
	if got > most || got < most-3 {
		t.Errorf("three nodes have admitted %d requests of %d", got, most)
	}
	c.nodes["c"].Kill()
	c.start("c")
	more := spend(list, k, names...)
	switch took := time.Since(began); {
	case took < time.Minute && got+more > most:
		t.Errorf("after a node was killed, %d requests of %d were admitted within %s", got+more, most, took)
	case took >= time.Minute:
		t.Logf("this took %s, so that more requests may be admitted", took)
	}
	call := apiCall{"POST", "/api/v1/calls", `{"phone_number": "+4930555044", "agent_id": 1}`}
	if got := spend(call, caller, names...); got != calls {
		t.Errorf("three nodes have taken %d calls of %d", got, calls)
	}
}
