package main

import (
	"context"
	"net/http"
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
		{Method: "POST", Path: "/admin/v1/cluster/nodes/:name/remove", Handle: v.remove, Slow: true},
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
