//go:build plumblab

// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func off(c *Clock) time.Duration { return c.Now().Sub(time.Now().Round(0)) }

func TestTheLabClockFollowsItsFile(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := filepath.Join(t.TempDir(), "clock")
	t.Setenv(labFileVariable, path)
	c := New()
	require.InDelta(t, 0, off(c).Seconds(), 0.1, "no file: nothing is off")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	steps := make(chan Step, 8)
	done := make(chan error, 1)
	go func() { done <- c.WatchSteps(ctx, func(s Step) { steps <- s }) }()

	testutils.Eventually(t, 5*time.Second, "a step is seen", func() bool {
		// Written until the watcher is up.
		if off(c) < time.Minute {
			write(t, path, "offset_seconds=420\n")
		} else if len(steps) == 0 {
			write(t, path, "offset_seconds=0\n")
		}
		return len(steps) > 0
	})
	write(t, path, `{"offset_seconds": -3600, "drift_parts_per_million": 100}`)
	testutils.Eventually(t, 5*time.Second, "the offset follows", func() bool { return off(c) < -59*time.Minute })
	require.InDelta(t, -3600, off(c).Seconds(), 0.1)
	require.InDelta(t, -3600, time.Until(c.FromKernel(time.Now().Round(0))).Seconds(), 0.1)

	timex, err := c.Adjust()
	require.NoError(t, err)
	require.True(t, timex.Unsynchronised())
	require.Equal(t, labMaximumError, timex.MaximumError)

	write(t, path, "nonsense")
	testutils.Eventually(t, 5*time.Second, "the error shows", func() bool { _, err := c.Adjust(); return err != nil })
	require.InDelta(t, -3600, off(c).Seconds(), 0.1, "the last good setting stays in force")

	cancel()
	require.NoError(t, <-done)
}

func TestAPausedMachinesClockIsOffWithoutAStep(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := filepath.Join(t.TempDir(), "clock")
	t.Setenv(labFileVariable, path)
	write(t, path, "offset_seconds=0")
	c := New()
	before, err := c.Adjust()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	steps := make(chan Step, 8)
	done := make(chan error, 1)
	go func() { done <- c.WatchSteps(ctx, func(s Step) { steps <- s }) }()
	write(t, path, "quiet_seconds=-60")
	testutils.Eventually(t, 5*time.Second, "the offset follows", func() bool { return off(c) < -59*time.Second })
	after, err := c.Adjust()
	require.NoError(t, err)
	require.Equal(t, before.Status, after.Status, "the kernel knows of nothing")
	// The next change is a step, and the only one that is reported.
	testutils.Eventually(t, 5*time.Second, "a step is seen", func() bool {
		write(t, path, "quiet_seconds=-60\noffset_seconds="+strconv.Itoa(5+time.Now().Nanosecond()%2))
		return len(steps) > 0
	})
	require.InDelta(t, 0, (<-steps).Size.Seconds(), 7, "what came quietly is no step")
	cancel()
	require.NoError(t, <-done)
}

func TestTheLabClockDriftsAndSteps(t *testing.T) {
	s, err := parseLab([]byte("drift_parts_per_million=200 since_boottime_nanoseconds=1000000000 step=5000000000:-2 step=9000000000:3"), 7)
	require.NoError(t, err)
	require.Equal(t, 800*time.Microsecond, s.drift(5000000000))
	require.Equal(t, time.Duration(0), s.jump(4999999999))
	require.Equal(t, -2*time.Second, s.jump(5000000000))
	require.Equal(t, time.Second, s.jump(9000000000))
}

func TestParseLabRefuses(t *testing.T) {
	for _, text := range []string{"", "offset", "offset_seconds=x", "speed=3", `{"offset": 3}`, "step=3"} {
		_, err := parseLab([]byte(text), 1)
		require.Error(t, err, text)
	}
}
