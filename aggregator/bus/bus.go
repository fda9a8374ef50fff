// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	// ErrFull means that there is no room: on the disk under the store, or in the
	// stream. Nothing was stored; the sender keeps the message and tries again.
	ErrFull = errors.New("the bus is full")
	// ErrQuota means that this subject holds as many messages as one subject may.
	ErrQuota = errors.New("the quota of the subject is used up")
	// ErrUnavailable means that the store or the cluster does not answer. The
	// message may or may not have been stored; publishing it again under the same
	// id is safe.
	ErrUnavailable = errors.New("the bus is not available")
	// ErrTooLarge means that a message is larger than MaxMessageBytes.
	ErrTooLarge = errors.New("the message is too large")
	// ErrLocked means that another process has the directory.
	ErrLocked = errors.New("the directory is in use")
	// ErrCorrupt means that the store is not what was acknowledged.
	ErrCorrupt = errors.New("the store is damaged")
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("the bus is closed")
)

// MaxMessageBytes is the largest message that Publish takes.
const MaxMessageBytes = 256 << 10

const (
	defaultMaxBytes      = 1 << 30
	defaultMaxAge        = 7 * 24 * time.Hour
	defaultMaxPerSubject = 16384
	defaultReserve       = 4 << 20
	defaultTimeout       = 5 * time.Second
	dedupeWindow         = 2 * time.Hour
)

