// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"time"
)

// A Scenario is one file, complete: every default is filled in.
type Scenario struct {
	Name        string
	File        string // as it was named by the caller; "" for none
	Description string
	// Duration counts from the end of Settle.
	Duration time.Duration
	// Settle is healthy time before the first fault; any verdict in it is a false
	// alarm.
	Settle time.Duration
	// Family of the node network; the pod network is IPv4 always.
	Family Family
	// Aggregators is 1 or 2.
	Aggregators int
	Cloud       Cloud
	// Pending scenarios wait for a signature that is still to come.
	Pending bool
	Overlay Overlay
	// Nodes have every MTU filled in.
	Nodes   []Node
	Traffic []Traffic
	Faults  []Fault
	// Objects is the file of Kubernetes objects, "" for none.
	Objects string
	Expect  []Expectation
	// Forbid are grades ("suspected", "likely", "proven") that no uncovered verdict
	// may reach.
	Forbid []string
}

// Family is an IP family, "ipv4" or "ipv6".
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Cloud is what the metadata server imitates.
type Cloud string

// The clouds. NoCloud has no metadata server.
const (
	AWS     Cloud = "aws"
	Azure   Cloud = "azure"
	GCP     Cloud = "gcp"
	NoCloud Cloud = "none"
)

// Overlay is what carries pod packets between nodes.
type Overlay struct {
	// Kind is "vxlan", or "none": the fabric routes pod addresses.
	Kind string
	// DF is "unset", "set" or "inherit" (IFLA_VXLAN_DF).
	DF string
	// LowerDevice binds the VXLAN to eth0, so that the kernel clamps its MTU.
	LowerDevice bool
}

// A Node of the cluster.
type Node struct {
	Name, Zone, Pool                string
	InstanceType, Kernel, Image     string
	ControlPlane                    bool
	UnderlayMTU, OverlayMTU, PodMTU int // bytes, of the IP packet
}

// Traffic is one flow that an application makes again and again.
type Traffic struct {
	// Kind is tcp, http, udp or dns.
	Kind string
	// From and To are node names. To is "" for dns: the cluster's resolver.
	From, To string
	// Bytes that a tcp transfer sends or a udp datagram carries.
	Bytes int64
	// ResponseBytes that an http answer has.
	ResponseBytes int64
	Every         time.Duration
	// Plane is "pod" (over the overlay) or "node".
	Plane string
}

// Direction of a path fault; forward is from the first named to the second, or
// from the selected nodes outwards.
type Direction string

// The directions.
const (
	Both    Direction = "both"
	Forward Direction = "forward"
	Reverse Direction = "reverse"
)

// A Fault is one thing that breaks.
type Fault struct {
	Kind Kind
	// At and Until count from the end of settle. Until is negative when the fault
	// stays to the end.
	At, Until time.Duration
	// Between holds the two ends of a path fault, each resolved to its node names;
	// nil when the fault is not between two sets.
	Between [][]string
	// BetweenNames are the two names as written.
	BetweenNames []string
	// Nodes are the names of all nodes that the fault acts on, resolved from node,
	// nodes, zone, pool or between; all nodes when nothing was selected and the
	// kind acts on nodes.
	Nodes []string
	// Selected says whether the file selected nodes at all.
	Selected bool
	// Zone as written, "" for none: what api-slow delays.
	Zone      string
	Direction Direction

	Bytes         int     // path-drop-larger
	ICMP          bool    // path-drop-larger
	Ratio         float64 // path-loss, ring-drop: 0 < ratio <= 1
	BitsPerSecond int64   // path-rate
	Every         time.Duration
	In            string // icmp-filter: "node" or "pod"
	MTU           int    // *-mtu
	Device        string // link-down, link-flap: "eth0" when not named
	// Clock and time servers.
	Offset time.Duration
	Drift  float64 // parts per million
	// Step says that the offset comes as a jump that the kernel reports; StepBy is
	// an additional jump.
	Step   bool
	StepBy time.Duration
	// Server is the index of a time server, -1 for all.
	Server int
	// Mode of imds and dns-broken.
	Mode string
	// Disk.
	Fsync     time.Duration
	IOPS      int
	Neighbour bool
	// Delay of api-slow.
	Delay time.Duration

	// Line and Column say where in the file the fault stands, from 1.
	Line, Column int
}

// Ends says whether the fault is taken back before the run ends.
func (f Fault) Ends() bool { return f.Until >= 0 }

// Scope are the keys of a verdict's scope that an expectation names. Nil or empty
// is not named. Sets compare as equal.
type Scope struct {
	Kind         string
	Nodes, Zones []string
	Pool         string
	Device       string
	Pod          string
}

// An Expectation is a verdict that must come, or a rival that must be refuted.
type Expectation struct {
	// Signature is the verdict's, "" when Refuted is given.
	Signature string
	// Grade at least: "suspected", "likely", "proven", or "" for any.
	Grade string
	Scope Scope
	// Fault is the index that Within and ClearsWithin count from.
	Fault int
	// Within is 0 when no limit was given; ClearsWithin as well.
	Within, ClearsWithin time.Duration
	// Refuted is the id that must be weighed and refuted.
	Refuted string

	Line, Column int
}

// Kind names what a fault does.
type Kind string

// The kinds.
const (
	PathDropLarger    Kind = "path-drop-larger"
	PathLoss          Kind = "path-loss"
	PathDropFragments Kind = "path-drop-fragments"
	PathCut           Kind = "path-cut"
	PathRate          Kind = "path-rate"
	PathFlap          Kind = "path-flap"
	ICMPFilter        Kind = "icmp-filter"
	UnderlayMTU       Kind = "underlay-mtu"
	OverlayMTU        Kind = "overlay-mtu"
	PodMTU            Kind = "pod-mtu"
	BridgePortMTU     Kind = "bridge-port-mtu"
	LinkDown          Kind = "link-down"
	LinkFlap          Kind = "link-flap"
	RingDrop          Kind = "ring-drop"
	ClockOffset       Kind = "clock-offset"
	NTPLies           Kind = "ntp-lies"
	NTPCut            Kind = "ntp-cut"
	NTPSmear          Kind = "ntp-smear"
	IMDS              Kind = "imds"
	DiskSlow          Kind = "disk-slow"
	EtcdCPUStarved    Kind = "etcd-cpu-starved"
	APISlow           Kind = "api-slow"
	DNSBroken         Kind = "dns-broken"
	AgentKill         Kind = "agent-kill"
	AgentFreeze       Kind = "agent-freeze"
	AggregatorKill    Kind = "aggregator-kill"
	AggregatorCut     Kind = "aggregator-cut"
	TokenExpired      Kind = "token-expired"
	TokenWrongNode    Kind = "token-wrong-node"
	ReceiverSlow      Kind = "receiver-slow"
	ReceiverFrozen    Kind = "receiver-frozen"
	QUICProbes        Kind = "quic-probes"
	TCPTeardownStorm  Kind = "tcp-teardown-storm"
)
