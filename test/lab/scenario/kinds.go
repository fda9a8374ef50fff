// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"slices"
	"strings"
)

// A reach says what a fault kind acts on, and with it how it may be selected.
type reach int

const (
	// onPaths acts on what crosses the fabric: between two ends, or all that
	// crosses the ports of selected nodes; every pair of nodes by default.
	onPaths reach = iota
	// onNodes acts on nodes, all by default.
	onNodes
	// onControlPlane acts on control-plane nodes, all of them by default.
	onControlPlane
	// onEndpoints acts on the API endpoints of control-plane nodes, all by default;
	// zone names the clients that notice.
	onEndpoints
	// onClients acts on a service of the lab, for all nodes by default.
	onClients
	// onService acts on a service of the lab as a whole.
	onService
)

// String says what a fault of this reach acts on.
func (r reach) String() string {
	return [...]string{"what crosses the fabric", "nodes", "control-plane nodes", "API endpoints", "what nodes ask for", "the service as a whole"}[r]
}

// selectors are the fields that select, for each reach.
func (r reach) selectors() []string {
	switch r {
	case onPaths, onNodes, onControlPlane:
		return []string{"between", "node", "nodes", "zone", "pool"}
	case onClients:
		return []string{"node", "nodes", "zone", "pool"}
	case onEndpoints:
		return []string{"node", "nodes", "pool"}
	}
	return nil
}

// A trait is what the format knows about one fault kind.
type trait struct {
	kind   Kind
	reach  reach
	params []string
	// required are the params that must be there; of needsOne at least one.
	required, needsOne []string
}

// common are the fields that every kind has.
func common() []string { return []string{"at", "until", "kind"} }

// fields are all that a fault of this kind may have, its own first.
func (t trait) fields() []string {
	return slices.Concat(t.params, t.reach.selectors(), common())
}

// traits are the fault kinds in the order of the contract's table.
func traits() []trait {
	path := func(kind Kind, params ...string) trait {
		required := slices.DeleteFunc(slices.Clone(params), func(p string) bool { return p == "icmp" })
		return trait{kind: kind, reach: onPaths, params: append(params, "direction"), required: required}
	}
	node := func(kind Kind, params ...string) trait {
		return trait{kind: kind, reach: onNodes, params: params, required: slices.DeleteFunc(slices.Clone(params), func(p string) bool { return p == "device" || p == "in" })}
	}
	return []trait{
		path(PathDropLarger, "bytes", "icmp"),
		path(PathLoss, "ratio"),
		path(PathDropFragments),
		path(PathCut),
		path(PathRate, "bitsPerSecond"),
		path(PathFlap, "every"),
		node(ICMPFilter, "in"),
		node(UnderlayMTU, "mtu"),
		node(OverlayMTU, "mtu"),
		node(PodMTU, "mtu"),
		node(BridgePortMTU, "mtu"),
		node(LinkDown, "device"),
		node(LinkFlap, "device", "every"),
		node(RingDrop, "ratio"),
		{kind: ClockOffset, reach: onNodes, params: []string{"offset", "drift", "step"}, needsOne: []string{"offset", "drift", "step"}},
		{kind: NTPLies, reach: onClients, params: []string{"server", "offset"}, required: []string{"offset"}},
		{kind: NTPCut, reach: onClients, params: []string{"server"}},
		{kind: NTPSmear, reach: onClients, params: []string{"server", "offset"}},
		node(IMDS, "mode"),
		{kind: DiskSlow, reach: onControlPlane, params: []string{"fsync", "iops", "neighbour"}, needsOne: []string{"fsync", "iops", "neighbour"}},
		{kind: EtcdCPUStarved, reach: onControlPlane},
		{kind: APISlow, reach: onEndpoints, params: []string{"delay", "zone"}, required: []string{"delay"}},
		{kind: DNSBroken, reach: onClients, params: []string{"mode"}, required: []string{"mode"}},
		node(AgentKill),
		node(AgentFreeze),
		{kind: AggregatorKill, reach: onService},
		{kind: AggregatorCut, reach: onClients},
		node(TokenExpired),
		node(TokenWrongNode),
		node(ReceiverSlow),
		node(ReceiverFrozen),
		node(QUICProbes),
		node(TCPTeardownStorm),
	}
}

// Kinds returns all fault kinds in the order of the contract's table.
func Kinds() []Kind {
	var out []Kind
	for _, t := range traits() {
		out = append(out, t.kind)
	}
	return out
}

// kindsWith are the kinds that take a field, as text for a message; "" when no
// kind does.
func kindsWith(field string) string {
	var out []string
	for _, t := range traits() {
		if slices.Contains(t.fields(), field) {
			out = append(out, string(t.kind))
		}
	}
	return strings.Join(out, ", ")
}

// modes are the words that mode takes.
func modes(kind Kind) []string {
	if kind == DNSBroken {
		return []string{"all", "large"}
	}
	return []string{"timeout", "refuse", "http-500", "throttle", "disabled", "hop-limit", "impostor", "policy-block"}
}

// isPath says whether a kind is one of the path-* kinds.
func isPath(kind Kind) bool { return strings.HasPrefix(string(kind), "path-") }
