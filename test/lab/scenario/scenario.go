// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"slices"
	"time"
)

// NodeNames returns the names of all nodes, in the file's order.
func (s *Scenario) NodeNames() []string {
	out := make([]string, 0, len(s.Nodes))
	for _, n := range s.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// Node returns the node of that name, and false when there is none.
func (s *Scenario) Node(name string) (Node, bool) {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return s.Nodes[i], true
}

// distinct returns one label of every node, each value once, in the file's order
// of nodes; nodes without it are left out.
func (s *Scenario) distinct(label func(Node) string) []string {
	var out []string
	for _, n := range s.Nodes {
		if v := label(n); v != "" && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// where returns the names of the nodes that match, in the file's order.
func (s *Scenario) where(match func(Node) bool) []string {
	var out []string
	for _, n := range s.Nodes {
		if match(n) {
			out = append(out, n.Name)
		}
	}
	return out
}

// Zones returns the zones, each once, in the order in which the nodes name them.
// A node without a zone adds none.
func (s *Scenario) Zones() []string { return s.distinct(func(n Node) string { return n.Zone }) }

// Pools returns the node pools in the same way.
func (s *Scenario) Pools() []string { return s.distinct(func(n Node) string { return n.Pool }) }

// NodesInZone returns the names of the nodes in a zone; for "", those of the nodes
// without one.
func (s *Scenario) NodesInZone(zone string) []string {
	return s.where(func(n Node) bool { return n.Zone == zone })
}

// ControlPlaneNodes returns the names of the control-plane nodes.
func (s *Scenario) ControlPlaneNodes() []string {
	return s.where(func(n Node) bool { return n.ControlPlane })
}

// RunFor returns how long the run may last after Settle: Duration, or longer when
// the last fault ends so late that what it caused needs more time to clear.
func (s *Scenario) RunFor() time.Duration {
	out := s.Duration
	var clears time.Duration
	for _, e := range s.Expect {
		clears = max(clears, e.ClearsWithin)
	}
	for _, f := range s.Faults {
		if f.Ends() {
			out = max(out, f.Until+clears)
		}
	}
	return out
}

// Pairs returns the ordered pairs (source, destination) of nodes that a path fault
// acts on, Direction taken into account, each once: those between the two ends of
// Between, or all pairs of nodes when the file selected nothing. Two ends that
// share a node make no pair of that node with itself.
//
// It is nil for a path fault on selected nodes: that one acts on everything that
// crosses the fabric ports of Nodes, whoever is on the other side (forward: what
// the nodes send), and for every other kind.
func (f Fault) Pairs(s *Scenario) [][2]string {
	if !isPath(f.Kind) {
		return nil
	}
	var out [][2]string
	cross := func(from, to []string) {
		for _, a := range from {
			for _, b := range to {
				if a != b {
					out = append(out, [2]string{a, b})
				}
			}
		}
	}
	switch {
	case len(f.Between) == 2:
		if f.Direction != Reverse {
			cross(f.Between[0], f.Between[1])
		}
		if f.Direction != Forward {
			cross(f.Between[1], f.Between[0])
		}
	case !f.Selected:
		cross(s.NodeNames(), s.NodeNames())
	}
	return out
}
