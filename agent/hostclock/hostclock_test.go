// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestClocksAdvance(t *testing.T) {
	c := New()
	now, boot, mono, raw := c.Now(), c.Boottime(), c.Monotonic(), c.MonotonicRaw()
	require.NotZero(t, boot)
	require.NotZero(t, mono)
	require.NotZero(t, raw)
	require.GreaterOrEqual(t, c.Boottime(), mono, "CLOCK_BOOTTIME counts suspend, CLOCK_MONOTONIC does not")
	require.GreaterOrEqual(t, c.Boottime(), boot)
	require.GreaterOrEqual(t, c.MonotonicRaw(), raw)
	require.NotContains(t, now.String(), "m=", "a monotonic reading would hide a step")
}

func TestAdjustReadsWithoutCapabilities(t *testing.T) {
	timex, err := New().Adjust()
	require.NoError(t, err)
	require.GreaterOrEqual(t, timex.State, 0)
	require.LessOrEqual(t, timex.State, StateError)
	require.GreaterOrEqual(t, timex.MaximumError, time.Duration(0))
	require.InDelta(t, 0, timex.FrequencyPPM, 500.1)
}

func TestDecodeTimex(t *testing.T) {
	tests := []struct {
		name  string
		state int
		raw   unix.Timex
		want  Timex
	}{
		{
			name:  "a kernel that nobody disciplines",
			state: StateError,
			raw:   unix.Timex{Status: StatusUnsync, Maxerror: 16000000, Esterror: 16000000},
			want:  Timex{State: StateError, Status: StatusUnsync, MaximumError: 16 * time.Second, EstimatedError: 16 * time.Second},
		},
		{
			name: "offset in microseconds without STA_NANO",
			raw:  unix.Timex{Offset: -1500, Freq: -13 * 65536, Maxerror: 2500, Tai: 37},
			want: Timex{Offset: -1500 * time.Microsecond, FrequencyPPM: -13, MaximumError: 2500 * time.Microsecond, TAIOffset: 37},
		},
		{
			name: "offset in nanoseconds with STA_NANO",
			raw:  unix.Timex{Status: statusNano, Offset: 1500, Freq: 32768},
			want: Timex{Status: statusNano, Offset: 1500, FrequencyPPM: 0.5},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decodeTimex(tt.state, &tt.raw)
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.want.Status&StatusUnsync != 0, got.Unsynchronised())
		})
	}
}
