// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// Lengths and flows of packets. Only headers are read, never payload.

#pragma once

#include "errmetrics.bpf.h"
#include "maps.bpf.h"

#define bswap16(x) __builtin_bswap16(x)
#define bswap32(x) __builtin_bswap32(x)

#define ETHERTYPE_IP 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_TEB 0x6558
#define IP_DF 0x4000
#define IP_OFFSET 0x1fff

// A packet as parse_packet() left it. It lives in a map so that the functions that
// fill it take only numbers: they are then verified on their own, once, and on
// every kernel since 5.10 (pointers as arguments came with 5.12).
struct packet {
	struct flow_key key;
	// Start of the layer 3 header that `key` is of.
	__u64 at;
	// See number().
	__u64 scratch;
	// Its length, of one segment for GSO; and of the whole of a GSO packet.
	__u32 length;
	__u32 total;
	// Length of the outermost layer 3 packet, of one segment.
	__u32 outer_length;
	__u32 sequence;
	// Bytes of TCP payload, of the whole packet.
	__u32 payload;
	__u32 tunnel_id;
	__u16 tunnel_port;
	__u8 tunnel_kind;
	__u8 outer_family;
	// Layer 4 header, and what the layer 3 header said of it.
	__u32 header_length;
	__u8 protocol;
	__u8 first_fragment;
	// DF of the outermost header; 1 for IPv6, where routers never fragment.
	__u8 dont_fragment;
	// 1 while a program uses the entry. Before 6.1 (05b24ff9b2cf) a softirq may
	// run the same program in the middle of itself.
	__u8 busy;
};

enum packet_user {
	PACKET_DROP = 0,
	PACKET_ADAPT = 1,
	PACKET_USERS = 2,
};

// Key: enum packet_user. Value: the packet being looked at.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PACKET_USERS);
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

// Takes the entry; NULL when it is in use, which is counted.
static __always_inline struct packet *take_packet(__u32 user)
{
	struct packet *p = bpf_map_lookup_elem(&packets, &user);

	if (!p)
		return NULL;
	if (p->busy) {
		count(COUNT_FAILED);
		return NULL;
	}
	__builtin_memset(p, 0, sizeof(*p));
	p->busy = 1;
	return p;
}

// A pointer as a mere number, as which alone it may be an argument. The verifier
// forgets what it knew of it on its way through the map.
static __always_inline __u64 number(struct packet *p, const void *pointer)
{
	volatile __u64 *slot = &p->scratch;

	*slot = (__u64)pointer;
	return *slot;
}

#define SEGMENT_GSO (1ULL << 32)

// Layer 3 length of what goes on the wire for each segment, as
// skb_gso_transport_seglen() and skb_gso_network_seglen() compute it; with
// SEGMENT_GSO set for a GSO packet. The lower half is 0 when it cannot be told.
//
// headers: network, transport and inner transport header, 16 bits each from the
// lowest; above them the encapsulation bit.
__attribute__((noinline)) __u64 segment_length(__u64 head, __u32 end, __u32 total, __u64 headers)
{
	struct skb_shared_info *shared = (void *)(head + end);
	__u16 network = headers, transport = headers >> 16, inner = headers >> 32;
	__u32 type = 0, header = transport - network;
	__u16 size = 0;
	__u8 offset = 0;

	if (read_kernel(&size, sizeof(size), &shared->gso_size, SITE_SHINFO))
		return 0;
	if (!size)
		return total;
	if (size == GSO_BY_FRAGS) {
		count(COUNT_BY_FRAGS);
		return SEGMENT_GSO;
	}
	if (read_kernel(&type, sizeof(type), &shared->gso_type, SITE_SHINFO))
		return 0;
	if (headers >> 48) {
		header = inner - network;
		transport = inner;
	} else if (type & SKB_GSO_UDP_L4) {
		header += 8;
	}
	if (type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) {
		// Data offset: the upper four bits of byte 12, in words of four bytes.
		if (read_kernel(&offset, sizeof(offset), (void *)(head + transport + 12), SITE_TRANSPORT))
			return 0;
		header += (offset >> 4) * 4;
	}
	return SEGMENT_GSO | (header + size);
}

