// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/disk"
)

const (
	mountPoint = "/run/etcd"
	diskRole   = "disk"
	otherRole  = "neighbour"
	syncRole   = "sync"
)

func TestMain(m *testing.M) {
	machine.Main(map[string]machine.Role{
		diskRole:  disk.Role,
		otherRole: disk.NeighbourRole,
		syncRole:  syncer,
	})
	os.Exit(m.Run())
}

// syncer appends 2 KiB to a preallocated file and calls fdatasync, as etcd's WAL
// does, and writes the microseconds of each call, until a call fails or SIGTERM.
func syncer(args []string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	file, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, 16<<20); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	fmt.Println(0)
	data := make([]byte, 2048)
	for offset := int64(0); ; offset += int64(len(data)) {
		select {
		case <-ended:
			return nil
		default:
		}
		if _, err := file.WriteAt(data, offset%(16<<20)); err != nil {
			return err
		}
		began := time.Now()
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return err
		}
		fmt.Println(time.Since(began).Microseconds())
	}
}

// A samples collects what a syncer writes.
type samples struct {
	count atomic.Int64
	lines chan time.Duration
}

func newMachine(t *testing.T, name string) *machine.Machine {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	m, err := machine.New(t.Context(), machine.Config{Name: name})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// starter starts a role of this test binary in a machine.
func starter(m *machine.Machine, role string) disk.StartFunc {
	return func(args []string, onLine func(line []byte)) (disk.Process, error) {
		return m.Start(machine.Spec{Name: role, Role: role, Args: args, OnLine: onLine})
	}
}

func uniqueName(t *testing.T, suffix string) string {
	return fmt.Sprintf("test-%d-%.20s-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"), suffix)
}

func startDisk(t *testing.T, m *machine.Machine) *disk.Disk {
	t.Helper()
	d, err := disk.Start(t.Context(), disk.Config{Name: uniqueName(t, m.Name()), At: mountPoint}, starter(m, diskRole))
	require.NoError(t, err)
	t.Cleanup(func() {
		select {
		case <-d.Done():
		default:
			require.NoError(t, d.Stop())
		}
		requireGone(t, m, d.Record())
	})
	return d
}

// requireGone: nothing of a disk is left, on the machine and in the kernel.
func requireGone(t *testing.T, m *machine.Machine, r disk.Record) {
	t.Helper()
	require.NotEmpty(t, r.Loop)
	testutils.Eventually(t, 5*time.Second, r.Loop+" is detached", func() bool {
		return attachedTo(t, r.Loop) != r.Name
	})
	mounted, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.PID()))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	require.NotContains(t, string(mounted), mountPoint)
	require.NotContains(t, string(mounted), r.Name)
}

// attachedTo is the name of the disk that a loop device is attached to.
func attachedTo(t *testing.T, loop string) string {
	t.Helper()
	fd, err := unix.Open("/dev/"+loop, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
		return ""
	}
	require.NoError(t, err)
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return ""
	}
	require.NoError(t, err)
	return unix.ByteSliceToString(info.File_name[:])
}

// startSyncer starts a writer on the disk; sample gives the durations of the next n
// calls of fdatasync that began after now.
func startSyncer(t *testing.T, m *machine.Machine) (p *machine.Process, sample func(n int, within time.Duration) []time.Duration) {
	t.Helper()
	s := &samples{lines: make(chan time.Duration, 1<<20)}
	p, err := m.Start(machine.Spec{Name: syncRole, Role: syncRole, Args: []string{mountPoint + "/wal"}, OnLine: func(line []byte) {
		var micros int64
		if json.Unmarshal(line, &micros) == nil {
			s.count.Add(1)
			s.lines <- time.Duration(micros) * time.Microsecond
		}
	}})
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return p, func(n int, within time.Duration) []time.Duration {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		for len(s.lines) > 0 {
			<-s.lines
		}
		<-s.lines // began under what was before
		out := make([]time.Duration, 0, n)
		for len(out) < n {
			select {
			case d := <-s.lines:
				out = append(out, d)
			case <-ctx.Done():
				t.Fatalf("only %d of %d calls of fdatasync within %s: %s", len(out), n, within, p.Output())
			}
		}
		return out
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func TestTheDiskIsAsSlowAsItIsTold(t *testing.T) {
	m := newMachine(t, "a")
	d := startDisk(t, m)
	writer, sample := startSyncer(t, m)

	before, err := d.Stats(t.Context())
	require.NoError(t, err)
	healthy := median(sample(300, 10*time.Second))
	after, err := d.Stats(t.Context())
	require.NoError(t, err)
	t.Logf("healthy: p50 %s; %+v to %+v", healthy, before, after)
	require.Less(t, healthy, 5*time.Millisecond)
	require.Positive(t, after.Fsyncs-before.Fsyncs)
	require.Positive(t, after.Writes-before.Writes)
	require.Positive(t, after.MemoryBytes)
	require.Less(t, after.MemoryBytes, int64(8<<20), "what is preallocated and not written must take no memory")

	require.NoError(t, d.Set(t.Context(), disk.Settings{Fsync: 20 * time.Millisecond}))
	slow := sample(20, 20*time.Second)
	t.Logf("fsync 20ms: p50 %s, least %s", median(slow), slices.Min(slow))
	require.GreaterOrEqual(t, slices.Min(slow), 20*time.Millisecond)

	require.NoError(t, d.Set(t.Context(), disk.Settings{IOPS: 50}))
	sample(1, 10*time.Second)
	before, err = d.Stats(t.Context())
	require.NoError(t, err)
	began := time.Now()
	capped := sample(30, 30*time.Second)
	took := time.Since(began)
	after, err = d.Stats(t.Context())
	require.NoError(t, err)
	requests := after.Reads - before.Reads + after.Writes - before.Writes + after.Fsyncs - before.Fsyncs
	t.Logf("iops 50: p50 %s; %d requests for %d calls in %s", median(capped), requests, len(capped)+1, took)
	require.LessOrEqual(t, float64(requests), 50*took.Seconds()+5)
	require.GreaterOrEqual(t, float64(requests), 0.7*50*took.Seconds(), "a cap is reached, not undercut")

	require.NoError(t, d.Set(t.Context(), disk.Settings{}))
	again := median(sample(300, 10*time.Second))
	t.Logf("healthy again: p50 %s", again)
	require.Less(t, again, 5*time.Millisecond)
	require.NoError(t, writer.Stop(5*time.Second))
	require.NoError(t, d.Stop())
	requireGone(t, m, d.Record())
}
