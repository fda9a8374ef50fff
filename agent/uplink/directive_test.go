// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

func sample(id string, ttl time.Duration) *evidencev1.Directive {
	return &evidencev1.Directive{Id: id, Ttl: durationpb.New(ttl), Action: &evidencev1.Directive_SampleProbe{SampleProbe: &evidencev1.SampleProbe{Probe: "link"}}}
}

// A recorder is a handler that remembers what it was asked.
type recorder struct {
	mu  sync.Mutex
	ids []string
}

func (r *recorder) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, id)
}

func (r *recorder) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

func waitResult(t *testing.T, s *testServer, id string) *evidencev1.DirectiveResult {
	t.Helper()
	testutils.Eventually(t, 5*time.Second, "the result of "+id, func() bool { return s.result(id) != nil })
	return s.result(id)
}

func TestDirectivesAreCarriedOutOnceAndAnswered(t *testing.T) {
	f := newFixture(t)
	handled := &recorder{}
	f.cfg.OnDirective = func(ctx context.Context, d *evidencev1.Directive) error {
		handled.add(d.GetId())
		switch {
		case strings.HasPrefix(d.GetId(), "fails"):
			return errors.New("sample probe link: no such probe")
		case strings.HasPrefix(d.GetId(), "panics"):
			panic("at the disco")
		case strings.HasPrefix(d.GetId(), "hangs"):
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	f.run(t)
	f.waitBatches(t, 1)

	sent := time.Now()
	f.server.directives <- sample("good", time.Minute)
	testutils.Eventually(t, time.Second, "the directive within a second", func() bool { return len(handled.got()) == 1 })
	require.True(t, waitResult(t, f.server, "good").GetDone())
	require.Less(t, time.Since(sent), 2*time.Second, "the result does not wait for the interval")

	tests := []struct {
		directive *evidencev1.Directive
		detail    string
	}{
		{sample("fails", time.Minute), "no such probe"},
		{sample("panics", time.Minute), "panic: at the disco"},
		{sample("hangs", 50*time.Millisecond), "within its time to live of 50ms"},
		{sample("void", -time.Second), "within its time to live"},
		{&evidencev1.Directive{Id: "unknown", Ttl: durationpb.New(time.Minute)}, "does not know the action"},
	}
	for _, tt := range tests {
		f.server.directives <- tt.directive
		result := waitResult(t, f.server, tt.directive.GetId())
		require.False(t, result.GetDone())
		require.Contains(t, result.GetDetail(), tt.detail)
	}
	require.NotContains(t, handled.got(), "void")

	// Repeated in replies and over the stream: not carried out again, but the
	// result is given again to whoever asks.
	f.server.set(func() {
		f.server.repeated = []*evidencev1.Directive{sample("good", time.Minute)}
		delete(f.server.results, "good")
	})
	f.server.directives <- sample("good", time.Minute)
	require.True(t, waitResult(t, f.server, "good").GetDone())
	f.server.set(func() { f.server.repeated = nil })
	count := 0
	for _, id := range handled.got() {
		if id == "good" {
			count++
		}
	}
	require.Equal(t, 1, count)
}

func TestADirectiveRepeatedInARepliesGoesTheSameWay(t *testing.T) {
	f := newFixture(t)
	handled := &recorder{}
	f.cfg.OnDirective = func(_ context.Context, d *evidencev1.Directive) error { handled.add(d.GetId()); return nil }
	f.server.repeated = []*evidencev1.Directive{sample("from a reply", time.Minute)}
	f.run(t)
	require.True(t, waitResult(t, f.server, "from a reply").GetDone())
	require.Equal(t, []string{"from a reply"}, handled.got())
}

func TestTwoReplicasThatAskTheSameBothGetTheResult(t *testing.T) {
	f := newFixture(t)
	other := newServer(t, f.ca.issue(t, around(time.Now(), time.Hour)))
	f.cfg.Endpoints = append(f.cfg.Endpoints, other.url())
	handled := &recorder{}
	release := make(chan struct{})
	f.cfg.OnDirective = func(_ context.Context, d *evidencev1.Directive) error { handled.add(d.GetId()); <-release; return nil }
	f.run(t)
	f.server.directives <- sample("same", time.Minute)
	other.directives <- sample("same", time.Minute)
	testutils.Eventually(t, 5*time.Second, "both streams", func() bool { return len(f.server.directives)+len(other.directives) == 0 })
	close(release)
	require.True(t, waitResult(t, f.server, "same").GetDone())
	require.True(t, waitResult(t, other, "same").GetDone())
	require.Equal(t, []string{"same"}, handled.got())
}

func TestTheWatchStreamIsOpenedAgain(t *testing.T) {
	f := newFixture(t)
	handled := &recorder{}
	f.cfg.OnDirective = func(_ context.Context, d *evidencev1.Directive) error { handled.add(d.GetId()); return nil }
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	f.server.stop()
	f.server.start()
	f.waitBatches(t, 2)
	// A message without a directive is a heartbeat.
	f.server.directives <- nil
	f.server.directives <- sample("after", time.Minute)
	require.True(t, waitResult(t, f.server, "after").GetDone())
	require.Zero(t, testutil.ToFloat64(c.metrics.directives.WithLabelValues("malformed")))
}

func TestAFloodOfDirectivesIsBounded(t *testing.T) {
	f := newFixture(t)
	c, err := New(f.cfg)
	require.NoError(t, err)
	defer c.close()
	release := make(chan struct{})
	d := newDirectives(func(context.Context, *evidencev1.Directive) error { <-release; return nil }, c.log, func(string) {})
	d.start(context.Background())
	e := c.endpoints[0]
	for i := range maxDirectivesKnown * 2 {
		d.deliver(e, sample(fmt.Sprintf("d%d", i), time.Minute))
	}
	d.deliver(e, sample("", time.Minute))
	d.deliver(e, sample(strings.Repeat("x", maxDirectiveID+1), time.Minute))
	d.mu.Lock()
	require.Len(t, d.known, maxDirectivesKnown)
	require.Equal(t, maxDirectivesWaiting, d.waiting)
	d.mu.Unlock()
	require.LessOrEqual(t, len(e.results), maxDirectivesKnown)
	require.Contains(t, e.results[0].GetDetail(), "others are waiting")
	close(release)
	d.stop()
	require.Zero(t, d.waiting)
}
