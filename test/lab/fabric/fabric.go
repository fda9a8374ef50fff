// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
)

// A Namespace is a network namespace.
type Namespace interface {
	// Do runs fn on a thread inside the namespace that is thrown away afterwards.
	Do(fn func() error) error
	// Path opens as the namespace's file, for example /proc/PID/ns/net.
	Path() string
}

// Family is the address family of the nodes' network.
type Family int

// The families.
const (
	// IPv4 keeps IPv6 off in router, spine and on the peers' devices.
	IPv4 Family = 4
	// IPv6 leaves IPv4 as it is, for pods.
	IPv6 Family = 6
)

// Hook is how the program is attached to the ports.
type Hook = bpf.Hook

// The hooks.
const (
	AnyHook = bpf.AnyHook
	TCX     = bpf.TCX
	Clsact  = bpf.Clsact
)

// Config says where the fabric is to be.
type Config struct {
	// Router is the namespace that becomes the router. It belongs to the caller and
	// must outlive the fabric.
	Router Namespace
	// Spine is the router of the second way. Optional: without it no rule may flap.
	Spine Namespace
	// Family is IPv4 unless given.
	Family Family
	// Hook forces how the program is attached. Optional, for tests.
	Hook Hook
}

// A Fabric is a router with ports. Its methods are safe for concurrent use.
type Fabric struct {
	config  Config
	program *bpf.Program

	mu    sync.Mutex
	ports map[string]*port
	rules ruleSet
	close []func() error // undone in reverse
	// lastIndex is the interface index of the youngest device.
	lastIndex int
	closed    bool
}

// New makes the router: forwarding on, and the second way if there is a spine. It
// needs root. Cancelling ctx later has no effect.
func New(ctx context.Context, cfg Config) (*Fabric, error) {
	if cfg.Router == nil {
		return nil, errors.New("make the fabric: no namespace for its router; give Config.Router")
	}
	if cfg.Family == 0 {
		cfg.Family = IPv4
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("make the fabric: %w", err)
	}
	f := &Fabric{config: cfg, ports: map[string]*port{}, lastIndex: firstIndex}
	var err error
	if f.program, err = bpf.Load(rerouteMark); err != nil {
		return nil, fmt.Errorf("make the fabric: %w", err)
	}
	f.rules = newRuleSet(f.program)
	f.close = append(f.close, f.program.Close)
	err = cfg.Router.Do(func() error { return makeRouter(cfg.Family) })
	if err == nil && cfg.Spine != nil {
		err = f.addSpine(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the fabric: %w", err), f.Close())
	}
	return f, nil
}

// Close takes away everything that the fabric put into the namespaces: devices with
// their addresses, routes and programs, and the policy rule. Devices that went with
// their namespace are fine. It may be called more than once.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var problems []error
	for _, undo := range slices.Backward(f.close) {
		if err := undo(); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("take the fabric down: %w", errors.Join(problems...))
	}
	return nil
}

// full is a prefix of one address.
func full(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
