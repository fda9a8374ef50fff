// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/aggregator/identity"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// clock is set by the test.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func sample(id string, ttl time.Duration) *evidencev1.Directive {
	d := &evidencev1.Directive{Id: id, Action: &evidencev1.Directive_SampleProbe{SampleProbe: &evidencev1.SampleProbe{Probe: "link"}}}
	if ttl != 0 {
		d.Ttl = durationpb.New(ttl)
	}
	return d
}

// next receives until a message with a directive comes.
func next(t *testing.T, s *connect.ServerStreamForClient[evidencev1.WatchResponse]) *evidencev1.Directive {
	t.Helper()
	for s.Receive() {
		if d := s.Msg().GetDirective(); d != nil {
			return d
		}
	}
	require.NoError(t, s.Err())
	t.Fatal("the stream ended")
	return nil
}

func watch(t *testing.T, rpc evidencev1connect.UplinkServiceClient, token string) *connect.ServerStreamForClient[evidencev1.WatchResponse] {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := rpc.Watch(ctx, with(token, &evidencev1.WatchRequest{BootId: "k1/5"}))
	require.NoError(t, err)
	t.Cleanup(func() { cancel(); s.Close() })
	require.True(t, s.Receive(), "the first message tells that the stream stands: %v", s.Err())
	require.Nil(t, s.Msg().GetDirective())
	return s
}

func TestDirectiveIsDeliveredAtOnceAndRepeatedUntilItsResultComes(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	require.ErrorIs(t, f.service.Direct("n1", sample("d1", 0)), ErrNoAgent)

	s := watch(t, rpc, "t1")
	other := watch(t, rpc, "t2")
	begin := time.Now()
	require.NoError(t, f.service.Direct("n1", sample("d1", 30*time.Second)))
	require.NoError(t, f.service.Direct("n1", sample("d1", 30*time.Second)), "the same one again is one")
	d := next(t, s)
	require.Less(t, time.Since(begin), time.Second)
	require.Equal(t, "d1", d.GetId())
	require.LessOrEqual(t, d.GetTtl().AsDuration(), 30*time.Second)

	require.NoError(t, f.service.Direct("n2", sample("of-2", 0)))
	require.Equal(t, "of-2", next(t, other).GetId(), "each node gets its own")

	reply, err := rpc.Push(context.Background(), with("t1", goodBatch(1)))
	require.NoError(t, err)
	require.Len(t, reply.Msg.GetDirectives(), 1, "no result yet")
	require.Equal(t, "d1", reply.Msg.GetDirectives()[0].GetId())

	require.NoError(t, f.service.Direct("n1", sample("d2", 0)))
	require.Equal(t, "d2", next(t, s).GetId(), "the first is not repeated on the stream")

	batch := goodBatch(2)
	batch.Batch.DirectiveResults = []*evidencev1.DirectiveResult{{DirectiveId: "d1", Done: true}, {DirectiveId: "d2", Detail: "no such probe"}, {DirectiveId: "never sent"}}
	reply, err = rpc.Push(context.Background(), with("t1", batch))
	require.NoError(t, err)
	require.Empty(t, reply.Msg.GetDirectives())
	require.InDelta(t, 1, value(t, f.service.metrics.directives.WithLabelValues("done")), 0)
	require.InDelta(t, 1, value(t, f.service.metrics.directives.WithLabelValues("declined")), 0)
}

func TestNewStreamCarriesWhatTheOldOneLeftAndEndsIt(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	first := watch(t, rpc, "t1")
	require.NoError(t, f.service.Direct("n1", sample("d1", 0)))
	require.Equal(t, "d1", next(t, first).GetId())
	second := watch(t, rpc, "t1")
	require.False(t, first.Receive())
	require.Equal(t, connect.CodeAborted, connect.CodeOf(first.Err()))
	require.ErrorContains(t, first.Err(), "another stream of node n1 took over")
	require.Equal(t, "d1", next(t, second).GetId())
	testutils.Eventually(t, 5*time.Second, "one stream is left", func() bool { return value(t, f.service.metrics.streams) == 1 })
	require.NoError(t, f.service.Direct("n1", sample("d2", 0)))
	require.Equal(t, "d2", next(t, second).GetId(), "the end of the first did not disturb the second")
}

func TestDirectivesExpireAndAreBounded(t *testing.T) {
	c := &clock{t: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	f := newFixture(t, func(cfg *Config) { cfg.Now = c.now; cfg.Limits.Directives = 3 })
	_, err := f.service.Push(context.Background(), with("t1", goodBatch(1)))
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, f.service.Direct("n1", sample(fmt.Sprint("d", i), time.Duration(i+1)*10*time.Second)))
	}
	err = f.service.Direct("n1", sample("d9", 0))
	require.ErrorIs(t, err, ErrQueueFull)
	c.advance(10 * time.Second)
	reply, err := f.service.Push(context.Background(), with("t1", goodBatch(2)))
	require.NoError(t, err)
	require.Len(t, reply.Msg.GetDirectives(), 2)
	require.Equal(t, "d1", reply.Msg.GetDirectives()[0].GetId())
	require.Equal(t, 10*time.Second, reply.Msg.GetDirectives()[0].GetTtl().AsDuration(), "what is left of its time")
	require.NoError(t, f.service.Direct("n1", sample("d9", time.Hour)))
	c.advance(10*time.Minute - time.Second)
	reply, err = f.service.Push(context.Background(), with("t1", goodBatch(3)))
	require.NoError(t, err)
	require.Len(t, reply.Msg.GetDirectives(), 1, "ten minutes is the most")
	for name, d := range map[string]*evidencev1.Directive{
		"no id": sample("", 0), "nothing asked": {Id: "x"}, "void from the start": sample("x", -time.Second), "none": nil,
	} {
		require.Error(t, f.service.Direct("n1", d), name)
	}
}

func TestStreamBeatsAndEndsWithTheRightToIt(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Limits.Heartbeat = 10 * time.Millisecond })
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	s := watch(t, rpc, "t1")
	for range 3 {
		require.True(t, s.Receive())
		require.Nil(t, s.Msg().GetDirective())
	}
	f.tokens.fail(identity.ErrExpired)
	for s.Receive() {
	}
	require.Equal(t, connect.CodeUnauthenticated, connect.CodeOf(s.Err()))
	f.tokens.fail(nil)

	s = watch(t, rpc, "t1")
	f.service.Close()
	for s.Receive() {
	}
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(s.Err()))
}

func TestReplacedNodeInheritsNothing(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	s := watch(t, rpc, "t1")
	require.NoError(t, f.service.Direct("n1", sample("d1", 0)))
	require.Equal(t, "d1", next(t, s).GetId())
	f.tokens.mu.Lock()
	f.tokens.m["t1b"] = identity.Node{Name: "n1", UID: "u1b"}
	f.tokens.mu.Unlock()
	batch := goodBatch(1)
	batch.Batch.NodeUid = "u1b"
	reply, err := rpc.Push(context.Background(), with("t1b", batch))
	require.NoError(t, err)
	require.Empty(t, reply.Msg.GetDirectives())
	require.False(t, s.Receive(), "the stream of the old node ends")
}