static __always_inline __u64 segment_of(struct packet *p, struct sk_buff *skb, __u32 total)
{
	__u64 headers = skb->network_header | (__u64)skb->transport_header << 16 |
			(__u64)skb->inner_transport_header << 32;

	if (BPF_CORE_READ_BITFIELD(skb, encapsulation))
		headers |= 1ULL << 48;
	return segment_length(number(p, skb->head), skb->end, total, headers);
}

static __always_inline __u64 l3_header(struct packet *p, struct sk_buff *skb)
{
	return number(p, skb->head) + skb->network_header;
}

static __always_inline __u32 l3_length(struct sk_buff *skb)
{
	return skb->len - (__u32)(skb->head + skb->network_header - skb->data);
}

// The protocol and place of the layer 4 header of IPv6, past up to three extension
// headers. Lowest byte protocol, then 16 bits offset, then 1 when it is the first
// fragment; 0 when a header cannot be read.
__attribute__((noinline)) __u64 ipv6_transport(__u64 at, __u8 protocol)
{
	__u32 offset = 40;
	__u64 first = 1;

	for (int i = 0; i < 3; i++) {
		__u8 next[4] = {};

		if (protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING &&
		    protocol != IPPROTO_DSTOPTS && protocol != IPPROTO_FRAGMENT)
			break;
		if (read_kernel(next, sizeof(next), (void *)(at + offset), SITE_HEADER))
			return 0;
		if (protocol == IPPROTO_FRAGMENT) {
			if (next[2] || (next[3] & 0xf8))
				first = 0;
			offset += 8;
		} else {
			offset += (next[1] + 1) * 8;
		}
		protocol = next[0];
	}
	return protocol | (__u64)(offset & 0xffff) << 8 | first << 24;
}

// Fills key, fragment bits, ports and sequence from the headers at `at`. Returns 1,
// or 0 when it is no IP.
__attribute__((noinline)) int parse_ip(__u32 user, __u64 at, __u32 total, __u32 inner)
{
	struct packet *p = bpf_map_lookup_elem(&packets, &user);
	// Enough for IPv6, or for IPv4 without options and the start of TCP.
	__u32 h[10] = {}, t[4] = {};
	__u32 length, headers;
	__u16 fragment;
	__u8 version;

	if (!p || read_kernel(h, sizeof(h), (void *)at, inner ? SITE_INNER : SITE_HEADER))
		return 0;
	p->at = at;
	p->total = total;
	version = (h[0] >> 4) & 0xf;
	p->key.source_port = 0;
	p->key.destination_port = 0;
	p->payload = 0;
	p->first_fragment = 1;
	if (version == 4) {
		p->key.family = AF_INET;
		p->key.source[0] = h[3];
		p->key.destination[0] = h[4];
		p->key.source[1] = p->key.source[2] = p->key.source[3] = 0;
		p->key.destination[1] = p->key.destination[2] = p->key.destination[3] = 0;
		p->protocol = (h[2] >> 8) & 0xff;
		length = (h[0] & 0xf) * 4;
		fragment = bswap16(h[1] >> 16);
		if (!inner)
			p->dont_fragment = !!(fragment & IP_DF);
		if (fragment & IP_OFFSET)
			p->first_fragment = 0;
	} else if (version == 6) {
		__u64 transport = ipv6_transport(at, (h[1] >> 16) & 0xff);

		if (!transport)
			return 0;
		p->key.family = AF_INET6;
		__builtin_memcpy(p->key.source, &h[2], 16);
		__builtin_memcpy(p->key.destination, &h[6], 16);
		p->protocol = transport;
		length = (transport >> 8) & 0xffff;
		p->first_fragment = (transport >> 24) & 1;
		if (!inner)
			p->dont_fragment = 1;
	} else {
		return 0;
	}
	p->header_length = length;
	p->key.protocol = p->protocol;
	if (!p->first_fragment)
		return 1;
	if (version == 4 && length == 20)
		__builtin_memcpy(t, &h[5], sizeof(t));
	else if (read_kernel(t, sizeof(t), (void *)(at + length), SITE_TRANSPORT))
		return 0;
	switch (p->protocol) {
	case IPPROTO_TCP:
		headers = length + ((t[3] & 0xff) >> 4) * 4;
		p->sequence = bswap32(t[1]);
		p->payload = total > headers ? total - headers : 0;
		// Fall through: the ports are where UDP has them.
	case IPPROTO_UDP:
		p->key.source_port = t[0] & 0xffff;
		p->key.destination_port = t[0] >> 16;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		// Type and code, and the identifier of an echo.
		p->key.destination_port = t[0] & 0xffff;
		p->key.source_port = t[1] & 0xffff;
		break;
	}
	return 1;
}

