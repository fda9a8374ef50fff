// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/bus"
)

func open(tb testing.TB, dir string) *bus.Bus {
	tb.Helper()
	b, err := bus.Open(context.Background(), bus.Config{Dir: dir, Tenant: "t", Cluster: "c", MaxPerSubject: 1 << 30, MaxBytes: 8 << 30, Log: slog.New(slog.DiscardHandler)})
	require.NoError(tb, err)
	tb.Cleanup(func() { b.Close() })
	return b
}

// rss is the resident set of this process in bytes (proc(5), statm).
func rss(tb testing.TB) float64 {
	tb.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	require.NoError(tb, err)
	pages, err := strconv.Atoi(string(bytes.Fields(data)[1]))
	require.NoError(tb, err)
	return float64(pages * os.Getpagesize())
}

// BenchmarkPublish measures one message of the size of an episode's record.
func BenchmarkPublish(b *testing.B) {
	for _, publishers := range []int{1, 16} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			log := open(b, b.TempDir())
			data := bytes.Repeat([]byte{'x'}, 600)
			var n atomic.Int64
			b.SetParallelism(max(publishers/runtime.GOMAXPROCS(0), 1))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					if err := log.Publish(context.Background(), fmt.Sprintf("episode.n%d", i%1000), strconv.FormatInt(i, 10), data); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acked/s")
		})
	}
}

// BenchmarkReplay measures what a start costs: opening a store of 20,000
// messages, which checks the hash of each, and reading them all.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	log := open(b, dir)
	data := bytes.Repeat([]byte{'x'}, 600)
	const messages = 20_000
	for i := range messages {
		require.NoError(b, log.Publish(context.Background(), fmt.Sprintf("episode.n%d", i%1000), strconv.Itoa(i), data))
	}
	require.NoError(b, log.Close())
	var opening time.Duration
	b.ResetTimer()
	for b.Loop() {
		begin := time.Now()
		log := open(b, dir)
		opening += time.Since(begin)
		n := 0
		require.NoError(b, log.Replay(context.Background(), ">", func(string, time.Time, []byte) error { n++; return nil }))
		require.Equal(b, messages, n)
		require.NoError(b, log.Close())
	}
	b.ReportMetric(float64(opening.Milliseconds())/float64(b.N), "open-ms/op")
}

// BenchmarkIdle reports the resident set before and after opening an empty bus.
func BenchmarkIdle(b *testing.B) {
	before := rss(b)
	open(b, b.TempDir())
	after := rss(b)
	for b.Loop() {
	}
	b.ReportMetric(before/(1<<20), "MiB-before")
	b.ReportMetric(after/(1<<20), "MiB-after")
}
