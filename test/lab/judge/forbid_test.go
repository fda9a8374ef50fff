// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

func TestFalseAlarms(t *testing.T) {
	t.Parallel()
	const effect = "eeee000011112222"
	device := func(node, name string) *apiv1.Scope {
		return &apiv1.Scope{Kind: "Device", Nodes: []string{node}, Device: name}
	}
	strict := []string{Proven, Likely}
	tests := []struct {
		name    string
		forbid  []string
		late    bool // the fault comes at 10 s
		looks   []look
		grade   string // of the one false alarm; "" for none
		at      float64
		because string
	}{
		{name: "nothing at all", forbid: strict},
		{name: "the expected one is covered", forbid: strict, looks: []look{{20, []v{{proven: 3}}, ""}}},
		{name: "covered although it came too late", forbid: strict, looks: []look{{50, []v{{proven: 45}}, ""}}},
		{
			name: "another signature", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, suspected: 2, likely: 3}}, ""}},
			grade: Likely, at: 3, because: "no expectation names network/path-loss",
		},
		{
			name: "the highest grade that it reached is told", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, suspected: 2, likely: 3, proven: 4}}, ""}},
			grade: Proven, at: 4,
		},
		{name: "a grade that is not forbidden", forbid: strict, looks: []look{{20, []v{{signature: pathLoss, suspected: 2}}, ""}}},
		{
			name: "proven at once has been likely", forbid: []string{Likely},
			looks: []look{{20, []v{{signature: pathLoss, proven: 3}}, ""}}, grade: Likely, at: 3,
		},
		{name: "nothing is forbidden", looks: []look{{20, []v{{signature: pathLoss, proven: 3}}, ""}}},
		{
			name: "the right signature elsewhere", forbid: strict,
			looks: []look{{20, []v{{proven: 3, scope: zones("a", "c")}}, ""}},
			grade: Proven, at: 3, because: "expectation 0 does not cover it: it appeared elsewhere: its zones are a, c, not a, b",
		},
		{name: "likely on its way to the expected proven", forbid: strict, looks: []look{{4, []v{{suspected: 2, likely: 3}}, ""}, {20, []v{{suspected: 2, likely: 3, proven: 9}}, ""}}},
		{
			name: "likely that never becomes the expected proven", forbid: strict,
			looks: []look{{20, []v{{suspected: 2, likely: 3}}, ""}},
			grade: Likely, at: 3, because: "expectation 0 does not cover it: it reached likely, not proven",
		},
		{
			name: "it was forbidden and has long been resolved", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, likely: 3, state: "resolved", resolved: 5}}, ""}}, grade: Likely, at: 3,
		},
		{
			name: "it was forbidden before an aggregator forgot it", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, likely: 3}}, ""}, {25, nil, ""}, {40, []v{{signature: pathLoss, suspected: 30}}, ""}}, grade: Likely, at: 3,
		},
		{
			name: "it was likely while it was pending", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, likely: 3, state: "pending"}}, ""}, {21, nil, ""}}, grade: Likely, at: 3,
		},
		{
			name: "a stale verdict counts by what it reached", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, likely: 3, state: "stale"}}, ""}}, grade: Likely, at: 3,
		},
		{name: "a refuted verdict is never one", forbid: []string{Suspected, Likely, Proven}, looks: []look{{-1, []v{{signature: pathLoss, state: "refuted"}}, ""}, {20, []v{{signature: pathLoss, state: "refuted"}}, ""}}},
		{
			name: "likely, and refuted later", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, likely: 3}}, ""}, {60, []v{{signature: pathLoss, likely: 3, state: "refuted", resolved: 50}}, ""}}, grade: Likely, at: 3,
		},
		{
			name:  "any verdict during settle, whatever forbid says",
			looks: []look{{-1, []v{{suspected: -2}}, ""}}, grade: Suspected, at: -2, because: "it appeared 2.0 s before the end of settle, when nothing was wrong",
		},
		{
			name:  "during settle, gone again before it ended",
			looks: []look{{-2, []v{{suspected: -3, state: "pending"}}, ""}, {-1, nil, ""}}, grade: Suspected, at: -3,
		},
		{
			name: "during settle, though it is proven as expected later", forbid: strict,
			looks: []look{{20, []v{{suspected: -1, proven: 3}}, ""}}, grade: Suspected, at: -1,
		},
		{
			name: "it came after settle and before the late fault", forbid: strict, late: true,
			looks: []look{{30, []v{{signature: "late", likely: 3}}, ""}}, grade: Likely, at: 3,
		},
		{
			name: "likely before the late fault, proven as expected after it", forbid: strict, late: true,
			looks: []look{{30, []v{{likely: 3, proven: 12}}, ""}}, grade: Likely, at: 3, because: "it was likely 7.0 s before the first fault",
		},

		{
			name: "a consequence on the same scope", forbid: strict,
			looks: []look{{20, []v{{proven: 3, consequences: []string{effect}}, {id: effect, signature: pathLoss, proven: 4}}, ""}},
		},
		{
			name: "a consequence by the name of its signature", forbid: strict,
			looks: []look{{20, []v{{proven: 3, consequences: []string{pathLoss}}, {id: effect, signature: pathLoss, proven: 4}}, ""}},
		},
		{
			name: "a consequence on a narrower scope", forbid: strict,
			looks: []look{{20, []v{{proven: 3, consequences: []string{effect}}, {id: effect, signature: pathLoss, proven: 4, scope: device("n1", "eth0")}}, ""}},
		},
		{
			name: "a consequence on a wider scope", forbid: strict,
			looks: []look{{20, []v{{proven: 3, consequences: []string{effect}}, {id: effect, signature: pathLoss, proven: 4, scope: &apiv1.Scope{Kind: "Cluster", Nodes: []string{"n1", "n3"}}}}, ""}},
			grade: Proven, at: 4, because: "it is a consequence of network/mtu-black-hole, but on a scope that is not within that one's",
		},
		{
			name: "a consequence on another node", forbid: strict,
			looks: []look{{20, []v{{proven: 3, consequences: []string{effect}}, {id: effect, signature: pathLoss, proven: 4, scope: device("n2", "eth0")}}, ""}},
			grade: Proven, at: 4,
		},
		{
			name: "it was a consequence once, and the cause is resolved", forbid: strict,
			looks: []look{
				{20, []v{{proven: 3, consequences: []string{effect}}, {id: effect, signature: pathLoss, suspected: 4}}, ""},
				{50, []v{{proven: 3, state: "resolved", resolved: 45}, {id: effect, signature: pathLoss, suspected: 4, likely: 46}}, ""},
			},
		},
		{
			name: "a consequence of one that meets no expectation", forbid: []string{Proven},
			looks: []look{{20, []v{{likely: 3, consequences: []string{effect}}, {id: effect, signature: pathLoss, proven: 4}}, ""}},
			grade: Proven, at: 4, because: "no expectation names network/path-loss",
		},
		{
			name: "a consequence of a consequence", forbid: strict,
			looks: []look{{20, []v{
				{proven: 3, consequences: []string{effect}},
				{id: effect, signature: pathLoss, likely: 4, consequences: []string{"ffff00"}},
				{id: "ffff00", signature: "x/y", likely: 5},
			}, ""}},
			grade: Likely, at: 5,
		},
		{
			name: "the second aggregator never got there", forbid: strict,
			looks: []look{{20, []v{{proven: 3}}, "agg1"}, {20, []v{{likely: 4}}, "agg2"}},
		},
		{
			name: "two aggregators tell of one false alarm", forbid: strict,
			looks: []look{{20, []v{{signature: pathLoss, likely: 5}}, "agg1"}, {20, []v{{signature: pathLoss, likely: 4}}, "agg2"}}, grade: Likely, at: 4,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := plain(expected(), scenario.Expectation{Signature: "late"})
			s.Forbid = tt.forbid
			o := whole(history(t, tt.looks...))
			if tt.late {
				o.Faults[0].InjectedAt = at(10)
			}
			got := Judge(s, o).Unexpected
			if tt.grade == "" {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, tt.grade, got[0].Grade)
			require.WithinDuration(t, at(tt.at), got[0].At, time.Microsecond)
			require.Contains(t, got[0].Because, tt.because)
			require.NotEmpty(t, got[0].Because)
			require.NotEmpty(t, got[0].ID)
		})
	}
}

