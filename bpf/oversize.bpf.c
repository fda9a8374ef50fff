//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// Packets that the kernel dropped because they were too big, and whether the
// flow that sent them found a smaller size.

#include "include/kernel.bpf.h"
#include "include/errmetrics.bpf.h"
#include "include/maps.bpf.h"
#include "include/packet.bpf.h"
#include "include/limit.bpf.h"
#include "include/notes.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// How long a limit is taken to hold. Finding it anew costs up to ten reads of
// kernel memory, a third of the program's time.
#define LIMIT_HOLDS (100 * MILLISECOND)

// Bit n: a drop with reason n may be for size. From the running kernel's enum
// skb_drop_reason, whose numbers differ between kernels. All bits are set before
// 5.17, which has no reasons.
const volatile __u64 reason_mask[4] = {};
// The number of SKB_DROP_REASON_PKT_TOO_BIG; 0 where the kernel has none.
const volatile __u32 reason_too_big = 0;

// What the agent's own packets carry while it tests the hooks; 0 otherwise.
volatile __u64 selftest_cookie = 0;
// CLOCK_BOOTTIME in ns up to which adapt looks at packets. It is past at once
// when the agent no longer moves it, so that the program passes everything.
volatile __u64 watch_until_ns = 0;
// 1 once a namespace of another node was seen: most kernels carry one node and
// need no look into ignored_netns.
volatile __u32 ignoring = 0;

// The agent's test packet is UDP and carries eight random bytes.
static __always_inline bool is_selftest(struct sk_buff *skb)
{
	__u64 cookie = 0;

	if (read_kernel(&cookie, sizeof(cookie), skb->head + skb->transport_header + 8, SITE_SELFTEST))
		return false;
	return cookie == selftest_cookie;
}

// Which function holds the address. A binary search over at most 128 ranges
// takes eight steps, a few nanoseconds; a map keyed by address would need every
// return address of every function beforehand, which nothing tells.
// Returns the class, or -1.
__attribute__((noinline)) int find_class(__u64 location)
{
	__u32 zero = 0, low = 0, high;
	struct site_table *table = bpf_map_lookup_elem(&sites, &zero);

	if (!table)
		return -1;
	high = table->count;
	for (int i = 0; i < 8; i++) {
		__u64 middle = (low + high) / 2;
		struct site_range *range;

		if (low >= high)
			return -1;
		// Keeps the bound where the verifier sees it.
		asm volatile("" : "+r"(middle));
		range = &table->ranges[middle & (MAX_RANGES - 1)];
		if (location < range->start) {
			high = middle;
		} else if (location >= range->end) {
			low = middle + 1;
		} else {
			return range->class;
		}
	}
	return -1;
}

static __always_inline __u32 netns_of(struct net_device *dev)
{
	return dev->nd_net.net->ns.inum;
}

// A TCP socket that looks for the path MTU itself: its big packets are meant to
// be lost, and it recovers from a hole by itself (net.ipv4.tcp_mtu_probing).
static __always_inline bool probes_itself(struct sock *sk, struct net *net)
{
	__u8 probing = 0, state = sk->__sk_common.skc_state;

	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || sk->sk_protocol != IPPROTO_TCP)
		return false;
	if (!read_kernel(&probing, sizeof(probing), &net->ipv4.sysctl_tcp_mtu_probing, SITE_SOCKET) && probing)
		return true;
	return BPF_CORE_READ_BITFIELD_PROBED((struct inet_connection_sock *)sk, icsk_mtup.probe_size) != 0;
}

static __always_inline bool to_group(struct sk_buff *skb)
{
	__u8 type = BPF_CORE_READ_BITFIELD(skb, pkt_type), first = 0;
	__u16 mac = skb->mac_header;

	if (type == PACKET_BROADCAST || type == PACKET_MULTICAST)
		return true;
	// A packet of this host has no type yet; the group bit of its destination
	// says the same.
	if (type || mac == 0xffff || read_kernel(&first, sizeof(first), skb->head + mac, SITE_MAC))
		return false;
	return first & 1;
}

