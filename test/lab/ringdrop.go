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
	// XDP_DROP and XDP_PASS of include/uapi/linux/bpf.h.
	xdpDrop = 1
	xdpPass = 2
)

// A ringDrop loses a share of what a node's interface receives. A veth has no ring
// of descriptors; what XDP drops in its driver it counts in rx_dropped, as a full
// ring does (veth_xdp_rcv_skb and veth_get_stats64 in drivers/net/veth.c, 5.10 on).
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
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lab_ring_drop", Type: ebpf.XDP, License: "Dual BSD/GPL",
		// Without it the driver refuses an MTU above a page.
		Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			// The helper gives 32 bits; the upper half is zero.
			asm.LoadImm(asm.R1, int64(ratio*math.MaxUint32), asm.DWord),
			asm.Mov.Imm(asm.R2, xdpPass),
			asm.JGT.Reg(asm.R0, asm.R1, "end"),
			asm.Mov.Imm(asm.R2, xdpDrop),
			asm.Mov.Reg(asm.R0, asm.R2).WithSymbol("end"),
			asm.Return(),
		},
	})
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
