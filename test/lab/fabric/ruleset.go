// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
)

// A kernel is the part of the program that keeps rules.
type kernel interface {
	SetRule(slot uint32, rule bpf.Rule) error
	ResetRule(slot uint32) error
	SetPair(key bpf.PairKey, slots []uint32) error
	RuleCounters(slot uint32) (bpf.RuleCounters, error)
}

// An entry is a rule in its slot.
type entry struct {
	rule Rule
	slot uint32
}

// A direction is what a rule names: two ports, "" for any.
type direction struct{ from, to string }

func (e *entry) direction() direction { return direction{e.rule.From, e.rule.To} }

// A ruleSet is the rules that hold, and what the kernel was told of them. It is not
// safe for concurrent use.
type ruleSet struct {
	kernel  kernel
	entries map[string]*entry // by ID
	named   map[direction][]*entry
	past    map[string]RuleCounters
	free    []uint32 // slots that no pair names
	// pairs are what the kernel has.
	pairs map[bpf.PairKey][]uint32
	// stale are the pairs that a failed change could not put back, and held the slots
	// that they may name.
	stale map[bpf.PairKey]bool
	held  []uint32
}

func newRuleSet(k kernel) ruleSet {
	s := ruleSet{
		kernel: k, entries: map[string]*entry{}, named: map[direction][]*entry{}, past: map[string]RuleCounters{},
		pairs: map[bpf.PairKey][]uint32{}, stale: map[bpf.PairKey]bool{},
	}
	for slot := uint32(bpf.MaxRules); slot > 0; slot-- {
		s.free = append(s.free, slot-1)
	}
	return s
}

// change sets rules, takes others away, and works out what holds for a port that is
// new ("" for none). Only pairs that this concerns are looked at. Nothing changes
// when it fails.
func (s *ruleSet) change(ports map[string]*port, set []Rule, remove []string, newPort string) error {
	var fresh, gone []*entry
	for _, r := range set {
		fresh = append(fresh, &entry{rule: r})
		if e := s.entries[r.ID]; e != nil {
			gone = append(gone, e)
		}
	}
	for _, id := range remove {
		gone = append(gone, s.entries[id])
	}
	if len(fresh) > len(s.free) {
		return fmt.Errorf("apply rules: %d more at once, %d hold and only %d of %d slots are free; clear some first", len(fresh), len(s.entries), len(s.free), bpf.MaxRules)
	}
	// A new rule never takes the slot of an old one that pairs still name, so no packet
	// meets half a rule.
	for i, e := range fresh {
		e.slot = s.free[len(s.free)-1-i]
	}
	s.rename(gone, fresh)
	past, err := s.tell(ports, fresh, gone, newPort)
	if err != nil {
		s.rename(fresh, gone)
		return err
	}
	s.free = s.free[:len(s.free)-len(fresh)]
	for _, e := range gone {
		delete(s.entries, e.rule.ID)
		s.free = append(s.free, e.slot)
	}
	maps.Copy(s.past, past)
	for _, e := range fresh {
		s.entries[e.rule.ID] = e
		delete(s.past, e.rule.ID)
	}
	if len(s.stale) == 0 {
		s.free, s.held = append(s.free, s.held...), nil
	}
	return nil
}

// rename takes rules out of the index and puts others in.
func (s *ruleSet) rename(out, in []*entry) {
	leave := make(map[*entry]bool, len(out))
	for _, e := range out {
		leave[e] = true
	}
	for d := range directions(out) {
		left := slices.DeleteFunc(s.named[d], func(e *entry) bool { return leave[e] })
		if s.named[d] = left; len(left) == 0 {
			delete(s.named, d)
		}
	}
	for _, e := range in {
		s.named[e.direction()] = append(s.named[e.direction()], e)
	}
}

func directions(entries []*entry) map[direction]bool {
	out := map[direction]bool{}
	for _, e := range entries {
		out[e.direction()] = true
	}
	return out
}

