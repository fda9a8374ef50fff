// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// A tunnel is the configuration of an overlay device, decoded from
// IFLA_INFO_DATA. The zero value means that the device is none.
type tunnel struct {
	// encapsulation is Device.Encapsulation; empty for a device that is no tunnel.
	encapsulation string
	id            uint32
	port          uint16
	local, remote netip.Addr
	// via is the device that outer packets must leave by (IFLA_VXLAN_LINK and its
	// like), in the namespace that the tunnel was created in; 0 for any.
	via             int
	mark            uint32
	df              fragmentation
	collectMetadata bool
	options         overheadOptions
}

// fragmentation is what a tunnel does with the DF bit of an IPv4 outer header.
type fragmentation string

const (
	dfUnset   fragmentation = "unset"
	dfSet     fragmentation = "set"
	dfInherit fragmentation = "inherit"
)

// Numbers of include/uapi/linux/if_link.h and if_tunnel.h, 6.18; enumerators are
// never renumbered there.
const (
	vxlanID              = 1
	vxlanGroup           = 2
	vxlanLink            = 3
	vxlanLocal           = 4
	vxlanPort            = 15
	vxlanGroup6          = 16
	vxlanLocal6          = 17
	vxlanCollectMetadata = 25
	vxlanGPE             = 27
	vxlanDF              = 29

	geneveID                = 1
	geneveRemote            = 2
	genevePort              = 5
	geneveCollectMetadata   = 6
	geneveRemote6           = 7
	geneveDF                = 13
	geneveInnerProtoInherit = 14

	iptunLink            = 1
	iptunLocal           = 2
	iptunRemote          = 3
	iptunFlags           = 8
	iptunPMTUDiscovery   = 10
	iptunEncapType       = 15
	iptunEncapFlags      = 16
	iptunEncapDport      = 18
	iptunCollectMetadata = 19
	iptunFwmark          = 20

	greLink            = 1
	greOutFlags        = 3
	greOutKey          = 5
	greLocal           = 6
	greRemote          = 7
	grePMTUDiscovery   = 10
	greFlags           = 13
	greEncapType       = 14
	greEncapFlags      = 15
	greEncapDport      = 17
	greCollectMetadata = 18
	greIgnoreDF        = 19
	greFwmark          = 20

	greFlagChecksum = 0x8000
	greFlagKey      = 0x2000
	greFlagSequence = 0x1000

	encapNone               = 0
	encapFOU                = 1
	encapGUE                = 2
	encapFlagRemoteChecksum = 4

	// ignoreEncapLimit is IP6_TNL_F_IGN_ENCAP_LIMIT of ip6_tunnel.h: no destination
	// option with the tunnel encapsulation limit (RFC 2473 §4.1.1) is added.
	ignoreEncapLimit = 1

	hardwareNone = 0xfffe // ARPHRD_NONE: a device without Ethernet header.
)

// decodeTunnel reads the IFLA_INFO_DATA of a device kind. Kinds that are no
// tunnels, or whose overhead no table gives, yield the zero value.
func decodeTunnel(kind string, hardware uint16, data []byte) (tunnel, error) {
	t := tunnel{encapsulation: kind, df: dfUnset}
	switch kind {
	case "vxlan":
		return t, t.decodeVXLAN(data)
	case "geneve":
		if hardware == hardwareNone {
			t.options.layer3 = true
		}
		return t, t.decodeGeneve(data)
	case "ipip", "sit", "ip6tnl":
		return t, t.decodeIPTunnel(data)
	case "gre", "gretap", "ip6gre", "ip6gretap":
		return t, t.decodeGRE(data)
	case "wireguard":
		// Its configuration is not in the link message but in generic netlink.
		return t, nil
	}
	return tunnel{}, nil
}

func (t *tunnel) decodeVXLAN(data []byte) error {
	return eachAttribute(data, func(kind uint16, v []byte) error {
		switch kind {
		case vxlanID:
			t.id = attrUint32(v)
		case vxlanGroup, vxlanGroup6:
			t.remote = attrAddr(v)
		case vxlanLocal, vxlanLocal6:
			t.local = attrAddr(v)
		case vxlanLink:
			t.via = int(attrUint32(v))
		case vxlanPort:
			t.port = attrPort(v)
		case vxlanCollectMetadata:
			t.collectMetadata = attrUint8(v) != 0
		case vxlanGPE:
			t.encapsulation = "vxlan-gpe"
			t.options.layer3 = true
		case vxlanDF:
			t.df = fragmentationOf(attrUint8(v))
		}
		return nil
	})
}

// fragmentationOf reads enum ifla_vxlan_df and ifla_geneve_df, which agree.
func fragmentationOf(v uint8) fragmentation {
	switch v {
	case 1:
		return dfSet
	case 2:
		return dfInherit
	}
	return dfUnset
}

