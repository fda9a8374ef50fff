// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/test/lab/fabric"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// fabrics are the clusters that path faults are injected into.
func fabrics() map[string]string {
	out := map[string]string{}
	for _, family := range []string{"ipv4", "ipv6"} {
		for kind, mtu := range map[string]map[string]int{"vxlan": {"ipv4": 1450, "ipv6": 1430}, "none": {"ipv4": 1500, "ipv6": 1500}} {
			out[kind+" over "+family] = fmt.Sprintf("  family: %s\n  cloud: none\n  overlay: {kind: %s}\n  podMTU: %d%s%s", family, kind, mtu[family], threeNodes, onNodes)
		}
	}
	return out
}

// onNodes has receivers in the nodes' own network.
const onNodes = `
  traffic:
    - {from: n1, to: n3, kind: tcp, bytes: 1KiB, every: 10m, plane: node}
`

// A silent limit in the fabric is exact to the byte of the packet that crosses it,
// the outer one of pods' packets, in the directions that were asked for.
func TestPathFaults(t *testing.T) {
	t.Parallel()
	for name, spec := range fabrics() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, spec)
			t.Run("bulk over TCP", b.noTrain)
			t.Run("between zones, both ways, without an answer", b.dropLargerSilently)
			t.Run("between zones, both ways, with answers", b.dropLargerWithAnswers)
			t.Run("of loss, fragments, rate and way", b.otherPathFaults)
			t.Run("selection and direction", b.selectPaths)
		})
	}
}

func (b *bed) dropLargerSilently(t *testing.T) {
	const limit = 1390
	inner := limit - b.encapsulation()
	podMTU := b.node("n1").spec.PodMTU
	b.passes(t, "n1/pod", "n3/pod", inner+1, podMTU)
	b.passes(t, "n1", "n3", limit+1, 1500)
	require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))

	heal := b.inject(t, "kind: path-drop-larger, between: [a, b], bytes: 1390")
	for _, pair := range [][2]string{{"n1", "n3"}, {"n3", "n2"}} {
		b.passes(t, pair[0], pair[1], limit, 100)
		b.loses(t, pair[0], pair[1], limit+1, 1500)
		b.passes(t, pair[0]+"/pod", pair[1]+"/pod", inner, 100)
		b.loses(t, pair[0]+"/pod", pair[1]+"/pod", inner+1, podMTU)
	}
	require.Equal(t, 0, b.ping(t, "n1", "n3", limit+1, 2, "-W", "0.3").received)
	require.Equal(t, 2, b.ping(t, "n1", "n3", limit, 2).received)
	require.Zero(t, b.learned(t, "n1", "n3"), "nothing is answered")
	require.Error(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, 1500*time.Millisecond), "large segments are lost for good")
	require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 1000, arriveLimit), "small ones pass")
	// What is not between the zones is well.
	b.passes(t, "n1", "n2", 1500)
	b.passes(t, "n1/pod", "n2/pod", podMTU)
	b.passes(t, "n3", "aggregator", 1500)
	b.passes(t, "aggregator", "n3", 1500)

	heal()
	b.passes(t, "n1", "n3", limit+1, 1500)
	b.passes(t, "n3/pod", "n2/pod", inner+1, podMTU)
	require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))
}

func (b *bed) dropLargerWithAnswers(t *testing.T) {
	const limit = 1390
	inner := limit - b.encapsulation()
	t.Cleanup(func() { b.forget(t) })
	heal := b.inject(t, "kind: path-drop-larger, between: [a, b], bytes: 1390, icmp: true")
	b.passes(t, "n1", "n3", limit)
	b.passes(t, "n3/pod", "n2/pod", inner)
	require.Zero(t, b.learned(t, "n1", "n3"))
	b.loses(t, "n3", "n2", limit+1)
	b.loses(t, "n1/pod", "n3/pod", inner+1)
	b.forget(t)
	got := b.ping(t, "n1", "n3", limit+1, 1)
	require.Zero(t, got.received)
	require.Contains(t, got.output, "rom "+hostIn(b.scenario.Family, 1, 1).Addr().String(), "the sender's own gateway answers")
	require.Equal(t, limit, b.learned(t, "n1", "n3"), got.output)
	require.Zero(t, b.learned(t, "n1", "n2"))
	require.NoError(t, b.transfer(t, "n1", "n3", 256<<10, arriveLimit), "senders learn the size")
	if b.scenario.Family == scenario.IPv4 {
		// Over an overlay the node learns, and makes fragments of the outer packets. Over
		// IPv6 it may not and the forwarded packets stay lost (ip6_fragment; a forwarding
		// node tells nobody what it has learned, ip_dst_mtu_maybe_forward).
		require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))
	}
	heal()
	b.forget(t)
	b.passes(t, "n1", "n3", 1500)
	require.Equal(t, 2, b.ping(t, "n1", "n3", 1500, 2).received)
	require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))
}

