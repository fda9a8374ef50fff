// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package link is the probe that reads the node's network devices: those of its
// own network namespace and of all its pods', by namespace id, without entering
// them. It says what each device is for, how much its encapsulation adds, which
// MTU the way to its remotes leaves, and which packets the routes let into it.
// Its Inventory answers other probes' questions about a device.
//
// What is configured is asked of the kernel, never guessed: the way to each
// remote is a FIB question (RTM_GETROUTE with RTM_F_FIB_MATCH), so that policy
// routing, marks and next hops count as they do for packets. Path MTUs that the
// kernel learned are kept apart from what was configured.
//
// # Which pods are behind an overlay
//
// A pod is behind an overlay of the agent's own namespace when, for an address
// that the node's FIB routes over that overlay, the pod's own FIB answers with a
// device whose other end (veth, netkit) is in the agent's own namespace: the
// packet then comes out there and the node's FIB decides, which was asked for the
// same address. Where the overlay is a port of a bridge, a pod is behind it when
// its device's other end is a port of the same bridge, and the routes that count
// are those without gateway. Devices of pods that leave by macvlan, ipvlan or a
// hardware function never meet the node's FIB and are behind no overlay. What a
// CNI's BPF program or Open vSwitch decides per packet is not visible here;
// collect-metadata devices say so.
package link
