//go:build plumblab

// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// This file is in the build for the lab only, which cannot set the clock of the
// machine it runs on. It shows the agent a clock that is off, as a file says:
//
//	PLUMBLAB_CLOCK_FILE=/path   names a file that is read again when it changes;
//	                            replace it by rename, not in place
//	PLUMBLAB_CLOCK='…'          gives the same text directly, for good
//
// The text is JSON or lines (or words) of key=value:
//
//	offset_seconds=420
//	quiet_seconds=420                like offset_seconds, but its change is no step:
//	                                 the clock of a VM that was paused
//	drift_parts_per_million=200
//	since_boottime_nanoseconds=0     drift counts from here; 0: when it was read
//	step=<boottime ns>:<seconds>     any number of them
const (
	labFileVariable = "PLUMBLAB_CLOCK_FILE"
	labTextVariable = "PLUMBLAB_CLOCK"
	// labPoll is how soon a change of the file shows as a step.
	labPoll = 20 * time.Millisecond
	// labMaximumError is NTP_PHASE_LIMIT of include/linux/timex.h, which the kernel
	// sets together with STA_UNSYNC when the clock is set by hand.
	labMaximumError = 16 * time.Second
)

type labStep struct {
	AtBoottimeNanoseconds uint64  `json:"at_boottime_nanoseconds"`
	Seconds               float64 `json:"seconds"`
}

type labSetting struct {
	OffsetSeconds            float64   `json:"offset_seconds"`
	QuietSeconds             float64   `json:"quiet_seconds"`
	DriftPartsPerMillion     float64   `json:"drift_parts_per_million"`
	SinceBoottimeNanoseconds uint64    `json:"since_boottime_nanoseconds"`
	Steps                    []labStep `json:"steps"`
}

// quiet is the deviation that came without a step.
func (s labSetting) quiet() time.Duration {
	return time.Duration(s.QuietSeconds * float64(time.Second))
}

// jump is the deviation at a boottime that came by steps.
func (s labSetting) jump(boottime uint64) time.Duration {
	seconds := s.OffsetSeconds
	for _, step := range s.Steps {
		if boottime >= step.AtBoottimeNanoseconds {
			seconds += step.Seconds
		}
	}
	return time.Duration(seconds * float64(time.Second))
}

func (s labSetting) drift(boottime uint64) time.Duration {
	elapsed := float64(int64(boottime) - int64(s.SinceBoottimeNanoseconds))
	return time.Duration(elapsed * s.DriftPartsPerMillion / 1e6)
}

func parseLab(text []byte, boottime uint64) (labSetting, error) {
	var s labSetting
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return s, errors.New("parse the lab's clock setting: it is empty")
	}
	if text[0] == '{' {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return labSetting{}, fmt.Errorf("parse the lab's clock setting: %w", err)
		}
	} else {
		for _, word := range strings.Fields(string(text)) {
			if err := s.set(word); err != nil {
				return labSetting{}, fmt.Errorf("parse the lab's clock setting %q: %w", word, err)
			}
		}
	}
	if s.SinceBoottimeNanoseconds == 0 {
		s.SinceBoottimeNanoseconds = boottime
	}
	return s, nil
}

func (s *labSetting) set(word string) error {
	key, value, ok := strings.Cut(word, "=")
	if !ok {
		return errors.New("want key=value")
	}
	var err error
	switch key {
	case "offset_seconds":
		s.OffsetSeconds, err = strconv.ParseFloat(value, 64)
	case "quiet_seconds":
		s.QuietSeconds, err = strconv.ParseFloat(value, 64)
	case "drift_parts_per_million":
		s.DriftPartsPerMillion, err = strconv.ParseFloat(value, 64)
	case "since_boottime_nanoseconds":
		s.SinceBoottimeNanoseconds, err = strconv.ParseUint(value, 10, 64)
	case "step":
		at, size, _ := strings.Cut(value, ":")
		var step labStep
		if step.AtBoottimeNanoseconds, err = strconv.ParseUint(at, 10, 64); err == nil {
			step.Seconds, err = strconv.ParseFloat(size, 64)
		}
		s.Steps = append(s.Steps, step)
	default:
		err = errors.New("unknown key")
	}
	return err
}