struct limit {
	__u32 mtu;
	__u32 netns;
	__u32 ifindex;
	__u8 source;
};

static __always_inline bool routed(__u8 class)
{
	return class != CLASS_PEER && class != CLASS_BRIDGE;
}

// Finds the limit that the function held the packet to. Returns false when memory
// could not be read. mtu stays 0 when there is none to be found.
static __always_inline bool find_limit(struct sk_buff *skb, struct packet *p, __u64 refdst, __u32 length, __u8 class,
				       struct limit *l)
{
	struct net_device *dev = skb->dev, *limiting = NULL;
	struct net *net = NULL, *own = dev->nd_net.net;
	__u64 route;

	if (routed(class)) {
		limiting = (void *)route_device(refdst);
		l->source = LIMIT_DEVICE;
	} else if (class == CLASS_PEER) {
		struct rtnl_link_ops *ops = dev->rtnl_link_ops;

		if (ops)
			limiting = (void *)veth_peer(number(p, dev), number(p, ops->kind));
		if (!limiting)
			return true; // No veth: user space may know the other end.
		l->source = LIMIT_PEER;
	}
	if (!limiting) {
		l->mtu = dev->mtu;
		l->ifindex = dev->ifindex;
		l->netns = own->ns.inum;
		l->source = LIMIT_DEVICE;
	} else {
		if (read_kernel(&l->mtu, sizeof(l->mtu), &limiting->mtu, SITE_ROUTE) ||
		    read_kernel(&l->ifindex, sizeof(l->ifindex), &limiting->ifindex, SITE_ROUTE) ||
		    read_kernel(&net, sizeof(net), &limiting->nd_net.net, SITE_ROUTE))
			return false;
		l->netns = own->ns.inum;
		if (net != own && read_kernel(&l->netns, sizeof(l->netns), &net->ns.inum, SITE_ROUTE))
			return false;
	}
	if (!routed(class))
		return true;
	if (p->outer_family == AF_INET6)
		route = route_mtu6(refdst, l->mtu);
	else
		route = route_mtu(refdst, l->mtu, length, class == CLASS_FORWARD);
	if (route) {
		l->mtu = route;
		l->source = route >> 32 ? LIMIT_DEVICE : LIMIT_ROUTE;
	}
	return true;
}

