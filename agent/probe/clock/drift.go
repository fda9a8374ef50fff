// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"math"
	"time"
)

const (
	// driftSpan is the shortest time over which a slope is told.
	driftSpan = 30 * time.Second
	// driftPoints bounds the window: at one point per 64 s, about 34 minutes, after
	// which temperature has changed the slope anyway.
	driftPoints = 32
)

// A driftPoint is one round's offset.
type driftPoint struct {
	// raw is CLOCK_MONOTONIC_RAW in nanoseconds: the one clock that nobody slews.
	raw    uint64
	offset time.Duration
	// noise is half the round trip of the best source. The rest of an interval's
	// width is the server's own error, which is the same at both ends of a segment
	// to within PHI and cancels in a slope.
	noise time.Duration
}

// A drift is a segment of offsets without a step, a suspend or a change of
// sources in it.
type drift struct {
	points  []driftPoint
	sources string
}

// cut begins a new segment.
func (d *drift) cut() { d.points, d.sources = nil, "" }

// add appends a round. A change of the sources begins a new segment, for the
// difference between two servers is not drift.
func (d *drift) add(p driftPoint, sources string) {
	if sources != d.sources {
		d.cut()
		d.sources = sources
	}
	d.points = append(d.points, p)
	if len(d.points) > driftPoints {
		d.points = d.points[1:]
	}
}

// rate returns the slope of the offset in parts per million of
// CLOCK_MONOTONIC_RAW, and its 95 % half width; ok is false while the segment is
// too short.
//
// The half width is that of ordinary least squares (Student's t), but never less
// than what the round trips allow: a queue that fills up steadily moves the
// offset as steadily, within the round trip, and leaves no residual.
func (d *drift) rate() (ppm, half float64, ok bool) {
	n := len(d.points)
	if n < 3 {
		return 0, 0, false
	}
	first, last := d.points[0], d.points[n-1]
	span := time.Duration(last.raw - first.raw)
	if span < driftSpan {
		return 0, 0, false
	}
	var sumX, sumY float64
	for _, p := range d.points {
		x, y := p.relative(first)
		sumX += x
		sumY += y
	}
	meanX, meanY := sumX/float64(n), sumY/float64(n)
	var sxx, sxy float64
	for _, p := range d.points {
		x, y := p.relative(first)
		sxx += (x - meanX) * (x - meanX)
		sxy += (x - meanX) * (y - meanY)
	}
	slope := sxy / sxx
	var residuals float64
	for _, p := range d.points {
		x, y := p.relative(first)
		r := y - meanY - slope*(x-meanX)
		residuals += r * r
	}
	half = student(n-2) * math.Sqrt(residuals/float64(n-2)/sxx)
	half = max(half, (first.noise+last.noise).Seconds()/span.Seconds())
	return slope * 1e6, half * 1e6, true
}

// relative keeps the arithmetic small: offsets may be years.
func (p driftPoint) relative(first driftPoint) (x, y float64) {
	return time.Duration(p.raw - first.raw).Seconds(), (p.offset - first.offset).Seconds()
}

// bound is the rate by which the clock may move between two rounds: what was
// measured, but not less than PHI; and assumed where nothing was measured.
func (d *drift) bound(assumed float64) float64 {
	ppm, half, ok := d.rate()
	if !ok {
		return assumed
	}
	return max(phi, (math.Abs(ppm)+half)/1e6)
}

// student is the 97.5 % quantile of Student's t distribution.
func student(degrees int) float64 {
	table := [...]float64{
		12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
		2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
	}
	if degrees <= len(table) {
		return table[degrees-1]
	}
	return table[len(table)-1]
}
