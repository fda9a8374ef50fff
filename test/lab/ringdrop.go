// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"math"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	// xdpPass is XDP_PASS of include/uapi/linux/bpf.h.
	xdpPass = 2
	// noDevice is an index that no device has: a network namespace numbers its own
	// from 1.
	noDevice = 1<<31 - 1
)

// A ringDrop loses a share of what a node's interface receives. A veth has no ring
// of descriptors, and what XDP_DROP drops it counts as xdp_drops, which only ethtool
// shows. A packet that cannot be redirected to where XDP sends it counts in
// rx_dropped, as one that a full ring has no room for does (veth_xdp_rcv_skb and
// veth_get_stats64 in drivers/net/veth.c, 5.10 on).
type ringDrop struct {
	program *ebpf.Program
	link    link.Link
}

// newRingDrop begins to drop. It runs inside the device's network namespace.
func newRingDrop(device string, ratio float64) (*ringDrop, error) {
	iface, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("drop at the ring of %s: %w", device, err)
	}
	spec := &ebpf.ProgramSpec{
		Name: "lab_ring_drop", Type: ebpf.XDP, License: "Dual BSD/GPL",
		// Without it the driver refuses an MTU above a page.
		Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			// The helper gives 32 bits; the upper half is zero.
			asm.LoadImm(asm.R1, int64(ratio*math.MaxUint32), asm.DWord),
			asm.JGT.Reg(asm.R0, asm.R1, "pass"),
			asm.Mov.Imm(asm.R1, noDevice),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirect.Call(),
			asm.Return(),
			asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
			asm.Return(),
		},
	}
	program, err := ebpf.NewProgram(spec)
	if errors.Is(err, unix.EINVAL) {
		// Kernels before 5.18 do not know the flag.
		spec.Flags = 0
		program, err = ebpf.NewProgram(spec)
	}
	if err != nil {
		return nil, fmt.Errorf("drop at the ring of %s: load the program: %w", device, err)
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: iface.Index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("drop at the ring of %s: attach the program: %w", device, err), program.Close())
	}
	return &ringDrop{program: program, link: l}, nil
}

// close ends it.
func (r *ringDrop) close() error {
	if err := errors.Join(r.link.Close(), r.program.Close()); err != nil {
		return fmt.Errorf("stop dropping at the ring: %w", err)
	}
	return nil
}
