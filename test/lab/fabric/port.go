// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
)

// A Port joins a machine to the fabric.
type Port struct {
	// Name is what rules call it.
	Name string
	// Device is the router's end, at most 15 characters.
	Device string
	// Peer is the namespace of the other end and PeerDevice its name there.
	Peer       Namespace
	PeerDevice string
	// MTU is that of the peer's device, 68 to 65535 (1280 and more for IPv6).
	MTU int
	// Wire is the longest IP packet that the port carries in either direction, longer
	// ones are lost without a word; 0 leaves it to the peer's MTU, to whatever the
	// peer may change that.
	Wire int
	// Gateway is the router's address on the port, with the length of the network,
	// and the peer's default gateway.
	Gateway netip.Prefix
	// Addresses are the peer's, in the gateway's network.
	Addresses []netip.Prefix
	// Destinations are networks behind the peer: the fabric routes them to the first
	// address, and rules hold for them as for the peer's own. IPv4 networks behind a
	// peer that has IPv6 only are fine: the routes, and then a default route of the
	// peer's, lead to an IPv6 neighbour (RFC 8950, Linux 5.2). IPv6 networks behind
	// IPv4 are refused. With an overlay leave them out: else its traffic finds a way
	// around it when it breaks.
	Destinations []netip.Prefix
}

// A port is a Port that is there.
type port struct {
	Port
	number     uint32
	attachment *bpf.Attachment
}

// behind are the networks that are reached by the port.
func (p Port) behind() []netip.Prefix {
	var out []netip.Prefix
	for _, d := range p.Destinations {
		out = append(out, d.Masked())
	}
	for _, a := range p.Addresses {
		out = append(out, full(a.Addr()))
	}
	return out
}

// An MTUError says that the kernel gave a device another MTU than was asked for.
type MTUError struct {
	Device     string
	Asked, Got int
}

// Error is one line.
func (e *MTUError) Error() string {
	return fmt.Sprintf("MTU of %s: asked for %d, the kernel made it %d; ask for what it allows", e.Device, e.Asked, e.Got)
}

func (p Port) check() error {
	switch {
	case p.Name == "" || p.Device == "" || p.PeerDevice == "" || p.Peer == nil:
		return fmt.Errorf("add port %q: name, device, peer and the peer's device are needed; give all four", p.Name)
	case len(p.Device) > 15 || len(p.PeerDevice) > 15:
		return fmt.Errorf("add port %s: a device name of %s and %s is longer than 15 characters (IFNAMSIZ); shorten it", p.Name, p.Device, p.PeerDevice)
	case p.Wire < 0 || p.Wire > maxLength:
		return fmt.Errorf("add port %s: a wire of %d bytes; give 1 to %d, or 0", p.Name, p.Wire, maxLength)
	case p.Gateway.Addr().Is4() && slices.ContainsFunc(p.Destinations, func(d netip.Prefix) bool { return d.Addr().Is6() }):
		return fmt.Errorf("add port %s: IPv6 networks behind an IPv4 address; give the port IPv6", p.Name)
	case !p.Gateway.IsValid() || len(p.Addresses) == 0:
		return fmt.Errorf("add port %s: it has no gateway or no address; give both", p.Name)
	}
	for _, a := range p.Addresses {
		if !p.Gateway.Contains(a.Addr()) || a.Addr() == p.Gateway.Addr() {
			return fmt.Errorf("add port %s: address %s is not one beside its gateway %s; take another", p.Name, a, p.Gateway)
		}
	}
	return nil
}

// AddPort makes the veth, gives both ends their addresses and the peer its default
// route, and attaches the program. Rules with a wildcard hold for the port from then
// on. Offloads are set so that the fabric sees what a wire would carry: no
// segmentation offload at either end, so that trains become packets before the
// fabric, and GRO at the peer, as a real card has it. An MTU that the kernel
// changed is an MTUError. Nothing stays of a port that failed.
func (f *Fabric) AddPort(ctx context.Context, p Port) error {
	if err := p.check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("add port %s: %w", p.Name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return fmt.Errorf("add port %s: the fabric is closed", p.Name)
	case f.ports[p.Name] != nil:
		return fmt.Errorf("add port %s: there is one of that name; take another", p.Name)
	case len(f.ports) >= bpf.MaxPorts:
		return fmt.Errorf("add port %s: there are %d already, no more fit", p.Name, bpf.MaxPorts)
	}
	for name, other := range f.ports {
		for _, prefix := range p.behind() {
			if slices.Contains(other.behind(), prefix) {
				return fmt.Errorf("add port %s: %s is behind port %s already; give each its own", p.Name, prefix, name)
			}
		}
	}
	made := &port{Port: p, number: uint32(len(f.ports))}
	undo := len(f.close)
	err := f.join(ctx, made)
	if err == nil {
		f.ports[p.Name] = made
		if err = f.rules.change(f.ports, nil, nil, p.Name); err != nil {
			delete(f.ports, p.Name)
		}
	}
	if err == nil {
		return nil
	}
	for i := len(f.close) - 1; i >= undo; i-- {
		err = errors.Join(err, f.close[i]())
	}
	f.close = f.close[:undo]
	return fmt.Errorf("add port %s: %w", p.Name, err)
}

