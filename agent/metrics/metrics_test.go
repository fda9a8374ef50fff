// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

type source []*evidence.Observation

func (s source) Full() ledger.Snapshot {
	var out ledger.Snapshot
	for _, o := range s {
		out.Observations = append(out.Observations, &evidencev1.Observation{Probe: "link", Subject: o.Subject.Proto(), Items: o.Items})
	}
	return out
}

func TestEvidenceAsMetrics(t *testing.T) {
	var sample evidence.Sample
	eth0 := sample.Observe(evidence.Subject{Kind: evidence.SubjectDevice, Key: "1/2", Name: "eth0"}, "rtnetlink")
	eth0.Integer(evidence.LinkMTUBytes, 1500)
	eth0.Text(evidence.LinkRole, "underlay")
	eth0.Flag(evidence.LinkUp, true)
	eth0.Integer(evidence.LinkReceiveDroppedTotal, 3)
	evidence.Unknown(eth0, evidence.LinkExpectedMTUBytes, evidence.Blind, "no remote")
	evidence.NotApplicable(eth0, evidence.LinkOverheadBytes, "not an overlay")
	inPod := sample.Observe(evidence.Subject{Kind: evidence.SubjectDevice, Key: "9/2", Name: "eth0", PodUID: "u"}, "rtnetlink")
	inPod.Integer(evidence.LinkMTUBytes, 1450)

	c := New(source(sample.Observations), evidence.NewCatalog(), false)
	want := `
# HELP plumb_link_mtu_bytes IFLA_MTU of the device.
# TYPE plumb_link_mtu_bytes gauge
plumb_link_mtu_bytes{pod_uid="",subject="eth0 [1/2]"} 1500
# HELP plumb_evidence_unknown_items Catalogued items that this agent cannot report now, by reason.
# TYPE plumb_evidence_unknown_items gauge
plumb_evidence_unknown_items{probe="link",reason="blind"} 1
# HELP plumb_link_receive_dropped_total IFLA_STATS64 rx_dropped.
# TYPE plumb_link_receive_dropped_total counter
plumb_link_receive_dropped_total{pod_uid="",subject="eth0 [1/2]"} 3
`
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want), "plumb_link_mtu_bytes", "plumb_evidence_unknown_items", "plumb_link_receive_dropped_total"))
	require.Zero(t, testutil.CollectAndCount(c, "plumb_link_expected_mtu_bytes"), "an unknown value has no sample")
	require.Equal(t, 1, testutil.CollectAndCount(c, "plumb_link_role_info"))
	require.Equal(t, 2, testutil.CollectAndCount(New(source(sample.Observations), evidence.NewCatalog(), true), "plumb_link_mtu_bytes"))

	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	for _, p := range problems {
		require.Contains(t, p.Text, "metric names should not contain", "%s: %s", p.Metric, p.Text)
	}
}
