//go:build unix

package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"latchkey/tests/program"
)

// clusterLease is the lease of the nodes in these tests.
const clusterLease = 2 * time.Second

// clusterTest is a cluster with its etcd.
type clusterTest struct {
	*testing.T
	etcd  *program.Etcd
	home  string // has the data folder of each node by its name
	nodes map[string]*program.Server
	links map[string][]*program.Link // by node, before each etcd server; a node without links reaches them directly
	usual bool                       // the nodes have the usual lease; they do not log requests
}

// newCluster starts an etcd of n servers with a new store. It starts no node. args are added to the command line of each etcd server.
func newCluster(t *testing.T, n int, args ...string) *clusterTest {
	t.Helper()
	c := &clusterTest{T: t, etcd: program.StartEtcd(t, n, args...), home: t.TempDir(), nodes: map[string]*program.Server{}}
	c.init()
	return c
}

// init creates the store, on node a.
func (c *clusterTest) init() {
	c.Helper()
	if _, errs, exit := program.RunCommand(c, c.command("a", "cluster", "init")); exit != 0 {
		c.Fatalf("cluster init: exit %d, %s", exit, errs)
	}
}

// folder returns the data folder of a node. A new one has the pepper of the cluster.
func (c *clusterTest) folder(name string) string {
	dir := filepath.Join(c.home, name)
	if err := os.Mkdir(dir, 0o700); err != nil || name == "a" {
		return dir
	}
	pepper, err := os.ReadFile(filepath.Join(c.home, "a", "pepper"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pepper"), pepper, 0o600)
	}
	if err != nil {
		c.Fatal(err)
	}
	return dir
}

// command returns a command of a node.
func (c *clusterTest) command(name string, args ...string) *exec.Cmd {
	cmd, endpoints := program.ClusterCommand(c, append(args, "--data", c.folder(name))...), c.etcd.Endpoints
	if links := c.links[name]; links != nil {
		endpoints = nil
		for _, link := range links {
			endpoints = append(endpoints, "https://"+link.Address)
		}
	}
	cmd.Env = append(cmd.Env, "LATCHKEY_CLUSTER_NAME="+name, "LATCHKEY_CLUSTER_ENDPOINTS="+strings.Join(endpoints, ","),
		"LATCHKEY_CLUSTER_CA_FILE="+c.etcd.Files.CA, "LATCHKEY_CLUSTER_CERT_FILE="+c.etcd.Files.Cert, "LATCHKEY_CLUSTER_KEY_FILE="+c.etcd.Files.Key,
		"LATCHKEY_LOG_ACCESS="+strconv.FormatBool(!c.usual))
	if !c.usual {
		cmd.Env = append(cmd.Env, "LATCHKEY_CLUSTER_LEASE="+clusterLease.String())
	}
	return cmd
}

// start starts nodes and waits until they serve.
func (c *clusterTest) start(names ...string) {
	c.Helper()
	for _, name := range names {
		c.nodes[name] = program.ServeCommand(c, c.command(name, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), c.folder(name))
	}
	for _, name := range names {
		c.await(name, http.StatusOK)
	}
}

// await waits until /readyz of a node answers with a status, and returns the answer.
func (c *clusterTest) await(name string, status int) (answer string) {
	c.Helper()
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		r, err := http.Get(c.nodes[name].URL + "/readyz")
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if answer = string(body); r.StatusCode == status {
			return answer
		}
	}
	c.Fatalf("node %s: /readyz never answered %d, but %s; %s", name, status, answer, c.nodes[name].Out.Tail())
	return ""
}

// made is the answer of the admin endpoint to a change.
type made struct {
	ID, Key   string
	Effective struct{ Nodes, Of, MS int }
	Code      int    `json:"-"` // status of the answer
	At        string `json:"-"` // Latchkey-At
	Fault     string `json:"-"` // the answer, if it is an error
}

