// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

// A puppet is a source that says what a test wants.
type puppet struct {
	clock  *hostclock.Clock
	offset time.Duration
	half   time.Duration
	delay  time.Duration
	err    error
	asked  int
	// script, when set, is called instead.
	script func(n int) (sample, error)
}

func (p *puppet) query(context.Context) (sample, error) {
	p.asked++
	if p.script != nil {
		return p.script(p.asked)
	}
	return p.say(p.offset, p.delay), p.err
}

func (p *puppet) say(offset, delay time.Duration) sample {
	half := p.half
	if half == 0 {
		half = 5 * ms
	}
	return sample{span: around(offset, half), delay: delay, boottime: p.clock.Boottime(), raw: p.clock.MonotonicRaw(), rung: rungSNTP}
}

// stage returns a probe that is not watching, with n puppets of a group each.
func stage(t *testing.T, n int) (*rig, []*puppet) {
	t.Helper()
	r := newRig(t, nil)
	var puppets []*puppet
	for i := range n {
		p := &puppet{clock: r.clock}
		puppets = append(puppets, p)
		r.sources = append(r.sources, &source{server: Server{Group: fmt.Sprintf("g%d", i), Address: "192.0.2.1:123"}, client: p})
	}
	return r, puppets
}

// round takes one round and says what follows from it.
func (r *rig) round() conclusion {
	return r.conclude(r.askAll(context.Background(), 1, true))
}

func all(puppets []*puppet, offset time.Duration) {
	for _, p := range puppets {
		p.offset = offset
	}
}

func TestASpikeIsNoOffset(t *testing.T) {
	r, puppets := stage(t, 2)
	c := r.round()
	require.True(t, c.changed)
	require.True(t, c.confirm, "a first round is confirmed soon")
	c = r.round()
	require.True(t, c.changed, "the second round that agrees is worth a look")
	c = r.round()
	require.False(t, c.changed)
	require.EqualValues(t, 3, r.sample().integer("rounds_agreeing"))

	all(puppets, 2*time.Second)
	c = r.round()
	require.True(t, c.changed)
	require.Equal(t, r.pace.again, c.next, "what contradicts is checked at once")
	v := r.sample()
	require.InDelta(t, 2, v.number("offset_seconds"), 0.01)
	require.EqualValues(t, 1, v.integer("rounds_agreeing"))
	_, holds := v.holds(evidence.ConditionClockOffset)
	require.False(t, holds)

	all(puppets, 0)
	r.round()
	r.round()
	v = r.sample()
	require.EqualValues(t, 2, v.integer("rounds_agreeing"))
	_, holds = v.holds(evidence.ConditionClockOffset)
	require.False(t, holds)
}

func TestASpikeDoesNotEndTheConditionEither(t *testing.T) {
	r, puppets := stage(t, 2)
	all(puppets, 2*time.Second)
	r.round()
	r.round()
	onset, holds := r.sample().holds(evidence.ConditionClockOffset)
	require.True(t, holds)
	all(puppets, 0)
	r.round()
	_, holds = r.sample().holds(evidence.ConditionClockOffset)
	require.True(t, holds)
	all(puppets, 2*time.Second)
	r.round()
	r.round()
	again, holds := r.sample().holds(evidence.ConditionClockOffset)
	require.True(t, holds)
	require.Equal(t, onset, again, "an episode that goes on keeps its onset")
}

func TestOffsetBelowTheLimitIsNoCondition(t *testing.T) {
	r, puppets := stage(t, 2)
	all(puppets, -504*ms) // less its error of 5 ms
	r.round()
	r.round()
	v := r.sample()
	require.InDelta(t, 0.499, v.number("offset_at_least_seconds"), 0.001)
	_, holds := v.holds(evidence.ConditionClockOffset)
	require.False(t, holds)
}

// A leap smear moves a server by up to half a second over hours, at 11.6 ppm:
// every round is compatible with the one before.
func TestASmearKeepsTheRoundsAgreeing(t *testing.T) {
	r, puppets := stage(t, 2)
	for i := range 10 {
		all(puppets, time.Duration(i)*700*time.Microsecond)
		r.round()
	}
	v := r.sample()
	require.EqualValues(t, 10, v.integer("rounds_agreeing"))
	require.InDelta(t, 0.0063, v.number("offset_seconds"), 0.001)
}

// One smears and the others do not: it is named once their intervals part.
func TestOneThatSmearsIsNamed(t *testing.T) {
	r, puppets := stage(t, 3)
	puppets[2].offset = 9 * ms
	r.round()
	require.EqualValues(t, 0, r.sample().integer("groups_dissenting"))
	puppets[2].offset = 300 * ms
	r.round()
	v := r.sample()
	require.Equal(t, r.key(2), v.text("false_sources"))
	require.InDelta(t, 0, v.number("offset_seconds"), 0.01)
}

