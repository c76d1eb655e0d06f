package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/cluster"
	"latchkey/internal/promtext"
)

// clusterReport is what a node has found out about its cluster at one time.
type clusterReport struct {
	nodes    []cluster.Node
	err      error // why nodes is not known
	head     cluster.Head
	headErr  error // why head is not known
	servers  []cluster.Server
	members  int // servers of etcd that vote, or 0 if that is not known
	position cluster.Head
}

// The times of reports.
const (
	reportTime  = 15 * time.Second // how often a node looks by itself, for its metrics and the overview
	reportLimit = 3 * time.Second  // how long a report waits for etcd
)

// watch makes reports until the node ends.
func (m *membership) watch() {
	tick := time.NewTicker(reportTime)
	defer tick.Stop()
	for {
		m.inspect(m.ctx)
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// inspect makes a report.
func (m *membership) inspect(ctx context.Context) *clusterReport {
	r := &clusterReport{}
	defer m.last.Store(r)
	e := m.late.now.Load()
	if e == nil {
		r.err = *m.late.reason.Load()
		r.headErr = r.err
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { r.nodes, r.err = (*e).Nodes(ctx) })
	asking.Go(func() { r.head, r.headErr = (*e).Barrier(ctx) })
	asking.Go(func() { r.servers, r.members = (*e).Servers(ctx) })
	asking.Wait()
	if r.err == context.DeadlineExceeded { // it has no reason: a lease that was there when this node has started may not be renewed any more
		r.err = fmt.Errorf("etcd has not shown within %s which of them run", reportLimit)
	}
	if m.store != nil {
		r.position = m.store.Head()
	}
	return r
}

// running returns how many nodes run.
func (r *clusterReport) running() (n int) {
	for _, node := range r.nodes {
		if node.Running {
			n++
		}
	}
	return n
}

// first returns the name of the node that does what one node does for all, or "" if that is not known.
func (r *clusterReport) first() string {
	i := slices.IndexFunc(r.nodes, func(n cluster.Node) bool { return n.Running })
	if i < 0 {
		return ""
	}
	return r.nodes[i].Name
}

// voters returns how many servers of etcd there are, and how many of the settings' work.
func (r *clusterReport) voters() (all, work int) {
	for _, s := range r.servers {
		if s.Err == nil && s.Led {
			work++
		}
	}
	return cmp.Or(r.members, len(r.servers)), work
}

// spare returns how many of the running nodes and of the etcd servers may fail now. Servers may be negative: so many more must
// run until changes can be made.
func (r *clusterReport) spare() (nodes, servers int) {
	all, work := r.voters()
	return max(r.running()-1, 0), work - (all/2 + 1)
}

// tolerance says in words how much may fail.
func (r *clusterReport) tolerance() string {
	nodes, servers := r.spare()
	all, _ := r.voters()
	of := func(n, all int, one, many string) string {
		if n <= 0 {
			return "no " + one
		}
		if all == 1 {
			many = one
		}
		return fmt.Sprintf("%d of %d %s", n, all, many)
	}
	if r.err != nil || servers < 0 {
		return "Nothing more may fail: too few etcd servers work, so that nothing can be changed, and nodes stop to answer when their leases end."
	}
	return fmt.Sprintf("Now %s and %s may fail.", of(nodes, r.running(), "node", "running nodes"), of(servers, all, "etcd server", "etcd servers"))
}

// fullShare is the part of its quota from which on the file of an etcd server needs attention.
const fullShare = 0.8

// attention returns what somebody should look at, one sentence each. stopped is why this node does not answer requests, or nil.
func (m *membership) attention(r *clusterReport, stopped error) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if stopped != nil {
		add("This node, %s, does not answer requests: %s.", m.self.Name, stopped)
	}
	if r.err != nil {
		add("The nodes are not known: %s.", r.err)
	}
	common := cluster.CommonConfig(r.nodes)
	for _, n := range r.nodes {
		if n.Differs(common) {
			add("Node %s has another configuration than most nodes, so that it may decide differently about requests. Compare the files, then reload or restart.", n.Name)
		}
		switch {
		case !n.Running:
			add("Node %s (machine %s) does not run. Start it, or remove it if it is gone for good.", n.Name, cmp.Or(n.Host, "not known"))
		case n.Version != m.self.Version:
			add("Node %s runs version %s, and this node %s. Run the same version on all nodes.", n.Name, n.Version, m.self.Version)
		}
	}
	for _, s := range r.servers {
		switch {
		case s.Err != nil:
			add("The etcd server %s does not work: %s.", s.URL, s.Err)
			continue
		case !s.Led:
			add("The etcd server %s knows no leader: more than half of the servers must run and reach each other.", s.URL)
		}
		for _, alarm := range s.Alarms {
			add("The etcd server %s has the alarm %s: see \"When something fails\" in the documentation of clusters.", s.URL, alarm)
		}
		if s.Quota > 0 && float64(s.Bytes) >= fullShare*float64(s.Quota) {
			add("The file of the etcd server %s has %d %% of its quota, at which it refuses all changes. Defragment it, or raise --quota-backend-bytes.",
				s.URL, 100*s.Bytes/s.Quota)
		}
	}
	if r.members > len(r.servers) {
		add("cluster.endpoints names %d of %d etcd servers. Name all, so that this node can use each.", len(r.servers), r.members)
	}
	return list
}

// ReportCluster implements ClusterReporter. It takes up to reportLimit if etcd cannot be reached.
func (m *membership) ReportCluster(ctx context.Context) map[string]any {
	r := m.inspect(ctx)
	stopped := m.serving()()
	nodes, servers := r.spare()
	all, work := r.voters()
	shown := map[string]any{
		"enabled": true, "name": m.self.Name, "serving": stopped == nil, "not_serving_because": textOrNil(stopped),
		"lease_ms": m.lease.Milliseconds(), "lease_left_ms": m.left().Milliseconds(),
		"position": int64(r.position), "cluster_position": nil, "behind": nil,
		"nodes": m.showNodes(r), "nodes_error": textOrNil(r.err),
		"etcd":      map[string]any{"members": all, "working": work, "servers": showServers(r.servers)},
		"may_fail":  map[string]any{"nodes": nodes, "etcd_servers": max(servers, 0)},
		"tolerance": r.tolerance(), "attention": append([]string{}, m.attention(r, stopped)...),
	}
	if r.headErr == nil {
		shown["cluster_position"], shown["behind"] = int64(r.head), int64(max(r.head-r.position, 0))
	}
	return shown
}

// textOrNil returns the text of an error, or nil.
func textOrNil(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

// showNodes returns the nodes as JSON fields.
func (m *membership) showNodes(r *clusterReport) []any {
	list, first, common := []any{}, r.first(), cluster.CommonConfig(r.nodes)
	for _, n := range r.nodes {
		shown := map[string]any{
			"name": n.Name, "self": n.Name == m.self.Name, "host": n.Host, "version": n.Version, "format": n.Format, "started_at": Seconds(n.Started),
			"running": n.Running, "acknowledged": int64(n.Acked), "works_for_all": n.Name == first,
			"config": nil, "config_differs": n.Differs(common),
		}
		if n.Config != "" {
			shown["config"] = n.Config
		}
		list = append(list, shown)
	}
	return list
}

// showServers returns the etcd servers as JSON fields.
func showServers(servers []cluster.Server) []any {
	list := []any{}
	for _, s := range servers {
		shown := map[string]any{
			"url": s.URL, "error": textOrNil(s.Err), "version": nil, "leader": s.Leader, "bytes": nil, "used_bytes": nil, "quota_bytes": nil,
			"alarms": append([]string{}, s.Alarms...),
		}
		if s.Err == nil {
			shown["version"], shown["bytes"] = s.Version, s.Bytes
		}
		if s.Used > 0 {
			shown["used_bytes"] = s.Used
		}
		if s.Quota > 0 {
			shown["quota_bytes"] = s.Quota
		}
		list = append(list, shown)
	}
	return list
}

// left returns for how long this node may answer requests if its lease is not renewed.
func (m *membership) left() time.Duration {
	if e := m.late.now.Load(); e != nil {
		return (*e).Left()
	}
	return 0
}

// RemoveNode implements ClusterReporter.
func (m *membership) RemoveNode(ctx context.Context, name string) error {
	r := m.inspect(ctx)
	if r.err != nil {
		return ErrUnavailable.With("The nodes are not known, so none was removed: %s.", r.err)
	}
	i := slices.IndexFunc(r.nodes, func(n cluster.Node) bool { return n.Name == name })
	switch {
	case i < 0:
		return ErrNotFound
	case r.nodes[i].Running:
		return ErrConflict.With("The node %s runs. Stop it first. If its machine is out of reach: latchkey cluster remove %s", name, name)
	}
	err := m.late.engine.Remove(ctx, name)
	if err != nil && !errors.Is(err, context.Canceled) {
		m.log.Error("a node was not removed", "node", name, "error", err)
		return ErrUnavailable.With("It is not known whether the node was removed: %s. Try again.", strings.TrimSuffix(err.Error(), "."))
	}
	return err
}

// faults returns how much needs attention, by the last report.
func (m *membership) faults() int {
	r := m.last.Load()
	if r == nil {
		return 0
	}
	return len(m.attention(r, m.serving()()))
}

// clusterCounts are what a node counts about its changes. It is safe for concurrent use.
type clusterCounts struct {
	results map[string]*atomic.Uint64 // by result; not changed after newClusterCounts
	seconds *promtext.Histogram       // of commits that succeeded
	awaited *promtext.Histogram       // seconds until all nodes have acknowledged a change
}

// The results of attempts to commit a change.
const (
	commitDone     = "done"
	commitConflict = "conflict"
	commitUnsure   = "unsure"
	commitRefused  = "refused"
)

// newClusterCounts returns counts that are all 0.
func newClusterCounts() clusterCounts {
	times := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3, 10}
	return clusterCounts{
		results: map[string]*atomic.Uint64{commitDone: {}, commitConflict: {}, commitUnsure: {}, commitRefused: {}},
		seconds: promtext.NewHistogram(times...), awaited: promtext.NewHistogram(times...),
	}
}

// committed counts an attempt to commit, which has taken some time and has ended with err.
func (c clusterCounts) committed(took time.Duration, err error) {
	result := commitRefused
	switch {
	case err == nil:
		result = commitDone
		c.seconds.Observe(took.Seconds())
	case errors.Is(err, cluster.ErrMoved):
		result = commitConflict
	case errors.Is(err, cluster.ErrUnsure):
		result = commitUnsure
	}
	c.results[result].Add(1)
}

// metrics returns the metrics of this node. What only etcd knows is as of the last report.
func (m *membership) metrics() []promtext.Metric {
	r := m.last.Load()
	if r == nil {
		r = &clusterReport{}
	}
	position, known := cluster.Head(0), cluster.Head(0)
	if m.store != nil {
		position = m.store.Head()
	}
	if e := m.late.now.Load(); e != nil {
		known = max((*e).Known(), r.head)
	}
	_, work := r.voters()
	var bytes, quota int64
	for _, s := range r.servers {
		bytes = max(bytes, s.Bytes)
		if s.Quota > 0 && (quota == 0 || s.Quota < quota) {
			quota = s.Quota
		}
	}
	return ClusterMetrics(ClusterFigures{
		Serving: m.serving()() == nil, Left: m.left(), Head: int64(position), Lag: int64(max(known-position, 0)),
		Nodes: len(r.nodes), Running: r.running(), Working: work, Bytes: bytes, Quota: quota, Faults: m.faults(),
		Commits: m.late.counts.results, CommitSeconds: m.late.counts.seconds, AcknowledgeSeconds: m.late.counts.awaited,
	})
}