func (f *Fabric) join(ctx context.Context, p *port) error {
	err := f.addVeth(p.Peer, &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: p.Device, MTU: routerMTU}, PeerName: p.PeerDevice, PeerMTU: uint32(p.MTU),
	})
	if err != nil {
		return err
	}
	err = f.config.Router.Do(func() error {
		link, err := netlink.LinkByName(p.Device)
		if err != nil {
			return err
		}
		if err := setOffloads(p.Device, false); err != nil {
			return err
		}
		if err := f.watch(p, link.Attrs().Index); err != nil {
			return err
		}
		if err := bringUp(p.Device, []netip.Prefix{p.Gateway}); err != nil {
			return err
		}
		return checkMTU(p.Device, routerMTU)
	})
	if err != nil {
		return err
	}
	if err := p.Peer.Do(func() error { return f.joinPeer(p) }); err != nil {
		return err
	}
	if err := f.config.Router.Do(func() error { return addDestinations(p.Port) }); err != nil {
		return err
	}
	if err := waitReady(ctx, f.config.Router, p.Device, []netip.Prefix{p.Gateway}); err != nil {
		return err
	}
	return waitReady(ctx, p.Peer, p.PeerDevice, p.Addresses)
}

// watch attaches the program, told who is behind the port.
func (f *Fabric) watch(p *port, ifindex int) error {
	described := bpf.Port{Wire: uint32(p.Wire)}
	if g := p.Gateway.Addr(); g.Is4() {
		described.Gateway4 = g.As4()
	} else {
		described.Gateway6 = g.As16()
	}
	if err := f.program.SetPort(ifindex, p.number, described); err != nil {
		return err
	}
	f.close = append(f.close, func() error { return f.program.RemovePort(ifindex) })
	for _, prefix := range p.behind() {
		if err := f.program.SetDestination(prefix, p.number); err != nil {
			return err
		}
		f.close = append(f.close, func() error { return f.program.RemoveDestination(prefix) })
	}
	var err error
	if p.attachment, err = f.program.Attach(ifindex, f.config.Hook); err != nil {
		return err
	}
	f.close = append(f.close, p.attachment.Close)
	return nil
}

// joinPeer sets the peer's end up. It runs inside the peer's namespace.
func (f *Fabric) joinPeer(p *port) error {
	settings := []setting{{filepath.Join("ipv6/conf", p.PeerDevice, "disable_ipv6"), "1"}}
	if f.config.Family == IPv6 {
		settings = []setting{
			{filepath.Join("ipv6/conf", p.PeerDevice, "disable_ipv6"), "0"},
			{filepath.Join("ipv6/conf", p.PeerDevice, "accept_dad"), "0"},
		}
	}
	if err := set(settings); err != nil {
		return err
	}
	if err := setOffloads(p.PeerDevice, true); err != nil {
		return err
	}
	if err := bringUp(p.PeerDevice, p.Addresses); err != nil {
		return err
	}
	if err := checkMTU(p.PeerDevice, p.MTU); err != nil {
		return err
	}
	if err := addDefaults(p.PeerDevice, []netip.Prefix{p.Gateway}, unix.RT_TABLE_MAIN); err != nil {
		return err
	}
	ipv4Behind := slices.ContainsFunc(p.Destinations, func(d netip.Prefix) bool { return d.Addr().Is4() })
	if p.Gateway.Addr().Is4() || !ipv4Behind {
		return nil
	}
	link, err := netlink.LinkByName(p.PeerDevice)
	if err != nil {
		return err
	}
	route := viaIPv6(link, netip.PrefixFrom(netip.IPv4Unspecified(), 0), p.Gateway.Addr())
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add the default route of IPv4 by %s on %s: %w", p.Gateway.Addr(), p.PeerDevice, err)
	}
	return nil
}

// viaIPv6 is the route to an IPv4 network by a neighbour with an IPv6 address.
func viaIPv6(link netlink.Link, to netip.Prefix, by netip.Addr) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(to),
		Via: &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: by.AsSlice()},
	}
}

// addDestinations routes what is behind the peer to it.
func addDestinations(p Port) error {
	link, err := netlink.LinkByName(p.Device)
	if err != nil {
		return err
	}
	next := p.Addresses[0].Addr()
	for _, d := range p.Destinations {
		route := viaIPv6(link, d.Masked(), next)
		if d.Addr().Is4() == next.Is4() {
			route = &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(d.Masked()), Gw: next.AsSlice()}
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route %s to %s on %s: %w", d, next, p.Device, err)
		}
	}
	return nil
}

// checkMTU reads an MTU back: the kernel changes some without a word.
func checkMTU(device string, want int) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("read the MTU of %s: %w", device, err)
	}
	if got := link.Attrs().MTU; got != want {
		return &MTUError{Device: device, Asked: want, Got: got}
	}
	return nil
}
