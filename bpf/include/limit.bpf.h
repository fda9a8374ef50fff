// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// The limit that a size check held a packet to, from the structures of the kernel.

#pragma once

#include "errmetrics.bpf.h"

// The device by which the packet's route leaves; 0 when it has no route.
__attribute__((noinline)) __u64 route_device(__u64 refdst)
{
	struct dst_entry *dst = (void *)(refdst & ~SKB_DST_NOREF);
	struct net_device *dev = NULL;
	__u16 flags = 0;

	if (!dst || read_kernel(&flags, sizeof(flags), &dst->flags, SITE_ROUTE) || (flags & DST_METADATA))
		return 0;
	if (read_kernel(&dev, sizeof(dev), &dst->dev, SITE_ROUTE))
		return 0;
	return (__u64)dev;
}

// The limit of a route that IP holds packets to, when it is less than what the
// device says: ip_dst_mtu_maybe_forward() and ip6_dst_mtu_maybe_forward(). mtu is
// the device's. Returns 0 when the device decides.
__attribute__((noinline)) __u32 route_mtu(__u64 refdst, __u32 mtu, __u32 length, __u8 forward)
{
	struct dst_entry *dst = (void *)(refdst & ~SKB_DST_NOREF);
	unsigned long metrics = 0, expires = 0;
	__u32 metric = 0, learned = 0;

	if (!dst || read_kernel(&metrics, sizeof(metrics), &dst->_metrics, SITE_ROUTE))
		return 0;
	metrics &= ~DST_METRICS_FLAGS;
	if (metrics && read_kernel(&metric, sizeof(metric), (__u32 *)metrics + (RTAX_MTU - 1), SITE_ROUTE))
		return 0;
	// ip_forward heeds a learned path MTU only with net.ipv4.ip_forward_use_pmtu or
	// a locked MTU: there it counts when nothing else explains the drop.
	if (forward && length > (metric ? metric : mtu))
		return metric;
	if (read_kernel(&expires, sizeof(expires), &dst->expires, SITE_ROUTE) || !expires)
		return metric;
	if ((long)(bpf_jiffies64() - expires) >= 0)
		return metric;
	learned = BPF_CORE_READ_BITFIELD_PROBED((struct rtable *)dst, rt_pmtu);
	return learned && learned < (metric ? metric : mtu) ? learned : metric;
}

// The same for IPv6: there a learned path MTU is a metric of its own route. The
// device has a second MTU (conf/*/mtu), which router advertisements lower; *it* is
// returned with bit 32 set.
__attribute__((noinline)) __u64 route_mtu6(__u64 refdst, __u32 mtu)
{
	struct dst_entry *dst = (void *)(refdst & ~SKB_DST_NOREF);
	struct inet6_dev *idev = NULL;
	unsigned long metrics = 0;
	__u32 metric = 0, mtu6 = 0;

	if (!dst || read_kernel(&metrics, sizeof(metrics), &dst->_metrics, SITE_ROUTE))
		return 0;
	metrics &= ~DST_METRICS_FLAGS;
	if (metrics && read_kernel(&metric, sizeof(metric), (__u32 *)metrics + (RTAX_MTU - 1), SITE_ROUTE))
		return 0;
	if (metric)
		return metric;
	if (read_kernel(&idev, sizeof(idev), &((struct rt6_info *)dst)->rt6i_idev, SITE_ROUTE) || !idev)
		return 0;
	if (read_kernel(&mtu6, sizeof(mtu6), &idev->cnf.mtu6, SITE_ROUTE) || !mtu6 || mtu6 >= mtu)
		return 0;
	return mtu6 | 1ULL << 32;
}

// The other end of a veth, whose MTU is the limit of ____dev_forward_skb(); 0 when
// the device is none. struct veth_priv begins with the peer since veth exists
// (2.6.24); the private area follows struct net_device, aligned to 32 bytes
// (NETDEV_ALIGN). That the peer's peer is the device again makes sure of both.
__attribute__((noinline)) __u64 veth_peer(__u64 device, __u64 kind_name)
{
	__u64 offset = (bpf_core_type_size(struct net_device) + 31) & ~31ULL;
	__u64 peer = 0, back = 0, kind = 0;

	// Five bytes, "veth" and its end, as a number of a little-endian machine.
	if (!kind_name || read_kernel(&kind, 5, (void *)kind_name, SITE_PEER) || kind != 0x68746576)
		return 0;
	if (read_kernel(&peer, sizeof(peer), (void *)(device + offset), SITE_PEER) || !peer ||
	    read_kernel(&back, sizeof(back), (void *)(peer + offset), SITE_PEER) || back != device)
		return 0;
	return peer;
}
