// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// stepTolerance is how far the wall clock may run away from CLOCK_BOOTTIME within
// one exchange. Slewing does at most 0.5 ms per second (adjtimex(2)); more is a
// step, and then T1 and T4 are of two clocks.
const stepTolerance = 20 * time.Millisecond

// An Exchange is four timestamps as in RFC 5905 section 8: sent and received by
// this node's clock (T1, T4), received and sent by the aggregator's (T2, T3).
type Exchange struct {
	T1, T2, T3, T4 time.Time
	// KernelBootID is that of the aggregator's kernel. When it is this node's own
	// both read one clock and the exchange says nothing.
	KernelBootID string
}

// Exchange asks the first connected endpoint that answers for its time, over the
// connection that exists. It returns ErrNotConnected when there is none.
func (c *Client) Exchange(ctx context.Context) (Exchange, error) {
	var failures []error
	for _, e := range c.endpoints {
		e.mu.Lock()
		s := e.session
		e.mu.Unlock()
		if s == nil || !s.alive() {
			continue
		}
		x, err := e.exchange(ctx, s)
		if err == nil {
			return x, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(failures) == 0 {
		return Exchange{}, ErrNotConnected
	}
	return Exchange{}, errors.Join(failures...)
}

func (e *endpoint) exchange(ctx context.Context, s *session) (Exchange, error) {
	tok, err := e.client.token()
	if err != nil {
		return Exchange{}, fmt.Errorf("exchange time with %s: %w", e.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	clock := e.client.cfg.Clock
	request := connect.NewRequest(&evidencev1.TimeRequest{})
	request.Header().Set("Authorization", "Bearer "+tok.value)
	began := clock.Boottime()
	t1 := clock.Now()
	request.Msg.OriginUnixNanoseconds = t1.UnixNano()
	response, err := s.rpc.Time(ctx, request)
	t4 := clock.Now()
	took := time.Duration(clock.Boottime() - began)
	if err != nil {
		return Exchange{}, fmt.Errorf("exchange time with %s: %s", e.name, redact(err.Error(), tok))
	}
	reply := response.Msg
	if reply.GetOriginUnixNanoseconds() != t1.UnixNano() {
		return Exchange{}, fmt.Errorf("exchange time with %s: the reply is to another request", e.name)
	}
	if drift := t4.Sub(t1) - took; drift > stepTolerance || drift < -stepTolerance {
		return Exchange{}, fmt.Errorf("exchange time with %s: the node's clock was stepped by %s during it", e.name, drift)
	}
	if reply.GetTransmitUnixNanoseconds() < reply.GetReceiveUnixNanoseconds() {
		return Exchange{}, fmt.Errorf("exchange time with %s: its reply was sent before the request arrived", e.name)
	}
	return Exchange{
		T1: t1, T2: time.Unix(0, reply.GetReceiveUnixNanoseconds()),
		T3: time.Unix(0, reply.GetTransmitUnixNanoseconds()), T4: t4,
		KernelBootID: reply.GetKernelBootId(),
	}, nil
}
