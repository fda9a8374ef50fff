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

// linkMessage builds the body of an RTM_NEWLINK message as the kernel lays it
// out: struct ifinfomsg and attributes.
func linkMessage(index int, name, kind string, hardware uint16, attributes ...[]byte) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(b[2:], hardware)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	b = appendAttribute(b, unix.IFLA_IFNAME, append([]byte(name), 0))
	b = appendUint32Attribute(b, unix.IFLA_MTU, 1400)
	info := appendAttribute(nil, unix.IFLA_INFO_KIND, append([]byte(kind), 0))
	for _, a := range attributes {
		info = append(info, a...)
	}
	return appendAttribute(b, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info)
}

// data is IFLA_INFO_DATA with attributes.
func data(attributes ...[]byte) []byte {
	var b []byte
	for _, a := range attributes {
		b = append(b, a...)
	}
	return appendAttribute(nil, unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, b)
}

func u8(kind uint16, v uint8) []byte   { return appendAttribute(nil, kind, []byte{v}) }
func u32(kind uint16, v uint32) []byte { return appendUint32Attribute(nil, kind, v) }
func flag(kind uint16) []byte          { return appendAttribute(nil, kind, nil) }
func u16(kind, v uint16) []byte {
	return appendAttribute(nil, kind, binary.NativeEndian.AppendUint16(nil, v))
}
func be16(kind, v uint16) []byte {
	return appendAttribute(nil, kind, binary.BigEndian.AppendUint16(nil, v))
}
func be32(kind uint16, v uint32) []byte {
	return appendAttribute(nil, kind, binary.BigEndian.AppendUint32(nil, v))
}
func addr(kind uint16, a string) []byte {
	return appendAttribute(nil, kind, netip.MustParseAddr(a).AsSlice())
}

