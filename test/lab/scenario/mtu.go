// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"time"
)

// faultMTUs reports overlay-mtu faults that the kernel would not carry out as
// written, or could not take back.
func (d *decoder) faultMTUs() {
	for i, f := range d.out.Faults {
		if f.Kind != OverlayMTU || !d.faults[i].whole {
			continue
		}
		o := d.faults[i].object
		if d.out.Overlay.Kind == none {
			o.wrong("kind", "with overlay kind none there is no overlay device", "use kind: vxlan, or another fault")
			continue
		}
		if !d.out.Overlay.LowerDevice {
			continue
		}
		for _, name := range f.Nodes {
			node, _ := d.out.Node(name)
			if !d.overlayFits(i, f, node) {
				break
			}
		}
	}
}

// overlayFits checks one node at the start and at the end of an overlay-mtu fault.
func (d *decoder) overlayFits(i int, f Fault, node Node) bool {
	o := d.faults[i].object
	if underlay := d.underlayAt(node, f.At, i); f.MTU > underlay-d.overhead() {
		d.clamped(o.values["mtu"], o.what+": the overlay MTU", node.Name, f.MTU, underlay)
		return false
	}
	if !f.Ends() {
		return true
	}
	if underlay := d.underlayAt(node, f.Until, -1); node.OverlayMTU > underlay-d.overhead() {
		o.wrong("until", fmt.Sprintf("with a lower device the kernel would refuse %s its overlay MTU %d back while its underlay is %d", node.Name, node.OverlayMTU, underlay), "end the underlay-mtu fault first, or use lowerDevice: false")
		return false
	}
	return true
}

// underlayAt returns the underlay MTU of a node at a time, underlay-mtu faults
// included. Of faults that start at that very time those before the index count.
func (d *decoder) underlayAt(node Node, at time.Duration, before int) int {
	out := node.UnderlayMTU
	for j, f := range d.out.Faults {
		started := f.At < at || f.At == at && j < before
		if f.Kind == UnderlayMTU && d.faults[j].whole && started && (!f.Ends() || f.Until > at) && slices.Contains(f.Nodes, node.Name) {
			out = f.MTU
		}
	}
	return out
}
