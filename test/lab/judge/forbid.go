// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"fmt"
	"slices"
	"time"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// An Unexpected verdict is a false alarm.
type Unexpected struct {
	ID, Signature string
	// Grade is the highest that counts against it, At when it was reached.
	Grade string
	At    time.Time
	Scope Scope
	// Because says in words why it is one.
	Because string
}

// falseAlarms finds the verdicts that should not have appeared: any during
// settle, and those that reached a forbidden grade and are not covered. There is
// one entry for each verdict.
func falseAlarms(s *scenario.Scenario, o Observation, records []Record) []Unexpected {
	var out []Unexpected
	first, injected := firstFault(s, o)
	settleEnd := settled(s, o)
	for i := range records {
		r := &records[i]
		if u, ok := inSettle(s, r, settleEnd); ok {
			out = append(out, u)
			continue
		}
		why, covered := "no fault had been injected", false
		if injected {
			why, covered = cover(s, records, r, first)
		}
		if u, ok := forbidden(s, r, first, injected, why, covered); ok {
			out = append(out, u)
		}
	}
	slices.SortStableFunc(out, func(a, b Unexpected) int { return a.At.Compare(b.At) })
	return out
}

// inSettle: any verdict that appears during settle is a false alarm, whatever its
// grade. While settle is not over, all that appears does so in it.
func inSettle(s *scenario.Scenario, r *Record, settleEnd time.Time) (Unexpected, bool) {
	if s.Settle <= 0 {
		return Unexpected{}, false
	}
	u := Unexpected{ID: r.ID, Signature: r.Signature}
	for _, spell := range r.Spells {
		for grade, at := range spell.GradedAt {
			if (settleEnd.IsZero() || at.Before(settleEnd)) && rank(grade) > rank(u.Grade) {
				u.Grade, u.At, u.Scope = grade, at, spell.Verdict.Scope
			}
		}
	}
	u.Because = "it appeared during settle, when nothing was wrong"
	if !settleEnd.IsZero() {
		u.Because = fmt.Sprintf("it appeared %s before the end of settle, when nothing was wrong", words(settleEnd.Sub(u.At)))
	}
	return u, u.Grade != ""
}

// forbidden finds the highest forbidden grade that a verdict reached before the
// first fault, or at all when it is not covered.
func forbidden(s *scenario.Scenario, r *Record, first time.Time, injected bool, why string, covered bool) (Unexpected, bool) {
	u := Unexpected{ID: r.ID, Signature: r.Signature}
	for _, spell := range r.Spells {
		for _, grade := range s.Forbid {
			at, ok := spell.Reached(grade)
			early := !injected || at.Before(first)
			if !ok || rank(grade) < rank(u.Grade) || covered && !early {
				continue
			}
			if grade == u.Grade && !at.Before(u.At) {
				continue
			}
			u.Grade, u.At, u.Scope, u.Because = grade, at, spell.Verdict.Scope, why
			if injected && early {
				u.Because = fmt.Sprintf("it was %s %s before the first fault", grade, words(first.Sub(at)))
			}
		}
	}
	return u, u.Grade != ""
}

// cover says whether a verdict is covered: it meets an expectation, or stands in
// the consequences of one that does, on the same or a narrower scope. Timing does
// not matter, except that nothing from before the first fault counts. When it is
// not, the words say why.
func cover(s *scenario.Scenario, records []Record, r *Record, first time.Time) (string, bool) {
	why := "no expectation names " + r.Signature
	for i, e := range s.Expect {
		if e.Signature != r.Signature || e.Signature == "" {
			continue
		}
		if _, ok := r.meets(e, first); ok {
			return "", true
		}
		why = fmt.Sprintf("expectation %d does not cover it: %s", i, nearest(e, []Record{*r}, first))
	}
	for i := range records {
		cause := &records[i]
		if cause.ID == r.ID || !meetsAny(s, cause, first) {
			continue
		}
		for _, c := range cause.Spells {
			if !slices.Contains(c.consequences, r.ID) && !slices.Contains(c.consequences, r.Signature) {
				continue
			}
			if r.narrowerThan(c) {
				return "", true
			}
			why = fmt.Sprintf("it is a consequence of %s, but on a scope that is not within that one's", cause.Signature)
		}
	}
	return why, false
}

func meetsAny(s *scenario.Scenario, r *Record, first time.Time) bool {
	return slices.ContainsFunc(s.Expect, func(e scenario.Expectation) bool {
		_, ok := r.meets(e, first)
		return ok
	})
}

// narrowerThan says whether every scope that the verdict had is within one that
// the cause had.
func (r *Record) narrowerThan(cause *Spell) bool {
	for _, s := range r.Spells {
		for _, mine := range s.scopes {
			if !slices.ContainsFunc(cause.scopes, func(c seenScope) bool { return mine.scope.within(c.scope) }) {
				return false
			}
		}
	}
	return true
}
