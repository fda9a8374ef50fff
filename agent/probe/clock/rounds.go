// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"strings"
	"time"
)

// A pace says how often a server is asked. RFC 5905 section 7.2 sets MINPOLL to
// 16 s and section 13 allows a burst to one that was not reached before; RFC 8633
// section 3 asks clients to be no worse.
type pace struct {
	// burst samples, burstGap apart, are taken at first contact and after a step,
	// and the one with the least delay is kept.
	burst    int
	burstGap time.Duration
	// confirm is when the second round follows the first one: two rounds tell a step
	// from a spike, and a verdict is due in 3 s.
	confirm time.Duration
	// again is when a round follows one that contradicted it or found no majority.
	again time.Duration
	// early is the interval of the first rounds, steady that of all others; steady
	// is the default minimum poll interval of ntpd and chrony.
	early, steady time.Duration
	earlyRounds   int
	// budget is the most requests to one server within early, whatever happens.
	budget int
	// timeout is how long an answer may take.
	timeout time.Duration
	// rateMin and rateMax bound the interval after a RATE kiss.
	rateMin, rateMax time.Duration
	// misses is after how many unanswered rounds a source counts as unreachable.
	misses int
	// pairBurst exchanges, pairGap apart, are made with the aggregator at first.
	pairBurst int
	pairGap   time.Duration
}

func defaultPace() pace {
	return pace{
		burst: 4, burstGap: 250 * time.Millisecond,
		confirm: 500 * time.Millisecond, again: 2 * time.Second,
		early: 16 * time.Second, steady: 64 * time.Second, earlyRounds: 6,
		budget: 12, timeout: time.Second,
		rateMin: 64 * time.Second, rateMax: 1024 * time.Second,
		misses:    3,
		pairBurst: pairSamples, pairGap: 50 * time.Millisecond,
	}
}

// voteState is the result of the last round. Guarded by Probe.mu.
type voteState struct {
	outcome   outcome
	concluded bool
	boottime  uint64
	// round numbers the rounds, inGeneration those of the present generation.
	round        uint64
	inGeneration int
	// agreeing counts consecutive compatible rounds, unheard those that brought too
	// few new answers to count.
	agreeing, unheard int
	// skewed is the condition clock.offset; exceeding is since when the offset is
	// over the limit without interruption, 0 when it is not.
	skewed    bool
	onset     uint64
	exceeding uint64
	rung      string
}

// renew forgets what was measured. The condition stays until a measurement says
// otherwise: that nothing is known any more does not mend a clock.
func (v *voteState) renew() {
	v.outcome, v.concluded, v.agreeing, v.unheard, v.inGeneration = outcome{}, false, 0, 0, 0
}

func (p *Probe) voteLoop(ctx context.Context, wake func()) error {
	samples, everybody := p.pace.burst, true
	for {
		generation := p.askAll(ctx, samples, everybody)
		if ctx.Err() != nil {
			return nil
		}
		c := p.conclude(generation)
		if c.changed {
			wake()
		}
		samples, everybody = 1, !c.confirm
		if !pause(ctx, c.next, p.kickVote) {
			if ctx.Err() != nil {
				return nil
			}
			samples, everybody = p.pace.burst, true
		}
	}
}

// pause waits; it returns false when ctx ended or there was a kick before.
func pause(ctx context.Context, d time.Duration, kick <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-kick:
		return false
	case <-timer.C:
		return true
	}
}

// A conclusion is what follows from a round.
type conclusion struct {
	// changed says that the agent should look at once.
	changed bool
	// next is when the next round is due; confirm says that it is to confirm this
	// one.
	next    time.Duration
	confirm bool
}

