// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hostclock reads the node's clocks. It is the only place in the agent
// that does: a build with the tag plumblab replaces one file of it, and with that
// the whole agent sees a clock that is off.
package hostclock

import (
	"time"

	"golang.org/x/sys/unix"
)

// A Clock reads the clocks of this node. It has no state of its own and is safe
// for concurrent use.
type Clock struct {
	source source
}

// New returns the node's clock.
func New() *Clock { return &Clock{source: newSource()} }

// Now is CLOCK_REALTIME: the node's wall clock, right or wrong.
func (c *Clock) Now() time.Time { return c.source.now() }

// Boottime is CLOCK_BOOTTIME in nanoseconds: monotonic, counts suspend. All
// evidence is stamped with it.
func (c *Clock) Boottime() uint64 { return read(unix.CLOCK_BOOTTIME) }

// Monotonic is CLOCK_MONOTONIC in nanoseconds: slewed by the time daemon, stops
// in suspend. BPF's bpf_ktime_get_ns reads it.
func (c *Clock) Monotonic() uint64 { return read(unix.CLOCK_MONOTONIC) }

// MonotonicRaw is CLOCK_MONOTONIC_RAW in nanoseconds: the bare oscillator, never
// slewed.
func (c *Clock) MonotonicRaw() uint64 { return read(unix.CLOCK_MONOTONIC_RAW) }

func read(id int32) uint64 {
	var ts unix.Timespec
	// clock_gettime(2) fails only for an id that the kernel does not know; the
	// three used here exist since 2.6.39.
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0
	}
	return uint64(ts.Nano())
}
