// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hostclock reads the node's clocks. It is the only place in the agent
// that does: a build with the tag plumblab replaces one file of it, and with that
// the whole agent sees a clock that is off.
package hostclock

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// A Clock reads the clocks of this node. It is safe for concurrent use.
type Clock struct {
	source source
}

// New returns the node's clock.
func New() *Clock { return &Clock{source: newSource()} }

// Now is CLOCK_REALTIME: the node's wall clock, right or wrong. It carries no
// monotonic reading, so that a difference of two of them shows a step.
func (c *Clock) Now() time.Time { return c.source.now() }

// FromKernel maps a CLOCK_REALTIME stamp that the kernel took by itself (a PTP
// ioctl, a socket time stamp) to what Now would have said at that moment.
func (c *Clock) FromKernel(stamp time.Time) time.Time { return c.source.fromKernel(stamp) }

// Adjust says what the time daemon told the kernel about the clock: a claim, no
// measurement. It needs no capability. The error is EPERM where a seccomp filter
// forbids adjtimex(2) even for reading.
func (c *Clock) Adjust() (Timex, error) { return c.source.adjust() }

// WatchSteps calls fn for every step of CLOCK_REALTIME until ctx is done; it then
// returns nil. It returns an error, at once, where the kernel cannot tell. Calls
// of fn do not overlap. A resume from suspend is no step.
func (c *Clock) WatchSteps(ctx context.Context, fn func(Step)) error {
	return c.source.watchSteps(ctx, fn)
}

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
