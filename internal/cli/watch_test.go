// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
	"github.com/plumb-dev/plumb/internal/testutils"
)

const soon = 10 * time.Second

// watching starts a watch and returns its output and what ends it.
func watching(t *testing.T, server string, args ...string) (*syncBuffer, *syncBuffer, func() int) {
	t.Helper()
	out, errs := &syncBuffer{}, &syncBuffer{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	opts := callOptions{term: Terminal{Width: 80, Unicode: true}}
	go func() {
		done <- Run(ctx, config(opts, out, errs, append([]string{"verdicts", "--watch", "--server", server}, args...)...))
	}()
	return out, errs, func() int {
		cancel()
		return <-done
	}
}

func waitFor(t *testing.T, b *syncBuffer, want string) {
	t.Helper()
	testutils.Eventually(t, soon, "output has "+want, func() bool { return strings.Contains(strings.Join(strings.Fields(b.String()), " "), want) })
}

func state(v *apiv1.Verdict, grade, state string) *apiv1.WatchVerdictsResponse {
	v = proto.Clone(v).(*apiv1.Verdict)
	v.Grade, v.State = grade, state
	if state == "resolved" {
		v.ResolvedAt = ago(0)
	}
	return &apiv1.WatchVerdictsResponse{Verdict: v}
}

func TestWatchIsATimeline(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the server's own
	f := sick(t)
	root := f.verdicts[2]
	server := f.serve(t)
	messages := make(chan *apiv1.WatchVerdictsResponse, 16)
	f.streams <- messages
	out, errs, end := watching(t, server)

	messages <- state(f.verdicts[1], "suspected", "pending")
	messages <- &apiv1.WatchVerdictsResponse{Synced: true}
	waitFor(t, out, "watching for changes")
	require.Contains(t, out.String(), "c0ffee00")

	messages <- state(root, "likely", "firing")
	waitFor(t, out, "likely network/mtu-overlay-mismatch at flannel.1 on n1")
	messages <- state(root, "likely", "firing") // confirmed, not changed
	messages <- state(root, "proven", "firing")
	waitFor(t, out, "proven network/mtu-overlay-mismatch at flannel.1 on n1")
	messages <- state(root, "proven", "stale")
	waitFor(t, out, "stale network/mtu-overlay-mismatch")
	messages <- state(root, "proven", "resolved")
	waitFor(t, out, "It stood for 2m 10s.")
	require.Equal(t, 1, strings.Count(out.String(), "likely network/mtu-overlay-mismatch"), "what did not change is not shown")

	require.Zero(t, end(), "Ctrl-C is no trouble")
	require.Empty(t, errs.String())
}

func TestWatchConnectsAgain(t *testing.T) {
	f := sick(t)
	root, follows := f.verdicts[2], f.verdicts[0]
	server := f.serve(t)
	first := make(chan *apiv1.WatchVerdictsResponse, 16)
	f.streams <- first
	out, _, end := watching(t, server)
	first <- state(root, "proven", "firing")
	first <- state(follows, "likely", "firing")
	first <- &apiv1.WatchVerdictsResponse{Synced: true}
	waitFor(t, out, "watching for changes")
	close(first)
	waitFor(t, out, "connection lost")

	second := make(chan *apiv1.WatchVerdictsResponse, 16)
	f.streams <- second
	second <- state(root, "proven", "firing")
	second <- &apiv1.WatchVerdictsResponse{Synced: true}
	waitFor(t, out, "connected again")
	waitFor(t, out, "verdict 77aa00bb is no longer known")
	before := strings.Count(out.String(), "network/mtu-overlay-mismatch")
	second <- state(root, "proven", "resolved")
	waitFor(t, out, "resolved network/mtu-overlay-mismatch")
	require.Equal(t, before+1, strings.Count(out.String(), "network/mtu-overlay-mismatch"), "what stood before is not shown again")
	require.Zero(t, end())
}

func TestWatchConnectsAgainAfterTheServerDied(t *testing.T) {
	f := sick(t)
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewQueryServiceHandler(f))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	for range 2 {
		messages := make(chan *apiv1.WatchVerdictsResponse, 1)
		messages <- &apiv1.WatchVerdictsResponse{Synced: true}
		f.streams <- messages
	}
	out, errs, end := watching(t, s.URL)
	waitFor(t, out, "no verdict stands")
	s.CloseClientConnections() // in the middle of a stream, as a SIGKILL does
	waitFor(t, out, "connection lost")
	waitFor(t, out, "connected again")
	require.Zero(t, end())
	require.Empty(t, errs.String())
}

func TestWatchAsJSONIsOneObjectALine(t *testing.T) {
	f := sick(t)
	server := f.serve(t)
	first := make(chan *apiv1.WatchVerdictsResponse, 16)
	f.streams <- first
	out, errs, end := watching(t, server, "--json")
	first <- state(f.verdicts[2], "proven", "firing")
	first <- &apiv1.WatchVerdictsResponse{Synced: true}
	first <- state(f.verdicts[2], "proven", "resolved")
	testutils.Eventually(t, soon, "two lines", func() bool { return strings.Count(out.String(), "\n") == 2 })
	close(first)
	waitFor(t, errs, "connection lost")
	require.Zero(t, end())
	for line := range strings.Lines(out.String()) {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		require.Equal(t, "proven", v["grade"])
	}
}

func TestWatchThatIsRefusedLaterEnds(t *testing.T) {
	f := &fake{streams: make(chan chan *apiv1.WatchVerdictsResponse, 1)}
	var refuse atomic.Bool
	refusal := connect.WithInterceptors(refuser{&refuse})
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewQueryServiceHandler(f, refusal))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	messages := make(chan *apiv1.WatchVerdictsResponse, 1)
	messages <- &apiv1.WatchVerdictsResponse{Synced: true}
	f.streams <- messages
	out, errs, end := watching(t, s.URL)
	waitFor(t, out, "no verdict stands")
	refuse.Store(true)
	close(messages)
	waitFor(t, errs, "no such node")
	require.Equal(t, StatusTrouble, end(), "asking again would not help")
}

// A refuser lets no stream through once it is told to.
type refuser struct{ on *atomic.Bool }

func (r refuser) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (r refuser) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (r refuser) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if r.on.Load() {
			return connect.NewError(connect.CodeNotFound, errors.New("no such node"))
		}
		return next(ctx, conn)
	}
}
