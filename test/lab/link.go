// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkState is what the kernel forgets when a device goes down: its routes, its
// neighbours, the permanent ones too, and its IPv6 addresses unless
// keep_addr_on_down is set (fib_disable_ip, neigh_ifdown and addrconf_ifdown).
type linkState struct {
	device     string
	addresses  []netlink.Addr
	routes     []netlink.Route
	neighbours []netlink.Neigh
}

// linkDown takes a device down and returns what linkUp needs. It runs inside the
// device's network namespace.
func linkDown(device string) (linkState, error) {
	state := linkState{device: device}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return state, fmt.Errorf("take %s down: %w", device, err)
	}
	if state.addresses, err = netlink.AddrList(link, netlink.FAMILY_V6); err != nil {
		return state, fmt.Errorf("take %s down: list its addresses: %w", device, err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighbours, err := netlink.NeighList(link.Attrs().Index, family)
		if err != nil {
			return state, fmt.Errorf("take %s down: list its neighbours: %w", device, err)
		}
		for _, n := range neighbours {
			if n.State&netlink.NUD_PERMANENT != 0 {
				state.neighbours = append(state.neighbours, n)
			}
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return state, fmt.Errorf("take %s down: list its routes: %w", device, err)
		}
		for _, r := range routes {
			// Those of the kernel come with the addresses.
			if r.Protocol != unix.RTPROT_KERNEL && r.Table != unix.RT_TABLE_LOCAL {
				state.routes = append(state.routes, r)
			}
		}
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return state, fmt.Errorf("take %s down: %w", device, err)
	}
	return state, nil
}

// linkUp brings a device up again with all it had.
func linkUp(state linkState) error {
	link, err := netlink.LinkByName(state.device)
	if err != nil {
		return fmt.Errorf("bring %s up: %w", state.device, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", state.device, err)
	}
	for _, a := range state.addresses {
		if a.Scope == int(netlink.SCOPE_LINK) {
			continue // the kernel makes it anew
		}
		a.Flags |= unix.IFA_F_NODAD
		// The lifetimes of a static address read as forever and cannot be written so.
		a.ValidLft, a.PreferedLft = 0, 0
		if err := netlink.AddrReplace(link, &a); err != nil {
			return fmt.Errorf("bring %s up: give it %s again: %w", state.device, a.IPNet, err)
		}
	}
	for _, n := range state.neighbours {
		if err := netlink.NeighSet(&n); err != nil {
			return fmt.Errorf("bring %s up: give it the neighbour %s again: %w", state.device, n.IP, err)
		}
	}
	// A route by a gateway needs the route to the gateway before it.
	left, last := state.routes, errors.New("none was tried")
	for len(left) > 0 {
		var failed []netlink.Route
		for _, r := range left {
			if err := netlink.RouteReplace(&r); err != nil {
				failed, last = append(failed, r), err
			}
		}
		if len(failed) == len(left) {
			return fmt.Errorf("bring %s up: give it the route %s again: %w", state.device, failed[0], last)
		}
		left = failed
	}
	return nil
}
