// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Step is a jump of CLOCK_REALTIME.
type Step struct {
	// Size is positive when the clock jumped forward.
	Size time.Duration
	// Uncertainty is the half width of the interval that holds the true size: how
	// long it took to read the two clocks together.
	Uncertainty time.Duration
	// Boottime is CLOCK_BOOTTIME in nanoseconds when the step was noticed, which
	// is within a wake-up of when it happened.
	Boottime uint64
}

// Epoch is the reading CLOCK_REALTIME − CLOCK_BOOTTIME: the wall clock's time of
// boot. Two of them differ by the steps between them and by nothing else.
//
// CLOCK_MONOTONIC_RAW would not do as the reference: the time daemon slews
// CLOCK_REALTIME against it by up to 500 ppm (MAXFREQ, include/linux/timex.h), and
// it stands still in suspend, so a night of either would look like a step.
// CLOCK_REALTIME and CLOCK_BOOTTIME are the same counter with the same slew, and
// differ by the offset that clock_settime(2), ADJ_SETOFFSET and a leap second
// change (kernel/time/timekeeping.c, tk_set_wall_to_mono).
type Epoch struct {
	Offset time.Duration
	// Uncertainty is half the time between the two readings around the wall clock.
	Uncertainty time.Duration
	Boottime    uint64
}

// Epoch reads the wall clock against CLOCK_BOOTTIME.
func (c *Clock) Epoch() Epoch { return readEpoch(c.source.now) }

func readEpoch(now func() time.Time) Epoch {
	var best Epoch
	// A reader that is preempted between the readings gets a wide bracket; the
	// narrowest of three is good to a few hundred nanoseconds.
	for i := range 3 {
		before := read(unix.CLOCK_BOOTTIME)
		wall := now()
		after := read(unix.CLOCK_BOOTTIME)
		middle := before + (after-before)/2
		e := Epoch{
			Offset:      time.Duration(wall.UnixNano() - int64(middle)),
			Uncertainty: time.Duration(after-before)/2 + 1,
			Boottime:    middle,
		}
		if i == 0 || e.Uncertainty < best.Uncertainty {
			best = e
		}
	}
	return best
}

// StepSince says by how much the clock was stepped between two readings. ok is
// false when the difference is within what the readings can tell apart.
func (e Epoch) StepSince(earlier Epoch) (step Step, ok bool) {
	step = Step{
		Size:        e.Offset - earlier.Offset,
		Uncertainty: e.Uncertainty + earlier.Uncertainty,
		Boottime:    e.Boottime,
	}
	return step, step.Size.Abs() > step.Uncertainty
}

// farFuture is the expiry of a timer that is only there to be cancelled.
const farFuture = 1 << 40

// A stepTimer is a timerfd of CLOCK_REALTIME that the kernel cancels when that
// clock is set (TFD_TIMER_CANCEL_ON_SET, since Linux 3.0).
type stepTimer struct {
	file *os.File
	fd   int
}

func newStepTimer() (*stepTimer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create a timerfd to watch for clock steps: %w", err)
	}
	// A non-blocking descriptor is waited for by the runtime's poller, so that
	// Close ends a Read.
	return &stepTimer{file: os.NewFile(uintptr(fd), "timerfd"), fd: fd}, nil
}

// arm sets the timer to an absolute time of CLOCK_REALTIME.
func (t *stepTimer) arm(seconds int64) error {
	spec := unix.ItimerSpec{}
	spec.Value.Sec, spec.Value.Nsec = seconds, 1
	if err := unix.TimerfdSettime(t.fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil); err != nil {
		return fmt.Errorf("arm a timerfd to be cancelled when the clock is set: %w", err)
	}
	return nil
}

// wait returns nil when the clock was set (or the guest resumed from suspend).
func (t *stepTimer) wait() error {
	var expirations [8]byte
	for {
		_, err := t.file.Read(expirations[:])
		if errors.Is(err, unix.ECANCELED) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the clock to be set: %w", err)
		}
	}
}

func (t *stepTimer) close() { t.file.Close() }

// CheckSteps is the self-test of WatchSteps: a timer with the same flags is armed
// at a time that is over, and its event must come through the same descriptor.
// Setting the clock to see a real cancellation is out of the question.
func (c *Clock) CheckSteps() error {
	t, err := newStepTimer()
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.arm(0); err != nil {
		return err
	}
	if err := t.file.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("set a deadline on the timerfd: %w", err)
	}
	var expirations [8]byte
	if _, err := t.file.Read(expirations[:]); err != nil {
		return fmt.Errorf("read the expiry of a timerfd that is due: %w", err)
	}
	return nil
}

// watchTimer tells fn of every step of a wall clock until ctx is done.
func watchTimer(ctx context.Context, now func() time.Time, fn func(Step)) error {
	t, err := newStepTimer()
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.arm(farFuture); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, t.close)()
	return watchCancellations(ctx, t.wait, func() Epoch { return readEpoch(now) }, fn)
}

// watchCancellations turns wake-ups into steps. The kernel also cancels the timer
// at a resume from suspend, which moves CLOCK_REALTIME and CLOCK_BOOTTIME alike
// and is filtered out here.
func watchCancellations(ctx context.Context, wait func() error, epoch func() Epoch, fn func(Step)) error {
	last := epoch()
	for {
		err := wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		present := epoch()
		if step, ok := present.StepSince(last); ok {
			fn(step)
		}
		last = present
	}
}