func TestFalseAlarmsWhenSettleWasNotOver(t *testing.T) {
	t.Parallel()
	s := plain(expected())
	o := Observation{RunEnd: at(-1), Faults: make([]Fault, 1), History: history(t, look{-1, []v{{suspected: -2}}, ""}), Ending: TimedOut}
	j := Judge(s, o)
	require.Len(t, j.Unexpected, 1)
	require.Equal(t, []int{0}, j.Undecided)
	require.False(t, j.OK)
}

func TestNoSettleNoFalseAlarmInIt(t *testing.T) {
	t.Parallel()
	s := plain()
	s.Settle = 0
	require.True(t, Judge(s, whole(history(t, look{20, []v{{suspected: -2}}, ""}))).OK)
}

func TestScopesWithinScopes(t *testing.T) {
	t.Parallel()
	node := Scope{Kind: "Node", Nodes: []string{"n1"}, Zones: []string{"a"}}
	device := Scope{Kind: "Device", Nodes: []string{"n1"}, Device: "eth0"}
	pod := Scope{Kind: "Pod", Nodes: []string{"n1"}, Pod: "p1"}
	veth := Scope{Kind: "Device", Nodes: []string{"n1"}, Device: "eth0", Pod: "p1"}
	pair := Scope{Kind: "NodePair", Nodes: []string{"n1", "n3"}}
	zonePair := Scope{Kind: "ZonePair", Zones: []string{"a", "b"}, Nodes: []string{"n1", "n2", "n3"}}
	zone := Scope{Kind: "Zone", Zones: []string{"a"}, Nodes: []string{"n1", "n2"}}
	pool := Scope{Kind: "Pool", Pool: "gpu", Nodes: []string{"n1", "n2"}}
	cluster := Scope{Kind: "Cluster", Nodes: []string{"n1", "n2", "n3"}}
	other := Scope{Kind: "Node", Nodes: []string{"n9"}}
	tests := []struct {
		name      string
		in, scope Scope
		want      bool
	}{
		{"the same node", node, node, true},
		{"another node", node, other, false},
		{"a device of the node", node, device, true},
		{"a pod of the node", node, pod, true},
		{"the node of the device", device, node, false},
		{"the pod of the device", veth, pod, false},
		{"the device of the pod", pod, veth, true},
		{"the node's device of the same name", pod, device, false},
		{"another device", device, Scope{Kind: "Device", Nodes: []string{"n1"}, Device: "eth1"}, false},
		{"a node of the pair", pair, node, true},
		{"a pair of the zones", zonePair, pair, true},
		{"the zones of a pair", pair, zonePair, false},
		{"one of the two zones", zonePair, zone, true},
		{"both zones of one", zone, zonePair, false},
		{"a node of the pool", pool, node, true},
		{"another pool with the same nodes", pool, Scope{Kind: "Pool", Pool: "cpu", Nodes: []string{"n1", "n2"}}, false},
		{"all are in the cluster", cluster, zonePair, true},
		{"the cluster is in no pool", pool, cluster, false},
		{"zones without nodes", Scope{Kind: "ZonePair", Zones: []string{"a", "b"}}, Scope{Kind: "ZonePair", Zones: []string{"b", "a"}}, true},
		{"nothing known of where", node, Scope{Kind: "Node"}, false},
		{"a kind that is unknown here, and the same", Scope{Kind: "Rack", Nodes: []string{"n1", "n2"}}, Scope{Kind: "Rack", Nodes: []string{"n1"}}, true},
		{"a kind that is unknown here, and another", Scope{Kind: "Rack", Nodes: []string{"n1"}}, node, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, tt.scope.within(tt.in))
		})
	}
}
