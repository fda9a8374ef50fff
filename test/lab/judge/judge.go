// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"time"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// An Ending says what ended a run.
type Ending string

// The endings.
const (
	// Complete: the run lasted as long as the scenario asks.
	Complete Ending = ""
	// TimedOut: --timeout ended it.
	TimedOut Ending = "timeout"
	// Interrupted: a signal ended it, or the lab itself gave up.
	Interrupted Ending = "interrupted"
)

// An Observation is what the lab learned. A run fills it in as it goes and may
// judge it at any time.
type Observation struct {
	// SettleEnd is when the healthy time was over; zero until then.
	SettleEnd time.Time
	// RunEnd is when the newest complete list of verdicts was asked for: what
	// happened after it is not known.
	RunEnd time.Time
	// Faults are those of the scenario, in its order.
	Faults []Fault
	// History may be nil: nothing was seen.
	History *History
	Ending  Ending
	// Failures are what fails the run besides verdicts: a child that crashed.
	Failures []string
}

// A Fault is when one fault was there.
type Fault struct {
	// InjectedAt is zero until it was injected.
	InjectedAt time.Time
	// FirstAffectedAt is when an application first stalled or failed.
	FirstAffectedAt, EndedAt *time.Time
}

// fault is the observation of a scenario's fault; zero when there is none.
func (o Observation) fault(i int) Fault {
	if i < 0 || i >= len(o.Faults) {
		return Fault{}
	}
	return o.Faults[i]
}

// firstFault is from when on verdicts have a cause: the first injection; without
// faults the end of settle. False when it has not come yet.
func firstFault(s *scenario.Scenario, o Observation) (time.Time, bool) {
	if len(s.Faults) == 0 {
		return settled(s, o), !o.SettleEnd.IsZero()
	}
	var first time.Time
	for _, f := range o.Faults {
		if !f.InjectedAt.IsZero() && (first.IsZero() || f.InjectedAt.Before(first)) {
			first = f.InjectedAt
		}
	}
	return first, !first.IsZero()
}

// settled is the end of settle; without one nothing comes before it, and the
// zero time says so.
func settled(s *scenario.Scenario, o Observation) time.Time {
	if s.Settle <= 0 {
		return time.Time{}
	}
	return o.SettleEnd
}

// A Judgement is what a run is worth.
type Judgement struct {
	// OK: every expectation held, nothing unexpected appeared, nothing failed, and
	// the run was not cut short.
	OK           bool
	Ending       Ending
	Expectations []Outcome
	Unexpected   []Unexpected
	// Undecided are the indices of expectations that a run that was cut short left
	// open.
	Undecided []int
	Failures  []string
}

// Judge decides what an observation is worth at its RunEnd.
func Judge(s *scenario.Scenario, o Observation) Judgement {
	j := Judgement{OK: o.Ending == Complete && len(o.Failures) == 0, Ending: o.Ending, Failures: o.Failures}
	records := o.records()
	for i := range s.Expect {
		out := weigh(s, o, records, i, o.RunEnd)
		if out.Decided = out.Decided || o.Ending == Complete; !out.Decided {
			j.Undecided = append(j.Undecided, i)
		}
		j.OK = j.OK && out.Held
		j.Expectations = append(j.Expectations, out)
	}
	j.Unexpected = falseAlarms(s, o, records)
	j.OK = j.OK && len(j.Unexpected) == 0
	return j
}

func (o Observation) records() []Record {
	if o.History == nil {
		return nil
	}
	return o.History.Records()
}

// ExitStatus is that of plumb-lab run (lab.md, "Command", and `pending`): 0 when
// all held and nothing forbidden appeared, else 1. A pending scenario is 0 while
// it fails, for whatever reason, and 1 once it holds, so that somebody unmarks it.
// A run that a signal ended says nothing and is 1.
func ExitStatus(pending bool, j Judgement) int {
	switch {
	case j.Ending == Interrupted:
		return 1
	case j.OK == pending:
		return 1
	default:
		return 0
	}
}
