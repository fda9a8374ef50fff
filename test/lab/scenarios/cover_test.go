// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

func TestEveryFaultKindHasAScenario(t *testing.T) {
	t.Parallel()
	all := library(t)
	for _, kind := range scenario.Kinds() {
		require.NotEmpty(t, which(all, anyFault(func(f scenario.Fault) bool { return f.Kind == kind })), kind)
	}
}

// What the table of faults lets a kind do in more than one way.
func TestEveryModeOfAFaultHasAScenario(t *testing.T) {
	t.Parallel()
	type way struct {
		name  string
		match func(scenario.Fault) bool
	}
	ways := []way{
		{"a black hole", func(f scenario.Fault) bool { return f.Kind == scenario.PathDropLarger && !f.ICMP }},
		{"a smaller path that says so", func(f scenario.Fault) bool { return f.Kind == scenario.PathDropLarger && f.ICMP }},
		{"one direction only", func(f scenario.Fault) bool { return f.Direction == scenario.Forward }},
		{"a path between two nodes", func(f scenario.Fault) bool {
			return len(f.Between) == 2 && len(f.Nodes) == 2 && f.BetweenNames[0] == f.Nodes[0]
		}},
		{"a clock that is stepped", func(f scenario.Fault) bool { return f.Kind == scenario.ClockOffset && f.Step && f.Offset != 0 }},
		{"a clock that is off without a step", func(f scenario.Fault) bool { return f.Kind == scenario.ClockOffset && !f.Step }},
		{"a clock that drifts", func(f scenario.Fault) bool { return f.Kind == scenario.ClockOffset && f.Drift != 0 }},
		{"one time server cut", func(f scenario.Fault) bool { return f.Kind == scenario.NTPCut && f.Server >= 0 }},
		{"every time server cut", func(f scenario.Fault) bool { return f.Kind == scenario.NTPCut && f.Server < 0 }},
		{"a slow fsync", func(f scenario.Fault) bool { return f.Kind == scenario.DiskSlow && f.Fsync > 0 }},
		{"a capped disk", func(f scenario.Fault) bool { return f.Kind == scenario.DiskSlow && f.IOPS > 0 }},
		{"a disk with a neighbour", func(f scenario.Fault) bool { return f.Kind == scenario.DiskSlow && f.Neighbour }},
		{"a slow API for all", func(f scenario.Fault) bool { return f.Kind == scenario.APISlow && f.Zone == "" }},
		{"a slow API for a zone", func(f scenario.Fault) bool { return f.Kind == scenario.APISlow && f.Zone != "" }},
	}
	for _, in := range []string{"node", "pod"} {
		ways = append(ways, way{"icmp-filter in " + in, func(f scenario.Fault) bool { return f.Kind == scenario.ICMPFilter && f.In == in }})
	}
	for _, mode := range []string{"timeout", "refuse", "http-500", "throttle", "disabled", "hop-limit", "impostor", "policy-block"} {
		ways = append(ways, way{"imds " + mode, func(f scenario.Fault) bool { return f.Kind == scenario.IMDS && f.Mode == mode }})
	}
	for _, mode := range []string{"all", "large"} {
		ways = append(ways, way{"dns-broken " + mode, func(f scenario.Fault) bool { return f.Kind == scenario.DNSBroken && f.Mode == mode }})
	}
	all := library(t)
	for _, w := range ways {
		require.NotEmpty(t, which(all, anyFault(w.match)), w.name)
	}
}

func TestEveryShapeOfAClusterHasAScenario(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*scenario.Scenario) bool{
		"IPv6":            func(s *scenario.Scenario) bool { return s.Family == scenario.IPv6 },
		"two aggregators": func(s *scenario.Scenario) bool { return s.Aggregators == 2 },
		"no overlay":      func(s *scenario.Scenario) bool { return s.Overlay.Kind == "none" },
		"DF unset":        func(s *scenario.Scenario) bool { return s.Overlay.DF == "unset" && !s.Overlay.LowerDevice },
		"DF set":          func(s *scenario.Scenario) bool { return s.Overlay.DF == "set" },
		"DF inherited":    func(s *scenario.Scenario) bool { return s.Overlay.DF == "inherit" },
		"a lower device":  func(s *scenario.Scenario) bool { return s.Overlay.LowerDevice },
		"a control plane": func(s *scenario.Scenario) bool { return len(s.ControlPlaneNodes()) > 0 },
		"nine nodes":      func(s *scenario.Scenario) bool { return len(s.Nodes) == 9 && len(s.Zones()) == 3 },
		"pools":           func(s *scenario.Scenario) bool { return len(s.Pools()) > 1 },
		"no fault at all": func(s *scenario.Scenario) bool { return len(s.Faults) == 0 },
		"traffic of nodes": func(s *scenario.Scenario) bool {
			return slices.ContainsFunc(s.Traffic, func(f scenario.Traffic) bool { return f.Plane == "node" })
		},
		"two causes at once": func(s *scenario.Scenario) bool {
			ids := named(s)
			return len(ids) > 1 && !s.Pending && slices.Contains(ids, "network/mtu-overlay-mismatch") && slices.Contains(ids, "identity/clock-skew")
		},
	}
	for _, cloud := range []scenario.Cloud{scenario.AWS, scenario.Azure, scenario.GCP, scenario.NoCloud} {
		tests["cloud "+string(cloud)] = func(s *scenario.Scenario) bool { return s.Cloud == cloud }
	}
	for _, kind := range []string{"tcp", "http", "udp", "dns"} {
		tests["traffic "+kind] = func(s *scenario.Scenario) bool {
			return slices.ContainsFunc(s.Traffic, func(f scenario.Traffic) bool { return f.Kind == kind })
		}
	}
	all := library(t)
	for name, match := range tests {
		require.NotEmpty(t, which(all, match), name)
	}
}

