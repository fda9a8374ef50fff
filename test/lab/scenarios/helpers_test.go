// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/signatures"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// library loads every built-in scenario.
func library(t *testing.T) []*scenario.Scenario {
	t.Helper()
	var out []*scenario.Scenario
	for _, name := range Names() {
		s, err := Load(name)
		require.NoError(t, err)
		out = append(out, s)
	}
	require.NotEmpty(t, out)
	return out
}

// shipped are the ids of the signatures that the product has.
func shipped(t *testing.T) []string {
	t.Helper()
	all, err := signature.LoadBuiltin(signatures.FS, evidence.NewCatalog())
	require.NoError(t, err)
	var out []string
	for _, s := range all {
		out = append(out, s.ID)
	}
	require.NotEmpty(t, out)
	return out
}

// toCome are the ids that scenarios wait for. One that ships leaves this list, and
// its scenarios are pending no more.
func toCome() []string {
	return []string{
		"controlplane/apiserver-latency",
		"controlplane/etcd-disk-cause",
		"controlplane/etcd-fsync",
		"identity/clock-drift",
		"identity/imds-hop-limit",
		"identity/imds-throttled",
		"identity/imds-unreachable",
		"identity/token-stalled",
		"network/dns",
		"network/interface-drops",
		"network/mtu-black-hole",
		"network/mtu-inconsistent-node",
		"network/outer-fragmentation",
		"network/path-loss",
		"network/pmtud-broken",
		"node/silent",
	}
}

// named are the ids that a scenario expects a verdict or a refutation of.
func named(s *scenario.Scenario) []string {
	var out []string
	for _, e := range s.Expect {
		if e.Refuted != "" {
			out = append(out, e.Refuted)
		} else {
			out = append(out, e.Signature)
		}
	}
	return out
}

// which returns the names of the scenarios that match.
func which(all []*scenario.Scenario, match func(*scenario.Scenario) bool) []string {
	var out []string
	for _, s := range all {
		if match(s) {
			out = append(out, s.Name)
		}
	}
	return out
}

func anyFault(match func(scenario.Fault) bool) func(*scenario.Scenario) bool {
	return func(s *scenario.Scenario) bool { return slices.ContainsFunc(s.Faults, match) }
}

func anyExpected(match func(scenario.Expectation) bool) func(*scenario.Scenario) bool {
	return func(s *scenario.Scenario) bool { return slices.ContainsFunc(s.Expect, match) }
}
