// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Kiss codes that demand something, RFC 5905 section 7.4.
const (
	kissDeny     = "DENY"
	kissRestrict = "RSTR"
	kissRate     = "RATE"
)

// querier measures one source.
type querier interface {
	query(ctx context.Context) (sample, error)
}

// A source is one thing that tells the time. Its fields below client are guarded
// by Probe.mu.
type source struct {
	server Server
	client querier
	// local sources cost nobody anything: no burst, no budget.
	local bool

	// last is the newest sample, taken in round of generation.
	last              *sample
	generation, round uint64
	// asked is false until the first answer or failure.
	asked  bool
	misses int
	// trouble is stateUnreachable or stateInvalid after a failure, with why.
	trouble, detail string
	// gap is the interval that a RATE kiss demands, quietUntil when it is over.
	gap        time.Duration
	quietUntil uint64
	// dismissed is a kiss code that forbids to ask again.
	dismissed string
	sent      []uint64
}

// askAll asks the sources at the same time. Unless everybody is asked, those
// that did not answer this generation get half a second only, and none at all
// once they are known to be dead, so that a confirming round need not wait for a
// time-out. They are asked, because one lost packet of the only honest server
// must not let the others agree. It returns the generation that was asked for.
func (p *Probe) askAll(ctx context.Context, samples int, everybody bool) uint64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	p.noteSuspendLocked()
	p.cancelRound = cancel
	p.vote.round++
	generation, round := p.generation, p.vote.round
	// A kick of before this round is answered by it.
	select {
	case <-p.kickVote:
		samples, everybody = p.pace.burst, true
	default:
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range p.sources {
		answered, dead := p.lately(s)
		if !everybody && dead {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if !everybody && !answered {
				defer time.AfterFunc(p.pace.confirm, cancel).Stop()
			}
			p.ask(ctx, s, samples, generation, round)
		}()
	}
	wg.Wait()
	return generation
}

// lately says whether a source has answered in this generation, and whether it
// has not done so for so many rounds that it is taken for dead.
func (p *Probe) lately(s *source) (answered, dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answered = s.last != nil && s.generation == p.generation
	return answered, !answered && s.misses >= p.pace.misses
}

// ask takes samples of one source and keeps the one with the least delay.
func (p *Probe) ask(ctx context.Context, s *source, samples int, generation, round uint64) {
	if s.local || p.restrained(s) {
		samples = 1
	}
	var best *sample
	var err error
	for i := range samples {
		if i > 0 && !pause(ctx, p.pace.burstGap, nil) {
			return
		}
		if !p.mayAsk(s) {
			break
		}
		var got sample
		// Whatever a server sends must cost no more than that server.
		err = guarded(func() error {
			var err error
			got, err = s.client.query(ctx)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil && (best == nil || got.delay < best.delay) {
			best = &got
		}
		// One who does not answer, or asks to be left alone, is not asked harder.
		if err != nil && !errors.Is(err, errStepped) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteLocked(s, best, err, generation, round)
}

func (p *Probe) restrained(s *source) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.gap > 0
}

// mayAsk says whether a request may be sent now, and counts it if so.
func (p *Probe) mayAsk(s *source) bool {
	if s.local {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Boottime()
	if s.dismissed != "" || now < s.quietUntil {
		return false
	}
	if len(s.sent) >= p.pace.budget {
		if time.Duration(now-s.sent[0]) < p.pace.early {
			return false
		}
		s.sent = s.sent[1:]
	}
	s.sent = append(s.sent, now)
	if s.gap > 0 {
		s.quietUntil = now + uint64(s.gap)
	}
	return true
}

// noteLocked takes in what asking a source gave; best and err may both be nil
// when it was not allowed to be asked.
func (p *Probe) noteLocked(s *source, best *sample, err error, generation, round uint64) {
	var kiss *kissError
	if errors.As(err, &kiss) {
		p.kissedLocked(s, kiss.code)
	}
	switch {
	case best != nil:
		s.asked, s.misses = true, 0
		if generation == p.generation {
			s.last, s.generation, s.round = best, generation, round
			s.trouble, s.detail = "", ""
		}
	case err == nil:
	case errors.Is(err, errUnreachable):
		s.asked = true
		s.misses++
		if s.misses >= p.pace.misses || s.last == nil || s.generation != p.generation {
			s.last = nil
			s.trouble, s.detail = stateUnreachable, err.Error()
		}
	case errors.Is(err, errStepped):
	case kiss != nil && kiss.code == kissRate && s.last != nil && s.generation == p.generation:
		// It asks for peace and does not take back what it said.
		s.detail = err.Error()
	default:
		s.asked = true
		s.last = nil
		s.trouble, s.detail = stateInvalid, err.Error()
	}
}

// kissedLocked obeys a kiss-o'-death packet, RFC 5905 section 7.4.
func (p *Probe) kissedLocked(s *source, code string) {
	switch code {
	case kissDeny, kissRestrict:
		s.dismissed = code
	case kissRate:
		s.gap = min(max(2*s.gap, p.pace.rateMin), p.pace.rateMax)
		s.quietUntil = p.clock.Boottime() + uint64(s.gap)
	}
	p.log.Warn("a time server asked to be left alone", "source", s.server.key(), "code", code, "interval", s.gap)
}
