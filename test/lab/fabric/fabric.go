// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	rules map[string]*entry
	free  []uint32 // slots
	past  map[string]RuleCounters
	pairs map[bpf.PairKey][]uint32
	close []func() error // undone in reverse
	// lastIndex is the interface index of the youngest device.
	lastIndex int
	closed    bool
}

// An entry is a rule in its slot.
type entry struct {
	rule Rule
	slot uint32
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
	f := &Fabric{
		config: cfg, ports: map[string]*port{}, rules: map[string]*entry{},
		past: map[string]RuleCounters{}, lastIndex: firstIndex, pairs: map[bpf.PairKey][]uint32{},
	}
	for slot := uint32(bpf.MaxRules); slot > 0; slot-- {
		f.free = append(f.free, slot-1)
	}
	var err error
	if f.program, err = bpf.Load(rerouteMark); err != nil {
		return nil, fmt.Errorf("make the fabric: %w", err)
	}
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

// Set sets one rule at once, in the place of the one with its ID if there is one.
// Its counters begin at 0.
func (f *Fabric) Set(r Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := f.current()
	set[r.ID] = r
	return f.apply(set, r.ID)
}

// Clear takes a rule away. An ID that names none is an error.
func (f *Fabric) Clear(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := f.current()
	if _, found := set[id]; !found {
		return fmt.Errorf("clear rule %s: there is none of that ID", id)
	}
	delete(set, id)
	return f.apply(set, "")
}

// Apply makes the rules exactly those. A rule that stays as it is keeps its counters
// and its bucket. Nothing changes when one of them cannot be.
func (f *Fabric) Apply(rules []Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := make(map[string]Rule, len(rules))
	for _, r := range rules {
		if _, twice := set[r.ID]; twice {
			return fmt.Errorf("apply rules: %s is there twice; IDs are unique", r.ID)
		}
		set[r.ID] = r
	}
	return f.apply(set, "")
}

func (f *Fabric) current() map[string]Rule {
	set := make(map[string]Rule, len(f.rules)+1)
	for id, e := range f.rules {
		set[id] = e.rule
	}
	return set
}

// apply brings the kernel to the set. renew is the ID of a rule that begins anew
// even if it is the same.
func (f *Fabric) apply(set map[string]Rule, renew string) error {
	if f.closed {
		return errors.New("apply rules: the fabric is closed")
	}
	next := make(map[string]*entry, len(set))
	var fresh, gone []*entry
	for _, id := range slices.Sorted(maps.Keys(set)) {
		r := set[id]
		if err := f.check(r); err != nil {
			return err
		}
		if e := f.rules[id]; e != nil && e.rule == r && id != renew {
			next[id] = e
			continue
		}
		e := &entry{rule: r}
		next[id], fresh = e, append(fresh, e)
	}
	if len(fresh) > len(f.free) {
		return fmt.Errorf("apply rules: %d at once, of which the old ones still hold %d of %d slots; clear some first", len(set), len(f.rules), bpf.MaxRules)
	}
	for i, e := range fresh {
		e.slot = f.free[len(f.free)-1-i]
	}
	pairs, err := compilePairs(f.ports, next)
	if err != nil {
		return err
	}
	for id, e := range f.rules {
		if next[id] != e {
			gone = append(gone, e)
		}
	}
	// A new rule never takes the slot of an old one that pairs still name, so no packet
	// meets half a rule.
	for _, e := range fresh {
		if err := errors.Join(f.program.ResetRule(e.slot), f.program.SetRule(e.slot, e.rule.compile())); err != nil {
			return err
		}
	}
	if err := f.setPairs(pairs); err != nil {
		return err
	}
	f.free = f.free[:len(f.free)-len(fresh)]
	f.rules = next
	for _, e := range gone {
		counters, err := f.program.RuleCounters(e.slot)
		if err != nil {
			return err
		}
		f.past[e.rule.ID] = counters
		f.free = append(f.free, e.slot)
	}
	for _, e := range fresh {
		delete(f.past, e.rule.ID)
	}
	return nil
}

// check says what about a rule cannot be in this fabric.
func (f *Fabric) check(r Rule) error {
	if err := r.check(); err != nil {
		return err
	}
	for _, name := range []string{r.From, r.To} {
		if name != "" && f.ports[name] == nil {
			return fmt.Errorf("rule %s: the fabric has no port %q; it has %q", r.ID, name, slices.Sorted(maps.Keys(f.ports)))
		}
	}
	if r.FlapEvery > 0 && f.config.Spine == nil {
		return fmt.Errorf("rule %s: there is no second way to flap to; give Config.Spine", r.ID)
	}
	return nil
}

// compilePairs works wildcards out: which slots hold for which pair.
func compilePairs(ports map[string]*port, rules map[string]*entry) (map[bpf.PairKey][]uint32, error) {
	out := map[bpf.PairKey][]uint32{}
	for from, a := range ports {
		for to, b := range ports {
			if from == to {
				continue
			}
			var holding []*entry
			for _, e := range rules {
				if e.rule.holds(from, to) {
					holding = append(holding, e)
				}
			}
			if len(holding) > bpf.MaxPairRules {
				return nil, fmt.Errorf("apply rules: %d hold from %s to %s, at most %d may; clear some", len(holding), from, to, bpf.MaxPairRules)
			}
			order(holding)
			for _, e := range holding {
				key := bpf.PairKey{From: a.number, To: b.number}
				out[key] = append(out[key], e.slot)
			}
		}
	}
	return out, nil
}

// setPairs writes the pairs that changed.
func (f *Fabric) setPairs(pairs map[bpf.PairKey][]uint32) error {
	for key := range f.pairs {
		if _, stays := pairs[key]; !stays {
			if err := f.program.SetPair(key, nil); err != nil {
				return err
			}
			delete(f.pairs, key)
		}
	}
	for key, slots := range pairs {
		if slices.Equal(f.pairs[key], slots) {
			continue
		}
		if err := f.program.SetPair(key, slots); err != nil {
			return err
		}
		f.pairs[key] = slots
	}
	return nil
}

// full is a prefix of one address.
func full(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
