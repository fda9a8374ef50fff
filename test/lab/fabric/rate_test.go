// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestThePolicerPassesItsRateAndDelaysNothing(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		const rate, lasting = 8e6, 2 * time.Second
		b := newBed(t, family, nil)
		s := b.sink("b")
		b.set(Rule{ID: "rate", From: "a", To: "b", BitsPerSecond: rate})
		b.source("a", "b").rate(t.Context(), 1250, 4*rate, lasting)
		var c RuleCounters
		testutils.Eventually(t, 5*time.Second, "all are judged", func() bool {
			c = b.rule("rate")
			return s.got(1250)+int(c.DroppedPackets) == int(c.SeenPackets)
		})
		passed := float64(s.got(1250)*1250*8) / s.last.Sub(s.first).Seconds()
		require.InEpsilon(t, rate, passed, 0.2, "bit/s that passed")
		require.Greater(t, c.SeenBytes, 2*(c.SeenBytes-c.DroppedBytes), "far more was offered")
		// A queue would hold what was too much, more than a second of it.
		require.Less(t, s.typicalDelay(), 100*time.Millisecond)
		t.Logf("%.2f Mbit/s of %.2f passed, median delay %s", passed/1e6, float64(c.SeenBytes)*8/lasting.Seconds()/1e6, s.typicalDelay())
	})
}

func TestPairsShareTheBucketOfOneRule(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	s, other := b.sink("b"), b.sink("c")
	b.set(Rule{ID: "rate", From: "a", BitsPerSecond: 8000, BurstBytes: 10000})
	b.source("a", "b").burst(1000, 5)
	b.source("a", "c").burst(1000, 15)
	testutils.Eventually(t, 5*time.Second, "all are judged", func() bool { return b.rule("rate").SeenPackets == 20 })
	testutils.Eventually(t, 5*time.Second, "the burst passes", func() bool { return s.got(1000)+other.got(1000)+int(b.rule("rate").DroppedPackets) == 20 })
	require.Equal(t, 5, s.got(1000))
	require.InDelta(t, 5, other.got(1000), 1, "the first pair took half of the burst")
}

func TestFlapChangesTheWayAndLosesNothing(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		for _, hook := range hooks(t) {
			t.Run(string(hook), func(t *testing.T) {
				b := newBed(t, family, func(cfg *Config, _ []*Port) { cfg.Hook = hook })
				first := b.ping("a", "b", 1500, 20)
				require.Equal(t, map[int]int{63: 20}, first.ttls, first.output)
				b.set(Rule{ID: "there", From: "a", To: "b", FlapEvery: 40 * time.Millisecond}, Rule{ID: "back", From: "b", To: "a", FlapEvery: 40 * time.Millisecond})
				got := b.ping("a", "b", 1500, 200, "-i", "0.005", "-W", "2")
				require.Equal(t, 200, got.received, got.output)
				require.Len(t, got.ttls, 2, "%v", got.ttls)
				require.Greater(t, got.ttls[63], 50)
				require.Greater(t, got.ttls[61], 50, "two routers more")
				require.Less(t, got.longest, 500*time.Millisecond, "the second way is ready before it is taken")
				require.Equal(t, uint64(got.ttls[61]), b.rule("back").ReroutedPackets)
				require.Zero(t, b.rule("back").DroppedPackets)
				b.set()
				first = b.ping("a", "b", 1500, 20)
				require.Equal(t, map[int]int{63: 20}, first.ttls, first.output)
			})
		}
	})
}

func TestNothingFlapsWithoutASpine(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, func(cfg *Config, _ []*Port) { cfg.Spine = nil })
	require.ErrorContains(t, b.Set(Rule{ID: "flap", FlapEvery: time.Second}), "no second way")
	b.passes("a", "b", 1500)
}

// Slots are used again: what the slow policer's bucket lacked, 20 s of its rate, is
// nothing to the fast one.
func TestAPolicerBeginsWithAFullBucket(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		s := b.sink("b")
		from := b.source("a", "b")
		require.NoError(t, b.Set(Rule{ID: "slow", From: "a", To: "b", BitsPerSecond: 8000}))
		slot := b.rules.entries["slow"].slot
		from.burst(1000, 60)
		testutils.Eventually(t, 5*time.Second, "the slow one's bucket is empty", func() bool { return b.rule("slow").DroppedPackets >= 30 })
		require.NoError(t, b.Clear("slow"))
		require.NoError(t, b.Set(Rule{ID: "fast", From: "a", To: "b", BitsPerSecond: 100e6}))
		require.Equal(t, slot, b.rules.entries["fast"].slot)
		from.rate(t.Context(), 1250, 0.4e6, time.Second)
		testutils.Eventually(t, 5*time.Second, "all are judged", func() bool {
			c := b.rule("fast")
			return c.SeenPackets >= 30 && s.got(1250)+int(c.DroppedPackets) == int(c.SeenPackets)
		})
		require.Zero(t, b.rule("fast").DroppedPackets)
	})
}