// Kinds of devices, most of which the development kernel cannot make. Attribute
// numbers and widths are those that the kernel's fill_info functions put:
// vxlan_fill_info, geneve_fill_info, ipip_tunnel_fill_info, ipip6_fill_info,
// ip6_tnl_fill_info, ipgre_fill_info, ip6gre_fill_info (6.18).
func TestDecodeTunnels(t *testing.T) {
	remote4, remote6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	for name, tc := range map[string]struct {
		kind     string
		hardware uint16
		data     []byte
		want     tunnel
		overhead int
	}{
		"vxlan": {
			kind: "vxlan", hardware: unix.ARPHRD_ETHER,
			data: data(u32(vxlanID, 42), addr(vxlanGroup, "192.0.2.2"), u32(vxlanLink, 2), addr(vxlanLocal, "192.0.2.1"),
				be16(vxlanPort, 4789), u8(vxlanCollectMetadata, 0), u8(vxlanDF, 1)),
			want:     tunnel{encapsulation: "vxlan", id: 42, port: 4789, remote: remote4, local: netip.MustParseAddr("192.0.2.1"), via: 2, df: dfSet},
			overhead: 50,
		},
		"vxlan that inherits DF": {
			kind: "vxlan", hardware: unix.ARPHRD_ETHER,
			data:     data(addr(vxlanGroup6, "2001:db8::2"), u8(vxlanDF, 2)),
			want:     tunnel{encapsulation: "vxlan", remote: remote6, df: dfInherit},
			overhead: 70,
		},
		"vxlan-gpe": {
			kind: "vxlan", hardware: hardwareNone,
			data: data(u32(vxlanID, 42), addr(vxlanGroup, "192.0.2.2"), be16(vxlanPort, 4790), flag(vxlanGPE)),
			want: tunnel{encapsulation: "vxlan-gpe", id: 42, port: 4790, remote: remote4, df: dfUnset,
				options: overheadOptions{layer3: true}},
			overhead: 36,
		},
		"vxlan that collects metadata": {
			kind: "vxlan", hardware: unix.ARPHRD_ETHER,
			data:     data(u32(vxlanID, 0), u8(vxlanCollectMetadata, 1), be16(vxlanPort, 8472)),
			want:     tunnel{encapsulation: "vxlan", port: 8472, collectMetadata: true, df: dfUnset},
			overhead: 50,
		},
		"geneve": {
			kind: "geneve", hardware: unix.ARPHRD_ETHER,
			data:     data(u32(geneveID, 5), addr(geneveRemote, "192.0.2.2"), be16(genevePort, 6081), u8(geneveDF, 1)),
			want:     tunnel{encapsulation: "geneve", id: 5, port: 6081, remote: remote4, df: dfSet},
			overhead: 50,
		},
		"geneve over IPv6 without inner Ethernet": {
			kind: "geneve", hardware: hardwareNone,
			data:     data(u32(geneveID, 5), addr(geneveRemote6, "2001:db8::2"), be16(genevePort, 6081), flag(geneveInnerProtoInherit)),
			want:     tunnel{encapsulation: "geneve", id: 5, port: 6081, remote: remote6, df: dfUnset, options: overheadOptions{layer3: true}},
			overhead: 56,
		},
		"geneve that collects metadata": {
			kind: "geneve", hardware: unix.ARPHRD_ETHER,
			data:     data(flag(geneveCollectMetadata), be16(genevePort, 6081)),
			want:     tunnel{encapsulation: "geneve", port: 6081, collectMetadata: true, df: dfUnset},
			overhead: 50,
		},
		"ipip": {
			kind: "ipip", hardware: unix.ARPHRD_TUNNEL,
			data:     data(u32(iptunLink, 2), addr(iptunRemote, "192.0.2.2"), u8(iptunPMTUDiscovery, 1), u16(iptunEncapType, 0), be16(iptunEncapDport, 0)),
			want:     tunnel{encapsulation: "ipip", remote: remote4, via: 2, df: dfSet},
			overhead: 20,
		},
		"ipip to any remote, without path MTU discovery": {
			kind: "ipip", hardware: unix.ARPHRD_TUNNEL,
			data:     data(addr(iptunRemote, "0.0.0.0"), u8(iptunPMTUDiscovery, 0), u32(iptunFwmark, 9)),
			want:     tunnel{encapsulation: "ipip", df: dfInherit, mark: 9},
			overhead: 20,
		},
		"sit in FOU": {
			kind: "sit", hardware: unix.ARPHRD_SIT,
			data:     data(addr(iptunRemote, "192.0.2.2"), u8(iptunPMTUDiscovery, 1), u16(iptunEncapType, 1), be16(iptunEncapDport, 5555)),
			want:     tunnel{encapsulation: "sit", remote: remote4, df: dfSet, port: 5555, options: overheadOptions{encap: encapFOU}},
			overhead: 28,
		},
		"ipip in GUE with remote checksum offload": {
			kind: "ipip", hardware: unix.ARPHRD_TUNNEL,
			data: data(addr(iptunRemote, "192.0.2.2"), u16(iptunEncapType, 2), u16(iptunEncapFlags, 4), be16(iptunEncapDport, 6080)),
			want: tunnel{encapsulation: "ipip", remote: remote4, df: dfInherit, port: 6080,
				options: overheadOptions{encap: encapGUE, remoteChecksum: true}},
			overhead: 40,
		},
		"ip6tnl with encapsulation limit": {
			kind: "ip6tnl", hardware: unix.ARPHRD_TUNNEL6,
			data:     data(addr(iptunRemote, "2001:db8::2"), u32(iptunFlags, 0)),
			want:     tunnel{encapsulation: "ip6tnl", remote: remote6, df: dfUnset, options: overheadOptions{encapLimit: true}},
			overhead: 48,
		},
		"ip6tnl without": {
			kind: "ip6tnl", hardware: unix.ARPHRD_TUNNEL6,
			data:     data(addr(iptunRemote, "2001:db8::2"), u32(iptunFlags, 1)),
			want:     tunnel{encapsulation: "ip6tnl", remote: remote6, df: dfUnset},
			overhead: 40,
		},
		"gre": {
			kind: "gre", hardware: unix.ARPHRD_IPGRE,
			data:     data(be16(greOutFlags, 0), addr(greRemote, "192.0.2.2"), u8(grePMTUDiscovery, 1), u8(greIgnoreDF, 0)),
			want:     tunnel{encapsulation: "gre", remote: remote4, df: dfSet},
			overhead: 24,
		},
		"gre with checksum, key and sequence": {
			kind: "gre", hardware: unix.ARPHRD_IPGRE,
			data: data(be16(greOutFlags, 0xb000), be32(greOutKey, 77), addr(greRemote, "192.0.2.2"), u8(grePMTUDiscovery, 0)),
			want: tunnel{encapsulation: "gre", id: 77, remote: remote4, df: dfInherit,
				options: overheadOptions{greChecksum: true, greKey: true, greSequence: true}},
			overhead: 36,
		},
		"gretap that ignores DF": {
			kind: "gretap", hardware: unix.ARPHRD_ETHER,
			data:     data(addr(greRemote, "192.0.2.2"), u8(grePMTUDiscovery, 0), u8(greIgnoreDF, 1)),
			want:     tunnel{encapsulation: "gretap", remote: remote4, df: dfUnset},
			overhead: 38,
		},
		"gre that collects metadata": {
			kind: "gre", hardware: unix.ARPHRD_IPGRE,
			data:     data(flag(greCollectMetadata), u8(grePMTUDiscovery, 1), u32(greFwmark, 3)),
			want:     tunnel{encapsulation: "gre", df: dfSet, collectMetadata: true, mark: 3},
			overhead: 24,
		},
		"ip6gre": {
			kind: "ip6gre", hardware: unix.ARPHRD_IP6GRE,
			data:     data(addr(greRemote, "2001:db8::2"), u32(greFlags, 1)),
			want:     tunnel{encapsulation: "ip6gre", remote: remote6, df: dfUnset},
			overhead: 44,
		},
		"ip6gretap with encapsulation limit": {
			kind: "ip6gretap", hardware: unix.ARPHRD_ETHER,
			data:     data(addr(greRemote, "2001:db8::2"), u32(greFlags, 0)),
			want:     tunnel{encapsulation: "ip6gretap", remote: remote6, df: dfUnset, options: overheadOptions{encapLimit: true}},
			overhead: 66,
		},
		"wireguard": {
			kind: "wireguard", hardware: hardwareNone,
			want:     tunnel{encapsulation: "wireguard", df: dfUnset},
			overhead: 60,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := decodeLink(linkMessage(9, "t0", tc.kind, tc.hardware, tc.data))
			require.NoError(t, err)
			require.Equal(t, 9, l.index)
			require.Equal(t, "t0", l.name)
			require.Equal(t, tc.kind, l.kind)
			require.Equal(t, 1400, l.mtu)
			require.Equal(t, tc.want, l.tunnel)
			family := unix.AF_INET
			if f := l.tunnel.family(); f != 0 {
				family = f
			}
			n, err := overhead(l.tunnel.encapsulation, family, l.tunnel.options)
			require.NoError(t, err)
			require.Equal(t, tc.overhead, n)
		})
	}
}