// small are so many datagrams of 200 bytes.
func small(n int) []int { return slices.Repeat([]int{200}, n) }

func (b *bed) otherPathFaults(t *testing.T) {
	podMTU := b.node("n1").spec.PodMTU
	t.Run("path-loss loses its share, whatever the size, one way", func(t *testing.T) {
		heal := b.inject(t, "kind: path-loss, between: [a, b], ratio: 0.5, direction: forward")
		for _, length := range []int{200, podMTU} {
			// Of 400 half with a standard deviation of 10: outside of five of them once in a
			// million.
			got := b.send(t, "n1/pod", "n3/pod", lostAfter, slices.Repeat([]int{length}, 400)...)[length]
			require.InDelta(t, 200, got, 50)
		}
		b.allArrive(t, "n3/pod", "n1/pod")
		b.allArrive(t, "n1/pod", "n2/pod")
		heal()
		b.allArrive(t, "n1/pod", "n3/pod")
	})
	t.Run("path-drop-fragments loses each of them and nothing else", func(t *testing.T) {
		fragmented := func(from, to string) int { return b.ping(t, from, to, 2900, 2, "-M", "dont", "-W", "0.6").received }
		require.Equal(t, 2, fragmented("n1", "n3"))
		heal := b.inject(t, "kind: path-drop-fragments, between: [n1, n3]")
		require.Zero(t, fragmented("n1", "n3"))
		require.Zero(t, fragmented("n3", "n1"))
		require.Equal(t, 2, b.ping(t, "n1", "n3", 1500, 2).received)
		require.Equal(t, 2, fragmented("n2", "n3"))
		require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))
		heal()
		require.Equal(t, 2, fragmented("n1", "n3"))
	})
	t.Run("path-rate drops what is over it and delays nothing", func(t *testing.T) {
		// 1 Mbit/s, of which 20000 bytes may come at once (fabric.Rule).
		heal := b.inject(t, "kind: path-rate, between: [n1, n3], bitsPerSecond: 1000000, direction: forward")
		began := time.Now()
		got := b.send(t, "n1", "n3", lostAfter, slices.Repeat([]int{1000}, 300)...)[1000]
		require.GreaterOrEqual(t, got, 15)
		require.LessOrEqual(t, got, 20+int(time.Since(began).Seconds()*125)+1)
		require.Equal(t, 300, b.send(t, "n3", "n1", arriveLimit, slices.Repeat([]int{1000}, 300)...)[1000])
		require.Equal(t, 300, b.send(t, "n1", "n2", arriveLimit, slices.Repeat([]int{1000}, 300)...)[1000])
		heal()
		require.Equal(t, 300, b.send(t, "n1", "n3", arriveLimit, slices.Repeat([]int{1000}, 300)...)[1000])
	})
	t.Run("path-flap changes the way and loses nothing", func(t *testing.T) {
		straight := b.ping(t, "n1", "n3", 200, 3)
		require.Equal(t, map[int]int{63: 3}, straight.ttls, straight.output)
		heal := b.inject(t, "kind: path-flap, between: [n1, n3], every: 100ms")
		got := b.ping(t, "n1", "n3", 200, 60, "-i", "0.01")
		require.Equal(t, 60, got.received, got.output)
		require.Len(t, got.ttls, 2, "there and back both go the second way, or neither does: %v", got.ttls)
		require.Greater(t, got.ttls[61], 5, "two hops longer: %v", got.ttls)
		require.Greater(t, got.ttls[63], 5, "and sometimes straight: %v", got.ttls)
		require.Equal(t, map[int]int{63: 20}, b.ping(t, "n2", "n3", 200, 20, "-i", "0.01").ttls)
		heal()
		require.Equal(t, map[int]int{63: 20}, b.ping(t, "n1", "n3", 200, 20, "-i", "0.01").ttls)
	})
	t.Run("path-cut loses everything, one way", func(t *testing.T) {
		heal := b.inject(t, "kind: path-cut, between: [b, a], direction: reverse")
		b.loses(t, "n1", "n3", 100, 1500)
		b.loses(t, "n2/pod", "n3/pod", 100, podMTU)
		b.passes(t, "n3", "n1", 100, 1500)
		b.passes(t, "n3/pod", "n2/pod", 100, podMTU)
		b.passes(t, "n1", "n2", 100)
		require.Error(t, b.download(t, "n1/pod", "n3/pod", 100, time.Second))
		heal()
		b.passes(t, "n1", "n3", 100, 1500)
		require.NoError(t, b.download(t, "n1/pod", "n3/pod", 100, arriveLimit))
	})
}

