// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

func TestNothingIsProvenOrLikelyThatWasNotExpected(t *testing.T) {
	t.Parallel()
	// In these a verdict that is only likely is right; their files say why.
	right := []string{"kernel-fragments", "ntp-lies-two", "outer-fragmentation"}
	for _, s := range library(t) {
		require.Contains(t, s.Forbid, "proven", s.Name)
		require.Equal(t, !slices.Contains(right, s.Name), slices.Contains(s.Forbid, "likely"), s.Name)
		if !slices.Contains(s.Forbid, "likely") {
			data, err := FS.ReadFile(s.File)
			require.NoError(t, err)
			require.Regexp(t, `(?m)^  # .+\.\n  forbid:`, string(data), "%s says why it forbids less", s.Name)
		}
	}
}

func TestRunsAreShort(t *testing.T) {
	t.Parallel()
	all := library(t)
	long := 0
	for _, s := range all {
		// Settle has to be long enough for a false alarm to come.
		require.GreaterOrEqual(t, s.Settle, 3*time.Second, s.Name)
		require.LessOrEqual(t, s.Settle, 5*time.Second, s.Name)
		require.LessOrEqual(t, s.RunFor(), 90*time.Second, s.Name)
		if s.RunFor() > 30*time.Second {
			long++
		}
	}
	require.Less(t, 6*long, len(all), "most take at most 30 s")
}

func TestAnExpectationCanBeMetWithinTheRun(t *testing.T) {
	t.Parallel()
	// In these the product falls short of proof; their files say why.
	short := []string{"path-pmtu-df"}
	for _, s := range library(t) {
		require.True(t, len(s.Faults) > 0 || len(s.Expect) == 0, "%s: a healthy cluster has no verdicts", s.Name)
		for _, e := range s.Expect {
			if e.Refuted != "" {
				continue
			}
			if !slices.Contains(short, s.Name) {
				require.Equal(t, "proven", e.Grade, "%s: %s", s.Name, e.Signature)
			}
			require.NotZero(t, e.Within, "%s: %s", s.Name, e.Signature)
			require.NotEqual(t, scenario.Scope{}, e.Scope, "%s: %s says where", s.Name, e.Signature)
			require.LessOrEqual(t, s.Faults[e.Fault].At+e.Within, s.Duration, "%s: %s", s.Name, e.Signature)
			if until := s.Faults[e.Fault].Until; until >= 0 {
				require.LessOrEqual(t, s.Faults[e.Fault].At+e.Within, until, "%s: %s has its time before the mend", s.Name, e.Signature)
			}
		}
	}
}

// The budgets of ARCHITECTURE.md for what is still to come.
func TestExpectationsKeepToTheBudgets(t *testing.T) {
	t.Parallel()
	budgets := map[string]time.Duration{
		"network/mtu-black-hole":    15 * time.Second,
		"identity/imds-unreachable": 20 * time.Second,
		"controlplane/etcd-fsync":   20 * time.Second,
	}
	for _, s := range library(t) {
		for _, e := range s.Expect {
			if limit, ok := budgets[e.Signature]; ok {
				require.LessOrEqual(t, e.Within, limit, "%s: %s", s.Name, e.Signature)
			}
		}
	}
}

// Any verdict during settle is a false alarm, so nothing may be wrong with the
// cluster as it is described: every packet of a pod fits the overlay, and every
// packet of the overlay the underlay.
func TestAClusterIsHealthyAtFirst(t *testing.T) {
	t.Parallel()
	for _, s := range library(t) {
		overhead := 50
		if s.Family == scenario.IPv6 {
			overhead = 70
		}
		for _, n := range s.Nodes {
			room := n.UnderlayMTU
			if s.Overlay.Kind == "vxlan" {
				require.LessOrEqual(t, n.OverlayMTU+overhead, n.UnderlayMTU, "%s: %s", s.Name, n.Name)
				room = n.OverlayMTU
			}
			require.LessOrEqual(t, n.PodMTU, room, "%s: %s", s.Name, n.Name)
		}
		for _, f := range s.Faults {
			require.True(t, f.At < s.Duration, s.Name)
		}
	}
}

// A fault that no packet meets shows nothing.
func TestTrafficMeetsTheFault(t *testing.T) {
	t.Parallel()
	for _, s := range library(t) {
		require.NotEmpty(t, s.Traffic, s.Name)
		for _, f := range s.Faults {
			require.True(t, meets(s, f), "%s: no traffic meets %s", s.Name, f.Kind)
		}
	}
}

func meets(s *scenario.Scenario, f scenario.Fault) bool {
	switch {
	case f.Kind == scenario.DNSBroken:
		return slices.ContainsFunc(s.Traffic, func(t scenario.Traffic) bool { return t.Kind == "dns" && slices.Contains(f.Nodes, t.From) })
	case len(f.Between) == 2:
		pairs := scenario.Fault{Kind: scenario.PathCut, Between: f.Between, Direction: scenario.Both}.Pairs(s)
		return slices.ContainsFunc(s.Traffic, func(t scenario.Traffic) bool { return slices.Contains(pairs, [2]string{t.From, t.To}) })
	case strings.HasSuffix(string(f.Kind), "-mtu"), f.Kind == scenario.ICMPFilter, f.Kind == scenario.RingDrop, f.Kind == scenario.LinkDown, f.Kind == scenario.LinkFlap:
		return slices.ContainsFunc(s.Traffic, func(t scenario.Traffic) bool {
			return slices.Contains(f.Nodes, t.From) || slices.Contains(f.Nodes, t.To)
		})
	case f.Kind == scenario.ReceiverSlow, f.Kind == scenario.ReceiverFrozen:
		return slices.ContainsFunc(s.Traffic, func(t scenario.Traffic) bool { return t.Kind == "tcp" && slices.Contains(f.Nodes, t.To) })
	}
	return true
}

// Several labs run side by side on two processors.
func TestTrafficIsLight(t *testing.T) {
	t.Parallel()
	for _, s := range library(t) {
		var perSecond float64
		for _, f := range s.Traffic {
			perSecond += float64(max(f.Bytes, f.ResponseBytes)) / f.Every.Seconds()
			require.GreaterOrEqual(t, f.Every, 20*time.Millisecond, s.Name)
		}
		require.LessOrEqual(t, perSecond, 2.0*(1<<20), s.Name)
	}
}