func TestUDPPortCountsOnlyWhereThereIsUDP(t *testing.T) {
	plain := tunnel{encapsulation: "ipip", port: 5555}
	require.Zero(t, plain.udpPort())
	plain.options.encap = encapFOU
	require.Equal(t, uint16(5555), plain.udpPort())
	geneve := tunnel{encapsulation: "geneve", port: 6081}
	require.Equal(t, uint16(6081), geneve.udpPort())
}

func TestDecodeLinkReadsWhatIsBelow(t *testing.T) {
	vlan := linkMessage(5, "eth0.7", "vlan", unix.ARPHRD_ETHER, data(u16(1, 7)))
	vlan = append(vlan, u32(unix.IFLA_LINK, 2)...)
	l, err := decodeLink(vlan)
	require.NoError(t, err)
	require.Equal(t, 2, l.link)
	require.EqualValues(t, noNetnsid, l.linkNetnsid)

	macvlan := append(linkMessage(6, "mv0", "macvlan", unix.ARPHRD_ETHER, data(u32(1, 4))), u32(unix.IFLA_LINK, 2)...)
	l, err = decodeLink(append(macvlan, u32(unix.IFLA_LINK_NETNSID, 0)...))
	require.NoError(t, err)
	require.EqualValues(t, 0, l.linkNetnsid)

	l, err = decodeLink(linkMessage(7, "bond0", "bond", unix.ARPHRD_ETHER, data(u8(iflaBondMode, 1), u32(iflaBondActiveSlave, 3))))
	require.NoError(t, err)
	require.Equal(t, bond{mode: bondActiveBackup, activeSlave: 3}, l.bond)

	slave := linkMessage(3, "eth1", "", unix.ARPHRD_ETHER,
		appendAttribute(nil, unix.IFLA_INFO_SLAVE_KIND, []byte("bond\x00")),
		appendAttribute(nil, unix.IFLA_INFO_SLAVE_DATA, u8(iflaBondSlaveState, 1)))
	l, err = decodeLink(append(slave, u32(unix.IFLA_MASTER, 7)...))
	require.NoError(t, err)
	require.True(t, l.backupSlave)
	require.Equal(t, 7, l.master)

	l, err = decodeLink(linkMessage(8, "ms0", "macsec", unix.ARPHRD_ETHER, data(u8(iflaMacsecICVLen, 16))))
	require.NoError(t, err)
	require.Equal(t, macsec{icvBytes: 16}, l.macsec)
}

