// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const (
	// minIPv4MTU is the least that an IPv4 link may carry: RFC 791 section 3.2, and
	// ETH_MIN_MTU of the kernel.
	minIPv4MTU = 68
	// minIPv6MTU: RFC 8200 section 5. The kernel turns IPv6 off below it.
	minIPv6MTU = 1280
	// maxMTU is the longest IP packet and ETH_MAX_MTU of the kernel.
	maxMTU = 65535
	// vxlanOverIPv4 is what VXLAN adds to an inner IP packet (RFC 7348 section 5):
	// outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14. The kernel's vxlan_headroom.
	vxlanOverIPv4 = 50
	// vxlanOverIPv6 has 40 bytes of outer IP header.
	vxlanOverIPv6 = 70
	// defaultMTU is Ethernet's.
	defaultMTU = 1500
	// maxLabel is the longest value of a Kubernetes label.
	maxLabel = 63
	vxlan    = "vxlan"
	none     = "none"
)

// reserved are the names of the lab's own machines, which stand beside the nodes.
func reserved() []string {
	return []string{"services", "fabric", "spine", "aggregator-1", "aggregator-2"}
}

// overhead is what the overlay adds to an inner IP packet, in bytes.
func (d *decoder) overhead() int {
	if d.out.Family == IPv6 {
		return vxlanOverIPv6
	}
	return vxlanOverIPv4
}

func (d *decoder) minUnderlay() int {
	if d.out.Family == IPv6 {
		return minIPv6MTU
	}
	return minIPv4MTU
}

// A mtuSource is an MTU with the place that decided it.
type mtuSource struct {
	value int
	at    *yaml.Node
}

func (d *decoder) mtu(o object, key string, least int, fallback mtuSource) mtuSource {
	if !o.has(key) {
		return fallback
	}
	return mtuSource{d.packet(o, key, fallback.value, least), o.values[key]}
}

// packet reads an MTU, and says why a number is none.
func (d *decoder) packet(o object, key string, fallback, least int) int {
	v := o.integer(key, fallback, math.MinInt32, math.MaxInt32)
	switch {
	case !o.has(key):
	case v > maxMTU:
		o.wrong(key, fmt.Sprintf("MTU %d is impossible, an IP packet has at most %d bytes", v, maxMTU), "lower it")
		return fallback
	case v < least && least == minIPv6MTU:
		o.wrong(key, fmt.Sprintf("MTU %d is impossible, IPv6 needs at least %d", v, least), "raise it, or use family: ipv4")
		return fallback
	case v < least:
		o.wrong(key, fmt.Sprintf("MTU %d is impossible, IPv4 needs at least %d", v, least), "raise it")
		return fallback
	}
	return v
}

// cluster reads underlay, overlay and nodes, and fills in every MTU.
func (d *decoder) cluster(spec object) {
	underlay := mtuSource{value: defaultMTU, at: spec.node}
	if spec.has("underlay") {
		if o, ok := d.object(spec.values["underlay"], "underlay", "mtu"); ok {
			underlay = d.mtu(o, "mtu", d.minUnderlay(), underlay)
		}
	}
	var overlay mtuSource
	d.out.Overlay = Overlay{Kind: vxlan, DF: "unset", LowerDevice: true}
	if spec.has("overlay") {
		overlay = d.overlay(spec)
	}
	pod := d.mtu(spec, "podMTU", minIPv4MTU, mtuSource{})
	if !spec.need("nodes", "write nodes: [{name: n1, zone: a}, {name: n2, zone: b}]") {
		return
	}
	items := d.entries(spec, "nodes", maxNodes)
	if len(items) == 0 && resolve(spec.values["nodes"]).Kind == yaml.SequenceNode {
		spec.wrong("nodes", "the list is empty", "write nodes: [{name: n1, zone: a}, {name: n2, zone: b}]")
	}
	places := map[string]int{}
	for i, n := range items {
		o, ok := d.object(n, fmt.Sprintf("node %d", i), "name", "zone", "pool", "instanceType", "kernel", "image", "controlPlane", "underlayMTU", "overlayMTU", "podMTU")
		if !ok {
			continue
		}
		node := Node{ControlPlane: o.flag("controlPlane", false)}
		if o.need("name", "write a name such as n1") {
			node.Name = d.label(o, "name")
		}
		if line, twice := places[node.Name]; twice && node.Name != "" {
			o.wrong("name", fmt.Sprintf("%s is the name of the node on line %d already", quote(node.Name), line), "rename one")
		}
		if slices.Contains(reserved(), node.Name) {
			o.wrong("name", quote(node.Name)+" is what the lab calls a machine of its own", "rename the node")
		}
		places[node.Name] = n.Line
		node.Zone, node.Pool, node.InstanceType = d.free(o, "zone"), d.free(o, "pool"), d.free(o, "instanceType")
		node.Kernel, node.Image = d.free(o, "kernel"), d.free(o, "image")
		d.nodeMTU(o, &node, underlay, overlay, pod)
		d.out.Nodes = append(d.out.Nodes, node)
	}
}

