// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
)

// A memory is a kernel that only remembers, and fails as it is told.
type memory struct {
	pairs map[bpf.PairKey][]uint32
	// pairWrites are left until SetPair fails, and countReads until RuleCounters does;
	// negative for never. refusals is how often SetPair then fails, negative for always.
	pairWrites, countReads, refusals int
}

var errRefused = errors.New("refused")

func newMemory() *memory {
	return &memory{pairs: map[bpf.PairKey][]uint32{}, pairWrites: -1, countReads: -1}
}

func (m *memory) SetRule(uint32, bpf.Rule) error { return nil }
func (m *memory) ResetRule(uint32) error         { return nil }

func (m *memory) SetPair(key bpf.PairKey, slots []uint32) error {
	if m.pairWrites == 0 && m.refusals != 0 {
		m.refusals--
		return errRefused
	}
	if m.pairWrites > 0 {
		m.pairWrites--
	}
	if delete(m.pairs, key); len(slots) > 0 {
		m.pairs[key] = slots
	}
	return nil
}

func (m *memory) RuleCounters(uint32) (bpf.RuleCounters, error) {
	if m.countReads == 0 {
		return bpf.RuleCounters{}, errRefused
	}
	m.countReads--
	return bpf.RuleCounters{}, nil
}

// remembered is a fabric of ports that there are only in memory.
func remembered(ports int) (*Fabric, *memory) {
	m := newMemory()
	f := &Fabric{ports: map[string]*port{}, rules: newRuleSet(m)}
	addPorts(f, ports)
	return f, m
}

func addPorts(f *Fabric, count int) {
	for len(f.ports) < count {
		name := fmt.Sprintf("p%d", len(f.ports))
		f.ports[name] = &port{Port: Port{Name: name}, number: uint32(len(f.ports))}
	}
}

// between are rules for every ordered pair of ports.
func between(f *Fabric) []Rule {
	var out []Rule
	for a := range f.ports {
		for b := range f.ports {
			if a != b {
				out = append(out, Rule{ID: a + ">" + b, From: a, To: b, Cut: true})
			}
		}
	}
	return out
}

func TestSixtyNodesTakeARuleForEachPairAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	addPorts(b.Fabric, 60)
	rules := between(b.Fabric)
	require.Len(t, rules, 3540)
	started := time.Now()
	require.NoError(t, b.Add(rules...))
	added := time.Since(started)
	require.Less(t, added, 2*time.Second)
	b.fails("a", "b", 100)
	require.Equal(t, uint64(2), b.rule("a>b").DroppedPackets)
	started = time.Now()
	require.NoError(t, b.Remove(ruleIDs(rules)...))
	removed := time.Since(started)
	require.Less(t, removed, 2*time.Second)
	require.Equal(t, uint64(2), b.rule("a>b").DroppedPackets, "they leave their counters")
	require.Empty(t, b.rules.pairs)
	b.passes("a", "b", 100)
	started = time.Now()
	for _, r := range rules {
		require.NoError(t, b.Set(r))
	}
	require.Less(t, time.Since(started), 5*time.Second)
	t.Logf("%d rules added in %s, removed in %s, set one by one in %s", len(rules), added, removed, time.Since(started))
	b.fails("a", "b", 100)
}

