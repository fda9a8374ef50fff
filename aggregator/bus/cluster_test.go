// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// natsServer is an operator's server: it listens on loopback.
func natsServer(t *testing.T, dir string, port int) *server.Server {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func TestTheSameCodeServesAnExistingJetStream(t *testing.T) {
	dir := t.TempDir()
	s := natsServer(t, dir, server.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	cfg := testConfig("")
	cfg.URL = s.ClientURL()
	cfg.Timeout = time.Second
	b := open(t, cfg)
	require.NoError(t, b.Publish(context.Background(), "episode.n", "1", []byte("one")))
	require.NoError(t, b.Publish(context.Background(), "episode.n", "1", []byte("one")))
	require.NoError(t, b.Healthy())
	require.Equal(t, []string{"episode.n one"}, replayed(t, open(t, cfg), ">"), "a second aggregator adopts the stream")

	s.Shutdown()
	s.WaitForShutdown()
	require.ErrorIs(t, b.Publish(context.Background(), "episode.n", "2", nil), ErrUnavailable)
	testutils.Eventually(t, 5*time.Second, "the lost connection shows", func() bool { return b.Healthy() != nil })
	natsServer(t, dir, port)
	testutils.Eventually(t, 10*time.Second, "connected again", func() bool { return b.Healthy() == nil })
	require.NoError(t, b.Publish(context.Background(), "episode.n", "2", []byte("two")))
	require.Equal(t, []string{"episode.n one", "episode.n two"}, replayed(t, b, ">"))
}

func TestStreamThatBreaksThePromiseIsRefused(t *testing.T) {
	s := natsServer(t, t.TempDir(), server.RANDOM_PORT)
	nc, err := nats.Connect(s.ClientURL())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	for _, tc := range []struct {
		name string
		mod  func(*jetstream.StreamConfig)
		says string
	}{
		{"kept in memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "kept in memory"},
		{"evicting", func(c *jetstream.StreamConfig) { c.Discard, c.DiscardNewPerSubject = jetstream.DiscardOld, false }, "evicts old messages"},
		{"a work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "deletes what was read"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := testConfig("")
			cfg.URL = s.ClientURL()
			shape := (&Bus{cfg: cfg, stream: "PLUMB_t_c=2Eexample", prefix: "plumb.t.c=2Eexample."}).streamConfig()
			shape.MaxMsgsPerSubject, shape.DenyDelete, shape.DenyPurge = 5, false, false
			shape.MaxAge = 24 * time.Hour
			tc.mod(&shape)
			_, err := js.CreateStream(context.Background(), shape)
			require.NoError(t, err)
			defer js.DeleteStream(context.Background(), shape.Name)
			_, err = Open(context.Background(), cfg)
			require.ErrorContains(t, err, tc.says)
		})
	}
}