// change sends a request to the control socket of a node.
func (c *clusterTest) change(name, method, path, body string) made {
	c.Helper()
	socket := http.Client{Transport: program.SocketTransport(c.folder(name))}
	r, err := http.NewRequest(method, "http://latchkey"+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := socket.Do(r)
	if err != nil {
		c.Fatal(err)
	}
	defer answer.Body.Close()
	var m made
	data, err := io.ReadAll(answer.Body)
	if err != nil || json.Unmarshal(data, &m) != nil && answer.StatusCode < 300 {
		c.Fatalf("%s %s: %d %s %v", method, path, answer.StatusCode, data, err)
	}
	m.At = answer.Header.Get("Latchkey-At")
	if m.Code = answer.StatusCode; m.Code >= 300 {
		m.Fault = string(data)
	}
	return m
}

// key creates a key on a node.
func (c *clusterTest) key(name string) made {
	c.Helper()
	m := c.change(name, "POST", "/admin/v1/keys", `{"name": "k", "owner": "ann", "permissions": ["can_read_agents", "can_read_contacts"], "limits": {"requests_per_minute_limit": 1000000}}`)
	if m.Code != http.StatusCreated {
		c.Fatalf("create a key on %s: %d %s", name, m.Code, m.Fault)
	}
	return m
}

// ask sends a request with a key to a node, which must answer from a state at or after at.
func (c *clusterTest) ask(name, key, at string) int {
	c.Helper()
	status, _, _ := c.request(name, apiCall{"GET", "/api/v1/agents", ""}, key, at)
	return status
}

// apiCall is a request to the API.
type apiCall struct{ method, path, body string }

// request sends a request with a key to a node, which must answer from a state at or after at. It returns the
// answer and its Latchkey-At. The status is 0 if there was no answer.
func (c *clusterTest) request(name string, call apiCall, key, at string) (status int, body, head string) {
	c.Helper()
	r, err := http.NewRequest(call.method, c.nodes[name].URL+call.path, strings.NewReader(call.body))
	if err != nil {
		c.Fatal(err)
	}
	r.Header.Set("X-API-Key", key)
	if at != "" {
		r.Header.Set("Latchkey-At", at)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", ""
	}
	defer answer.Body.Close()
	data, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(data), answer.Header.Get("Latchkey-At")
}

// TestCluster_Nodes has three nodes and one etcd server. Each change is seen on all nodes: a new key with
// Latchkey-At, and a revoked one refused everywhere as soon as the revocation is answered.
func TestCluster_Nodes(t *testing.T) {
	c := newCluster(t, 1)
	names := []string{"a", "b", "c"}
	c.start(names...)
	var took []time.Duration
	for i := range 30 {
		maker, ender := names[i%3], names[(i+1)%3]
		k := c.key(maker)
		for _, name := range names {
			if got := c.ask(name, k.Key, k.At); got != http.StatusOK {
				t.Fatalf("a key of %s on %s: got %d, want 200; Latchkey-At %q; %s", maker, name, got, k.At, c.nodes[name].Out.Tail())
			}
		}
		who := fmt.Sprint("Mara", i)
		status, body, at := c.request(maker, apiCall{"POST", "/api/v1/contacts/create", `{"first_name": "` + who + `"}`}, k.Key, k.At)
		if status != http.StatusCreated && status != http.StatusOK || at == "" {
			t.Fatalf("create a contact on %s: got %d %s, Latchkey-At %q", maker, status, body, at)
		}
		if status, body, _ := c.request(ender, apiCall{"GET", "/api/v1/contacts?search=" + who, ""}, k.Key, at); status != http.StatusOK || !strings.Contains(body, who) {
			t.Fatalf("a contact of %s is not seen on %s: %d %s", maker, ender, status, body)
		}
		began := time.Now()
		m := c.change(ender, "POST", "/admin/v1/keys/"+k.ID+"/revoke", "")
		took = append(took, time.Since(began))
		for _, name := range names {
			if got := c.ask(name, k.Key, ""); got != http.StatusUnauthorized {
				t.Fatalf("a key that %s has revoked is answered by %s with %d, want 401", ender, name, got)
			}
		}
		if m.Code != 200 || m.Effective.Nodes != 3 || m.Effective.Of != 3 {
			t.Fatalf("revoke on %s: got %+v, want 3 of 3 nodes", ender, m)
		}
	}
	slices.Sort(took)
	t.Logf("revoked on three nodes within p50 %s, p99 %s", took[len(took)/2], took[len(took)-1])

	list, errs, exit := program.RunCommand(t, c.command("a", "cluster", "nodes", "--json"))
	if exit != 0 || strings.Count(list, `"running": true`) != 3 {
		t.Errorf("cluster nodes: exit %d, %s %s; want three that run", exit, list, errs)
	}
	if strings.Count(list, `"config_differs": false`) != 3 || strings.Contains(list, `"config": ""`) {
		t.Errorf("got %s, want that all have the same configuration", list)
	}
	for _, name := range names {
		if code := c.nodes[name].Stop(t); code != 0 {
			t.Errorf("node %s ended with %d: %s", name, code, c.nodes[name].Out.Tail())
		}
		if out, errs, exit := program.RunCommand(t, c.command(name, "check")); exit != 0 {
			t.Errorf("check of %s: exit %d, %s%s", name, exit, out, errs)
		}
	}
}

// ledger are the contacts whose creation was answered with success.
type ledger struct {
	mu    sync.Mutex
	names []string
	at    int // the largest Latchkey-At of the answers
}

// write creates contacts on a node until stop is closed.
func (l *ledger) write(c *clusterTest, node, key string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		name := fmt.Sprintf("Oda-%s-%d", node, i)
		if status, _, head := c.request(node, apiCall{"POST", "/api/v1/contacts/create", `{"first_name": "` + name + `"}`}, key, ""); status == http.StatusOK || status == http.StatusCreated {
			at, err := strconv.Atoi(head)
			if err != nil {
				c.Errorf("Latchkey-At is %q: %v", head, err)
			}
			l.mu.Lock()
			l.names, l.at = append(l.names, name), max(l.at, at)
			l.mu.Unlock()
		}
	}
}

