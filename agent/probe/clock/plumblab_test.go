//go:build plumblab

// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

// The whole way with a clock that is off: honest servers, a step in the lab's
// file, and the probe sees the step and measures it.
func TestTheLabsClockIsMeasuredLikeAnyOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	t.Setenv("PLUMBLAB_CLOCK_FILE", path)
	r := newRig(t, func(c *Config) {
		c.Clock = hostclock.New()
		c.Peer = aggregator("boot-a", 0, 0, 0)
	}, sntptest.Config{}, sntptest.Config{})
	r.setPace(defaultPace())
	r.watch()
	v := r.until("it is in step", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })
	require.InDelta(t, 0, v.number("offset_seconds"), 0.1)

	require.NoError(t, os.WriteFile(path+".new", []byte("offset_seconds=420\n"), 0o600))
	stepped := r.clock.Boottime()
	require.NoError(t, os.Rename(path+".new", path))
	v = r.until("two rounds agree on the new offset", func(v view) bool {
		return v.integer("rounds_agreeing") >= 2 && v.number("offset_seconds") > 1
	})
	took := time.Duration(r.clock.Boottime() - stepped)
	t.Logf("two rounds agreed %s after the step", took)
	require.Less(t, took, 3*time.Second)
	require.InDelta(t, 420, v.number("offset_seconds"), 0.1)
	require.InDelta(t, 420, v.number("step_seconds"), 0.001)
	require.True(t, v.node["clock.unsynchronised"].GetFlag())
	onset, holds := v.holds(evidence.ConditionClockOffset)
	require.True(t, holds)
	require.Less(t, time.Duration(onset-stepped), 200*ms)
}
