//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// The lab's wire faults: what a broken network between two ports would do to a
// packet.
//
// The program sits where a packet enters the router's port: at tc ingress, which
// __netif_receive_skb_core() runs before ip_rcv(). There the packet is as the
// sender's device put it on the wire; the router has not yet counted down its TTL
// and not yet compared it with any MTU. tcx since 6.6 (e420bed02507), clsact with
// direct action since 4.5 (1f211a1b929c). Every helper used is there in 5.10.

#include "../include/kernel.bpf.h"
#include "maps.bpf.h"
#include "parse.bpf.h"
#include "answer.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// What the router's policy rule looks for on packets that go the other way. Kernel
// and rule see it only between ingress and routing; skb_scrub_packet() clears it
// when the packet leaves the namespace.
const volatile __u32 reroute_mark = 0;

// What judge() looks at. The order is that of severity, so that of several rules
// the worst decides: what is lost without a word is never answered, and what is
// lost takes no tokens and no other way.
enum pass {
	PASS_SILENT = 0, // cut, fragments, silent size limit, loss
	PASS_ANSWER = 1, // size limit with an answer
	PASS_RATE = 2,
	PASS_REROUTE = 3,
	PASSES = 4,
};

enum judgement {
	JUDGED_PASS = 0,
	JUDGED_DROP = 1,
	JUDGED_ANSWER = 2,
	JUDGED_REROUTE = 3,
};

#define JUDGE_FRAGMENT (1 << 8)

// A policer by the generic cell rate algorithm (ITU-T I.371, the virtual scheduling
// form): one number says when the bucket will be full again. It is a token bucket
// without the rounding of one. Nothing waits.
static __always_inline bool over_rate(__u32 slot, struct rule *rule, __u32 length)
{
	__u64 cost = (__u64)length * 8 * SECOND / rule->bits_per_second;
	__u64 now = bpf_ktime_get_ns(), full;
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &slot);
	bool over;

	if (!bucket)
		return false;
	bpf_spin_lock(&bucket->lock);
	full = bucket->full_ns;
	if (full < now)
		full = now;
	// Emptier than empty is what a packet made it that still saw the slot's last rule.
	if (full > now + rule->burst_ns)
		full = now + rule->burst_ns;
	over = full + cost > now + rule->burst_ns;
	bucket->full_ns = over ? full : full + cost;
	bpf_spin_unlock(&bucket->lock);
	return over;
}

// What one rule says of a packet in one pass. Its arguments are numbers, so that it
// is verified once and not for every rule of every pass.
__attribute__((noinline)) int judge(__u32 slot, __u32 length, __u32 bytes, __u32 random, __u32 pass)
{
	bool fragment = pass & JUDGE_FRAGMENT;
	struct rule_counters *counters = bpf_map_lookup_elem(&rule_counts, &slot);
	struct rule *rule = bpf_map_lookup_elem(&rules, &slot);
	bool larger;

	if (!rule || !counters)
		return JUDGED_PASS;
	larger = rule->drop_larger && length > rule->drop_larger;
	switch (pass & 0xff) {
	case PASS_SILENT:
		counters->seen_packets++;
		counters->seen_bytes += bytes;
		if (!rule->cut && !(rule->fragments && fragment) && !(larger && !rule->answer) &&
		    random >= rule->loss)
			return JUDGED_PASS;
		break;
	case PASS_ANSWER:
		if (!larger || !rule->answer)
			return JUDGED_PASS;
		counters->dropped_packets++;
		counters->dropped_bytes += bytes;
		return JUDGED_ANSWER;
	case PASS_RATE:
		if (!rule->bits_per_second || !over_rate(slot, rule, bytes))
			return JUDGED_PASS;
		break;
	default:
		// Even phases take the way that they take without the rule.
		if (!rule->flap_ns || !(bpf_ktime_get_ns() / rule->flap_ns & 1))
			return JUDGED_PASS;
		counters->rerouted_packets++;
		counters->rerouted_bytes += bytes;
		return JUDGED_REROUTE;
	}
	counters->dropped_packets++;
	counters->dropped_bytes += bytes;
	return JUDGED_DROP;
}

static __always_inline void count_answered(__u32 slot, __u32 bytes)
{
	struct rule_counters *counters = bpf_map_lookup_elem(&rule_counts, &slot);

	if (!counters)
		return;
	counters->answered_packets++;
	counters->answered_bytes += bytes;
}

static __always_inline __u32 rule_limit(__u32 slot)
{
	struct rule *rule = bpf_map_lookup_elem(&rules, &slot);

	return rule ? rule->drop_larger : 0;
}

SEC("tc")
int fabric_ingress(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, *from, *to, random, judged = JUDGED_PASS, slot = 0;
	struct destination_key destination = {};
	struct port_counters *counters;
	struct port *in, *out;
	struct packet p = {};
	struct pair_key key;
	struct pair *pair;

	from = bpf_map_lookup_elem(&ports, &ifindex);
	if (!from)
		return TC_ACT_OK;
	in = bpf_map_lookup_elem(&port_info, from);
	counters = bpf_map_lookup_elem(&port_counts, from);
	// ARP is no IP and passes.
	if (!in || !counters || !parse_packet(skb, &p))
		return TC_ACT_OK;
	counters->packets += p.segments;
	counters->bytes += p.bytes;
	if (skb->gso_size)
		counters->trains++;

	// What is for the router itself, or for a group, does not cross the fabric: so
	// neighbour discovery with the gateway passes whatever is cut.
	destination.prefix_length = 128;
	__builtin_memcpy(destination.address, p.destination, sizeof(destination.address));
	to = bpf_map_lookup_elem(&destinations, &destination);
	if (!to)
		return TC_ACT_OK;
	out = bpf_map_lookup_elem(&port_info, to);
	if (!out)
		return TC_ACT_OK;
	if ((in->wire && p.length > in->wire) || (out->wire && p.length > out->wire)) {
		counters->oversize++;
		return TC_ACT_SHOT;
	}

	key.from = *from;
	key.to = *to;
	pair = bpf_map_lookup_elem(&pairs, &key);
	if (!pair)
		return TC_ACT_OK;
	// One draw for all rules: the highest of their ratios is the packet's.
	random = bpf_get_prandom_u32();
	for (__u32 pass = 0; pass < PASSES && judged == JUDGED_PASS; pass++) {
		__u32 what = pass | (p.fragment ? JUDGE_FRAGMENT : 0);

		for (__u32 i = 0; i < MAX_PAIR_RULES; i++) {
			if (i >= pair->count)
				break;
			slot = pair->rules[i];
			judged = judge(slot, p.length, p.bytes, random, what);
			if (judged != JUDGED_PASS)
				break;
		}
	}
	switch (judged) {
	case JUDGED_PASS:
		return TC_ACT_OK;
	case JUDGED_REROUTE:
		skb->mark = reroute_mark;
		return TC_ACT_OK;
	case JUDGED_ANSWER:
		if (!answerable(skb, &p))
			return TC_ACT_SHOT;
		if (!answer(skb, &p, in, rule_limit(slot))) {
			counters->unanswered++;
			return TC_ACT_SHOT;
		}
		count_answered(slot, p.bytes);
		return bpf_redirect(ifindex, 0);
	}
	return TC_ACT_SHOT;
}
