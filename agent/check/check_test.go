// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func report() *Report {
	s := &evidence.Sample{}
	o := s.Observe(evidence.Node(), "x")
	o.Integer(evidence.ClockGroupsTotal, 2)
	evidence.Unknown(o, evidence.ClockOffsetSeconds, evidence.Blind, "no time server is configured; give one with --time-server")
	evidence.NotApplicable(o, evidence.ClockStepSeconds, "no step")
	r := &Report{Version: "v1", Kernel: "6.1.0", Architecture: "amd64"}
	r.Fill(ledger.Snapshot{
		Probes:       []*evidencev1.ProbeStatus{{Name: "clock", State: evidencev1.ProbeStatus_OK}},
		Observations: []*evidencev1.Observation{{Probe: "clock", Subject: evidence.Node().Proto(), Items: o.Items}},
	}, []probe.Hook{
		{Signal: "clock.steps", Rung: "timerfd", Confirmed: true},
		{Signal: "oversize.drop", Rung: "tp_btf/kfree_skb:4", Detail: "attached, but no self-test event came through"},
	}, evidence.NewCatalog())
	return r
}

func TestAHookThatWasNotConfirmedIsBlind(t *testing.T) {
	r := report()
	require.True(t, r.Signals[0].Active)
	require.False(t, r.Signals[1].Active)
	require.Equal(t, 1, r.Blind)
}

func TestReportNamesWhatIsUnknownAndWhy(t *testing.T) {
	r := report()
	require.Equal(t, 1, r.Probes[0].Values)
	require.Equal(t, 1, r.Probes[0].NotApplicable)
	require.Equal(t, []Unknown{{
		Reason: "blind", Detail: "no time server is configured; give one with --time-server",
		Items: []string{"clock.offset_seconds"}, Subjects: 1,
	}}, r.Probes[0].Unknown)

	var table bytes.Buffer
	require.NoError(t, r.WriteTable(&table))
	require.Contains(t, table.String(), "--time-server")
	require.Contains(t, table.String(), "blind")

	var raw bytes.Buffer
	require.NoError(t, r.WriteJSON(&raw))
	var back Report
	require.NoError(t, json.Unmarshal(raw.Bytes(), &back))
	require.Equal(t, *r, back)
}

func TestCapabilitiesAreReadFromTheEffectiveSet(t *testing.T) {
	tests := []struct {
		name, status string
		held         []string
		err          string
	}{
		{name: "root has all", status: "Name:\tx\nCapEff:\t000001ffffffffff\n", held: []string{"BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYSLOG", "SYS_PTRACE", "SYS_ADMIN"}},
		{name: "an ordinary user has none", status: "CapEff:\t0000000000000000\n"},
		{name: "the pod recipe", status: "CapEff:\t000000c400083000\n", held: []string{"BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYSLOG", "SYS_PTRACE"}},
		{name: "no line", status: "Name:\tx\n", err: "no CapEff line"},
		{name: "no number", status: "CapEff:\tzz\n", err: "invalid syntax"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(root, "self"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(root, "self", "status"), []byte(tt.status), 0o644))
			caps, err := Capabilities(root)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			var held []string
			for _, c := range caps {
				require.NotEmpty(t, c.For)
				if c.Held {
					held = append(held, c.Name)
				}
			}
			require.Equal(t, tt.held, held)
		})
	}
}