// 1 when an overlay of the node is known by its source port (WireGuard).
volatile __u32 source_ports = 0;

// Tells the tunnel that the packet is of, if any. Returns where the inner packet
// begins, counted from the outer layer 3 header; 0 when there is none that can be
// read.
__attribute__((noinline)) __u32 inner_offset(__u32 user)
{
	struct packet *p = bpf_map_lookup_elem(&packets, &user);
	__u32 h[2] = {}, offset, *kind;
	struct tunnel_port port = {};
	__u16 type, inner = 0;
	__u64 at;

	if (!p || !p->first_fragment)
		return 0;
	at = p->at + p->header_length;
	switch (p->protocol) {
	case IPPROTO_IPIP:
		p->tunnel_kind = TUNNEL_IPIP;
		return p->header_length;
	case IPPROTO_IPV6:
		p->tunnel_kind = p->key.family == AF_INET ? TUNNEL_SIT : TUNNEL_IPIP;
		return p->header_length;
	case IPPROTO_GRE:
		p->tunnel_kind = TUNNEL_GRE;
		if (read_kernel(h, 4, (void *)at, SITE_TUNNEL))
			return 0;
		// RFC 2784, RFC 2890: checksum, key and sequence are four bytes each.
		offset = 4 + ((h[0] & 0x80) ? 4 : 0) + ((h[0] & 0x20) ? 4 : 0) + ((h[0] & 0x10) ? 4 : 0);
		type = bswap16(h[0] >> 16);
		break;
	case IPPROTO_UDP:
		port.port = bswap16(p->key.destination_port);
		kind = bpf_map_lookup_elem(&tunnel_ports, &port);
		if (!kind && source_ports) {
			port.port = bswap16(p->key.source_port);
			port.source = 1;
			kind = bpf_map_lookup_elem(&tunnel_ports, &port);
		}
		if (!kind)
			return 0;
		p->tunnel_kind = *kind;
		p->tunnel_port = port.port;
		if (p->tunnel_kind == TUNNEL_WIREGUARD)
			return 0; // Encrypted: the outer flow is all there is.
		if (read_kernel(h, sizeof(h), (void *)(at + 8), SITE_TUNNEL))
			return 0;
		// Both have the VNI in the upper three bytes of the second word.
		p->tunnel_id = bswap32(h[1]) >> 8;
		offset = 16;
		type = ETHERTYPE_TEB;
		if (p->tunnel_kind == TUNNEL_GENEVE) {
			offset += (h[0] & 0x3f) * 4;
			type = bswap16(h[0] >> 16);
		} else if (p->tunnel_kind == TUNNEL_VXLAN_GPE) {
			// Next protocol: 1 IPv4, 2 IPv6, 3 Ethernet.
			type = (h[0] >> 24) == 3 ? ETHERTYPE_TEB : ETHERTYPE_IP;
		}
		break;
	default:
		return 0;
	}
	if (type == ETHERTYPE_TEB) {
		if (read_kernel(&inner, sizeof(inner), (void *)(at + offset + 12), SITE_INNER))
			return 0;
		offset += bswap16(inner) == ETHERTYPE_VLAN ? 18 : 14;
	}
	return p->header_length + offset;
}

#define PARSED_OUTER 1
#define PARSED_FLOW 2

// Fills the packet from the headers at `at`: PARSED_OUTER when there is IP,
// PARSED_FLOW when the key is that of a flow.
__attribute__((noinline)) int parse_packet(__u32 user, __u64 at, __u32 total, __u32 segment)
{
	struct packet *p = bpf_map_lookup_elem(&packets, &user);
	__u32 offset;

	if (!p)
		return 0;
	p->length = p->outer_length = segment;
	if (!parse_ip(user, at, total, 0))
		return 0;
	p->outer_family = p->key.family;
	offset = inner_offset(user);
	if (!offset)
		return PARSED_OUTER | PARSED_FLOW;
	if (offset >= segment)
		return PARSED_OUTER;
	p->length = segment - offset;
	if (!parse_ip(user, at + offset, total - offset, 1))
		return PARSED_OUTER;
	return PARSED_OUTER | PARSED_FLOW;
}