func (b *bed) allArrive(t *testing.T, from, to string) {
	t.Helper()
	require.Equal(t, 400, b.send(t, from, to, arriveLimit, small(400)...)[200], "from %s to %s nothing is lost", from, to)
}

// selectPaths cuts as a fault selects, and looks at every ordered pair of ports.
func (b *bed) selectPaths(t *testing.T) {
	spots := []string{"n1", "n2", "n3", "aggregator", "services"}
	tests := []struct {
		name, selects string
		// cut are the ways that are, as "from to".
		cut []string
	}{
		{"between zones", "between: [a, b]", []string{"n1 n3", "n2 n3", "n3 n1", "n3 n2"}},
		{"between zones, forward", "between: [a, b], direction: forward", []string{"n1 n3", "n2 n3"}},
		{"between zones, reverse", "between: [a, b], direction: reverse", []string{"n3 n1", "n3 n2"}},
		{"between nodes of a zone, forward", "between: [n2, n1], direction: forward", []string{"n2 n1"}},
		{"one node, all it sends", "node: n3, direction: forward", []string{"n3 n1", "n3 n2", "n3 aggregator", "n3 services"}},
		{"one node, all it gets", "node: n3, direction: reverse", []string{"n1 n3", "n2 n3", "aggregator n3", "services n3"}},
		{"a zone, all it sends", "zone: a, direction: forward", []string{"n1 n2", "n2 n1", "n1 n3", "n2 n3", "n1 aggregator", "n2 aggregator", "n1 services", "n2 services"}},
		{"a list of nodes, all they get", "nodes: [n1], direction: reverse", []string{"n2 n1", "n3 n1", "aggregator n1", "services n1"}},
		{"a pool, both ways", "pool: left", []string{"n1 n2", "n1 n3", "n1 aggregator", "n1 services", "n2 n1", "n3 n1", "aggregator n1", "services n1"}},
		{"nothing selected: all pairs of nodes", "direction: both", []string{"n1 n2", "n1 n3", "n2 n1", "n2 n3", "n3 n1", "n3 n2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			heal := b.inject(t, "kind: path-cut, "+tt.selects)
			slices.Sort(tt.cut)
			require.Equal(t, tt.cut, b.cutPairs(t, spots, tt.cut))
			heal()
			require.Empty(t, b.cutPairs(t, spots, nil))
		})
	}
}

// cutPairs are the ordered pairs of spots between which nothing passes. It asks all
// at once, and waits longer where something should.
func (b *bed) cutPairs(t *testing.T, spots, expected []string) []string {
	t.Helper()
	type answer struct {
		way  string
		lost bool
	}
	answers := make(chan answer)
	asked := 0
	for _, from := range spots {
		for _, to := range spots {
			if from == to {
				continue
			}
			asked++
			way, limit := from+" "+to, arriveLimit
			if slices.Contains(expected, way) {
				limit = lostAfter
			}
			go func() { answers <- answer{way, len(b.send(t, from, to, limit, 100)) == 0} }()
		}
	}
	var out []string
	for range asked {
		if a := <-answers; a.lost {
			out = append(out, a.way)
		}
	}
	slices.Sort(out)
	return out
}

// noTrain says that what the nodes' kernel would put together or take apart for speed
// reaches the fabric as packets, so that it drops what a wire would drop.
func (b *bed) noTrain(t *testing.T) {
	before := ports(t, b)
	require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 4<<20, 20*time.Second))
	require.NoError(t, b.transfer(t, "n1", "n3", 4<<20, 20*time.Second))
	after := ports(t, b)
	for name, now := range after {
		require.Zero(t, now.Trains, "trains at port %s", name)
		require.Zero(t, now.Oversize, "oversize at port %s", name)
	}
	packets, bytes := after["n1"].Packets-before["n1"].Packets, after["n1"].Bytes-before["n1"].Bytes
	require.Greater(t, bytes, uint64(8<<20))
	require.LessOrEqual(t, bytes/packets, uint64(1500))
	require.Greater(t, bytes/packets, uint64(1000), "full packets, not crumbs")
}

func ports(t *testing.T, b *bed) map[string]fabric.PortCounters {
	t.Helper()
	c, err := b.fabric.Counters()
	require.NoError(t, err)
	return c.Ports
}
