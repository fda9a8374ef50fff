// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/plumb-dev/plumb/agent/hostclock"
)

const (
	hostGroup = "host"
	// ptpSamples is how often one reading repeats; the narrowest counts. The kernel
	// takes up to 25 (PTP_MAX_SAMPLES, include/uapi/linux/ptp_clock.h).
	ptpSamples = 8
	// hostError is what the hypervisor's own clock is allowed to be off, for its
	// device tells the time to the nanosecond and nothing about its error.
	hostError = 10 * time.Millisecond
	// taiOffset is TAI minus UTC since 2017 (IERS Bulletin C), unless the kernel was
	// told another value.
	taiOffset = 37 * time.Second
	// taiTolerance is how close to taiOffset an offset looks like a wrong scale.
	taiTolerance = 100 * time.Millisecond
)

// virtualClocks are the clock names of devices by which a hypervisor gives its own
// UTC: hv_ptp_gettime (drivers/hv/hv_util.c), KVM_HC_CLOCK_PAIRING
// (drivers/ptp/ptp_kvm_common.c), ptp_vmw (drivers/ptp/ptp_vmw.c), and the one of
// AWS's network card (drivers/net/ethernet/amazon/ena/ena_phc.c, "ena-ptp-%02x").
// The hardware clock of any other network card counts TAI, or nothing at all until
// ptp4l has set it, and is not used.
func virtualClock(name string) bool {
	switch name {
	case "hyperv", "KVM virtual PTP", "ptp_vmw":
		return true
	}
	return strings.HasPrefix(name, "ena-ptp-")
}

// A ptpDevice is a host clock found in sysfs.
type ptpDevice struct {
	// name is what its driver calls the clock.
	name string
	// path is the character device.
	path string
}

// ptpDevices lists the host clocks; others are named in refused. That the
// directory does not exist means that there is none.
func ptpDevices(classPath, devPath string) (devices []ptpDevice, refused []string, err error) {
	entries, err := os.ReadDir(classPath)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil, nil
		}
		return nil, nil, fmt.Errorf("list PTP devices: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(classPath, entry.Name(), "clock_name"))
		if err != nil {
			errs = append(errs, fmt.Errorf("read the name of a PTP clock: %w", err))
			continue
		}
		name := strings.TrimSpace(string(text))
		if virtualClock(name) {
			devices = append(devices, ptpDevice{name: name, path: filepath.Join(devPath, entry.Name())})
		} else {
			refused = append(refused, fmt.Sprintf("%s (%s)", entry.Name(), name))
		}
	}
	sort.Slice(devices, func(i, j int) bool { return devices[i].path < devices[j].path })
	return devices, refused, errors.Join(errs...)
}

// A phcReading brackets one reading of a PTP clock between two of CLOCK_REALTIME
// by the kernel.
type phcReading struct {
	before, device, after time.Time
}

// phcReader reads a PTP device; the rung is which ioctl answered.
type phcReader interface {
	readings(path string, samples int) (readings []phcReading, rung string, err error)
}

// A ptpClient asks one host clock.
type ptpClient struct {
	clock  *hostclock.Clock
	reader phcReader
	device ptpDevice
}

func (c *ptpClient) query(context.Context) (sample, error) {
	readings, rung, err := c.reader.readings(c.device.path, ptpSamples)
	if err != nil {
		return sample{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	best, ok := narrowest(readings)
	if !ok {
		return sample{}, fmt.Errorf("%w: every reading of %s was bracketed by a step of the clock", errStepped, c.device.path)
	}
	window := best.after.Sub(best.before)
	middle := c.clock.FromKernel(best.before.Add(window / 2))
	offset := middle.Sub(best.device)
	if err := c.checkScale(offset); err != nil {
		return sample{}, err
	}
	return sample{
		span:     around(offset, window/2+hostError),
		delay:    window,
		boottime: c.clock.Boottime(),
		raw:      c.clock.MonotonicRaw(),
		rung:     rung,
	}, nil
}

// checkScale refuses a device that seems to count TAI: its difference to the
// node's clock is that of the scales. A node that is by chance 37.0 s behind loses
// this one source by it.
func (c *ptpClient) checkScale(offset time.Duration) error {
	scales := []time.Duration{taiOffset}
	if timex, err := c.clock.Adjust(); err == nil && timex.TAIOffset != 0 {
		scales = append(scales, time.Duration(timex.TAIOffset)*time.Second)
	}
	for _, scale := range scales {
		if (offset + scale).Abs() < taiTolerance {
			return fmt.Errorf("%w: %s is ahead by the difference of TAI and UTC, %s", errInvalid, c.device.path, scale)
		}
	}
	return nil
}

// narrowest picks the reading whose bracket took least; one that took negative
// time had the clock set within it.
func narrowest(readings []phcReading) (best phcReading, ok bool) {
	for _, r := range readings {
		window := r.after.Sub(r.before)
		if window < 0 {
			continue
		}
		if !ok || window < best.after.Sub(best.before) {
			best, ok = r, true
		}
	}
	return best, ok
}
