package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"latchkey/internal/promtext"
)

// ClusterReporter answers for the cluster of which this server is a node, or says that it is in none.
type ClusterReporter interface {
	// ReportCluster returns the JSON fields of GET /admin/v1/cluster.
	ReportCluster(ctx context.Context) map[string]any
	// RemoveNode ends the membership of a node that does not run.
	RemoveNode(ctx context.Context, name string) error
}

// clusterView serves the endpoints about the cluster.
type clusterView struct {
	store *Store
	of    func() ClusterReporter
}

// NewClusterView returns a clusterView of what a ClusterReporter reports. Removals are recorded in the audit log of store.
func NewClusterView(store *Store, of func() ClusterReporter) *clusterView {
	return &clusterView{store, of}
}

// AdminRoutes returns the routes for operators.
func (v *clusterView) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/cluster", Handle: v.show, Stale: true},
		{Method: "POST", Path: "/admin/v1/cluster/nodes/:name/remove", NoBody: true, Handle: v.remove, Slow: true},
	}
}

func (v *clusterView) show(w http.ResponseWriter, r *Request) error {
	return WriteJSON(w, http.StatusOK, v.of().ReportCluster(r.Context()))
}

func (v *clusterView) remove(w http.ResponseWriter, r *Request) error {
	name := r.Params.ByName("name")
	if err := v.of().RemoveNode(r.Context(), name); err != nil {
		return err
	}
	deed := r.Deed()
	deed.Object = "node " + name
	if err := v.store.Update(deed.Append); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"name": name, "removed": true})
}

// ClusterFigures are what the metrics say about a node of a cluster.
type ClusterFigures struct {
	Serving            bool                      // whether it may answer requests
	Left               time.Duration             // for how long it may if its lease is not renewed
	Head, Lag          int64                     // position of its last change, and by how much the last known one is ahead
	Nodes, Running     int                       // all nodes, and those that run
	Working            int                       // etcd servers that answer and know a leader
	Bytes, Quota       int64                     // size of the largest file of an etcd server, and the least quota; 0: not known
	Faults             int                       // what needs attention
	Commits            map[string]*atomic.Uint64 // attempts to commit changes, by result
	CommitSeconds      *promtext.Histogram
	AcknowledgeSeconds *promtext.Histogram
}

// ClusterMetrics returns the metrics of a node of a cluster.
func ClusterMetrics(f ClusterFigures) []promtext.Metric {
	value := func(name, help string, v float64) promtext.Metric {
		return gauge("cluster_"+name, help, func() float64 { return v })
	}
	return []promtext.Metric{
		value("serving", "1 if this node may answer requests, else 0.", oneIf(f.Serving)),
		value("lease_left_seconds", "For how long this node may answer requests if its lease is not renewed.", f.Left.Seconds()),
		value("head", "Position of the last change in the records of this node.", float64(f.Head)),
		value("lag", "Positions by which the last change that this node has heard of is ahead.", float64(f.Lag)),
		value("nodes", "Nodes of the cluster, those that do not run as well.", float64(f.Nodes)),
		value("nodes_running", "Nodes that run.", float64(f.Running)),
		value("etcd_working", "etcd servers that answer and know a leader, of those in the configuration.", float64(f.Working)),
		value("etcd_bytes", "Size of the largest file of an etcd server.", float64(f.Bytes)),
		value("etcd_quota_bytes", "Size of the file at which an etcd server refuses all changes, or 0 if not known.", float64(f.Quota)),
		value("faults", "What needs attention, as the page Cluster lists it.", float64(f.Faults)),
		from(series(promtext.KindCounter, "cluster_commits_total", "Attempts to commit changes in the cluster, by result.", "result"), func(to *promtext.Series) {
			addCounters(to, f.Commits)
		}),
		from(series(promtext.KindHistogram, "cluster_commit_seconds", "Time until etcd has taken changes."), func(to *promtext.Series) {
			to.AddHistogram(f.CommitSeconds)
		}),
		from(series(promtext.KindHistogram, "cluster_acknowledge_seconds", "Time until all running nodes have applied a change that takes something away."), func(to *promtext.Series) {
			to.AddHistogram(f.AcknowledgeSeconds)
		}),
	}
}
