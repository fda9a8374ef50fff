// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A session is one opened store or one connection. It ends with the first write
// that fails and is then replaced.
type session struct {
	server *server.Server // nil for a cluster
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream

	ctx    context.Context // ends when the session failed or was closed
	cancel context.CancelCauseFunc
}

// errSessionClosed is the cause of a session that was closed on purpose.
var errSessionClosed = fmt.Errorf("%w: the store was closed meanwhile", ErrUnavailable)

func (s *session) fail(err error) { s.cancel(err) }

// failure is why the session ended, nil while it serves.
func (s *session) failure() error {
	if s.ctx.Err() == nil {
		return nil
	}
	return context.Cause(s.ctx)
}

func (s *session) close() {
	s.cancel(errSessionClosed)
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
}

func (b *Bus) openSession(ctx context.Context) (*session, error) {
	s := &session{}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	var err error
	if b.cfg.Dir != "" {
		err = b.openEmbedded(ctx, s)
	} else {
		err = b.openCluster(ctx, s)
	}
	if err != nil {
		// A failed write says more than the time-out that followed from it.
		if cause := s.failure(); cause != nil {
			err = cause
		}
		s.close()
		return nil, err
	}
	return s, nil
}

func (b *Bus) streamConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                 b.stream,
		Description:          "Plumb: episodes and verdict transitions of one cluster.",
		Subjects:             []string{b.prefix + ">"},
		Retention:            jetstream.LimitsPolicy,
		Storage:              jetstream.FileStorage,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		MaxMsgsPerSubject:    b.cfg.MaxPerSubject,
		MaxBytes:             b.cfg.MaxBytes,
		MaxAge:               b.cfg.MaxAge,
		// Room for subject and headers beside the largest payload.
		MaxMsgSize: MaxMessageBytes + 4096,
		Duplicates: dedupeWindow,
		Replicas:   1,
		// The stream is durable state: it must not go by a slip of the hand.
		DenyDelete: true,
		DenyPurge:  true,
	}
}

// openCluster connects to an existing cluster and adopts or makes the stream.
func (b *Bus) openCluster(ctx context.Context, s *session) error {
	var err error
	s.nc, err = nats.Connect(b.cfg.URL,
		nats.Name("plumb-aggregator"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectBufSize(-1), // a publish that cannot be sent must fail, not wait unseen
		nats.Timeout(b.cfg.Timeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.log.Warn("lost the connection to the bus", "bus", b.where(), "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { b.log.Info("connected to the bus again", "bus", b.where()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.log.Warn("the bus reports an error", "bus", b.where(), "error", err)
		}),
	)
	if err != nil {
		return fmt.Errorf("connect to the bus at %s: %w: check the address and that the server runs", b.where(), err)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return fmt.Errorf("use JetStream at %s: %w", b.where(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	s.stream, err = s.js.Stream(ctx, b.stream)
	switch {
	case err == nil:
		return b.checkAdopted(s.stream.CachedInfo().Config)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("look up stream %s at %s: %w", b.stream, b.where(), err)
	}
	cfg := b.streamConfig()
	cfg.Replicas = 3
	s.stream, err = s.js.CreateStream(ctx, cfg)
	if isAPIError(err, codeReplicasNotSupported, codeNoSuitablePeers) {
		b.log.Warn("the bus cannot hold three replicas, one is used", "bus", b.where(), "error", err)
		cfg.Replicas = 1
		s.stream, err = s.js.CreateStream(ctx, cfg)
	}
	if err != nil {
		return fmt.Errorf("make stream %s at %s: %w", b.stream, b.where(), err)
	}
	return nil
}

// Codes of the JetStream API, from server/errors.json of nats-server v2.15.2.
const (
	codeNoSuitablePeers      = 10005
	codeReplicasNotSupported = 10074
)

func isAPIError(err error, codes ...int) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, code := range codes {
		if int(api.ErrorCode) == code {
			return true
		}
	}
	return false
}

// checkAdopted refuses a stream of an operator that would break the promise of
// an acknowledgement.
func (b *Bus) checkAdopted(cfg jetstream.StreamConfig) error {
	switch {
	case cfg.Storage != jetstream.FileStorage:
		return fmt.Errorf("use stream %s at %s: it is kept in memory: make it a file stream", b.stream, b.where())
	case cfg.Discard != jetstream.DiscardNew:
		return fmt.Errorf("use stream %s at %s: it evicts old messages when full: set its discard policy to new", b.stream, b.where())
	case cfg.Retention != jetstream.LimitsPolicy:
		return fmt.Errorf("use stream %s at %s: it deletes what was read: set its retention to limits", b.stream, b.where())
	}
	return nil
}

// watch replaces the session when it fails.
func (b *Bus) watch(s *session) {
	b.wg.Go(func() {
		select {
		case <-b.ctx.Done():
			return
		case <-s.ctx.Done():
		}
		cause := s.failure()
		b.mu.Lock()
		if b.session != s {
			b.mu.Unlock()
			return
		}
		b.session, b.cause = nil, cause
		b.mu.Unlock()
		b.metrics.failures.Inc()
		b.log.Error("the store failed and will be opened again", "error", cause)
		s.close()
		b.reopen()
	})
}

// reopen tries until the store is back or the bus is closed.
func (b *Bus) reopen() {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	for wait := first; ; wait = min(2*wait, most) {
		timer := time.NewTimer(wait)
		select {
		case <-b.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		// Opening writes; on a full disk it would only fail again.
		err := b.room()
		var s *session
		if err == nil {
			s, err = b.openSession(b.ctx)
		}
		b.mu.Lock()
		if err != nil {
			if !errors.Is(b.cause, ErrClosed) {
				b.cause = err
			}
			b.mu.Unlock()
			b.log.Debug("the store is not back yet", "error", err)
			continue
		}
		closed := errors.Is(b.cause, ErrClosed)
		if !closed {
			b.session, b.cause = s, nil
		}
		b.mu.Unlock()
		if closed {
			s.close()
			return
		}
		b.metrics.recoveries.Inc()
		b.log.Info("the store was opened again", "bus", b.where())
		b.watch(s)
		return
	}
}
