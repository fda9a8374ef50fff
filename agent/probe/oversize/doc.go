// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package oversize measures what the node's kernel drops because it is too big:
// where, how long it was, which device or route was the limit, whose packets they
// were, and whether the flow found a smaller size afterwards.
//
// The tracepoint kfree_skb sees every drop of the machine. A drop counts here when
// the function that dropped is one that checks sizes (the table in sites.go) and
// the length of one segment is over the limit that this function used. Neither
// the drop reason nor "longer than the device's MTU" would do alone: the silent
// drops of bridge, veth and ip_fragment say NOT_SPECIFIED up to 6.18, GSO packets
// are longer than any MTU, and sockets that are torn down free long packets too.
//
// A drop is no fault by itself: working path MTU discovery begins with one. A flow
// is called stalled when it was dropped at three distinct times over at least one
// second and nothing of it fitted since. To see what fits, a second program is
// attached to net_dev_start_xmit with the first drop, and taken off the packet
// path when the drops have ceased.
package oversize
