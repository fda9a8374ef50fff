// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDecodeRoute(t *testing.T) {
	header := func(family, bits, kind uint8, flags uint32) []byte {
		b := make([]byte, rtmsgSize)
		b[0], b[1], b[7] = family, bits, kind
		binary.NativeEndian.PutUint32(b[8:], flags)
		return b
	}
	join := func(parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	nexthop := func(device int, attributes ...[]byte) []byte {
		a := join(attributes...)
		b := make([]byte, rtnexthopSize, rtnexthopSize+len(a))
		binary.NativeEndian.PutUint16(b, uint16(rtnexthopSize+len(a)))
		binary.NativeEndian.PutUint32(b[4:], uint32(device))
		return append(b, a...)
	}
	gw := netip.MustParseAddr("192.0.2.254")
	for name, tc := range map[string]struct {
		body []byte
		want route
	}{
		"default with MTU": {
			join(header(unix.AF_INET, 0, unix.RTN_UNICAST, 0), u32(unix.RTA_OIF, 2), addr(unix.RTA_GATEWAY, "192.0.2.254"),
				appendAttribute(nil, unix.RTA_METRICS, join(u32(unix.RTAX_LOCK, 4), u32(unix.RTAX_MTU, 1400)))),
			route{dst: netip.MustParsePrefix("0.0.0.0/0"), kind: unix.RTN_UNICAST, mtu: 1400, hops: []hop{{device: 2, gateway: gw}}},
		},
		"two next hops, one through a lightweight tunnel": {
			join(header(unix.AF_INET6, 64, unix.RTN_UNICAST, 0), addr(unix.RTA_DST, "fd01::"),
				appendAttribute(nil, unix.RTA_MULTIPATH, join(
					nexthop(2, addr(unix.RTA_GATEWAY, "fe80::1")),
					nexthop(3, u16(unix.RTA_ENCAP_TYPE, lwtunnelEncap4), appendAttribute(nil, unix.RTA_ENCAP, addr(lwtunnelDst, "192.0.2.2")))))),
			route{dst: netip.MustParsePrefix("fd01::/64"), kind: unix.RTN_UNICAST, hops: []hop{
				{device: 2, gateway: netip.MustParseAddr("fe80::1")}, {device: 3, remote: netip.MustParseAddr("192.0.2.2")}}},
		},
		"exception": {
			join(header(unix.AF_INET, 32, unix.RTN_UNICAST, unix.RTM_F_CLONED), addr(unix.RTA_DST, "198.51.100.2"), u32(unix.RTA_OIF, 2),
				appendAttribute(nil, unix.RTA_METRICS, u32(unix.RTAX_MTU, 1300))),
			route{dst: netip.MustParsePrefix("198.51.100.2/32"), kind: unix.RTN_UNICAST, flags: unix.RTM_F_CLONED, mtu: 1300, hops: []hop{{device: 2}}},
		},
		"IPv4 by an IPv6 gateway": {
			join(header(unix.AF_INET, 24, unix.RTN_UNICAST, 0), addr(unix.RTA_DST, "10.1.0.0"), u32(unix.RTA_OIF, 2),
				appendAttribute(nil, unix.RTA_VIA, append([]byte{10, 0}, netip.MustParseAddr("fe80::1").AsSlice()...))),
			route{dst: netip.MustParsePrefix("10.1.0.0/24"), kind: unix.RTN_UNICAST, hops: []hop{{device: 2, gateway: netip.MustParseAddr("fe80::1")}}},
		},
		"unreachable": {
			join(header(unix.AF_INET, 8, unix.RTN_UNREACHABLE, 0), addr(unix.RTA_DST, "10.0.0.0")),
			route{dst: netip.MustParsePrefix("10.0.0.0/8"), kind: unix.RTN_UNREACHABLE},
		},
		"encapsulation without an address": {
			join(header(unix.AF_INET, 8, unix.RTN_UNICAST, 0), addr(unix.RTA_DST, "10.0.0.0"), u32(unix.RTA_OIF, 2),
				u16(unix.RTA_ENCAP_TYPE, 1), appendAttribute(nil, unix.RTA_ENCAP, u32(1, 0))),
			route{dst: netip.MustParsePrefix("10.0.0.0/8"), kind: unix.RTN_UNICAST, hops: []hop{{device: 2}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := decodeRoute(tc.body)
			require.NoError(t, err)
			require.Equal(t, tc.want, r)
		})
	}
	_, err := decodeRoute(header(unix.AF_INET, 99, unix.RTN_UNICAST, 0))
	require.ErrorIs(t, err, errMalformed)
}

func TestDecodeWireguard(t *testing.T) {
	in4 := append([]byte{2, 0, 0xca, 0x6c, 192, 0, 2, 7}, make([]byte, 8)...)
	in6 := make([]byte, sockaddrIn6Length)
	binary.NativeEndian.PutUint16(in6, unix.AF_INET6)
	copy(in6[8:], netip.MustParseAddr("2001:db8::7").AsSlice())
	peers := append(
		appendAttribute(nil, 0, appendAttribute(u32(3, 0), wgPeerEndpoint, in4)),
		appendAttribute(nil, 1, appendAttribute(nil, wgPeerEndpoint, in6))...)
	peers = append(peers, appendAttribute(nil, 2, u32(3, 0))...) // no endpoint yet
	var d wireguardDevice
	body := append([]byte{wgGetDevice, wgVersion, 0, 0}, u16(wgDevicePort, 51820)...)
	body = append(body, u32(wgDeviceFwmark, 0xca6c)...)
	body = append(body, appendAttribute(nil, wgDevicePeers, peers)...)
	require.NoError(t, d.decode(body))
	require.Equal(t, wireguardDevice{port: 51820, mark: 0xca6c, endpoints: []netip.Addr{
		netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}, d)
	require.ErrorIs(t, d.decode([]byte{1}), errMalformed)
}
