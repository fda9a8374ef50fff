// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/logging"
)

// A caller is a node whose token was found good.
type caller struct {
	node    identity.Node
	token   string
	peer    *peer
	arrival time.Time
}

type callerKey struct{}

// Handler returns the path and the handler of the service. What it adds to the
// methods themselves happens before the body is read: arrival is stamped, the
// token verified, the node's rates are charged.
func (s *Service) Handler() (string, http.Handler) {
	path, next := evidencev1connect.NewUplinkServiceHandler(s,
		connect.WithReadMaxBytes(s.cfg.Limits.BatchBytes),
		connect.WithRecover(func(ctx context.Context, _ connect.Spec, _ http.Header, p any) error {
			s.metrics.panics.Inc()
			s.log.ErrorContext(ctx, "a call panicked", "panic", fmt.Sprint(p))
			return connect.NewError(connect.CodeInternal, errors.New("the aggregator failed on this call; its log says how"))
		}),
	)
	writer := connect.NewErrorWriter()
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrival := s.cfg.Now()
		ctx := logging.WithTrace(r.Context(), traceID(r.Header.Get("traceparent")))
		c, err := s.authenticate(ctx, r.Header, arrival)
		if err == nil {
			var leave func()
			if leave, err = s.admit(c, r.URL.Path); err == nil {
				defer leave()
			}
		}
		if err != nil {
			// Nothing of the body has been read, and nothing will be.
			if !writer.IsSupported(r) {
				http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
				return
			}
			if err := writer.Write(w, r, err); err != nil {
				s.log.DebugContext(ctx, "cannot answer a refused call", "error", err)
			}
			return
		}
		// A body that comes a byte at a time must not hold a goroutine for ever. In
		// HTTP/1 the deadline is the connection's and would end a stream with it.
		if r.ProtoMajor < 2 && r.URL.Path == evidencev1connect.UplinkServiceWatchProcedure {
			s.log.DebugContext(ctx, "a stream over HTTP/1 has no time limit for its body")
		} else if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.Limits.BodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			s.log.DebugContext(ctx, "cannot bound the time of a body", "error", err)
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callerKey{}, c)))
	})
}

// caller returns whom Handler found, or authenticates now if the methods are
// served without it.
func (s *Service) caller(ctx context.Context, h http.Header) (*caller, error) {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c, nil
	}
	return s.authenticate(ctx, h, s.cfg.Now())
}

func (s *Service) authenticate(ctx context.Context, h http.Header, arrival time.Time) (*caller, error) {
	token, err := bearer(h)
	var node identity.Node
	if err == nil {
		node, err = s.cfg.Authenticator.Authenticate(ctx, token)
	}
	if err != nil {
		reason, code := authReason(err)
		s.metrics.authFailures.WithLabelValues(reason).Inc()
		if n, ok := s.refused.say("\x00auth\x00" + reason); ok {
			s.log.WarnContext(ctx, "refused a caller", "reason", reason, "not_logged_before", n, "error", err)
		}
		return nil, connect.NewError(code, err)
	}
	p, err := s.peer(node)
	if err != nil {
		return nil, connect.NewError(connect.CodeResourceExhausted, err)
	}
	return &caller{node: node, token: token, peer: p, arrival: arrival}, nil
}

var errNoToken = errors.New("authenticate: there is no token: send it as \"Authorization: Bearer <token>\"")

func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", errNoToken
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errNoToken
	}
	return token, nil
}

// authReason names the failure for metrics, and decides whether the token is
// wrong or nobody could tell.
func authReason(err error) (string, connect.Code) {
	for _, k := range []struct {
		is   error
		name string
	}{
		{errNoToken, "missing"},
		{identity.ErrExpired, "expired"},
		{identity.ErrNotYetValid, "not_yet_valid"},
		{identity.ErrAudience, "audience"},
		{identity.ErrSignature, "signature"},
		{identity.ErrUnknownNode, "unknown_node"},
		{identity.ErrMalformed, "malformed"},
	} {
		if errors.Is(err, k.is) {
			return k.name, connect.CodeUnauthenticated
		}
	}
	return "unavailable", connect.CodeUnavailable
}

// admit charges a call to its node. The returned function ends the call.
func (s *Service) admit(c *caller, path string) (func(), error) {
	if path == evidencev1connect.UplinkServiceWatchProcedure {
		if !c.peer.calls.AllowN(s.cfg.Now(), 1) {
			return nil, s.tooMany(c, "streams")
		}
		return func() {}, nil // one stream per node; Watch sees to it
	}
	if !c.peer.calls.AllowN(s.cfg.Now(), 1) || !c.peer.solvent(s.cfg.Now()) {
		return nil, s.tooMany(c, "calls")
	}
	select {
	case c.peer.slots <- struct{}{}:
		return func() { <-c.peer.slots }, nil
	default:
		return nil, s.tooMany(c, "calls at once")
	}
}

func (s *Service) tooMany(c *caller, what string) error {
	s.metrics.batches.WithLabelValues("refused", "rate").Inc()
	return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("node %s makes too many %s: wait and try again", c.node.Name, what))
}

// traceID takes the trace out of a W3C traceparent header ("00-<32 hex>-…");
// empty when there is none.
func traceID(header string) string {
	parts := strings.Split(header, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || len(parts[1]) != 32 || parts[1] != strings.ToLower(parts[1]) || strings.Trim(parts[1], "0") == "" {
		return ""
	}
	if _, err := hex.DecodeString(parts[1]); err != nil {
		return ""
	}
	return parts[1]
}

// Server returns an HTTP server for the handler with all time-outs set. Its
// Shutdown ends the streams.
func (s *Service) Server() *http.Server {
	path, handler := s.Handler()
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server := &http.Server{
		Handler: mux,
		// Also bounds the TLS handshake.
		ReadHeaderTimeout: 10 * time.Second,
		// An agent sends every 10 s; a connection that is silent for so long is of
		// an agent that is gone.
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		Protocols:      protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 16,
			// An agent behind a path that swallows packets never says goodbye.
			SendPingTimeout:  15 * time.Second,
			PingTimeout:      10 * time.Second,
			WriteByteTimeout: 15 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(&serverErrors{Handler: s.log.Handler(), metrics: s.metrics}, slog.LevelDebug),
	}
	server.RegisterOnShutdown(s.Close)
	return server
}

// serverErrors counts what net/http only logs.
type serverErrors struct {
	slog.Handler
	metrics *metrics
}

// Enabled implements slog.Handler; counting must not depend on the level.
func (h *serverErrors) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *serverErrors) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "TLS handshake error") {
		h.metrics.handshakes.Inc()
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, "http server", r.PC)
	line.AddAttrs(slog.String("said", strings.TrimSpace(r.Message)))
	return h.Handler.Handle(ctx, line)
}