// check looks for the contacts on a node.
func (l *ledger) check(c *clusterTest, node, key string) {
	c.Helper()
	found := map[string]bool{}
	for page := 1; ; page++ {
		_, body, _ := c.request(node, apiCall{"GET", fmt.Sprintf("/api/v1/contacts?limit=100&page=%d", page), ""}, key, strconv.Itoa(l.at))
		var list struct {
			Contacts []struct {
				FirstName string `json:"first_name"`
			}
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			c.Fatalf("contacts of node %s: %s", node, body)
		}
		if len(list.Contacts) == 0 {
			break
		}
		for _, one := range list.Contacts {
			found[one.FirstName] = true
		}
	}
	lost := 0
	for _, name := range l.names {
		if !found[name] {
			lost++
		}
	}
	if lost > 0 || len(l.names) == 0 {
		c.Errorf("node %s lacks %d of %d contacts whose creation was answered", node, lost, len(l.names))
	}
}

// TestCluster_Faults kills and pauses nodes and etcd servers while keys are used on all nodes, and contacts are created
// on two. No request may pass with a key once its revocation was answered, and no contact may be lost.
func TestCluster_Faults(t *testing.T) {
	c := newCluster(t, 3)
	names := []string{"a", "b", "c"}
	c.start(names...)
	writer, made, ended := c.key("a"), &ledger{}, make(chan struct{})
	var writing sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		writing.Go(func() { made.write(c, name, writer.Key, ended) })
	}
	var passed atomic.Int64
	// revokeWhile revokes a key on node a, while all nodes are asked without a pause, and returns how long that took.
	revokeWhile := func(what string) time.Duration {
		k := c.key("a")
		c.await("a", 200)
		var revoked atomic.Bool
		stop := make(chan struct{})
		var asking sync.WaitGroup
		for _, name := range names {
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					before := revoked.Load()
					if got := c.ask(name, k.Key, ""); got == 200 && before {
						t.Errorf("%s: node %s let a revoked key pass", what, name)
						return
					} else if got == 200 {
						passed.Add(1)
					}
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		began := time.Now()
		m := c.change("a", "POST", "/admin/v1/keys/"+k.ID+"/revoke", "")
		took := time.Since(began)
		if m.Code != 200 {
			t.Errorf("%s: revoke: got %d %s", what, m.Code, m.Fault)
		}
		revoked.Store(true)
		time.Sleep(50 * time.Millisecond)
		c.resume()
		time.Sleep(300 * time.Millisecond)
		close(stop)
		asking.Wait()
		t.Logf("%s: revoked within %s on %d of %d nodes", what, took, m.Effective.Nodes, m.Effective.Of)
		if took > clusterLease+time.Second+500*time.Millisecond {
			t.Logf("%s: this is longer than the lease and a second", what)
		}
		return took
	}
	revokeWhile("all well")
	_ = c.nodes["c"].Cmd.Process.Signal(syscall.SIGSTOP)
	revokeWhile("node c is paused")
	c.await("c", 200)
	c.nodes["c"].Kill()
	revokeWhile("node c was killed")
	c.start("c")
	leader := c.etcd.Leader()
	c.etcd.Kill(leader)
	revokeWhile("the leader of etcd was killed")
	c.etcd.Start(leader)
	c.etcd.Wait()
	k := c.key("b")

	// Without a majority of etcd nothing can be changed, and after the lease nothing is answered.
	first, second := (leader+1)%3, (leader+2)%3
	c.etcd.Kill(first)
	c.etcd.Kill(second)
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // at first, the lease has just ended
		if reason := c.await("b", http.StatusServiceUnavailable); strings.Contains(reason, "etcd") {
			break
		} else if time.Now().After(until) {
			t.Errorf("/readyz without a majority: got %s", reason)
			break
		}
	}
	if got := c.ask("b", k.Key, ""); got != http.StatusServiceUnavailable {
		t.Errorf("a node without a lease answers %d, want 503", got)
	}
	if m := c.change("b", "POST", "/admin/v1/keys/"+k.ID+"/revoke", ""); m.Code != http.StatusServiceUnavailable {
		t.Errorf("a change on a node without a lease: got %d %s, want 503", m.Code, m.Fault)
	}
	c.etcd.Start(first)
	c.etcd.Start(second)
	for _, name := range names {
		c.await(name, http.StatusOK)
		if got := c.ask(name, k.Key, k.At); got != http.StatusOK {
			t.Errorf("a key after the majority is back: %s answers %d, want 200", name, got)
		}
	}
	close(ended)
	writing.Wait()
	for _, name := range names {
		made.check(c, name, writer.Key)
	}
	t.Logf("%d contacts were created during the faults", len(made.names))
	if passed.Load() == 0 {
		t.Error("no request has passed, so that the test proves nothing")
	}
	for _, name := range names {
		if code := c.nodes[name].Stop(t); code != 0 {
			t.Errorf("node %s ended with %d: %s", name, code, c.nodes[name].Out.Tail())
		}
	}
	c.sameRecords(names)
}

