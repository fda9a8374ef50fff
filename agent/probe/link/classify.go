// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// classify gives every device its role and makes the inventory of it. underlay
// holds the ifindexes, in the agent's own namespace, that the FIB uses for
// remotes and default routes; ports gives WireGuard's, which the link message
// lacks.
func (w *world) classify(underlay map[int]bool, ports map[deviceID]uint16) *Inventory {
	lower := w.lowerDevices()
	var devices []Device
	for _, s := range w.spaces {
		for i := range s.links {
			l := &s.links[i]
			d := Device{
				Netns: s.ns.Inode, Ifindex: l.index, Name: l.name, Kind: kindName(l),
				MTU: l.mtu, Up: l.up(), PodUID: s.ns.PodUID, MasterIfindex: l.master,
			}
			id := deviceID{d.Netns, d.Ifindex}
			if isPair(l.kind) {
				d.PeerIfindex = l.link
				if other, _ := w.peer(s, l); other != nil {
					d.PeerNetns = other.ns.Inode
				}
			}
			switch {
			case l.flags&unix.IFF_LOOPBACK != 0:
				d.Role = RoleLoopback
			case isOverlay(l):
				d.Role = RoleOverlay
				w.describeTunnel(&d, s, l, ports[id])
			case s.ns.Own && underlay[l.index]:
				d.Role = RoleUnderlay
			case l.kind == "bridge":
				d.Role = RoleBridge
			case !s.ns.Own && l.tunnel.encapsulation == "":
				d.Role = RolePod
			case lower[id]:
				d.Role = RoleLower
			case isPair(l.kind) && w.endsElsewhere(s, l):
				d.Role = RolePort
			default:
				d.Role = RoleOther
			}
			devices = append(devices, d)
		}
	}
	own := w.own.ns.Inode
	slices.SortFunc(devices, func(a, b Device) int {
		if a.Netns != b.Netns {
			if a.Netns == own || b.Netns == own {
				return cmp.Compare(boolInt(a.Netns != own), boolInt(b.Netns != own))
			}
			return cmp.Compare(a.Netns, b.Netns)
		}
		return cmp.Compare(a.Ifindex, b.Ifindex)
	})
	return newInventory(own, devices)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func kindName(l *rawLink) string {
	if l.kind == "" {
		return "device"
	}
	return l.kind
}

// isOverlay leaves out the fallback devices that loading a tunnel module makes
// in every namespace, as long as they are down: nothing can go through them.
// (Calico's IPIP mode uses tunl0, and sets it up.)
func isOverlay(l *rawLink) bool {
	t := &l.tunnel
	if t.encapsulation == "" {
		return false
	}
	return l.flags&unix.IFF_UP != 0 || t.collectMetadata || t.remote.IsValid() || t.local.IsValid() || t.port != 0 || t.id != 0 || l.kind == "wireguard"
}

func (w *world) describeTunnel(d *Device, s *space, l *rawLink, wireguardPort uint16) {
	d.Encapsulation = l.tunnel.encapsulation
	d.UDPPort = l.tunnel.udpPort()
	d.TunnelID = l.tunnel.id
	d.CollectMetadata = l.tunnel.collectMetadata
	if l.kind == "wireguard" {
		d.UDPPort = wireguardPort
	}
	if where := w.linkSpace(s, l); where != nil {
		d.LinkNetns = where.ns.Inode
	}
}

// endsElsewhere says whether a pair's other end is in another namespace of the
// node. An end outside of the view belongs to the node only when no other node
// shares the kernel: in kind, eth0 of a node is a veth too.
func (w *world) endsElsewhere(s *space, l *rawLink) bool {
	if l.linkNetnsid == noNetnsid {
		return false
	}
	other := w.linkSpace(s, l)
	if other == nil {
		return !w.filtered
	}
	return other != s
}

// lowerDevices are those that a VLAN, macvlan, ipvlan or MACsec device sits on,
// wherever that is, and the ports of bonds.
func (w *world) lowerDevices() map[deviceID]bool {
	lower := map[deviceID]bool{}
	for _, s := range w.spaces {
		for i := range s.links {
			l := &s.links[i]
			switch l.kind {
			case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec":
				if below := w.linkSpace(s, l); below != nil && l.link != 0 {
					lower[deviceID{below.ns.Inode, l.link}] = true
				}
			}
			if master := s.link(l.master); master != nil && (master.kind == "bond" || master.kind == "team") {
				lower[deviceID{s.ns.Inode, l.index}] = true
			}
		}
	}
	return lower
}
