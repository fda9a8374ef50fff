// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Status bits and states of adjtimex(2), include/uapi/linux/timex.h.
const (
	// StatusUnsync is STA_UNSYNC: nobody claims that the clock is right.
	StatusUnsync = 0x0040
	// statusNano is STA_NANO: the offset is in nanoseconds instead of
	// microseconds.
	statusNano = 0x2000
	// StateError is TIME_ERROR: the clock is not synchronised.
	StateError = 5
)

// Timex is the kernel's record of what the time daemon told it. Nothing in it is
// measured against true time.
type Timex struct {
	// State is the return value of adjtimex(2): 0 TIME_OK … 5 TIME_ERROR.
	State int
	// Status holds the STA_ bits.
	Status int
	// Offset is what remains to be slewed by the kernel's PLL.
	Offset time.Duration
	// FrequencyPPM is the correction of the oscillator, −500 … 500.
	FrequencyPPM float64
	// MaximumError grows by 500 µs per second between updates and saturates at
	// 16 s, at which the kernel sets STA_UNSYNC (kernel/time/ntp.c,
	// second_overflow).
	MaximumError time.Duration
	// EstimatedError is whatever the daemon wrote.
	EstimatedError time.Duration
	// TAIOffset is TAI minus UTC in seconds; 0 when no daemon has set it.
	TAIOffset int
}

// Unsynchronised says whether STA_UNSYNC is set. chrony without rtcsync leaves it
// set although the clock is right.
func (t Timex) Unsynchronised() bool { return t.Status&StatusUnsync != 0 }

func readTimex() (Timex, error) {
	var raw unix.Timex // Modes stays 0: read only, needs no capability
	state, err := unix.Adjtimex(&raw)
	if err != nil {
		return Timex{}, fmt.Errorf("read the kernel's clock discipline by adjtimex(2): %w", err)
	}
	return decodeTimex(state, &raw), nil
}

func decodeTimex(state int, raw *unix.Timex) Timex {
	unit := time.Microsecond
	if int(raw.Status)&statusNano != 0 {
		unit = time.Nanosecond
	}
	return Timex{
		State:  state,
		Status: int(raw.Status),
		Offset: time.Duration(raw.Offset) * unit,
		// freq is in parts per million with a 16-bit fraction, adjtimex(2).
		FrequencyPPM:   float64(raw.Freq) / 65536,
		MaximumError:   time.Duration(raw.Maxerror) * time.Microsecond,
		EstimatedError: time.Duration(raw.Esterror) * time.Microsecond,
		TAIOffset:      int(raw.Tai),
	}
}
