// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// The router's answer to a packet that is too large: ICMP "fragmentation needed"
// (RFC 792, RFC 1191 section 4) or ICMPv6 "packet too big" (RFC 4443 section 3.2).
// The packet itself is rewritten into the answer and goes back where it came from.

#pragma once

#include "maps.bpf.h"
#include "parse.bpf.h"

#define BPF_ADJ_ROOM_MAC 1
// What bpf_skb_adjust_room() takes at once is less than 4096.
#define ADJUST_STEP 4000
#define ADJUST_STEPS 17

#define ICMP_HEADER 8
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4
#define ICMP_ECHO 8
#define ICMP_TIMESTAMP 13
#define ICMP_ADDRESS_REPLY 18
#define ICMP6_TOO_BIG 2
#define ICMP6_INFORMATIONAL 128

// ICMP header and quote: as much as bpf_csum_diff() takes at once. RFC 1812
// section 4.3.2.3 asks for as much of the packet as fits into 576 bytes, RFC 4443
// for what fits into 1280; a tunnel's headers and the inner ones are well within.
#define MESSAGE 512
#define QUOTE (MESSAGE - ICMP_HEADER)

// Shows the verifier that 0 < length <= MESSAGE, a power of two, without changing a
// length for which it is true. Comparisons would not do: clang, which knows it, makes
// them into what the verifier does not follow, and before 6.8 (d028f87517d6) that
// one learns nothing from "not 0".
static __always_inline __u64 bounded(__u64 length)
{
	length--;
	asm volatile("" : "+r"(length));
	length &= MESSAGE - 1;
	asm volatile("" : "+r"(length));
	return length + 1;
}

struct answer {
	// Of IPv6's checksum (RFC 8200 section 8.1).
	struct {
		__u8 source[16];
		__u8 destination[16];
		__u32 length;
		__u32 next;
	} pseudo;
	__u8 ethernet[16]; // 14 used
	struct ipv4_header ip4;
	struct ipv6_header ip6;
	__u8 message[MESSAGE + ICMP_HEADER]; // the end for the verifier's bound only
};

// Key: 0. Value: the answer being made. tc ingress runs in a softirq, which no
// other interrupts.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

// Whether a router may answer (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e):
// never to an error message, a group, a broadcast, a fragment but the first, or to
// an address that names no single host.
static __always_inline bool answerable(struct __sk_buff *skb, struct packet *p)
{
	__u8 type = 0;

	if (skb->pkt_type != PACKET_HOST || p->later_fragment)
		return false;
	if (p->version == 4) {
		if (p->destination[12] >= 224 || p->source[12] >= 224 || !p->source[12] || p->source[12] == 127)
			return false;
		if (p->protocol != IPPROTO_ICMP)
			return true;
		if (bpf_skb_load_bytes(skb, p->transport, &type, 1))
			return false;
		return type == ICMP_ECHO_REPLY || type == ICMP_ECHO ||
		       (type >= ICMP_TIMESTAMP && type <= ICMP_ADDRESS_REPLY);
	}
	if (p->destination[0] == 0xff || p->source[0] == 0xff || !p->source[0])
		return false;
	if (p->protocol != IPPROTO_ICMPV6)
		return true;
	if (bpf_skb_load_bytes(skb, p->transport, &type, 1))
		return false;
	return type >= ICMP6_INFORMATIONAL;
}

// Makes the frame `want` bytes long by what lies behind the Ethernet header; all of
// it is written anew. bpf_skb_change_tail() would not do: it refuses a packet that
// left a tunnel device of the sender (skb->encapsulation survives a veth).
static __always_inline bool resize(struct __sk_buff *skb, __u32 want)
{
	for (int i = 0; i < ADJUST_STEPS; i++) {
		__s32 difference = want - skb->len;

		if (!difference)
			return true;
		if (difference < -ADJUST_STEP)
			difference = -ADJUST_STEP;
		if (bpf_skb_adjust_room(skb, difference, BPF_ADJ_ROOM_MAC, 0))
			return false;
	}
	return skb->len == want;
}

static __always_inline bool is_zero(const __u8 *address, int length)
{
	__u8 any = 0;

	for (int i = 0; i < length; i++)
		any |= address[i];
	return !any;
}

