// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// questions lists the remotes of an overlay as questions to the FIB, each once:
// the configured one, those of the forwarding table, of lightweight tunnel
// routes, of WireGuard peers, and for tunnels without a configured end (NBMA)
// the gateways of the routes over it.
func (v *survey) questions(c *conn, s *space, l *rawLink, t *tunnel, routes []route, f *overlayFacts) ([]question, error) {
	var asked []question
	seen := map[question]bool{}
	add := func(q question) {
		q.remote = q.remote.Unmap()
		if q.remote.IsValid() && !seen[q] {
			seen[q] = true
			asked = append(asked, q)
		}
	}
	mark := t.mark
	if t.remote.IsValid() {
		add(question{remote: t.remote, device: t.via, mark: mark})
	}
	for i := range routes {
		for _, h := range routes[i].hops {
			if h.device == l.index {
				add(question{remote: h.remote, mark: mark})
			}
		}
	}
	if t.collectMetadata {
		return asked, nil
	}
	switch l.kind {
	case "vxlan":
		remotes, groups, err := v.probe.fib.forwarding(c, s.ns, l.index)
		if err != nil {
			return nil, err
		}
		if groups > 0 {
			return nil, fmt.Errorf("%d forwarding entries of %s name nexthop groups, whose members are not read", groups, l.name)
		}
		for _, r := range remotes {
			add(question{remote: r.remote, device: r.device, mark: mark})
		}
	case "ipip", "sit", "gre", "ip6tnl", "ip6gre":
		if t.remote.IsValid() {
			break
		}
		// ip_tunnel_xmit: without a configured end the next hop of the inner
		// route is the remote (Calico's IPIP mode).
		for i := range routes {
			for _, h := range routes[i].hops {
				if h.device == l.index && routes[i].kind == unix.RTN_UNICAST && sameFamily(t, h.gateway) {
					add(question{remote: h.gateway, device: t.via, mark: mark})
				}
			}
		}
	case "wireguard":
		var d wireguardDevice
		err := v.probe.withinGeneric(s, func(c *conn) error {
			var err error
			d, err = readWireguard(c, l.index)
			return err
		})
		if err != nil {
			return nil, err
		}
		f.port = d.port
		for _, endpoint := range d.endpoints {
			add(question{remote: endpoint, mark: d.mark})
		}
	}
	return asked, nil
}

func sameFamily(t *tunnel, a netip.Addr) bool {
	return a.IsValid() && familyOf(a) == t.family()
}

// routeMTU decides item 112 and the prefixes behind the overlay.
func (v *survey) routeMTU(c *conn, s *space, l *rawLink, routes []route, f *overlayFacts) error {
	largest := 0
	let := func(routes []route, deviceMTU int) {
		for i := range routes {
			r := &routes[i]
			if !carriesTraffic(r) {
				continue
			}
			mtu := deviceMTU
			if r.mtu > 0 {
				mtu = min(mtu, r.mtu)
			}
			largest = max(largest, min(mtu, l.mtu))
		}
	}
	let(routes, l.mtu)
	for i := range routes {
		if carriesTraffic(&routes[i]) {
			f.prefixes = append(f.prefixes, routes[i].dst)
		}
	}
	bridge := s.link(l.master)
	bridged := bridge != nil && bridge.kind == "bridge"
	if bridged {
		over, err := v.probe.fib.routesOver(c, s.ns, bridge.index)
		if err != nil {
			return err
		}
		let(over, bridge.mtu)
	}
	switch {
	case largest > 0:
		f.routeMTU = number(largest)
	case bridged:
		// Frames enter by the bridge alone, and a bridge looks at no route.
		f.routeMTU = number(l.mtu)
	default:
		f.routeMTU = absent("no route of its namespace leads over the device")
	}
	return nil
}

// carriesTraffic leaves out what the kernel adds to every device and no pod's
// packet follows: local and broadcast addresses, multicast, link-local.
func carriesTraffic(r *route) bool {
	a := r.dst.Addr()
	return r.kind == unix.RTN_UNICAST && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsLinkLocalMulticast()
}

// learnedMTU lowers item 107 to what the kernel learned in the conn's namespace:
// about the remotes that were asked for, or, where l is given, about
// destinations behind that device.
func (v *survey) learnedMTU(c *conn, s *space, l *rawLink, asked []question, f *overlayFacts) error {
	exceptions, err := v.exceptions(c, s)
	if err != nil || len(exceptions) == 0 {
		return err
	}
	remotes := make(map[netip.Addr]bool, len(asked))
	for _, q := range asked {
		remotes[q.remote] = true
	}
	for i := range exceptions {
		r := &exceptions[i]
		behind := l != nil && r.leavesBy(l.index)
		if !behind && !(r.dst.IsSingleIP() && remotes[r.dst.Addr()]) || !narrows(s, r) {
			continue
		}
		if !f.learned.isValue() || int64(r.mtu) < f.learned.number {
			f.learned = number(r.mtu)
		}
	}
	return nil
}

// narrows leaves out exceptions that are no less than the device's own MTU: the
// kernel makes one of just that when it tells itself that an outer packet did
// not fit, and redirects are exceptions as well.
func narrows(s *space, r *route) bool {
	for _, h := range r.hops {
		if l := s.link(h.device); l != nil && r.mtu >= l.mtu {
			return false
		}
	}
	return true
}

// exceptions reads the learned path MTUs of a namespace; those of the agent's own
// once per survey.
func (v *survey) exceptions(c *conn, s *space) ([]route, error) {
	if s.ns.Own && v.learned != nil {
		return v.learned, nil
	}
	out := []route{}
	for _, family := range families {
		r, err := c.exceptions(family)
		if err != nil {
			return nil, err
		}
		out = append(out, r...)
	}
	if s.ns.Own {
		v.learned = out
	}
	return out, nil
}
