// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A route is what the kernel says of one route, or of the way to one address.
type route struct {
	dst   netip.Prefix
	kind  uint8 // RTN_…
	flags uint32
	// mtu is RTAX_MTU in bytes; 0 when the route carries none.
	mtu  int
	hops []hop
}

// A hop is one next hop of a route.
type hop struct {
	device  int
	gateway netip.Addr
	// remote is the tunnel end of a lightweight tunnel (encap ip, encap ip6).
	remote netip.Addr
}

// A question to the FIB. The zero value of every field but remote means "any".
type question struct {
	remote netip.Addr
	device int
	mark   uint32
}

const (
	rtmsgSize      = 12 // struct rtmsg
	rtnexthopSize  = 8  // struct rtnexthop
	ndmsgSize      = 12 // struct ndmsg
	lwtunnelEncap4 = 2  // LWTUNNEL_ENCAP_IP
	lwtunnelEncap6 = 4  // LWTUNNEL_ENCAP_IP6
	lwtunnelDst    = 2  // LWTUNNEL_IP_DST and LWTUNNEL_IP6_DST
	ndaNexthop     = 13 // NDA_NH_ID
)

// configured asks which route the FIB would use, as it was configured
// (RTM_F_FIB_MATCH, since 4.13): all its next hops and its own RTAX_MTU, without
// any path MTU that was learned for this destination.
//
// What a given device makes reachable though no route names it (IPv4 multicast,
// addresses taken as on-link: ip_route_output_key_hash_rcu) has no FIB entry
// that could match; it is asked for without, and carries no MTU of its own.
func (c *conn) configured(q question) (route, error) {
	r, err := c.routeTo(q, unix.RTM_F_FIB_MATCH)
	if q.device == 0 || !errors.Is(err, unix.EHOSTUNREACH) {
		return r, err
	}
	r, err = c.routeTo(q, 0)
	r.mtu = 0
	return r, err
}

func (c *conn) routeTo(q question, flags uint32) (route, error) {
	addr := q.remote.Unmap()
	payload := make([]byte, rtmsgSize, 64)
	payload[0] = uint8(familyOf(addr))
	payload[1] = uint8(addr.BitLen())
	binary.NativeEndian.PutUint32(payload[8:], flags)
	payload = appendAttribute(payload, unix.RTA_DST, addr.AsSlice())
	if q.device != 0 {
		payload = appendUint32Attribute(payload, unix.RTA_OIF, uint32(q.device))
	}
	if q.mark != 0 {
		payload = appendUint32Attribute(payload, unix.RTA_MARK, q.mark)
	}
	m, ok, err := c.ask(unix.RTM_GETROUTE, 0, payload)
	if err != nil {
		return route{}, fmt.Errorf("ask for the route to %s: %w", addr, err)
	}
	if !ok {
		return route{}, fmt.Errorf("ask for the route to %s: no answer", addr)
	}
	r, err := decodeRoute(m.body)
	if err != nil {
		return route{}, fmt.Errorf("ask for the route to %s: %w", addr, err)
	}
	return r, nil
}

// routesOver lists the routes, of all tables, that leave by a device.
func (c *conn) routesOver(family, device int) ([]route, error) {
	payload := make([]byte, rtmsgSize, 32)
	payload[0] = uint8(family)
	payload = appendUint32Attribute(payload, unix.RTA_OIF, uint32(device))
	return c.routes(payload, func(r route) bool {
		return r.flags&unix.RTM_F_CLONED == 0 && r.leavesBy(device)
	})
}

// defaultRoutes lists the default routes of the main table.
func (c *conn) defaultRoutes(family int) ([]route, error) {
	payload := make([]byte, rtmsgSize, 32)
	payload[0] = uint8(family)
	payload[4] = unix.RT_TABLE_MAIN
	payload = appendUint32Attribute(payload, unix.RTA_TABLE, unix.RT_TABLE_MAIN)
	return c.routes(payload, func(r route) bool {
		return r.flags&unix.RTM_F_CLONED == 0 && r.kind == unix.RTN_UNICAST && r.dst.Bits() == 0
	})
}

// exceptions lists what the kernel learned about destinations: path MTUs and
// redirects (fib_nh_exception, rt6_exception; dumped since 5.3).
func (c *conn) exceptions(family int) ([]route, error) {
	payload := make([]byte, rtmsgSize)
	payload[0] = uint8(family)
	binary.NativeEndian.PutUint32(payload[8:], unix.RTM_F_CLONED)
	return c.routes(payload, func(r route) bool {
		return r.flags&unix.RTM_F_CLONED != 0 && r.mtu > 0
	})
}