// resume lets all paused nodes go on.
func (c *clusterTest) resume() {
	for _, n := range c.nodes {
		_ = n.Cmd.Process.Signal(syscall.SIGCONT)
	}
}

// sameRecords checks the files of nodes that were stopped and compares what they have.
func (c *clusterTest) sameRecords(names []string) {
	c.Helper()
	var all []string
	for _, name := range names {
		out, errs, exit := program.RunCommand(c, c.command(name, "check", "--json"))
		if exit != 0 {
			c.Errorf("check of %s: exit %d, %s%s", name, exit, out, errs)
		}
		all = append(all, out)
	}
	for i := range all[1:] {
		if all[i+1] != all[0] {
			c.Errorf("the nodes %s and %s have different numbers of records: %s and %s", names[0], names[i+1], all[0], all[i+1])
		}
	}
}

// TestCluster_Refused starts nodes with settings and folders that do not fit. Each ends with a sentence that says what to do.
func TestCluster_Refused(t *testing.T) {
	c := newCluster(t, 1)
	c.start("a")
	fails := func(cmd *exec.Cmd, want string) {
		t.Helper()
		out, errs, exit := program.RunCommand(t, cmd)
		if said := out + errs; exit == 0 || !strings.Contains(said, want) || strings.Contains(said, "panic") {
			t.Errorf("got exit %d, %q; want %q", exit, said, want)
		}
	}
	serve := func(name string, environ ...string) *exec.Cmd {
		cmd := c.command(name, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
		cmd.Env = append(cmd.Env, environ...)
		return cmd
	}
	other := program.NewEtcdAuthority(t).Issue(program.IssueEtcd{})
	fails(serve("b", "LATCHKEY_CLUSTER_ENDPOINTS=https://127.0.0.1:1"), "none of the etcd servers")
	fails(serve("b", "LATCHKEY_CLUSTER_CA_FILE="+other.CA), "cluster.ca_file")
	check := c.command("b", "config", "check")
	check.Env = append(check.Env, "LATCHKEY_CLUSTER_CERT_FILE="+other.Cert) // not the certificate of the key
	fails(check, "cluster.cert_file")
	fails(serve("b", "LATCHKEY_CLUSTER_ENDPOINTS=http://192.0.2.1:2379"), "http:// only for this machine")
	fails(serve("b", "LATCHKEY_CLUSTER_NAME="), "cluster.name")
	fails(c.command("b", "cluster", "init"), "has a store already")

	if err := os.WriteFile(filepath.Join(c.folder("d"), "pepper"), bytes.Repeat([]byte("0"), 64), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(serve("d"), "pepper")
	if err := os.Remove(filepath.Join(c.folder("e"), "pepper")); err != nil {
		t.Fatal(err)
	}
	fails(serve("e"), "copy the file from another node")

	alone := filepath.Join(c.home, "f")
	s := program.Serve(t, alone)
	s.Stop(t)
	fails(serve("f"), "another store")

	// A second node with the name of one that runs.
	twin := c.command("b", "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	twin.Env = append(twin.Env, "LATCHKEY_CLUSTER_NAME=a")
	fails(twin, "another process with the name")
	plain := program.Command(t, "serve", "--data", filepath.Join(c.home, "g"))
	plain.Env = append(plain.Env, "LATCHKEY_CLUSTER_NAME=g", "LATCHKEY_CLUSTER_ENDPOINTS="+c.etcd.Endpoints[0])
	fails(plain, "latchkey-cluster")

	fails(c.command("a", "restore", filepath.Join(c.home, "no-file")), "cluster init --from")
	c.nodes["a"].Stop(t)
	lone := program.Command(t, "serve", "--data", c.folder("a"))
	fails(lone, "node of a cluster")
	c.start("a")

	// A node that was removed ends, and does not come back.
	c.start("b")
	if _, errs, exit := program.RunCommand(t, c.command("a", "cluster", "remove", "b", "--yes")); exit != 0 {
		t.Fatalf("cluster remove: exit %d, %s", exit, errs)
	}
	c.nodes["b"].Fails(t, "removed")
	fails(serve("b"), "removed")
	if got := c.ask("a", c.key("a").Key, ""); got != http.StatusOK {
		t.Errorf("the other node answers %d", got)
	}
	if text := fmt.Sprint(c.nodes["a"].Out); strings.Contains(text, "klen_") {
		t.Error("the log of a node has a secret")
	}
}
