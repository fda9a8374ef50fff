// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"time"

	"github.com/plumb-dev/plumb/agent/hostclock"
)

// history is what happened to the clock lately. Guarded by Probe.mu.
type history struct {
	last     hostclock.Step
	stepped  bool
	suspends []suspend
	gap      time.Duration
}

// A suspend is one growth of CLOCK_BOOTTIME over CLOCK_MONOTONIC.
type suspend struct {
	boottime uint64
	length   time.Duration
}

func (h *history) start(c *hostclock.Clock) { h.gap = suspendGap(c) }

// suspendGap is how long the guest has been suspended since it booted. The
// narrowest of three brackets is taken, like hostclock.Epoch does.
func suspendGap(c *hostclock.Clock) time.Duration {
	var gap time.Duration
	var narrow uint64
	for i := range 3 {
		before := c.Monotonic()
		boot := c.Boottime()
		after := c.Monotonic()
		if i == 0 || after-before < narrow {
			narrow = after - before
			gap = time.Duration(boot - (before + narrow/2))
		}
	}
	return gap
}

func (h *history) step(s hostclock.Step) { h.last, h.stepped = s, true }

// suspended takes in a reading of suspendGap and says whether the guest was
// suspended since the one before.
func (h *history) suspended(gap time.Duration, boottime uint64) bool {
	grown := gap - h.gap
	if grown < leastSuspend {
		return false
	}
	h.gap = gap
	h.suspends = append(h.suspends, suspend{boottime, grown})
	return true
}

// lastStep returns the last step within the window.
func (h *history) lastStep(boottime uint64) (hostclock.Step, bool) {
	return h.last, h.stepped && time.Duration(boottime-h.last.Boottime) <= window
}

// suspendedFor sums the suspends within the window.
func (h *history) suspendedFor(boottime uint64) time.Duration {
	var sum time.Duration
	kept := h.suspends[:0]
	for _, s := range h.suspends {
		if time.Duration(boottime-s.boottime) <= window {
			kept = append(kept, s)
			sum += s.length
		}
	}
	h.suspends = kept
	return sum
}
