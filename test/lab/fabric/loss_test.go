// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// lose sends packets and says how many of them the receiver missed, once it has all
// that the rules let through.
func (b *bed) lose(s *sink, from, to string, length, count int) int {
	b.t.Helper()
	before, had := b.dropped(), s.got(length)
	b.source(from, to).burst(length, count)
	testutils.Eventually(b.t, 5*time.Second, "every packet passes or is lost by the rule", func() bool {
		return s.got(length)-had+b.dropped()-before == count
	})
	return count - (s.got(length) - had)
}

// near fails unless n is within five standard deviations of what a ratio gives: less
// than one run in a million is outside of it.
func near(t *testing.T, ratio float64, n, of int) {
	t.Helper()
	require.InDelta(t, ratio*float64(of), n, 5*math.Sqrt(float64(of)*ratio*(1-ratio)), "%d of %d lost", n, of)
}

func TestLossIsRandomAndBlindToSize(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		s := b.sink("b")
		for _, ratio := range []float64{0.02, 0.3} {
			b.set(Rule{ID: "loss", From: "a", To: "b", LossRatio: ratio})
			for _, length := range []int{100, 1500} {
				near(t, ratio, b.lose(s, "a", "b", length, 2000), 2000)
			}
		}
		b.set(Rule{ID: "loss", From: "a", To: "b", LossRatio: 1})
		require.Equal(t, 2000, b.lose(s, "a", "b", 101, 2000))
		b.set(Rule{ID: "elsewhere", From: "a", To: "c", LossRatio: 1})
		b.source("a", "b").burst(102, 1000)
		testutils.Eventually(t, 5*time.Second, "all arrive again", func() bool { return s.got(102) == 1000 })
	})
}

func TestOfTwoLossesTheHigherHolds(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	s := b.sink("b")
	b.set(Rule{ID: "out of a", From: "a", LossRatio: 0.3}, Rule{ID: "into b", To: "b", LossRatio: 0.3}, Rule{ID: "light", LossRatio: 0.1})
	near(t, 0.3, b.lose(s, "a", "b", 200, 2000), 2000)
}

func TestFragmentsAreLostAndWholePacketsAreNot(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		whole := []string{"-M", "dont"}
		require.Equal(t, 3, b.ping("a", "b", 4000, 3, whole...).received)
		b.set(Rule{ID: "frag", From: "a", To: "b", DropFragments: true})
		b.passes("a", "b", 1500)
		require.Zero(t, b.ping("a", "b", 4000, 3, whole...).received)
		require.Equal(t, uint64(9), b.rule("frag").DroppedPackets, "three fragments of each, the first one too")
		require.Zero(t, b.ping("b", "a", 4000, 3, whole...).received, "the answer is fragmented as well")
		require.Equal(t, 3, b.ping("a", "c", 4000, 3, whole...).received, "elsewhere they pass")
		b.set()
		require.Equal(t, 3, b.ping("a", "b", 4000, 3, whole...).received)
	})
}

func TestFragmentsBehindOptionsAreFound(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv6, nil)
	s := b.sink("b")
	from := b.source("a", "b")
	from.control(func(fd int) error {
		// One PadN of four bytes (RFC 8200 section 4.2).
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
	})
	arrives := func(length int) {
		t.Helper()
		had := s.got(length)
		from.send(length)
		testutils.Eventually(t, 5*time.Second, "the packet arrives", func() bool { return s.got(length) == had+1 })
	}
	arrives(3000)
	b.set(Rule{ID: "frag", DropFragments: true})
	from.send(3000)
	testutils.Eventually(t, 5*time.Second, "all three fragments are lost", func() bool { return b.rule("frag").DroppedPackets == 3 })
	arrives(1000)
	require.Equal(t, 1, s.got(3000))
}

func TestCutIsOneWayAndSparesTheGateway(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		s := b.sink("a")
		require.Equal(t, 1, b.pingAddress("b", b.address("a"), 100, 1).received)
		b.set(Rule{ID: "cut", From: "a", Cut: true})
		b.fails("a", "b", 100)
		b.fails("a", "c", 100)
		b.passes("b", "c", 100)
		b.source("b", "a").send(100)
		testutils.Eventually(t, 5*time.Second, "the other way is open", func() bool { return s.got(100) == 1 })
		for _, name := range []string{"a", "b"} {
			b.nodes[name].Run("ip", "neigh", "flush", "dev", "eth0")
			got := b.pingAddress(name, b.gateway(name), 100, 2)
			require.Equal(t, 2, got.received, "the gateway is found anew and answers: %s", got.output)
		}
		b.set(Rule{ID: "cut", To: "a", Cut: true})
		require.Equal(t, 2, b.pingAddress("a", b.gateway("a"), 100, 2).received)
		b.fails("a", "b", 100)
		require.NoError(t, b.Clear("cut"))
		b.passes("a", "b", 100)
	})
}

func TestWildcardsHoldForPortsThatComeLater(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	b.set(Rule{ID: "into c", To: "c", Cut: true}, Rule{ID: "all", DropLarger: 1000})
	b.nodes["d"] = testutils.NewNetNS(t)
	require.NoError(t, b.AddPort(t.Context(), Port{
		Name: "d", Device: "fd", Peer: b.nodes["d"], PeerDevice: "eth0", MTU: 1500,
		Gateway: host(IPv4, 4, 1), Addresses: prefixes("10.9.4.2/24"),
	}))
	b.fails("d", "c", 100)
	b.passes("d", "a", 1000)
	b.fails("d", "a", 1001)
	b.fails("b", "d", 1001)
}

func TestRulesOfOnePairAddUp(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string][]Rule{
		"two rules": {{ID: "r", From: "a", To: "b", DropLarger: 1400}, {ID: "loss", From: "a", LossRatio: 0.3}},
		"one rule":  {{ID: "r", From: "a", To: "b", DropLarger: 1400, LossRatio: 0.3}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, IPv4, nil)
			s := b.sink("b")
			b.set(rules...)
			require.Equal(t, 300, b.lose(s, "a", "b", 1401, 300))
			near(t, 0.3, b.lose(s, "a", "b", 1400, 1000), 1000)
		})
	}
}

func TestTheWorstOfTwoSizesDecides(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	b.set(Rule{ID: "loud", From: "a", DropLarger: 1300, ICMP: true}, Rule{ID: "louder", From: "a", DropLarger: 1200, ICMP: true},
		Rule{ID: "silent", From: "a", To: "c", DropLarger: 1350})
	b.fails("a", "c", 1351)
	require.Zero(t, b.learned("a", "c"), "what one loses without a word, none answers")
	require.Zero(t, b.ping("a", "c", 1350, 1).received)
	require.Equal(t, 1200, b.learned("a", "c"))
	require.Zero(t, b.ping("a", "b", 1350, 1).received)
	require.Equal(t, 1200, b.learned("a", "b"))
	require.Equal(t, uint64(2), b.rule("louder").AnsweredPackets)
	require.Zero(t, b.rule("loud").AnsweredPackets)
}