// tell brings the kernel to what the index says, and returns what the rules that went
// did. When it fails the kernel is as it was.
func (s *ruleSet) tell(ports map[string]*port, fresh, gone []*entry, newPort string) (map[string]RuleCounters, error) {
	touched := directions(slices.Concat(fresh, gone))
	if newPort != "" {
		touched[direction{from: newPort}], touched[direction{to: newPort}] = true, true
	}
	affected := maps.Clone(s.stale)
	for d := range touched {
		d.expand(ports, affected)
	}
	byNumber := make(map[uint32]*port, len(ports))
	for _, p := range ports {
		byNumber[p.number] = p
	}
	next := make(map[bpf.PairKey][]uint32, len(affected))
	for key := range affected {
		slots, err := s.slots(byNumber[key.From], byNumber[key.To])
		if err != nil {
			return nil, err
		}
		next[key] = slots
	}
	for _, e := range fresh {
		if err := errors.Join(s.kernel.ResetRule(e.slot), s.kernel.SetRule(e.slot, e.rule.compile())); err != nil {
			return nil, err
		}
	}
	before, err := s.setPairs(next)
	past := make(map[string]RuleCounters, len(gone))
	for i := 0; i < len(gone) && err == nil; i++ {
		past[gone[i].rule.ID], err = s.kernel.RuleCounters(gone[i].slot)
	}
	if err != nil {
		return nil, errors.Join(err, s.putBack(before, fresh))
	}
	return past, nil
}

// expand adds the pairs of ports that a direction means.
func (d direction) expand(ports map[string]*port, to map[bpf.PairKey]bool) {
	ends := func(name string) map[string]*port {
		if name == "" {
			return ports
		}
		return map[string]*port{name: ports[name]}
	}
	for _, a := range ends(d.from) {
		for _, b := range ends(d.to) {
			if a != b {
				to[bpf.PairKey{From: a.number, To: b.number}] = true
			}
		}
	}
}

// slots are those of the rules that hold from one port to another, the worst first;
// none when one of the ports is no more.
func (s *ruleSet) slots(a, b *port) ([]uint32, error) {
	if a == nil || b == nil {
		return nil, nil
	}
	holding := slices.Concat(s.named[direction{a.Name, b.Name}], s.named[direction{from: a.Name}], s.named[direction{to: b.Name}], s.named[direction{}])
	if len(holding) > bpf.MaxPairRules {
		return nil, fmt.Errorf("apply rules: %d hold from %s to %s, at most %d may; clear some", len(holding), a.Name, b.Name, bpf.MaxPairRules)
	}
	order(holding)
	var out []uint32
	for _, e := range holding {
		out = append(out, e.slot)
	}
	return out, nil
}

// setPairs writes the pairs that changed, and returns what those that it wrote had
// before. One that the kernel refuses it leaves as it is (bpf_map_update_elem).
func (s *ruleSet) setPairs(next map[bpf.PairKey][]uint32) (before map[bpf.PairKey][]uint32, err error) {
	before = map[bpf.PairKey][]uint32{}
	for key, slots := range next {
		old := s.pairs[key]
		if slices.Equal(old, slots) && !s.stale[key] {
			continue
		}
		if err := s.setPair(key, slots); err != nil {
			return before, err
		}
		before[key] = old
	}
	return before, nil
}

func (s *ruleSet) setPair(key bpf.PairKey, slots []uint32) error {
	if err := s.kernel.SetPair(key, slots); err != nil {
		return err
	}
	if delete(s.stale, key); len(slots) == 0 {
		delete(s.pairs, key)
		return nil
	}
	s.pairs[key] = slots
	return nil
}

// putBack writes pairs as they were. What the kernel refuses is stale: it is tried
// again with the next change, and until that succeeds nobody gets the slots that it
// names.
func (s *ruleSet) putBack(before map[bpf.PairKey][]uint32, fresh []*entry) error {
	var problems []error
	for key, slots := range before {
		if err := s.setPair(key, slots); err != nil {
			problems = append(problems, fmt.Errorf("put back what held before: %w", err))
			s.stale[key] = true
		}
	}
	if len(problems) == 0 {
		return nil
	}
	s.free = s.free[:len(s.free)-len(fresh)]
	for _, e := range fresh {
		s.held = append(s.held, e.slot)
	}
	return errors.Join(problems...)
}
