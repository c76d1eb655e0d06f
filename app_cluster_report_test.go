package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/cluster"
)

// madeReport is what a madeCluster says about itself.
type madeReport struct {
	servers []cluster.Server
	members int
	head    cluster.Head
	stopped error // why the node may not answer requests
	fault   error // of requests about the nodes
}

// Left implements clusterEngine.
func (m *madeCluster) Left() time.Duration { return 2 * time.Second }

// Known implements clusterEngine.
func (m *madeCluster) Known() cluster.Head { return m.head }

// Servers implements clusterEngine.
func (m *madeCluster) Servers(context.Context) ([]cluster.Server, int) { return m.servers, m.members }

// Barrier implements clusterEngine.
func (m *madeCluster) Barrier(context.Context) (cluster.Head, error) { return m.head, m.fault }

// Serving implements clusterEngine.
func (m *madeCluster) Serving() error { return m.stopped }

// First implements clusterEngine. The node is b.
func (m *madeCluster) First() bool { return false }

// Running implements clusterEngine.
func (m *madeCluster) Running() []cluster.Node {
	return slices.DeleteFunc(slices.Clone(m.nodes), func(n cluster.Node) bool { return !n.Running })
}

// SetConfig implements clusterEngine.
func (m *madeCluster) SetConfig(string) {}

// Leave implements clusterEngine.
func (m *madeCluster) Leave(context.Context) error { return nil }

// newMadeCluster returns a cluster of three nodes, of which a and b run, and of three etcd servers that work.
func newMadeCluster() *madeCluster {
	node := func(name string, running bool) cluster.Node {
		return cluster.Node{Name: name, Host: "host-" + name, Version: ProgramVersion(), Format: StoreFormat, Started: epoch, Acked: 40, Running: running}
	}
	m := &madeCluster{id: "ab", nodes: []cluster.Node{node("a", true), node("b", true), node("c", false)}}
	m.members, m.head = 3, 42
	for i := range 3 {
		m.servers = append(m.servers, cluster.Server{
			URL: fmt.Sprintf("https://10.0.0.%d:2379", i+1), Version: "3.5.21", Leader: i == 0, Led: true, Bytes: 3 << 30, Used: 1 << 30, Quota: 8 << 30,
		})
	}
	return m
}

// joinMade makes the app the node b of a cluster.
func (a *testApp) joinMade(m *madeCluster) *membership {
	a.t.Helper()
	a.shareSmall(cluster.MaxWrites)
	node := &membership{late: newLateEngine(), log: a.App.log, failed: make(chan error, 1), lease: 3 * time.Second, store: a.Store}
	node.self = cluster.Node{Name: "b", Version: ProgramVersion()}
	node.ctx, node.stop = context.WithCancel(context.Background())
	node.compared = map[string][2]string{}
	node.configured(a.config, a.config)
	node.late.set(m)
	a.App.cluster = node
	return node
}

