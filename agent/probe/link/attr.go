// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// errMalformed means that a netlink attribute claims more bytes than there are.
// The kernel never sends one; a decoder that met one has lost its place, so the
// message is refused whole.
var errMalformed = errors.New("malformed netlink attribute")

const (
	attributeHeader = 4
	// attributeTypeMask drops NLA_F_NESTED and NLA_F_NET_BYTEORDER
	// (include/uapi/linux/netlink.h).
	attributeTypeMask = 0x3fff
)

// eachAttribute calls fn for every attribute of b, in order, until fn fails.
// Up to three bytes after the last attribute are alignment.
func eachAttribute(b []byte, fn func(kind uint16, value []byte) error) error {
	for len(b) >= attributeHeader {
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & attributeTypeMask
		if size < attributeHeader || size > len(b) {
			return errMalformed
		}
		if err := fn(kind, b[attributeHeader:size]); err != nil {
			return err
		}
		b = b[min(align4(size), len(b)):]
	}
	return nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// appendAttribute adds one attribute with its padding to b.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attributeHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendUint32Attribute(b []byte, kind uint16, v uint32) []byte {
	return appendAttribute(b, kind, binary.NativeEndian.AppendUint32(nil, v))
}

// The readers below return zero for a value shorter than its type, which is what
// the kernel means by leaving an attribute out.

func attrUint8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

func attrUint16(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(v)
}

func attrUint32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// attrPort reads a port, which is in network order on the wire.
func attrPort(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

func attrBig32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

// attrText reads a string that the kernel ends with a zero byte.
func attrText(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}

// attrAddr reads an address of 4 or 16 bytes; the unspecified address, by which
// tunnels say "any", reads as no address.
func attrAddr(v []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(v)
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
