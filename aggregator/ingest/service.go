// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
)

// An Authenticator says for which node the bearer of a token speaks. Its errors
// are those of package identity; any other means that it cannot tell now.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (identity.Node, error)
}

// A State takes evidence that was found good. A batch that it saw before it
// ignores and reports as Duplicate.
type State interface {
	Apply(node identity.Node, arrival time.Time, req *evidencev1.PushRequest) (Applied, error)
}

// Applied is what became of a batch, in the words of the reply.
type Applied struct {
	Duplicate, NeedFull bool
	AckedSequence       uint64
}

// A Journal makes a message durable before it returns nil. A message with an id
// that it took before it may ignore.
type Journal interface {
	Publish(ctx context.Context, subject, id string, data []byte) error
}

// Config is what a Service needs. Authenticator, State, Journal and Token must
// be set.
type Config struct {
	Authenticator Authenticator
	State         State
	Journal       Journal
	// Token encodes a node's name as one token of a subject (bus.Token).
	Token func(name string) string
	// Catalog is what evidence is checked against; nil means the built-in one.
	Catalog *evidence.Catalog
	// Now is the aggregator's wall clock; nil means time.Now.
	Now func() time.Time
	// KernelBootID is /proc/sys/kernel/random/boot_id; agents on the same kernel
	// learn by it that both read one clock.
	KernelBootID string
	Limits       Limits
	// Log may be nil.
	Log *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
	// OnApplied is called after each batch that was applied, with the node's name;
	// it must not block. It may be nil.
	OnApplied func(node string)
}

// A Service receives from agents. It is safe for concurrent use.
type Service struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	refused *quiet

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu    sync.Mutex
	peers map[string]*peer // by node name
}

var _ evidencev1connect.UplinkServiceHandler = (*Service)(nil)

