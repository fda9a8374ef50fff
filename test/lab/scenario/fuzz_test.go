// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(contract))
	f.Add([]byte(""))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("a: [1\nb: *x\n"))
	f.Add([]byte("{<<: [{a: 1}, {b: 2}], a: 2}"))
	for _, lines := range []string{
		"  overlay: {kind: none}\n  family: ipv6\n  forbid: [likely]\n",
		"  traffic: [{from: n1, to: n2, kind: udp, bytes: 1kB, plane: node}, {from: n3, kind: dns}]\n",
		"  expect: [{refuted: a/b}, {signature: c/d, scope: {kind: Zone, zones: [a], pool: p}, within: 5s}]\n",
	} {
		f.Add([]byte(small(lines)))
	}
	for _, fault := range []string{
		"kind: path-loss, ratio: 0.5, node: n1, direction: forward", "kind: clock-offset, offset: 1s, step: 2s", "kind: overlay-mtu, mtu: 1400, until: 10s",
		"kind: api-slow, delay: 1s, zone: a", "kind: disk-slow, neighbour: true", "kind: ntp-smear, server: 1", "kind: path-rate, bitsPerSecond: 1G, between: [a, n3]",
	} {
		f.Add([]byte(two(fault, fault)))
		f.Add([]byte(small("  faults: [{" + fault + "}]\n")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f.yaml", data)
		if err != nil {
			require.Nil(t, s)
			problem := &Problem{}
			require.ErrorAs(t, err, &problem)
			require.NotContains(t, err.Error(), "\n")
			require.Regexp(t, `^f\.yaml:[1-9][0-9]*:[1-9][0-9]*: .+: .+; .+$`, err.Error())
			require.LessOrEqual(t, problem.Line, strings.Count(string(data), "\n")+1)
			require.Less(t, len(err.Error()), 4000)
			return
		}
		sound(t, s)
	})
}

// sound checks what the lab relies on in every scenario that was accepted.
func sound(t *testing.T, s *Scenario) {
	names := s.NodeNames()
	require.NotEmpty(t, names)
	require.LessOrEqual(t, len(names), maxNodes)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(names))
	require.NotEmpty(t, s.Name)
	require.Positive(t, s.Duration)
	require.GreaterOrEqual(t, s.Settle.Nanoseconds(), int64(0))
	for _, n := range s.Nodes {
		require.Regexp(t, dnsLabel, n.Name)
		require.GreaterOrEqual(t, n.UnderlayMTU, minIPv4MTU)
		require.GreaterOrEqual(t, n.PodMTU, minIPv4MTU)
		require.LessOrEqual(t, max(n.UnderlayMTU, n.OverlayMTU, n.PodMTU), maxMTU)
		require.Equal(t, s.Overlay.Kind == none, n.OverlayMTU == 0)
		if s.Overlay.LowerDevice {
			require.LessOrEqual(t, n.OverlayMTU, n.UnderlayMTU-vxlanOverIPv4)
		}
	}
	for _, tr := range s.Traffic {
		require.Contains(t, names, tr.From)
		require.NotEqual(t, tr.From, tr.To)
		require.Equal(t, tr.Kind == "dns", tr.To == "")
		require.GreaterOrEqual(t, tr.Every, minEvery)
	}
	for _, f := range s.Faults {
		require.Contains(t, Kinds(), f.Kind)
		require.True(t, !f.Ends() || f.Until > f.At)
		require.Less(t, f.At, s.RunFor())
		require.Equal(t, f.Kind == AggregatorKill, len(f.Nodes) == 0)
		require.Subset(t, append(names, ""), append([]string{""}, f.Nodes...))
		require.Contains(t, []int{0, 2}, len(f.Between))
		require.Len(t, f.BetweenNames, len(f.Between))
		portFault := isPath(f.Kind) && f.Selected && f.Between == nil
		require.Equal(t, isPath(f.Kind) && !portFault, len(f.Pairs(s)) > 0)
		require.Positive(t, f.Line)
		require.Positive(t, f.Column)
	}
	for _, e := range s.Expect {
		require.NotEqual(t, e.Signature == "", e.Refuted == "")
		require.True(t, e.Fault == 0 || e.Fault < len(s.Faults))
		if e.ClearsWithin > 0 {
			require.True(t, s.Faults[e.Fault].Ends())
		}
	}
}
