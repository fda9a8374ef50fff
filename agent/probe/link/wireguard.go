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

// wireguardDevice is what generic netlink says of a WireGuard device. Keys are
// passed over.
type wireguardDevice struct {
	port      uint16
	mark      uint32
	endpoints []netip.Addr
}

// Numbers of include/uapi/linux/genetlink.h and wireguard.h.
const (
	genlHeader        = 4
	genlControlID     = 0x10 // GENL_ID_CTRL
	ctrlGetFamily     = 3
	ctrlAttrFamilyID  = 1
	ctrlAttrName      = 2
	wgGetDevice       = 0
	wgVersion         = 1
	wgDeviceIfindex   = 1
	wgDevicePort      = 6
	wgDeviceFwmark    = 7
	wgDevicePeers     = 8
	wgPeerEndpoint    = 4
	sockaddrIn4Length = 16
	sockaddrIn6Length = 28
)

// readWireguard reads the endpoints of one device; c is a conn of
// NETLINK_GENERIC in the device's namespace. It needs NET_ADMIN.
func readWireguard(c *conn, ifindex int) (wireguardDevice, error) {
	payload := appendAttribute([]byte{ctrlGetFamily, 1, 0, 0}, ctrlAttrName, []byte("wireguard\x00"))
	m, ok, err := c.ask(genlControlID, 0, payload)
	if err != nil || !ok || len(m.body) < genlHeader {
		return wireguardDevice{}, fmt.Errorf("find the wireguard netlink family: %w", orMissing(err))
	}
	var family uint16
	err = eachAttribute(m.body[genlHeader:], func(kind uint16, v []byte) error {
		if kind == ctrlAttrFamilyID {
			family = attrUint16(v)
		}
		return nil
	})
	if err != nil || family == 0 {
		return wireguardDevice{}, fmt.Errorf("find the wireguard netlink family: %w", orMissing(err))
	}
	var d wireguardDevice
	payload = appendUint32Attribute([]byte{wgGetDevice, wgVersion, 0, 0}, wgDeviceIfindex, uint32(ifindex))
	err = c.dump(family, payload, func() { d = wireguardDevice{} }, func(m message) error {
		return d.decode(m.body)
	})
	if err != nil {
		return wireguardDevice{}, fmt.Errorf("read wireguard device %d: %w", ifindex, err)
	}
	return d, nil
}

func orMissing(err error) error {
	if err == nil {
		return errors.New("the kernel gave none")
	}
	return err
}

// decode adds one message; a device with many peers comes in several.
func (d *wireguardDevice) decode(body []byte) error {
	if len(body) < genlHeader {
		return errMalformed
	}
	return eachAttribute(body[genlHeader:], func(kind uint16, v []byte) error {
		switch kind {
		case wgDevicePort:
			d.port = attrUint16(v) // host order, unlike other tunnels'
		case wgDeviceFwmark:
			d.mark = attrUint32(v)
		case wgDevicePeers:
			return eachAttribute(v, func(_ uint16, peer []byte) error {
				return eachAttribute(peer, func(kind uint16, v []byte) error {
					if kind == wgPeerEndpoint {
						if a := sockaddr(v); a.IsValid() {
							d.endpoints = append(d.endpoints, a)
						}
					}
					return nil
				})
			})
		}
		return nil
	})
}

// sockaddr reads the address of a struct sockaddr_in or sockaddr_in6.
func sockaddr(v []byte) netip.Addr {
	if len(v) < 2 {
		return netip.Addr{}
	}
	switch family := binary.NativeEndian.Uint16(v); {
	case family == unix.AF_INET && len(v) >= sockaddrIn4Length:
		return attrAddr(v[4:8])
	case family == unix.AF_INET6 && len(v) >= sockaddrIn6Length:
		return attrAddr(v[8:24])
	}
	return netip.Addr{}
}