// Config says where the bus is and what it keeps.
type Config struct {
	// Dir holds the embedded store; it is made if missing. Exactly one of Dir and
	// URL is set.
	Dir string
	// URL is an existing JetStream cluster: "nats://host:4222[,nats://…]", or
	// tls://. Credentials may be part of it and are never logged.
	URL string
	// MaxBytes bounds the stream; 0 means 1 GiB.
	MaxBytes int64
	// MaxAge is how long messages are kept; 0 means 7 days.
	MaxAge time.Duration
	// MaxPerSubject bounds the messages of one subject; 0 means 16384.
	MaxPerSubject int64
	// ReserveBytes is the free space of the file system under which the embedded
	// store takes nothing more; 0 means 4 MiB.
	ReserveBytes int64
	// Timeout is how long Publish waits for an acknowledgement; 0 means 5 s.
	Timeout time.Duration
	// Tenant and Cluster name the deployment; both must be set.
	Tenant, Cluster string
	// Log must be set.
	Log *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

func (c *Config) complete() error {
	switch {
	case c.Tenant == "" || c.Cluster == "":
		return errors.New("open the bus: tenant and cluster must both be named")
	case (c.Dir == "") == (c.URL == ""):
		return errors.New("open the bus: give either a directory or a nats:// URL")
	case c.Log == nil:
		return errors.New("open the bus: a logger is required")
	case len(Token(c.Tenant))+len(Token(c.Cluster)) > 200:
		return fmt.Errorf("open the bus: the names of tenant and cluster are too long (%d bytes encoded, at most 200)", len(Token(c.Tenant))+len(Token(c.Cluster)))
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.MaxBytes < 1<<20 {
		return fmt.Errorf("open the bus: a stream of %d bytes is too small, at least 1 MiB is needed", c.MaxBytes)
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultMaxAge
	}
	if c.MaxAge < dedupeWindow {
		return fmt.Errorf("open the bus: messages must be kept for at least %s, not %s", dedupeWindow, c.MaxAge)
	}
	if c.MaxPerSubject == 0 {
		c.MaxPerSubject = defaultMaxPerSubject
	}
	if c.ReserveBytes == 0 {
		c.ReserveBytes = defaultReserve
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return nil
}

// A Bus publishes and replays messages. It is safe for concurrent use.
type Bus struct {
	cfg     Config
	log     *slog.Logger
	prefix  string // "plumb.<tenant>.<cluster>."
	stream  string
	lock    *os.File // nil for a cluster
	mark    *mark    // nil for a cluster
	metrics *metrics

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu         sync.Mutex
	session    *session // nil while the store is being opened again
	cause      error    // why session is nil
	streamFull error    // last refusal of a full stream, until there is room
	refusing   bool     // the operator has been told that publishing fails
}

// Open opens or makes the store, or connects to the cluster. It fails with
// ErrLocked, ErrCorrupt or ErrFull where these apply.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	b := &Bus{
		cfg:    cfg,
		log:    cfg.Log.With("component", "bus"),
		prefix: "plumb." + Token(cfg.Tenant) + "." + Token(cfg.Cluster) + ".",
		stream: "PLUMB_" + Token(cfg.Tenant) + "_" + Token(cfg.Cluster),
	}
	if cfg.Dir != "" {
		if err := b.openDir(); err != nil {
			return nil, err
		}
	}
	s, err := b.openSession(ctx)
	if err == nil {
		b.metrics, err = newMetrics(cfg.Registerer, b)
		if err != nil {
			s.close()
		}
	}
	if err != nil {
		b.closeDir()
		return nil, err
	}
	b.session = s
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.watch(s)
	return b, nil
}

// where names the store in messages, without credentials.
func (b *Bus) where() string {
	if b.cfg.Dir != "" {
		return b.cfg.Dir
	}
	var out []string
	for _, part := range strings.Split(b.cfg.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil {
			out = append(out, "nats://?")
			continue
		}
		out = append(out, u.Scheme+"://"+u.Host)
	}
	return strings.Join(out, ",")
}

// Publish stores one message under a subject relative to the deployment
// ("episode.<token>") and returns when it is durable. A message with an id that
// was stored within the last two hours is acknowledged and not stored again.
//
// It fails with ErrFull, ErrQuota, ErrTooLarge, ErrUnavailable or ErrClosed, or
// with the error of ctx; in none of these cases may the caller acknowledge the
// message.
func (b *Bus) Publish(ctx context.Context, subject, id string, data []byte) error {
	start := time.Now()
	err := b.publish(ctx, subject, id, data)
	b.metrics.published(time.Since(start), err)
	b.tell(err)
	return err
}

func (b *Bus) publish(ctx context.Context, subject, id string, data []byte) error {
	if err := checkSubject(subject, false); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if id == "" || len(id) > 512 || strings.ContainsAny(id, "\r\n") {
		return fmt.Errorf("publish to %s: the message id must be one line of 1 to 512 bytes, not %d", subject, len(id))
	}
	if len(data) > MaxMessageBytes {
		return fmt.Errorf("publish %d bytes to %s: at most %d: %w", len(data), subject, MaxMessageBytes, ErrTooLarge)
	}
	s, err := b.current()
	if err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	if err := b.room(); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	pctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	// A store that failed never answers, so its end must cut the wait short.
	defer context.AfterFunc(s.ctx, cancel)()

	msg := &nats.Msg{Subject: b.prefix + subject, Data: data, Header: nats.Header{jetstream.MsgIDHeader: []string{id}}}
	ack, err := s.js.PublishMsg(pctx, msg, jetstream.WithExpectStream(b.stream))
	if err != nil {
		return fmt.Errorf("publish to %s: %w", subject, b.explain(ctx, s, err))
	}
	if b.mark != nil {
		if err := b.mark.raise(ack.Sequence); err != nil {
			// The message itself is durable; only the later check for damage is
			// weaker by it.
			b.metrics.markFailures.Inc()
			b.log.Warn("cannot note the acknowledged sequence", "error", err)
		}
	}
	b.mu.Lock()
	b.streamFull = nil
	b.mu.Unlock()
	return nil
}

// explain turns what JetStream said into one of the errors of this package.
func (b *Bus) explain(ctx context.Context, s *session, err error) error {
	if cause := s.failure(); cause != nil {
		return cause
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch {
		case strings.Contains(api.Description, "maximum messages per subject"):
			return fmt.Errorf("%w: it holds %d messages, they leave after %s", ErrQuota, b.cfg.MaxPerSubject, b.cfg.MaxAge)
		case strings.Contains(api.Description, "maximum bytes exceeded"), strings.Contains(api.Description, "resource"):
			full := fmt.Errorf("%w: stream %s of %s has reached %d bytes and keeps messages for %s: raise its size or shorten the time", ErrFull, b.stream, b.where(), b.cfg.MaxBytes, b.cfg.MaxAge)
			b.mu.Lock()
			b.streamFull = full
			b.mu.Unlock()
			return full
		}
		return fmt.Errorf("%w: %s refuses: %s", ErrUnavailable, b.where(), api.Description)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if b.cfg.Dir != "" && errors.Is(err, context.DeadlineExceeded) {
		// Silence within the process means that the store has stopped taking
		// writes; opening it again is the only way back.
		s.fail(fmt.Errorf("%w: the store in %s did not acknowledge within %s", ErrUnavailable, b.cfg.Dir, b.cfg.Timeout))
		return s.failure()
	}
	return fmt.Errorf("%w: no acknowledgement from %s: %w", ErrUnavailable, b.where(), err)
}

// current returns the open session or why there is none.
func (b *Bus) current() (*session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session == nil {
		return nil, b.cause
	}
	return b.session, nil
}

// Healthy returns nil if a message published now would be taken, else why not
// and what mends it.
func (b *Bus) Healthy() error {
	s, err := b.current()
	if err != nil {
		return err
	}
	if err := s.failure(); err != nil {
		return err
	}
	if !s.nc.IsConnected() {
		return fmt.Errorf("%w: no connection to %s", ErrUnavailable, b.where())
	}
	if err := b.room(); err != nil {
		return err
	}
	b.mu.Lock()
	full := b.streamFull
	b.mu.Unlock()
	if full == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Timeout)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("%w: ask %s for its state: %w", ErrUnavailable, b.where(), err)
	}
	if int64(info.State.Bytes)+MaxMessageBytes > b.cfg.MaxBytes {
		return full
	}
	b.mu.Lock()
	b.streamFull = nil
	b.mu.Unlock()
	return nil
}

// tell logs the first refusal and the first success after it, not each one.
func (b *Bus) tell(err error) {
	bad := errors.Is(err, ErrFull) || errors.Is(err, ErrUnavailable)
	if err != nil && !bad {
		return
	}
	b.mu.Lock()
	changed := b.refusing != bad
	b.refusing = bad
	b.mu.Unlock()
	switch {
	case changed && bad:
		b.log.Error("the bus takes no messages", "error", err)
	case changed:
		b.log.Info("the bus takes messages again")
	}
}

// Close ends the bus. Everything acknowledged is on disk before and after.
func (b *Bus) Close() error {
	b.mu.Lock()
	s := b.session
	b.session, b.cause = nil, ErrClosed
	b.mu.Unlock()
	b.cancel()
	if s != nil {
		s.close()
	}
	b.wg.Wait()
	b.metrics.unregister(b.cfg.Registerer)
	return b.closeDir()
}