// conclude votes on what the round gave. A round that a step has overtaken
// decides nothing.
func (p *Probe) conclude(generation uint64) conclusion {
	p.mu.Lock()
	defer p.mu.Unlock()
	if generation != p.generation {
		return conclusion{}
	}
	v := &p.vote
	now := p.clock.Boottime()
	before, beforeAt, had := v.outcome, v.boottime, v.concluded
	wasSkewed, wasAgreeing := v.skewed, v.agreeing

	readings, retry := p.readingsLocked(now)
	v.outcome, v.concluded, v.boottime, v.rung = vote(readings), true, now, rungOf(readings)
	v.inGeneration++
	// What was kept from an earlier round agrees with itself: only what was said
	// anew, by as many as make a majority, confirms.
	heard := heardAnew(readings, v.outcome) >= leastMajority
	v.unheard++
	if heard {
		v.unheard = 0
	}
	switch {
	case !v.outcome.majority:
		v.agreeing = 0
	case had && before.majority &&
		before.span.widen(time.Duration(now-beforeAt), max(maxSlew, p.drift.bound(phi))).meets(v.outcome.span):
		if heard {
			v.agreeing++
		}
	default:
		// Something happened that no step announced: a paused guest, a spike.
		v.agreeing = 1
		p.drift.cut()
	}
	if v.outcome.majority && heard {
		p.drift.add(driftPoint{
			raw:    p.clock.MonotonicRaw(),
			offset: v.outcome.span.middle(),
			noise:  noiseOf(readings, v.outcome),
		}, strings.Join(v.outcome.agreeingSources, " "))
	}
	if v.outcome.majority {
		p.judgeLocked(now)
	}
	c := conclusion{changed: !had || before.summary() != v.outcome.summary() || wasSkewed != v.skewed ||
		wasAgreeing < 2 && v.agreeing >= 2 || wasAgreeing > 1 && v.agreeing == 1}
	switch {
	case v.outcome.majority && v.agreeing == 1 && v.inGeneration == 1:
		c.next, c.confirm = p.pace.confirm, true
	case v.outcome.majority && v.agreeing == 1 && v.unheard <= p.pace.misses:
		c.next = p.pace.again
	case !v.outcome.majority && v.outcome.total > 1 && v.inGeneration <= p.pace.misses:
		c.next = p.pace.again
	case retry || v.inGeneration < p.pace.earlyRounds:
		c.next = p.pace.early
	default:
		c.next = p.pace.steady
	}
	return c
}

// judgeLocked decides the condition clock.offset. Two rounds must agree, for a
// single one may be a spike, to open it and to close it.
func (p *Probe) judgeLocked(now uint64) {
	v := &p.vote
	over := v.outcome.span.least() > offsetLimit
	switch {
	case !over:
		v.exceeding = 0
	case v.exceeding == 0 && v.inGeneration == 1 && p.genStepped:
		v.exceeding = p.genBoottime
	case v.exceeding == 0:
		v.exceeding = now
	}
	if v.agreeing < 2 || over == v.skewed {
		return
	}
	v.skewed = over
	v.onset = v.exceeding
}

// readingsLocked collects the intervals of now. retry says that a source which
// usually answers has not, so that the next round should not wait long.
func (p *Probe) readingsLocked(now uint64) (readings []reading, retry bool) {
	groups := map[string]string{} // by the address that answered
	for _, s := range p.sources {
		if s.last == nil || s.generation != p.generation {
			continue
		}
		age := time.Duration(now - s.last.boottime)
		if age > freshness {
			s.last = nil
			s.trouble, s.detail = stateUnreachable, "no answer within "+freshness.String()
			continue
		}
		// Between sources of one round PHI is enough; a sample that was kept from an
		// earlier one is off by whatever this clock has moved since.
		rate := p.drift.bound(phi)
		if s.round != p.vote.round {
			rate = p.drift.bound(maxSlew)
			retry = retry || s.gap == 0
		}
		// One server under two names is one voice (pools hand out servers that are
		// known by their own names as well).
		group, known := groups[s.last.remote]
		if !known {
			group = s.server.Group
		}
		if s.last.remote != "" {
			groups[s.last.remote] = group
		}
		readings = append(readings, reading{
			group: group, name: s.server.key(), local: s.local, anew: s.round == p.vote.round,
			span: s.last.span.widen(age, rate), delay: s.last.delay,
		})
	}
	return readings, retry
}

// heardAnew counts the groups of the majority that answered in this round.
func heardAnew(readings []reading, o outcome) int {
	groups := map[string]bool{}
	for _, r := range readings {
		if r.anew && o.states[r.name] == stateAgrees {
			groups[r.group] = true
		}
	}
	return len(groups)
}

// noiseOf is half the least delay of the sources that agree.
func noiseOf(readings []reading, o outcome) time.Duration {
	least := time.Duration(-1)
	for _, r := range readings {
		if o.states[r.name] == stateAgrees && (least < 0 || r.delay < least) {
			least = r.delay
		}
	}
	return max(least, 0) / 2
}

// rungOf names the kinds of sources that were asked.
func rungOf(readings []reading) string {
	var sntp, ptp bool
	for _, r := range readings {
		sntp = sntp || !r.local
		ptp = ptp || r.local
	}
	switch {
	case sntp && ptp:
		return rungBoth
	case ptp:
		return rungPTP
	case sntp:
		return rungSNTP
	}
	return rungNone
}

// noteSuspendLocked begins a new generation when the guest was suspended: the
// clock is put right from the RTC, to the second at best (timekeeping_resume).
func (p *Probe) noteSuspendLocked() {
	now := p.clock.Boottime()
	if p.history.suspended(suspendGap(p.clock), now) {
		p.renewLocked(now, false)
	}
}
