package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v3"
)

// ClusterInitOptions are the options of Service.ClusterInit.
type ClusterInitOptions struct {
	From string // path of a backup or of a data folder; "": the data folder of the configuration
	// Progress receives how much is done. If it returns an error, the cluster gets no store.
	Progress Progress
}

// ClusterInit describes the new store of a cluster.
type ClusterInit struct {
	StoreID  string `json:"store_id"`
	From     string `json:"from"`                  // path of the database or backup whose records the cluster has
	Created  bool   `json:"created"`               // the data folder was empty, so that a store was made
	Restored bool   `json:"restored"`              // From is a backup
	Held     bool   `json:"webhooks_held"`         // the backup has webhooks, which are held back
	Records  int64  `json:"records"`               // number of records
	Pepper   string `json:"pepper_file,omitempty"` // path of the pepper file; "" if the pepper is in no file
}

// ClusterNode is a node of a cluster.
type ClusterNode struct {
	Name    string    `json:"name"`
	Running bool      `json:"running"`
	Host    string    `json:"host"`    // name of its machine
	Version string    `json:"version"` // version of its program
	Format  int       `json:"format"`  // format of the records that it writes
	Started time.Time `json:"started"` // of the last start
	// Config is the SHA-256, in hex digits, of the settings that should be the same on all nodes; "": its version does not register it.
	Config  string `json:"config"`
	Differs bool   `json:"config_differs"` // more than half of the running nodes have another Config, or no more than half have the same
}

// configured returns whether the node has the configuration of the others, for people.
func (n ClusterNode) configured() string {
	switch {
	case !n.Running || n.Config == "":
		return "-"
	case n.Differs:
		return "differs"
	}
	return "same"
}

// state returns the state of the node for people.
func (n ClusterNode) state() string {
	if n.Running {
		return "running"
	}
	return "not running"
}

// clusterCommand returns the commands for several servers that share one store.
func (s *session) clusterCommand() *cli.Command {
	return &cli.Command{Name: "cluster", Usage: "create a cluster, list its nodes and remove them", Commands: []*cli.Command{
		{
			Name: "init", Usage: "store the records of a data folder in etcd, for the nodes of a cluster", Action: s.initCluster,
			Flags: []cli.Flag{&cli.StringFlag{Name: "from", Usage: "backup `FILE`, or another data folder, with the records; default: the data folder"}},
			Description: `The configuration names the etcd servers, in [cluster]. No server may use
the data folder meanwhile. An empty folder gets a new store and a new pepper.`,
		},
		{Name: "nodes", Usage: "list the nodes and whether they run", Action: s.listNodes},
		{
			Name: "remove", Usage: "end a node for good: no node can have its name again", ArgsUsage: "NAME", Action: s.removeNode,
			Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do not ask for a confirmation"}},
		},
	}}
}

func (s *session) initCluster(ctx context.Context, c *cli.Command) error {
	service, err := s.load(c)
	if err != nil {
		return err
	}
	work := s.startWork(ctx, c)
	made, err := service.ClusterInit(ctx, ClusterInitOptions{From: c.String("from"), Progress: work.Report})
	work.end()
	if err != nil {
		return interrupted(ctx, err, "the cluster has no store; run the command again to create it")
	}
	if c.Bool("json") {
		return s.printJSON(made)
	}
	_, err = io.WriteString(s.env.Stdout, made.report())
	return err
}

// report returns what has happened and what to do next, one sentence a line.
func (m ClusterInit) report() string {
	list := []string{fmt.Sprintf("The cluster has the store %s. Records from %s: %d.", m.StoreID, m.From, m.Records)}
	if m.Restored {
		list = append(list, "All logins to the dashboard were ended.")
	}
	if m.Held {
		list = append(list, "Webhooks are held back, because their pending deliveries may have been sent since the backup.", "Release them once a node runs: latchkey webhooks release")
	}
	pepper := "Give each node the same pepper, in LATCHKEY_KEYS_PEPPER."
	if m.Pepper != "" {
		pepper = fmt.Sprintf("Copy the pepper file %s to each node, with the mode 0600.", m.Pepper)
	}
	return lines(append(list, "", "Next:", "  1. "+pepper, "  2. Set the same cluster.endpoints on each node, and a cluster.name of its own.",
		"  3. Run \"latchkey serve\" on each node. \"latchkey cluster nodes\" shows which of them run."))
}

func (s *session) listNodes(ctx context.Context, c *cli.Command) error {
	service, err := s.load(c)
	if err != nil {
		return err
	}
	nodes, err := service.ClusterNodes(ctx)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.printJSON(map[string]any{"nodes": nodes})
	}
	rows, running := [][]string{}, 0
	for _, n := range nodes {
		if n.Running {
			running++
		}
		rows = append(rows, []string{n.Name, n.state(), cell(n.Host), cell(n.Version), n.configured(), n.Started.UTC().Format(time.RFC3339)})
	}
	if err := s.printTable([]string{"NAME", "STATE", "HOST", "VERSION", "CONFIG", "STARTED"}, rows); err != nil {
		return err
	}
	note := ""
	if slices.ContainsFunc(nodes, func(n ClusterNode) bool { return n.Differs }) {
		note = "Nodes with different limits, permissions, routes or other settings may decide differently about requests: compare their configuration files.\n"
	}
	_, err = fmt.Fprintf(s.env.Stdout, "\n%d of %d nodes run.\n%s", running, len(nodes), note)
	return err
}

func (s *session) removeNode(ctx context.Context, c *cli.Command) error {
	name, err := oneArgument(c)
	if err != nil {
		return err
	}
	service, err := s.load(c)
	if err != nil {
		return err
	}
	ask := question{
		text: "The node " + name + " ends, and no node can ever have its name again. The records stay. To go on, type the name of the node: ",
		want: name, without: "remove the node", refused: "the name was not typed, so no node was removed",
	}
	if err := s.confirm(c, ask); err != nil {
		return err
	}
	if err := service.ClusterRemove(ctx, name); err != nil {
		return interrupted(ctx, err, "the node may be removed already; run the command again to be sure")
	}
	if c.Bool("json") {
		return s.printJSON(map[string]any{"name": name, "removed": true})
	}
	_, err = fmt.Fprintf(s.env.Stdout, "The node %s was removed. It answers no requests, and its name can never be used again.\n", name)
	return err
}
