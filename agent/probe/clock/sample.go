// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"strings"
	"time"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// Sample implements probe.Probe. It reads what Watch has measured, and adjtimex.
func (p *Probe) Sample(_ context.Context, dst *evidence.Sample) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteSuspendLocked()
	now := p.clock.Boottime()
	o := dst.Observe(evidence.Node(), p.vote.rung)
	p.sampleVoteLocked(o, now)
	p.samplePairLocked(o.Via(rungPairwise), now)
	p.sampleHistoryLocked(o.Via(p.stepsRung), now)
	p.sampleAdjtimexLocked(o.Via(rungAdjtimex))
	for _, s := range p.sources {
		p.sampleSourceLocked(dst, s, now)
	}
	if p.vote.skewed {
		dst.Hold(evidence.ConditionClockOffset, o, p.vote.onset)
	}
	if step, ok := p.history.lastStep(now); ok && step.Size.Abs() >= leastStep {
		dst.Hold(evidence.ConditionClockStep, o, step.Boottime)
	}
	return nil
}

// A lack is why something is unknown.
type lack struct {
	reason evidencev1.Unknown_Reason
	detail string
}

// voteLackLocked says why there is no vote to tell, nil when there is one.
func (p *Probe) voteLackLocked(now uint64) *lack {
	switch {
	case len(p.sources) == 0:
		return &lack{evidence.Blind, "no time source is configured: name at least two independent ones with --time-server"}
	case !p.vote.concluded && p.genStepped:
		return &lack{evidence.WarmingUp, "the clock was stepped and is being measured again"}
	case !p.vote.concluded:
		return &lack{evidence.WarmingUp, "the first round of measurements has not ended"}
	case time.Duration(now-p.vote.boottime) > freshness:
		return &lack{evidence.Stale, "the last round of measurements is older than " + freshness.String()}
	}
	return nil
}

func (p *Probe) sampleVoteLocked(o *evidence.Observation, now uint64) {
	v := &p.vote
	none := p.voteLackLocked(now)
	if none != nil {
		evidence.Unknown(o, evidence.ClockGroupsTotal, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockGroupsAgreeing, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockRoundsAgreeing, none.reason, none.detail)
	} else {
		o.Integer(evidence.ClockGroupsTotal, int64(v.outcome.total))
		o.Integer(evidence.ClockGroupsAgreeing, int64(v.outcome.agreeing))
		o.Integer(evidence.ClockRoundsAgreeing, int64(v.agreeing))
		if !v.outcome.majority {
			none = &lack{evidence.Failed, v.outcome.detail}
		}
	}
	if none != nil {
		evidence.Unknown(o, evidence.ClockOffsetSeconds, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockOffsetAtLeastSeconds, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockGroupsDissenting, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockFalseSources, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockAgreeingSources, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockDriftPartsPerMillion, none.reason, none.detail)
		return
	}
	span := v.outcome.span.widen(time.Duration(now-v.boottime), p.drift.bound(phi))
	o.Number(evidence.ClockOffsetSeconds, span.middle().Seconds(), span.half().Seconds())
	o.Number(evidence.ClockOffsetAtLeastSeconds, span.least().Seconds(), 0)
	o.Integer(evidence.ClockGroupsDissenting, int64(v.outcome.dissenting))
	o.Text(evidence.ClockFalseSources, strings.Join(v.outcome.falseSources, ", "))
	o.Text(evidence.ClockAgreeingSources, strings.Join(v.outcome.agreeingSources, ", "))
	if ppm, half, ok := p.drift.rate(); ok {
		o.Number(evidence.ClockDriftPartsPerMillion, ppm, half)
	} else {
		evidence.Unknown(o, evidence.ClockDriftPartsPerMillion, evidence.WarmingUp,
			"a slope needs "+driftSpan.String()+" without a step, a suspend or a change of sources")
	}
}

func (p *Probe) samplePairLocked(o *evidence.Observation, now uint64) {
	span, ok := p.pair.best(now)
	none := p.pairLackLocked(ok)
	if none != nil {
		evidence.Unknown(o, evidence.ClockPairwiseOffsetSeconds, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockPairwiseAgrees, none.reason, none.detail)
		evidence.Unknown(o, evidence.ClockSharedWithAggregator, none.reason, none.detail)
		return
	}
	if p.kernelBootID == "" || p.pair.bootID == "" {
		evidence.Unknown(o, evidence.ClockSharedWithAggregator, evidence.Failed,
			"the boot id of the agent's or of the aggregator's kernel is not known")
	} else {
		o.Flag(evidence.ClockSharedWithAggregator, p.sharedLocked(span))
	}
	if p.sharedLocked(span) {
		const why = "agent and aggregator read one clock"
		evidence.NotApplicable(o, evidence.ClockPairwiseOffsetSeconds, why)
		evidence.NotApplicable(o, evidence.ClockPairwiseAgrees, why)
		return
	}
	o.Number(evidence.ClockPairwiseOffsetSeconds, span.middle().Seconds(), span.half().Seconds())
	external := p.voteLackLocked(now)
	if external == nil && !p.vote.outcome.majority {
		external = &lack{evidence.Failed, p.vote.outcome.detail}
	}
	switch {
	case span.side() == 0:
		o.Flag(evidence.ClockPairwiseAgrees, false)
	case external != nil:
		evidence.Unknown(o, evidence.ClockPairwiseAgrees, external.reason, "no external majority to agree with: "+external.detail)
	default:
		o.Flag(evidence.ClockPairwiseAgrees, span.side() == p.vote.outcome.span.side())
	}
}

