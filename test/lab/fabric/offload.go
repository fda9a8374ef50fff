// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands of SIOCETHTOOL that read and set features (linux/ethtool.h).
const (
	ethtoolGstrings  = 0x1b
	ethtoolGssetInfo = 0x37
	ethtoolGfeatures = 0x3a
	ethtoolSfeatures = 0x3b
	ethSSFeatures    = 4
	ethGstringLen    = 32
)

// setOffloads sets a device of the calling thread's network namespace so that what
// leaves it are packets of a wire: every segmentation offload off, the one of
// tunnels and that of UDP (UDP_SEGMENT) included. gro says whether it puts received
// packets together. What the kernel made of it is read back.
func setOffloads(device string, gro bool) error {
	e, err := newEthtool(device)
	if err != nil {
		return fmt.Errorf("set the offloads of %s: %w", device, err)
	}
	defer unix.Close(e.socket)
	names, err := e.featureNames()
	if err != nil {
		return fmt.Errorf("set the offloads of %s: list its features: %w", device, err)
	}
	want := map[int]bool{}
	for i, name := range names {
		switch {
		case strings.HasPrefix(name, "tx-") && strings.HasSuffix(name, "-segmentation"):
			want[i] = false
		case name == "rx-gro":
			want[i] = gro
		}
	}
	if err := e.setFeatures(len(names), want); err != nil {
		return fmt.Errorf("set the offloads of %s: %w", device, err)
	}
	active, err := e.activeFeatures(len(names))
	if err != nil {
		return fmt.Errorf("read the offloads of %s back: %w", device, err)
	}
	for i, on := range want {
		if active[i] != on {
			return fmt.Errorf("set the offloads of %s: the kernel leaves %s at %t, but %t is needed", device, names[i], active[i], on)
		}
	}
	return nil
}

// An ethtool asks about one device.
type ethtool struct {
	socket int
	name   [unix.IFNAMSIZ]byte
}

func newEthtool(device string) (*ethtool, error) {
	e := &ethtool{}
	if len(device) >= len(e.name) {
		return nil, fmt.Errorf("the name is longer than %d characters", len(e.name)-1)
	}
	copy(e.name[:], device)
	var err error
	e.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	return e, nil
}

// ask hands a command to the kernel, which answers into it. The command begins with
// 32-bit words.
func (e *ethtool) ask(command []uint32) error {
	// struct ifreq: 40 bytes on 64-bit machines.
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{name: e.name, data: unsafe.Pointer(&command[0])}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}

// featureNames lists the kernel's features by their number.
func (e *ethtool) featureNames() ([]string, error) {
	// struct ethtool_sset_info: command, reserved, 64 bits of mask, lengths.
	info := []uint32{ethtoolGssetInfo, 0, 1 << ethSSFeatures, 0, 0}
	if err := e.ask(info); err != nil {
		return nil, err
	}
	count := int(info[4])
	// struct ethtool_gstrings: command, set, length, strings.
	list := make([]uint32, 3+count*ethGstringLen/4)
	list[0], list[1], list[2] = ethtoolGstrings, ethSSFeatures, uint32(count)
	if err := e.ask(list); err != nil {
		return nil, err
	}
	raw := make([]byte, 0, count*ethGstringLen)
	for _, word := range list[3:] {
		raw = binary.NativeEndian.AppendUint32(raw, word)
	}
	names := make([]string, count)
	for i := range names {
		name, _, _ := bytes.Cut(raw[i*ethGstringLen:(i+1)*ethGstringLen], []byte{0})
		names[i] = string(name)
	}
	return names, nil
}

// setFeatures asks for features to be on or off.
func (e *ethtool) setFeatures(count int, want map[int]bool) error {
	blocks := (count + 31) / 32
	// struct ethtool_sfeatures: command, blocks, and per block valid and requested.
	command := make([]uint32, 2+2*blocks)
	command[0], command[1] = ethtoolSfeatures, uint32(blocks)
	available, err := e.features(count)
	if err != nil {
		return err
	}
	for i, on := range want {
		// What cannot be changed is refused; reading back tells whether it is right.
		if !bit(available, 0, i) {
			continue
		}
		command[2+i/32*2] |= 1 << (i % 32)
		if on {
			command[3+i/32*2] |= 1 << (i % 32)
		}
	}
	return e.ask(command)
}

// features are four words per block of 32: available, requested, active, never
// changed (struct ethtool_get_features_block).
func (e *ethtool) features(count int) ([]uint32, error) {
	blocks := (count + 31) / 32
	command := make([]uint32, 2+4*blocks)
	command[0], command[1] = ethtoolGfeatures, uint32(blocks)
	if err := e.ask(command); err != nil {
		return nil, err
	}
	return command[2:], nil
}

func bit(features []uint32, word, i int) bool { return features[i/32*4+word]>>(i%32)&1 == 1 }

func (e *ethtool) activeFeatures(count int) ([]bool, error) {
	features, err := e.features(count)
	if err != nil {
		return nil, err
	}
	active := make([]bool, count)
	for i := range active {
		active[i] = bit(features, 2, i)
	}
	return active, nil
}
