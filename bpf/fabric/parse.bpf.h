// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// What the rules ask of a packet: its length on the wire, where it goes, whether
// it is a fragment.

#pragma once

#include "../include/kernel.bpf.h"

// The context of a tc program, up to the last field used. UAPI: offsets are fixed,
// fields are only ever added at the end; gso_size came with 5.7 (cf62089b0edd).
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define PACKET_HOST 0

#define bswap16(x) __builtin_bswap16(x)
#define bswap32(x) __builtin_bswap32(x)

#define ETH_HEADER 14
#define ETHERTYPE_IP 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define IP_FRAGMENT 0x3fff // MF and the offset, without DF
#define IP_OFFSET 0x1fff
#define IP6_OFFSET 0xfff8
#define IP_HEADER 20
#define IP6_HEADER 40
#define UDP_HEADER 8
#define VXLAN_HEADER 8
// IANA's port and the one that Linux and flannel use.
#define VXLAN_PORT 4789
#define VXLAN_PORT_LINUX 8472
// Headers that IPv6 may carry before the transport header and that are walked. RFC
// 8200 section 4.1 allows each kind once, destination options twice.
#define MAX_EXTENSIONS 6

struct packet {
	// IPv4 as ::ffff:a.b.c.d.
	__u8 source[16];
	__u8 destination[16];
	// IP length of what the wire carries: of the longest segment for a GSO train.
	__u32 length;
	// IP length of all of it; more than length for a train only.
	__u32 bytes;
	// Packets on the wire.
	__u32 segments;
	// Where the transport header begins in the frame, when it is not a later fragment.
	__u32 transport;
	__u8 protocol;
	__u8 version;
	__u8 fragment;
	__u8 later_fragment;
};

struct ipv4_header {
	__u8 version_length;
	__u8 tos;
	__u16 length;
	__u16 id;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6_header {
	__u32 version_class_flow;
	__u16 payload;
	__u8 next;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

static __always_inline bool parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct ipv4_header h = {};
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, ETH_HEADER, &h, sizeof(h)))
		return false;
	p->version = 4;
	p->protocol = h.protocol;
	p->transport = ETH_HEADER + (h.version_length & 0xf) * 4;
	p->bytes = bswap16(h.length);
	fragment = bswap16(h.fragment);
	p->fragment = (fragment & IP_FRAGMENT) != 0;
	p->later_fragment = (fragment & IP_OFFSET) != 0;
	p->source[10] = p->source[11] = p->destination[10] = p->destination[11] = 0xff;
	__builtin_memcpy(p->source + 12, h.source, 4);
	__builtin_memcpy(p->destination + 12, h.destination, 4);
	return true;
}

static __always_inline bool parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6_header h = {};
	__u32 at = ETH_HEADER + IP6_HEADER;
	__u8 next;

	if (bpf_skb_load_bytes(skb, ETH_HEADER, &h, sizeof(h)))
		return false;
	p->version = 6;
	// 0 for a jumbogram (RFC 2675), which only the frame tells the length of.
	if (h.payload)
		p->bytes = IP6_HEADER + bswap16(h.payload);
	__builtin_memcpy(p->source, h.source, 16);
	__builtin_memcpy(p->destination, h.destination, 16);
	next = h.next;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 e[4] = {};

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, at, e, sizeof(e)))
			break;
		if (next == IPPROTO_FRAGMENT) {
			// Also an atomic fragment (RFC 6946): a filter sees the header.
			p->fragment = 1;
			if ((((__u16)e[2] << 8) | e[3]) & IP6_OFFSET) {
				p->later_fragment = 1;
				next = e[0];
				break;
			}
			at += 8;
		} else {
			at += ((__u32)e[1] + 1) * 8;
		}
		next = e[0];
	}
	p->protocol = next;
	p->transport = at;
	return true;
}

// Bytes of the TCP or UDP header at `at`; for a VXLAN, of all headers up to the
// inner transport's. What it does not know it takes for UDP, which errs towards
// short.
static __always_inline __u32 headers_from(struct __sk_buff *skb, __u32 at, __u8 protocol)
{
	__u32 inner = at + UDP_HEADER + VXLAN_HEADER + ETH_HEADER;
	__u16 port = 0, ethertype = 0;
	__u8 byte = 0;

	if (protocol == IPPROTO_TCP) {
		// Data offset: the upper four bits of byte 12, in words of four bytes.
		if (bpf_skb_load_bytes(skb, at + 12, &byte, 1))
			return 20;
		return (byte >> 4) * 4;
	}
	if (protocol != IPPROTO_UDP || bpf_skb_load_bytes(skb, at + 2, &port, 2))
		return UDP_HEADER;
	port = bswap16(port);
	if ((port != VXLAN_PORT && port != VXLAN_PORT_LINUX) || bpf_skb_load_bytes(skb, inner - 2, &ethertype, 2))
		return UDP_HEADER;
	ethertype = bswap16(ethertype);
	if (ethertype == ETHERTYPE_IP) {
		if (bpf_skb_load_bytes(skb, inner, &byte, 1))
			return UDP_HEADER;
		inner += (byte & 0xf) * 4;
		if (bpf_skb_load_bytes(skb, inner - IP_HEADER + 9, &byte, 1))
			return UDP_HEADER;
	} else if (ethertype == ETHERTYPE_IPV6) {
		if (bpf_skb_load_bytes(skb, inner + 6, &byte, 1))
			return UDP_HEADER;
		inner += IP6_HEADER;
	} else {
		return UDP_HEADER;
	}
	if (byte == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, inner + 12, &byte, 1))
			return UDP_HEADER;
		return inner - at + (byte >> 4) * 4;
	}
	return inner - at + UDP_HEADER;
}

// Returns false for what is no IP.
static __always_inline bool parse_packet(struct __sk_buff *skb, struct packet *p)
{
	__u32 frame = skb->len - ETH_HEADER;

	if (skb->protocol == bswap16(ETHERTYPE_IP)) {
		if (!parse_ipv4(skb, p))
			return false;
	} else if (skb->protocol == bswap16(ETHERTYPE_IPV6)) {
		if (!parse_ipv6(skb, p))
			return false;
	} else {
		return false;
	}
	p->segments = 1;
	// The length field of a train over 64 KiB is 0 (BIG TCP, 5.19 and 6.3).
	if (skb->gso_size || !p->bytes)
		p->bytes = frame;
	p->length = p->bytes;
	if (skb->gso_size) {
		p->length = p->transport - ETH_HEADER + headers_from(skb, p->transport, p->protocol) + skb->gso_size;
		p->segments = skb->gso_segs;
	}
	return true;
}
