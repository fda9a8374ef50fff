// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// Every run has namespaces of its own, so every run has the same addresses:
//
//	node i        10.9.i.2/24       fd00:9:i::2/64     gateway .1 / ::1
//	aggregator j  10.9.(240+j).2    fd00:9:(f0+j)::2   j is 1 or 2
//	time servers  10.9.250.10-12    fd00:9:fa::10-12   port 123
//	pods of i     10.244.i.0/24     the pod is .10, the resolver .53
//	metadata      169.254.169.254   fd00:ec2::254      port 80, in the fabric
//
// The metadata addresses are those of EC2, Azure and GCP (the IPv6 one is EC2's).
const (
	servicesNet   = 250
	aggregatorNet = 240
	ingestPort    = 9951
	apiserverPort = 6443
	podHost       = 10
	resolverHost  = 53
	timeHost      = 10
	vni           = 1
	// allPods are the pods of every node.
	allPods = "10.244.0.0/16"
	// vxlanPort is what flannel uses on Linux: the kernel's own default, from before
	// the assignment of 4789 (drivers/net/vxlan, vxlan_port).
	vxlanPort = 8472
)

// metadataAddresses are where the metadata server answers.
func metadataAddresses() (v4, v6 netip.Addr) {
	return netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254")
}

// hostIn is a host's address in the n-th network of a family.
func hostIn(family scenario.Family, n, host int) netip.Prefix {
	if family == scenario.IPv6 {
		return netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:9:%x::%x", n, host)), 64)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(n), byte(host)}), 24)
}

// podNet are the pods of the i-th node.
func podNet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)
}

// podAddress is one pod of the i-th node.
func podAddress(i, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(i), byte(host)})
}

// overlayMAC is the address of the i-th node's VXLAN device.
func overlayMAC(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i) }