// TestCluster_Alone asks a server that is in no cluster.
func TestCluster_Alone(t *testing.T) {
	b := newDashboard(t)
	if got := b.control("GET", "/admin/v1/cluster", ""); got.Code != 200 || strings.TrimSpace(got.Body.String()) != `{"enabled":false}` {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
	if got := b.control("POST", "/admin/v1/cluster/nodes/c/remove", ""); got.Code != 409 || !strings.Contains(got.Body.String(), "no cluster") {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
	b.says(b.get("/cluster"), 200, "This server is part of no cluster")
	if page := b.get("/keys").Body.String(); strings.Contains(page, `href="/cluster"`) {
		t.Error("the navigation of a server alone has the page Cluster")
	}
	if _, text := b.scrape(b.token()); strings.Contains(text, "latchkey_cluster_") {
		t.Errorf("a server alone has metrics of a cluster: %s", text)
	}
}

// TestCluster_Report has a cluster with one fault after the other, and wants each in the answer, on the page, on the overview and
// in the metrics.
func TestCluster_Report(t *testing.T) {
	for _, tt := range []struct {
		name      string
		change    func(m *madeCluster)
		attention []string // patterns of the sentences, in order
		tolerance string
		page      []string
		metrics   []string
	}{
		{"all is well", func(m *madeCluster) { m.nodes[2].Running = true }, nil, "Now 2 of 3 running nodes and 1 of 3 etcd servers may fail.",
			[]string{"Nothing needs attention", "this node", "works, leader", "3.2 GB of 8.6 GB"},
			[]string{"latchkey_cluster_serving 1", "latchkey_cluster_nodes 3", "latchkey_cluster_nodes_running 3", "latchkey_cluster_etcd_working 3", "latchkey_cluster_faults 0",
				"latchkey_cluster_etcd_bytes 3.221225472e+09", "latchkey_cluster_etcd_quota_bytes 8.589934592e+09", "latchkey_cluster_lease_left_seconds 2", `latchkey_cluster_commits_total{result="unsure"} 0`}},
		{"a node is down", func(*madeCluster) {}, []string{`Node c \(machine host-c\) does not run`}, "Now 1 of 2 running nodes and 1 of 3 etcd servers may fail.",
			[]string{"not running", `href="/cluster/c/delete"`}, []string{"latchkey_cluster_nodes 3", "latchkey_cluster_nodes_running 2", "latchkey_cluster_faults 1"}},
		{"another version", func(m *madeCluster) { m.nodes[0].Version, m.nodes[2].Running = "9.9.9", true }, []string{"Node a runs version 9.9.9, and this node"}, "Now 2 of 3", []string{"9.9.9"}, nil},
		{"another configuration", func(m *madeCluster) {
			m.nodes[2].Running = true
			m.nodes[0].Config, m.nodes[1].Config, m.nodes[2].Config = "x", "y", "x"
		}, []string{"Node b has another configuration than most nodes"}, "Now 2 of 3", []string{"other configuration"}, nil},
		{"an etcd server is down", func(m *madeCluster) {
			m.nodes = m.nodes[:2]
			m.servers[2] = cluster.Server{URL: "https://10.0.0.3:2379", Err: errors.New("connection refused")}
		}, []string{`etcd server https://10\.0\.0\.3:2379 does not work: connection refused`}, "Now 1 of 2 running nodes and no etcd server may fail.", []string{"does not work"}, []string{"latchkey_cluster_etcd_working 2"}},
		{"no leader", func(m *madeCluster) {
			m.nodes = m.nodes[:1]
			for i := range m.servers {
				m.servers[i].Led, m.servers[i].Leader = false, false
			}
		}, []string{"10.0.0.1:2379 knows no leader", "10.0.0.2:2379 knows no leader", "10.0.0.3:2379 knows no leader"}, "Nothing more may fail", nil, []string{"latchkey_cluster_etcd_working 0"}},
		{"nearly full", func(m *madeCluster) { m.nodes, m.servers[1].Bytes = m.nodes[:2], 7<<30 }, []string{`10\.0\.0\.2:2379 has 87 % of its quota`}, "Now 1 of 2", []string{"7.5 GB of 8.6 GB"}, nil},
		{"an alarm", func(m *madeCluster) { m.nodes, m.servers[0].Alarms = m.nodes[:2], []string{"NOSPACE"} }, []string{"has the alarm NOSPACE"}, "Now 1 of 2", []string{"alarm NOSPACE"}, nil},
		{"a server that is not named", func(m *madeCluster) { m.nodes, m.members = m.nodes[:2], 5 }, []string{"names 3 of 5 etcd servers"}, "no etcd server may fail", nil, nil},
		{"only one", func(m *madeCluster) { m.nodes, m.servers, m.members = m.nodes[1:2], m.servers[:1], 1 }, nil, "Now no node and no etcd server may fail.", nil, nil},
		{"etcd is out of reach", func(m *madeCluster) { m.fault = errors.New("nobody answers") }, []string{"The nodes are not known: nobody answers"}, "Nothing more may fail", []string{"Not known: nobody answers", "not known, because etcd"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, m := newDashboard(t), newMadeCluster()
			tt.change(m)
			b.joinMade(m)
			b.browserAgain()
			got := b.operate(200, "GET", "/admin/v1/cluster", "")
			said := textsOf(got["attention"])
			for i, want := range tt.attention {
				if i >= len(said) || !regexp.MustCompile(want).MatchString(said[i]) {
					t.Errorf("attention: got %q, want %q", said, want)
				}
			}
			if len(said) != len(tt.attention) || !strings.Contains(got["tolerance"].(string), tt.tolerance) {
				t.Errorf("got %q and %q, want %d and %q", said, got["tolerance"], len(tt.attention), tt.tolerance)
			}
			wants := append([]string{">Cluster</a>", got["tolerance"].(string)}, tt.page...)
			for _, sentence := range said {
				wants = append(wants, strings.NewReplacer("\"", "&#34;").Replace(sentence))
			}
			b.says(b.get("/cluster"), 200, wants...)
			overview := b.operate(200, "GET", "/admin/v1/overview", "")
			if listed := strings.Contains(fmt.Sprint(overview["attention"]), fmt.Sprintf("map[count:%d kind:cluster]", len(said))); listed != (len(said) > 0) {
				t.Errorf("the overview has %v", overview["attention"])
			}
			if page := b.get("/").Body.String(); strings.Contains(page, "about the cluster need") != (len(said) > 0) || !strings.Contains(page, `href="/cluster"`) {
				t.Error("the page of the overview does not say what the endpoint says")
			}
			_, text := b.scrape(b.token())
			wantLines(t, text, tt.metrics...)
		})
	}
}

// textsOf returns the texts in a JSON array.
func textsOf(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, item.(string))
	}
	return list
}

