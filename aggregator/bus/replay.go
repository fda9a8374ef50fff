// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Replay calls fn with every retained message whose subject matches the filter
// (relative; "*" and ">" as in NATS), oldest first, and returns when it has
// caught up. The subject passed to fn is relative, at is when the message was
// stored. Messages published meanwhile may or may not be part of it, and a
// message may come more than once. An error of fn ends the replay and is
// returned as it is.
//
// It fails with ErrCorrupt when a message that is retained cannot be read.
func (b *Bus) Replay(ctx context.Context, filter string, fn func(subject string, at time.Time, data []byte) error) error {
	if err := checkSubject(filter, true); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	s, err := b.current()
	if err != nil {
		return fmt.Errorf("replay %s: %w", filter, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(s.failure()) })()

	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects:    []string{b.prefix + filter},
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("replay %s: %w", filter, explainReplay(ctx, err))
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("replay %s: %w", filter, explainReplay(ctx, err))
	}
	expected := info.NumPending + uint64(info.NumAckPending)
	if expected == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(512))
	if err != nil {
		return fmt.Errorf("replay %s: %w", filter, explainReplay(ctx, err))
	}
	defer messages.Stop()

	var seen, last uint64
	for {
		// A message that cannot be read is passed over by the server without a
		// word, so waiting has an end: what is readable comes at once.
		wait, stop := context.WithTimeout(ctx, b.cfg.Timeout)
		msg, err := messages.Next(jetstream.NextContext(wait))
		stop()
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("replay %s: %w: %d of %d messages in %s can be read", filter, ErrCorrupt, seen, expected, b.where())
			}
			return fmt.Errorf("replay %s: %w", filter, explainReplay(ctx, err))
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("replay %s: %w", filter, err)
		}
		if meta.Sequence.Stream <= last {
			continue // the consumer began again after an interruption
		}
		last = meta.Sequence.Stream
		seen++
		if err := fn(strings.TrimPrefix(msg.Subject(), b.prefix), meta.Timestamp, msg.Data()); err != nil {
			return err
		}
		if meta.NumPending == 0 {
			// Messages may have aged out since the count, so only a deficit that
			// age cannot explain is damage.
			if seen < expected && b.cfg.Dir != "" {
				return b.checkReplayed(ctx, s, filter, seen, expected)
			}
			return nil
		}
	}
}

// checkReplayed decides whether messages that did not come have aged out.
func (b *Bus) checkReplayed(ctx context.Context, s *session, filter string, seen, expected uint64) error {
	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{b.prefix + filter},
		DeliverPolicy:  jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return fmt.Errorf("replay %s: %w", filter, explainReplay(ctx, err))
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("replay %s: %w", filter, explainReplay(ctx, err))
	}
	if info.NumPending+uint64(info.NumAckPending) > seen {
		return fmt.Errorf("replay %s: %w: %d of %d messages in %s can be read", filter, ErrCorrupt, seen, expected, b.where())
	}
	return nil
}

func explainReplay(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
