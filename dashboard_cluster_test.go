package main

import (
	"net/http/httptest"
	"testing"

	"latchkey/internal/cluster"
)

// TestBrowser_LooksOfCluster looks at the page of a cluster with many faults, and at that of the removal of a node.
func TestBrowser_LooksOfCluster(t *testing.T) {
	t.Parallel() // it waits most of the time
	source := axeSource(t)
	browser := startBrowser(t)
	b, m := newDashboard(t), newMadeCluster()
	m.nodes[0].Version = "9.9.9"
	m.nodes[2].Host = "a-machine-with-a-long-name.rack-17.datacenter-frankfurt.example.net"
	m.servers[1].Bytes, m.servers[2].Alarms = 7<<30, []string{"NOSPACE"}
	m.servers = append(m.servers, cluster.Server{URL: "https://etcd-4.datacenter-frankfurt.example.net:2379", Err: errUnreachable})
	b.joinMade(m)
	b.browserAgain()
	server := httptest.NewServer(b.door)
	t.Cleanup(server.Close)
	p := &tab{t, browser, server.URL, "", nil}
	p.load(source)
	p.open("/cluster")
	p.login(operatorPassword)
	p.sees("Log out")
	p.open("/cluster")
	p.sees("Needs attention")
	p.look("/cluster")
	p.screen(2560, 1400, "dark")
	p.fits("/cluster", 2560)
	p.picture("/cluster", screenForm{2560, 1400, "dark"})
	p.follow(`a[href="/cluster/c/delete"]`)
	p.sees("Remove the node c?")
	p.look("/cluster/c/delete")
}
