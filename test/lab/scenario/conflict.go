// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// A target is what a fault holds while it lasts. Two faults that cannot both be
// true of one target contradict each other. At most 60 nodes and "elsewhere", the
// far side of a fabric port that is no node, fit into a word.
type target struct {
	// paths has one bit for each destination, by source; nil for what is no path.
	paths []uint64
	// nodes has one bit for each node.
	nodes uint64
	// part has one bit for each part of what is on the nodes: a time server, or a
	// node whose requests an API endpoint delays; all bits when there are no parts.
	part uint64
	// device tells targets on one node apart.
	device string
}

const everything = ^uint64(0)

func (d *decoder) bitsOf(names []string) uint64 {
	var out uint64
	for i, n := range d.out.Nodes {
		if slices.Contains(names, n.Name) {
			out |= 1 << i
		}
	}
	return out
}

func (d *decoder) target(f Fault, t trait) target {
	out := target{nodes: d.bitsOf(f.Nodes), part: everything}
	switch {
	case t.reach == onPaths:
		out.paths = d.paths(f)
	case t.reach == onService:
		out.nodes = everything
	case t.reach == onEndpoints && f.Zone != "":
		out.part = d.bitsOf(d.out.NodesInZone(f.Zone))
	case f.Server >= 0:
		out.part = 1 << f.Server
	case f.Kind == ICMPFilter:
		out.device = "the " + f.In
	case f.Kind == LinkDown || f.Kind == LinkFlap:
		out.device = f.Device
	}
	return out
}

// paths returns for each source the destinations that a path fault acts on; the
// last source and bit are elsewhere.
func (d *decoder) paths(f Fault) []uint64 {
	elsewhere := len(d.out.Nodes)
	out := make([]uint64, elsewhere+1)
	if !f.Selected || f.Between != nil {
		index := make(map[string]int, elsewhere)
		for i, n := range d.out.Nodes {
			index[n.Name] = i
		}
		for _, pair := range f.Pairs(d.out) {
			out[index[pair[0]]] |= 1 << index[pair[1]]
		}
		return out
	}
	selected := d.bitsOf(f.Nodes)
	for from := range out {
		for to := range out {
			leaves, arrives := selected>>from&1 == 1, selected>>to&1 == 1
			if from != to && (f.Direction != Reverse && leaves || f.Direction != Forward && arrives) {
				out[from] |= 1 << to
			}
		}
	}
	return out
}

// exclusive says whether two kinds cannot both be true of one target.
func exclusive(a, b Kind) bool {
	if a == b || isPath(a) && isPath(b) && (a == PathCut || b == PathCut) {
		return true
	}
	for _, group := range [][]Kind{
		{LinkDown, LinkFlap},
		// Both change the veth between pod and bridge, and undoing one heals the other.
		{PodMTU, BridgePortMTU},
		{NTPLies, NTPCut, NTPSmear},
		{AgentKill, AgentFreeze},
		// An agent that is not there presents nothing. One that is frozen may well
		// find its token expired when it wakes up.
		{AgentKill, TokenExpired, TokenWrongNode},
		{ReceiverSlow, ReceiverFrozen},
		{AggregatorKill, AggregatorCut},
	} {
		if slices.Contains(group, a) && slices.Contains(group, b) {
			return true
		}
	}
	return false
}

// together returns when both faults last; false when they never do.
func together(a, b Fault) (from, until time.Duration, ok bool) {
	from, until = max(a.At, b.At), a.Until
	if !a.Ends() || b.Ends() && b.Until < until {
		until = b.Until
	}
	return from, until, until < 0 || from < until
}

// shared describes what both targets hold, "" when it is nothing.
func (d *decoder) shared(a, b target) string {
	name := func(i int) string {
		if i >= len(d.out.Nodes) {
			return "elsewhere"
		}
		return d.out.Nodes[i].Name
	}
	if a.paths != nil && b.paths != nil {
		for from := range a.paths {
			if both := a.paths[from] & b.paths[from]; both != 0 {
				return fmt.Sprintf("from %s to %s", name(from), name(bits.TrailingZeros64(both)))
			}
		}
		return ""
	}
	both := a.nodes & b.nodes
	if both == 0 || a.part&b.part == 0 || a.device != b.device {
		return ""
	}
	where := "the aggregator"
	if both != everything {
		where = name(bits.TrailingZeros64(both))
	}
	if a.device != "" {
		where = a.device + " of " + where
	}
	return "on " + where
}

// contradictions reports faults that cannot both be injected. Each fault is
// reported once, with the first one before it that it contradicts.
func (d *decoder) contradictions() {
	targets := make([]target, len(d.out.Faults))
	for i, f := range d.out.Faults {
		if d.faults[i].whole {
			targets[i] = d.target(f, d.faults[i].trait)
		}
	}
	for i, f := range d.out.Faults {
		for j, earlier := range d.out.Faults[:i] {
			if !d.faults[i].whole || !d.faults[j].whole || !exclusive(f.Kind, earlier.Kind) {
				continue
			}
			from, until, ok := together(f, earlier)
			if !ok {
				continue
			}
			where := d.shared(targets[i], targets[j])
			if where == "" {
				continue
			}
			d.contradiction(j, i, where, window(from, until))
			break
		}
	}
}

func window(from, until time.Duration) string {
	if until < 0 {
		return fmt.Sprintf("from %s to the end", short(from))
	}
	return fmt.Sprintf("from %s to %s", short(from), short(until))
}

func (d *decoder) contradiction(j, i int, where, when string) {
	a, b := d.out.Faults[j], d.out.Faults[i]
	kinds := fmt.Sprintf("%s and %s exclude each other", b.Kind, a.Kind)
	if a.Kind == b.Kind {
		kinds = fmt.Sprintf("both are %s", a.Kind)
	}
	d.fail(d.faults[i].node, fmt.Sprintf("fault %d (line %d) contradicts fault %d (line %d)", i, b.Line, j, a.Line),
		fmt.Sprintf("%s %s, %s", kinds, where, when), "keep one, or part them in time or place")
}
