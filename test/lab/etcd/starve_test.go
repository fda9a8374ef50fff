// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/etcd"
)

const probeRole = "probe"

// probe writes and syncs a file of its own every 20 ms, and writes the microseconds
// of each fdatasync, until SIGTERM.
func probe(args []string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	file, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
		if _, err := file.WriteAt([]byte("written"), 0); err != nil {
			return err
		}
		began := time.Now()
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return err
		}
		fmt.Println(time.Since(began).Microseconds())
	}
}

// startProbe gives the median of the next n calls of fdatasync of another process.
func startProbe(t *testing.T, n *node) func(count int) time.Duration {
	t.Helper()
	lines := make(chan time.Duration, 1<<16)
	p, err := n.Start(machine.Spec{Name: probeRole, Role: probeRole, Args: []string{mountPoint + "/probe"}, OnLine: func(line []byte) {
		var micros int64
		if json.Unmarshal(line, &micros) == nil {
			lines <- time.Duration(micros) * time.Microsecond
		}
	}})
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return func(count int) time.Duration {
		t.Helper()
		for len(lines) > 0 {
			<-lines
		}
		var took []time.Duration
		testutils.Eventually(t, 20*time.Second, "the probe has measured", func() bool {
			for len(lines) > 0 {
				took = append(took, <-lines)
			}
			return len(took) >= count
		})
		slices.Sort(took)
		return took[len(took)/2]
	}
}

// cpuGroup makes a cgroup with a CPU quota for a process, or skips.
func cpuGroup(t *testing.T, pid int) string {
	t.Helper()
	for _, parent := range []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"} {
		dir := filepath.Join(parent, fmt.Sprintf("plumb-test-%d", os.Getpid()))
		if unix.Access(filepath.Join(parent, "cgroup.procs"), unix.W_OK) != nil || os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			// It may have ended.
			_ = os.WriteFile(filepath.Join(parent, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
			testutils.Eventually(t, 5*time.Second, "the cgroup is removed", func() bool {
				err := os.Remove(dir)
				return err == nil || errors.Is(err, os.ErrNotExist)
			})
		})
		v1, v2 := unix.Access(filepath.Join(dir, "cpu.cfs_quota_us"), unix.W_OK), unix.Access(filepath.Join(dir, "cpu.max"), unix.W_OK)
		if v1 != nil && v2 != nil {
			continue
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))
		return dir
	}
	testutils.Skip(t, "no cpu controller of cgroups can be used here")
	return ""
}

func TestAStarvedEtcdIsSlowAndItsDiskIsNot(t *testing.T) {
	for name, starve := range map[string]func(t *testing.T, m *etcd.Member) *etcd.Starved{
		"by a CPU quota": func(t *testing.T, m *etcd.Member) *etcd.Starved {
			s, err := etcd.Starve(m, cpuGroup(t, m.PID()))
			require.NoError(t, err)
			return s
		},
		"by signals": func(t *testing.T, m *etcd.Member) *etcd.Starved {
			s, err := etcd.Starve(m, "")
			require.NoError(t, err)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, strings.ReplaceAll(name, " ", "-"), "10.9.1.2")
			m := n.startEtcd(t, program(t), []etcd.Peer{n.peer()})
			waitHealthy(t, m)
			load := m.StartLoad(etcd.LoadConfig{})
			defer load.Stop()
			diskTakes := startProbe(t, n)
			report(t, load, 5)
			before := report(t, load, 40)
			wal, err := m.WALFsync(t.Context())
			require.NoError(t, err)
			t.Logf("healthy: %+v, wal fsync mean %s, disk p50 %s", before, wal.Mean(), diskTakes(50))

			starved := starve(t, m)
			defer func() { require.NoError(t, starved.Stop()) }()
			report(t, load, 10)
			wal, err = m.WALFsync(t.Context())
			require.NoError(t, err)
			during := report(t, load, 40)
			took := diskTakes(50)
			later, err := m.WALFsync(t.Context())
			require.NoError(t, err)
			h := later.Since(wal)
			t.Logf("starved: %+v, wal fsync mean %s, %.0f%% over 8 ms, disk p50 %s", during, h.Mean(), 100*h.Above(8*time.Millisecond), took)
			require.Greater(t, during.P50, 3*before.P50)
			require.Greater(t, during.P50, 20*time.Millisecond)
			require.Positive(t, during.Stalls)
			require.Greater(t, h.Mean(), 5*time.Millisecond, "etcd's own metric must be slow")
			require.Less(t, took, 5*time.Millisecond, "the disk is not")

			require.NoError(t, starved.Stop())
			require.NoError(t, starved.Stop(), "it can be done twice")
			report(t, load, 10)
			again := report(t, load, 40)
			t.Logf("healthy again: %+v", again)
			require.Less(t, again.P50, during.P50/2)
		})
	}
}
