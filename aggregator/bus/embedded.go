// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// openEmbedded starts the server in this process and opens the stream.
func (b *Bus) openEmbedded(ctx context.Context, s *session) error {
	if err := b.room(); err != nil {
		return fmt.Errorf("open the bus: %w", err)
	}
	existed, err := b.streamExists()
	if err != nil {
		return err
	}
	if err := b.dropIndex(); err != nil {
		return err
	}
	s.server, err = server.NewServer(&server.Options{
		ServerName: "plumb-aggregator",
		DontListen: true,
		NoSigs:     true,
		NoLog:      true,
		// Its statistics would be published every few seconds to nobody.
		NoSystemAccount:        true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               b.cfg.Dir,
		SyncAlways:             true,
		// Given outright: left to itself the server takes three quarters of what is
		// free at that moment, and a store that grew would not open again.
		JetStreamMaxStore:  2*b.cfg.MaxBytes + 1<<30,
		JetStreamMaxMemory: 64 << 20,
		MaxPayload:         MaxMessageBytes + 4096,
	})
	if err != nil {
		return fmt.Errorf("make the embedded server on %s: %w", b.cfg.Dir, err)
	}
	s.server.SetLoggerV2(&serverLog{log: b.log, dir: b.cfg.Dir, fail: s.fail}, false, false, false)
	s.server.Start()
	if !s.server.ReadyForConnections(30 * time.Second) {
		return fmt.Errorf("start the embedded server on %s: it is not ready after 30 s", b.cfg.Dir)
	}
	if s.nc, err = nats.Connect("", nats.InProcessServer(s.server), nats.Name("plumb-aggregator"), nats.NoReconnect()); err != nil {
		return fmt.Errorf("connect to the embedded server: %w", err)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return fmt.Errorf("use JetStream of the embedded server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	if existed {
		if _, err := s.js.Stream(ctx, b.stream); errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("open the bus: %w: the server cannot read stream %s in %s: move the directory away to start afresh", ErrCorrupt, b.stream, b.cfg.Dir)
		}
	}
	if s.stream, err = s.js.CreateOrUpdateStream(ctx, b.streamConfig()); err != nil {
		return fmt.Errorf("open stream %s in %s: %w", b.stream, b.cfg.Dir, err)
	}
	return b.verify(ctx, s)
}

// verify compares the store with what was acknowledged. The server has cut a
// damaged file of messages at the first record whose hash is wrong, so damage
// shows as a hole or as a missing end. Missing files at the beginning cannot be
// told from messages that aged out.
func (b *Bus) verify(ctx context.Context, s *session) error {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("ask stream %s in %s for its state: %w", b.stream, b.cfg.Dir, err)
	}
	if n := info.State.NumDeleted; n > 0 {
		return fmt.Errorf("open the bus: %w: %d messages are missing in the middle of stream %s in %s: restore the directory or move it away to start afresh", ErrCorrupt, n, b.stream, b.cfg.Dir)
	}
	if acked := b.mark.value(); info.State.LastSeq < acked {
		return fmt.Errorf("open the bus: %w: stream %s in %s ends at message %d but %d were acknowledged: restore the directory, or remove %s to go on without the lost ones", ErrCorrupt, b.stream, b.cfg.Dir, info.State.LastSeq, acked, b.mark.path)
	}
	return nil
}

// streamExists says whether the directory has held the stream before.
func (b *Bus) streamExists() (bool, error) {
	switch _, err := os.Stat(b.streamDir()); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, fmt.Errorf("open the bus: %w: make the directory readable for this user", err)
	}
}

// dropIndex removes the server's index, so that it reads every message and
// checks its hash while opening. Trusting the index, nats-server v2.15.2 takes
// the sequence of a damaged record as it stands and allocates memory up to it
// (filestore.go, indexCacheBuf), which ends the process.
func (b *Bus) dropIndex() error {
	err := os.Remove(filepath.Join(b.streamDir(), "msgs", "index.db"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open the bus: %w: make the directory writable for this user", err)
	}
	return nil
}

func (b *Bus) streamDir() string {
	return filepath.Join(b.cfg.Dir, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams", b.stream)
}

// serverLog adapts the server's logger. Notices are debug here: what matters of
// them the bus says itself.
type serverLog struct {
	log  *slog.Logger
	dir  string
	fail func(error)
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) line(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "embedded server", "said", strings.TrimSpace(fmt.Sprintf(format, v...)))
}

// Noticef implements server.Logger.
func (l *serverLog) Noticef(format string, v ...any) { l.line(slog.LevelDebug, format, v) }

// Debugf implements server.Logger.
func (l *serverLog) Debugf(format string, v ...any) { l.line(slog.LevelDebug, format, v) }

// Tracef implements server.Logger.
func (l *serverLog) Tracef(format string, v ...any) { l.line(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) { l.line(slog.LevelWarn, format, v) }

// Fatalf implements server.Logger.
func (l *serverLog) Fatalf(format string, v ...any) { l.line(slog.LevelError, format, v) }

// Errorf implements server.Logger. The server does not answer a publish whose
// write failed, it only logs; reading it here spares the publisher the time-out,
// which finds the same a few seconds later.
func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	lower := strings.ToLower(text)
	switch {
	case strings.Contains(lower, "no space left"), strings.Contains(lower, "quota exceeded"):
		l.line(slog.LevelDebug, format, v)
		l.fail(fmt.Errorf("%w: a write to %s failed for want of space: free some on that file system or give the bus a larger one", ErrFull, l.dir))
	case strings.Contains(lower, "write error"), strings.Contains(lower, "failed to store"):
		l.line(slog.LevelError, format, v)
		l.fail(fmt.Errorf("%w: a write to %s failed: %s", ErrUnavailable, l.dir, strings.TrimSpace(text)))
	default:
		l.line(slog.LevelError, format, v)
	}
}
