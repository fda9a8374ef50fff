// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/etcd"
)

// syncs writes to a control-plane node's disk and syncs so often, and returns how
// long each took, the shortest first.
func (b *bed) syncs(t *testing.T, node string, times int) []time.Duration {
	t.Helper()
	file, err := os.OpenFile(b.members[node].node.Path(etcdMount+"/probe"), os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer file.Close()
	var took []time.Duration
	for i := range times {
		began := time.Now()
		_, err := file.WriteAt([]byte{byte(i)}, int64(i)*4096)
		require.NoError(t, err)
		require.NoError(t, unix.Fdatasync(int(file.Fd())))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}

// puts waits until so many writes have been acknowledged, and returns what the
// application of etcd saw of those that began from now on.
func (b *bed) puts(t *testing.T, node string, count int) etcd.LoadReport {
	t.Helper()
	since := time.Now()
	var report etcd.LoadReport
	testutils.Eventually(t, 20*time.Second, "writes are acknowledged", func() bool {
		report = b.members[node].load.Report(since)
		return report.Count >= count
	})
	require.Zero(t, report.Errors)
	return report
}

func median(d []time.Duration) time.Duration { return d[len(d)/2] }

// markedSince is what firstAffectedAt of a control plane's fault is made of.
func (b *bed) markedSince(since time.Time) bool {
	_, _, found := b.firstMark(since)
	return found
}

func TestControlPlaneFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none\n  nodes:\n    - {name: n1, zone: a, controlPlane: true}\n    - {name: n2, zone: b}\n    - {name: n3, zone: c}\n")
	const (
		quick  = 30 * time.Millisecond
		prompt = 300 * time.Millisecond
		// patient is how long a busy machine may take until it was quick once.
		patient = 20 * time.Second
	)
	late := func(t *testing.T, from string) {
		t.Helper()
		require.GreaterOrEqual(t, b.askAPI(t, from, "n1"), 400*time.Millisecond, from)
		testutils.Eventually(t, patient, "and not later than that", func() bool { return b.askAPI(t, from, "n1") < 700*time.Millisecond })
	}
	inTime := func(t *testing.T, from string) {
		t.Helper()
		testutils.Eventually(t, patient, "the endpoint is prompt for "+from, func() bool { return b.askAPI(t, from, "n1") < prompt })
	}
	diskWell := func(t *testing.T) {
		t.Helper()
		testutils.Eventually(t, patient, "the disk is quick", func() bool { return median(b.syncs(t, "n1", 9)) < quick })
	}
	well := func(t *testing.T) {
		t.Helper()
		diskWell(t)
		testutils.Eventually(t, patient, "writes are quick", func() bool { return b.puts(t, "n1", 5).P50 < 2*quick })
		inTime(t, "n2")
	}
	slow := func(t *testing.T, fault string, least time.Duration) {
		t.Helper()
		before, err := b.members["n1"].etcd.WALFsync(t.Context())
		require.NoError(t, err)
		began := time.Now()
		heal := b.inject(t, fault)
		require.GreaterOrEqual(t, median(b.syncs(t, "n1", 3)), least)
		require.GreaterOrEqual(t, b.puts(t, "n1", 3).P50, least)
		testutils.Eventually(t, patient, "the application feels it", func() bool { return b.markedSince(began) })
		now, err := b.members["n1"].etcd.WALFsync(t.Context())
		require.NoError(t, err)
		require.Greater(t, now.Since(before).Mean(), least/2, "etcd's own metric says so")
		inTime(t, "n2")
		b.passes(t, "n1", "n2", 1500)
		heal()
	}
	well(t)
	t.Run("disk-slow, fsync", func(t *testing.T) {
		slow(t, "kind: disk-slow, fsync: 200ms", 200*time.Millisecond)
		well(t)
	})
	t.Run("disk-slow, iops", func(t *testing.T) {
		slow(t, "kind: disk-slow, iops: 20", 40*time.Millisecond) // 50 ms apart
		well(t)
	})
	t.Run("disk-slow, neighbour", func(t *testing.T) {
		disk := func() uint64 {
			stats, err := b.members["n1"].disk.Stats(t.Context())
			require.NoError(t, err)
			return stats.Fsyncs
		}
		heal := b.inject(t, "kind: disk-slow, neighbour: true")
		before := disk()
		testutils.Eventually(t, patient, "somebody else syncs all the time", func() bool { return disk() > before+300 })
		heal()
		well(t)
		// etcd syncs 20 times a second, and that is all there is.
		began, before := time.Now(), disk()
		b.puts(t, "n1", 10)
		require.Less(t, float64(disk()-before), 100*time.Since(began).Seconds())
	})
	t.Run("etcd-cpu-starved", func(t *testing.T) {
		metric := func() etcd.Histogram {
			h, err := b.members["n1"].etcd.WALFsync(t.Context())
			require.NoError(t, err)
			return h
		}
		start := metric()
		b.puts(t, "n1", 10)
		before := metric()
		began := time.Now()
		heal := b.inject(t, "kind: etcd-cpu-starved")
		require.Greater(t, b.puts(t, "n1", 8).Max, 100*time.Millisecond)
		testutils.Eventually(t, patient, "the application feels it", func() bool { return b.markedSince(began) })
		// A pause has to meet a sync to lengthen it, which many do and not each.
		testutils.Eventually(t, 20*time.Second, "its metric of the disk gets slow", func() bool {
			return metric().Since(before).Mean() > before.Since(start).Mean()+2*time.Millisecond
		})
		diskWell(t) // and the disk does not
		heal()
		well(t)
	})
	t.Run("api-slow, for all", func(t *testing.T) {
		heal := b.inject(t, "kind: api-slow, delay: 400ms")
		for _, from := range []string{"n1", "n2", "n3", "n3/pod"} {
			late(t, from)
		}
		diskWell(t)
		heal()
		well(t)
	})
	t.Run("api-slow, for a zone", func(t *testing.T) {
		heal := b.inject(t, "kind: api-slow, delay: 400ms, zone: b")
		late(t, "n2")
		late(t, "n2/pod")
		inTime(t, "n3")
		inTime(t, "n1")
		heal()
		well(t)
	})
}
