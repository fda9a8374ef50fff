// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"fmt"

	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/bpf"
	"github.com/plumb-dev/plumb/evidence"
)

// devices is what is asked of the node's inventory.
type devices interface {
	Device(netns uint32, ifindex int) (link.Device, bool)
	PeerOf(d link.Device) (link.Device, bool)
	Overlays() []link.Device
}

// pods finds the pod that owns a network namespace.
type pods interface {
	PodByNetns(netns uint32) (string, bool)
}

// unknownFunction stands for a function whose name the kernel does not tell. The
// address would name it no better and is nobody's business.
const unknownFunction = "unknown function"

// vlanSlack is by how much a veth and a bridge let packets exceed the MTU:
// is_skb_forwardable() allows for one VLAN tag (VLAN_HLEN).
const vlanSlack = 4

// A placeKey is what a drop site's subject is keyed by.
type placeKey struct {
	netns    uint32
	ifindex  uint32
	function string
	family   string
	pod      string
}

// A place is where one row of the kernel's map belongs.
type place struct {
	key    placeKey
	device string
	// limit is 0 when it is unknown.
	limit       uint32
	limitSource string
	icmp        bool
	// known is false for a function that is not in the table.
	known  bool
	reason string
	// senderIsPod is true when the packet came from a pod of this node.
	senderIsPod bool
	// overlay is the key of the overlay that wrapped the packet; empty for none.
	overlay string
	// candidates are the keys of the overlays that may have done so.
	candidates []string
}

func (k placeKey) subject(device string) evidence.Subject {
	parent := fmt.Sprintf("%d/%d", k.netns, k.ifindex)
	s := evidence.Subject{
		Kind:      evidence.SubjectDropsite,
		Key:       fmt.Sprintf("%s/%s/%s/%s", parent, k.function, k.family, k.pod),
		Name:      fmt.Sprintf("%s on %s", k.function, device),
		ParentKey: parent,
		PodUID:    k.pod,
	}
	return s
}

// verdict of locating a row.
type located int

const (
	// isPlace: the row belongs to the place returned.
	isPlace located = iota
	// notOversize: the packets were below the limit and dropped for another
	// cause (the peer is down).
	notOversize
	// noLimit: it cannot be told.
	noLimit
)

// A locator turns rows of the kernel's map into places. It keeps nothing.
type locator struct {
	symbols symbols
	table   map[string]site
	reasons map[uint32]string
	devices devices
	pods    pods
	// other names functions outside of the table.
	other func(address uint64) string
}

func (l *locator) locate(k bpf.DropKey, v bpf.DropValue) (place, located) {
	p := place{
		limit:       v.Limit,
		limitSource: map[uint8]string{bpf.LimitRoute: "route", bpf.LimitDevice: "device", bpf.LimitPeer: "peer device"}[k.LimitSource],
		reason:      l.reasons[uint32(k.Reason)],
		key:         placeKey{netns: k.LimitNetns, ifindex: k.LimitIfindex, family: familyName(k.Family)},
	}
	name, ok := l.symbols.at(k.Location)
	if !ok {
		name = l.other(k.Location)
	}
	s, ok := l.table[name]
	p.key.function, p.icmp, p.known = name, s.icmp, ok

	if k.Class == bpf.ClassPeer && k.LimitSource == bpf.LimitUnknown {
		sender, ok := l.devices.Device(k.Netns, int(k.FromIfindex))
		if !ok {
			return p, noLimit
		}
		peer, ok := l.devices.PeerOf(sender)
		if !ok {
			return p, noLimit
		}
		if v.LenMax <= uint32(peer.MTU)+vlanSlack {
			return p, notOversize
		}
		p.limit, p.limitSource = uint32(peer.MTU), "peer device"
		p.key.netns, p.key.ifindex = peer.Netns, uint32(peer.Ifindex)
	}
	limiting, ok := l.devices.Device(p.key.netns, int(p.key.ifindex))
	p.device = fmt.Sprintf("interface %d", p.key.ifindex)
	if ok {
		p.device = limiting.Name
	}
	p.key.pod = l.sender(k)
	p.senderIsPod = p.key.pod != ""
	if p.key.pod == "" {
		// Packets *to* a pod whose own device is the limit are that pod's trouble.
		p.key.pod, _ = l.pods.PodByNetns(p.key.netns)
	}
	found := l.overlays(k)
	for _, d := range found {
		p.candidates = append(p.candidates, d.Key())
	}
	if len(found) == 1 {
		p.overlay = found[0].Key()
	}
	return p, isPlace
}

