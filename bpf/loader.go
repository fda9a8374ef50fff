// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// OversizeOptions is what LoadOversize takes. The zero value suits the running
// kernel.
type OversizeOptions struct {
	// MaxDrops and MaxFlows are the capacities of the maps; 0 means those of the
	// object (4096 each).
	MaxDrops, MaxFlows uint32
	// Paths of the host, for a diagnosis; empty means /sys and /proc.
	SysPath, ProcPath string
	// KernelTypes replaces the running kernel's BTF. Optional, for tests.
	KernelTypes *btf.Spec
}

// Oversize is the loaded and attached collection that watches for packets which
// are dropped for their size. Safe for concurrent use.
type Oversize struct {
	objects   oversizeObjects
	arguments int
	reasons   map[uint32]string
	adaptErr  error

	mu sync.Mutex
	// The links live as long as these fields: a link that the garbage collector
	// finds unused is closed and detaches its program without a word.
	drops link.Link
	adapt link.Link
}

// LoadOversize loads the variant of the programs that fits the running kernel
// and attaches the drop hook. The hook that watches for adapted packets is
// loaded with it, but attached only by AttachAdapt. The error names what is
// missing: a capability, BTF, or what lockdown forbids.
func LoadOversize(opts OversizeOptions) (*Oversize, error) {
	d := newDiagnosis(opts.SysPath, opts.ProcPath)
	kernel := opts.KernelTypes
	if kernel == nil {
		var err error
		if kernel, err = btf.LoadKernelSpec(); err != nil {
			return nil, d.explain("read the kernel's BTF", err)
		}
	}
	arguments, err := KfreeSkbArguments(kernel)
	if err != nil {
		return nil, err
	}
	reasons, err := DropReasons(kernel)
	if err != nil {
		return nil, err
	}
	// Only kernels before 5.11 account BPF memory to this limit; a refusal there
	// shows as the load's own error.
	_ = rlimit.RemoveMemlock()

	o := &Oversize{arguments: arguments, reasons: reasons}
	err = o.load(opts, true)
	if err != nil {
		// The second hook is worth less than the first: without it drops are still
		// counted, and whether a flow adapted is unknown.
		o.adaptErr = d.explain("load the program of net_dev_start_xmit", err)
		err = o.load(opts, false)
	}
	if err != nil {
		return nil, d.explain("load the program of kfree_skb", err)
	}
	program := map[int]*ebpf.Program{2: o.objects.KfreeSkb2, 3: o.objects.KfreeSkb3, 4: o.objects.KfreeSkb4}[arguments]
	o.drops, err = link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		err = d.explain("attach to tp_btf/kfree_skb", err)
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *Oversize) load(opts OversizeOptions, withAdapt bool) error {
	spec, err := variant(o.arguments)
	if err != nil {
		return err
	}
	if !withAdapt {
		delete(spec.Programs, "adapt")
	}
	if opts.MaxDrops > 0 {
		spec.Maps["drops"].MaxEntries = opts.MaxDrops
	}
	if opts.MaxFlows > 0 {
		spec.Maps["flows"].MaxEntries = opts.MaxFlows
	}
	mask, tooBig := reasonMask(o.reasons)
	if err := spec.Variables["reason_mask"].Set(mask); err != nil {
		return fmt.Errorf("set the reasons: %w", err)
	}
	if err := spec.Variables["reason_too_big"].Set(tooBig); err != nil {
		return fmt.Errorf("set the reason PKT_TOO_BIG: %w", err)
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{KernelTypes: opts.KernelTypes},
	})
	if err != nil {
		return err
	}
	defer collection.Close()
	// Not Assign: it wants every program of the object, and only one variant is
	// there.
	p, m, v := &o.objects.oversizePrograms, &o.objects.oversizeMaps, &o.objects.oversizeVariables
	if err := errors.Join(collection.Assign(m), collection.Assign(v)); err != nil {
		return err
	}
	p.KfreeSkb2 = collection.DetachProgram("kfree_skb_2")
	p.KfreeSkb3 = collection.DetachProgram("kfree_skb_3")
	p.KfreeSkb4 = collection.DetachProgram("kfree_skb_4")
	p.Adapt = collection.DetachProgram("adapt")
	return nil
}

// variant is the collection with the one program for kfree_skb that takes as
// many arguments as the kernel gives. A program that reads beyond the prototype
// is refused by the verifier; one that reads less misses what it could know.
func variant(arguments int) (*ebpf.CollectionSpec, error) {
	spec, err := loadOversize()
	if err != nil {
		return nil, fmt.Errorf("parse the embedded object: %w", err)
	}
	for n := 2; n <= 4; n++ {
		if n != arguments {
			delete(spec.Programs, fmt.Sprintf("kfree_skb_%d", n))
		}
	}
	return spec, nil
}

// Arguments is how many arguments the running kernel's kfree_skb tracepoint has.
func (o *Oversize) Arguments() int { return o.arguments }

// Reasons are the kernel's drop reasons by number; empty before 5.17.
func (o *Oversize) Reasons() map[uint32]string { return o.reasons }

// AttachAdapt attaches the hook that sees every packet handed to a driver and
// marks the dropped flows that found a smaller size. It does nothing when the
// hook is attached.
func (o *Oversize) AttachAdapt() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.adapt != nil {
		return nil
	}
	if o.objects.Adapt == nil {
		return o.adaptErr
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: o.objects.Adapt})
	if err != nil {
		return newDiagnosis("", "").explain("attach to tp_btf/net_dev_start_xmit", err)
	}
	o.adapt = l
	return nil
}

// DetachAdapt takes the hook off the packet path again.
func (o *Oversize) DetachAdapt() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.adapt == nil {
		return nil
	}
	err := o.adapt.Close()
	o.adapt = nil
	if err != nil {
		return fmt.Errorf("detach from tp_btf/net_dev_start_xmit: %w", err)
	}
	return nil
}

// Adapting says whether the hook of AttachAdapt is on the packet path now.
func (o *Oversize) Adapting() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.adapt != nil
}

// Wakes returns a reader of the rare edges. The caller closes it.
func (o *Oversize) Wakes() (*ringbuf.Reader, error) {
	r, err := ringbuf.NewReader(o.objects.Wakes)
	if err != nil {
		return nil, fmt.Errorf("open the wake-up buffer: %w", err)
	}
	return r, nil
}

// Close detaches both hooks and frees everything.
func (o *Oversize) Close() error {
	err := o.DetachAdapt()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drops != nil {
		err = errors.Join(err, o.drops.Close())
		o.drops = nil
	}
	return errors.Join(err, o.objects.oversizePrograms.Close(), o.objects.oversizeMaps.Close())
}