// TestCluster_Stopped asks a node that may not answer requests: the control socket hears why, and nobody else gets an answer.
func TestCluster_Stopped(t *testing.T) {
	m := newMadeCluster()
	m.nodes, m.stopped = m.nodes[:2], errors.New("the lease has ended")
	a := newTestApp(t)
	token := a.token()
	node := a.joinMade(m)
	a.Server.o.Serving = node.serving()
	got := a.operate(200, "GET", "/admin/v1/cluster", "")
	if got["serving"] != false || got["not_serving_because"] != "the lease has ended" || !slices.Equal(textsOf(got["attention"]), []string{"This node, b, does not answer requests: the lease has ended."}) {
		t.Errorf("got %v", got)
	}
	if w := a.control("GET", "/metrics", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "\nlatchkey_cluster_serving 0\n") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for _, row := range a.Server.o.Admin {
		path := strings.NewReplacer(":name", "c", ":id", "1", ":entry", "1").Replace(row.Path)
		if w := askDoor(a.admin, row.Method, path, "", "Authorization: Bearer "+token); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %s with a token: got %d, want 503", row.Method, path, w.Code)
		}
		if w := a.control(row.Method, path, ""); (w.Code != http.StatusServiceUnavailable) != row.Stale {
			t.Errorf("%s %s on the control socket: got %d, and Stale is %v", row.Method, path, w.Code, row.Stale)
		}
	}
}

// TestCluster_Remove removes nodes by the endpoint and by the page.
func TestCluster_Remove(t *testing.T) {
	b, m := newDashboard(t), newMadeCluster()
	b.joinMade(m)
	b.browserAgain()
	for name, want := range map[string]int{"a": 409, "b": 409, "d": 404} {
		if got := b.control("POST", "/admin/v1/cluster/nodes/"+name+"/remove", ""); got.Code != want || m.removed != "" {
			t.Errorf("%s: got %d %s, and %q was removed; want %d", name, got.Code, got.Body, m.removed, want)
		}
	}
	b.says(b.get("/cluster/a/delete"), 200, "It runs. Stop it first.")
	b.says(b.get("/cluster/d/delete"), 404, "has no node with this name")
	b.says(b.get("/cluster/c/delete"), 200, "Remove the node c?", "ever have the name c again")
	if w := b.post("/cluster/c/delete"); m.removed != "" || w.Code != 403 {
		t.Fatalf("removed without a confirmed password: %d %s", w.Code, w.Body)
	}
	b.prove()
	before := len(auditEntries(t, b.Store))
	if to := b.sent(b.post("/cluster/c/delete"), "/cluster?done=deleted"); m.removed != "c" {
		t.Errorf("got %s, and %q was removed", to, m.removed)
	}
	entries := auditEntries(t, b.Store)[before:]
	if len(entries) != 1 || entries[0].Object != "node c" || !strings.HasPrefix(entries[0].Actor, "operator") {
		t.Errorf("the audit log has %+v", entries)
	}
	if text := auditText(t, b.testApp); !strings.Contains(text, `"Ann removed the node c"`) {
		t.Errorf("got %s", text)
	}
	m.fault = errors.New("nobody answers")
	if got := b.control("POST", "/admin/v1/cluster/nodes/a/remove", ""); got.Code != 503 || !strings.Contains(got.Body.String(), "nobody answers") {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
}

// TestCluster_Described holds the answers against openapi.json, in which each member of theirs is.
func TestCluster_Described(t *testing.T) {
	a, m := newTestApp(t), newMadeCluster()
	a.joinMade(m)
	schemas, err := describedSchemas()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		action, path string
		change       func()
	}{
		{"GET /admin/v1/cluster", "/admin/v1/cluster", func() {}},
		{"GET /admin/v1/cluster", "/admin/v1/cluster", func() { m.servers[0] = cluster.Server{URL: "https://10.0.0.1:2379", Err: errors.New("x")} }},
		{"GET /admin/v1/cluster", "/admin/v1/cluster", func() { m.fault = errors.New("x") }},
		{"POST /admin/v1/cluster/nodes/:name/remove", "/admin/v1/cluster/nodes/c/remove", func() { m.fault = nil }},
	} {
		tt.change()
		method, route, _ := strings.Cut(tt.action, " ")
		w := a.control(method, tt.path, "")
		op, at := described(t, method, route)
		var value any
		if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil || w.Code != 200 || op == nil {
			t.Fatalf("%s: got %d %s, %v", tt.action, w.Code, w.Body, err)
		}
		if err := schemas.fits(at+"/responses/200/content/application~1json/schema", value); err != nil {
			t.Errorf("%s: %s: %v", tt.action, w.Body, err)
		}
		if list := strays(schemaOf(op.Responses.Status(200).Value.Content), value, ""); len(list) > 0 {
			t.Errorf("%s: openapi.json does not have %q", tt.action, list)
		}
	}
}

// TestClusterCounts counts what has become of commits.
func TestClusterCounts(t *testing.T) {
	c := newClusterCounts()
	for _, err := range []error{nil, nil, cluster.ErrMoved, fmt.Errorf("%w: x", cluster.ErrUnsure), errors.New("x")} {
		c.committed(time.Millisecond, err)
	}
	for result, want := range map[string]uint64{commitDone: 2, commitConflict: 1, commitUnsure: 1, commitRefused: 1} {
		if got := c.results[result].Load(); got != want {
			t.Errorf("%s: got %d, want %d", result, got, want)
		}
	}
}
