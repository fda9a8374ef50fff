// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/evidence"
)

// An aggregator that is behind the node by lag, on a way out and a way back.
func aggregator(boot string, lag, out, back time.Duration) PeerFunc {
	c := hostclock.New()
	return func(ctx context.Context) (Exchange, error) {
		t1 := c.Now()
		if !pause(ctx, out, nil) {
			return Exchange{}, ctx.Err()
		}
		t2 := c.Now().Add(-lag)
		if !pause(ctx, back, nil) {
			return Exchange{}, ctx.Err()
		}
		return Exchange{T1: t1, T2: t2, T3: t2, T4: c.Now(), KernelBootID: boot}, nil
	}
}

func paired(t *testing.T, peer Peer) *rig {
	t.Helper()
	return newRig(t, func(c *Config) { c.Peer = peer })
}

func TestPairwiseOffsetIsNodeMinusAggregator(t *testing.T) {
	r := paired(t, aggregator("boot-b", 7*time.Second, ms, 30*ms))
	v := r.sample()
	require.Equal(t, evidence.WarmingUp, v.reason("pairwise_offset_seconds"))
	r.watch()
	v = r.until("an exchange has ended", func(v view) bool { return v.reason("pairwise_offset_seconds") == 0 })
	offset := v.node["clock.pairwise_offset_seconds"]
	require.InDelta(t, 7, offset.GetNumber(), offset.GetUncertainty(), "whatever the asymmetry")
	require.Greater(t, offset.GetUncertainty(), 0.014)
	require.False(t, v.node["clock.shared_with_aggregator"].GetFlag())
	require.Equal(t, evidence.Blind, v.reason("pairwise_agrees"), "no external source to agree with")
	for _, h := range r.Hooks() {
		if h.Signal == "clock.pairwise" {
			require.True(t, h.Confirmed)
		}
	}
	r.until("the agent is woken", func(view) bool { return r.wakes.Load() > 0 })
}

func TestPairwiseOfOneClock(t *testing.T) {
	r := paired(t, aggregator("boot-a", 0, ms, ms)).watch()
	v := r.until("an exchange has ended", func(v view) bool { return v.reason("shared_with_aggregator") == 0 })
	require.True(t, v.node["clock.shared_with_aggregator"].GetFlag())
	require.NotNil(t, v.node["clock.pairwise_offset_seconds"].GetNotApplicable(), "a zero that says nothing")
	require.NotNil(t, v.node["clock.pairwise_agrees"].GetNotApplicable())
}

func TestPairwiseOfOneKernelWithTwoClocks(t *testing.T) {
	r := paired(t, aggregator("boot-a", 420*time.Second, ms, ms)).watch()
	v := r.until("an exchange has ended", func(v view) bool { return v.reason("shared_with_aggregator") == 0 })
	require.False(t, v.node["clock.shared_with_aggregator"].GetFlag())
	require.InDelta(t, 420, v.number("pairwise_offset_seconds"), 0.2)
}

func TestPairwiseAgreesWithTheMajority(t *testing.T) {
	tests := []struct {
		name     string
		external time.Duration
		lag      time.Duration
		want     bool
	}{
		{"both say ahead", time.Minute, time.Minute, true},
		{"both say behind", -time.Minute, -time.Minute, true},
		{"they say opposite things", time.Minute, -time.Minute, false},
		{"the pair holds zero", time.Minute, 0, false},
		{"the majority holds zero", 0, time.Minute, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, puppets := stage(t, 2)
			r.peer = aggregator("boot-b", tt.lag, 0, 0)
			all(puppets, tt.external)
			r.round()
			require.True(t, r.exchangeAll(context.Background(), 3))
			v := r.sample()
			require.Zero(t, v.reason("pairwise_agrees"))
			require.Equal(t, tt.want, v.node["clock.pairwise_agrees"].GetFlag())
		})
	}
}

func TestPairwiseFailures(t *testing.T) {
	r := paired(t, PeerFunc(func(context.Context) (Exchange, error) { return Exchange{}, errors.New("connection\nrefused") })).watch()
	v := r.until("it has failed", func(v view) bool { return v.reason("pairwise_offset_seconds") == evidence.Failed })
	require.Equal(t, "exchange time with the aggregator: connection refused", v.unknown("pairwise_offset_seconds"))
	require.Equal(t, evidence.Failed, v.reason("shared_with_aggregator"))

	none := newRig(t, nil)
	require.Equal(t, evidence.Blind, none.sample().reason("pairwise_offset_seconds"))
}

func TestPairKeepsTheNarrowestAndWidensIt(t *testing.T) {
	var p pair
	p.add(Exchange{KernelBootID: "x"}, pairSample{span: around(0, 10*ms), boottime: 1})
	p.add(Exchange{KernelBootID: "x"}, pairSample{span: around(ms, 2*ms), boottime: 1})
	p.add(Exchange{KernelBootID: "x"}, pairSample{span: around(0, 30*ms), boottime: 1})
	span, ok := p.best(1)
	require.True(t, ok)
	require.Equal(t, around(ms, 2*ms), span)
	span, _ = p.best(1 + uint64(20*time.Second))
	require.Equal(t, around(ms, 12*ms), span, "500 ppm of 20 s")
	_, ok = p.best(1 + uint64(freshness) + 1)
	require.False(t, ok)

	for range 20 {
		p.add(Exchange{KernelBootID: "x"}, pairSample{span: around(0, 50*ms), boottime: 1})
	}
	require.Len(t, p.samples, pairSamples)
	p.add(Exchange{KernelBootID: "y"}, pairSample{span: around(0, 60*ms), boottime: 1})
	require.Len(t, p.samples, 1, "another replica has another clock")
}

func TestReduceRefusesWhatCannotBe(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	_, err := Exchange{T1: t0, T2: t0, T3: t0, T4: t0.Add(time.Hour)}.reduce(10 * ms)
	require.ErrorIs(t, err, errStepped)
	_, err = Exchange{T1: t0, T2: t0, T3: t0, T4: t0.Add(-time.Hour)}.reduce(10 * ms)
	require.ErrorIs(t, err, errStepped)
	_, err = Exchange{T1: t0, T2: t0, T3: t0.Add(time.Second), T4: t0.Add(5 * ms)}.reduce(10 * ms)
	require.ErrorIs(t, err, errInvalid)
	span, err := Exchange{T1: t0, T2: t0, T3: t0, T4: t0.Add(5 * ms)}.reduce(10 * ms)
	require.NoError(t, err)
	require.Equal(t, around(2500*time.Microsecond, 2500*time.Microsecond), span)
}
