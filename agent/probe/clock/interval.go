// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import "time"

const (
	// phi is the frequency tolerance by which an interval widens with age, 15 ppm:
	// PHI of RFC 5905, section 7.2 and appendix A.1.1.
	phi = 15e-6
	// maxSlew is the rate by which a time daemon may run the clock, 500 ppm:
	// MAXFREQ of include/linux/timex.h. Nothing bounds the clock that is under
	// suspicion more tightly until its drift has been measured.
	maxSlew = 500e-6
)

// interval holds the true offset of the clock, if its source does not lie. Both
// ends belong to it.
type interval struct{ low, high time.Duration }

func around(middle, half time.Duration) interval {
	return interval{middle - half, middle + half}
}

func (i interval) middle() time.Duration { return i.low + (i.high-i.low)/2 }
func (i interval) half() time.Duration   { return (i.high - i.low) / 2 }

func (i interval) meets(o interval) bool { return i.low <= o.high && o.low <= i.high }

// widen accounts for the clock's own movement over an age.
func (i interval) widen(age time.Duration, rate float64) interval {
	if age < 0 {
		age = 0
	}
	by := time.Duration(float64(age) * rate)
	return interval{i.low - by, i.high + by}
}

// least is the magnitude that the offset has at least.
func (i interval) least() time.Duration {
	switch {
	case i.low > 0:
		return i.low
	case i.high < 0:
		return -i.high
	default:
		return 0
	}
}

// side is +1 when the interval lies above zero, −1 below, 0 when it holds zero.
func (i interval) side() int {
	switch {
	case i.low > 0:
		return 1
	case i.high < 0:
		return -1
	default:
		return 0
	}
}
