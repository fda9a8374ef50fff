// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

func says(group string, middle, half time.Duration) reading {
	return reading{group: group, name: group + "/" + group, span: around(middle, half)}
}

func named(group, name string, middle, half time.Duration) reading {
	return reading{group: group, name: group + "/" + name, span: around(middle, half)}
}

func TestVote(t *testing.T) {
	const skew = 420 * time.Second
	tests := []struct {
		name       string
		readings   []reading
		majority   bool
		total      int
		agreeing   int
		dissenting int
		low, high  time.Duration
		false      []string
		states     map[string]string
		detail     string
	}{
		{name: "nobody answered", detail: "no time source answered"},
		{
			name: "one source cannot be checked", readings: []reading{says("a", 0, ms)},
			total: 1, states: map[string]string{"a/a": stateAlone}, detail: "one independent source cannot be checked",
		},
		{
			name:     "two servers of one group are one voice",
			readings: []reading{named("a", "1", 0, ms), named("a", "2", 0, 2*ms)},
			total:    1, states: map[string]string{"a/1": stateAlone, "a/2": stateAlone}, detail: "one independent source",
		},
		{
			name: "two groups agree on seven minutes", readings: []reading{says("a", skew, 10*ms), says("b", skew+5*ms, 10*ms)},
			majority: true, total: 2, agreeing: 2, low: skew - 5*ms, high: skew + 10*ms,
			states: map[string]string{"a/a": stateAgrees, "b/b": stateAgrees},
		},
		{
			name: "two groups disagree: no majority", readings: []reading{says("a", 0, ms), says("b", skew, ms)},
			total: 2, states: map[string]string{"a/a": stateAlone, "b/b": stateAlone}, detail: "no majority: at most 1 of 2",
		},
		{
			name: "one liar of three", readings: []reading{says("a", 0, 10*ms), says("liar", -skew, ms), says("c", 4*ms, 10*ms)},
			majority: true, total: 3, agreeing: 2, dissenting: 1, low: -6 * ms, high: 10 * ms, false: []string{"liar/liar"},
			states: map[string]string{"a/a": stateAgrees, "liar/liar": stateFalse, "c/c": stateAgrees},
		},
		{
			name: "two liars of three who disagree", readings: []reading{says("a", 0, ms), says("b", skew, ms), says("c", -skew, ms)},
			total: 3, detail: "no majority: at most 1 of 3",
		},
		{
			name: "two liars of three who agree win, with a dissenter", readings: []reading{says("honest", 0, ms), says("b", skew, ms), says("c", skew, ms)},
			majority: true, total: 3, agreeing: 2, dissenting: 1, low: skew - ms, high: skew + ms, false: []string{"honest/honest"},
		},
		{
			name: "half is no majority", readings: []reading{says("a", 0, ms), says("b", 0, ms), says("c", skew, ms), says("d", skew, ms)},
			total: 4, detail: "no majority: at most 2 of 4",
		},
		{
			name:     "many servers of one liar do not outvote two groups",
			readings: []reading{named("l", "1", skew, ms), named("l", "2", skew, ms), named("l", "3", skew, ms), says("a", 0, ms), says("b", 0, ms)},
			majority: true, total: 3, agreeing: 2, dissenting: 1, low: -ms, high: ms, false: []string{"l/1", "l/2", "l/3"},
		},
		{
			name:     "a group that contradicts itself dissents, and its good server is still told from its bad one",
			readings: []reading{named("l", "bad", skew, ms), named("l", "good", 0, ms), says("a", 0, ms), says("b", 0, ms)},
			majority: true, total: 3, agreeing: 2, dissenting: 1, low: -ms, high: ms, false: []string{"l (contradicts itself)", "l/bad"},
			states: map[string]string{"l/bad": stateFalse, "l/good": stateAgrees},
		},
		{
			name:     "the only group contradicts itself",
			readings: []reading{named("l", "1", skew, ms), named("l", "2", 0, ms)},
			total:    1, detail: "contradicts itself",
		},
		{
			name:     "a wide one meets two that exclude each other: the truth is in one of them",
			readings: []reading{says("wide", 0, 100*ms), says("left", -50*ms, ms), says("right", 50*ms, ms)},
			majority: true, total: 3, agreeing: 2, dissenting: 1, low: -51 * ms, high: 51 * ms,
			false:  []string{"left/left (or the one it excludes)", "right/right (or the one it excludes)"},
			states: map[string]string{"wide/wide": stateAgrees, "left/left": stateAlone, "right/right": stateAlone},
		},
		{
			name: "intervals that touch overlap", readings: []reading{says("a", 0, ms), says("b", 2*ms, ms)},
			majority: true, total: 2, agreeing: 2, low: ms, high: ms,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := vote(tt.readings)
			require.Equal(t, tt.majority, out.majority, out.detail)
			require.Equal(t, tt.total, out.total)
			require.Equal(t, tt.agreeing, out.agreeing)
			require.Equal(t, tt.dissenting, out.dissenting)
			require.Equal(t, interval{tt.low, tt.high}, out.span)
			require.Equal(t, tt.false, out.falseSources)
			require.Contains(t, out.detail, tt.detail)
			if tt.detail == "" {
				require.Empty(t, out.detail)
			}
			for name, state := range tt.states {
				require.Equal(t, state, out.states[name], name)
			}
		})
	}
}

// While fewer than half of the groups lie, the truth is in what is reported,
// whatever the liars say.
func TestVoteHoldsTheTruthAgainstAnyMinority(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		groups := 3 + random.IntN(5)
		liars := random.IntN((groups + 1) / 2)
		truth := time.Duration(random.Int64N(int64(time.Hour)))
		var readings []reading
		for g := range groups {
			half := time.Duration(1 + random.Int64N(int64(100*ms)))
			middle := truth + time.Duration(random.Int64N(2*int64(half)+1)) - half
			if g < liars {
				middle += time.Duration(random.Int64N(int64(400*ms))) - 200*ms
			}
			readings = append(readings, says(string(rune('a'+g)), middle, half))
		}
		out := vote(readings)
		require.True(t, out.majority)
		require.LessOrEqual(t, out.span.low, truth)
		require.GreaterOrEqual(t, out.span.high, truth)
		require.Equal(t, groups, out.agreeing+out.dissenting)
		require.GreaterOrEqual(t, out.agreeing, groups-liars)
	}
}

func TestIntervalLeast(t *testing.T) {
	require.Equal(t, 400*ms, around(-500*ms, 100*ms).least())
	require.Equal(t, 400*ms, around(500*ms, 100*ms).least())
	require.Zero(t, around(50*ms, 100*ms).least())
	require.Equal(t, []int{-1, 0, 1}, []int{around(-ms, 0).side(), around(0, ms).side(), around(2*ms, ms).side()})
}

func TestIntervalWidensWithAge(t *testing.T) {
	require.Equal(t, around(0, ms+1500*time.Microsecond), around(0, ms).widen(100*time.Second, phi))
	require.Equal(t, around(0, ms), around(0, ms).widen(-time.Hour, phi))
}
