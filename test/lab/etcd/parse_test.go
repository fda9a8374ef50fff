// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const metricName = "etcd_disk_wal_fsync_duration_seconds"

func TestAHistogramIsRead(t *testing.T) {
	t.Parallel()
	text := "# HELP " + metricName + " The latency.\n# TYPE " + metricName + " histogram\n" +
		metricName + "_bucket{le=\"0.001\"} 6\n" + metricName + "_bucket{le=\"0.008\"} 9\n" + metricName + "_bucket{le=\"+Inf\"} 12\n" +
		metricName + "_sum 0.36\n" + metricName + "_count 12\nother_count 7\n"
	h, err := parseHistogram(text, metricName)
	require.NoError(t, err)
	require.Equal(t, Histogram{Count: 12, Sum: 0.36, Buckets: []Bucket{{0.001, 6}, {0.008, 9}, {math.Inf(1), 12}}}, h)
	require.Equal(t, 30*time.Millisecond, h.Mean())
	require.InDelta(t, 0.25, h.Above(8*time.Millisecond), 1e-9)

	before := Histogram{Count: 4, Sum: 0.04, Buckets: []Bucket{{0.001, 4}, {0.008, 4}, {math.Inf(1), 4}}}
	since := h.Since(before)
	require.Equal(t, uint64(8), since.Count)
	require.Equal(t, 40*time.Millisecond, since.Mean())
	require.InDelta(t, 0.375, since.Above(8*time.Millisecond), 1e-9)
	require.Zero(t, Histogram{}.Mean())
	require.Zero(t, Histogram{}.Above(time.Millisecond))

	for name, text := range map[string]string{
		"there is none":        "other_count 7\n",
		"a count is no number": metricName + "_count x\n",
		"a limit is no number": metricName + "_bucket{le=\"x\"} 1\n" + metricName + "_count 1\n",
	} {
		_, err := parseHistogram(text, metricName)
		require.Error(t, err, name)
	}
}

func TestTheArgumentsNameEveryMember(t *testing.T) {
	t.Parallel()
	args, err := Config{
		Program: "/bin/etcd", Name: "b", Token: "run", DataDir: "/run/etcd/data",
		Peers: []Peer{{"a", netip.MustParseAddr("fd00:9:1::2")}, {"b", netip.MustParseAddr("fd00:9:2::2")}},
	}.args()
	require.NoError(t, err)
	require.Contains(t, args, "a=http://[fd00:9:1::2]:2380,b=http://[fd00:9:2::2]:2380")
	require.Contains(t, args, "http://127.0.0.1:2379,http://[fd00:9:2::2]:2379")
	require.Contains(t, args, "http://127.0.0.1:2381")
}

// cgroup makes files as a cgroup has them.
func cgroup(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, value := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600))
	}
	return dir
}

func TestAQuotaIsSetAndTakenBack(t *testing.T) {
	t.Parallel()
	self := "1\n" + strconv.Itoa(os.Getpid()) + "\n"
	for name, test := range map[string]struct{ before, during map[string]string }{
		"cgroup v1": {
			before: map[string]string{"cpu.cfs_period_us": "500000", "cpu.cfs_quota_us": "-1"},
			during: map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "2000"},
		},
		"cgroup v2": {
			before: map[string]string{"cpu.max": "max 500000"},
			during: map[string]string{"cpu.max": "2000 100000"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := cgroup(t, test.before)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(self), 0o600))
			requireFiles := func(want map[string]string) {
				for file, value := range want {
					raw, err := os.ReadFile(filepath.Join(dir, file))
					require.NoError(t, err)
					// A file, unlike a cgroup's, keeps what is longer.
					require.Equal(t, value, string(raw)[:len(value)], file)
				}
			}
			starved, err := StarveCgroup(dir, os.Getpid(), CgroupQuota())
			require.NoError(t, err)
			requireFiles(test.during)
			require.NoError(t, starved.Stop())
			requireFiles(test.before)
		})
	}
}

func TestAQuotaThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	self := strconv.Itoa(os.Getpid())
	_, err := StarveCgroup(cgroup(t, map[string]string{"cgroup.procs": "1", "cpu.max": "max 100000"}), os.Getpid(), CgroupQuota())
	require.ErrorContains(t, err, "is not in the cgroup")
	dir := cgroup(t, map[string]string{"cgroup.procs": self, "cpu.cfs_period_us": "500000"})
	_, err = StarveCgroup(dir, os.Getpid(), CgroupQuota())
	require.ErrorContains(t, err, "cpu.cfs_quota_us")
	raw, err := os.ReadFile(filepath.Join(dir, "cpu.cfs_period_us"))
	require.NoError(t, err)
	require.Equal(t, "500000", string(raw), "half a setting is taken back")
	for name, q := range map[string]Quota{
		"less than the kernel takes": {Run: time.Microsecond, Period: 100 * time.Millisecond},
		"more than there is":         {Run: 200 * time.Millisecond, Period: 100 * time.Millisecond},
		"too long a period":          {Run: time.Millisecond, Period: 2 * time.Second},
	} {
		_, err := StarveCgroup(dir, os.Getpid(), q)
		require.ErrorContains(t, err, "CPU quota", name)
		_, err = StarveBySignals(os.Getpid(), q)
		require.ErrorContains(t, err, "CPU quota", name)
	}
	_, err = StarveBySignals(1<<30, SignalQuota())
	require.ErrorContains(t, err, "open process")
}

func TestAReportIsAboutItsTime(t *testing.T) {
	t.Parallel()
	start := time.Now()
	l := &Load{cfg: LoadConfig{Stall: 100 * time.Millisecond}}
	require.Equal(t, LoadReport{}, l.Report(start))
	for i := range keepPuts + 100 {
		l.record(Put{Began: start.Add(time.Duration(i) * time.Millisecond), Took: time.Duration(1+i%200) * time.Millisecond})
	}
	l.record(Put{Began: start.Add(time.Hour), Took: time.Second, Err: os.ErrDeadlineExceeded})
	require.Equal(t, keepPuts, l.Report(start).Count, "the last ones are kept")
	require.Equal(t, LoadReport{Count: 1, Errors: 1, Stalls: 1, Max: time.Second, P50: time.Second, P99: time.Second}, l.Report(start.Add(time.Hour)))
	half := l.Report(start).Stalls
	require.InDelta(t, keepPuts/2, half, 150)
}
