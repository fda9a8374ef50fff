// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// Bans from which the sum of the weights makes a grade: 10:1 and 100:1.
const (
	suspectedBans = 1
	likelyBans    = 2
	// bansTolerance absorbs that 0.7 + 0.3 is a little under 1 in binary.
	bansTolerance = 1e-9
	// minSources is how many independent sources a proof set with sources needs.
	minSources = 2
)

// Subjects returns the subjects of a view that the signature is weighed on, in
// the order of the view: those for which its "when" holds, and those for which
// that cannot be decided, whose weighing says so.
func (s *Signature) Subjects(view *state.View) []evidence.Subject {
	all := view.Subjects(s.Each)
	if s.Each == evidence.SubjectNode {
		all = []evidence.Subject{evidence.Node()}
	}
	if s.when == nil {
		return append([]evidence.Subject(nil), all...)
	}
	var out []evidence.Subject
	decided := map[applicability]Truth{}
	for _, subject := range all {
		switch s.applies(view, subject, decided) {
		case True, TruthUnknown:
			out = append(out, subject)
		}
	}
	return out
}

// applicability is what "when" reads, as a key: of the hundreds of devices of a
// node most are alike, and evaluating it once for each kind is 20 times faster.
type applicability struct {
	status [2]state.Status
	value  [2]any
}

// applies decides "when" for one subject.
func (s *Signature) applies(view *state.View, subject evidence.Subject, decided map[applicability]Truth) Truth {
	w := &weighing{sig: s, view: view, subject: subject}
	var key applicability
	alike := len(s.when.items) <= len(key.value) && !s.when.readsSubject
	for n, i := range s.when.items {
		if item := &s.items[i]; alike && item.depth == 0 {
			w.owners, w.found = []evidence.Subject{subject}, []bool{true}
			f := w.fact(item)
			key.status[n], key.value[n] = f.Status, f.Value
		} else {
			alike = false
		}
	}
	if truth, ok := decided[key]; alike && ok {
		return truth
	}
	truth := s.weighing(view, subject).decide(s.when, 0).truth
	if alike {
		decided[key] = truth
	}
	return truth
}

// Weigh weighs the signature on one subject of a view. It is pure: the same
// signature, view and subject give the same result. Safe for concurrent use.
func (s *Signature) Weigh(view *state.View, subject evidence.Subject) Result {
	w := s.weighing(view, subject)
	r := Result{Signature: s, Subject: subject, At: view.At}
	for i := range s.clauses {
		r.Clauses = append(r.Clauses, w.clause(&s.clauses[i]))
	}
	for i := range s.refuters {
		r.Refuters = append(r.Refuters, w.refuter(&s.refuters[i]))
	}
	r.Bans = s.sum(r.Clauses, false)
	r.Summary, r.Mitigation = w.sentence(s.summary), w.render(s.mitigation)

	if s.when != nil {
		switch o := w.decide(s.when, 0); o.truth {
		case TruthUnknown:
			r.Undecided = true
			r.Reason = "cannot be decided whether it applies: " + o.detail
			r.Missing = unknownReads(nil, o.reads)
			return r
		case False, TruthNotApplicable:
			r.Reason = "does not apply to this " + subject.Kind
			return r
		}
	}
	w.grade(&r)
	return r
}

func (w *weighing) clause(c *clause) ClauseResult {
	o := w.decide(c.expr, c.window)
	r := ClauseResult{ID: c.id, Kinds: c.kinds, Truth: o.truth, Reads: o.reads, Weight: c.bans, Required: c.required, Steps: o.steps, Detail: o.detail}
	switch {
	case o.truth == True:
		r.Claim = w.sentence(c.claim)
	case o.truth == False && c.otherwise != nil:
		r.Claim = w.sentence(c.otherwise)
	case o.truth == False:
		r.Claim = "not so: " + w.sentence(c.claim)
	}
	return r
}

func (w *weighing) refuter(c *refuter) RefuterResult {
	o := w.decide(c.expr, c.window)
	r := RefuterResult{ID: c.id, Rival: c.rival, Truth: o.truth, Reads: o.reads, AtMost: c.atMost, Steps: o.steps, Detail: o.detail}
	switch o.truth {
	case True:
		r.Because = w.sentence(c.because)
	case False:
		r.Exonerates = w.sentence(c.exonerates)
	}
	return r
}