// sender is the UID of the pod that sent: by the namespace of its socket, or by
// the device through which its packet came.
func (l *locator) sender(k bpf.DropKey) string {
	if k.SenderNetns != 0 {
		uid, _ := l.pods.PodByNetns(k.SenderNetns)
		return uid
	}
	if uid, ok := l.pods.PodByNetns(k.Netns); ok {
		return uid
	}
	if k.Class == bpf.ClassPeer || k.FromIfindex == 0 {
		return ""
	}
	in, ok := l.devices.Device(k.Netns, int(k.FromIfindex))
	if !ok {
		return ""
	}
	peer, ok := l.devices.PeerOf(in)
	if !ok {
		return ""
	}
	uid, _ := l.pods.PodByNetns(peer.Netns)
	return uid
}

// overlays finds the devices that may have wrapped the packets of a row: the one,
// or, without an id to go by, all of that kind.
func (l *locator) overlays(k bpf.DropKey) []link.Device {
	// What is forwarded was wrapped elsewhere: what the node wraps itself leaves by
	// IP's output.
	if k.TunnelKind == bpf.TunnelNone || k.Class == bpf.ClassForward {
		return nil
	}
	var found []link.Device
	for _, d := range l.devices.Overlays() {
		if tunnelKind(d.Encapsulation) != k.TunnelKind || (d.LinkNetns != 0 && d.LinkNetns != k.Netns) {
			continue
		}
		if k.TunnelPort != 0 && d.UDPPort != k.TunnelPort {
			continue
		}
		if carriesID(k.TunnelKind) && !d.CollectMetadata && d.TunnelID != k.TunnelId {
			continue
		}
		found = append(found, d)
	}
	return found
}

func carriesID(kind uint8) bool {
	return kind == bpf.TunnelVXLAN || kind == bpf.TunnelGeneve || kind == bpf.TunnelVXLANGPE
}

// tunnelKind translates the inventory's word for an encapsulation. All forms of
// GRE are one on the wire; IPv6 in IPv6 and IPv4 in IPv6 share ip6tnl.
func tunnelKind(encapsulation string) uint8 {
	switch encapsulation {
	case "vxlan":
		return bpf.TunnelVXLAN
	case "vxlan-gpe":
		return bpf.TunnelVXLANGPE
	case "geneve":
		return bpf.TunnelGeneve
	case "wireguard":
		return bpf.TunnelWireGuard
	case "ipip", "ip6tnl":
		return bpf.TunnelIPIP
	case "sit":
		return bpf.TunnelSIT
	case "gre", "gretap", "ip6gre", "ip6gretap":
		return bpf.TunnelGRE
	}
	return bpf.TunnelNone
}

// tunnelPorts are the UDP ports by which the program knows the node's overlays.
// WireGuard's peers choose theirs, so it is known by the port it sends from.
func tunnelPorts(overlays []link.Device) map[bpf.TunnelPort]uint8 {
	// The ports of RFC 7348, of Linux before it (flannel, Cilium) and of RFC 8926
	// are known beforehand: an overlay may be younger than the last scan.
	ports := map[bpf.TunnelPort]uint8{
		{Port: 4789}: bpf.TunnelVXLAN,
		{Port: 8472}: bpf.TunnelVXLAN,
		{Port: 6081}: bpf.TunnelGeneve,
	}
	for _, d := range overlays {
		if d.UDPPort == 0 {
			continue
		}
		port := bpf.TunnelPort{Port: d.UDPPort}
		kind := tunnelKind(d.Encapsulation)
		if kind == bpf.TunnelWireGuard {
			port.Source = 1
		}
		ports[port] = kind
	}
	return ports
}

func familyName(f uint8) string {
	switch f {
	case 2: // AF_INET
		return "ipv4"
	case 10: // AF_INET6
		return "ipv6"
	}
	return "other"
}
