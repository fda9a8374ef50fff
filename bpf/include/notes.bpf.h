// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// How drops are counted and flows remembered.

#pragma once

#include "errmetrics.bpf.h"
#include "maps.bpf.h"
#include "packet.bpf.h"

#define SECOND 1000000000ULL
#define MILLISECOND 1000000ULL
// Drops closer together are one: a train of segments is dropped within
// microseconds and shows one attempt of the sender, not many.
#define DISTINCT (10 * MILLISECOND)
// The window of every item that counts (evidence/catalog.yaml).
#define WINDOW (30 * SECOND)

// When user space was last woken, by whatever flow.
volatile __u64 last_wake_ns = 0;

static __always_inline void wake(struct flow_value *flow, __u64 now)
{
	// One wake per flow and second, and one per 50 ms in all: whoever is left out
	// is seen in the map, or wakes with its next drop.
	if (flow->wake_ns && now - flow->wake_ns < SECOND)
		return;
	if (now - last_wake_ns < 50 * MILLISECOND)
		return;
	last_wake_ns = now;
	flow->wake_ns = now;
	if (bpf_ringbuf_output(&wakes, &now, sizeof(now), 0))
		count_error(SITE_WAKES, HELPER_RINGBUF_OUTPUT);
}

// A flow of which nothing is known yet. Among the constants, not on the stack: the
// 512 bytes of check_max_stack_depth() are for a whole chain of calls, and 6.1,
// which rounds each frame up to 32, counted 544 with it.
static const struct flow_value blank_flow = {};

static __always_inline struct flow_value *new_flow(struct packet *p, __u64 now)
{
	struct flow_value *flow;

	if (bpf_map_update_elem(&flows, &p->key, &blank_flow, BPF_NOEXIST))
		count_error(SITE_FLOWS, HELPER_MAP_UPDATE);
	flow = bpf_map_lookup_elem(&flows, &p->key);
	if (flow && !flow->first_ns)
		flow->first_ns = now;
	return flow;
}

// IP_CT_IS_REPLY of enum ip_conntrack_info: from here on it is the reply's
// direction.
#define CT_IS_REPLY 3
#define CT_INFO_MASK 7ULL

// Conntrack's entry of the packet and its direction; 0 when it has none.
static __always_inline __u64 connection_of(struct sk_buff *skb)
{
	__u64 entry;

	if (!bpf_core_field_exists(skb->_nfct))
		return 0;
	entry = skb->_nfct;
	if (!(entry & ~CT_INFO_MASK))
		return 0;
	return (entry & ~CT_INFO_MASK) | ((entry & CT_INFO_MASK) >= CT_IS_REPLY);
}

// Makes the flow findable by its connection. Not inside a tunnel: the entry is
// the outer packets' there, which many inner flows share, and the inner packet is
// seen in full, translated as it is, when the tunnel's device gets it.
static __always_inline void note_connection(struct flow_value *flow, struct packet *p, struct sk_buff *skb)
{
	__u64 connection = p->tunnel_kind ? 0 : connection_of(skb);

	if (!connection || flow->connection == connection)
		return;
	flow->connection = connection;
	if (bpf_map_update_elem(&connections, &connection, &p->key, BPF_ANY))
		count_error(SITE_CONNECTIONS, HELPER_MAP_UPDATE);
}

// The dropped flow that a packet belongs to: by its 5-tuple, or else by its
// connection, under whatever addresses it goes now.
static __always_inline struct flow_value *flow_of(struct packet *p, struct sk_buff *skb)
{
	struct flow_value *flow = bpf_map_lookup_elem(&flows, &p->key);
	struct flow_key *dropped;
	__u64 connection;

	if (flow)
		return flow;
	connection = p->tunnel_kind ? 0 : connection_of(skb);
	if (!connection)
		return NULL;
	dropped = bpf_map_lookup_elem(&connections, &connection);
	if (!dropped)
		return NULL;
	flow = bpf_map_lookup_elem(&flows, dropped);
	// The kernel may have given the entry to another connection since.
	return flow && flow->connection == connection ? flow : NULL;
}

// Notes a drop in its flow, and the flow's sender in the row when the packet does
// not tell it.
static __always_inline void note_flow(struct flow_value *flow, struct packet *p, struct drop_key *row, bool probing,
				      __u64 now)
{
	__u32 header = p->outer_length - p->length;

	if (row->sender_netns)
		flow->sender_netns = row->sender_netns;
	else
		row->sender_netns = flow->sender_netns;
	// Signed: on another processor a younger drop may have been noted meanwhile.
	if (!flow->streak || (__s64)(now - flow->last_ns) > (__s64)WINDOW) {
		flow->streak = 1;
		flow->streak_first_ns = flow->streak_last_ns = now;
		flow->sequence_low = p->sequence;
	} else if ((__s64)(now - flow->streak_last_ns) >= (__s64)DISTINCT) {
		flow->streak++;
		flow->streak_last_ns = now;
	}
	if ((__s32)(p->sequence - flow->sequence_low) < 0)
		flow->sequence_low = p->sequence;
	flow->sequence_last = p->sequence;
	flow->last_ns = now;
	flow->length = p->length;
	// A tunnel's header takes its part of the limit.
	flow->limit = flow->limit_outer > header ? flow->limit_outer - header : flow->limit_outer;
	flow->row = *row;
	flow->drops++;
	if (!row->sender_netns)
		flow->unattributed++;
	if (probing) {
		flow->flags |= FLOW_PROBING;
		flow->adapted_ns = now;
		flow->streak = 0;
	}
}

static __always_inline void note_row(struct drop_key *row, __u32 length, __u32 limit, __u64 now)
{
	struct drop_value *value = bpf_map_lookup_elem(&drops, row);

	if (!value) {
		struct drop_value fresh = {};
		long err;

		fresh.first_ns = fresh.onset_ns = fresh.last_ns = now;
		fresh.len_min = fresh.len_max = length;
		fresh.limit = limit;
		err = bpf_map_update_elem(&drops, row, &fresh, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&drops, row);
		if (!value) {
			if (err)
				count_error(SITE_DROPS, HELPER_MAP_UPDATE);
			count(COUNT_OVERFLOW);
			return;
		}
	}
	if ((__s64)(now - value->last_ns) > (__s64)WINDOW) {
		value->onset_ns = now;
		value->len_min = value->len_max = length;
		value->limit = limit;
	} else if (row->limit_source != LIMIT_ROUTE && limit && value->limit && limit != value->limit) {
		// The device's MTU was changed: lengths of before say nothing of it. Routes
		// may differ from packet to packet.
		value->len_min = value->len_max = length;
		value->limit = limit;
	}
	value->last_ns = now;
	if (length < value->len_min)
		value->len_min = length;
	if (length > value->len_max)
		value->len_max = length;
	if (limit && (!value->limit || limit < value->limit))
		value->limit = limit;
	__sync_fetch_and_add(&value->count, 1);
}
