// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fabric is the lab's network between nodes: a router in a network
// namespace that breaks, on demand and in the kernel, what crosses it.
//
// A node hangs on a port, which is the router's end of a veth. The node's end has
// the node's MTU; the router's end always has 65535, so that the router itself
// neither fragments nor answers: as a wire does, it only loses.
//
//   - Node to fabric: the node's own MTU decides what it sends. veth asks the
//     receiver (is_skb_forwardable), and the router's end takes everything.
//   - Fabric to node: a packet that the node's MTU does not hold is lost at the
//     node's end without a word, and raises rx_dropped there. The kernel grants 4
//     bytes more, the length of a VLAN tag; a real card does likewise.
//   - What the wire itself carries is Port.Wire, to the byte, in both directions.
package fabric
