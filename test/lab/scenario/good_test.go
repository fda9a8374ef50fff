// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// contract is the example of the format's contract, to the letter.
const contract = `apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: fabric-black-hole}
spec:
  description: The fabric between zones a and b silently drops packets over 1400 bytes.
  duration: 60s                       # see "time"
  settle: 5s                          # healthy time before the first fault; any verdict in it is a false alarm
  family: ipv4                        # or ipv6: of the node network
  aggregators: 1                      # or 2
  cloud: aws                          # or azure, gcp, none: what the metadata server imitates
  pending: false                      # true: reported as pending, exit 0 while it fails, exit 1 once it holds
  underlay: {mtu: 1500}
  overlay: {kind: vxlan, mtu: 1450, df: unset, lowerDevice: true}   # kind: vxlan | none
  podMTU: 1450
  nodes:
    - {name: n1, zone: a, pool: default}
    - {name: n2, zone: a}
    - {name: n3, zone: b, controlPlane: true, underlayMTU: 1500, overlayMTU: 1450, podMTU: 1450}
  traffic:                            # between pods, over the overlay, unless plane: node
    - {from: n1, to: n3, kind: tcp, bytes: 256KiB, every: 500ms}
    - {from: n1, to: n3, kind: http, responseBytes: 64KiB, every: 1s}
    - {from: n1, kind: dns, every: 1s}
  faults:                             # ` + "`at` and `until`" + ` count from the end of settle
    - {at: 0s, until: 40s, kind: path-drop-larger, between: [a, b], bytes: 1400, icmp: false, direction: both}
  objects: cluster.yaml               # optional: what the Kubernetes API would show (kind: List)
  expect:
    - {signature: network/mtu-black-hole, grade: proven, scope: {zones: [a, b]}, fault: 0, within: 15s, clearsWithin: 60s}
    - {refuted: network/path-loss}
  forbid: [proven, likely]            # a verdict that reaches one of these grades and is not covered fails the run
`

func TestTheExampleOfTheContractReadsInFull(t *testing.T) {
	t.Parallel()
	s, err := Parse("labs/black-hole.yaml", []byte(contract))
	require.NoError(t, err)
	require.Equal(t, &Scenario{
		Name:        "fabric-black-hole",
		File:        "labs/black-hole.yaml",
		Description: "The fabric between zones a and b silently drops packets over 1400 bytes.",
		Duration:    60 * time.Second, Settle: 5 * time.Second,
		Family: IPv4, Aggregators: 1, Cloud: AWS,
		Overlay: Overlay{Kind: "vxlan", DF: "unset", LowerDevice: true},
		Nodes: []Node{
			{Name: "n1", Zone: "a", Pool: "default", UnderlayMTU: 1500, OverlayMTU: 1450, PodMTU: 1450},
			{Name: "n2", Zone: "a", UnderlayMTU: 1500, OverlayMTU: 1450, PodMTU: 1450},
			{Name: "n3", Zone: "b", ControlPlane: true, UnderlayMTU: 1500, OverlayMTU: 1450, PodMTU: 1450},
		},
		Traffic: []Traffic{
			{Kind: "tcp", From: "n1", To: "n3", Bytes: 262144, Every: 500 * time.Millisecond, Plane: "pod"},
			{Kind: "http", From: "n1", To: "n3", ResponseBytes: 65536, Every: time.Second, Plane: "pod"},
			{Kind: "dns", From: "n1", Every: time.Second, Plane: "pod"},
		},
		Faults: []Fault{{
			Kind: PathDropLarger, Until: 40 * time.Second,
			Between: [][]string{{"n1", "n2"}, {"n3"}}, BetweenNames: []string{"a", "b"},
			Nodes: []string{"n1", "n2", "n3"}, Selected: true, Direction: Both,
			Bytes: 1400, Server: -1, Line: 24, Column: 7,
		}},
		Objects: "labs/cluster.yaml",
		Expect: []Expectation{
			{Signature: "network/mtu-black-hole", Grade: "proven", Scope: Scope{Zones: []string{"a", "b"}}, Within: 15 * time.Second, ClearsWithin: 60 * time.Second, Line: 27, Column: 7},
			{Refuted: "network/path-loss", Line: 28, Column: 7},
		},
		Forbid: []string{"proven", "likely"},
	}, s)
}

func TestLoadReadsAFileAndSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.yaml")
	require.NoError(t, os.WriteFile(path, []byte(contract), 0o600))
	s, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, path, s.File)
	require.Equal(t, filepath.Join(dir, "cluster.yaml"), s.Objects)

	_, err = Load(filepath.Join(dir, "gone.yaml"))
	require.EqualError(t, err, dir+"/gone.yaml: the file cannot be read: no such file or directory; name a scenario file that exists and is readable")
	_, err = Load(dir)
	require.EqualError(t, err, dir+": the file cannot be read: is a directory; name a scenario file that exists and is readable")
	var problem *Problem
	require.ErrorAs(t, err, &problem)
	require.Zero(t, problem.Line)

	require.NoError(t, os.WriteFile(path, make([]byte, maxFileBytes+1), 0o600))
	_, err = Load(path)
	require.EqualError(t, err, path+":1:1: the file is too large: the limit is 1048576 bytes; one scenario per file")
}

// spec puts the lines of a spec into a whole file: they begin on line 5.
func spec(lines string) string {
	return "apiVersion: plumb.dev/v1alpha1\nkind: Scenario\nmetadata: {name: x}\nspec:\n" + lines
}

// small is a spec with a cluster of three nodes on line 5; lines begin on line 6.
func small(lines string) string {
	return spec("  nodes: [{name: n1, zone: a, pool: p}, {name: n2, zone: a}, {name: n3, zone: b, controlPlane: true}]\n" + lines)
}

func read1(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse("f.yaml", []byte(text))
	require.NoError(t, err)
	return s
}

func TestWhatAFileLeavesAwayHasItsDefault(t *testing.T) {
	t.Parallel()
	s := read1(t, small(`  traffic:
    - {from: n1, to: n2, kind: tcp}
    - {from: n1, to: n2, kind: http}
    - {from: n1, to: n2, kind: udp}
    - {from: n1, kind: dns}
`))
	require.Equal(t, 5*time.Second, s.Settle)
	require.Equal(t, 60*time.Second, s.Duration)
	require.Equal(t, IPv4, s.Family)
	require.Equal(t, 1, s.Aggregators)
	require.Equal(t, AWS, s.Cloud)
	require.Equal(t, Overlay{Kind: "vxlan", DF: "unset", LowerDevice: true}, s.Overlay)
	require.False(t, s.Pending)
	require.Empty(t, s.Objects)
	require.Equal(t, []Traffic{
		{Kind: "tcp", From: "n1", To: "n2", Bytes: 65536, Every: time.Second, Plane: "pod"},
		{Kind: "http", From: "n1", To: "n2", ResponseBytes: 65536, Every: time.Second, Plane: "pod"},
		{Kind: "udp", From: "n1", To: "n2", Bytes: 512, Every: time.Second, Plane: "pod"},
		{Kind: "dns", From: "n1", Every: time.Second, Plane: "pod"},
	}, s.Traffic)
}

