// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// The kernel types that our programs read, reduced to the fields read. A full
// vmlinux.h makes the object sixteen times as large and ties it to one kernel;
// preserve_access_index lets the loader find each field by name in the BTF of
// the running one.

#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0

// enum bpf_map_type, by number since vmlinux.h is absent (UAPI, fixed).
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_RINGBUF 27

#define BPF_ANY 0
#define BPF_NOEXIST 1

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

// The kernel's own values. All are part of a wire format or have been stable
// since 5.10 at least.
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ICMP 1
#define IPPROTO_IPIP 4
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_IPV6 41
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_GRE 47
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60
#define PACKET_BROADCAST 1
#define PACKET_MULTICAST 2
#define PACKET_OTHERHOST 3
#define GSO_BY_FRAGS 0xffff
#define SKB_GSO_TCPV4 (1 << 0)
#define SKB_GSO_TCPV6 (1 << 4)
#define SKB_GSO_UDP_L4 (1 << 17)
#define SKB_DST_NOREF 1UL
#define DST_METADATA 0x0080
#define DST_METRICS_FLAGS 3UL
#define RTAX_MTU 2
#define IFF_BRIDGE_PORT (1 << 9)
#define TCP_TIME_WAIT 6
#define TCP_NEW_SYN_RECV 12

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

// The sysctl is an int before 5.12 and a u8 since; the low byte of both is at
// the same place on a little-endian machine.
struct netns_ipv4 {
	__u8 sysctl_tcp_mtu_probing;
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct rtnl_link_ops {
	const char *kind;
};

struct net_device {
	unsigned int mtu;
	int ifindex;
	// A plain word before 6.12, a bit field of the same place and width since.
	unsigned int priv_flags;
	possible_net_t nd_net;
	struct rtnl_link_ops *rtnl_link_ops;
};

struct dst_entry {
	struct net_device *dev;
	unsigned long _metrics;
	unsigned long expires;
	unsigned short flags;
};

struct rtable {
	struct dst_entry dst;
	__u32 rt_mtu_locked : 1;
	__u32 rt_pmtu : 31;
};

struct ipv6_devconf {
	__s32 mtu6;
};

struct inet6_dev {
	struct ipv6_devconf cnf;
};

struct rt6_info {
	struct dst_entry dst;
	struct inet6_dev *rt6i_idev;
};

struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};


struct inet_connection_sock {
	struct {
		__u32 probe_size : 31;
		__u32 enabled : 1;
	} icsk_mtup;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	// Conntrack's entry and, in the low three bits, enum ip_conntrack_info. Only
	// with CONFIG_NF_CONNTRACK; one word since 4.11.
	unsigned long _nfct;
	unsigned int len;
	int skb_iif;
	__u8 pkt_type : 3;
	__u8 ignore_df : 1;
	__u8 encapsulation : 1;
	__u16 inner_transport_header;
	__u16 transport_header;
	__u16 network_header;
	__u16 mac_header;
	__be16 protocol;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned int gso_type;
};

#pragma clang attribute pop
