// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Program is the loaded program with its maps, not yet attached to any port. Its
// methods are safe for concurrent use.
type Program struct {
	objects fabricObjects
}

// Load loads the program. mark is what packets carry that are to go the other way;
// it is not 0. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
func Load(mark uint32) (*Program, error) {
	if mark == 0 {
		return nil, errors.New("load the fabric's program: the mark is 0, which every packet carries; give another one")
	}
	spec, err := loadFabric()
	if err != nil {
		return nil, fmt.Errorf("parse the fabric's embedded object: %w", err)
	}
	if err := spec.Variables["reroute_mark"].Set(mark); err != nil {
		return nil, fmt.Errorf("set the fabric's mark: %w", err)
	}
	// Only kernels before 5.11 account BPF memory to this limit; a refusal there
	// shows as the load's own error.
	_ = rlimit.RemoveMemlock()
	p := &Program{}
	if err := spec.LoadAndAssign(&p.objects, nil); err != nil {
		return nil, fmt.Errorf("load the fabric's program (it needs root and a kernel of 5.10 or newer): %w", err)
	}
	return p, nil
}

// Close frees program and maps; ports that the program is attached to keep it until
// they are detached.
func (p *Program) Close() error { return p.objects.Close() }

// ID is the kernel's number of the program.
func (p *Program) ID() (ebpf.ProgramID, error) {
	info, err := p.objects.FabricIngress.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for the fabric's program: %w", err)
	}
	id, _ := info.ID()
	return id, nil
}

// Hook is how a program is attached.
type Hook string

// The hooks.
const (
	// AnyHook is TCX, or Clsact where the kernel has no tcx (before 6.6).
	AnyHook Hook = ""
	TCX     Hook = "tcx"
	Clsact  Hook = "clsact"
)

// An Attachment is the program on one port.
type Attachment struct {
	hook Hook
	link link.Link
}

// Hook says how the program is attached: TCX or Clsact.
func (a *Attachment) Hook() Hook { return a.hook }

// Close takes a program that tcx holds off the port. One that clsact holds goes with
// the device, which the router deletes.
func (a *Attachment) Close() error {
	if a.link == nil {
		return nil
	}
	if err := a.link.Close(); err != nil {
		return fmt.Errorf("detach the fabric's program: %w", err)
	}
	return nil
}

// Attach attaches the program to the ingress of a device of the calling thread's
// network namespace.
func (p *Program) Attach(ifindex int, hook Hook) (*Attachment, error) {
	if hook != Clsact {
		l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p.objects.FabricIngress, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			return &Attachment{hook: TCX, link: l}, nil
		}
		if hook == TCX || !errors.Is(err, ebpf.ErrNotSupported) {
			return nil, fmt.Errorf("attach the fabric's program by tcx: %w", err)
		}
	}
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return nil, fmt.Errorf("add clsact for the fabric's program: %w (the kernel needs NET_SCH_INGRESS)", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          p.objects.FabricIngress.FD(),
		Name:        "fabric_ingress",
		// The program's return value is the verdict.
		DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return nil, fmt.Errorf("attach the fabric's program by clsact: %w (the kernel needs NET_CLS_BPF)", err)
	}
	return &Attachment{hook: Clsact}, nil
}
