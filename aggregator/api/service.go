// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/aggregator/verdict"
	"github.com/plumb-dev/plumb/evidence"
)

const (
	// maxRequest bounds a request: the longest holds a node's name.
	maxRequest = 64 << 10
	// minPrefix is the least number of characters that name a verdict.
	minPrefix = 6
	// maxWatchers bounds the streams that are open at once.
	maxWatchers = 64
	// shownNames is how many names an error lists.
	shownNames = 8
)

// Config holds what the API reads from.
type Config struct {
	State      *state.State
	Engine     *verdict.Engine
	Signatures []*signature.Signature
	Catalog    *evidence.Catalog
	// AllowedHosts are names besides the loopback ones under which the API may be
	// reached.
	AllowedHosts []string
	Log          *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// A Service answers queries. Safe for concurrent use.
type Service struct {
	cfg      Config
	watchers chan struct{}
	stopped  chan struct{}
}

var _ apiv1connect.QueryServiceHandler = (*Service)(nil)

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Catalog == nil {
		cfg.Catalog = evidence.NewCatalog()
	}
	return &Service{cfg: cfg, watchers: make(chan struct{}, maxWatchers), stopped: make(chan struct{})}
}

// Stop ends the streams that are open, so that a server can drain. Call it once.
func (s *Service) Stop() { close(s.stopped) }

// Handler is the guarded HTTP handler of the service.
func (s *Service) Handler() http.Handler {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "plumb_api_refused_total",
		Help: "Requests to the read API that were refused for their Host or Origin.",
	}, []string{"reason"})
	if s.cfg.Registerer != nil {
		s.cfg.Registerer.MustRegister(refused)
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewQueryServiceHandler(s,
		connect.WithCodec(codec{"json"}), connect.WithCodec(codec{"json; charset=utf-8"}),
		connect.WithReadMaxBytes(maxRequest)))
	s.plain(mux)
	return newGuard(mux, s.cfg.AllowedHosts, func(reason string) { refused.WithLabelValues(reason).Inc() })
}

// Protocols are what a server of the handler speaks: HTTP/1.1 and HTTP/2
// without TLS, since it listens on loopback.
func Protocols() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return &p
}

// ListNodes implements apiv1connect.QueryServiceHandler.
func (s *Service) ListNodes(context.Context, *connect.Request[apiv1.ListNodesRequest]) (*connect.Response[apiv1.ListNodesResponse], error) {
	out := &apiv1.ListNodesResponse{}
	for _, n := range s.cfg.State.Nodes() {
		out.Nodes = append(out.Nodes, node(n))
	}
	return connect.NewResponse(out), nil
}

// ListVerdicts implements apiv1connect.QueryServiceHandler.
func (s *Service) ListVerdicts(_ context.Context, req *connect.Request[apiv1.ListVerdictsRequest]) (*connect.Response[apiv1.ListVerdictsResponse], error) {
	if err := s.checkFilter(req.Msg.GetNode(), req.Msg.GetSignature()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.ListVerdictsResponse{Verdicts: s.cfg.Engine.Verdicts(verdict.Filter{
		Node: req.Msg.GetNode(), Signature: req.Msg.GetSignature(), IncludeResolved: req.Msg.GetIncludeResolved(),
	})}), nil
}

// GetVerdict implements apiv1connect.QueryServiceHandler.
func (s *Service) GetVerdict(_ context.Context, req *connect.Request[apiv1.GetVerdictRequest]) (*connect.Response[apiv1.GetVerdictResponse], error) {
	id := strings.ToLower(req.Msg.GetId())
	if len(id) < minPrefix {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("find verdict %q: give at least %d characters of its id", id, minPrefix))
	}
	v, err := s.cfg.Engine.Verdict(id)
	switch {
	case errors.Is(err, verdict.ErrAmbiguous):
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("find verdict %q: %w; give more characters", id, err))
	case err != nil:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("find verdict %q: %w; ListVerdicts (plumb verdicts) lists those there are, resolved ones for an hour", id, err))
	}
	return connect.NewResponse(&apiv1.GetVerdictResponse{Verdict: v}), nil
}

