// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"slices"
)

// A Role is what a device is for. The texts are those of item link.role.
type Role string

// Roles, in the order in which they are tried: the first that fits is taken.
const (
	// RoleLoopback is a device with IFF_LOOPBACK.
	RoleLoopback Role = "loopback"
	// RoleOverlay is a tunnel that adds a header to what enters it. A tunnel
	// device that no one configured and that is down (tunl0, sit0 and their like,
	// which the kernel makes in every namespace) is other.
	RoleOverlay Role = "overlay"
	// RoleUnderlay is a device of the agent's own namespace by which the FIB
	// reaches a remote of an overlay, or which has a default route.
	RoleUnderlay Role = "underlay"
	// RoleBridge is a Linux bridge.
	RoleBridge Role = "bridge"
	// RolePod is the pod's side of a veth, or any other device in a network
	// namespace that is not the agent's own.
	RolePod Role = "pod"
	// RoleLower is a device below a bond, VLAN, macvlan or ipvlan.
	RoleLower Role = "lower"
	// RolePort is the end, in the agent's own namespace, of a pair whose other
	// end is in another one of the node.
	RolePort Role = "port"
	// RoleOther is everything else.
	RoleOther Role = "other"
)

// A Device is one network device as of the scan that made its Inventory.
type Device struct {
	// Netns is the inode of the network namespace that holds the device (ns.inum
	// in the kernel), and Ifindex its number there; the two are its identity.
	Netns   uint32
	Ifindex int
	Name    string
	// Kind is IFLA_INFO_KIND, or "device" for plain hardware.
	Kind string
	Role Role
	// MTU is IFLA_MTU in bytes.
	MTU int
	// Up is IFF_UP and an operational state that is not down.
	Up bool
	// PodUID is the pod whose network namespace holds the device; empty for the
	// agent's own namespace and for namespaces of no pod.
	PodUID string
	// PeerNetns and PeerIfindex name the other end of a veth, netkit or vxcan
	// pair. PeerNetns is 0 when there is none, or when it is in a namespace that
	// the node's view does not hold; PeerIfindex is then still what IFLA_LINK says.
	PeerNetns   uint32
	PeerIfindex int
	// MasterIfindex is the bridge, bond or other device that it is a port of, in
	// the same namespace; 0 for none.
	MasterIfindex int

	// Encapsulation says how an overlay wraps packets: vxlan, vxlan-gpe, geneve,
	// ipip, sit, ip6tnl, gre, gretap, ip6gre, ip6gretap, wireguard. Empty for
	// every other role.
	Encapsulation string
	// UDPPort is the destination port of an overlay over UDP in host order; for
	// WireGuard, whose peers choose theirs, the port it listens on (0 where that
	// could not be read). 0 for overlays without UDP.
	UDPPort uint16
	// TunnelID is the VNI of VXLAN or Geneve, or the key of GRE; 0 when the
	// device has none or takes it per packet.
	TunnelID uint32
	// CollectMetadata is true when an overlay takes remote and id per packet, so
	// that TunnelID says nothing and one device carries every id on UDPPort.
	CollectMetadata bool
	// LinkNetns is the namespace in which an overlay's outer packets are routed
	// (the one it was created in); equal to Netns unless it was moved, 0 when that
	// namespace is not in the node's view.
	LinkNetns uint32
}

// Key is the key of the device's evidence subject: "<netns inode>/<ifindex>".
func (d Device) Key() string { return deviceKey(d.Netns, d.Ifindex) }

func deviceKey(netns uint32, ifindex int) string { return fmt.Sprintf("%d/%d", netns, ifindex) }

type deviceID struct {
	netns   uint32
	ifindex int
}

// An Inventory is every device of the node at one moment: those of the agent's
// own network namespace and of all others that belong to the node and could be
// read. It is immutable and safe for concurrent use; the zero value and a nil
// pointer hold nothing.
type Inventory struct {
	own     uint32
	devices []Device
	byID    map[deviceID]int
}

// newInventory takes ownership of devices.
func newInventory(own uint32, devices []Device) *Inventory {
	inv := &Inventory{
		own:     own,
		devices: devices,
		byID:    make(map[deviceID]int, len(devices)),
	}
	for i, d := range devices {
		inv.byID[deviceID{d.Netns, d.Ifindex}] = i
	}
	return inv
}

// Own is the inode of the agent's own network namespace.
func (inv *Inventory) Own() uint32 {
	if inv == nil {
		return 0
	}
	return inv.own
}

// Len is the number of devices.
func (inv *Inventory) Len() int {
	if inv == nil {
		return 0
	}
	return len(inv.devices)
}

// Devices returns all devices, ordered by namespace (the agent's own first) and
// ifindex. The slice is the caller's.
func (inv *Inventory) Devices() []Device {
	if inv == nil {
		return nil
	}
	return slices.Clone(inv.devices)
}

// Device finds a device by the inode of its network namespace and its ifindex
// there. False means that the last scan did not see it: it may be younger than
// the scan (Probe.Refresh looks again), or of another node on the same kernel.
func (inv *Inventory) Device(netns uint32, ifindex int) (Device, bool) {
	if inv == nil {
		return Device{}, false
	}
	i, ok := inv.byID[deviceID{netns, ifindex}]
	if !ok {
		return Device{}, false
	}
	return inv.devices[i], true
}

// Overlays returns the devices whose role is overlay.
func (inv *Inventory) Overlays() []Device {
	if inv == nil {
		return nil
	}
	var out []Device
	for _, d := range inv.devices {
		if d.Role == RoleOverlay {
			out = append(out, d)
		}
	}
	return out
}

// PeerOf returns the other end of a pair (veth, netkit, vxcan), wherever it is.
// False means that the device is no pair, or that its other end is in a
// namespace outside of the node's view.
func (inv *Inventory) PeerOf(d Device) (Device, bool) {
	if inv == nil || d.PeerNetns == 0 || d.PeerIfindex == 0 {
		return Device{}, false
	}
	return inv.Device(d.PeerNetns, d.PeerIfindex)
}
