// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// one reads the small cluster with one fault.
func one(t *testing.T, fault string) Fault {
	t.Helper()
	s := read1(t, small("  faults:\n    - "+fault+"\n"))
	require.Len(t, s.Faults, 1)
	return s.Faults[0]
}

func TestEveryFaultKindReadsItsParameters(t *testing.T) {
	t.Parallel()
	all := []string{"n1", "n2", "n3"}
	tests := []struct {
		fault string
		want  Fault
	}{
		{"{kind: path-drop-larger, bytes: 1KiB, icmp: true}", Fault{Bytes: 1024, ICMP: true, Direction: Both, Nodes: all}},
		{"{kind: path-loss, ratio: 0.05}", Fault{Ratio: 0.05, Direction: Both, Nodes: all}},
		{"{kind: path-drop-fragments}", Fault{Direction: Both, Nodes: all}},
		{"{kind: path-cut, node: n1, direction: forward}", Fault{Direction: Forward, Nodes: all[:1], Selected: true}},
		{"{kind: path-rate, bitsPerSecond: 10M, zone: a}", Fault{BitsPerSecond: 10_000_000, Direction: Both, Nodes: all[:2], Selected: true, Zone: "a"}},
		{"{kind: path-flap, every: 200ms, pool: p}", Fault{Every: 200 * time.Millisecond, Direction: Both, Nodes: all[:1], Selected: true}},
		{"{kind: icmp-filter}", Fault{In: "node", Nodes: all}},
		{"{kind: icmp-filter, in: pod, nodes: [n3, n1]}", Fault{In: "pod", Nodes: []string{"n1", "n3"}, Selected: true}},
		{"{kind: underlay-mtu, mtu: 1400}", Fault{MTU: 1400, Nodes: all}},
		{"{kind: overlay-mtu, mtu: 1450}", Fault{MTU: 1450, Nodes: all}},
		{"{kind: pod-mtu, mtu: 9000}", Fault{MTU: 9000, Nodes: all}},
		{"{kind: bridge-port-mtu, mtu: 68}", Fault{MTU: 68, Nodes: all}},
		{"{kind: link-down, node: n2}", Fault{Device: "eth0", Nodes: all[1:2], Selected: true}},
		{"{kind: link-flap, device: flannel.1, every: 2s}", Fault{Device: "flannel.1", Every: 2 * time.Second, Nodes: all}},
		{"{kind: ring-drop, ratio: 1}", Fault{Ratio: 1, Nodes: all}},
		{"{kind: clock-offset, offset: -400s}", Fault{Offset: -400 * time.Second, Step: true, Nodes: all}},
		{"{kind: clock-offset, drift: 200.5, step: false}", Fault{Drift: 200.5, Nodes: all}},
		{"{kind: clock-offset, offset: 1s, step: 2s}", Fault{Offset: time.Second, Step: true, StepBy: 2 * time.Second, Nodes: all}},
		{"{kind: clock-offset, step: -1h}", Fault{Step: true, StepBy: -time.Hour, Nodes: all}},
		{"{kind: ntp-lies, offset: 400s, server: 0}", Fault{Offset: 400 * time.Second, Nodes: all}},
		{"{kind: ntp-cut, zone: b}", Fault{Server: -1, Nodes: all[2:], Selected: true, Zone: "b"}},
		{"{kind: ntp-smear}", Fault{Server: -1, Offset: time.Second, Nodes: all}},
		{"{kind: imds, mode: hop-limit}", Fault{Mode: "hop-limit", Nodes: all}},
		{"{kind: disk-slow, fsync: 30ms, iops: 50, neighbour: true}", Fault{Fsync: 30 * time.Millisecond, IOPS: 50, Neighbour: true, Nodes: all[2:]}},
		{"{kind: disk-slow, fsync: 30ms, zone: b}", Fault{Fsync: 30 * time.Millisecond, Nodes: all[2:], Selected: true, Zone: "b"}},
		{"{kind: etcd-cpu-starved, node: n3}", Fault{Nodes: all[2:], Selected: true}},
		{"{kind: api-slow, delay: 500ms, zone: a}", Fault{Delay: 500 * time.Millisecond, Zone: "a", Nodes: all[2:]}},
		{"{kind: dns-broken, mode: large}", Fault{Mode: "large", Nodes: all}},
		{"{kind: agent-kill}", Fault{Nodes: all}},
		{"{kind: agent-freeze}", Fault{Nodes: all}},
		{"{kind: aggregator-kill}", Fault{}},
		{"{kind: aggregator-cut, node: n1}", Fault{Nodes: all[:1], Selected: true}},
		{"{kind: token-expired}", Fault{Nodes: all}},
		{"{kind: token-wrong-node}", Fault{Nodes: all}},
		{"{kind: receiver-slow}", Fault{Nodes: all}},
		{"{kind: receiver-frozen}", Fault{Nodes: all}},
		{"{kind: quic-probes}", Fault{Nodes: all}},
		{"{kind: tcp-teardown-storm, between: [n1, b]}", Fault{Nodes: []string{"n1", "n3"}, Selected: true, Between: [][]string{{"n1"}, {"n3"}}, BetweenNames: []string{"n1", "b"}}},
	}
	var seen []Kind
	for _, tt := range tests {
		kind := Kind(regexp.MustCompile(`kind: ([a-z-]+)`).FindStringSubmatch(tt.fault)[1])
		seen = append(seen, kind)
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			tt.want.Kind, tt.want.Until, tt.want.Line, tt.want.Column = kind, -1, 7, 7
			if !strings.Contains(tt.fault, "server") {
				tt.want.Server = -1
			}
			require.Equal(t, tt.want, one(t, tt.fault))
		})
	}
	for _, kind := range Kinds() {
		require.Contains(t, seen, kind)
	}
}

