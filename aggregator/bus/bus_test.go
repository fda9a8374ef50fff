// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// lines collects what the bus logs.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func testConfig(dir string) Config {
	return Config{Dir: dir, Tenant: "t", Cluster: "c.example", MaxBytes: 8 << 20, Log: slog.New(slog.DiscardHandler)}
}

func open(tb testing.TB, cfg Config) *Bus {
	tb.Helper()
	b, err := Open(context.Background(), cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { b.Close() })
	return b
}

func replayed(tb testing.TB, b *Bus, filter string) []string {
	tb.Helper()
	var out []string
	require.NoError(tb, b.Replay(context.Background(), filter, func(subject string, at time.Time, data []byte) error {
		require.WithinDuration(tb, time.Now(), at, time.Minute)
		out = append(out, subject+" "+string(data))
		return nil
	}))
	return out
}

func TestPublishedMessagesReplayInOrderAndSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	log := &lines{}
	cfg := testConfig(dir)
	cfg.Log = log.logger()
	b, err := Open(context.Background(), cfg)
	require.NoError(t, err)
	require.Empty(t, replayed(t, b, ">"), "a new store is empty")
	node := Token("ip-10-0-0-1.ec2.internal")
	for i := range 5 {
		require.NoError(t, b.Publish(context.Background(), "episode."+node, fmt.Sprint("e", i), fmt.Appendf(nil, "%d", i)))
	}
	require.NoError(t, b.Publish(context.Background(), "verdict.x", "v", []byte("v")))
	require.NoError(t, b.Publish(context.Background(), "episode."+node, "e3", []byte("again")), "a duplicate is acknowledged")
	want := []string{"episode." + node + " 0", "episode." + node + " 1", "episode." + node + " 2", "episode." + node + " 3", "episode." + node + " 4"}
	require.Equal(t, want, replayed(t, b, "episode.*"))
	require.NoError(t, b.Healthy())
	require.NoError(t, b.Close())

	require.ErrorIs(t, b.Publish(context.Background(), "verdict.x", "w", nil), ErrClosed)
	require.ErrorIs(t, b.Healthy(), ErrClosed)

	again := open(t, cfg)
	require.Equal(t, append(want, "verdict.x v"), replayed(t, again, ">"))
	require.Equal(t, []string{"verdict.x v"}, replayed(t, again, "verdict.>"))
	require.Empty(t, replayed(t, again, "nothing.*"))
	require.NoError(t, again.Publish(context.Background(), "episode."+node, "e4", []byte("again")), "the window outlives a restart")
	require.Equal(t, want, replayed(t, again, "episode."+node))
	require.Empty(t, log.String(), "a healthy bus says nothing above debug")
}

func TestReplayEndsWithTheErrorOfItsCallback(t *testing.T) {
	b := open(t, testConfig(t.TempDir()))
	for i := range 3 {
		require.NoError(t, b.Publish(context.Background(), "a.b", fmt.Sprint(i), nil))
	}
	stop := errors.New("enough")
	calls := 0
	err := b.Replay(context.Background(), ">", func(string, time.Time, []byte) error { calls++; return stop })
	require.Equal(t, stop, err)
	require.Equal(t, 1, calls)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, b.Replay(ctx, ">", func(string, time.Time, []byte) error { return nil }), context.Canceled)
}

func TestReplayOfMoreThanOneRequest(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := open(t, cfg)
	const n = 1500
	for i := range n {
		require.NoError(t, b.Publish(context.Background(), "a.b", fmt.Sprint(i), fmt.Appendf(nil, "%d", i)))
	}
	got := replayed(t, b, ">")
	require.Len(t, got, n)
	require.Equal(t, "a.b 0", got[0])
	require.Equal(t, "a.b 1499", got[n-1])
}

func TestPublishRefuses(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxPerSubject = 3
	reg := prometheus.NewRegistry()
	cfg.Registerer = reg
	b := open(t, cfg)
	for _, tc := range []struct {
		name, subject, id string
		data              []byte
		says              string
		is                error
	}{
		{"no subject", "", "i", nil, "1 to 512 bytes", nil},
		{"a node name that was not encoded", "episode.a_b", "i", nil, "encoded with bus.Token", nil},
		{"an empty token", "episode.", "i", nil, "token 2 is empty", nil},
		{"a wildcard", "episode.*", "i", nil, "encoded with bus.Token", nil},
		{"no id", "episode.a", "", nil, "message id", nil},
		{"an id with a header in it", "episode.a", "x\r\nNats-Rollup: all", nil, "message id", nil},
		{"a message over the limit", "episode.a", "i", make([]byte, MaxMessageBytes+1), "at most 262144", ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := b.Publish(context.Background(), tc.subject, tc.id, tc.data)
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
		})
	}
	t.Run("more than the quota of a subject, and only there", func(t *testing.T) {
		require.NoError(t, b.Publish(context.Background(), "episode.a", "largest", make([]byte, MaxMessageBytes)))
		for i := range 2 {
			require.NoError(t, b.Publish(context.Background(), "episode.a", fmt.Sprint(i), nil))
		}
		err := b.Publish(context.Background(), "episode.a", "over", nil)
		require.ErrorIs(t, err, ErrQuota)
		require.ErrorContains(t, err, "it holds 3 messages")
		require.NoError(t, b.Publish(context.Background(), "episode.b", "other", nil))
		require.NoError(t, b.Healthy(), "one node's quota is not the bus's health")
		require.Len(t, replayed(t, b, "episode.a"), 3, "nothing was evicted")
	})
	require.InDelta(t, 1, testutil.ToFloat64(b.metrics.refused.WithLabelValues("quota")), 0)
	require.NoError(t, b.Close())
	n, err := testutil.GatherAndCount(reg)
	require.NoError(t, err)
	require.Zero(t, n, "metrics go with the bus")
}