func TestEveryNodeHasItsMTUs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, lines            string
		underlay, overlay, pod int
	}{
		{"nothing is given", "  nodes: [{name: n}]", 1500, 1450, 1450},
		{"the node network is IPv6", "  family: ipv6\n  nodes: [{name: n}]", 1500, 1430, 1430},
		{"the family stands behind the nodes", "  nodes: [{name: n}]\n  family: ipv6", 1500, 1430, 1430},
		{"the underlay is given", "  underlay: {mtu: 9001}\n  nodes: [{name: n}]", 9001, 8951, 8951},
		{"the overlay is given", "  overlay: {mtu: 1400}\n  nodes: [{name: n}]", 1500, 1400, 1400},
		{"the pods are given", "  podMTU: 1500\n  nodes: [{name: n}]", 1500, 1450, 1500},
		{"the node has its own underlay", "  nodes: [{name: n, underlayMTU: 1400}]", 1400, 1350, 1350},
		{"the node has its own underlay under a given overlay", "  overlay: {mtu: 1400}\n  nodes: [{name: n, underlayMTU: 9001}]", 9001, 1400, 1400},
		{"the node has its own overlay", "  overlay: {mtu: 1400}\n  nodes: [{name: n, overlayMTU: 1300}]", 1500, 1300, 1300},
		{"the node has its own pod MTU", "  podMTU: 1400\n  nodes: [{name: n, podMTU: 1300}]", 1500, 1450, 1300},
		{"no overlay", "  overlay: {kind: none}\n  nodes: [{name: n}]", 1500, 0, 1500},
		{"no overlay, the node has its own underlay", "  overlay: {kind: none}\n  nodes: [{name: n, underlayMTU: 1400}]", 1400, 0, 1400},
		{"without a lower device nothing is clamped", "  overlay: {mtu: 1500, lowerDevice: false}\n  nodes: [{name: n}]", 1500, 1500, 1500},
		{"the least for IPv4", "  underlay: {mtu: 118}\n  nodes: [{name: n}]", 118, 68, 68},
		{"the least for IPv6", "  family: ipv6\n  underlay: {mtu: 1280}\n  nodes: [{name: n, podMTU: 68}]", 1280, 1210, 68},
		{"the most", "  underlay: {mtu: 65535}\n  nodes: [{name: n, podMTU: 65535}]", 65535, 65485, 65535},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := read1(t, spec(tt.lines)).Nodes[0]
			require.Equal(t, []int{tt.underlay, tt.overlay, tt.pod}, []int{n.UnderlayMTU, n.OverlayMTU, n.PodMTU})
		})
	}
}

func TestWordsThatReadAsNumbersAreNames(t *testing.T) {
	t.Parallel()
	s := read1(t, spec("  nodes: [{name: n1, zone: 1, kernel: 6.10, image: '2024', instanceType: m5.large}, {name: 2, zone: 02}]\n"+
		"  faults: [{kind: path-cut, between: [1, 02]}, {kind: imds, mode: refuse, node: 2}]\n"))
	require.Equal(t, []string{"1", "02"}, s.Zones())
	require.Equal(t, "6.10", s.Nodes[0].Kernel)
	require.Equal(t, [][]string{{"n1"}, {"2"}}, s.Faults[0].Between)
	require.Equal(t, []string{"2"}, s.Faults[1].Nodes)
}

func TestAnchorsAndMergeKeysAreFollowed(t *testing.T) {
	t.Parallel()
	s := read1(t, small(`  traffic:
    - &base {from: n1, to: n3, kind: tcp, every: 2s}
    - {<<: *base, to: n2}
    - {<<: [{bytes: 1kB}, *base]}
`))
	require.Equal(t, "n2", s.Traffic[1].To)
	require.Equal(t, 2*time.Second, s.Traffic[1].Every)
	require.Equal(t, int64(1000), s.Traffic[2].Bytes)
}

func TestEmptyListsAreAsNone(t *testing.T) {
	s, err := Parse("f.yaml", []byte("apiVersion: plumb.dev/v1alpha1\nkind: Scenario\nmetadata: {name: x}\nspec:\n"+
		"  nodes: [{name: n1, zone: a}]\n  traffic: []\n  faults:\n  expect:\n    - {refuted: network/x, within: 5s}\n  forbid: []\n"))
	require.NoError(t, err)
	require.Empty(t, s.Faults)
	require.Empty(t, s.Forbid)
	require.Equal(t, 5*time.Second, s.Expect[0].Within)
}
