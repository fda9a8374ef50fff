// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockVariable names the file that sets the clock of an agent of the lab's build
// (agent/hostclock/source_plumblab.go).
const clockVariable = "PLUMBLAB_CLOCK_FILE"

// A clockSetting is how far an agent's clock is off.
type clockSetting struct {
	offset time.Duration
	// quiet is an offset that came without a step.
	quiet time.Duration
	drift float64 // parts per million
	// since is the boottime that the drift counts from.
	since time.Duration
	// steps are jumps that the kernel reports, by their boottime.
	steps []clockStep
}

type clockStep struct {
	at time.Duration
	by time.Duration
}

// boottime is CLOCK_BOOTTIME, which the agent dates everything by.
func boottime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the boottime: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// write replaces the file in one step: the agent reads it when it changes.
func (c clockSetting) write(path string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "offset_seconds=%.9f\nquiet_seconds=%.9f\ndrift_parts_per_million=%g\n", c.offset.Seconds(), c.quiet.Seconds(), c.drift)
	if c.since > 0 {
		fmt.Fprintf(&b, "since_boottime_nanoseconds=%d\n", c.since.Nanoseconds())
	}
	for _, s := range c.steps {
		fmt.Fprintf(&b, "step=%d:%.9f\n", s.at.Nanoseconds(), s.by.Seconds())
	}
	if err := os.WriteFile(path+".new", []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("set the agent's clock: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("set the agent's clock: %w", err)
	}
	return nil
}
