package etcd

import (
	"maps"
	"slices"

	"latchkey/internal/cluster"
)

// SetConfig changes the Config that this node has registered. The other nodes get it with the next renewal of the lease.
func (e *Engine) SetConfig(sum string) {
	e.self.mu.Lock()
	defer e.self.mu.Unlock()
	e.self.node.Config = sum
}

// Running returns the nodes with a lease, as far as this engine knows without a request, by name.
func (e *Engine) Running() []cluster.Node {
	running, _, _ := e.state.running()
	list := make([]cluster.Node, 0, len(running))
	for _, name := range slices.Sorted(maps.Keys(running)) {
		node := running[name].Node
		node.Running, node.Acked = true, running[name].acked
		list = append(list, node)
	}
	return list
}
