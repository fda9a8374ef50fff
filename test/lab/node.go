// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/test/lab/podgroup"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

const (
	nodeDevice    = "eth0"
	bridgeDevice  = "cni0"
	overlayDevice = "flannel.1"
	podNetns      = "pod"
	resolverNetns = "dns"
)

// A node is one node of the cluster.
type node struct {
	*machine.Machine
	spec scenario.Node
	// index is from 1.
	index   int
	address netip.Addr
	uid     string

	// pods by the name of their network namespace.
	pods map[string]*pod
}

// A pod is a network namespace behind the node's bridge.
type pod struct {
	netns   string
	address netip.Addr
	group   *podgroup.Group
}

// port is the host's end of a pod's veth, which is a port of the bridge.
func (p *pod) port() string { return "veth" + p.netns }

// bridge makes the pods' bridge as the bridge CNI plugin does: its MTU follows the
// least of its ports'.
func (n *node) bridge(ctx context.Context) error {
	gateway := netip.PrefixFrom(podAddress(n.index, 1), podNet(n.index).Bits())
	if err := n.Sysctl("", "net.ipv4.ip_forward", "1"); err != nil {
		return err
	}
	err := n.IP(ctx, "link add "+bridgeDevice+" type bridge",
		fmt.Sprintf("addr add %s dev %s", gateway, bridgeDevice), "link set "+bridgeDevice+" up")
	if err != nil {
		return fmt.Errorf("make the pods' bridge (the kernel needs CONFIG_BRIDGE): %w", err)
	}
	return nil
}

// addPod makes a pod's namespace and joins it to the bridge.
func (n *node) addPod(ctx context.Context, netns string, host int, group *podgroup.Group) error {
	p := &pod{netns: netns, address: podAddress(n.index, host), group: group}
	err := n.IP(ctx, "netns add "+netns,
		fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %s", p.port(), n.spec.PodMTU, nodeDevice, n.spec.PodMTU, netns),
		fmt.Sprintf("link set %s master %s up", p.port(), bridgeDevice),
		fmt.Sprintf("-n %s link set lo up", netns),
		fmt.Sprintf("-n %s addr add %s/%d dev %s", netns, p.address, podNet(n.index).Bits(), nodeDevice),
		fmt.Sprintf("-n %s link set %s up", netns, nodeDevice),
		fmt.Sprintf("-n %s route add default via %s", netns, podAddress(n.index, 1)))
	if err != nil {
		return err
	}
	n.pods[netns] = p
	if err := n.checkMTU("", p.port(), n.spec.PodMTU); err != nil {
		return err
	}
	return n.checkMTU(netns, nodeDevice, n.spec.PodMTU)
}

// overlay joins the node to the others by a VXLAN as flannel sets it up: no
// learning, and for every peer a neighbour, a forwarding entry and an on-link route
// (flannel/pkg/backend/vxlan).
func (n *node) overlay(ctx context.Context, o scenario.Overlay, peers []*node) error {
	lower := ""
	if o.LowerDevice {
		lower = " dev " + nodeDevice
	}
	lines := []string{
		fmt.Sprintf("link add %s address %s mtu %d type vxlan id %d%s local %s dstport %d nolearning df %s",
			overlayDevice, overlayMAC(n.index), n.spec.OverlayMTU, vni, lower, n.address, vxlanPort, o.DF),
		fmt.Sprintf("addr add %s/32 dev %s", podNet(n.index).Addr(), overlayDevice),
		fmt.Sprintf("link set %s up", overlayDevice),
		// Pods reach each other by the overlay or not at all. The fabric does know the
		// way to a pod, for answers to what pods ask of the metadata server and others.
		fmt.Sprintf("route add blackhole %s", allPods),
	}
	var entries []string
	for _, peer := range peers {
		if peer == n {
			continue
		}
		tunnel := podNet(peer.index).Addr()
		lines = append(lines,
			fmt.Sprintf("neigh add %s lladdr %s dev %s nud permanent", tunnel, overlayMAC(peer.index), overlayDevice),
			fmt.Sprintf("route add %s via %s dev %s onlink", podNet(peer.index), tunnel, overlayDevice))
		entries = append(entries, fmt.Sprintf("fdb append %s dev %s dst %s", overlayMAC(peer.index), overlayDevice, peer.address))
	}
	if err := n.IP(ctx, lines...); err != nil {
		return fmt.Errorf("make the overlay (the kernel needs CONFIG_VXLAN): %w", err)
	}
	if err := n.Bridge(ctx, entries...); err != nil {
		return err
	}
	return n.checkMTU("", overlayDevice, n.spec.OverlayMTU)
}

// An MTUError says that a device has another MTU than was asked for.
type MTUError struct {
	Node, Device string
	Asked, Got   int
}

// Error is one line.
func (e *MTUError) Error() string {
	return fmt.Sprintf("MTU of %s on %s: asked for %d, the kernel made it %d; ask for what it allows (a VXLAN with a lower device is clamped, overlay.lowerDevice: false is not)", e.Device, e.Node, e.Asked, e.Got)
}

// checkMTU reads an MTU back: the kernel changes some without a word.
func (n *node) checkMTU(netns, device string, want int) error {
	got, err := n.mtu(netns, device)
	if err != nil {
		return err
	}
	if got != want {
		return &MTUError{Node: n.Name(), Device: where(netns, device), Asked: want, Got: got}
	}
	return nil
}

func where(netns, device string) string {
	if netns == "" {
		return device
	}
	return netns + "/" + device
}

func (n *node) mtu(netns, device string) (int, error) {
	var got int
	err := n.Do(netns, func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("read the MTU of %s: %w", where(netns, device), err)
		}
		got = link.Attrs().MTU
		return nil
	})
	return got, err
}

// setMTU sets a device's MTU and reads it back.
func (n *node) setMTU(netns, device string, mtu int) error {
	err := n.Do(netns, func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("set the MTU of %s: %w", where(netns, device), err)
		}
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w; ask for what the kernel allows", where(netns, device), mtu, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return n.checkMTU(netns, device, mtu)
}

// newNode makes a node's machine and what is in it alone.
func newNode(ctx context.Context, s scenario.Node, index int, family scenario.Family) (*node, error) {
	m, err := machine.New(ctx, machine.Config{Name: s.Name, IPv6: family == scenario.IPv6})
	if err != nil {
		return nil, err
	}
	n := &node{spec: s, Machine: m, index: index, address: hostIn(family, index, 2).Addr(), pods: map[string]*pod{}}
	if err := n.bridge(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return n, nil
}

// clients are the addresses under which a node and its pods reach others.
func (n *node) clients() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(n.address, n.address.BitLen()), podNet(n.index)}
}

// shortName is a node's name as it fits into a device name of 15 characters
// (IFNAMSIZ), unique by the index.
func shortName(name string, index int) string {
	clean := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || r == '_' {
			return -1
		}
		return r
	}, name)
	return fmt.Sprintf("f%d-%.9s", index, clean)
}
