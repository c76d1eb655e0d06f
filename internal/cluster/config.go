package cluster

// CommonConfig returns the Node.Config that more than half of the running nodes have, or "" if there is none. It leaves out nodes
// of a version that does not register it.
func CommonConfig(nodes []Node) string {
	count, all := map[string]int{}, 0
	for _, n := range nodes {
		if n.Running && n.Config != "" {
			count[n.Config]++
			all++
		}
	}
	for sum, n := range count {
		if 2*n > all {
			return sum
		}
	}
	return ""
}

// Differs reports whether a running node has another configuration than CommonConfig returned. If no more than half of the nodes have
// the same one, all differ.
func (n Node) Differs(common string) bool { return n.Running && n.Config != "" && n.Config != common }