// source is the lab's clock.
type source struct{ *labClock }

type labClock struct {
	path string

	mu      sync.Mutex
	setting labSetting
	stamp   labStamp
	err     error
}

// labStamp tells one version of the file from the next.
type labStamp struct {
	inode uint64
	size  int64
	mtime int64
}

func newSource() source {
	c := &labClock{path: os.Getenv(labFileVariable)}
	if text := os.Getenv(labTextVariable); text != "" {
		c.setting, c.err = parseLab([]byte(text), read(unix.CLOCK_BOOTTIME))
	}
	c.mu.Lock()
	c.refreshLocked()
	c.mu.Unlock()
	return source{c}
}

// refreshLocked reads the file again if it changed. What cannot be read leaves
// the last good setting in force and shows as the error of adjust and watchSteps.
func (c *labClock) refreshLocked() {
	if c.path == "" {
		return
	}
	var st unix.Stat_t
	if err := unix.Stat(c.path, &st); err != nil {
		if !errors.Is(err, unix.ENOENT) {
			c.err = fmt.Errorf("look at the lab's clock file %s: %w", c.path, err)
		}
		return
	}
	stamp := labStamp{inode: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}
	if stamp == c.stamp {
		return
	}
	text, err := os.ReadFile(c.path)
	if err == nil {
		var s labSetting
		if s, err = parseLab(text, read(unix.CLOCK_BOOTTIME)); err == nil {
			c.setting = s
		}
	}
	c.stamp, c.err = stamp, err
}

// at is the deviation at a boottime, in parts that add up.
func (c *labClock) at(boottime uint64) (jump, drift, quiet time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refreshLocked()
	return c.setting.jump(boottime), c.setting.drift(boottime), c.setting.quiet()
}

func (c *labClock) now() time.Time {
	jump, drift, quiet := c.at(read(unix.CLOCK_BOOTTIME))
	return time.Now().Round(0).Add(jump + drift + quiet)
}

func (c *labClock) fromKernel(stamp time.Time) time.Time {
	// The drift of the instants between the stamp and now is below a nanosecond
	// per microsecond.
	jump, drift, quiet := c.at(read(unix.CLOCK_BOOTTIME))
	return stamp.Add(jump + drift + quiet)
}

func (c *labClock) adjust() (Timex, error) {
	t, err := readTimex()
	if err != nil {
		return t, err
	}
	// A paused VM's kernel knows of nothing, so what came quietly changes nothing.
	jump, drift, _ := c.at(read(unix.CLOCK_BOOTTIME))
	c.mu.Lock()
	defer c.mu.Unlock()
	if jump != 0 || drift != 0 {
		// What the kernel itself does when the clock is set (ntp_clear).
		t.State, t.Status, t.MaximumError = StateError, t.Status|StatusUnsync, labMaximumError
	}
	return t, c.err
}

func (c *labClock) watchSteps(ctx context.Context, fn func(Step)) error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var calls sync.Mutex
	locked := func(s Step) {
		calls.Lock()
		defer calls.Unlock()
		fn(s)
	}
	kernel := make(chan error, 1)
	go func() { kernel <- watchTimer(ctx, func() time.Time { return time.Now().Round(0) }, locked) }()
	tick := time.NewTicker(labPoll)
	defer tick.Stop()
	boottime := read(unix.CLOCK_BOOTTIME)
	lastJump, lastDrift, _ := c.at(boottime)
	for {
		select {
		case <-ctx.Done():
			return <-kernel
		case err := <-kernel:
			return err
		case <-tick.C:
			boottime := read(unix.CLOCK_BOOTTIME)
			jump, drift, _ := c.at(boottime)
			size := jump - lastJump
			// A new file may start its drift elsewhere.
			if change := drift - lastDrift; change.Abs() > time.Millisecond {
				size += change
			}
			lastJump, lastDrift = jump, drift
			if size != 0 {
				locked(Step{Size: size, Uncertainty: time.Microsecond, Boottime: boottime})
			}
		}
	}
}