func TestEveryShippedSignatureIsProvenByOneScenarioAndRefutedByAnother(t *testing.T) {
	t.Parallel()
	all := library(t)
	now := slices.DeleteFunc(slices.Clone(all), func(s *scenario.Scenario) bool { return s.Pending })
	for _, id := range shipped(t) {
		proves := func(e scenario.Expectation) bool { return e.Signature == id && e.Grade == "proven" }
		require.NotEmpty(t, which(now, anyExpected(proves)), "%s is proven", id)
		require.NotEmpty(t, which(now, anyExpected(func(e scenario.Expectation) bool { return proves(e) && e.ClearsWithin > 0 })), "%s is cleared", id)
		require.NotEmpty(t, which(now, func(s *scenario.Scenario) bool {
			return slices.Contains(s.Forbid, "proven") &&
				slices.ContainsFunc(s.Expect, func(e scenario.Expectation) bool { return e.Refuted == id }) &&
				!slices.ContainsFunc(s.Expect, func(e scenario.Expectation) bool { return e.Signature == id })
		}), "%s is refuted under its confounder, and forbidden there", id)
	}
}

// Shipping a signature means to unmark the scenarios that wait for it.
func TestAScenarioIsPendingExactlyWhenItExpectsASignatureThatDoesNotShip(t *testing.T) {
	t.Parallel()
	have := shipped(t)
	for _, s := range library(t) {
		var missing []string
		for _, id := range named(s) {
			if !slices.Contains(have, id) {
				missing = append(missing, id)
			}
		}
		if s.Pending {
			require.NotEmpty(t, missing, "%s waits for nothing: remove pending, or what it only forbids is not checked", s.Name)
			continue
		}
		require.Empty(t, missing, "%s expects what the product cannot say yet: mark it pending", s.Name)
	}
}

func TestEverySignatureThatIsNamedShipsOrIsToCome(t *testing.T) {
	t.Parallel()
	have, awaited := shipped(t), map[string]bool{}
	for _, s := range library(t) {
		for _, id := range named(s) {
			if slices.Contains(have, id) {
				continue
			}
			require.Contains(t, toCome(), id, "%s names no signature of the catalogue", s.Name)
			awaited[id] = true
		}
	}
	for _, id := range toCome() {
		require.NotContains(t, have, id, "%s ships: take it from the list of those to come", id)
		require.True(t, awaited[id], "no scenario waits for %s", id)
	}
}

// The core set is run by every `make test`.
func TestTheCoreSetIsSmallAndCoversWhatShips(t *testing.T) {
	t.Parallel()
	var core []*scenario.Scenario
	var total time.Duration
	for _, name := range Core() {
		s, err := Load(name)
		require.NoError(t, err)
		require.False(t, s.Pending, name)
		core = append(core, s)
		// A cluster takes some 10 s to come up on a loaded machine.
		total += 10*time.Second + s.Settle + s.RunFor()
	}
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(Core()))), len(Core()), "each once")
	require.LessOrEqual(t, len(core), 13)
	require.LessOrEqual(t, total/3, 6*time.Minute, "at three side by side")
	for _, id := range shipped(t) {
		require.NotEmpty(t, which(core, anyExpected(func(e scenario.Expectation) bool {
			return e.Signature == id && e.Grade == "proven" && e.ClearsWithin > 0
		})), "%s proven and cleared", id)
	}
	for what, match := range map[string]func(*scenario.Scenario) bool{
		"a healthy cluster": func(s *scenario.Scenario) bool { return len(s.Faults) == 0 && len(s.ControlPlaneNodes()) > 0 },
		"IPv6":              func(s *scenario.Scenario) bool { return s.Family == scenario.IPv6 },
		"two aggregators":   func(s *scenario.Scenario) bool { return s.Aggregators == 2 },
		"a bad identity": anyFault(func(f scenario.Fault) bool {
			return f.Kind == scenario.TokenWrongNode || f.Kind == scenario.TokenExpired
		}),
		"a lying time server": anyFault(func(f scenario.Fault) bool { return f.Kind == scenario.NTPLies }),
		"QUIC probes":         anyFault(func(f scenario.Fault) bool { return f.Kind == scenario.QUICProbes }),
	} {
		require.NotEmpty(t, which(core, match), what)
	}
}
