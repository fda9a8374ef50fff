// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rungs of clock.ptp, best first.
const (
	rungPTPPrecise  = "ptp/sys_offset_precise"
	rungPTPExtended = "ptp/sys_offset_extended"
	rungPTPBasic    = "ptp/sys_offset"
)

// ptpSysOffset is struct ptp_sys_offset of include/uapi/linux/ptp_clock.h, which
// golang.org/x/sys lacks: system, device, system, device, …, system.
type ptpSysOffset struct {
	samples uint32
	_       [3]uint32
	ts      [2*unix.PTP_MAX_SAMPLES + 1]unix.PtpClockTime
}

// ioctlReader reads PTP devices by ioctl, through a descriptor that is read-only.
type ioctlReader struct{}

// readings tries the exact cross time stamp (KVM on x86 and arm64, ptp_vmw since
// 6.10), the bracketed reading (ENA) and the plain one (Hyper-V has gettime64
// only). A driver without one answers EOPNOTSUPP, a kernel without it ENOTTY.
func (ioctlReader) readings(path string, samples int) ([]phcReading, string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open the host's clock: %w; the agent needs the device read-only", err)
	}
	defer f.Close()
	fd := int(f.Fd())
	precise, err := unix.IoctlPtpSysOffsetPrecise(fd)
	if err == nil {
		return decodePrecise(precise), rungPTPPrecise, nil
	}
	if !missing(err) {
		return nil, "", fmt.Errorf("read the host's clock %s by PTP_SYS_OFFSET_PRECISE: %w", path, err)
	}
	extended, err := unix.IoctlPtpSysOffsetExtended(fd, uint(samples))
	if err == nil {
		return decodeExtended(extended), rungPTPExtended, nil
	}
	if !missing(err) {
		return nil, "", fmt.Errorf("read the host's clock %s by PTP_SYS_OFFSET_EXTENDED: %w", path, err)
	}
	basic := ptpSysOffset{samples: uint32(samples)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PTP_SYS_OFFSET2, uintptr(unsafe.Pointer(&basic))); errno != 0 {
		return nil, "", fmt.Errorf("read the host's clock %s by PTP_SYS_OFFSET: %w", path, errno)
	}
	return decodeBasic(&basic), rungPTPBasic, nil
}

func missing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
}

func stamp(t unix.PtpClockTime) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

func decodePrecise(p *unix.PtpSysOffsetPrecise) []phcReading {
	system := stamp(p.Realtime)
	return []phcReading{{before: system, device: stamp(p.Device), after: system}}
}

func decodeExtended(p *unix.PtpSysOffsetExtended) []phcReading {
	n := min(int(p.Samples), len(p.Ts))
	out := make([]phcReading, 0, n)
	for _, ts := range p.Ts[:n] {
		out = append(out, phcReading{before: stamp(ts[0]), device: stamp(ts[1]), after: stamp(ts[2])})
	}
	return out
}

func decodeBasic(p *ptpSysOffset) []phcReading {
	n := min(int(p.samples), (len(p.ts)-1)/2)
	out := make([]phcReading, 0, n)
	for i := range n {
		out = append(out, phcReading{before: stamp(p.ts[2*i]), device: stamp(p.ts[2*i+1]), after: stamp(p.ts[2*i+2])})
	}
	return out
}
