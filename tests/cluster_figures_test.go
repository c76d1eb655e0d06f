//go:build linux

package tests

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/tests/program"
)

// TestClusterFigures measures a cluster with three etcd servers, all on this machine, and prints the figures in docs/benchmarks.md. It checks
// only that the answers are right. Unless LATCHKEY_CLUSTER_FIGURES is set to the seconds that each load lasts, it only lets clients make
// changes for a moment:
//
//	LATCHKEY_CLUSTER_FIGURES=5 go test -v -timeout 30m -run TestClusterFigures ./tests
func TestClusterFigures(t *testing.T) {
	text := os.Getenv("LATCHKEY_CLUSTER_FIGURES")
	if text == "" {
		figuresOfChanges(t, 300*time.Millisecond)
		return
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 1 {
		t.Fatalf("LATCHKEY_CLUSTER_FIGURES is %q, want the seconds that each load lasts", text)
	}
	span := time.Duration(seconds) * time.Second
	load, _ := os.ReadFile("/proc/loadavg") // for people
	t.Logf("%d cores, load before %s", runtime.NumCPU(), strings.TrimSpace(string(load)))
	t.Run("changes", func(t *testing.T) { figuresOfChanges(t, span) })
	t.Run("leader", figuresOfLeader)
	t.Run("proxy", figuresOfProxy)
	t.Run("nodes", func(t *testing.T) { figuresOfNodes(t, span) })
}

// sample is an answer in a measured load.
type sample struct {
	at, took time.Duration // since the load began
	good     bool
}

// measured is a load of clients, and what they were answered, in the order of time.
type measured []sample

// measure runs clients until stop is closed. client returns a function that makes one request and reports whether its answer was right.
func measure(clients int, pause time.Duration, stop <-chan struct{}, client func(i int) func() bool) func() measured {
	var mu sync.Mutex
	var all measured
	var running sync.WaitGroup
	begun := time.Now()
	for i := range clients {
		running.Go(func() {
			ask, own := client(i), measured{}
			for more := true; more; {
				sent := time.Now()
				good := ask()
				own = append(own, sample{time.Since(begun), time.Since(sent), good})
				select {
				case <-stop:
					more = false
				case <-time.After(pause):
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	return func() measured {
		running.Wait()
		slices.SortFunc(all, func(a, b sample) int { return int(a.at - b.at) })
		return all
	}
}

// measureFor is measure for a time.
func measureFor(clients int, span time.Duration, client func(i int) func() bool) measured {
	stop := make(chan struct{})
	wait := measure(clients, 0, stop, client)
	time.Sleep(span)
	close(stop)
	return wait()
}

// bad returns how many answers were not right.
func (m measured) bad() (n int) {
	for _, s := range m {
		if !s.good {
			n++
		}
	}
	return n
}

// gap returns the longest time between two right answers.
func (m measured) gap() (longest time.Duration) {
	last := time.Duration(0)
	for _, s := range m {
		if s.good {
			longest, last = max(longest, s.at-last), s.at
		}
	}
	return longest
}

// String returns the rate and the percentiles.
func (m measured) String() string {
	var took []time.Duration
	for _, s := range m {
		took = append(took, s.took)
	}
	slices.Sort(took)
	if len(took) == 0 {
		return "no answer"
	}
	at := func(share float64) time.Duration {
		return took[min(len(took)-1, int(share*float64(len(took))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%.0f/s, p50 %s, p99 %s, longest %s, %d errors", float64(len(m))/m[len(m)-1].at.Seconds(), at(0.5), at(0.99), took[len(took)-1].Round(time.Millisecond), m.bad())
}

// figuresClient is an HTTP client with connections for many goroutines. They are closed when the test ends.
func figuresClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// asks returns a function that sends a request with a key, and reports whether the answer has a status.
func asks(client *http.Client, method, url, key string, want int) func(body string) bool {
	return func(body string) bool {
		r, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			return false
		}
		r.Header.Set("Authorization", "Bearer "+key)
		answer, err := client.Do(r)
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		var all bytes.Buffer
		_, err = all.ReadFrom(answer.Body)
		return err == nil && answer.StatusCode == want
	}
}

// creates returns a client for measure that creates contacts.
func creates(client *http.Client, url, key string) func() bool {
	n, ask := 0, asks(client, "POST", url+"/api/v1/contacts/create", key, http.StatusCreated)
	return func() bool {
		n++
		return ask(fmt.Sprintf(`{"first_name": "Oda %d", "company": "Ash & Co"}`, n))
	}
}

// verifies returns a client for measure that verifies a key.
func verifies(client *http.Client, url, key string) func() bool {
	ask := asks(client, "GET", url+"/api/v1/agents", key, http.StatusOK)
	return func() bool { return ask("") }
}

// figuresKey is what creates a key for the loads.
const figuresKey = `{"name": "figures", "permissions": ["can_read_agents", "can_read_contacts", "can_write_contacts"], "limits": {"requests_per_minute_limit": 100000000}}`

// newFiguresCluster starts a cluster and nodes with names from a on.
func newFiguresCluster(t *testing.T, n int) (c *clusterTest, names []string, key string) {
	t.Helper()
	// The times of etcd are those that it has without settings.
	c = newCluster(t, 3, "--heartbeat-interval=100", "--election-timeout=1000")
	for i := range n {
		names = append(names, string(rune('a'+i)))
	}
	c.usual = true
	c.start(names...)
	m := c.change("a", "POST", "/admin/v1/keys", figuresKey)
	if m.Code != http.StatusCreated {
		t.Fatalf("create a key: %d %s", m.Code, m.Fault)
	}
	for _, name := range names {
		if got := c.ask(name, m.Key, m.At); got != http.StatusOK {
			t.Fatalf("the key on %s: %d", name, got)
		}
	}
	return c, names, m.Key
}

// figuresOfChanges compares the changes of a server alone with those of a cluster.
func figuresOfChanges(t *testing.T, span time.Duration) {
	alone := program.Serve(t, filepath.Join(t.TempDir(), "alone"), "LATCHKEY_LOG_ACCESS=false")
	var made struct{ Key string }
	if err := alone.Socket().Do(context.Background(), "POST", "/admin/v1/keys", rawJSON(figuresKey), &made); err != nil {
		t.Fatal(err)
	}
	c, names, key := newFiguresCluster(t, 3)
	client := figuresClient(t)
	for _, clients := range []int{64, 1} {
		for _, tt := range []struct {
			what string
			at   func(i int) (url, key string)
		}{
			{"a server alone", func(int) (string, string) { return alone.URL, made.Key }},
			{"one node of three", func(int) (string, string) { return c.nodes["b"].URL, key }},
			{"all three nodes", func(i int) (string, string) { return c.nodes[names[i%3]].URL, key }},
		} {
			m := measureFor(clients, span, func(i int) func() bool {
				url, key := tt.at(i)
				return creates(client, url, key)
			})
			t.Logf("contacts created by %d clients, %s: %s", clients, tt.what, m)
			if m.bad() > 0 {
				t.Errorf("%s: %d requests failed", tt.what, m.bad())
			}
		}
	}
}

// rawJSON is a body that is JSON already.
type rawJSON string

// MarshalJSON implements json.Marshaler.
func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// figuresOfLeader kills the leader of etcd under load.
func figuresOfLeader(t *testing.T) {
	c, names, key := newFiguresCluster(t, 3)
	client := figuresClient(t)
	for round := range 5 {
		stop := make(chan struct{})
		writes := measure(12, time.Millisecond, stop, func(i int) func() bool { return creates(client, c.nodes[names[i%3]].URL, key) })
		reads := measure(6, time.Millisecond, stop, func(i int) func() bool { return verifies(client, c.nodes[names[i%3]].URL, key) })
		time.Sleep(time.Second)
		leader := c.etcd.Leader()
		c.etcd.Kill(leader)
		time.Sleep(5 * time.Second)
		close(stop)
		w, r := writes(), reads()
		t.Logf("the leader of etcd is killed, %d: longest time without a change %s, %d of %d changes failed; verifications: longest time without one %s, longest %s, %d of %d failed",
			round, w.gap().Round(time.Millisecond), w.bad(), len(w), r.gap().Round(time.Millisecond), slices.MaxFunc(r, func(a, b sample) int { return int(a.took - b.took) }).took.Round(time.Millisecond), r.bad(), len(r))
		if r.bad() > 0 {
			t.Error("verifications failed while etcd had no leader")
		}
		c.etcd.Start(leader)
		for _, name := range names {
			c.await(name, http.StatusOK)
		}
	}
}

// haproxyFigures is the recipe of docs/cluster.md.
const haproxyFigures = `global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option redispatch
frontend keys
    bind %s
    default_backend latchkey
backend latchkey
    balance hdr(Authorization)
    hash-type consistent
    option httpchk GET /readyz
    default-server check inter 1s fall 2 rise 1
`

// figuresOfProxy kills a node behind HAProxy.
func figuresOfProxy(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip(err)
	}
	c, names, _ := newFiguresCluster(t, 3)
	front := program.FreeAddresses(t, 1)[0]
	config := fmt.Sprintf(haproxyFigures, front)
	for _, name := range names {
		config += fmt.Sprintf("    server %s %s\n", name, strings.TrimPrefix(c.nodes[name].URL, "http://"))
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := exec.Command(haproxy, "-db", "-f", file)
	proxy.Stderr = os.Stderr
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = proxy.Process.Kill()
		_ = proxy.Wait()
	})
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.DialTimeout("tcp", front, time.Second); err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatal("HAProxy does not listen")
		}
	}
	var keys []made
	for range 24 {
		keys = append(keys, c.key("a"))
	}
	for _, name := range names {
		if got := c.ask(name, keys[len(keys)-1].Key, keys[len(keys)-1].At); got != http.StatusOK {
			t.Fatalf("a key on %s: %d", name, got)
		}
	}
	client := figuresClient(t)
	for _, name := range []string{"b", "c"} {
		stop := make(chan struct{})
		var each []func() measured
		for _, k := range keys {
			each = append(each, measure(1, 10*time.Millisecond, stop, func(int) func() bool { return verifies(client, "http://"+front, k.Key) }))
		}
		time.Sleep(2 * time.Second)
		c.nodes[name].Kill()
		time.Sleep(6 * time.Second)
		close(stop)
		total, failed, gap, hit := 0, 0, time.Duration(0), 0
		for _, wait := range each {
			m := wait()
			total, failed, gap = total+len(m), failed+m.bad(), max(gap, m.gap())
			if m.bad() > 0 {
				hit++
			}
		}
		t.Logf("node %s is killed behind HAProxy: %d of %d requests failed, with %d of %d keys; the longest time without a right answer for one key %s", name, failed, total, hit, len(keys), gap.Round(time.Millisecond))
		c.start(name)
		time.Sleep(3 * time.Second) // until HAProxy knows
	}
}

// figuresOfNodes verifies keys on one to eight nodes at once.
func figuresOfNodes(t *testing.T, span time.Duration) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		t.Skip(err)
	}
	c, names, key := newFiguresCluster(t, 8)
	for _, n := range []int{1, 2, 3, 4, 6, 8} {
		before := cpuOf(t, c, names[:n])
		outputs := make([][]byte, n)
		var running sync.WaitGroup
		for i, name := range names[:n] {
			running.Go(func() {
				outputs[i], _ = exec.Command(wrk, "-t1", "-c8", fmt.Sprintf("-d%ds", int(span.Seconds())), "-H", "X-API-Key: "+key, c.nodes[name].URL+"/api/v1/agents").CombinedOutput()
			})
		}
		running.Wait()
		used, requests := cpuOf(t, c, names[:n])-before, 0
		for _, out := range outputs {
			fields := strings.Fields(string(out))
			at := slices.Index(fields, "requests")
			if at < 1 || strings.Contains(string(out), "Non-2xx") {
				t.Fatalf("wrk: %s", out)
			}
			count, err := strconv.Atoi(fields[at-1])
			if err != nil {
				t.Fatalf("wrk: %s", out)
			}
			requests += count
		}
		t.Logf("%d nodes: %.0f verifications/s in sum, %.1f us of CPU time each", n, float64(requests)/span.Seconds(), used.Seconds()*1e6/float64(requests))
	}
}

// cpuOf returns the CPU time that nodes have used.
func cpuOf(t *testing.T, c *clusterTest, names []string) (sum time.Duration) {
	t.Helper()
	for _, name := range names {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.nodes[name].Cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
			ticks, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return sum
}