func (t *tunnel) decodeGeneve(data []byte) error {
	return eachAttribute(data, func(kind uint16, v []byte) error {
		switch kind {
		case geneveID:
			t.id = attrUint32(v)
		case geneveRemote, geneveRemote6:
			t.remote = attrAddr(v)
		case genevePort:
			t.port = attrPort(v)
		case geneveCollectMetadata:
			t.collectMetadata = true // a flag: its presence is its value
		case geneveDF:
			t.df = fragmentationOf(attrUint8(v))
		case geneveInnerProtoInherit:
			t.options.layer3 = true
		}
		return nil
	})
}

func (t *tunnel) decodeIPTunnel(data []byte) error {
	// ip6tnl adds the encapsulation limit unless told not to; its kernels always
	// send the flags.
	t.options.encapLimit = t.encapsulation == "ip6tnl"
	if t.encapsulation != "ip6tnl" {
		t.df = dfInherit
	}
	return eachAttribute(data, func(kind uint16, v []byte) error {
		switch kind {
		case iptunLink:
			t.via = int(attrUint32(v))
		case iptunLocal:
			t.local = attrAddr(v)
		case iptunRemote:
			t.remote = attrAddr(v)
		case iptunFlags:
			if t.encapsulation == "ip6tnl" {
				t.options.encapLimit = attrUint32(v)&ignoreEncapLimit == 0
			}
		case iptunPMTUDiscovery:
			// With discovery every outer packet has DF; without, it takes that of
			// the inner one (ip_tunnel_xmit, net/ipv4/ip_tunnel.c).
			if attrUint8(v) != 0 {
				t.df = dfSet
			}
		case iptunEncapType:
			t.setEncap(attrUint16(v))
		case iptunEncapFlags:
			t.options.remoteChecksum = attrUint16(v)&encapFlagRemoteChecksum != 0
		case iptunEncapDport:
			t.port = attrPort(v)
		case iptunCollectMetadata:
			t.collectMetadata = true
		case iptunFwmark:
			t.mark = attrUint32(v)
		}
		return nil
	})
}

func (t *tunnel) decodeGRE(data []byte) error {
	v6 := t.encapsulation == "ip6gre" || t.encapsulation == "ip6gretap"
	t.options.encapLimit = v6
	if !v6 {
		t.df = dfInherit
	}
	ignoreDF := false
	err := eachAttribute(data, func(kind uint16, v []byte) error {
		switch kind {
		case greLink:
			t.via = int(attrUint32(v))
		case greOutFlags:
			flags := attrPort(v) // __be16
			t.options.greChecksum = flags&greFlagChecksum != 0
			t.options.greKey = flags&greFlagKey != 0
			t.options.greSequence = flags&greFlagSequence != 0
		case greOutKey:
			t.id = attrBig32(v)
		case greLocal:
			t.local = attrAddr(v)
		case greRemote:
			t.remote = attrAddr(v)
		case grePMTUDiscovery:
			if attrUint8(v) != 0 {
				t.df = dfSet
			}
		case greFlags:
			if v6 {
				t.options.encapLimit = attrUint32(v)&ignoreEncapLimit == 0
			}
		case greEncapType:
			t.setEncap(attrUint16(v))
		case greEncapFlags:
			t.options.remoteChecksum = attrUint16(v)&encapFlagRemoteChecksum != 0
		case greEncapDport:
			t.port = attrPort(v)
		case greCollectMetadata:
			t.collectMetadata = true
		case greIgnoreDF:
			ignoreDF = attrUint8(v) != 0
		case greFwmark:
			t.mark = attrUint32(v)
		}
		return nil
	})
	if ignoreDF {
		t.df = dfUnset
	}
	return err
}

func (t *tunnel) setEncap(v uint16) {
	switch v {
	case encapFOU:
		t.options.encap = encapFOU
	case encapGUE:
		t.options.encap = encapGUE
	default:
		t.options.encap = encapNone
	}
}

// udpPort is the destination port of the device: for IP-in-UDP it counts only when the
// encapsulation is switched on, for the attribute is always sent.
func (t *tunnel) udpPort() uint16 {
	switch t.encapsulation {
	case "vxlan", "vxlan-gpe", "geneve", "wireguard":
		return t.port
	}
	if t.options.encap != encapNone {
		return t.port
	}
	return 0
}

// family is the outer address family that the kind fixes, or that the
// configured addresses show; 0 when neither does.
func (t *tunnel) family() int {
	switch t.encapsulation {
	case "ipip", "sit", "gre", "gretap":
		return unix.AF_INET
	case "ip6tnl", "ip6gre", "ip6gretap":
		return unix.AF_INET6
	}
	for _, a := range []netip.Addr{t.remote, t.local} {
		if a.IsValid() {
			return familyOf(a)
		}
	}
	return 0
}

func familyOf(a netip.Addr) int {
	if a.Unmap().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "ipv6"
	}
	return "ipv4"
}