func TestTheSampleWithTheLeastDelayIsKept(t *testing.T) {
	r, puppets := stage(t, 2)
	for _, p := range puppets {
		p.script = func(n int) (sample, error) {
			// The third is the best one.
			return p.say(time.Duration(n)*ms, []time.Duration{0, 9 * ms, 40 * ms, 8 * ms, 30 * ms}[n]), nil
		}
	}
	r.conclude(r.askAll(context.Background(), 4, true))
	require.Equal(t, 4, puppets[0].asked)
	require.InDelta(t, 0.003, r.sample().number("offset_seconds"), 1e-4)
}

func TestDriftIsMeasuredOverRounds(t *testing.T) {
	r, _ := stage(t, 2)
	r.round()
	require.Equal(t, evidence.WarmingUp, r.sample().reason("drift_parts_per_million"))
	r.round()
	// Half a minute is not waited for: the segment is put in place.
	now := r.clock.MonotonicRaw()
	r.mu.Lock()
	for i := range r.drift.points {
		r.drift.points[i].raw = now - uint64((40-16*i)*int(time.Second))
		r.drift.points[i].offset = time.Duration(-200*(40-16*i)) * time.Microsecond
	}
	r.mu.Unlock()
	r.round()
	v := r.sample()
	require.InDelta(t, 200, v.number("drift_parts_per_million"), 2)

	// A step cuts the segment.
	r.noteStep(hostclock.Step{Size: time.Second, Boottime: r.clock.Boottime()}, func() {})
	r.round()
	require.Equal(t, evidence.WarmingUp, r.sample().reason("drift_parts_per_million"))
}

func TestARoundThatAStepOvertakesDecidesNothing(t *testing.T) {
	r, puppets := stage(t, 2)
	r.round()
	puppets[0].script = func(int) (sample, error) {
		r.noteStep(hostclock.Step{Size: time.Hour, Boottime: r.clock.Boottime()}, func() {})
		return puppets[0].say(0, ms), nil
	}
	c := r.round()
	require.False(t, c.changed)
	v := r.sample()
	require.Equal(t, evidence.WarmingUp, v.reason("offset_seconds"))
	require.Contains(t, v.unknown("offset_seconds"), "stepped")
	require.Equal(t, evidence.WarmingUp, v.sources[r.key(1)]["clock.source_offset_seconds"].GetUnknown().GetReason())
}

func TestATinyStepIsToldAndDisturbsNothing(t *testing.T) {
	r, _ := stage(t, 2)
	r.round()
	r.round()
	woken := false
	r.noteStep(hostclock.Step{Size: 100 * time.Microsecond, Boottime: r.clock.Boottime()}, func() { woken = true })
	v := r.sample()
	require.False(t, woken)
	require.InDelta(t, 1e-4, v.number("step_seconds"), 1e-9)
	require.EqualValues(t, 2, v.integer("rounds_agreeing"))
	require.Empty(t, v.sample.Active)
}

func TestASuspendBeginsAnew(t *testing.T) {
	r, _ := stage(t, 2)
	r.round()
	r.mu.Lock()
	r.history.gap -= 90 * time.Second // CLOCK_BOOTTIME has gained that much since
	r.mu.Unlock()
	v := r.sample()
	require.InDelta(t, 90, v.number("suspended_seconds"), 1)
	require.Equal(t, evidence.WarmingUp, v.reason("offset_seconds"))
	r.round()
	v = r.sample()
	require.Zero(t, v.reason("offset_seconds"))
	require.InDelta(t, 90, v.number("suspended_seconds"), 1, "counted once")
	r.mu.Lock()
	r.history.suspends[0].boottime -= uint64(window) + 1
	r.mu.Unlock()
	require.Zero(t, r.sample().number("suspended_seconds"))
}

func TestALostAnswerIsBridgedAndRetried(t *testing.T) {
	r, puppets := stage(t, 2)
	for range r.pace.earlyRounds {
		r.round()
	}
	puppets[1].err = errUnreachable
	r.pace.early, r.pace.steady = 1, 2
	c := r.round()
	require.Equal(t, r.pace.early, c.next, "asked again soon")
	require.EqualValues(t, 2, r.sample().integer("groups_agreeing"), "what it said a moment ago still counts")
	r.round()
	r.round()
	v := r.sample()
	require.EqualValues(t, 1, v.integer("groups_total"))
	require.Equal(t, stateUnreachable, v.state(r.key(1)))
	require.Equal(t, r.pace.steady, r.round().next, "and one that is gone hurries nobody")
}

func TestOldEvidenceIsNotTold(t *testing.T) {
	r, _ := stage(t, 2)
	r.round()
	r.mu.Lock()
	r.vote.boottime -= uint64(freshness) + 1
	for _, s := range r.sources {
		s.last.boottime -= uint64(freshness) + 1
	}
	r.mu.Unlock()
	v := r.sample()
	require.Equal(t, evidence.Stale, v.reason("offset_seconds"))
	require.Equal(t, evidence.Stale, v.reason("groups_agreeing"))
	_, _, ok := r.MeasuredTime()
	require.False(t, ok)
}

