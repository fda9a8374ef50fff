// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package logging makes the one kind of log line that Plumb writes: slog JSON, a
// constant message, key-value pairs, and on every line trace_id, namespace, pod,
// node and zone.
package logging

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"log/slog"
	"sync/atomic"
)

// Identity is where the process runs. Fields that are not known stay empty
// strings on every line; they are never left out.
type Identity struct {
	Namespace, Pod, Node string
}

// A Zone is filled in when it becomes known (an agent learns its zone from the
// aggregator). Safe for concurrent use.
type Zone struct{ v atomic.Value }

// Set makes later lines carry the zone.
func (z *Zone) Set(zone string) { z.v.Store(zone) }

// Get returns the zone, empty when it is not known.
func (z *Zone) Get() string {
	s, _ := z.v.Load().(string)
	return s
}

type traceKey struct{}

// WithTrace returns a context whose log lines carry this trace id. An empty id
// makes a new one.
func WithTrace(ctx context.Context, id string) context.Context {
	if id == "" {
		id = NewTraceID()
	}
	return context.WithValue(ctx, traceKey{}, id)
}

// NewTraceID returns 32 hex digits, as W3C Trace Context has them.
func NewTraceID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// New returns a logger that writes JSON lines to w. Lines without a trace of
// their own carry one that stands for the process.
func New(w io.Writer, level slog.Leveler, id Identity, zone *Zone) *slog.Logger {
	if zone == nil {
		zone = &Zone{}
	}
	return slog.New(&handler{
		next: slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}).WithAttrs([]slog.Attr{
			slog.String("namespace", id.Namespace),
			slog.String("pod", id.Pod),
			slog.String("node", id.Node),
		}),
		zone:    zone,
		process: NewTraceID(),
	})
}

type handler struct {
	next    slog.Handler
	zone    *Zone
	process string
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	trace, _ := ctx.Value(traceKey{}).(string)
	if trace == "" {
		trace = h.process
	}
	r = r.Clone()
	r.AddAttrs(slog.String("trace_id", trace), slog.String("zone", h.zone.Get()))
	return h.next.Handle(ctx, r)
}

func (h *handler) WithAttrs(a []slog.Attr) slog.Handler {
	return &handler{next: h.next.WithAttrs(a), zone: h.zone, process: h.process}
}

// WithGroup is refused silently: the five fields must stay at the top level, and
// Plumb's lines are flat.
func (h *handler) WithGroup(string) slog.Handler { return h }