// Turns the packet into the answer. Returns false when it cannot; the packet may
// then be spoilt and is to be dropped.
static __always_inline bool answer(struct __sk_buff *skb, struct packet *p, struct port *in, __u32 mtu)
{
	__u32 zero = 0, header = p->version == 4 ? IP_HEADER : IP6_HEADER, total;
	__u64 quote = p->bytes;
	struct answer *a = bpf_map_lookup_elem(&answers, &zero);
	__u8 swap[6];
	__s64 sum;

	// A train is no packet; it must not be resent as one.
	if (!a || skb->gso_size)
		return false;
	if (p->version == 4 ? is_zero(in->gateway4, 4) : is_zero(in->gateway6, 16))
		return false;
	if (quote > QUOTE)
		quote = QUOTE;
	__builtin_memset(a->message, 0, sizeof(a->message));
	if (bpf_skb_load_bytes(skb, ETH_HEADER, a->message + ICMP_HEADER, bounded(quote)))
		return false;
	if (bpf_skb_load_bytes(skb, 0, a->ethernet, ETH_HEADER))
		return false;
	__builtin_memcpy(swap, a->ethernet, 6);
	__builtin_memcpy(a->ethernet, a->ethernet + 6, 6);
	__builtin_memcpy(a->ethernet + 6, swap, 6);
	total = header + ICMP_HEADER + quote;

	// The MTU's last 16 bits are at the same place in both.
	a->message[6] = mtu >> 8;
	a->message[7] = mtu;
	if (p->version == 4) {
		a->message[0] = ICMP_UNREACHABLE;
		a->message[1] = ICMP_FRAG_NEEDED;
		sum = bpf_csum_diff(NULL, 0, (void *)a->message, MESSAGE, 0);
		if (sum < 0)
			return false;
		*(__u16 *)(a->message + 2) = fold(sum);
		__builtin_memset(&a->ip4, 0, sizeof(a->ip4));
		a->ip4.version_length = 0x45;
		a->ip4.tos = 0xc0; // internetwork control, RFC 1812 section 4.3.2.5
		a->ip4.length = bswap16(total);
		a->ip4.id = bpf_get_prandom_u32();
		a->ip4.ttl = 64;
		a->ip4.protocol = IPPROTO_ICMP;
		__builtin_memcpy(a->ip4.source, in->gateway4, 4);
		__builtin_memcpy(a->ip4.destination, p->source + 12, 4);
		sum = bpf_csum_diff(NULL, 0, (void *)&a->ip4, sizeof(a->ip4), 0);
		if (sum < 0)
			return false;
		a->ip4.checksum = fold(sum);
	} else {
		a->message[0] = ICMP6_TOO_BIG;
		a->message[1] = 0;
		a->message[4] = mtu >> 24;
		a->message[5] = mtu >> 16;
		__builtin_memcpy(a->pseudo.source, in->gateway6, 16);
		__builtin_memcpy(a->pseudo.destination, p->source, 16);
		a->pseudo.length = bswap32(ICMP_HEADER + quote);
		a->pseudo.next = bswap32(IPPROTO_ICMPV6);
		sum = bpf_csum_diff(NULL, 0, (void *)&a->pseudo, sizeof(a->pseudo), 0);
		if (sum < 0)
			return false;
		sum = bpf_csum_diff(NULL, 0, (void *)a->message, MESSAGE, sum);
		if (sum < 0)
			return false;
		*(__u16 *)(a->message + 2) = fold(sum);
		__builtin_memset(&a->ip6, 0, sizeof(a->ip6));
		a->ip6.version_class_flow = bswap32(6U << 28);
		a->ip6.payload = bswap16(ICMP_HEADER + quote);
		a->ip6.next = IPPROTO_ICMPV6;
		a->ip6.hop_limit = 64;
		__builtin_memcpy(a->ip6.source, in->gateway6, 16);
		__builtin_memcpy(a->ip6.destination, p->source, 16);
	}
	if (!resize(skb, ETH_HEADER + total))
		return false;
	if (bpf_skb_store_bytes(skb, 0, a->ethernet, ETH_HEADER, 0))
		return false;
	if (p->version == 4 ? bpf_skb_store_bytes(skb, ETH_HEADER, &a->ip4, IP_HEADER, 0)
			    : bpf_skb_store_bytes(skb, ETH_HEADER, &a->ip6, IP6_HEADER, 0))
		return false;
	return !bpf_skb_store_bytes(skb, ETH_HEADER + header, a->message, bounded(ICMP_HEADER + quote), 0);
}