func TestAddAndRemoveTakeAllOrNone(t *testing.T) {
	t.Parallel()
	f, m := remembered(4)
	cut := func(from, to string) Rule { return Rule{ID: from + ">" + to, From: from, To: to, Cut: true} }
	require.NoError(t, f.Add())
	require.NoError(t, f.Remove())
	require.NoError(t, f.Add(cut("p0", "p1"), cut("", "p2")))
	before := maps.Clone(m.pairs)
	require.Len(t, before, 4)
	for name, test := range map[string]struct {
		change func() error
		want   string
	}{
		"an ID that is taken":  {func() error { return f.Add(cut("p2", "p3"), cut("p0", "p1")) }, "add rules: there is one of the ID p0>p1"},
		"an ID twice":          {func() error { return f.Add(cut("p2", "p3"), cut("p2", "p3")) }, "add rules: p2>p3 is there twice"},
		"no such port":         {func() error { return f.Add(cut("p2", "p3"), cut("p2", "p9")) }, `no port "p9"`},
		"a rule of no effect":  {func() error { return f.Add(cut("p2", "p3"), Rule{ID: "nothing"}) }, "does nothing"},
		"no such rule":         {func() error { return f.Remove("p0>p1", "p1>p0") }, "remove rules: there is none of the ID p1>p0"},
		"one to remove, twice": {func() error { return f.Remove("p0>p1", "p0>p1") }, "remove rules: p0>p1 is there twice"},
	} {
		require.ErrorContains(t, test.change(), test.want, name)
		require.Equal(t, before, m.pairs, name)
		require.Len(t, f.rules.entries, 2, name)
	}
	require.NoError(t, f.Remove("p0>p1", ">p2"))
	require.Empty(t, m.pairs)
	require.Len(t, f.rules.free, bpf.MaxRules)
}

func TestNoMoreRulesThanSlots(t *testing.T) {
	t.Parallel()
	f, m := remembered(65)
	rules := between(f)
	require.Greater(t, len(rules), bpf.MaxRules)
	require.ErrorContains(t, f.Add(rules...), "4160 more at once, 0 hold and only 4096 of 4096 slots are free")
	require.Empty(t, m.pairs)
	require.NoError(t, f.Add(rules[:bpf.MaxRules]...))
	require.ErrorContains(t, f.Add(rules[bpf.MaxRules]), "only 0 of 4096")
}

func TestAChangeThatFailsHalfWayPutsThePairsBack(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*memory){
		"at the first pair":        func(m *memory) { m.pairWrites, m.refusals = 0, 1 },
		"at the fifth pair":        func(m *memory) { m.pairWrites, m.refusals = 4, 1 },
		"at the first's counters":  func(m *memory) { m.countReads = 0 },
		"at the second's counters": func(m *memory) { m.countReads = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, m := remembered(4)
			old := []Rule{{ID: "all", LossRatio: 0.5}, {ID: "one", From: "p0", DropLarger: 1400}}
			require.NoError(t, f.Add(old...))
			pairs, entries, free := maps.Clone(m.pairs), maps.Clone(f.rules.entries), len(f.rules.free)
			fail(m)
			require.ErrorIs(t, f.Apply([]Rule{{ID: "all", Cut: true}, {ID: "new", From: "p1", To: "p2", Cut: true}}), errRefused)
			require.Equal(t, pairs, m.pairs)
			require.Equal(t, pairs, f.rules.pairs)
			require.Equal(t, entries, f.rules.entries)
			require.Len(t, f.rules.free, free)
			require.Empty(t, f.rules.past)
			m.countReads, m.pairWrites = -1, -1
			require.NoError(t, f.Remove("one"))
			require.NoError(t, f.Apply(nil))
			require.Empty(t, m.pairs)
			require.Len(t, f.rules.free, bpf.MaxRules)
		})
	}
}

// What cannot even be put back keeps its slots until it can.
func TestSlotsThatPairsMayNameAreNotGivenOut(t *testing.T) {
	t.Parallel()
	f, m := remembered(3)
	m.pairWrites, m.refusals = 3, -1
	require.ErrorContains(t, f.Add(Rule{ID: "all", Cut: true}), "put back what held before")
	require.Len(t, m.pairs, 3)
	require.Empty(t, f.rules.entries)
	require.Len(t, f.rules.free, bpf.MaxRules-1)
	m.pairWrites = -1
	require.NoError(t, f.Set(Rule{ID: "one", From: "p0", To: "p1", Cut: true}))
	require.Equal(t, map[bpf.PairKey][]uint32{{From: 0, To: 1}: {f.rules.entries["one"].slot}}, m.pairs)
	require.Len(t, f.rules.free, bpf.MaxRules-1)
	require.Empty(t, f.rules.held)
}