func TestDecodeLinkReadsCounters(t *testing.T) {
	stats := make([]byte, 8*25)
	for i := range 25 {
		binary.NativeEndian.PutUint64(stats[8*i:], uint64(100+i))
	}
	body := append(linkMessage(2, "eth0", "", unix.ARPHRD_ETHER), appendAttribute(nil, unix.IFLA_STATS64, stats)...)
	l, err := decodeLink(body)
	require.NoError(t, err)
	require.True(t, l.hasStats)
	require.Equal(t, counters{rxDropped: 106, txDropped: 107, rxNohandler: 123}, l.stats)

	// A kernel before 4.6 has no rx_nohandler.
	body = append(linkMessage(2, "eth0", "", unix.ARPHRD_ETHER), appendAttribute(nil, unix.IFLA_STATS64, stats[:8*23])...)
	l, err = decodeLink(body)
	require.NoError(t, err)
	require.Equal(t, counters{rxDropped: 106, txDropped: 107}, l.stats)
}

func TestUpNeedsFlagAndOperationalState(t *testing.T) {
	for name, tc := range map[string]struct {
		flags uint32
		state uint8
		want  bool
	}{
		"up":                               {unix.IFF_UP, 6, true},
		"up, driver without a state":       {unix.IFF_UP, 0, true},
		"up, dormant":                      {unix.IFF_UP, 5, true},
		"up, no carrier":                   {unix.IFF_UP, operDown, false},
		"up, lower device down":            {unix.IFF_UP, operLowerLayerDown, false},
		"set down though the link is fine": {0, 6, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := rawLink{flags: tc.flags, operState: tc.state}
			require.Equal(t, tc.want, l.up())
		})
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	_, err := decodeLink(make([]byte, unix.SizeofIfInfomsg-1))
	require.ErrorIs(t, err, errMalformed)
	body := linkMessage(2, "eth0", "vxlan", unix.ARPHRD_ETHER, data(u32(vxlanID, 1)))
	// Inside the name, the MTU, and the tunnel's id.
	for _, cut := range []int{unix.SizeofIfInfomsg + 6, unix.SizeofIfInfomsg + 18, len(body) - 2} {
		_, err := decodeLink(body[:cut])
		require.ErrorIs(t, err, errMalformed, "cut at %d", cut)
	}
	_, err = decodeRoute(make([]byte, rtmsgSize-1))
	require.ErrorIs(t, err, errMalformed)
	_, _, _, err = decodeFDB(make([]byte, ndmsgSize-1))
	require.ErrorIs(t, err, errMalformed)
}

func FuzzDecode(f *testing.F) {
	f.Add(linkMessage(9, "vx", "vxlan", 1, data(u32(vxlanID, 42), addr(vxlanGroup, "192.0.2.2"), be16(vxlanPort, 4789), u8(vxlanDF, 1))))
	f.Add(linkMessage(9, "g", "gre", 778, data(be16(greOutFlags, 0xb000), addr(greRemote, "192.0.2.2"))))
	f.Add(linkMessage(9, "b", "bond", 1, data(u8(iflaBondMode, 1), u32(iflaBondActiveSlave, 3))))
	f.Add(append(make([]byte, rtmsgSize), appendAttribute(nil, unix.RTA_METRICS, u32(unix.RTAX_MTU, 1300))...))
	f.Add(append(make([]byte, rtmsgSize), appendAttribute(nil, unix.RTA_MULTIPATH, []byte{8, 0, 0, 0, 2, 0, 0, 0})...))
	f.Add([]byte{0, 0, 0, 0, 3, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decodeLink(b); err == nil {
			// What was decoded can be reasoned about.
			_ = isOverlay(&l)
			_ = l.tunnel.family()
			_ = l.tunnel.udpPort()
		}
		if r, err := decodeRoute(b); err == nil {
			require.True(t, r.dst.IsValid())
			_ = carriesTraffic(&r)
			_ = candidates(r.dst)
		}
		_, _, _, _ = decodeFDB(b)
		_ = (&wireguardDevice{}).decode(b)
		_ = matters(b)
		c := conn{sequence: 1}
		var first error
		_, _ = c.messages(b, func(m message) error { return nil }, &first)
	})
}