// sum adds the weights of the true clauses, of each family the strongest, and
// notes in each clause what it counted. With hope set, clauses for the cause
// that are unknown count as true: the most that the sum could be.
func (s *Signature) sum(clauses []ClauseResult, hope bool) float64 {
	total := 0.0
	strongest := make([]int, len(s.families))
	for i := range strongest {
		strongest[i] = -1
	}
	counts := func(i int) bool {
		return clauses[i].Truth == True || hope && clauses[i].Truth == TruthUnknown && clauses[i].Weight > 0
	}
	for i := range clauses {
		if !hope {
			clauses[i].Bans = 0
		}
		if !counts(i) {
			continue
		}
		f := s.clauses[i].family
		if f < 0 {
			total += clauses[i].Weight
			if !hope {
				clauses[i].Bans = clauses[i].Weight
			}
		} else if strongest[f] < 0 || math.Abs(clauses[i].Weight) > math.Abs(clauses[strongest[f]].Weight) {
			strongest[f] = i
		}
	}
	for _, i := range strongest {
		if i >= 0 {
			total += clauses[i].Weight
			if !hope {
				clauses[i].Bans = clauses[i].Weight
			}
		}
	}
	return total
}

// grade applies the rules of docs/signatures.md ("Grades") in their order.
func (w *weighing) grade(r *Result) {
	s := w.sig
	for i := range r.Clauses {
		if c := &r.Clauses[i]; c.Required && c.Truth == False {
			r.Reason = c.Claim
			return
		}
	}
	if because, refuted := refutation(r); refuted {
		r.Grade, r.Reason = Refuted, because
		return
	}
	r.Grade = bansGrade(r.Bans)
	complete := w.completeProof(r.Clauses)
	var limits []string
	limit := func(g Grade, why string) {
		if complete >= 0 || r.Grade >= g {
			limits = append(limits, why)
		}
		if r.Grade > g {
			r.Grade = g
		}
	}
	blocked := false
	for i := range r.Clauses {
		if c := &r.Clauses[i]; c.Required && c.Truth != True {
			blocked = true
			limit(Suspected, c.Detail)
			r.Missing = unknownReads(r.Missing, c.Reads)
		}
	}
	for i := range r.Refuters {
		f := &r.Refuters[i]
		switch {
		case f.Truth == True && f.AtMost != None:
			blocked = true
			limits = append(limits, f.Because)
			r.Grade = min(r.Grade, f.AtMost)
		case f.Truth == TruthUnknown:
			blocked = true
			g := Likely
			if f.AtMost != None {
				g = f.AtMost
			}
			limit(g, fmt.Sprintf("whether %s explains it cannot be decided: %s", f.Rival, f.Detail))
			r.Missing = unknownReads(r.Missing, f.Reads)
		}
	}
	for _, c := range s.caps {
		if f := w.facts[c.item]; f.Status == state.Value && strings.HasPrefix(f.Rung, c.prefix) {
			blocked = true
			limit(c.grade, w.sentence(c.because))
		}
	}
	if complete >= 0 && !blocked {
		r.Grade, r.ProofSet = Proven, s.proofs[complete].name
		for _, i := range s.proofs[complete].clauses {
			r.Clauses[i].Decisive = true
		}
		r.Missing = nil
		return
	}
	ruledOut := slices.ContainsFunc(r.Refuters, func(f RefuterResult) bool { return f.Truth == True && f.AtMost == None })
	r.Undecided = r.Grade == None && !ruledOut && s.sum(r.Clauses, true)+bansTolerance >= suspectedBans
	w.explain(r, complete, limits)
	if r.Grade == None && !r.Undecided {
		r.Missing = nil
	}
}

func bansGrade(bans float64) Grade {
	switch {
	case bans+bansTolerance >= likelyBans:
		return Likely
	case bans+bansTolerance >= suspectedBans:
		return Suspected
	}
	return None
}

// refutation says what rules the cause out: a refuter that is true, when
// something spoke for the cause. Without that there is nothing to refute.
func refutation(r *Result) (string, bool) {
	positive := false
	for i := range r.Clauses {
		positive = positive || r.Clauses[i].Truth == True && r.Clauses[i].Weight > 0
	}
	var because []string
	for i := range r.Refuters {
		if f := &r.Refuters[i]; f.Truth == True && f.AtMost == None {
			because = append(because, f.Because)
		}
	}
	return strings.Join(because, "; "), positive && len(because) > 0
}

// completeProof returns the first complete proof set, or -1.
func (w *weighing) completeProof(clauses []ClauseResult) int {
	for p := range w.sig.proofs {
		set := &w.sig.proofs[p]
		complete := true
		for _, i := range set.clauses {
			complete = complete && clauses[i].Truth == True
		}
		if set.sources >= 0 {
			n, ok := w.facts[set.sources].Value.(int64)
			complete = complete && ok && n >= minSources
		}
		if complete {
			return p
		}
	}
	return -1
}

func unknownReads(have []Reading, reads []Reading) []Reading {
	for _, r := range reads {
		if r.Fact.Status != state.Unknown {
			continue
		}
		twice := false
		for _, h := range have {
			twice = twice || h.Item.ID == r.Item.ID
		}
		if !twice {
			have = append(have, r)
		}
	}
	return have
}