func (c *conn) routes(payload []byte, keep func(route) bool) ([]route, error) {
	var out []route
	err := c.dump(unix.RTM_GETROUTE, payload, func() { out = out[:0] }, func(m message) error {
		if m.kind != unix.RTM_NEWROUTE {
			return nil
		}
		r, err := decodeRoute(m.body)
		if err != nil {
			return err
		}
		if keep(r) {
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return out, nil
}

func (r *route) leavesBy(device int) bool {
	for _, h := range r.hops {
		if h.device == device {
			return true
		}
	}
	return false
}

// decodeRoute reads the body of an RTM_NEWROUTE message.
func decodeRoute(body []byte) (route, error) {
	if len(body) < rtmsgSize {
		return route{}, fmt.Errorf("decode route: %d bytes are no header: %w", len(body), errMalformed)
	}
	family, bits := int(body[0]), int(body[1])
	r := route{kind: body[7], flags: binary.NativeEndian.Uint32(body[8:])}
	dst := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	var first hop
	var encapKind uint16
	var encap []byte
	err := eachAttribute(body[rtmsgSize:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.RTA_DST:
			if a, ok := netip.AddrFromSlice(v); ok {
				dst = a
			}
		case unix.RTA_OIF:
			first.device = int(int32(attrUint32(v)))
		case unix.RTA_GATEWAY:
			first.gateway = attrAddr(v)
		case unix.RTA_VIA:
			first.gateway = viaAddr(v)
		case unix.RTA_ENCAP_TYPE:
			encapKind = attrUint16(v)
		case unix.RTA_ENCAP:
			encap = v
		case unix.RTA_METRICS:
			return eachAttribute(v, func(kind uint16, v []byte) error {
				if kind == unix.RTAX_MTU {
					r.mtu = int(attrUint32(v))
				}
				return nil
			})
		case unix.RTA_MULTIPATH:
			hops, err := decodeHops(v)
			r.hops = hops
			return err
		}
		return nil
	})
	if err != nil {
		return route{}, fmt.Errorf("decode route: %w", err)
	}
	if r.dst, err = dst.Prefix(bits); err != nil {
		return route{}, fmt.Errorf("decode route: %s/%d: %w", dst, bits, errMalformed)
	}
	if first.remote, err = decodeEncap(encapKind, encap); err != nil {
		return route{}, fmt.Errorf("decode route: %w", err)
	}
	if first.device != 0 && len(r.hops) == 0 {
		r.hops = []hop{first}
	}
	return r, nil
}

// viaAddr reads struct rtvia: a gateway of another family than the route's.
func viaAddr(v []byte) netip.Addr {
	if len(v) < 2 {
		return netip.Addr{}
	}
	return attrAddr(v[2:])
}

func decodeHops(b []byte) ([]hop, error) {
	var hops []hop
	for len(b) >= rtnexthopSize {
		size := int(binary.NativeEndian.Uint16(b))
		if size < rtnexthopSize || size > len(b) {
			return nil, errMalformed
		}
		h := hop{device: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		var encapKind uint16
		var encap []byte
		err := eachAttribute(b[rtnexthopSize:size], func(kind uint16, v []byte) error {
			switch kind {
			case unix.RTA_GATEWAY:
				h.gateway = attrAddr(v)
			case unix.RTA_VIA:
				h.gateway = viaAddr(v)
			case unix.RTA_ENCAP_TYPE:
				encapKind = attrUint16(v)
			case unix.RTA_ENCAP:
				encap = v
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if h.remote, err = decodeEncap(encapKind, encap); err != nil {
			return nil, err
		}
		hops = append(hops, h)
		b = b[min(align4(size), len(b)):]
	}
	return hops, nil
}

// decodeEncap returns the tunnel end of a lightweight tunnel route; none for
// encapsulations without one (MPLS, seg6, bpf).
func decodeEncap(kind uint16, b []byte) (netip.Addr, error) {
	var remote netip.Addr
	if kind != lwtunnelEncap4 && kind != lwtunnelEncap6 {
		return remote, nil
	}
	err := eachAttribute(b, func(kind uint16, v []byte) error {
		if kind == lwtunnelDst {
			remote = attrAddr(v)
		}
		return nil
	})
	return remote, err
}

// An fdbRemote is a tunnel end that a forwarding entry of a VXLAN device names.
type fdbRemote struct {
	remote netip.Addr
	device int // NDA_IFINDEX: outer packets must leave by it; 0 for any
}

// fdbRemotes lists the distinct tunnel ends in the forwarding table of a VXLAN
// device. groups counts entries that name a nexthop group instead of an address.
func (c *conn) fdbRemotes(device int) (remotes []fdbRemote, groups int, err error) {
	payload := make([]byte, ndmsgSize)
	payload[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(payload[4:], uint32(device))
	seen := map[fdbRemote]bool{}
	reset := func() { remotes, groups = remotes[:0], 0; clear(seen) }
	err = c.dump(unix.RTM_GETNEIGH, payload, reset, func(m message) error {
		if m.kind != unix.RTM_NEWNEIGH {
			return nil
		}
		r, of, group, err := decodeFDB(m.body)
		if err != nil || of != device {
			return err
		}
		if group {
			groups++
		}
		if r.remote.IsValid() && !seen[r] {
			seen[r] = true
			remotes = append(remotes, r)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list forwarding entries of device %d: %w", device, err)
	}
	return remotes, groups, nil
}

// decodeFDB reads the body of an RTM_NEWNEIGH message of family AF_BRIDGE.
func decodeFDB(body []byte) (r fdbRemote, device int, group bool, err error) {
	if len(body) < ndmsgSize {
		return r, 0, false, fmt.Errorf("decode forwarding entry: %d bytes are no header: %w", len(body), errMalformed)
	}
	device = int(int32(binary.NativeEndian.Uint32(body[4:])))
	err = eachAttribute(body[ndmsgSize:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.NDA_DST:
			r.remote = attrAddr(v)
		case unix.NDA_IFINDEX:
			r.device = int(int32(attrUint32(v)))
		case ndaNexthop:
			group = attrUint32(v) != 0
		}
		return nil
	})
	if err != nil {
		return r, device, group, fmt.Errorf("decode forwarding entry: %w", err)
	}
	return r, device, group, nil
}
