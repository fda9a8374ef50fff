// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func (b *bed) carrier(t *testing.T, node string) string {
	t.Helper()
	return strings.TrimSpace(b.at(t, node).run(t.Context(), "cat", "/sys/class/net/eth0/carrier"))
}

// network is all that a node knows of where to send what, without what it learned.
func (b *bed) network(t *testing.T, at string) string {
	t.Helper()
	s := b.at(t, at)
	out := ""
	for _, args := range [][]string{
		{"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "main"},
		{"ip", "-o", "-4", "addr", "show"}, {"ip", "-o", "-6", "addr", "show", "scope", "global"},
		{"ip", "neigh", "show", "nud", "permanent"}, {"bridge", "fdb", "show", "dev", "flannel.1"},
	} {
		lines := strings.Split(strings.TrimSpace(s.run(t.Context(), args...)), "\n")
		slices.Sort(lines)
		out += strings.Join(lines, "\n") + "\n"
	}
	return out
}

func TestLinkFaults(t *testing.T) {
	t.Parallel()
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, "  cloud: none\n  family: "+family+threeNodes)
			podMTU := b.node("n1").spec.PodMTU
			well := func(t *testing.T) {
				t.Helper()
				b.passes(t, "n2", "n3", 1500)
				b.passes(t, "n2/pod", "n3/pod", podMTU)
			}
			healed := func(t *testing.T, before string) {
				t.Helper()
				require.Equal(t, before, b.network(t, "n1"))
				testutils.Eventually(t, arriveLimit, "n1 is back", func() bool {
					return len(b.send(t, "n1/pod", "n3/pod", lostAfter, 100)) == 1 && len(b.send(t, "n3/pod", "n1/pod", lostAfter, 100)) == 1
				})
				b.passes(t, "n1", "n3", 1500)
				b.passes(t, "n3", "n1", 1500)
				b.passes(t, "n1", "aggregator", 1500)
				b.passes(t, "n3/pod", "n1/pod", podMTU)
			}
			t.Run("link-down takes the node's carrier", func(t *testing.T) {
				before := b.network(t, "n1")
				heal := b.inject(t, "kind: link-down, node: n1")
				require.Equal(t, "0", b.carrier(t, "n1"))
				b.loses(t, "n1", "n3", 100)
				b.loses(t, "n3", "n1", 100)
				b.loses(t, "n1/pod", "n3/pod", 100)
				b.loses(t, "n1", "aggregator", 100)
				well(t)
				heal()
				require.Equal(t, "1", b.carrier(t, "n1"))
				healed(t, before)
			})
			for _, device := range []string{"cni0", "flannel.1"} {
				t.Run("link-down of "+device+" is the node's own", func(t *testing.T) {
					before := b.network(t, "n1")
					heal := b.inject(t, "kind: link-down, node: n1, device: "+device)
					require.Equal(t, "1", b.carrier(t, "n1"))
					require.NotContains(t, b.at(t, "n1").run(t.Context(), "ip", "-o", "link", "show", "dev", device), "UP")
					b.loses(t, "n1/pod", "n3/pod", 100)
					b.loses(t, "n3/pod", "n1/pod", 100)
					b.passes(t, "n1", "n3", 1500)
					well(t)
					heal()
					healed(t, before)
				})
			}
			t.Run("link-flap goes up and down, and ends up", func(t *testing.T) {
				before := b.network(t, "n1")
				heal := b.inject(t, "kind: link-flap, node: n1, every: 400ms")
				for range 2 {
					testutils.Eventually(t, arriveLimit, "it is down", func() bool { return b.carrier(t, "n1") == "0" })
					testutils.Eventually(t, arriveLimit, "it is up", func() bool { return b.carrier(t, "n1") == "1" })
				}
				testutils.Eventually(t, arriveLimit, "and something passes meanwhile", func() bool { return len(b.send(t, "n1", "n3", lostAfter, 100)) == 1 })
				well(t)
				heal()
				require.Equal(t, "1", b.carrier(t, "n1"))
				healed(t, before)
				b.stays(t, 600*time.Millisecond, func() bool { return b.carrier(t, "n1") == "1" })
			})
		})
	}
}

// stays says that something holds for a time.
func (b *bed) stays(t *testing.T, during time.Duration, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); <-tick.C {
		require.True(t, holds())
	}
}

func TestRingDrop(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none"+threeNodes)
	for _, pair := range [][2]string{{"n1", "n3"}, {"n3", "n1"}, {"n3", "n2"}, {"n2", "n3"}} {
		b.passes(t, pair[0], pair[1], 100) // neighbours are known before ARP may be lost
	}
	dropped := func(node string) int { return b.counter(t, node, "eth0", "rx_dropped") }
	before1, before3 := dropped("n1"), dropped("n3")
	heal := b.inject(t, "kind: ring-drop, node: n1, ratio: 0.3")
	const sent = 1000
	lengths := append(slices.Repeat([]int{200}, sent/2), slices.Repeat([]int{1400}, sent/2)...)
	arrived := b.send(t, "n3", "n1", lostAfter, lengths...)
	for _, length := range []int{200, 1400} {
		// 150 of 500 with a standard deviation of 10.
		require.InDelta(t, sent/2*0.7, arrived[length], 55, "whatever the size")
	}
	lost := sent - arrived[200] - arrived[1400]
	counted := dropped("n1") - before1
	require.InDelta(t, lost, counted, 5, "each is counted; an ARP or two besides")
	b.allArrive(t, "n1", "n3")
	b.allArrive(t, "n2", "n3")
	require.Equal(t, before3, dropped("n3"))
	require.Zero(t, b.dropped(t), "it is not the fabric")
	heal()
	before1 = dropped("n1")
	b.allArrive(t, "n3", "n1")
	require.Equal(t, before1, dropped("n1"))
	require.NoError(t, b.transfer(t, "n3/pod", "n1/pod", 1<<20, arriveLimit))
	for name, port := range ports(t, b) {
		require.Zero(t, port.Trains, "what XDP did to the offloads of %s is undone", name)
	}
	b.inject(t, "kind: ring-drop, node: n2, ratio: 1")
	b.loses(t, "n3", "n2", 100)
}
