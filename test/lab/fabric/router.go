// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// rerouteMark is on packets that take the second way, rerouteTable the routing
	// table that leads there and reroutePriority the place of its policy rule: after
	// the local table (0), before the main one (32766).
	rerouteMark     = 0x506c
	rerouteTable    = 0x506c
	reroutePriority = 100
	// routerMTU is the largest that a veth takes (ETH_MAX_MTU).
	routerMTU = 65535
	// firstIndex is the interface index after which those of the router's devices
	// come. No peer's device has one so high: if both ends of a veth happen to have the
	// same, the kernel takes the end for a card (linkwatch_urgent_event) and notices
	// its link up to a second late, which keeps IPv6 from working until then.
	firstIndex = 1000
)

// A setting is one of the namespace's sysctls.
type setting struct{ key, value string }

// set writes settings of the calling thread's network namespace: /proc/sys/net
// shows that of whoever opens it.
func set(settings []setting) error {
	for _, s := range settings {
		path := filepath.Join("/proc/sys/net", s.key)
		if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
			// A kernel without IPv6 has nothing to switch off.
			if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(s.key, "/disable_ipv6") && s.value == "1" {
				continue
			}
			return fmt.Errorf("set %s to %s: %w", path, s.value, err)
		}
	}
	return nil
}

// makeRouter prepares a namespace for routing between devices to come. Reverse path
// filters would take the second way for a forgery, and duplicate address detection
// would keep an address from use for a second.
func makeRouter(family Family) error {
	settings := []setting{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"},
		{"ipv4/conf/all/send_redirects", "0"}, {"ipv4/conf/default/send_redirects", "0"},
	}
	if family == IPv6 {
		settings = append(settings,
			setting{"ipv6/conf/all/disable_ipv6", "0"}, setting{"ipv6/conf/default/disable_ipv6", "0"},
			setting{"ipv6/conf/all/forwarding", "1"}, setting{"ipv6/conf/default/forwarding", "1"},
			setting{"ipv6/conf/default/accept_dad", "0"}, setting{"ipv6/conf/default/accept_ra", "0"})
	} else {
		settings = append(settings, setting{"ipv6/conf/all/disable_ipv6", "1"}, setting{"ipv6/conf/default/disable_ipv6", "1"})
	}
	return set(settings)
}

// A way is one half of the second way: a link between router and spine.
type way struct {
	routerDevice, spineDevice string
	router, spine             []netip.Prefix
}

// ways are the links to the spine and back. The addresses are those set aside for
// measuring networks (RFC 2544 appendix C.2.2, RFC 5180 section 8); no node has one.
func ways(family Family) (out, back way) {
	out = way{routerDevice: "spine-out", spineDevice: "up0", router: prefixes("198.18.0.1/30"), spine: prefixes("198.18.0.2/30")}
	back = way{routerDevice: "spine-in", spineDevice: "down0", router: prefixes("198.18.0.5/30"), spine: prefixes("198.18.0.6/30")}
	if family == IPv6 {
		out.router, out.spine = append(out.router, prefixes("2001:2:0:1::1/64")...), append(out.spine, prefixes("2001:2:0:1::2/64")...)
		back.router, back.spine = append(back.router, prefixes("2001:2:0:2::1/64")...), append(back.spine, prefixes("2001:2:0:2::2/64")...)
	}
	return out, back
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// addSpine makes the second way: what carries the mark goes to the spine, and the
// spine sends everything back by another link.
func (f *Fabric) addSpine(ctx context.Context) error {
	family := f.config.Family
	if err := f.config.Spine.Do(func() error { return makeRouter(family) }); err != nil {
		return fmt.Errorf("prepare the spine: %w", err)
	}
	out, back := ways(family)
	for _, w := range []way{out, back} {
		if err := f.addWay(ctx, w); err != nil {
			return fmt.Errorf("join router and spine by %s: %w", w.routerDevice, err)
		}
	}
	err := f.config.Spine.Do(func() error { return addDefaults(back.spineDevice, back.router, unix.RT_TABLE_MAIN) })
	if err != nil {
		return fmt.Errorf("route from the spine back: %w", err)
	}
	return f.config.Router.Do(func() error {
		if err := addDefaults(out.routerDevice, out.spine, rerouteTable); err != nil {
			return fmt.Errorf("route to the spine: %w", err)
		}
		for _, p := range out.router {
			rule := rerouteRule(p.Addr())
			if err := netlink.RuleAdd(rule); err != nil {
				return fmt.Errorf("route by mark to the spine: %w", err)
			}
			f.close = append(f.close, func() error {
				err := f.config.Router.Do(func() error { return netlink.RuleDel(rule) })
				if err != nil && !gone(err) {
					return fmt.Errorf("remove the policy rule of the spine: %w", err)
				}
				return nil
			})
		}
		return nil
	})
}

func (f *Fabric) addWay(ctx context.Context, w way) error {
	err := f.addVeth(f.config.Spine, &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: w.routerDevice, MTU: routerMTU}, PeerName: w.spineDevice, PeerMTU: routerMTU,
	})
	if err != nil {
		return err
	}
	if err := f.config.Spine.Do(func() error { return bringUp(w.spineDevice, w.spine) }); err != nil {
		return err
	}
	if err := f.config.Router.Do(func() error { return bringUp(w.routerDevice, w.router) }); err != nil {
		return err
	}
	if err := waitReady(ctx, f.config.Router, w.routerDevice, w.router); err != nil {
		return err
	}
	return waitReady(ctx, f.config.Spine, w.spineDevice, w.spine)
}

// addVeth makes a veth from the router to another namespace. Close removes it.
func (f *Fabric) addVeth(peer Namespace, veth *netlink.Veth) error {
	file, err := os.Open(peer.Path())
	if err != nil {
		return fmt.Errorf("open the other end's namespace: %w", err)
	}
	defer file.Close()
	veth.PeerNamespace = netlink.NsFd(file.Fd())
	f.lastIndex++
	veth.Index = f.lastIndex
	if err := f.config.Router.Do(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("make a veth of %s and %s: %w", veth.Name, veth.PeerName, err)
	}
	f.close = append(f.close, func() error { return f.deleteLink(veth.Name) })
	return nil
}

func (f *Fabric) deleteLink(name string) error {
	return f.config.Router.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("delete %s: %w", name, err)
		}
		return nil
	})
}

// gone says whether something was removed already, as everything in a namespace is
// that ended.
func gone(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// bringUp gives a device its addresses, at once valid, and brings it up.
func bringUp(device string, addresses []netip.Prefix) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("bring %s up: %w", device, err)
	}
	for _, p := range addresses {
		address := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			return fmt.Errorf("give %s the address %s: %w", device, p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", device, err)
	}
	return nil
}

// addDefaults adds a default route for every gateway.
func addDefaults(device string, gateways []netip.Prefix, table int) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, g := range gateways {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if g.Addr().Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Table: table, Dst: ipNet(all), Gw: g.Addr().AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add the default route by %s on %s: %w", g.Addr(), device, err)
		}
	}
	return nil
}

func rerouteRule(like netip.Addr) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Mark, rule.Table, rule.Priority = rerouteMark, rerouteTable, reroutePriority
	rule.Family = netlink.FAMILY_V4
	if like.Is6() {
		rule.Family = netlink.FAMILY_V6
	}
	return rule
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
