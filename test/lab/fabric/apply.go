// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Set sets one rule at once, in the place of the one with its ID if there is one.
// Its counters begin at 0 and its bucket is full.
func (f *Fabric) Set(r Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.apply([]Rule{r}, nil)
}

// Clear takes a rule away. An ID that names none is an error.
func (f *Fabric) Clear(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules.entries[id] == nil {
		return fmt.Errorf("clear rule %s: there is none of that ID", id)
	}
	return f.apply(nil, []string{id})
}

// Add sets rules whose IDs are free, all of them or, with an error, none. Each pair of
// ports changes at once, the pairs one after the other: what takes 3540 rules takes
// tens of milliseconds. Counters begin at 0. No rules are fine.
func (f *Fabric) Add(rules ...Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range rules {
		if f.rules.entries[r.ID] != nil {
			return fmt.Errorf("add rules: there is one of the ID %s; IDs are unique", r.ID)
		}
	}
	if id, twice := repeated(ruleIDs(rules)); twice {
		return fmt.Errorf("add rules: %s is there twice; IDs are unique", id)
	}
	return f.apply(rules, nil)
}

// Remove takes rules away as Add sets them: all or, with an error, none. An ID that
// names none, or is there twice, is an error. No IDs are fine.
func (f *Fabric) Remove(ids ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if f.rules.entries[id] == nil {
			return fmt.Errorf("remove rules: there is none of the ID %s", id)
		}
	}
	if id, twice := repeated(ids); twice {
		return fmt.Errorf("remove rules: %s is there twice; name it once", id)
	}
	return f.apply(nil, ids)
}

// Apply makes the rules exactly those. A rule that stays as it is keeps its counters
// and its bucket. Nothing changes when one of them cannot be.
func (f *Fabric) Apply(rules []Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id, twice := repeated(ruleIDs(rules)); twice {
		return fmt.Errorf("apply rules: %s is there twice; IDs are unique", id)
	}
	wanted := make(map[string]bool, len(rules))
	var set []Rule
	for _, r := range rules {
		wanted[r.ID] = true
		if e := f.rules.entries[r.ID]; e == nil || e.rule != r {
			set = append(set, r)
		}
	}
	var remove []string
	for id := range f.rules.entries {
		if !wanted[id] {
			remove = append(remove, id)
		}
	}
	return f.apply(set, remove)
}

func ruleIDs(rules []Rule) []string {
	out := make([]string, len(rules))
	for i, r := range rules {
		out[i] = r.ID
	}
	return out
}

// repeated finds what is in a list twice.
func repeated(list []string) (string, bool) {
	seen := make(map[string]bool, len(list))
	for _, s := range list {
		if seen[s] {
			return s, true
		}
		seen[s] = true
	}
	return "", false
}

// apply sets rules, in the places of those with their IDs, and takes others away.
// Nothing changes when it fails.
func (f *Fabric) apply(set []Rule, remove []string) error {
	if f.closed {
		return errors.New("apply rules: the fabric is closed")
	}
	for _, r := range set {
		if err := f.check(r); err != nil {
			return err
		}
	}
	return f.rules.change(f.ports, set, remove, "")
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
