// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// rawLink is what one RTM_NEWLINK message says, as far as this probe needs it.
type rawLink struct {
	index     int
	hardware  uint16 // ARPHRD_…
	flags     uint32 // IFF_…
	operState uint8  // RFC 2863 IF_OPER_…
	name      string
	mtu       int
	// link is IFLA_LINK: the device below, or the peer of a pair. hasLink tells
	// "none" from a kernel that did not say.
	link    int
	hasLink bool
	// linkNetnsid is the id, as the asking namespace knows it, of the namespace
	// that link is a number in; noNetnsid when it is the device's own.
	linkNetnsid int32
	master      int
	kind        string // IFLA_INFO_KIND; empty for plain hardware
	// backupSlave is true for a port of a bond that its bond does not use.
	backupSlave bool
	hasStats    bool
	stats       counters
	tunnel      tunnel
	bond        bond
	macsec      macsec
}

type counters struct {
	rxDropped, txDropped, rxNohandler uint64
}

type bond struct {
	mode        uint8
	activeSlave int
}

// bondActiveBackup is BOND_MODE_ACTIVEBACKUP (include/uapi/linux/if_bonding.h).
const bondActiveBackup = 1

type macsec struct {
	icvBytes int
}

const noNetnsid = -1

// Numbers of include/uapi/linux/if_link.h that golang.org/x/sys/unix lacks or
// that are clearer beside their use.
const (
	iflaBondMode        = 1
	iflaBondActiveSlave = 2

	iflaBondSlaveState = 1
	bondStateBackup    = 1

	iflaMacsecICVLen = 3

	operDown           = 2 // IF_OPER_DOWN
	operNotPresent     = 1 // IF_OPER_NOTPRESENT
	operLowerLayerDown = 3 // IF_OPER_LOWERLAYERDOWN

	// Places in struct rtnl_link_stats64, in 8-byte words. rx_nohandler came with
	// 4.6; a shorter structure reads as zero.
	statsRxDropped   = 6
	statsTxDropped   = 7
	statsRxNohandler = 23
)

// up is IFF_UP and an operational state that is not down. Drivers without
// operational state say "unknown", which counts as up (RFC 2863 does too).
func (l *rawLink) up() bool {
	if l.flags&unix.IFF_UP == 0 {
		return false
	}
	switch l.operState {
	case operDown, operNotPresent, operLowerLayerDown:
		return false
	}
	return true
}

// decodeLink reads the body of an RTM_NEWLINK message.
func decodeLink(body []byte) (rawLink, error) {
	l := rawLink{linkNetnsid: noNetnsid}
	if len(body) < unix.SizeofIfInfomsg {
		return l, fmt.Errorf("decode link: %d bytes are no header: %w", len(body), errMalformed)
	}
	l.hardware = binary.NativeEndian.Uint16(body[2:])
	l.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	l.flags = binary.NativeEndian.Uint32(body[8:])
	var info []byte
	err := eachAttribute(body[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = attrText(v)
		case unix.IFLA_MTU:
			l.mtu = int(int32(attrUint32(v)))
		case unix.IFLA_LINK:
			l.link, l.hasLink = int(int32(attrUint32(v))), true
		case unix.IFLA_MASTER:
			l.master = int(int32(attrUint32(v)))
		case unix.IFLA_OPERSTATE:
			l.operState = attrUint8(v)
		case unix.IFLA_LINK_NETNSID:
			l.linkNetnsid = int32(attrUint32(v))
		case unix.IFLA_STATS64:
			l.hasStats = true
			l.stats = counters{
				rxDropped:   word64(v, statsRxDropped),
				txDropped:   word64(v, statsTxDropped),
				rxNohandler: word64(v, statsRxNohandler),
			}
		case unix.IFLA_LINKINFO:
			info = v
		}
		return nil
	})
	if err == nil && info != nil {
		err = l.decodeInfo(info)
	}
	if err != nil {
		return l, fmt.Errorf("decode link %d %q: %w", l.index, l.name, err)
	}
	return l, nil
}

func word64(v []byte, word int) uint64 {
	if len(v) < 8*(word+1) {
		return 0
	}
	return binary.NativeEndian.Uint64(v[8*word:])
}

// decodeInfo reads IFLA_LINKINFO. The kernel puts the kind before its data, but
// nothing promises that, so the data is decoded after the walk.
func (l *rawLink) decodeInfo(info []byte) error {
	var data, slaveData []byte
	var slaveKind string
	err := eachAttribute(info, func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.kind = attrText(v)
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slaveKind = attrText(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			slaveData = v
		}
		return nil
	})
	if err != nil {
		return err
	}
	if slaveKind == "bond" {
		err = eachAttribute(slaveData, func(kind uint16, v []byte) error {
			if kind == iflaBondSlaveState {
				l.backupSlave = attrUint8(v) == bondStateBackup
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	switch l.kind {
	case "bond":
		return eachAttribute(data, func(kind uint16, v []byte) error {
			switch kind {
			case iflaBondMode:
				l.bond.mode = attrUint8(v)
			case iflaBondActiveSlave:
				l.bond.activeSlave = int(int32(attrUint32(v)))
			}
			return nil
		})
	case "macsec":
		return eachAttribute(data, func(kind uint16, v []byte) error {
			if kind == iflaMacsecICVLen {
				l.macsec.icvBytes = int(attrUint8(v))
			}
			return nil
		})
	}
	l.tunnel, err = decodeTunnel(l.kind, l.hardware, data)
	return err
}
