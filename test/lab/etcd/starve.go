// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Quota is how much CPU a starved etcd gets: Run of each Period.
type Quota struct{ Run, Period time.Duration }

// CgroupQuota is too little for etcd with the default load: its queue for the CPU
// never empties, and many of its syncs end in a pause.
func CgroupQuota() Quota { return Quota{Run: 2 * time.Millisecond, Period: 100 * time.Millisecond} }

// SignalQuota runs etcd for about as long as one sync takes on a healthy disk of
// this lab, so that a pause is likely to begin inside of one: unlike a cgroup, a
// signal does not count what was used, and lets every thread run at once.
func SignalQuota() Quota { return Quota{Run: 500 * time.Microsecond, Period: 50 * time.Millisecond} }

// validate: least is the shortest that can be told apart. The kernel's is 1 ms, and
// its longest period 1 s (tg_set_cfs_bandwidth).
func (q Quota) validate(least time.Duration) error {
	if q.Run < least || q.Period < q.Run || q.Period < time.Millisecond || q.Period > time.Second {
		return fmt.Errorf("CPU quota %s of %s: the period can be 1ms to 1s, and the quota %s to the period", q.Run, q.Period, least)
	}
	return nil
}

// A Starved is a process that gets too little CPU until Stop. It is safe for
// concurrent use.
type Starved struct{ stop func() error }

// Stop gives it back what it had, and waits for that. It may be called more than
// once.
func (s *Starved) Stop() error { return s.stop() }

// Starve takes CPU from a member and nothing from its disk: with the cgroup that it
// is in, where there is one, and by signals otherwise. dir is as for StarveCgroup, ""
// where no cpu controller can be used.
func Starve(m *Member, dir string) (*Starved, error) {
	pid := m.PID()
	if pid == 0 {
		return nil, fmt.Errorf("starve etcd %s: it has ended", m.cfg.Name)
	}
	if dir == "" {
		return StarveBySignals(pid, SignalQuota())
	}
	return StarveCgroup(dir, pid, CgroupQuota())
}

// StarveCgroup gives everything in a cgroup no more CPU than the quota. dir is a
// directory of the cpu controller, of cgroup v1 (cpu.cfs_quota_us) or v2 (cpu.max);
// that the process pid is in it is checked, for else nothing would happen. Stop sets
// what was there before; a directory that is gone then is no error.
//
// Before Linux 6.18 the kernel stops a process of a cgroup wherever it is, also
// inside of fdatasync(2); since then only on its way back to its program
// ("sched/fair: Switch to task based throttle model"). So on an older kernel the
// time that etcd's thread spends inside a sync may grow as well, while that of any
// other process does not; StarveBySignals has this effect on no kernel.
func StarveCgroup(dir string, pid int, q Quota) (*Starved, error) {
	if err := q.validate(time.Millisecond); err != nil {
		return nil, fmt.Errorf("starve etcd: %w", err)
	}
	members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("starve etcd: %w", err)
	}
	if !slices.Contains(strings.Fields(string(members)), strconv.Itoa(pid)) {
		return nil, fmt.Errorf("starve etcd: process %d is not in the cgroup %s", pid, dir)
	}
	run, period := strconv.FormatInt(q.Run.Microseconds(), 10), strconv.FormatInt(q.Period.Microseconds(), 10)
	settings := []setting{{"cpu.max", run + " " + period}}
	if _, err := os.Stat(filepath.Join(dir, "cpu.max")); errors.Is(err, fs.ErrNotExist) {
		settings = []setting{{"cpu.cfs_period_us", period}, {"cpu.cfs_quota_us", run}}
	}
	var former []setting
	starved := &Starved{stop: sync.OnceValue(func() error {
		var problems []error
		for _, s := range slices.Backward(former) {
			problems = append(problems, s.write(dir))
		}
		return errors.Join(problems...)
	})}
	for _, s := range settings {
		before, err := os.ReadFile(filepath.Join(dir, s.file))
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; the cpu controller is not on for this cgroup", err)
		}
		if err == nil {
			err = s.write(dir)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("starve etcd: %w", err), starved.Stop())
		}
		former = append(former, setting{s.file, string(bytes.TrimSpace(before))})
	}
	return starved, nil
}

// A setting is one file of a cgroup.
type setting struct{ file, value string }

func (s setting) write(dir string) error {
	// Without creating: a cgroup that is gone must not come back as a file.
	file, err := os.OpenFile(filepath.Join(dir, s.file), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set the CPU quota: %w", err)
	}
	_, err = file.WriteString(s.value)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("set the CPU quota: %w", err)
	}
	return nil
}

// StarveBySignals lets a process run for Run of each Period and stops it for the
// rest, for machines without a cpu controller. A signal stops a process only on its
// way back from the kernel, so the kernel's own time for a sync stays as it is. Stop
// lets it run again. A caller that is killed leaves the process as it is at that
// moment, perhaps stopped; SIGKILL, and the end of its PID namespace, end it all the
// same.
func StarveBySignals(pid int, q Quota) (*Starved, error) {
	if err := q.validate(100 * time.Microsecond); err != nil {
		return nil, fmt.Errorf("starve etcd: %w", err)
	}
	// A descriptor of the process, so that no other of the same number is ever stopped.
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("starve etcd: open process %d: %w", pid, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var cycle sync.WaitGroup
	cycle.Go(func() { dutyCycle(ctx, process, q) })
	return &Starved{stop: sync.OnceValue(func() error {
		cancel()
		cycle.Wait()
		defer unix.Close(process)
		if err := unix.PidfdSendSignal(process, unix.SIGCONT, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("let etcd run again: %w", err)
		}
		return nil
	})}, nil
}

func dutyCycle(ctx context.Context, process int, q Quota) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for running := true; ; running = !running {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		signal, length := unix.SIGSTOP, q.Period-q.Run
		if !running {
			signal, length = unix.SIGCONT, q.Run
		}
		if unix.PidfdSendSignal(process, signal, nil, 0) != nil {
			return // it has ended
		}
		timer.Reset(length)
	}
}
