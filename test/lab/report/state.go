// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strconv"
)

// What Result.Ended says.
const (
	endedComplete    = "complete"
	endedTimeout     = "timeout"
	endedInterrupted = "interrupted"
	endedUnusable    = "unusable"
)

// A State is what one scenario of a suite came to.
type State string

// The states.
const (
	// Held: all expectations held and nothing unexpected appeared.
	Held State = "held"
	// Failed: they did not.
	Failed State = "failed"
	// Pending: marked so, and it fails as it may.
	Pending State = "pending"
	// Unmark: marked pending, and it holds; the mark must go.
	Unmark State = "unmark"
	// Unusable: the scenario or the machine cannot be used.
	Unusable State = "unusable"
	// Cancelled: it was interrupted, or not started any more.
	Cancelled State = "cancelled"
)

func (s State) style() style {
	switch s {
	case Held:
		return good
	case Pending:
		return warning
	case Cancelled:
		return faint
	default:
		return bad
	}
}

func stateOf(r Result) State {
	switch {
	case r.Error != "":
		return Unusable
	case r.Ended == endedInterrupted:
		return Cancelled
	case r.Pending && r.OK:
		return Unmark
	case r.Pending:
		return Pending
	case r.OK:
		return Held
	default:
		return Failed
	}
}

// State is what the result counts as in a suite.
func (r Result) State() State { return stateOf(r) }

// Unrun is the result of a scenario that could not be run, or was not.
func Unrun(name string, pending bool, err error) Result {
	return Result{Scenario: name, Pending: pending, Ended: endedUnusable, Error: err.Error()}
}

// skipped is the result of one that was not started.
func skipped(name string) Result {
	return Result{Scenario: name, Ended: endedInterrupted}
}

// SuiteStatus is the exit status of a suite: 2 when a scenario was unusable, else
// 1 when one failed, was cancelled or must be unmarked, else 0.
func SuiteStatus(results []Result) int {
	status := 0
	for _, r := range results {
		switch stateOf(r) {
		case Held, Pending:
		case Unusable:
			status = 2
		default:
			status = max(status, 1)
		}
	}
	return status
}

// usage is what a result's processes took, CPU in per cent of one core.
type usage struct {
	agents                  int
	agentCPU, aggregatorCPU float64
	agentRSS, aggregatorRSS int64
}

// usageOf takes the mean of the agents' CPU time over settle and run, in which
// they worked, and the largest RSS.
func usageOf(r Result) usage {
	u := usage{agents: len(r.Agents), aggregatorRSS: r.Aggregator.MaxRSSBytes}
	worked := r.Seconds.Settle + r.Seconds.Run
	for _, a := range r.Agents {
		u.agentCPU += a.CPUSeconds
		u.agentRSS = max(u.agentRSS, a.MaxRSSBytes)
	}
	if worked <= 0 {
		u.agentCPU = 0
		return u
	}
	if len(r.Agents) > 0 {
		u.agentCPU *= 100 / worked / float64(len(r.Agents))
	}
	u.aggregatorCPU = 100 * r.Aggregator.CPUSeconds / worked
	return u
}

// toVerdict is when the last of the expected verdicts was there; false when one
// never came, or none is expected.
func toVerdict(r Result) (float64, bool) {
	last, any := 0.0, false
	for _, e := range r.Expectations {
		if e.Signature == "" {
			continue
		}
		if e.AfterSeconds == nil {
			return 0, false
		}
		last, any = max(last, *e.AfterSeconds), true
	}
	return last, any
}

// row is a result as cells of the suite's table.
func row(r Result) []cell {
	state := stateOf(r)
	held := 0
	for _, e := range r.Expectations {
		if e.Held {
			held++
		}
	}
	out := []cell{{text: r.Scenario}, {string(state), state.style()}}
	if r.Error != "" || r.Ended == endedInterrupted && len(r.Expectations) == 0 {
		for range 7 {
			out = append(out, cell{text: "-"})
		}
		return out
	}
	after := "-"
	if s, ok := toVerdict(r); ok {
		after = seconds(s)
	}
	alarms := cell{text: strconv.Itoa(len(r.Unexpected))}
	if len(r.Unexpected) > 0 {
		alarms.style = bad
	}
	out = append(out, cell{text: fmt.Sprintf("%d/%d", held, len(r.Expectations))}, cell{text: after}, alarms)
	u := usageOf(r)
	agents := []cell{{text: "-"}, {text: "-"}}
	if u.agents > 0 {
		agents = []cell{{text: fmt.Sprintf("%.1f %%", u.agentCPU)}, {text: mebibytes(u.agentRSS)}}
	}
	out = append(out, agents...)
	aggregator := []cell{{text: "-"}, {text: "-"}}
	if u.aggregatorRSS > 0 {
		aggregator = []cell{{text: fmt.Sprintf("%.1f %%", u.aggregatorCPU)}, {text: mebibytes(u.aggregatorRSS)}}
	}
	return append(out, aggregator...)
}

// why says in one line each what is wrong with a result that is not well.
func why(r Result) []string {
	var out []string
	if r.Error != "" {
		out = append(out, r.Error)
	}
	if r.Ended == endedTimeout {
		out = append(out, "--timeout ended the run")
	}
	for _, e := range r.Expectations {
		switch {
		case e.Held:
		case r.undecided(e.Index):
			out = append(out, fmt.Sprintf("expectation %d is open: %s", e.Index, e.words()))
		default:
			out = append(out, fmt.Sprintf("expectation %d: %s", e.Index, e.words()))
		}
	}
	for _, u := range r.Unexpected {
		out = append(out, fmt.Sprintf("false alarm: %s %s %s: %s", u.Grade, u.Signature, where(u.Scope), u.Because))
	}
	out = append(out, r.Failures...)
	if stateOf(r) == Unmark {
		out = append(out, "it is marked pending and holds: take the mark away")
	}
	return out
}
