// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import "github.com/plumb-dev/plumb/bpf"

// A site is a kernel function that checks the size of a packet and drops it, or
// one into which compilers put such a function.
type site struct {
	class uint8
	// icmp says whether the sender is told (ICMP frag-needed, packet-too-big).
	icmp bool
}

// sites is the table of size checks, read in the sources of 5.10.44, 5.15.100,
// 6.1.192, 6.6.9, 6.12.117 and 6.18.2. Left out on purpose are places that check
// no size (br_forward, maybe_deliver, tc redirect to egress, netkit_xmit, tun,
// __dev_queue_xmit) and those that drop without kfree_skb (XDP).
func sites() map[string]site {
	forward := site{class: bpf.ClassForward, icmp: true}
	output := site{class: bpf.ClassOutput, icmp: true}
	bridge := site{class: bpf.ClassBridge}
	peer := site{class: bpf.ClassPeer}
	tunnel := site{class: bpf.ClassTunnel, icmp: true}
	return map[string]site{
		// net/ipv4/ip_forward.c: ip_exceeds_mtu(), reason PKT_TOO_BIG since 5.19.
		// skb->dev is the device by which the packet came in.
		"ip_forward": forward,
		// net/ipv6/ip6_output.c: ip6_pkt_too_big(), PKT_TOO_BIG since 5.19.
		"ip6_forward": forward,

		// net/ipv4/ip_output.c: ip_fragment() refuses DF. It is static and is found
		// as ip_fragment.constprop.0 (6.18) or inside its callers.
		"ip_fragment":          output,
		"ip_do_fragment":       output,
		"ip_finish_output":     output,
		"__ip_finish_output":   output,
		"ip_finish_output_gso": output,
		// net/ipv6/ip6_output.c: ip6_fragment(), label fail_toobig.
		"ip6_fragment":                        output,
		"ip6_finish_output":                   output,
		"__ip6_finish_output":                 output,
		"ip6_finish_output_gso_slowpath_drop": output,

		// net/bridge/br_forward.c: is_skb_forwardable() against the port; static
		// inlining may put it into br_forward_finish().
		"br_dev_queue_push_xmit": bridge,
		"br_forward_finish":      bridge,
		// net/bridge/br_netfilter_hooks.c: br_nf_ip_fragment(); takes over with
		// bridge-nf-call-iptables and inlines the former (6.18).
		"br_nf_dev_queue_xmit": bridge,
		"br_nf_ip_fragment":    bridge,

		// net/core/dev.c, include/linux/netdevice.h: ____dev_forward_skb() checks
		// against the receiving end of a veth. __dev_forward_skb2 since 5.13.
		"____dev_forward_skb": peer,
		"__dev_forward_skb":   peer,
		"__dev_forward_skb2":  peer,
		"dev_forward_skb":     peer,

		// net/ipv4/ip_tunnel.c: tnl_update_pmtu() fails with E2BIG.
		"ip_tunnel_xmit":    tunnel,
		"ip_md_tunnel_xmit": tunnel,
		// net/ipv6/sit.c, ip6_tunnel.c, ip6_gre.c: the same check written out.
		"ipip6_tunnel_xmit":  tunnel,
		"sit_tunnel_xmit":    tunnel,
		"ip6_tnl_start_xmit": tunnel,
		"ip6gre_tunnel_xmit": tunnel,
	}
}