func TestFullStreamRefusesAndEvictsNothing(t *testing.T) {
	log := &lines{}
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes = 1 << 20
	cfg.Log = log.logger()
	b := open(t, cfg)
	payload := make([]byte, 64<<10)
	acked := 0
	var err error
	for err == nil {
		if err = b.Publish(context.Background(), "a.b", fmt.Sprint(acked), payload); err == nil {
			acked++
		}
		require.Less(t, acked, 100)
	}
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "has reached 1048576 bytes and keeps messages for 168h0m0s: raise its size or shorten the time")
	require.ErrorIs(t, b.Healthy(), ErrFull)
	require.ErrorIs(t, b.Publish(context.Background(), "a.b", "more", payload), ErrFull)
	require.Len(t, replayed(t, b, ">"), acked)
	require.Equal(t, 1, strings.Count(log.String(), "takes no messages"), "one line, not one per message: %s", log)
	require.NoError(t, b.Close())

	cfg.MaxBytes = 4 << 20
	larger := open(t, cfg)
	require.NoError(t, larger.Publish(context.Background(), "a.b", "more", payload), "a larger limit takes effect on opening")
	require.NoError(t, larger.Healthy())
	require.NoError(t, larger.Close())

	cfg.MaxBytes = 1 << 20
	smaller := open(t, cfg)
	require.Len(t, replayed(t, smaller, ">"), acked+1, "a smaller limit evicts nothing either")
}

// A kill cannot show whether a write was fsynced, for the page cache outlives
// the process; a loss of power would. So the setting itself is held.
func TestEveryWriteIsSynced(t *testing.T) {
	b := open(t, testConfig(t.TempDir()))
	require.True(t, b.session.server.JetStreamConfig().SyncAlways)
	require.Zero(t, b.session.server.Addr(), "and nobody outside this process can connect")
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, testConfig(dir))
	_, err := Open(context.Background(), testConfig(dir))
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, "has "+dir+": stop it or give this one a directory of its own")
	require.NotContains(t, err.Error(), "\n")
}

func TestConfigurationThatIsRefused(t *testing.T) {
	good := testConfig(t.TempDir())
	for _, tc := range []struct {
		name string
		mod  func(*Config)
		says string
	}{
		{"no cluster", func(c *Config) { c.Cluster = "" }, "tenant and cluster"},
		{"no place", func(c *Config) { c.Dir = "" }, "either a directory or a nats:// URL"},
		{"two places", func(c *Config) { c.URL = "nats://x" }, "either a directory or a nats:// URL"},
		{"no logger", func(c *Config) { c.Log = nil }, "logger"},
		{"a tiny stream", func(c *Config) { c.MaxBytes = 4 }, "at least 1 MiB"},
		{"a short memory", func(c *Config) { c.MaxAge = time.Second }, "at least 2h0m0s"},
		{"a name beyond what a file name holds", func(c *Config) { c.Cluster = strings.Repeat("x", 300) }, "too long"},
		{"a directory that cannot be made", func(c *Config) { c.Dir = "/proc/none" }, "make directory /proc/none"},
		{"a cluster that does not answer", func(c *Config) { c.Dir = ""; c.URL = "nats://user:secret@127.0.0.1:1" }, "connect to the bus at nats://127.0.0.1:1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := good
			tc.mod(&cfg)
			_, err := Open(context.Background(), cfg)
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "secret")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestConcurrentPublishersAllSurvive(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(context.Background(), testConfig(dir))
	require.NoError(t, err)
	var wg sync.WaitGroup
	errs := make(chan error, 80)
	for w := range 8 {
		wg.Go(func() {
			for i := range 10 {
				errs <- b.Publish(context.Background(), fmt.Sprintf("episode.n%d", w), fmt.Sprintf("%d-%d", w, i), []byte("x"))
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, b.Close())
	require.Len(t, replayed(t, open(t, testConfig(dir)), ">"), 80)
}