// overlay returns the MTU that the file gives to every overlay device.
func (d *decoder) overlay(spec object) (mtu mtuSource) {
	o, ok := d.object(spec.values["overlay"], "overlay", "kind", "mtu", "df", "lowerDevice")
	if !ok {
		return mtu
	}
	out := &d.out.Overlay
	out.Kind = o.choice("kind", vxlan, vxlan, none)
	if out.Kind == none {
		out.LowerDevice = false
		for _, key := range []string{"mtu", "df", "lowerDevice"} {
			if o.has(key) {
				d.fail(o.names[key], "overlay has "+key, "with kind: none there is no overlay device", "remove it, or use kind: vxlan")
			}
		}
		return mtu
	}
	out.DF = o.choice("df", "unset", "unset", "set", "inherit")
	out.LowerDevice = o.flag("lowerDevice", true)
	return d.mtu(o, "mtu", minIPv4MTU, mtu)
}

// nodeMTU fills in the MTUs of one node: what the node says wins over what spec
// says, and what neither says follows from the node's own underlay.
func (d *decoder) nodeMTU(o object, node *Node, underlay, overlay, pod mtuSource) {
	whole := d.clean(func() {
		underlay = d.mtu(o, "underlayMTU", d.minUnderlay(), underlay)
		if d.out.Overlay.Kind == none && o.has("overlayMTU") {
			d.fail(o.names["overlayMTU"], o.what+" has overlayMTU", "with overlay kind none there is no overlay device", "remove it, or use kind: vxlan")
		}
		overlay = d.mtu(o, "overlayMTU", minIPv4MTU, overlay)
		pod = d.mtu(o, "podMTU", minIPv4MTU, pod)
	})
	if !whole {
		return
	}
	node.UnderlayMTU = underlay.value
	inner := underlay
	if d.out.Overlay.Kind == vxlan {
		room := underlay.value - d.overhead()
		if overlay.at == nil {
			overlay = mtuSource{room, underlay.at}
		}
		if overlay.value < minIPv4MTU {
			d.fail(overlay.at, fmt.Sprintf("the overlay MTU of %s is %d", node.Name, overlay.value), fmt.Sprintf("the default is the underlay %d - %d, IPv4 needs at least %d", underlay.value, d.overhead(), minIPv4MTU), "raise the underlay MTU or give an overlay MTU")
			return
		}
		if d.out.Overlay.LowerDevice && overlay.value > room {
			at := overlay.at
			if o.has("underlayMTU") && !o.has("overlayMTU") {
				at = underlay.at
			}
			d.clamped(at, "the overlay MTU", node.Name, overlay.value, underlay.value)
			return
		}
		node.OverlayMTU = overlay.value
		inner = overlay
	}
	if pod.at == nil {
		pod = inner
	}
	node.PodMTU = pod.value
}

// clamped reports an MTU that a VXLAN with a lower device cannot have
// (vxlan_config_apply of drivers/net/vxlan clamps a new device's, and
// vxlan_change_mtu refuses a change).
func (d *decoder) clamped(at *yaml.Node, what, node string, mtu, underlay int) {
	d.fail(at, fmt.Sprintf("%s of %s is %d", what, node, mtu),
		fmt.Sprintf("with a lower device the kernel would clamp it to %d, the underlay %d - %d", max(underlay-d.overhead(), minIPv4MTU), underlay, d.overhead()),
		"use lowerDevice: false or a lower MTU")
}

// free reads an optional label of a node: any printable text without a comma. The
// aggregator is told the labels as name=uid,zone=…, where a comma begins the next.
func (d *decoder) free(o object, key string) string {
	v, ok := o.text(key)
	if !ok {
		return ""
	}
	if len([]rune(v)) > maxLabel || strings.TrimSpace(v) != v || slices.ContainsFunc([]rune(v), func(r rune) bool { return !unicode.IsPrint(r) }) {
		o.wrong(key, quote(v)+" is no label", fmt.Sprintf("use at most %d printable characters without blanks around", maxLabel))
		return ""
	}
	if strings.Contains(v, ",") {
		o.wrong(key, quote(v)+" has a comma", "labels are handed on as a list that commas part; use another character")
		return ""
	}
	return v
}