// Decides whether a drop at a size check was for size, and counts it.
static __always_inline int judge(struct sk_buff *skb, struct packet *p, __u64 location, __u32 reason, __u8 class)
{
	struct net_device *dev = skb->dev;
	__u32 total, length, netns = netns_of(dev), flags;
	bool gso, too_big = reason && reason == reason_too_big, probing = false, held = false;
	struct flow_value *flow = NULL;
	__u64 segment, refdst = 0, device, now;
	struct drop_key row = {};
	struct limit l = {};
	struct sock *sk;

	total = l3_length(skb);
	segment = segment_of(p, skb, total);
	length = segment;
	gso = segment & SEGMENT_GSO;
	if (!length) {
		if (!gso)
			count(COUNT_FAILED);
		return 0;
	}
	flags = parse_packet(PACKET_DROP, l3_header(p, skb), total, length);
	if (routed(class)) {
		// For another host: seen by a promiscuous device, never routed.
		if (BPF_CORE_READ_BITFIELD(skb, pkt_type) == PACKET_OTHERHOST)
			return 0;
		if (!flags) {
			count(COUNT_NO_FLOW);
			return 0;
		}
		// Where fragmenting is allowed the drop had another cause (memory). GSO
		// trains are cut before the functions of IP output.
		if (!too_big && (!p->dont_fragment || gso || BPF_CORE_READ_BITFIELD(skb, ignore_df)))
			return 0;
		refdst = skb->_skb_refdst;
	} else if (gso || to_group(skb)) {
		// GSO always passes is_skb_forwardable(); a flooded frame is not meant for
		// most of the ports that refuse it.
		return 0;
	}
	if (flags & PARSED_FLOW)
		flow = bpf_map_lookup_elem(&flows, &p->key);
	now = bpf_ktime_get_boot_ns();
	device = number(p, dev);
	if (flow && now - flow->limit_ns < LIMIT_HOLDS && flow->limit_device == device && flow->limit_route == refdst &&
	    flow->row.class == class && length > flow->limit_outer && flow->limit_outer) {
		l.mtu = flow->limit_outer;
		l.netns = flow->row.limit_netns;
		l.ifindex = flow->row.limit_ifindex;
		l.source = flow->row.limit_source;
		held = true;
	} else if (!find_limit(skb, p, refdst, length, class, &l)) {
		count(COUNT_FAILED);
		return 0;
	}
	if (l.source != LIMIT_UNKNOWN && length <= l.mtu) {
		if (!too_big)
			return 0;
		// The kernel says so itself. A limit that does not explain it is none.
		l.mtu = 0;
		l.source = LIMIT_UNKNOWN;
	}
	if (ignoring && bpf_map_lookup_elem(&ignored_netns, &netns)) {
		count(COUNT_IGNORED);
		return 0;
	}
	row.location = location;
	row.netns = netns;
	row.limit_netns = l.netns;
	row.limit_ifindex = l.ifindex;
	row.limit_source = l.source;
	row.from_ifindex = class == CLASS_PEER ? dev->ifindex : skb->skb_iif;
	row.reason = reason;
	row.class = class;
	row.family = flags ? p->outer_family : 0;
	row.tunnel_kind = p->tunnel_kind;
	row.tunnel_id = p->tunnel_id;
	row.tunnel_port = p->tunnel_port;
	sk = skb->sk;
	if (sk) {
		struct net *sender = sk->__sk_common.skc_net.net;

		// The sender's socket stays with the packet across a veth (since 4.19,
		// 9c4c325252c5) until IP receives it.
		row.sender_netns = sender->ns.inum;
		probing = probes_itself(sk, sender);
	}
	if (flags & PARSED_FLOW) {
		if (!flow)
			flow = new_flow(p, now);
		if (flow) {
			if (!held) {
				flow->limit_ns = now;
				flow->limit_device = device;
				flow->limit_route = refdst;
				flow->limit_outer = l.mtu;
			}
			note_connection(flow, p, skb);
			note_flow(flow, p, &row, probing, now);
		}
	} else {
		count(COUNT_NO_FLOW);
	}
	note_row(&row, length, l.mtu, now);
	// Last, so that whoever wakes finds the row.
	if (flow)
		wake(flow, now);
	return 0;
}

static __attribute__((noinline)) int look(struct sk_buff *skb, __u64 location, __u32 reason)
{
	__u64 word = reason >> 6;
	struct packet *p;
	int class;

	if (selftest_cookie && is_selftest(skb))
		count(COUNT_SELFTEST_DROP);

	// The way out for nearly every drop of a machine: another reason, or another
	// place.
	if (reason > 255)
		return 0;
	// Keeps clang from dropping the mask below for the check above, whose bound the
	// verifier loses in a subprogram's argument.
	asm volatile("" : "+r"(word));
	if (!((reason_mask[word & 3] >> (reason & 63)) & 1))
		return 0;
	class = find_class(location);
	if (class < 0) {
		if (!reason || reason != reason_too_big)
			return 0;
		class = CLASS_OTHER;
	}
	// Without a device it is a socket that tears down its queues.
	if (!skb->dev)
		return 0;
	p = take_packet(PACKET_DROP);
	if (!p)
		return 0;
	judge(skb, p, location, reason, class);
	p->busy = 0;
	return 0;
}

