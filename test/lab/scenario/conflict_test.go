// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// two puts two faults into a cluster of four nodes in two zones with two
// control-plane nodes; they stand on lines 7 and 8.
func two(first, second string) string {
	return spec("  nodes: [{name: n1, zone: a, pool: p}, {name: n2, zone: a, controlPlane: true}, {name: n3, zone: b}, {name: n4, zone: b, controlPlane: true}]\n" +
		"  faults:\n    - {" + first + "}\n    - {" + second + "}\n")
}

func TestFaultsThatContradictEachOtherAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, first, second string
		why                 string
	}{
		{"the same kind everywhere", "kind: path-cut", "kind: path-cut", "both are path-cut from n1 to n2, from 0s to the end"},
		{"the same kind on overlapping pairs", "kind: path-loss, ratio: 0.1, between: [a, b]", "kind: path-loss, ratio: 0.2, between: [n2, n3]", "both are path-loss from n2 to n3, from 0s to the end"},
		{"one way from either end", "kind: path-loss, ratio: 0.1, between: [a, b], direction: forward", "kind: path-loss, ratio: 0.2, between: [b, a], direction: reverse", "both are path-loss from n1 to n3, from 0s to the end"},
		{"all pairs and one pair", "kind: path-drop-larger, bytes: 1400", "kind: path-drop-larger, bytes: 1300, between: [n3, n4]", "both are path-drop-larger from n3 to n4, from 0s to the end"},
		{"a port and a pair behind it", "kind: path-loss, ratio: 0.1, node: n3", "kind: path-loss, ratio: 0.1, between: [a, b], direction: forward", "both are path-loss from n1 to n3, from 0s to the end"},
		{"a port twice, once by its zone", "kind: path-loss, ratio: 0.1, zone: a, direction: forward", "kind: path-loss, ratio: 0.1, node: n2, direction: forward", "both are path-loss from n2 to n1, from 0s to the end"},
		{"two ports share what passes between them", "kind: path-loss, ratio: 0.1, node: n1", "kind: path-loss, ratio: 0.1, node: n3", "both are path-loss from n1 to n3, from 0s to the end"},
		{"out of one and into the other", "kind: path-cut, node: n1, direction: forward", "kind: path-cut, node: n3, direction: reverse", "both are path-cut from n1 to n3, from 0s to the end"},
		{"a cut and loss on one way", "kind: path-cut, between: [n1, n3], direction: forward, until: 20s", "kind: path-loss, ratio: 0.1, between: [a, b], at: 10s, until: 30s", "path-loss and path-cut exclude each other from n1 to n3, from 10s to 20s"},
		{"a cut and a flapping way", "kind: path-flap, every: 1s, at: 50s", "kind: path-cut, at: 10s, until: 51s", "path-cut and path-flap exclude each other from n1 to n2, from 50s to 51s"},
		{"two MTUs of one device", "kind: overlay-mtu, mtu: 1400, zone: a", "kind: overlay-mtu, mtu: 1300, node: n2", "both are overlay-mtu on n2, from 0s to the end"},
		{"both ends of one veth", "kind: pod-mtu, mtu: 1400, at: 5s, until: 11s", "kind: bridge-port-mtu, mtu: 1300, node: n3, at: 10s", "bridge-port-mtu and pod-mtu exclude each other on n3, from 10s to 11s"},
		{"one device down and flapping", "kind: link-down, node: n1", "kind: link-flap, every: 1s, device: eth0, pool: p", "link-flap and link-down exclude each other on eth0 of n1, from 0s to the end"},
		{"one filter twice", "kind: icmp-filter", "kind: icmp-filter, in: node, node: n3", "both are icmp-filter on the node of n3, from 0s to the end"},
		{"two offsets of one clock", "kind: clock-offset, offset: 1s, node: n1", "kind: clock-offset, drift: 100, nodes: [n2, n1]", "both are clock-offset on n1, from 0s to the end"},
		{"one time server lies and is cut", "kind: ntp-lies, offset: 1s, server: 1", "kind: ntp-cut", "ntp-cut and ntp-lies exclude each other on n1, from 0s to the end"},
		{"one time server smears and lies", "kind: ntp-smear, server: 1", "kind: ntp-lies, offset: 1s, server: 1, node: n4", "ntp-lies and ntp-smear exclude each other on n4, from 0s to the end"},
		{"two modes of one metadata server", "kind: imds, mode: timeout", "kind: imds, mode: refuse, node: n1", "both are imds on n1, from 0s to the end"},
		{"one disk twice", "kind: disk-slow, fsync: 10ms", "kind: disk-slow, iops: 50, node: n4", "both are disk-slow on n4, from 0s to the end"},
		{"one endpoint for the same clients", "kind: api-slow, delay: 1s", "kind: api-slow, delay: 2s, zone: b", "both are api-slow on n2, from 0s to the end"},
		{"both modes of DNS", "kind: dns-broken, mode: all", "kind: dns-broken, mode: large, zone: b", "both are dns-broken on n3, from 0s to the end"},
		{"an agent killed and frozen", "kind: agent-kill, node: n1", "kind: agent-freeze", "agent-freeze and agent-kill exclude each other on n1, from 0s to the end"},
		{"an agent that is gone with a bad token", "kind: token-expired, node: n1", "kind: agent-kill, zone: a", "agent-kill and token-expired exclude each other on n1, from 0s to the end"},
		{"two bad tokens", "kind: token-expired", "kind: token-wrong-node, node: n4", "token-wrong-node and token-expired exclude each other on n4, from 0s to the end"},
		{"a receiver slow and frozen", "kind: receiver-slow", "kind: receiver-frozen, node: n1", "receiver-frozen and receiver-slow exclude each other on n1, from 0s to the end"},
		{"the aggregator killed twice", "kind: aggregator-kill", "kind: aggregator-kill, at: 5s, until: 6s", "both are aggregator-kill on the aggregator, from 5s to 6s"},
		{"the aggregator killed and cut", "kind: aggregator-cut, node: n2", "kind: aggregator-kill", "aggregator-kill and aggregator-cut exclude each other on n2, from 0s to the end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f.yaml", []byte(two(tt.first, tt.second)))
			require.EqualError(t, err, "f.yaml:8:7: fault 1 (line 8) contradicts fault 0 (line 7): "+tt.why+"; keep one, or part them in time or place")
			_, err = Parse("f.yaml", []byte(two(tt.second, tt.first)))
			require.ErrorContains(t, err, "f.yaml:8:7: fault 1 (line 8) contradicts fault 0 (line 7): ", "whichever comes first")
		})
	}
}

