// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// The types that kernel and user space share, as generated from the C sources
// (maps.bpf.h has their fields' meaning).
type (
	Port         = fabricPort
	PortCounters = fabricPortCounters
	PairKey      = fabricPairKey
	Rule         = fabricRule
	RuleCounters = fabricRuleCounters
)

// How much the maps hold (maps.bpf.h).
const (
	// MaxPorts is how many ports a router may have.
	MaxPorts = 256
	// MaxRules is how many rules may be set at once.
	MaxRules = 4096
	// MaxPairRules is how many of them may hold for one ordered pair of ports.
	MaxPairRules = len(fabricPair{}.Rules)
)

// SetPort makes a device of the router a port with that number.
func (p *Program) SetPort(ifindex int, number uint32, port Port) error {
	if err := p.objects.PortInfo.Put(number, &port); err != nil {
		return fmt.Errorf("describe port %d: %w", number, err)
	}
	if err := p.objects.Ports.Put(uint32(ifindex), number); err != nil {
		return fmt.Errorf("number device %d as port %d: %w", ifindex, number, err)
	}
	return nil
}

// SetDestination says behind which port addresses are. The longest prefix wins.
func (p *Program) SetDestination(prefix netip.Prefix, number uint32) error {
	if err := p.objects.Destinations.Put(destinationKey(prefix), number); err != nil {
		return fmt.Errorf("place %s behind port %d: %w", prefix, number, err)
	}
	return nil
}

// RemovePort makes a device no port again: what enters there passes.
func (p *Program) RemovePort(ifindex int) error {
	if err := p.objects.Ports.Delete(uint32(ifindex)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget the port of device %d: %w", ifindex, err)
	}
	return nil
}

// RemoveDestination takes back SetDestination.
func (p *Program) RemoveDestination(prefix netip.Prefix) error {
	if err := p.objects.Destinations.Delete(destinationKey(prefix)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget where %s is: %w", prefix, err)
	}
	return nil
}

// destinationKey is an IPv6 prefix as it is, and an IPv4 one as IPv4-mapped.
func destinationKey(prefix netip.Prefix) *fabricDestinationKey {
	prefix = prefix.Masked()
	key := &fabricDestinationKey{PrefixLength: uint32(prefix.Bits()), Address: prefix.Addr().As16()}
	if prefix.Addr().Is4() {
		key.PrefixLength += 96
	}
	return key
}

// SetRule fills a slot. It changes what pairs that name the slot do at once.
func (p *Program) SetRule(slot uint32, rule Rule) error {
	if err := p.objects.Rules.Put(slot, &rule); err != nil {
		return fmt.Errorf("set rule %d: %w", slot, err)
	}
	return nil
}

// SetPair replaces the rules of one ordered pair of ports; with no slots it passes
// everything. A packet sees either the old set or the new one.
func (p *Program) SetPair(key PairKey, slots []uint32) error {
	if len(slots) == 0 {
		if err := p.objects.Pairs.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("clear the rules from port %d to %d: %w", key.From, key.To, err)
		}
		return nil
	}
	if len(slots) > MaxPairRules {
		return fmt.Errorf("set the rules from port %d to %d: %d of them, at most %d fit; clear some", key.From, key.To, len(slots), MaxPairRules)
	}
	pair := fabricPair{Count: uint32(len(slots))}
	copy(pair.Rules[:], slots)
	if err := p.objects.Pairs.Put(&key, &pair); err != nil {
		return fmt.Errorf("set the rules from port %d to %d: %w", key.From, key.To, err)
	}
	return nil
}

// RuleCounters reads what a slot's rule did since ResetRule.
func (p *Program) RuleCounters(slot uint32) (RuleCounters, error) {
	var cpus []RuleCounters
	var sum RuleCounters
	if err := p.objects.RuleCounts.Lookup(slot, &cpus); err != nil {
		return sum, fmt.Errorf("read the counters of rule %d: %w", slot, err)
	}
	for _, c := range cpus {
		sum.SeenPackets += c.SeenPackets
		sum.SeenBytes += c.SeenBytes
		sum.DroppedPackets += c.DroppedPackets
		sum.DroppedBytes += c.DroppedBytes
		sum.AnsweredPackets += c.AnsweredPackets
		sum.AnsweredBytes += c.AnsweredBytes
		sum.ReroutedPackets += c.ReroutedPackets
		sum.ReroutedBytes += c.ReroutedBytes
	}
	return sum, nil
}

// ResetRule sets the counters of a slot that no pair names to 0 and fills its
// policer's bucket.
func (p *Program) ResetRule(slot uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("reset the counters of rule %d: %w", slot, err)
	}
	if err := p.objects.RuleCounts.Put(slot, make([]RuleCounters, cpus)); err != nil {
		return fmt.Errorf("reset the counters of rule %d: %w", slot, err)
	}
	// A packet that is on its way may still hold the lock (BPF_F_LOCK, Linux 5.1).
	if err := p.objects.Buckets.Update(slot, &fabricBucket{}, ebpf.UpdateLock); err != nil {
		return fmt.Errorf("fill the bucket of rule %d: %w", slot, err)
	}
	return nil
}

// PortCounters reads what entered at a port.
func (p *Program) PortCounters(number uint32) (PortCounters, error) {
	var cpus []PortCounters
	var sum PortCounters
	if err := p.objects.PortCounts.Lookup(number, &cpus); err != nil {
		return sum, fmt.Errorf("read the counters of port %d: %w", number, err)
	}
	for _, c := range cpus {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
		sum.Trains += c.Trains
		sum.Oversize += c.Oversize
		sum.Unanswered += c.Unanswered
	}
	return sum, nil
}
