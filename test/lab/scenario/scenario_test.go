// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAScenarioAnswersForItsNodes(t *testing.T) {
	t.Parallel()
	s := read1(t, spec("  nodes: [{name: n1, zone: b, pool: p}, {name: n2, zone: a, controlPlane: true}, {name: n3}, {name: n4, zone: b, controlPlane: true, pool: q}]\n"))
	require.Equal(t, []string{"n1", "n2", "n3", "n4"}, s.NodeNames())
	require.Equal(t, []string{"b", "a"}, s.Zones())
	require.Equal(t, []string{"p", "q"}, s.Pools())
	require.Equal(t, []string{"n1", "n4"}, s.NodesInZone("b"))
	require.Equal(t, []string{"n3"}, s.NodesInZone(""))
	require.Empty(t, s.NodesInZone("c"))
	require.Equal(t, []string{"n2", "n4"}, s.ControlPlaneNodes())
	n, ok := s.Node("n4")
	require.True(t, ok)
	require.Equal(t, "q", n.Pool)
	_, ok = s.Node("n5")
	require.False(t, ok)
}

func TestPairsOfAPathFault(t *testing.T) {
	t.Parallel()
	tests := []struct{ fault, want string }{
		{"kind: path-cut, between: [a, b]", "n1>n3 n2>n3 n3>n1 n3>n2"},
		{"kind: path-cut, between: [a, b], direction: forward", "n1>n3 n2>n3"},
		{"kind: path-cut, between: [a, b], direction: reverse", "n3>n1 n3>n2"},
		{"kind: path-cut, between: [n1, n2]", "n1>n2 n2>n1"},
		{"kind: path-cut, between: [n1, b], direction: forward", "n1>n3"},
		{"kind: path-cut, between: [a, n1]", "n2>n1 n1>n2"},
		{"kind: path-cut", "n1>n2 n1>n3 n2>n1 n2>n3 n3>n1 n3>n2"},
		{"kind: path-cut, node: n1", ""},
		{"kind: quic-probes, between: [a, b]", ""},
		{"kind: agent-kill", ""},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			s := read1(t, small("  faults: [{"+tt.fault+"}]\n"))
			var got []string
			for _, p := range s.Faults[0].Pairs(s) {
				got = append(got, p[0]+">"+p[1])
			}
			require.Equal(t, tt.want, strings.Join(got, " "))
		})
	}
}

func TestTheRunLastsUntilTheLastFaultMayHaveCleared(t *testing.T) {
	t.Parallel()
	tests := []struct {
		lines string
		want  time.Duration
	}{
		{"", 60 * time.Second},
		{"  faults: [{kind: path-cut}]\n", 60 * time.Second},
		{"  faults: [{kind: path-cut, until: 20s}]\n  expect: [{signature: a/b, clearsWithin: 30s}]\n", 60 * time.Second},
		{"  faults: [{kind: path-cut, until: 40s}]\n  expect: [{signature: a/b, clearsWithin: 30s}]\n", 70 * time.Second},
		{"  faults: [{kind: path-cut, until: 90s}]\n", 90 * time.Second},
		{"  faults: [{kind: path-cut, until: 40s}, {kind: agent-kill, at: 65s}]\n  expect: [{signature: a/b, clearsWithin: 30s}]\n", 70 * time.Second},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, read1(t, small(tt.lines)).RunFor(), tt.lines)
	}
}

func TestSixtyNodesAndNotOneMore(t *testing.T) {
	t.Parallel()
	cluster := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "  - {name: n%d, zone: %q}\n", i, string(rune('a'+i%3)))
		}
		return spec("  faults: [{kind: path-cut, node: n0, direction: forward}, {kind: path-cut, node: n59, direction: forward}]\n  nodes:\n" + b.String())
	}
	require.Len(t, read1(t, cluster(60)).Nodes, 60)
	_, err := Parse("f.yaml", []byte(cluster(61)))
	require.EqualError(t, err, "f.yaml:67:5: spec has 61 nodes: the limit is 60; remove some")
}

func TestObjectsAreFoundBesideTheFile(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"cluster.yaml": "dir/cluster.yaml", "../x.yaml": "x.yaml", "/abs/x.yaml": "/abs/x.yaml"} {
		s, err := Parse("dir/f.yaml", []byte(small("  objects: "+path+"\n")))
		require.NoError(t, err)
		require.Equal(t, want, s.Objects)
	}
	s, err := Parse("f.yaml", []byte(small("  objects: x.yaml\n")))
	require.NoError(t, err)
	require.Equal(t, "x.yaml", s.Objects)
}