func TestFaultsThatOnlyLookLikeAContradictionAreAccepted(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, first, second string }{
		{"one after the other", "kind: path-cut, until: 10s", "kind: path-cut, at: 10s, until: 20s"},
		{"long apart", "kind: path-cut, at: 30s", "kind: path-cut, at: 10s, until: 20s"},
		{"different pairs of zones", "kind: path-loss, ratio: 0.1, between: [n1, b]", "kind: path-loss, ratio: 0.1, between: [n2, b]"},
		{"the two ways of one pair", "kind: path-loss, ratio: 0.1, between: [a, b], direction: forward", "kind: path-loss, ratio: 0.2, between: [a, b], direction: reverse"},
		{"the two ways of one pair, named from either end", "kind: path-cut, between: [a, b], direction: forward", "kind: path-loss, ratio: 0.2, between: [b, a], direction: forward"},
		{"the two ways of one port", "kind: path-rate, bitsPerSecond: 1M, node: n1, direction: forward", "kind: path-rate, bitsPerSecond: 2M, node: n1, direction: reverse"},
		{"what two ports send", "kind: path-loss, ratio: 0.1, node: n1, direction: forward", "kind: path-loss, ratio: 0.2, node: n3, direction: forward"},
		{"a port and a pair elsewhere", "kind: path-cut, node: n1", "kind: path-cut, between: [n3, n4]"},
		{"a black hole under random loss", "kind: path-drop-larger, bytes: 1400, between: [a, b]", "kind: path-loss, ratio: 0.05, between: [a, b]"},
		{"loss, a rate and lost fragments", "kind: path-rate, bitsPerSecond: 1M", "kind: path-drop-fragments"},
		{"a cut one way and loss the other", "kind: path-cut, between: [n1, n3], direction: forward", "kind: path-loss, ratio: 0.1, between: [n1, n3], direction: reverse"},
		{"a black hole with clock skew", "kind: path-drop-larger, bytes: 1400", "kind: clock-offset, offset: 400s"},
		{"an MTU mismatch under random loss", "kind: overlay-mtu, mtu: 1400", "kind: path-loss, ratio: 0.05"},
		{"MTUs of different devices", "kind: pod-mtu, mtu: 1400, node: n1", "kind: underlay-mtu, mtu: 1400, node: n1"},
		{"overlay and pod", "kind: overlay-mtu, mtu: 1400", "kind: pod-mtu, mtu: 1400"},
		{"pod and bridge port one after the other", "kind: bridge-port-mtu, mtu: 1400, until: 10s", "kind: pod-mtu, mtu: 1400, at: 10s"},
		{"pod and bridge port of different nodes", "kind: bridge-port-mtu, mtu: 1400, node: n1", "kind: pod-mtu, mtu: 1400, node: n2"},
		{"bridge port and the devices below it", "kind: bridge-port-mtu, mtu: 1400", "kind: overlay-mtu, mtu: 1400"},
		{"bridge port and underlay", "kind: bridge-port-mtu, mtu: 1400", "kind: underlay-mtu, mtu: 1400"},
		{"one MTU on different nodes", "kind: overlay-mtu, mtu: 1400, zone: a", "kind: overlay-mtu, mtu: 1300, zone: b"},
		{"different devices of one node", "kind: link-down, device: eth0", "kind: link-flap, device: cni0, every: 1s"},
		{"one device on different nodes", "kind: link-down, node: n1", "kind: link-flap, every: 1s, node: n2"},
		{"filters in the node and in the pod", "kind: icmp-filter, in: node", "kind: icmp-filter, in: pod"},
		{"different time servers", "kind: ntp-lies, offset: 1s, server: 0", "kind: ntp-lies, offset: 2s, server: 1"},
		{"one cut, another lies", "kind: ntp-cut, server: 0", "kind: ntp-lies, offset: 2s, server: 2"},
		{"one time server for different nodes", "kind: ntp-cut, server: 0, zone: a", "kind: ntp-lies, offset: 2s, server: 0, zone: b"},
		{"a lying server and a wrong clock", "kind: ntp-lies, offset: 1s", "kind: clock-offset, offset: 1s"},
		{"the metadata of different nodes", "kind: imds, mode: timeout, node: n1", "kind: imds, mode: refuse, node: n2"},
		{"different disks", "kind: disk-slow, fsync: 10ms, node: n2", "kind: disk-slow, iops: 50, node: n4"},
		{"a slow disk and a starved etcd", "kind: disk-slow, fsync: 10ms", "kind: etcd-cpu-starved"},
		{"one endpoint for different clients", "kind: api-slow, delay: 1s, zone: a", "kind: api-slow, delay: 2s, zone: b"},
		{"different endpoints", "kind: api-slow, delay: 1s, node: n2", "kind: api-slow, delay: 2s, node: n4"},
		{"different agents", "kind: agent-kill, node: n1", "kind: agent-freeze, node: n2"},
		{"a frozen agent whose token expires", "kind: agent-freeze, node: n1", "kind: token-expired, node: n1"},
		{"an agent killed before its token expires", "kind: agent-kill, until: 10s", "kind: token-expired, at: 10s"},
		{"an agent killed behind a cut", "kind: agent-kill, node: n1", "kind: path-cut, node: n1"},
		{"different receivers", "kind: receiver-slow, node: n1", "kind: receiver-frozen, node: n2"},
		{"the aggregator cut from different nodes", "kind: aggregator-cut, zone: a", "kind: aggregator-cut, zone: b"},
		{"a slow receiver and teardowns", "kind: receiver-slow", "kind: tcp-teardown-storm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f.yaml", []byte(two(tt.first, tt.second)))
			require.NoError(t, err)
			_, err = Parse("f.yaml", []byte(two(tt.second, tt.first)))
			require.NoError(t, err)
		})
	}
}

