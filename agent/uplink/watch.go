// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// watch keeps a stream of directives open as long as the session lives. Losing
// it does no harm beyond delay: replies to Push repeat what it would have said.
func (e *endpoint) watch(ctx context.Context, s *session) {
	for attempt := 0; ctx.Err() == nil && s.alive(); attempt++ {
		received, err := e.watchOnce(ctx, s)
		if ctx.Err() != nil || !s.alive() {
			return
		}
		if received {
			attempt = 0
		}
		e.client.metrics.failed(e.name, "watch")
		if attempt == 0 && err != nil {
			t, _ := readToken(e.client.cfg.TokenFile)
			e.log.Debug("watch stream ended; opening another", "error", redact(err.Error(), t))
		}
		if !pause(ctx, spread(attempt, e.client.cfg.ReconnectSpread)) {
			return
		}
	}
}

// watchOnce receives until the stream ends and says whether anything came.
func (e *endpoint) watchOnce(ctx context.Context, s *session) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tok, err := e.client.token()
	if err != nil {
		return false, err
	}
	request := connect.NewRequest(&evidencev1.WatchRequest{BootId: e.client.cfg.BootID})
	request.Header().Set("Authorization", "Bearer "+tok.value)
	stream, err := s.rpc.Watch(ctx, request)
	if err != nil {
		return false, fmt.Errorf("watch %s: %w", e.name, err)
	}
	defer stream.Close()
	for stream.Receive() {
		received = true
		// A message without a directive only shows that the stream is alive.
		if d := stream.Msg().GetDirective(); d != nil {
			e.client.directives.deliver(e, d)
		}
	}
	if err := stream.Err(); err != nil {
		return received, fmt.Errorf("watch %s: %w", e.name, err)
	}
	return received, nil
}
