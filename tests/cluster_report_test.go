//go:build unix

package tests

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// clusterSeen is the answer of GET /admin/v1/cluster.
type clusterSeen struct {
	Enabled, Serving  bool
	Name              string
	NotServingBecause string `json:"not_serving_because"`
	LeaseMS           int    `json:"lease_ms"`
	Position, Behind  int
	Nodes             []struct {
		Name, Host, Version string
		Running, Self       bool
		Acknowledged        int
		WorksForAll         bool `json:"works_for_all"`
	}
	Etcd struct {
		Members, Working int
		Servers          []struct {
			Error   string
			Bytes   int
			Quota   int `json:"quota_bytes"`
			Leader  bool
			Version string
		}
	}
	Tolerance string
	Attention []string
}

// awaitSeen asks a node over its control socket until its answer fits, and returns it.
func (c *clusterTest) awaitSeen(name, what string, fits func(clusterSeen) bool) clusterSeen {
	c.Helper()
	var seen clusterSeen
	for until := time.Now().Add(60 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		seen = clusterSeen{}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := c.nodes[name].Socket().Do(ctx, "GET", "/admin/v1/cluster", nil, &seen)
		cancel()
		if err == nil && fits(seen) {
			return seen
		}
	}
	c.Fatalf("%s: node %s never said so, but %+v; %s", what, name, seen, c.nodes[name].Out.Tail())
	return seen
}

// TestCluster_Report has two nodes on one etcd server: what each says of itself and of the other, while both run, after one was killed and
// removed, and while etcd is away.
func TestCluster_Report(t *testing.T) {
	c := newCluster(t, 1)
	c.start("a", "b")
	k := c.key("a")
	c.change("a", "POST", "/admin/v1/keys/"+k.ID+"/revoke", "")
	for _, name := range []string{"a", "b"} {
		seen := c.awaitSeen(name, "both run", func(s clusterSeen) bool {
			return len(s.Nodes) == 2 && s.Nodes[0].Running && s.Nodes[1].Running && s.Position > 0 && s.Behind == 0
		})
		if !seen.Enabled || !seen.Serving || seen.Name != name || seen.LeaseMS != int(clusterLease/time.Millisecond) || len(seen.Attention) > 0 ||
			!seen.Nodes[0].WorksForAll || seen.Nodes[1].WorksForAll || seen.Nodes[0].Self != (name == "a") || seen.Nodes[1].Acknowledged == 0 ||
			seen.Tolerance != "Now 1 of 2 running nodes and no etcd server may fail." {
			t.Errorf("node %s: got %+v", name, seen)
		}
		if e := seen.Etcd; e.Members != 1 || e.Working != 1 || len(e.Servers) != 1 || e.Servers[0].Quota == 0 || e.Servers[0].Bytes == 0 || !e.Servers[0].Leader {
			t.Errorf("node %s: got %+v", name, e)
		}
	}
	var page bytes.Buffer
	err := c.nodes["a"].Socket().Copy(t.Context(), "/metrics", &page)
	if metrics := page.String(); err != nil || !strings.Contains(metrics, "\nlatchkey_cluster_serving 1\n") || !strings.Contains(metrics, `latchkey_cluster_commits_total{result="done"}`) ||
		strings.Contains(metrics, "latchkey_cluster_commit_seconds_count 0\n") || strings.Contains(metrics, "latchkey_cluster_acknowledge_seconds_count 0\n") {
		t.Errorf("got %v %s", err, page.String())
	}
	c.nodes["b"].Kill()
	c.awaitSeen("a", "b was killed", func(s clusterSeen) bool {
		return len(s.Nodes) == 2 && !s.Nodes[1].Running && slices.ContainsFunc(s.Attention, func(text string) bool { return strings.HasPrefix(text, "Node b (machine ") })
	})
	if m := c.change("a", "POST", "/admin/v1/cluster/nodes/b/remove", ""); m.Code != http.StatusOK {
		t.Errorf("remove b: got %d %s", m.Code, m.Fault)
	}
	c.awaitSeen("a", "b was removed", func(s clusterSeen) bool { return len(s.Nodes) == 1 && len(s.Attention) == 0 })
	c.etcd.Kill(0)
	seen := c.awaitSeen("a", "etcd was killed", func(s clusterSeen) bool { return !s.Serving })
	if seen.NotServingBecause == "" || len(seen.Attention) < 2 || seen.Etcd.Servers[0].Error == "" || !strings.HasPrefix(seen.Tolerance, "Nothing more may fail") {
		t.Errorf("got %+v", seen)
	}
	c.etcd.Start(0)
	c.awaitSeen("a", "etcd is back", func(s clusterSeen) bool { return s.Serving && len(s.Attention) == 0 })
}
