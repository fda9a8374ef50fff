// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestCheckStepsComesThrough(t *testing.T) {
	before := descriptors(t)
	require.NoError(t, New().CheckSteps())
	require.Equal(t, before, descriptors(t))
}

func TestWatchStepsEndsWithItsContextAndLeaksNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := New()
	require.NoError(t, c.CheckSteps()) // lets the runtime's poller open its own descriptors first
	before := descriptors(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.WatchSteps(ctx, func(Step) {}) }()
	testutils.Eventually(t, 5*time.Second, "the watcher has its timerfd", func() bool { return descriptors(t) > before })
	select {
	case err := <-done:
		t.Fatalf("the watcher ended by itself: %v", err)
	default:
	}
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, before, descriptors(t))
}

func TestWatchStepsOfAContextThatIsOver(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, New().WatchSteps(ctx, func(Step) { t.Error("a step out of nothing") }))
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestEpochStandsStillWithoutSteps(t *testing.T) {
	c := New()
	first := c.Epoch()
	var second Epoch
	testutils.Eventually(t, 5*time.Second, "20 ms have passed", func() bool {
		second = c.Epoch()
		return second.Boottime-first.Boottime > uint64(20*time.Millisecond)
	})
	// Two brackets of a loaded machine; a reference that slews or stops would be
	// off by far more over the same time only in the long run, which is why the
	// pair of clocks is argued in the comment of Epoch and not only tested here.
	require.InDelta(t, 0, float64(second.Offset-first.Offset), float64(5*time.Millisecond))
}

// Every cancellation is one element: how far the wall clock and boottime moved.
func TestCancellationsBecomeSteps(t *testing.T) {
	const us = time.Microsecond
	tests := []struct {
		name   string
		epochs []Epoch
		want   []Step
	}{
		{
			name:   "a step forward",
			epochs: []Epoch{{Offset: 0, Uncertainty: us}, {Offset: 7 * time.Minute, Uncertainty: us, Boottime: 5}},
			want:   []Step{{Size: 7 * time.Minute, Uncertainty: 2 * us, Boottime: 5}},
		},
		{
			name:   "a step back, then forth",
			epochs: []Epoch{{Uncertainty: us}, {Offset: -time.Second, Uncertainty: us, Boottime: 1}, {Uncertainty: us, Boottime: 2}},
			want:   []Step{{Size: -time.Second, Uncertainty: 2 * us, Boottime: 1}, {Size: time.Second, Uncertainty: 2 * us, Boottime: 2}},
		},
		{
			name:   "a resume from suspend moves both clocks alike",
			epochs: []Epoch{{Offset: time.Hour, Uncertainty: us}, {Offset: time.Hour + us, Uncertainty: us, Boottime: 9}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			next := 0
			epoch := func() Epoch { next++; return tt.epochs[next-1] }
			wait := func() error {
				if next == len(tt.epochs) {
					cancel()
				}
				return nil
			}
			var got []Step
			require.NoError(t, watchCancellations(ctx, wait, epoch, func(s Step) { got = append(got, s) }))
			require.Equal(t, tt.want, got)
		})
	}
}

func TestWatchCancellationsReportsWhyItCannotSee(t *testing.T) {
	broken := errors.New("bad descriptor")
	err := watchCancellations(context.Background(), func() error { return broken }, func() Epoch { return Epoch{} }, func(Step) {})
	require.ErrorIs(t, err, broken)
}
