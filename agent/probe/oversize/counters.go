// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

// window is the length, in nanoseconds of CLOCK_BOOTTIME, of every item that
// counts within a window.
const window = uint64(30e9)

// A series remembers how a counter grew during the last window.
type series struct {
	points []point
}

type point struct {
	at    uint64
	value uint64
}

// add notes the counter's value and returns by how much it grew within the
// window that ends at now. What was counted before the first point is taken as
// base: from is the value at a time when the counter was certainly not watched
// yet (0 for a map row, the first reading for a counter that is older than us).
func (s *series) add(now, value, from uint64) uint64 {
	s.points = append(s.points, point{at: now, value: value})
	// The base is the newest point that is not younger than the window; older
	// ones are of no use.
	for len(s.points) > 1 && now-s.points[1].at >= window {
		s.points = s.points[1:]
	}
	base := from
	if now-s.points[0].at >= window {
		base = s.points[0].value
	}
	if value < base {
		return 0
	}
	return value - base
}