func TestKissesAreObeyed(t *testing.T) {
	t.Run("RATE: less often, twice as slowly each time, and no burst", func(t *testing.T) {
		r, puppets := stage(t, 1)
		puppets[0].err = &kissError{"RATE"}
		r.conclude(r.askAll(context.Background(), 4, true))
		require.Equal(t, 1, puppets[0].asked, "the burst ends at once")
		s := r.sources[0]
		require.Equal(t, r.pace.rateMin, s.gap)
		r.round()
		require.Equal(t, 1, puppets[0].asked, "it is left alone")
		v := r.sample()
		require.Equal(t, stateInvalid, v.state(r.key(0)))
		require.Contains(t, v.sources[r.key(0)]["clock.source_detail"].GetText(), "RATE")

		s.quietUntil = 0
		r.round()
		require.Equal(t, 2*r.pace.rateMin, s.gap)
		puppets[0].err = nil
		s.quietUntil = 0
		r.conclude(r.askAll(context.Background(), 4, true))
		require.Equal(t, 3, puppets[0].asked, "one sample, no burst")
		require.NotZero(t, s.quietUntil, "and the interval stays")
	})
	t.Run("RATE does not take back what was said", func(t *testing.T) {
		r, puppets := stage(t, 2)
		r.round()
		puppets[0].err = &kissError{"RATE"}
		r.round()
		v := r.sample()
		require.EqualValues(t, 2, v.integer("groups_agreeing"))
	})
	for _, code := range []string{"DENY", "RSTR"} {
		t.Run(code+": never again", func(t *testing.T) {
			r, puppets := stage(t, 1)
			puppets[0].err = &kissError{code}
			r.round()
			r.noteStep(hostclock.Step{Size: time.Hour, Boottime: r.clock.Boottime()}, func() {})
			r.round()
			require.Equal(t, 1, puppets[0].asked)
			require.Equal(t, stateInvalid, r.sample().state(r.key(0)))
		})
	}
}

func TestABudgetHoldsWhateverHappens(t *testing.T) {
	r, puppets := stage(t, 1)
	r.pace = defaultPace()
	r.pace.burstGap = 0
	for range 20 {
		r.noteStep(hostclock.Step{Size: time.Second, Boottime: r.clock.Boottime()}, func() {})
		r.conclude(r.askAll(context.Background(), r.pace.burst, true))
	}
	require.Equal(t, r.pace.budget, puppets[0].asked)
}

func TestAnAnswerThatIsNoLongerValidCountsAtOnce(t *testing.T) {
	r, puppets := stage(t, 2)
	r.round()
	puppets[0].err = fmt.Errorf("%w: stratum 16", errInvalid)
	r.round()
	v := r.sample()
	require.EqualValues(t, 1, v.integer("groups_total"))
	require.Equal(t, stateInvalid, v.state(r.key(0)))
	require.Contains(t, v.sources[r.key(0)]["clock.source_delay_seconds"].GetUnknown().GetDetail(), "stratum 16")
}

func TestAPanickingSourceCostsOnlyItself(t *testing.T) {
	r, puppets := stage(t, 3)
	puppets[1].script = func(int) (sample, error) { panic(errors.New("boom")) }
	r.round()
	v := r.sample()
	require.EqualValues(t, 2, v.integer("groups_agreeing"))
	require.Equal(t, stateInvalid, v.state(r.key(1)))
	require.Contains(t, v.sources[r.key(1)]["clock.source_detail"].GetText(), "boom")
}

// With the pace that ships, two rounds have agreed well within the three seconds
// that a verdict may take, also while a third server is dead.
func TestTheShippedPaceConfirmsWithinTwoSeconds(t *testing.T) {
	lie := sntptest.Config{Offset: -420 * time.Second}
	r := newRig(t, nil, lie, lie, sntptest.Config{Silent: true})
	r.setPace(defaultPace())
	began := r.clock.Boottime()
	r.watch()
	v := r.until("two rounds agree", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })
	took := time.Duration(r.clock.Boottime() - began)
	t.Logf("two rounds agreed after %s", took)
	require.Less(t, took, 3*time.Second)
	_, holds := v.holds(evidence.ConditionClockOffset)
	require.True(t, holds)
	for _, s := range r.servers[:2] {
		require.Len(t, s.Requests(), 5, "four at first contact and one to confirm")
	}
}

func BenchmarkSample(b *testing.B) {
	p, err := New(Config{Clock: hostclock.New(), Servers: []Server{{Group: "a", Address: "192.0.2.1:123"}, {Group: "b", Address: "192.0.2.2:123"}}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := p.Sample(context.Background(), &evidence.Sample{}); err != nil {
			b.Fatal(err)
		}
	}
}