// trace_kfree_skb(skb, location): 3.x to 5.16. No reason: the place decides.
SEC("tp_btf/kfree_skb")
int kfree_skb_2(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u64 location = ctx[1];

	return look(skb, location, 0);
}

// trace_kfree_skb(skb, location, reason): since 5.17 (c504e5c2f964, "net: skb:
// introduce kfree_skb_reason()"), and in stable 5.15.y.
SEC("tp_btf/kfree_skb")
int kfree_skb_3(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u64 location = ctx[1];
	__u32 reason = ctx[2];

	return look(skb, location, reason);
}

// trace_kfree_skb(skb, location, reason, rx_sk): since 6.11. rx_sk is the socket
// that refused to receive the packet; none of the places that check sizes has one.
SEC("tp_btf/kfree_skb")
int kfree_skb_4(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u64 location = ctx[1];
	__u32 reason = ctx[2];

	if (ctx[3] && !selftest_cookie)
		return 0;
	return look(skb, location, reason);
}

static __always_inline void adapted(struct flow_value *flow, __u32 flag, __u64 now)
{
	flow->flags |= flag;
	flow->adapted_ns = now;
	flow->streak = 0;
}

static __always_inline bool covers(struct packet *p, __u32 sequence)
{
	return (__s32)(p->sequence - sequence) <= 0 && (__s32)(sequence - (p->sequence + p->payload)) < 0;
}

static __always_inline void follow(struct sk_buff *skb, struct net_device *dev, struct packet *p, __u64 now)
{
	__u32 total = l3_length(skb), length;
	struct flow_value *flow;
	struct sock *sk;

	if (!(parse_packet(PACKET_ADAPT, l3_header(p, skb), total, total) & PARSED_FLOW))
		return;
	flow = flow_of(p, skb);
	if (!flow || !flow->drops)
		return;
	sk = skb->sk;
	if (sk) {
		struct net *net = sk->__sk_common.skc_net.net;

		if (!flow->sender_netns)
			flow->sender_netns = net->ns.inum;
		if (probes_itself(sk, net)) {
			adapted(flow, FLOW_PROBING, now);
			return;
		}
	}
	if (!flow->streak)
		return;
	length = segment_of(p, skb, total);
	if (!length)
		return;
	length -= p->outer_length - p->length;
	if (flow->limit ? length > flow->limit : length >= flow->length) {
		// The same packet leaves by another port of the bridge: the drop was one of
		// a flooded copy, and the flow goes on.
		if (flow->row.class == CLASS_BRIDGE &&
		    (BPF_CORE_READ_BITFIELD_PROBED(dev, priv_flags) & IFF_BRIDGE_PORT) &&
		    dev->ifindex != (int)flow->row.limit_ifindex && netns_of(dev) == flow->row.limit_netns)
			adapted(flow, FLOW_FLOODED, now);
		return;
	}
	// TCP has adapted when what was lost goes out again in smaller pieces. Pure
	// acknowledgements, keepalives and later small data of a stalled connection
	// show nothing.
	if (p->key.protocol == IPPROTO_TCP && !covers(p, flow->sequence_low) && !covers(p, flow->sequence_last))
		return;
	adapted(flow, 0, now);
}

// trace_net_dev_start_xmit(skb, dev): the hand-over to the driver, of every device
// (3.14, d87d04a785b9 "net: Add net_dev_start_xmit trace event"). Attached only while
// packets are dropped for size: it sees each packet of the machine.
SEC("tp_btf/net_dev_start_xmit")
int adapt(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct net_device *dev = (void *)ctx[1];
	struct packet *p;
	__u64 now;

	if (selftest_cookie && is_selftest(skb))
		count(COUNT_SELFTEST_XMIT);
	now = bpf_ktime_get_boot_ns();
	if (now > watch_until_ns)
		return 0;
	p = take_packet(PACKET_ADAPT);
	if (!p)
		return 0;
	follow(skb, dev, p, now);
	p->busy = 0;
	return 0;
}