// pairLackLocked says why there is no pairwise offset, nil when there is one.
func (p *Probe) pairLackLocked(known bool) *lack {
	switch {
	case p.peer == nil:
		return &lack{evidence.Blind, "there is no uplink to exchange time with: name the aggregator"}
	case known:
		return nil
	case p.pair.err != nil:
		return &lack{evidence.Failed, oneLine("exchange time with the aggregator: " + p.pair.err.Error())}
	case p.pair.tried:
		return &lack{evidence.Stale, "the last exchange with the aggregator was before a step, or is older than " + freshness.String()}
	default:
		return &lack{evidence.WarmingUp, "no exchange with the aggregator has ended"}
	}
}

func (p *Probe) sampleHistoryLocked(o *evidence.Observation, now uint64) {
	if step, ok := p.history.lastStep(now); ok {
		o.Number(evidence.ClockStepSeconds, step.Size.Seconds(), step.Uncertainty.Seconds())
	} else {
		evidence.NotApplicable(o, evidence.ClockStepSeconds, "no step within "+window.String()+", or since the agent started")
	}
	o.Via(rungSuspend).Number(evidence.ClockSuspendedSeconds, p.history.suspendedFor(now).Seconds(), 0)
}

func (p *Probe) sampleAdjtimexLocked(o *evidence.Observation) {
	t, err := p.clock.Adjust()
	p.adjustErr = err
	if err != nil {
		detail := err.Error() + "; allow adjtimex in the agent's seccomp profile"
		evidence.Unknown(o, evidence.ClockUnsynchronised, evidence.Blind, detail)
		evidence.Unknown(o, evidence.ClockMaximumErrorSeconds, evidence.Blind, detail)
		evidence.Unknown(o, evidence.ClockFrequencyPartsPerMillion, evidence.Blind, detail)
		return
	}
	o.Flag(evidence.ClockUnsynchronised, t.Unsynchronised())
	o.Number(evidence.ClockMaximumErrorSeconds, t.MaximumError.Seconds(), 0)
	o.Number(evidence.ClockFrequencyPartsPerMillion, t.FrequencyPPM, 0)
}

func (p *Probe) sampleSourceLocked(dst *evidence.Sample, s *source, now uint64) {
	o := dst.Observe(evidence.Subject{
		Kind: evidence.SubjectClocksource,
		Key:  s.server.key(),
		Name: s.server.Address + " (" + s.server.Group + ")",
	}, rungSNTP)
	if s.local {
		o.Via(rungPTP)
	}
	if s.last != nil {
		o.Via(s.last.rung)
	}
	o.Text(evidence.ClockSourceGroup, s.server.Group)
	o.Text(evidence.ClockSourceDetail, oneLine(s.detail))

	fresh := s.last != nil && s.generation == p.generation && time.Duration(now-s.last.boottime) <= freshness
	state := p.vote.outcome.states[s.server.key()]
	switch {
	case s.trouble != "":
		o.Text(evidence.ClockSourceState, s.trouble)
	case fresh && state != "":
		o.Text(evidence.ClockSourceState, state)
	default:
		evidence.Unknown(o, evidence.ClockSourceState, evidence.WarmingUp, "no round with this source has ended")
	}
	switch {
	case fresh:
		span := s.last.span.widen(time.Duration(now-s.last.boottime), p.drift.bound(phi))
		o.Number(evidence.ClockSourceOffsetSeconds, span.middle().Seconds(), span.half().Seconds())
		o.Number(evidence.ClockSourceDelaySeconds, s.last.delay.Seconds(), 0)
	case s.trouble != "":
		evidence.Unknown(o, evidence.ClockSourceOffsetSeconds, evidence.Failed, oneLine(s.detail))
		evidence.Unknown(o, evidence.ClockSourceDelaySeconds, evidence.Failed, oneLine(s.detail))
	default:
		evidence.Unknown(o, evidence.ClockSourceOffsetSeconds, evidence.WarmingUp, "no round with this source has ended")
		evidence.Unknown(o, evidence.ClockSourceDelaySeconds, evidence.WarmingUp, "no round with this source has ended")
	}
}

// oneLine keeps the text of an error, which may hold a stack or a joined error,
// fit for a detail.
func oneLine(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
