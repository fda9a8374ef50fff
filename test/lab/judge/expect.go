// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"fmt"
	"strings"
	"time"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// An Outcome is what became of one expectation.
type Outcome struct {
	// Index is that of the scenario's list.
	Index       int
	Expectation scenario.Expectation
	Held        bool
	// Decided: later lists can only confirm it.
	Decided bool
	// AfterSeconds is from the fault's injection to the moment at which the grade
	// was first reached, also when that was too late; nil when it never was.
	AfterSeconds *float64
	// ClearedAfterSeconds is from the fault's end to the moment at which the last
	// verdict that met it was resolved, 0 when that came before; nil when one
	// stands, or when the expectation does not ask.
	ClearedAfterSeconds *float64
	// Verdict is the id that decided AfterSeconds, "" for none.
	Verdict string
	// Because says in words why it did not hold, or what is odd about how it held.
	Because string
}

// weigh decides one expectation by what is known up to now.
func weigh(s *scenario.Scenario, o Observation, records []Record, index int, now time.Time) Outcome {
	e := s.Expect[index]
	out := Outcome{Index: index, Expectation: e}
	if o.SettleEnd.IsZero() {
		out.Because = "the run ended before settle was over"
		return out
	}
	base := o.SettleEnd
	if len(s.Faults) > 0 {
		if base = o.fault(e.Fault).InjectedAt; base.IsZero() {
			out.Because = fmt.Sprintf("fault %d was not injected", e.Fault)
			return out
		}
	}
	if e.Refuted != "" {
		out.weighRefuted(s, o, base, now)
		return out
	}
	from := base
	if len(s.Faults) == 0 {
		from = settled(s, o)
	}
	met := meets(e, records, from)
	if len(met) == 0 {
		out.Decided = e.Within > 0 && past(base.Add(e.Within), now)
		out.Because = nearest(e, records, from)
		return out
	}
	first := met[0]
	for _, m := range met[1:] {
		if m.at.Before(first.at) {
			first = m
		}
	}
	out.Verdict = first.record.ID
	after := max(0, first.at.Sub(base))
	out.AfterSeconds = seconds(after)
	out.Held, out.Decided = true, true
	if e.Within > 0 && after > e.Within {
		out.Held = false
		out.Because = fmt.Sprintf("it came after %s, %s later than within", words(after), words(after-e.Within))
	}
	if e.ClearsWithin > 0 {
		cleared, done := out.weighCleared(s, o, met, first, records, now)
		out.Decided = done || !out.Held
		out.Held = out.Held && cleared
	}
	return out
}

// weighRefuted decides a `refuted: ID`.
func (out *Outcome) weighRefuted(s *scenario.Scenario, o Observation, base, now time.Time) {
	e := out.Expectation
	out.Decided = e.Within > 0 && past(base.Add(e.Within), now)
	since, ok := firstFault(s, o)
	if !ok || o.History == nil {
		out.Because = "no verdict says that it was refuted"
		return
	}
	at, because, said := o.History.RefutedSince(e.Refuted, since)
	if !said {
		out.Because = "no verdict says that it was refuted"
		if at, _, before := o.History.RefutedSince(e.Refuted, time.Time{}); before {
			out.Because = fmt.Sprintf("it was refuted only before the first fault (%s before)", words(since.Sub(at)))
		}
		return
	}
	after := max(0, at.Sub(base))
	out.AfterSeconds = seconds(after)
	out.Held, out.Decided, out.Because = true, true, because
	if e.Within > 0 && after > e.Within {
		out.Held = false
		out.Because = fmt.Sprintf("it was refuted after %s, %s later than within", words(after), words(after-e.Within))
	}
}

// A meeting is one verdict that meets an expectation, and when it first did.
type meeting struct {
	record *Record
	at     time.Time
}

// meets finds the verdicts that meet an expectation by a grade reached at or
// after a moment.
func meets(e scenario.Expectation, records []Record, from time.Time) []meeting {
	var out []meeting
	for i := range records {
		if at, ok := records[i].meets(e, from); ok {
			out = append(out, meeting{&records[i], at})
		}
	}
	return out
}

func (r *Record) meets(e scenario.Expectation, from time.Time) (time.Time, bool) {
	var first time.Time
	if e.Signature == "" || r.Signature != e.Signature {
		return first, false
	}
	for _, s := range r.Spells {
		at, ok := s.Reached(e.Grade)
		if ok && !at.Before(from) && s.had(e) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// had says whether the spell had the expectation's scope and grade at once.
func (s *Spell) had(e scenario.Expectation) bool {
	for _, seen := range s.scopes {
		if seen.best >= rank(e.Grade) && seen.best >= 0 && seen.scope.contains(e.Scope) {
			return true
		}
	}
	return false
}

// nearest says why no verdict meets an expectation, by the one that comes
// closest.
func nearest(e scenario.Expectation, records []Record, from time.Time) string {
	best, level := "no verdict of "+e.Signature+" appeared", 0
	better := func(l int, why string) {
		if l > level {
			best, level = why, l
		}
	}
	for i := range records {
		r := &records[i]
		if r.Signature != e.Signature {
			continue
		}
		for _, s := range r.Spells {
			lacks := s.Verdict.Scope.lacks(e.Scope)
			at, reached := s.Reached(e.Grade)
			switch {
			case len(s.GradedAt) == 0:
				better(1, "it was weighed and refuted: "+s.Verdict.Reason)
			case !s.had(e) && lacks != "":
				better(2, fmt.Sprintf("it appeared elsewhere: its %s", lacks))
			case !reached:
				why := fmt.Sprintf("it reached %s, not %s", s.Best(), e.Grade)
				if s.Verdict.Reason != "" {
					why += ": " + strings.TrimPrefix(s.Verdict.Reason, "not proven: ")
				}
				better(3, why)
			case at.Before(from):
				better(4, fmt.Sprintf("it was %s already %s before the fault", s.Best(), words(from.Sub(at))))
			}
		}
	}
	return best
}
