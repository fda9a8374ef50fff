// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(seconds float64, offset, noise time.Duration) driftPoint {
	return driftPoint{raw: uint64(seconds * 1e9), offset: offset, noise: noise}
}

func TestDriftOfACleanSlope(t *testing.T) {
	var d drift
	for i := range 5 {
		s := float64(i * 16)
		d.add(at(100+s, time.Hour+time.Duration(s*200e-6*1e9), 100*time.Microsecond), "a b")
	}
	ppm, half, ok := d.rate()
	require.True(t, ok)
	require.InDelta(t, 200, ppm, 0.01)
	// Without residuals the round trips still bound it: 200 µs over 64 s.
	require.InDelta(t, 3.125, half, 0.01)
}

// The 95 % interval must hold the true slope about 95 times in 100.
func TestDriftHalfWidthCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	covered, runs := 0, 2000
	for range runs {
		var d drift
		for i := range 6 {
			s := float64(i * 16)
			d.add(at(s, time.Duration(s*150e-6*1e9+random.NormFloat64()*float64(ms)), 0), "a")
		}
		ppm, half, ok := d.rate()
		require.True(t, ok)
		if ppm-half <= 150 && 150 <= ppm+half {
			covered++
		}
	}
	require.InDelta(t, 0.95, float64(covered)/float64(runs), 0.02)
}

func TestDriftWaitsAndIsCut(t *testing.T) {
	var d drift
	d.add(at(0, 0, 0), "a b")
	d.add(at(1, 0, 0), "a b")
	d.add(at(29, 0, 0), "a b")
	_, _, ok := d.rate()
	require.False(t, ok, "29 s are too short")
	require.InDelta(t, maxSlew, d.bound(maxSlew), 0, "what was not measured is assumed")

	d.add(at(31, 0, 0), "a b")
	_, _, ok = d.rate()
	require.True(t, ok)
	require.InDelta(t, phi, d.bound(maxSlew), 0, "never below PHI")

	d.add(at(47, 0, 0), "a c")
	_, _, ok = d.rate()
	require.False(t, ok, "other sources begin a new segment")

	for i := range 100 {
		d.add(at(100+float64(i), 0, 0), "a c")
	}
	require.Len(t, d.points, driftPoints)
	d.cut()
	_, _, ok = d.rate()
	require.False(t, ok)
}

func TestDriftIsNotFooledByAQueueThatFillsUp(t *testing.T) {
	var d drift
	// The way out grows by 20 ms over 32 s, which moves the offset by 10 ms: 312 ppm
	// without any residual.
	for i := range 3 {
		delay := time.Duration(i) * 10 * ms
		d.add(at(float64(i*16), delay/2, delay/2), "a")
	}
	ppm, half, ok := d.rate()
	require.True(t, ok)
	require.InDelta(t, 312.5, ppm, 0.1)
	require.LessOrEqual(t, ppm-half, 0.1)
}