func TestTheKindsAreThoseOfTheTypes(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("types.go")
	require.NoError(t, err)
	var want []Kind
	for _, m := range regexp.MustCompile(`(?m)^\t\w+ +Kind = "([a-z-]+)"$`).FindAllStringSubmatch(string(raw), -1) {
		want = append(want, Kind(m[1]))
	}
	require.Len(t, want, 33)
	require.Equal(t, want, Kinds())
}

func TestAParameterThatAKindMustHaveIsMissed(t *testing.T) {
	t.Parallel()
	want := map[Kind]string{
		PathDropLarger: "bytes", PathLoss: "ratio", PathRate: "bitsPerSecond", PathFlap: "every", UnderlayMTU: "mtu", OverlayMTU: "mtu",
		PodMTU: "mtu", BridgePortMTU: "mtu", LinkFlap: "every", RingDrop: "ratio", NTPLies: "offset", IMDS: "mode", DNSBroken: "mode", APISlow: "delay",
	}
	oneOf := map[Kind]string{ClockOffset: "offset, drift, step", DiskSlow: "fsync, iops, neighbour"}
	for _, kind := range Kinds() {
		_, err := Parse("f.yaml", []byte(small("  faults:\n    - {kind: "+string(kind)+"}\n")))
		switch {
		case want[kind] != "":
			require.ErrorContains(t, err, "f.yaml:7:7: fault 0 has no "+want[kind]+": it is required; "+string(kind)+" takes ", kind)
		case oneOf[kind] != "":
			require.EqualError(t, err, "f.yaml:7:7: fault 0 has none of "+oneOf[kind]+": "+string(kind)+" would change nothing; add at least one")
		default:
			require.NoError(t, err, kind)
		}
	}
}

// A parameter of one kind is refused by every kind that does not have it.
func TestAParameterOfAnotherKindIsRefused(t *testing.T) {
	t.Parallel()
	var params []string
	for _, tr := range traits() {
		for _, p := range tr.params {
			if p != "zone" && !slices.Contains(params, p) {
				params = append(params, p)
			}
		}
	}
	require.Len(t, params, 18)
	refused := 0
	for _, tr := range traits() {
		for _, p := range params {
			_, err := Parse("f.yaml", []byte(small("  faults:\n    - {"+p+": 1, kind: "+string(tr.kind)+"}\n")))
			message := "f.yaml:7:8: " + p + " of fault 0 does not belong to " + string(tr.kind) + ": it belongs to "
			if slices.Contains(tr.params, p) {
				if err != nil {
					require.NotContains(t, err.Error(), "does not belong")
				}
				continue
			}
			// A missing parameter is reported at the fault itself, which stands before.
			if len(tr.required)+len(tr.needsOne) == 0 {
				require.ErrorContains(t, err, message)
			}
			require.Error(t, err)
			refused++
		}
	}
	require.Greater(t, refused, 500)
}

// The parameters of the contract's table, and direction for every path fault.
func TestEveryKindTakesExactlyTheParametersOfTheContract(t *testing.T) {
	t.Parallel()
	want := map[Kind]string{
		PathDropLarger: "bytes icmp direction", PathLoss: "ratio direction", PathDropFragments: "direction", PathCut: "direction",
		PathRate: "bitsPerSecond direction", PathFlap: "every direction", ICMPFilter: "in",
		UnderlayMTU: "mtu", OverlayMTU: "mtu", PodMTU: "mtu", BridgePortMTU: "mtu", LinkDown: "device", LinkFlap: "device every", RingDrop: "ratio",
		ClockOffset: "offset drift step", NTPLies: "server offset", NTPCut: "server", NTPSmear: "server offset", IMDS: "mode",
		DiskSlow: "fsync iops neighbour", APISlow: "delay zone", DNSBroken: "mode",
	}
	for _, tr := range traits() {
		require.Equal(t, want[tr.kind], strings.Join(tr.params, " "), tr.kind)
	}
}
