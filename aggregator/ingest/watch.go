// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

var (
	// ErrNoAgent means that no agent of this node has called since the start.
	ErrNoAgent = errors.New("no agent of the node has called yet")
	// ErrQueueFull means that the node has too many unanswered directives.
	ErrQueueFull = errors.New("the node has too many unanswered directives")
)

const (
	defaultTTL = time.Minute
	maxTTL     = 10 * time.Minute
)

// A directive waits for its result.
type directive struct {
	message *evidencev1.Directive
	expires time.Time
}

// A stream is the open Watch of a node.
type stream struct {
	wake chan struct{} // holds one token when there is something to send
	over chan struct{} // closed when a newer stream takes its place
	sent map[string]bool
}

// Direct queues a directive for a node's agent. It goes out at once over the
// node's stream and with every reply until its result comes or its ttl (one
// minute if it has none, at most ten) has passed. A directive whose id is queued
// already is left as it is.
func (s *Service) Direct(nodeName string, d *evidencev1.Directive) error {
	if err := checkIdentifier("id", d.GetId(), maxIdentifier); err != nil {
		return fmt.Errorf("direct node %s: %w", nodeName, err)
	}
	if d.GetAction() == nil {
		return fmt.Errorf("direct node %s: directive %s asks for nothing", nodeName, d.GetId())
	}
	ttl := defaultTTL
	if d.GetTtl() != nil {
		ttl = min(d.GetTtl().AsDuration(), maxTTL)
	}
	if d.GetTtl().CheckValid() != nil && d.GetTtl() != nil || ttl <= 0 {
		return fmt.Errorf("direct node %s: directive %s is void from the start: give it a positive ttl", nodeName, d.GetId())
	}
	s.mu.Lock()
	p := s.peers[nodeName]
	s.mu.Unlock()
	if p == nil {
		s.metrics.directives.WithLabelValues("no_agent").Inc()
		return fmt.Errorf("direct node %s: %w", nodeName, ErrNoAgent)
	}
	now := s.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.expire(p, now)
	for _, q := range p.directives {
		if q.message.GetId() == d.GetId() {
			return nil
		}
	}
	if len(p.directives) >= s.cfg.Limits.Directives {
		s.metrics.directives.WithLabelValues("overflow").Inc()
		return fmt.Errorf("direct node %s: %w: %d, at most %d wait", nodeName, ErrQueueFull, len(p.directives), s.cfg.Limits.Directives)
	}
	p.directives = append(p.directives, &directive{message: proto.Clone(d).(*evidencev1.Directive), expires: now.Add(ttl)})
	s.metrics.directives.WithLabelValues("queued").Inc()
	if p.stream != nil {
		p.stream.poke()
	}
	return nil
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// expire drops directives whose time has passed; p.mu is held.
func (s *Service) expire(p *peer, now time.Time) {
	kept := p.directives[:0]
	for _, d := range p.directives {
		if !now.Before(d.expires) {
			s.metrics.directives.WithLabelValues("expired").Inc()
			continue
		}
		kept = append(kept, d)
	}
	clear(p.directives[len(kept):])
	p.directives = kept
}

// settle removes the directives whose results came.
func (s *Service) settle(p *peer, results []*evidencev1.DirectiveResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range results {
		for i, d := range p.directives {
			if d.message.GetId() != r.GetDirectiveId() {
				continue
			}
			p.directives = append(p.directives[:i], p.directives[i+1:]...)
			result := "done"
			if !r.GetDone() {
				result = "declined"
				s.log.Info("an agent declined a directive", "from_node", p.name, "directive", r.GetDirectiveId(), "detail", r.GetDetail())
			}
			s.metrics.directives.WithLabelValues(result).Inc()
			break
		}
	}
}

// pending returns what the node has not answered, with the time that is left.
func (s *Service) pending(p *peer) []*evidencev1.Directive {
	now := s.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.expire(p, now)
	var out []*evidencev1.Directive
	for _, d := range p.directives {
		out = append(out, d.at(now))
	}
	return out
}

func (d *directive) at(now time.Time) *evidencev1.Directive {
	m := proto.Clone(d.message).(*evidencev1.Directive)
	m.Ttl = durationpb.New(d.expires.Sub(now))
	return m
}

// Watch delivers directives until the caller goes, another stream of the node
// takes over, the token is no longer good, or the service is closed.
func (s *Service) Watch(ctx context.Context, r *connect.Request[evidencev1.WatchRequest], out *connect.ServerStream[evidencev1.WatchResponse]) error {
	c, err := s.caller(ctx, r.Header())
	if err != nil {
		return err
	}
	st := c.peer.newStream()
	defer c.peer.drop(st)
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	beat := time.NewTicker(s.cfg.Limits.Heartbeat)
	defer beat.Stop()
	// The first message tells the agent that the stream stands.
	if err := out.Send(&evidencev1.WatchResponse{}); err != nil {
		return err
	}
	for {
		for _, d := range s.unsent(c.peer, st) {
			if err := out.Send(&evidencev1.WatchResponse{Directive: d}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("the aggregator is stopping: connect again"))
		case <-st.over:
			return connect.NewError(connect.CodeAborted, fmt.Errorf("another stream of node %s took over", c.node.Name))
		case <-st.wake:
		case <-beat.C:
			if _, err := s.authenticate(ctx, r.Header(), c.arrival); err != nil {
				return err
			}
			if err := out.Send(&evidencev1.WatchResponse{}); err != nil {
				return err
			}
		}
	}
}

// unsent returns directives that this stream has not carried yet.
func (s *Service) unsent(p *peer, st *stream) []*evidencev1.Directive {
	now := s.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.expire(p, now)
	var out []*evidencev1.Directive
	sent := make(map[string]bool, len(p.directives))
	for _, d := range p.directives {
		id := d.message.GetId()
		if !st.sent[id] {
			out = append(out, d.at(now))
		}
		sent[id] = true
	}
	st.sent = sent // forgets what was answered or has expired
	return out
}

// newStream puts a stream in the place of an older one.
func (p *peer) newStream() *stream {
	st := &stream{wake: make(chan struct{}, 1), over: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream != nil {
		close(p.stream.over)
	}
	p.stream = st
	return st
}

func (p *peer) drop(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == st {
		p.stream = nil
	}
}

// endStream ends the stream of a node that was replaced.
func (p *peer) endStream() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream != nil {
		close(p.stream.over)
		p.stream = nil
	}
}
