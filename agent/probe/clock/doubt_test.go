// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

// A round without answers votes on what was said before. That it agrees with
// itself confirms nothing.
func TestASpikeThatNobodyConfirmsStaysOneRound(t *testing.T) {
	for _, answering := range []int{0, 1} {
		r, puppets := stage(t, 2)
		all(puppets, 2*time.Second)
		r.round()
		for _, p := range puppets[answering:] {
			p.err = errUnreachable
		}
		r.round()
		v := r.sample()
		require.EqualValues(t, 2, v.integer("groups_agreeing"), "what they said a moment ago still counts")
		require.EqualValues(t, 1, v.integer("rounds_agreeing"))
		_, holds := v.holds(evidence.ConditionClockOffset)
		require.False(t, holds)

		for _, p := range puppets {
			p.err = nil
		}
		r.round()
		require.EqualValues(t, 2, r.sample().integer("rounds_agreeing"))
	}
}

func TestOneWhoDoesNotConfirmIsNotPesteredForLong(t *testing.T) {
	r, puppets := stage(t, 2)
	all(puppets, 2*time.Second)
	r.round()
	puppets[0].err = &kissError{"RATE"}
	for range r.pace.misses {
		require.Equal(t, r.pace.again, r.round().next)
	}
	r.pace.early = time.Hour
	require.Equal(t, r.pace.early, r.round().next)
}

// Two liars of three must not win because one packet of the third was lost.
func TestALostAnswerOfTheHonestOneDoesNotLetTheLiarsAgree(t *testing.T) {
	r, puppets := stage(t, 3)
	all(puppets[:2], 7*time.Minute)
	puppets[2].script = func(n int) (sample, error) {
		if n == 1 {
			return sample{}, errUnreachable
		}
		return puppets[2].say(0, 0), nil
	}
	c := r.conclude(r.askAll(context.Background(), r.pace.burst, true))
	require.True(t, c.confirm)
	r.conclude(r.askAll(context.Background(), 1, !c.confirm))
	v := r.sample()
	require.EqualValues(t, 2, v.integer("rounds_agreeing"))
	require.EqualValues(t, 1, v.integer("groups_dissenting"))
}

// A source that has been dead for long must not cost the confirming round a
// time-out.
func TestADeadServerIsNotAskedToConfirm(t *testing.T) {
	r, puppets := stage(t, 3)
	puppets[2].err = errUnreachable
	for range r.pace.misses {
		r.round()
	}
	asked := puppets[2].asked
	r.askAll(context.Background(), 1, false)
	require.Equal(t, asked, puppets[2].asked)
}

// pool.ntp.org hands out servers of operators that are also known by their own
// names.
func TestOneServerUnderTwoNamesIsOneVoice(t *testing.T) {
	lie := sntptest.Config{Offset: -7 * time.Minute}
	r := newRig(t, func(c *Config) {
		c.Servers = append(c.Servers, Server{Group: "another-name", Address: c.Servers[0].Address})
	}, lie)
	r.round()
	r.round()
	require.EqualValues(t, 1, r.sample().integer("groups_total"))
	require.Equal(t, evidence.Failed, r.sample().reason("offset_at_least_seconds"))
}
