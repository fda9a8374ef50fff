// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/hostclock"
)

func TestPTPDevices(t *testing.T) {
	root := tree(t, map[string]string{
		"ptp0/clock_name":  "KVM virtual PTP\n",
		"ptp1/clock_name":  "ixgbe-aabbcc\n",
		"ptp10/clock_name": "hyperv\n",
		"ptp2/clock_name":  "ena-ptp-05\n",
		"ptp3/clock_name":  "ptp_vmw\n",
	})
	devices, refused, err := ptpDevices(root, "/dev")
	require.NoError(t, err)
	require.Equal(t, []ptpDevice{
		{"KVM virtual PTP", "/dev/ptp0"}, {"hyperv", "/dev/ptp10"}, {"ena-ptp-05", "/dev/ptp2"}, {"ptp_vmw", "/dev/ptp3"},
	}, devices)
	require.Equal(t, []string{"ptp1 (ixgbe-aabbcc)"}, refused, "a network card's clock may count TAI")

	_, _, err = ptpDevices(filepath.Join(root, "none"), "/dev")
	require.NoError(t, err, "no directory means no device")
	require.NoError(t, os.Mkdir(filepath.Join(root, "ptp4"), 0o755))
	devices, _, err = ptpDevices(root, "/dev")
	require.ErrorContains(t, err, "ptp4")
	require.Len(t, devices, 4)
}

// The sizes are part of the ioctl numbers: _IOC(dir, '=', nr, size).
func TestIoctlNumbersMatchTheStructs(t *testing.T) {
	size := func(request uintptr) uintptr { return request >> 16 & 0x3fff }
	require.Equal(t, size(unix.PTP_SYS_OFFSET2), unsafe.Sizeof(ptpSysOffset{}))
	require.Equal(t, size(unix.PTP_SYS_OFFSET_EXTENDED2), unsafe.Sizeof(unix.PtpSysOffsetExtended{}))
	require.Equal(t, size(unix.PTP_SYS_OFFSET_PRECISE2), unsafe.Sizeof(unix.PtpSysOffsetPrecise{}))
}

func pct(seconds int64, nanoseconds uint32) unix.PtpClockTime {
	return unix.PtpClockTime{Sec: seconds, Nsec: nanoseconds}
}

func TestDecodePTP(t *testing.T) {
	precise := decodePrecise(&unix.PtpSysOffsetPrecise{Device: pct(10, 5), Realtime: pct(11, 6), Monoraw: pct(1, 1)})
	require.Equal(t, []phcReading{{time.Unix(11, 6), time.Unix(10, 5), time.Unix(11, 6)}}, precise)

	extended := unix.PtpSysOffsetExtended{Samples: 2}
	extended.Ts[0] = [3]unix.PtpClockTime{pct(1, 0), pct(2, 0), pct(3, 0)}
	extended.Ts[1] = [3]unix.PtpClockTime{pct(4, 0), pct(5, 0), pct(6, 0)}
	require.Equal(t, []phcReading{{time.Unix(1, 0), time.Unix(2, 0), time.Unix(3, 0)}, {time.Unix(4, 0), time.Unix(5, 0), time.Unix(6, 0)}}, decodeExtended(&extended))
	extended.Samples = 1 << 30
	require.Len(t, decodeExtended(&extended), unix.PTP_MAX_SAMPLES)

	basic := ptpSysOffset{samples: 2}
	for i := range 5 {
		basic.ts[i] = pct(int64(i+1), 0)
	}
	require.Equal(t, []phcReading{{time.Unix(1, 0), time.Unix(2, 0), time.Unix(3, 0)}, {time.Unix(3, 0), time.Unix(4, 0), time.Unix(5, 0)}}, decodeBasic(&basic))
	basic.samples = 1 << 30
	require.Len(t, decodeBasic(&basic), unix.PTP_MAX_SAMPLES)
}

type fakePHC struct {
	out []phcReading
	err error
}

func (f fakePHC) readings(string, int) ([]phcReading, string, error) {
	return f.out, rungPTPExtended, f.err
}

func TestPTPQuery(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	reading := func(offset, window time.Duration) phcReading {
		return phcReading{before: now, device: now.Add(window/2 - offset), after: now.Add(window)}
	}
	tests := []struct {
		name   string
		phc    fakePHC
		offset time.Duration
		half   time.Duration
		err    error
	}{
		{name: "the narrowest of the readings", phc: fakePHC{out: []phcReading{reading(9*time.Second, 50*ms), reading(2*time.Second, 4*ms)}}, offset: 2 * time.Second, half: 2*ms + hostError},
		{name: "a reading across a step is left out", phc: fakePHC{out: []phcReading{reading(0, -time.Second), reading(time.Second, 2*ms)}}, offset: time.Second, half: ms + hostError},
		{name: "nothing but steps", phc: fakePHC{out: []phcReading{reading(0, -time.Second)}}, err: errStepped},
		{name: "no permission", phc: fakePHC{err: os.ErrPermission}, err: os.ErrPermission},
		{name: "a device that counts TAI", phc: fakePHC{out: []phcReading{reading(-37*time.Second, ms)}}, err: errInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &ptpClient{clock: hostclock.New(), reader: tt.phc, device: ptpDevice{path: "/dev/ptp0"}}
			s, err := c.query(context.Background())
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, around(tt.offset, tt.half), s.span)
			require.Equal(t, rungPTPExtended, s.rung)
		})
	}
}

func TestIoctlReaderSaysWhatIsMissing(t *testing.T) {
	_, _, err := ioctlReader{}.readings(filepath.Join(t.TempDir(), "ptp0"), ptpSamples)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "read-only")
	// A file that is no PTP device answers ENOTTY to every ioctl of the ladder.
	path := filepath.Join(t.TempDir(), "ptp0")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, _, err = ioctlReader{}.readings(path, ptpSamples)
	require.True(t, errors.Is(err, unix.ENOTTY), "%v", err)
}
