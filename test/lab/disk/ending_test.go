// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/disk"
)

// waiting counts the processes of a machine that wait and cannot be killed.
func waiting(t *testing.T, m *machine.Machine) int {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.PID()))
	require.NoError(t, err)
	stats, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	require.NoError(t, err)
	n := 0
	for _, path := range stats {
		namespace, err := os.Readlink(filepath.Join(path, "../../../ns/pid"))
		if err != nil || namespace != own {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if strings.HasPrefix(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " D") {
			n++
		}
	}
	return n
}

// signalServer sends a signal to a disk's FUSE server.
func signalServer(t *testing.T, m *machine.Machine, d *disk.Disk, name string) {
	t.Helper()
	_, err := m.Run(t.Context(), "kill", "-"+name, strconv.Itoa(d.Record().Server))
	require.NoError(t, err)
}

// requireFails waits for a writer that the disk was taken from.
func requireFails(t *testing.T, p *machine.Process) {
	t.Helper()
	testutils.Eventually(t, 10*time.Second, "the writer has ended", func() bool { return !p.Running() })
	require.Error(t, p.Err())
	require.Regexp(t, "input/output error|read-only file system", p.Output())
}

func TestAKilledServerLeavesNothingWaiting(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "killed")
	d := startDisk(t, m)
	writer, sample := startSyncer(t, m)
	sample(10, 10*time.Second)
	// Inside of fdatasync when the server is killed.
	require.NoError(t, d.Set(t.Context(), disk.Settings{Fsync: 30 * time.Second}))
	testutils.Eventually(t, 5*time.Second, "the writer waits for the disk", func() bool { return waiting(t, m) > 0 })
	signalServer(t, m, d, "KILL")
	requireFails(t, writer)
	testutils.Eventually(t, 10*time.Second, "the disk has ended", func() bool {
		select {
		case <-d.Done():
			return true
		default:
			return false
		}
	})
	require.ErrorContains(t, d.Stop(), "its FUSE server ended")
	require.Zero(t, waiting(t, m))
	requireGone(t, m, d.Record())
}

func TestAMachineThatEndsTakesItsDiskAlong(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "ends")
	d := startDisk(t, m)
	_, sample := startSyncer(t, m)
	sample(10, 10*time.Second)
	require.NoError(t, d.Set(t.Context(), disk.Settings{Fsync: 30 * time.Second}))
	testutils.Eventually(t, 5*time.Second, "the writer waits for the disk", func() bool { return waiting(t, m) > 0 })
	began := time.Now()
	require.NoError(t, m.Close())
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestASlowDiskEndsInOrderAndFast(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]disk.Settings{
		"slow to flush": {Fsync: 20 * time.Second},
		"capped":        {IOPS: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "slow")
			d := startDisk(t, m)
			writer, sample := startSyncer(t, m)
			sample(10, 10*time.Second)
			require.NoError(t, writer.Stop(5*time.Second))
			out, err := m.Run(t.Context(), "dd", "if=/dev/zero", "of="+mountPoint+"/dirty", "bs=64k", "count=16")
			require.NoError(t, err, out)
			require.NoError(t, d.Set(t.Context(), slow))
			began := time.Now()
			require.NoError(t, d.Stop())
			require.Less(t, time.Since(began), 5*time.Second)
			requireGone(t, m, d.Record())
		})
	}
}

func TestADiskInUseEndsAllTheSame(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "used")
	d := startDisk(t, m)
	writer, sample := startSyncer(t, m)
	sample(10, 10*time.Second)
	require.ErrorContains(t, d.Stop(), "it is still in use")
	requireFails(t, writer)
	requireGone(t, m, d.Record())
}

func TestCleanupTakesAwayWhatIsLeft(t *testing.T) {
	t.Parallel()
	for name, orphan := range map[string]func(t *testing.T, m *machine.Machine, d *disk.Disk, role *machine.Process){
		// The kernel has aborted the connection; mounts and loop device stay, for the
		// machine lives on.
		"the processes were killed": func(_ *testing.T, _ *machine.Machine, _ *disk.Disk, role *machine.Process) {
			role.Kill()
		},
		// Nothing on the disk can be ended before the connection is aborted.
		"the server hangs": func(t *testing.T, m *machine.Machine, d *disk.Disk, role *machine.Process) {
			signalServer(t, m, d, "STOP")
			require.NoError(t, role.Signal(unix.SIGSTOP))
			testutils.Eventually(t, 5*time.Second, "the writer waits for the disk", func() bool { return waiting(t, m) > 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "orphan")
			var role *machine.Process
			d, err := disk.Start(t.Context(), disk.Config{Name: uniqueName(t, "o"), At: mountPoint},
				func(args []string, onLine func(line []byte)) (disk.Process, error) {
					var err error
					role, err = m.Start(machine.Spec{Name: diskRole, Role: diskRole, Args: args, OnLine: onLine})
					return role, err
				})
			require.NoError(t, err)
			writer, sample := startSyncer(t, m)
			sample(10, 10*time.Second)
			orphan(t, m, d, role)
			require.Equal(t, d.Record().Name, attachedTo(t, d.Record().Loop), "nothing was left to clean up")

			stolen := d.Record()
			stolen.Name = "somebody-else"
			require.NoError(t, disk.Cleanup(stolen))
			require.Equal(t, d.Record().Name, attachedTo(t, d.Record().Loop), "what another left was taken")

			began := time.Now()
			require.NoError(t, disk.Cleanup(d.Record()))
			t.Logf("cleaned up in %s", time.Since(began))
			require.NotEqual(t, d.Record().Name, attachedTo(t, d.Record().Loop))
			requireFails(t, writer)
			requireGone(t, m, d.Record())
			require.NoError(t, disk.Cleanup(d.Record()), "it can be done twice")
			role.Kill()
			require.Zero(t, waiting(t, m))
		})
	}
}

func TestCleanupRefusesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "alive")
	d := startDisk(t, m)
	_, sample := startSyncer(t, m)
	other := d.Record()
	other.Name = "a-run-of-yesterday"
	require.NoError(t, disk.Cleanup(other))
	sample(50, 10*time.Second) // after everything that was in the pipe before
	sample(50, 10*time.Second)
	require.Error(t, disk.Cleanup(disk.Record{Loop: d.Record().Loop, FUSE: d.Record().FUSE}), "a record without a name")
}

func TestDisksAreSlowEachOnItsOwn(t *testing.T) {
	t.Parallel()
	var machines []*machine.Machine
	var disks []*disk.Disk
	var samples []func(int, time.Duration) []time.Duration
	loops, connections := map[string]bool{}, map[uint32]bool{}
	for i := range 3 {
		m := newMachine(t, fmt.Sprint(i))
		d := startDisk(t, m)
		_, sample := startSyncer(t, m)
		machines, disks, samples = append(machines, m), append(disks, d), append(samples, sample)
		loops[d.Record().Loop], connections[d.Record().FUSE] = true, true
	}
	require.Len(t, loops, len(machines))
	require.Len(t, connections, len(machines))
	require.NoError(t, disks[1].Set(t.Context(), disk.Settings{Fsync: 100 * time.Millisecond}))
	require.GreaterOrEqual(t, median(samples[1](5, 10*time.Second)), 100*time.Millisecond)
	require.Less(t, median(samples[0](100, 10*time.Second)), 50*time.Millisecond)
	require.Less(t, median(samples[2](100, 10*time.Second)), 50*time.Millisecond)
}

func TestTheNeighbourTakesItsShareOfACappedDisk(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "shared")
	d := startDisk(t, m)
	_, sample := startSyncer(t, m)
	require.NoError(t, d.Set(t.Context(), disk.Settings{IOPS: 500}))
	alone := median(sample(50, 20*time.Second))
	n, err := disk.StartNeighbour(t.Context(), disk.NeighbourConfig{Dir: mountPoint, Rate: 200}, starter(m, otherRole))
	require.NoError(t, err)
	shared := median(sample(20, 20*time.Second))
	stats, err := n.Stats(t.Context())
	require.NoError(t, err)
	t.Logf("500 requests a second: p50 %s alone, %s with a neighbour that wrote %d", alone, shared, stats.Writes)
	require.Positive(t, stats.Writes)
	require.Zero(t, stats.Errors)
	require.Greater(t, shared, alone*3/2)

	require.NoError(t, n.SetRate(t.Context(), 0))
	sample(20, 20*time.Second)
	require.Less(t, median(sample(50, 20*time.Second)), shared)
	require.Error(t, n.SetRate(t.Context(), -1))
	require.NoError(t, n.Stop())
	files, err := os.ReadDir(m.Path(mountPoint))
	require.NoError(t, err)
	for _, f := range files {
		require.NotContains(t, f.Name(), "neighbour", "it must leave nothing")
	}
}

func TestMoreDisksThanLoopDevices(t *testing.T) {
	m := newMachine(t, "many")
	var disks []*disk.Disk
	added := ""
	for i := 0; added == "" && i < 40; i++ {
		name := fmt.Sprint(i)
		d, err := disk.Start(t.Context(), disk.Config{Name: uniqueName(t, name), At: "/run/d" + name, SizeBytes: 16 << 20}, starter(m, diskRole))
		if err != nil {
			// A kernel that was told max_loop adds none.
			require.ErrorContains(t, err, "find a free loop device")
			break
		}
		disks = append(disks, d)
		if d.Record().Added {
			added = d.Record().Loop
		}
	}
	t.Logf("%d disks; %q was added", len(disks), added)
	for _, d := range disks {
		require.NoError(t, d.Stop())
		requireGone(t, m, d.Record())
	}
	if added != "" {
		_, err := os.Stat(filepath.Join("/sys/block", added))
		require.ErrorIs(t, err, os.ErrNotExist, "a device that was added is taken back")
	}
}
