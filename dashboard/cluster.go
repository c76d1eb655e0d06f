package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// clusterPages are the page of the cluster and its action. The navigation has it only on a node.
type clusterPages struct{ node bool }

func (c clusterPages) sections() []section {
	if !c.node {
		return nil
	}
	return []section{{"System", "Cluster", "/cluster"}}
}

func (clusterPages) pages() map[string]page {
	const remove = "POST /admin/v1/cluster/nodes/:name/remove"
	return map[string]page{
		"GET /cluster":              {"GET /admin/v1/cluster", showCluster},
		"GET /cluster/{id}/delete":  {remove, askRemoveNode},
		"POST /cluster/{id}/delete": {remove, removeNode},
	}
}

// clusterPage is the data of the page.
type clusterPage struct {
	Answer  map[string]any // of the admin endpoint
	Facts   []namedText    // about this node
	Nodes   []map[string]any
	Servers []etcdRow
}

// etcdRow is an etcd server as the page shows it.
type etcdRow struct {
	URL, Version, State, Fault string
	Tag                        string   // class of State
	File                       string   // its size
	Use                        quotaBar // Text is "" if the quota is not known
}

// quotaBar is the share that the file of an etcd server has of its quota.
type quotaBar struct {
	Text, Level string // Level is "full", "high" or ""
	Percent     int    // 0 to 100
}

// cluster returns what the admin endpoint says about the cluster.
func (v *pageRequest) cluster() (map[string]any, *Fault) {
	return v.call(http.MethodGet, "/admin/v1/cluster", nil)
}

func showCluster(v *pageRequest) {
	answer, e := v.cluster()
	if e != nil {
		v.showFault(e)
		return
	}
	p := clusterPage{Answer: answer}
	serves := "yes"
	if because := textOf(answer["not_serving_because"]); because != "" {
		serves = "no: " + because
	}
	p.Facts = []namedText{
		{"Name", textOf(answer["name"])}, {"Answers requests", serves},
		{"Lease", fmt.Sprintf("%s, of which %s are left", milliseconds(answer["lease_ms"]), milliseconds(answer["lease_left_ms"]))},
		{"Position", textOf(answer["position"])}, {"Behind", behindShown(answer)},
	}
	nodes, _ := answer["nodes"].([]any)
	for _, row := range nodes {
		node, _ := row.(map[string]any)
		p.Nodes = append(p.Nodes, node)
	}
	servers, _ := memberOf(answer, "etcd.servers").([]any)
	for _, row := range servers {
		server, _ := row.(map[string]any)
		p.Servers = append(p.Servers, etcdRowOf(server))
	}
	v.show(http.StatusOK, "cluster", view{Title: "Cluster", Data: p})
}

// behindShown returns how far this node is behind, in words.
func behindShown(answer map[string]any) string {
	switch n := answer["behind"]; {
	case n == nil:
		return "not known, because etcd cannot be reached"
	case numberOf(n) == 0:
		return "no: it has all changes"
	default:
		return fmt.Sprintf("%s positions; the last is %s", textOf(n), textOf(answer["cluster_position"]))
	}
}

// etcdRowOf returns the row of an etcd server.
func etcdRowOf(server map[string]any) etcdRow {
	row := etcdRow{URL: textOf(server["url"]), Version: textOf(server["version"]), State: "works", Tag: "active"}
	if server["leader"] == true {
		row.State = "works, leader"
	}
	if alarms := texts(server["alarms"]); len(alarms) > 0 {
		row.State, row.Tag = "alarm "+strings.Join(alarms, ", "), "failed"
	}
	if row.Fault = textOf(server["error"]); row.Fault != "" {
		row.State, row.Tag = "does not work", "failed"
		return row
	}
	row.File = bytesShown(server["bytes"])
	if quota := numberOf(server["quota_bytes"]); quota > 0 {
		share := numberOf(server["bytes"]) / quota
		row.Use = quotaBar{Text: fmt.Sprintf("%s of %s", row.File, bytesShown(server["quota_bytes"])), Percent: int(100 * min(share, 1))}
		switch {
		case share >= 1:
			row.Use.Level = "full"
		case share >= .8:
			row.Use.Level = "high"
		}
	}
	return row
}

func askRemoveNode(v *pageRequest) {
	answer, e := v.cluster()
	if e != nil {
		v.showFault(e)
		return
	}
	if answer["enabled"] != true {
		showCluster(v)
		return
	}
	nodes, _ := answer["nodes"].([]any)
	for _, row := range nodes {
		if node, _ := row.(map[string]any); textOf(node["name"]) == v.R.PathValue("id") {
			v.show(http.StatusOK, "removenode", view{Title: "Remove " + textOf(node["name"]), Data: node})
			return
		}
	}
	v.showFault(&Fault{Status: http.StatusNotFound, Message: "The cluster has no node with this name."})
}

func removeNode(v *pageRequest) {
	v.noDeadline()
	if _, e := v.call(http.MethodPost, "/admin/v1/cluster/nodes/"+url.PathEscape(v.R.PathValue("id"))+"/remove", nil); e != nil {
		v.showFault(e)
		return
	}
	http.Redirect(v.W, v.R, "/cluster?done=deleted", http.StatusSeeOther)
}