// WatchVerdicts implements apiv1connect.QueryServiceHandler. A reader that is
// slow gets the newest version of each verdict, not every one in between.
func (s *Service) WatchVerdicts(ctx context.Context, req *connect.Request[apiv1.WatchVerdictsRequest], stream *connect.ServerStream[apiv1.WatchVerdictsResponse]) error {
	if err := s.checkFilter(req.Msg.GetNode(), ""); err != nil {
		return err
	}
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("watch verdicts: %d watchers are open, which is the limit; close one", maxWatchers))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	initial, subscription := s.cfg.Engine.Watch(verdict.Filter{Node: req.Msg.GetNode()})
	defer subscription.Close()
	for _, v := range initial {
		if err := stream.Send(&apiv1.WatchVerdictsResponse{Verdict: v}); err != nil {
			return err
		}
	}
	if err := stream.Send(&apiv1.WatchVerdictsResponse{Synced: true}); err != nil {
		return err
	}
	for {
		changes, err := subscription.Next(ctx)
		if err != nil {
			select {
			case <-s.stopped:
				return connect.NewError(connect.CodeUnavailable, errors.New("watch verdicts: the aggregator is shutting down; watch again"))
			default:
				return nil
			}
		}
		for _, v := range changes {
			if err := stream.Send(&apiv1.WatchVerdictsResponse{Verdict: v, Synced: true}); err != nil {
				return err
			}
		}
	}
}

// ExplainNode implements apiv1connect.QueryServiceHandler.
func (s *Service) ExplainNode(_ context.Context, req *connect.Request[apiv1.ExplainNodeRequest]) (*connect.Response[apiv1.ExplainNodeResponse], error) {
	n, err := s.nodeOf(req.Msg.GetNode())
	if err != nil {
		return nil, err
	}
	assessments, _ := s.cfg.Engine.Explain(n.Name)
	return connect.NewResponse(&apiv1.ExplainNodeResponse{
		Node:        node(n),
		Verdicts:    s.cfg.Engine.Verdicts(verdict.Filter{Node: n.Name}),
		Assessments: assessments,
	}), nil
}

// ListEpisodes implements apiv1connect.QueryServiceHandler.
func (s *Service) ListEpisodes(_ context.Context, req *connect.Request[apiv1.ListEpisodesRequest]) (*connect.Response[apiv1.ListEpisodesResponse], error) {
	names := s.cfg.State.Names()
	if name := req.Msg.GetNode(); name != "" {
		if err := s.checkFilter(name, ""); err != nil {
			return nil, err
		}
		names = []string{name}
	}
	out := &apiv1.ListEpisodesResponse{}
	for _, name := range names {
		for _, ep := range s.cfg.State.Episodes(name) {
			out.Episodes = append(out.Episodes, &apiv1.Episode{
				Id: ep.ID, Node: ep.Node, Condition: ep.Condition, Subject: subjectWords(ep.Subject),
				Onset: stamp(ep.Onset), ClosedAt: stamp(ep.ClosedAt), OnsetClaimed: ep.OnsetClaimed,
			})
		}
	}
	return connect.NewResponse(out), nil
}

// ListSignatures implements apiv1connect.QueryServiceHandler.
func (s *Service) ListSignatures(context.Context, *connect.Request[apiv1.ListSignaturesRequest]) (*connect.Response[apiv1.ListSignaturesResponse], error) {
	out := &apiv1.ListSignaturesResponse{}
	for _, sig := range s.cfg.Signatures {
		out.Signatures = append(out.Signatures, &apiv1.Signature{Id: sig.ID, Title: sig.Title, Severity: sig.Severity, Origin: sig.Origin, Hash: sig.Hash})
	}
	return connect.NewResponse(out), nil
}

// nodeOf finds a node or says which there are.
func (s *Service) nodeOf(name string) (state.NodeStatus, error) {
	if name == "" {
		return state.NodeStatus{}, connect.NewError(connect.CodeInvalidArgument, errors.New("find node: the request names none; set \"node\""))
	}
	if n, ok := s.cfg.State.NodeStatus(name); ok {
		return n, nil
	}
	names := s.cfg.State.Names()
	list := strings.Join(names, ", ")
	if len(names) > shownNames {
		list = fmt.Sprintf("%s and %d more", strings.Join(names[:shownNames], ", "), len(names)-shownNames)
	}
	if list == "" {
		list = "none; no agent has reported yet"
	}
	return state.NodeStatus{}, connect.NewError(connect.CodeNotFound, fmt.Errorf("find node %q: no such node; known are: %s", name, list))
}

// checkFilter refuses a filter that could never select anything: the answer
// "no verdicts" to a mistyped name would read as healthy.
func (s *Service) checkFilter(nodeName, signatureID string) error {
	if nodeName != "" {
		if _, err := s.nodeOf(nodeName); err != nil {
			return err
		}
	}
	if signatureID == "" {
		return nil
	}
	ids := make([]string, 0, len(s.cfg.Signatures))
	for _, sig := range s.cfg.Signatures {
		if sig.ID == signatureID {
			return nil
		}
		ids = append(ids, sig.ID)
	}
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("find signature %q: it is not loaded; loaded are: %s", signatureID, strings.Join(ids, ", ")))
}
