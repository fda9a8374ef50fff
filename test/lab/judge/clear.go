// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"fmt"
	"time"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// weighCleared decides clearsWithin: whether every verdict that met the
// expectation is resolved in time, and whether later lists can change that.
func (out *Outcome) weighCleared(s *scenario.Scenario, o Observation, met []meeting, first meeting, records []Record, now time.Time) (cleared, decided bool) {
	e := out.Expectation
	because := func(format string, args ...any) {
		if out.Because == "" {
			out.Because = fmt.Sprintf(format, args...)
		}
	}
	ended := o.fault(e.Fault).EndedAt
	if ended == nil {
		because("fault %d did not end, so nothing could clear", e.Fault)
		return false, false
	}
	deadline := ended.Add(e.ClearsWithin)
	var last time.Time
	for _, m := range owned(s, o, e, met, first, records) {
		if m.at.After(deadline) {
			continue
		}
		at, ok := m.record.clearedAt(*ended, deadline)
		if !ok {
			because("verdict %s still stood %s after the end of the fault", m.record.ID, words(earlier(now, deadline).Sub(*ended)))
			return false, past(deadline, now)
		}
		if at.After(last) {
			last = at
		}
	}
	took := max(0, last.Sub(*ended))
	out.ClearedAfterSeconds = seconds(took)
	if took > e.ClearsWithin {
		because("it was resolved %s after the end of the fault, %s later than clearsWithin", words(took), words(took-e.ClearsWithin))
		return false, true
	}
	if last.Before(*ended) {
		because("it was resolved %s before the fault ended", words(ended.Sub(last)))
	}
	return true, true
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// owned leaves out verdicts that are not this expectation's to clear: those that
// another one claims as well for a fault that ends later, or never.
func owned(s *scenario.Scenario, o Observation, e scenario.Expectation, met []meeting, first meeting, records []Record) []meeting {
	var out []meeting
	for _, m := range met {
		foreign := false
		for _, other := range s.Expect {
			if other.Fault == e.Fault || !outlasts(s, other.Fault, e.Fault) {
				continue
			}
			injected := o.fault(other.Fault).InjectedAt
			if _, ok := m.record.meets(other, injected); ok && !injected.IsZero() {
				foreign = true
			}
		}
		if !foreign {
			out = append(out, m)
		}
	}
	if len(out) == 0 {
		return []meeting{first}
	}
	return out
}

// outlasts says whether one fault of a scenario ends later than another.
func outlasts(s *scenario.Scenario, one, other int) bool {
	if one < 0 || other < 0 || one >= len(s.Faults) || other >= len(s.Faults) || !s.Faults[other].Ends() {
		return false
	}
	return !s.Faults[one].Ends() || s.Faults[one].Until > s.Faults[other].Until
}

// clearedAt is when a verdict was cleared after a fault that ended then. What
// begins after the deadline is another matter. Of two aggregators the first that
// resolved it after the fault's end counts; one that resolved it before counts
// only when the other does not show it firing.
func (r *Record) clearedAt(ended, deadline time.Time) (time.Time, bool) {
	newest := map[string]*Spell{}
	for _, s := range r.Spells {
		if began, ok := s.Began(); ok && !began.After(deadline) {
			newest[s.Aggregator] = s
		}
	}
	var after, before time.Time
	standing := false
	for _, s := range newest {
		at, ok := s.Ended()
		switch {
		case !ok:
			standing = standing || s.Verdict.State != stateStale && s.Gone.IsZero()
		case at.Before(ended):
			if before.IsZero() || at.Before(before) {
				before = at
			}
		case after.IsZero() || at.Before(after):
			after = at
		}
	}
	switch {
	case !after.IsZero():
		return after, true
	case standing || before.IsZero():
		return time.Time{}, false
	default:
		return before, true
	}
}
