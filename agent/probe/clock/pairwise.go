// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"fmt"
	"time"
)

// pairSamples is how many exchanges are kept; the one that tells most counts.
const pairSamples = 8

// An Exchange is one four-timestamp exchange with the aggregator, RFC 5905
// section 8.
type Exchange struct {
	// T1 and T4 are the node's clock when the request left and the reply came,
	// T2 and T3 the aggregator's when the request came and the reply left.
	T1, T2, T3, T4 time.Time
	// KernelBootID is /proc/sys/kernel/random/boot_id of the aggregator.
	KernelBootID string
}

// A Peer exchanges time stamps with the aggregator over the connection that
// exists anyway.
type Peer interface {
	Exchange(ctx context.Context) (Exchange, error)
}

// PeerFunc makes a Peer of a function.
type PeerFunc func(ctx context.Context) (Exchange, error)

// Exchange calls f.
func (f PeerFunc) Exchange(ctx context.Context) (Exchange, error) { return f(ctx) }

// A pairSample is one exchange, reduced.
type pairSample struct {
	span     interval
	boottime uint64
}

// pair is what is known of the aggregator's clock. Guarded by Probe.mu.
type pair struct {
	// bootID is the aggregator's; samples of another one are thrown away, for
	// another replica has another clock.
	bootID  string
	samples []pairSample
	// err is the last failure, nil after a success; tried is false before either.
	err   error
	tried bool
}

// reduce computes the interval of one exchange; elapsed is the raw time that it
// took at most.
func (e Exchange) reduce(elapsed time.Duration) (interval, error) {
	wall := e.T4.Sub(e.T1)
	// The caller's bracket is wider than T4 − T1, so only a wall clock that moved
	// by more than the bracket was stepped.
	if wall < -stepTolerance || wall > elapsed+stepTolerance+time.Duration(float64(elapsed)*maxSlew) {
		return interval{}, errStepped
	}
	offset, delay, err := fourStamps(e.T1, e.T2, e.T3, e.T4, wall)
	if err != nil {
		return interval{}, fmt.Errorf("exchange time with the aggregator: %w", err)
	}
	return around(offset, delay/2), nil
}

func (p *pair) add(e Exchange, s pairSample) {
	if e.KernelBootID != p.bootID {
		p.bootID, p.samples = e.KernelBootID, nil
	}
	p.samples = append(p.samples, s)
	if len(p.samples) > pairSamples {
		p.samples = p.samples[1:]
	}
	p.err, p.tried = nil, true
}

func (p *pair) fail(err error) { p.err, p.tried = err, true }

// forget drops what the clock's step has made worthless.
func (p *pair) forget() { p.samples = nil }

// best returns the narrowest interval, each widened by what the clocks may have
// run apart since: one of the two may be slewed at 500 ppm (maxSlew).
func (p *pair) best(boottime uint64) (interval, bool) {
	var best interval
	found := false
	for _, s := range p.samples {
		age := time.Duration(boottime - s.boottime)
		if age > freshness {
			continue
		}
		if span := s.span.widen(age, maxSlew); !found || span.half() < best.half() {
			best, found = span, true
		}
	}
	return best, found
}

// pairLoop keeps the pairwise offset fresh: a burst at first and after a step,
// then one exchange at a time.
func (p *Probe) pairLoop(ctx context.Context, wake func()) error {
	exchanges, rounds, failures := p.pace.pairBurst, 0, 0
	for {
		before := p.pairSummary()
		ok := p.exchangeAll(ctx, exchanges)
		if ctx.Err() != nil {
			return nil
		}
		if p.pairSummary() != before {
			wake()
		}
		next := p.pace.steady
		rounds++
		if rounds < p.pace.earlyRounds {
			next = p.pace.early
		}
		exchanges = 1
		if ok {
			failures = 0
		} else {
			// The uplink may be on its way up: soon at first, then ever less often. The
			// first success is a first contact.
			failures++
			next = min(p.pace.again<<min(failures-1, 8), p.pace.steady)
			exchanges, rounds = p.pace.pairBurst, 0
		}
		if !pause(ctx, next, p.kickPair) {
			if ctx.Err() != nil {
				return nil
			}
			exchanges, rounds = p.pace.pairBurst, 0
		}
	}
}

// exchangeAll makes up to n exchanges and says whether the last one succeeded.
func (p *Probe) exchangeAll(ctx context.Context, n int) bool {
	ok := false
	for i := range n {
		if i > 0 && !pause(ctx, p.pace.pairGap, nil) {
			return false
		}
		p.mu.Lock()
		generation := p.generation
		p.mu.Unlock()
		one, cancel := context.WithTimeout(ctx, p.pace.timeout)
		began := p.clock.MonotonicRaw()
		e, err := p.peer.Exchange(one)
		elapsed := time.Duration(p.clock.MonotonicRaw() - began)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		var span interval
		if err == nil {
			span, err = e.reduce(elapsed)
		}
		ok = err == nil
		p.mu.Lock()
		switch {
		case generation != p.generation:
		case err != nil:
			p.pair.fail(err)
		default:
			p.pair.add(e, pairSample{span: span, boottime: p.clock.Boottime()})
		}
		p.mu.Unlock()
		if err != nil {
			break
		}
	}
	return ok
}

// A pairSummary is what is worth waking the agent for.
type pairSummary struct {
	known, shared bool
	side          int
}

func (p *Probe) pairSummary() pairSummary {
	p.mu.Lock()
	defer p.mu.Unlock()
	span, ok := p.pair.best(p.clock.Boottime())
	if !ok {
		return pairSummary{}
	}
	return pairSummary{known: true, shared: p.sharedLocked(span), side: span.side()}
}

// sharedLocked says whether agent and aggregator read one clock: on one kernel,
// unless they are measurably apart, which a lab can make them.
func (p *Probe) sharedLocked(span interval) bool {
	return p.kernelBootID != "" && p.kernelBootID == p.pair.bootID && span.side() == 0
}