func TestAFaultThatIsItselfWrongContradictsNothing(t *testing.T) {
	t.Parallel()
	_, err := Parse("f.yaml", []byte(two("kind: path-cut, colour: red", "kind: path-cut")))
	require.ErrorContains(t, err, `f.yaml:7:24: unknown field "colour"`)
	require.NotContains(t, err.Error(), "more problem")
}

func TestEachContradictionIsToldOnce(t *testing.T) {
	t.Parallel()
	_, err := Parse("f.yaml", []byte(two("kind: path-cut", "kind: path-cut")+strings.Repeat("    - {kind: path-cut}\n", 3)))
	require.ErrorContains(t, err, "f.yaml:8:7: fault 1 (line 8) contradicts fault 0 (line 7): ")
	require.ErrorContains(t, err, "(and 3 more problems)")
}

func TestPortsShareWhatIsElsewhere(t *testing.T) {
	t.Parallel()
	_, err := Parse("f.yaml", []byte(spec("  nodes: [{name: n1}]\n  faults:\n    - {kind: path-cut, node: n1}\n    - {kind: path-loss, ratio: 1, node: n1, direction: reverse}\n")))
	require.EqualError(t, err, "f.yaml:8:7: fault 1 (line 8) contradicts fault 0 (line 7): path-loss and path-cut exclude each other from elsewhere to n1, from 0s to the end; keep one, or part them in time or place")
}
