// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// What kernel and user space share. The Go types are generated from these, so
// padding is explicit and nothing is packed.

#pragma once

#include "kernel.bpf.h"

// A hole that the compiler makes is one that C and Go may see differently.
#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

// What kind of place dropped, which decides how the limit is found.
enum site_class {
	// Not in the table: kept only when the reason itself says "too big".
	CLASS_OTHER = 0,
	// IP forwarding: limit of the route out; GSO counts by segment.
	CLASS_FORWARD = 1,
	// IP output: limit of the route, learned path MTU included.
	CLASS_OUTPUT = 2,
	// Bridge port: limit of skb->dev. GSO always passes there.
	CLASS_BRIDGE = 3,
	// veth: limit of the *peer* of skb->dev. GSO always passes there.
	CLASS_PEER = 4,
	// IPIP, GRE before the outer header: tnl_update_pmtu() has just taught the
	// packet's route the path MTU, which is the limit from the second packet on.
	CLASS_TUNNEL = 5,
};

enum limit_source {
	LIMIT_UNKNOWN = 0,
	LIMIT_ROUTE = 1,
	LIMIT_DEVICE = 2,
	LIMIT_PEER = 3,
};

// How the packet was wrapped when it was dropped.
enum tunnel_kind {
	TUNNEL_NONE = 0,
	TUNNEL_VXLAN = 1,
	TUNNEL_GENEVE = 2,
	TUNNEL_WIREGUARD = 3,
	TUNNEL_IPIP = 4,
	TUNNEL_SIT = 5,
	TUNNEL_GRE = 6,
	TUNNEL_VXLAN_GPE = 7,
};

// The text of one kernel function, as far as the compiler left it in one piece.
struct site_range {
	__u64 start;
	__u64 end;
	__u32 class;
	__u32 pad;
};

#define MAX_RANGES 128

struct site_table {
	__u32 count;
	__u32 pad;
	// Ascending, not overlapping.
	struct site_range ranges[MAX_RANGES];
};

// Key: 0. Value: the functions that check sizes, from /proc/kallsyms.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct site_table);
} sites SEC(".maps");

struct drop_key {
	// Return address inside the function that dropped.
	__u64 location;
	// Namespace of skb->dev: whose drop it is.
	__u32 netns;
	// Device whose MTU was the limit, and its namespace; 0 when unknown.
	__u32 limit_netns;
	__u32 limit_ifindex;
	// Namespace of the socket that sent, 0 when unknown.
	__u32 sender_netns;
	// skb->dev of a veth drop, else the device by which the packet came in.
	__u32 from_ifindex;
	// VNI of VXLAN and Geneve.
	__u32 tunnel_id;
	// UDP port that told the tunnel, host order.
	__u16 tunnel_port;
	__u16 reason;
	__u8 family;
	__u8 tunnel_kind;
	__u8 class;
	__u8 limit_source;
};

struct drop_value {
	__u64 count;
	// CLOCK_BOOTTIME in ns. onset is the first drop after 30 s without one.
	__u64 first_ns;
	__u64 last_ns;
	__u64 onset_ns;
	// Layer 3 length of one segment, as it was at the drop (outer).
	__u32 len_min;
	__u32 len_max;
	// Least limit; 0 when the kernel's structures did not tell.
	__u32 limit;
	__u32 pad;
};

// Key: one place, device, sender and tunnel. Value: what was dropped there. A
// plain hash: nothing is evicted, what does not fit is counted (COUNT_OVERFLOW).
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct drop_key);
	__type(value, struct drop_value);
} drops SEC(".maps");

// A flow as its sender's own device shows it: the inner one inside a tunnel.
// ICMP echo has its identifier as source and type and code as destination port.
struct flow_key {
	__u32 source[4];
	__u32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u8 family;
	__u8 protocol;
	__u16 pad;
};

#define FLOW_PROBING 1
#define FLOW_FLOODED 2

struct flow_value {
	__u64 first_ns;
	__u64 last_ns;
	// The present streak: drops with no adapted packet after any of them.
	__u64 streak_first_ns;
	__u64 streak_last_ns;
	// When a packet of the flow last fitted; 0 never.
	__u64 adapted_ns;
	__u64 wake_ns;
	// The row of `drops` that counted the last drop of the flow.
	struct drop_key row;
	// How the limit of that drop was found, which holds for the next ones of the
	// same device and route: when, and the two addresses.
	__u64 limit_ns;
	__u64 limit_device;
	__u64 limit_route;
	// The key of `connections` that leads here; 0 without conntrack.
	__u64 connection;
	// All drops, and those that were counted in a row without sender.
	__u32 drops;
	__u32 unattributed;
	// Drops of the streak that were at least 10 ms apart.
	__u32 streak;
	// Length of the flow's own packet and the room it has: less than those of the
	// row by what the tunnel adds.
	__u32 length;
	__u32 limit;
	// TCP: lowest and newest sequence number dropped in the streak.
	__u32 sequence_low;
	__u32 sequence_last;
	// Namespace of the sending socket, learned from the first packet seen with it.
	__u32 sender_netns;
	__u32 flags;
	// Limit of the row, before the tunnel's part is taken off.
	__u32 limit_outer;
};

// Key: a flow that was dropped. Value: its history. LRU: details may be lost,
// counts (above) may not.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

// Key: conntrack's entry with the direction in the lowest bit, a mere number, never
// followed. Value: the flow as it was dropped. Behind a Service a packet leaves the
// node under another 5-tuple than it was dropped under; the entry is the same.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct flow_key);
} connections SEC(".maps");

// Key: inode of a network namespace of another node on this kernel. Value: 1.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} ignored_netns SEC(".maps");

struct tunnel_port {
	// Host order.
	__u16 port;
	// 1: match the source port (WireGuard listens there), 0: the destination.
	__u16 source;
};

// Key: a UDP port of an overlay. Value: enum tunnel_kind.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct tunnel_port);
	__type(value, __u32);
} tunnel_ports SEC(".maps");

// Eight bytes (the time) for each rare edge that user space should not wait for.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} wakes SEC(".maps");

enum counter {
	// Oversize drops that found no room in `drops`.
	COUNT_OVERFLOW = 0,
	// GSO_BY_FRAGS: the segment lengths are in a list that is not walked.
	COUNT_BY_FRAGS = 1,
	// Headers that could not be read or parsed: dropped without a flow.
	COUNT_NO_FLOW = 2,
	// Oversize drops in namespaces of other nodes.
	COUNT_IGNORED = 3,
	// Marked packets of the agent's self-test.
	COUNT_SELFTEST_DROP = 4,
	COUNT_SELFTEST_XMIT = 5,
	// Lost for a helper that failed before the drop could be judged.
	COUNT_FAILED = 6,
	COUNTERS = 7,
};

// Key: enum counter. Value: events.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

#pragma clang diagnostic pop

__attribute__((noinline)) int count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		(*n)++;
	return 0;
}

// Keeps the enumerations in the object's BTF, from which the Go constants come.
const enum counter *keep_counter __attribute__((unused));
const enum site_class *keep_site_class __attribute__((unused));
const enum limit_source *keep_limit_source __attribute__((unused));
const enum tunnel_kind *keep_tunnel_kind __attribute__((unused));
