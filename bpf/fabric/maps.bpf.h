// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// What user space tells the program and what it reads back. Go's types are
// generated from these; padding is explicit.

#pragma once

#include "../include/kernel.bpf.h"

// UAPI numbers, fixed (enum bpf_map_type, BPF_F_NO_PREALLOC).
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_F_NO_PREALLOC 1

#define SECOND 1000000000ULL

#define MAX_PORTS 256
// One for each ordered pair of 60 nodes (3540), and some more. A rule has 56 bytes
// here and 64 on each CPU: 224 KiB, and 256 KiB a CPU.
#define MAX_RULES 4096
// How many rules may hold for one ordered pair at once.
#define MAX_PAIR_RULES 16
#define MAX_DESTINATIONS 1024

// Key: interface index in the router. Value: the port's number, from 0.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

struct port {
	// Longest IP packet that the port's wire carries in either direction; 0 for any.
	__u32 wire;
	// The router's own addresses on the port, in network order; zero for none. ICMP
	// answers come from them.
	__u8 gateway4[4];
	__u8 gateway6[16];
};

// Key: the port's number. Value: what does not change while it is there.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct port);
} port_info SEC(".maps");

struct port_counters {
	// IP packets that entered, and their bytes; a GSO train counts as its segments.
	__u64 packets;
	__u64 bytes;
	// GSO trains that entered: packets that no wire carries. 0 when offloads are set
	// as they should be.
	__u64 trains;
	// Packets longer than a wire that they would have crossed.
	__u64 oversize;
	// Answers that could not be made.
	__u64 unanswered;
};

// Key: the port's number. Value: what entered there.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct port_counters);
} port_counts SEC(".maps");

struct destination_key {
	// Bits of address that count. IPv4 is ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
	__u32 prefix_length;
	__u8 address[16];
};

// Key: addresses behind a port. Value: the port's number.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_DESTINATIONS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct destination_key);
	__type(value, __u32);
} destinations SEC(".maps");

struct pair_key {
	__u32 from;
	__u32 to;
};

struct pair {
	__u32 count;
	__u32 rules[MAX_PAIR_RULES];
};

// Key: an ordered pair of ports. Value: the slots of the rules that hold for it;
// user space has worked wildcards out.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS *MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pair_key);
	__type(value, struct pair);
} pairs SEC(".maps");

struct rule {
	// A packet is lost when 32 random bits are below it: 1 << 32 loses all.
	__u64 loss;
	// 0 for no policer.
	__u64 bits_per_second;
	// How long the burst takes at that rate.
	__u64 burst_ns;
	// Length of a phase; 0 for none.
	__u64 flap_ns;
	// Longest IP packet that passes; 0 for any.
	__u32 drop_larger;
	// 1: what is too large is answered by ICMP.
	__u8 answer;
	// 1: fragments are lost.
	__u8 fragments;
	// 1: everything is lost.
	__u8 cut;
	__u8 pad;
};

// Key: the rule's slot. Value: what it does.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule);
} rules SEC(".maps");

struct bpf_spin_lock {
	__u32 val;
};

struct bucket {
	struct bpf_spin_lock lock;
	__u32 pad;
	// CLOCK_MONOTONIC at which the bucket is full again. What a slot's last rule left
	// behind can be as far ahead as that one's burst took; the slot's next rule resets
	// it.
	__u64 full_ns;
};

// Key: the rule's slot. Value: its policer. User space writes here only with the lock
// held (BPF_F_LOCK): another update would race with its holder.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct rule_counters {
	// What the rule was asked about: what a worse rule lost before is missing.
	__u64 seen_packets;
	__u64 seen_bytes;
	// What it lost, the answered included.
	__u64 dropped_packets;
	__u64 dropped_bytes;
	__u64 answered_packets;
	__u64 answered_bytes;
	__u64 rerouted_packets;
	__u64 rerouted_bytes;
};

// Key: the rule's slot. Value: what it did.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule_counters);
} rule_counts SEC(".maps");