// New returns a service that is ready to be served through Handler or Server.
func New(cfg Config) (*Service, error) {
	if cfg.Authenticator == nil || cfg.State == nil || cfg.Journal == nil || cfg.Token == nil {
		return nil, errors.New("make the ingest service: authenticator, state, journal and token encoding are required")
	}
	if cfg.Catalog == nil {
		cfg.Catalog = evidence.NewCatalog()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnApplied == nil {
		cfg.OnApplied = func(string) {}
	}
	cfg.Limits.complete()
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, log: cfg.Log.With("component", "ingest"), metrics: m, refused: newQuiet(cfg.Now), peers: map[string]*peer{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close ends all streams. Calls of Push and Time still work.
func (s *Service) Close() { s.cancel() }

// Push takes one batch.
func (s *Service) Push(ctx context.Context, r *connect.Request[evidencev1.PushRequest]) (*connect.Response[evidencev1.PushResponse], error) {
	begin := time.Now()
	c, err := s.caller(ctx, r.Header())
	if err != nil {
		return nil, err
	}
	reply, reason, err := s.push(ctx, c, r.Msg)
	s.metrics.pushSeconds.Observe(time.Since(begin).Seconds())
	if err != nil {
		s.metrics.batches.WithLabelValues("refused", reason).Inc()
		if n, ok := s.refused.say(c.node.Name + "\x00" + reason); ok {
			s.log.WarnContext(ctx, "refused a batch", "from_node", c.node.Name, "reason", reason, "not_logged_before", n, "error", err)
		}
		return nil, err
	}
	return connect.NewResponse(reply), nil
}

// push returns the reply, or an error of connect and its reason in one word.
func (s *Service) push(ctx context.Context, c *caller, req *evidencev1.PushRequest) (*evidencev1.PushResponse, string, error) {
	p := c.peer
	n := size(req)
	s.metrics.batchBytes.Add(float64(n))
	if !p.pay(s.cfg.Now(), n) {
		return nil, "rate", connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("node %s sends more than %.0f bytes a second: send less often", c.node.Name, s.cfg.Limits.BytesPerSecond))
	}
	// The uid is compared first: whatever else is wrong with a batch, it must not
	// be of another node.
	if uid := req.GetBatch().GetNodeUid(); req.GetBatch() != nil && uid != c.node.UID {
		return nil, "foreign", connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the batch is of node uid %q, the token of node %s with uid %q: a node speaks only for itself", clip(uid), c.node.Name, c.node.UID))
	}
	// An agent takes its uid from the token, so a token on the wrong node passes the
	// comparison above. Its own name, which it was started with, does not.
	if name := req.GetBatch().GetAgent().GetNodeName(); name != "" && name != c.node.Name {
		return nil, "foreign", connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the batch is of an agent on node %q, the token of node %s: give each node its own token", clip(name), c.node.Name))
	}
	check := &checker{catalog: s.cfg.Catalog, limits: &s.cfg.Limits, mended: map[string]int{}}
	if err := check.check(req); err != nil {
		reason := "invalid"
		var bad *invalid
		if errors.As(err, &bad) {
			reason = bad.reason
		}
		return nil, reason, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("check the batch of node %s: %w", c.node.Name, err))
	}
	records, err := s.records(c, req)
	if err != nil {
		return nil, "size", connect.NewError(connect.CodeInvalidArgument, err)
	}

	// One batch of a node at a time: the order in the journal is the order in the
	// state.
	select {
	case p.gate <- struct{}{}:
		defer func() { <-p.gate }()
	case <-ctx.Done():
		return nil, "cancelled", connect.NewError(connect.CodeCanceled, ctx.Err())
	}
	for _, rec := range records {
		if err := s.cfg.Journal.Publish(ctx, EpisodeSubject+s.cfg.Token(c.node.Name), rec.id, rec.data); err != nil {
			s.metrics.episodes.WithLabelValues("failed").Inc()
			if ctx.Err() != nil {
				return nil, "cancelled", connect.NewError(connect.CodeCanceled, ctx.Err())
			}
			return nil, "journal", connect.NewError(connect.CodeUnavailable, fmt.Errorf("nothing of the batch of node %s is acknowledged: %w", c.node.Name, err))
		}
		s.metrics.episodes.WithLabelValues("published").Inc()
	}
	applied, err := s.cfg.State.Apply(c.node, c.arrival, req)
	if err != nil {
		return nil, "state", connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("nothing of the batch of node %s is acknowledged: %w", c.node.Name, err))
	}
	for what, count := range check.mended {
		s.metrics.mended.WithLabelValues(what).Add(float64(count))
	}
	s.settle(p, req.GetBatch().GetDirectiveResults())
	if applied.Duplicate {
		s.metrics.batches.WithLabelValues("duplicate", "").Inc()
	} else {
		s.metrics.batches.WithLabelValues("applied", "").Inc()
		s.cfg.OnApplied(c.node.Name)
	}
	return &evidencev1.PushResponse{
		AckedSequence: applied.AckedSequence,
		NeedFull:      applied.NeedFull,
		Zone:          c.node.Zone,
		Directives:    s.pending(p),
	}, "", nil
}

type encoded struct {
	id   string
	data []byte
}

// records encodes all episodes before the first is published, so that one which
// is too large cannot leave half a batch in the journal.
func (s *Service) records(c *caller, req *evidencev1.PushRequest) ([]encoded, error) {
	out := make([]encoded, 0, len(req.GetBatch().GetEpisodes()))
	for _, e := range req.GetBatch().GetEpisodes() {
		r := record(s.cfg.Catalog, c.node, c.arrival, req, e)
		data, err := r.Encode()
		if err != nil {
			return nil, err
		}
		if len(data) > s.cfg.Limits.EpisodeBytes {
			return nil, fmt.Errorf("check the batch of node %s: episode %s takes %d bytes, at most %d are kept: send fewer items with it", c.node.Name, clip(r.ID), len(data), s.cfg.Limits.EpisodeBytes)
		}
		out = append(out, encoded{id: r.MessageID(), data: data})
	}
	return out, nil
}

// Time answers with the aggregator's clock: as it was when the request came in
// and as it is just before the reply goes out.
func (s *Service) Time(ctx context.Context, r *connect.Request[evidencev1.TimeRequest]) (*connect.Response[evidencev1.TimeResponse], error) {
	c, err := s.caller(ctx, r.Header())
	if err != nil {
		return nil, err
	}
	reply := &evidencev1.TimeResponse{
		OriginUnixNanoseconds:  r.Msg.GetOriginUnixNanoseconds(),
		ReceiveUnixNanoseconds: c.arrival.UnixNano(),
		KernelBootId:           s.cfg.KernelBootID,
	}
	out := connect.NewResponse(reply)
	reply.TransmitUnixNanoseconds = s.cfg.Now().UnixNano()
	return out, nil
}
