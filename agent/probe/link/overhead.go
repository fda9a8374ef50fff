// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// overheadOptions are the parts of a tunnel's configuration that change the size
// of its header.
type overheadOptions struct {
	// layer3 is VXLAN-GPE or Geneve with inner protocol inherited: no inner
	// Ethernet header.
	layer3 bool
	// innerVLAN is true when inner frames carry an 802.1Q tag.
	innerVLAN bool
	// GRE fields (RFC 2784 §2.1, RFC 2890 §2), 4 bytes each.
	greChecksum, greKey, greSequence bool
	// encapLimit is the IPv6 destination option with the tunnel encapsulation
	// limit (RFC 2473 §4.1.1): 8 bytes.
	encapLimit bool
	// encap is UDP put between the outer IP header and the tunnel's own.
	encap uint16
	// remoteChecksum is GUE's remote checksum offload option.
	remoteChecksum bool
}

// Sizes of headers in bytes.
const (
	ipv4Header     = 20 // RFC 791 §3.1, without options: the kernel adds none
	ipv6Header     = 40 // RFC 8200 §3
	udpHeader      = 8  // RFC 768
	ethernetHeader = 14 // IEEE 802.3: ETH_HLEN
	vlanTag        = 4  // IEEE 802.1Q: VLAN_HLEN
	vxlanHeader    = 8  // RFC 7348 §5: struct vxlanhdr
	geneveHeader   = 8  // RFC 8926 §3.4: struct genevehdr, without options
	greHeader      = 4  // RFC 2784 §2.1: struct gre_base_hdr
	greField       = 4  // each of checksum with reserved1, key, sequence
	gueHeader      = 4  // struct guehdr
	// gueRemoteChecksum is GUE_LEN_PRIV + GUE_PLEN_REMCSUM (include/net/gue.h).
	gueRemoteChecksum = 8
	// encapLimitOption is a destination options header with that one option,
	// padded (RFC 2473 §4.1.1; ip6_tnl_xmit: mtu -= 8).
	encapLimitOption = 8
	// wireguardData is struct message_data without its payload (16) and the
	// Poly1305 tag (16): drivers/net/wireguard/messages.h. Padding is capped at
	// the device MTU (send.c, calculate_skb_padding), so it never adds.
	wireguardData = 32
	// macsecHeader is MACSEC_TAG_LEN + MACSEC_SCI_LEN + ethertype: what
	// macsec_extra_len(true) reserves whatever the device sends.
	macsecHeader = 16
	// macsecDefaultICV is DEFAULT_ICV_LEN of if_macsec.h.
	macsecDefaultICV = 16
)

// overhead is how many bytes smaller the largest inner layer 3 packet is than
// the largest outer one: everything that the tunnel puts between the two IP
// headers, and the outer one itself.
//
//	encapsulation     over IPv4  over IPv6  source (net/, drivers/net/, 5.10 to 6.18)
//	vxlan             50         70         vxlan_headroom()
//	vxlan-gpe         36         56         vxlan_headroom(): no ETH_HLEN for layer 3 payload
//	geneve            50 + opts  70 + opts  GENEVE_IPV4_HLEN, GENEVE_IPV6_HLEN
//	ipip, sit         20         –          t_hlen = hlen + sizeof(struct iphdr)
//	ip6tnl            –          40         +8 with encapsulation limit: ip6_tnl_xmit()
//	gre, ip6gre       24         44         ip_gre.c, ip6_gre.c: +4 each for checksum, key, sequence
//	gretap, ip6gretap 38         58         the same and ETH_HLEN; +8 with encapsulation limit
//	fou on top        +8         +8         fou_encap_hlen()
//	gue on top        +12        +12        gue_encap_hlen(): +8 with remote checksum offload
//	wireguard         60         80         32 message, 8 UDP, and IP
//	inner 802.1Q tag  +4         +4         not in vxlan_headroom()
//
// Geneve options that a packet's metadata adds are in no configuration; they
// belong to collect-metadata devices, of which no overhead is reported.
func overhead(encapsulation string, family int, o overheadOptions) (int, error) {
	ip := ipv4Header
	if family == unix.AF_INET6 {
		ip = ipv6Header
	}
	n := ip
	switch encapsulation {
	case "vxlan", "vxlan-gpe":
		n += udpHeader + vxlanHeader + innerEthernet(o)
	case "geneve":
		n += udpHeader + geneveHeader + innerEthernet(o)
	case "ipip", "sit":
		if family != unix.AF_INET {
			return 0, fmt.Errorf("%s has no %s outer header", encapsulation, familyName(family))
		}
	case "ip6tnl":
		if family != unix.AF_INET6 {
			return 0, fmt.Errorf("%s has no %s outer header", encapsulation, familyName(family))
		}
	case "gre", "ip6gre":
		n += greBytes(o)
	case "gretap", "ip6gretap":
		n += greBytes(o) + innerEthernet(o)
	case "wireguard":
		return n + udpHeader + wireguardData, nil
	default:
		return 0, fmt.Errorf("no overhead is known for encapsulation %q", encapsulation)
	}
	if family == unix.AF_INET6 && o.encapLimit {
		n += encapLimitOption
	}
	switch o.encap {
	case encapFOU:
		n += udpHeader
	case encapGUE:
		n += udpHeader + gueHeader
		if o.remoteChecksum {
			n += gueRemoteChecksum
		}
	}
	return n, nil
}

func innerEthernet(o overheadOptions) int {
	switch {
	case o.layer3:
		return 0
	case o.innerVLAN:
		return ethernetHeader + vlanTag
	}
	return ethernetHeader
}

func greBytes(o overheadOptions) int {
	n := greHeader
	for _, set := range []bool{o.greChecksum, o.greKey, o.greSequence} {
		if set {
			n += greField
		}
	}
	return n
}

// macsecOverhead is what macsec_newlink() and macsec_change_mtu() take off the
// MTU of the device below: always with SCI, 32 bytes for the 16-byte ICV of
// every cipher suite of IEEE 802.1AE.
func macsecOverhead(icvBytes int) int {
	if icvBytes == 0 {
		icvBytes = macsecDefaultICV
	}
	return macsecHeader + icvBytes
}
