// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"maps"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
)

// RuleCounters is what a rule did.
type RuleCounters = bpf.RuleCounters

// PortCounters is what entered at a port from its peer.
type PortCounters = bpf.PortCounters

// Counters are what the fabric did.
type Counters struct {
	// Rules by ID: those that hold, since they were set, and those that were taken
	// away, as they were then.
	Rules map[string]RuleCounters
	// Ports by name. Trains stays 0 when offloads are as AddPort sets them.
	Ports map[string]PortCounters
}

// Counters reads what the fabric did.
func (f *Fabric) Counters() (Counters, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return Counters{}, errors.New("read the counters: the fabric is closed")
	}
	out := Counters{Rules: maps.Clone(f.rules.past), Ports: map[string]PortCounters{}}
	for id, e := range f.rules.entries {
		c, err := f.program.RuleCounters(e.slot)
		if err != nil {
			return Counters{}, err
		}
		out.Rules[id] = c
	}
	for name, p := range f.ports {
		c, err := f.program.PortCounters(p.number)
		if err != nil {
			return Counters{}, err
		}
		out.Ports[name] = c
	}
	return out, nil
}

// Hooks says how the program is attached to each port.
func (f *Fabric) Hooks() map[string]Hook {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]Hook{}
	for name, p := range f.ports {
		out[name] = p.attachment.Hook()
	}
	return out
}
