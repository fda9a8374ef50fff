// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// explain writes why a result is not proven, and notes what is missing.
func (w *weighing) explain(r *Result, complete int, limits []string) {
	var parts []string
	if w.sig.NoProof != "" {
		parts = append(parts, "cannot be proven: "+w.sig.NoProof)
	} else if complete < 0 {
		parts = w.gap(r)
	}
	if r.Grade == None && !r.Undecided {
		// Nothing speaks for it: the first thing that is not so is enough.
		if len(parts) > 0 {
			r.Reason = parts[0]
		}
		return
	}
	for _, l := range limits {
		if !slices.Contains(parts, l) {
			parts = append(parts, l)
		}
	}
	r.Reason = "not proven: "
	if r.Undecided {
		r.Reason = "cannot be decided: "
	}
	r.Reason += strings.Join(parts, "; ")
}

// gap says what the proof set that is nearest to complete lacks: what is not
// so, and what is unknown, each item once.
func (w *weighing) gap(r *Result) []string {
	best, lacking := -1, 0
	for p := range w.sig.proofs {
		n := 0
		for _, i := range w.sig.proofs[p].clauses {
			// What is false will not become true by asking; what is unknown may.
			switch r.Clauses[i].Truth {
			case TruthUnknown:
				n++
			case False, TruthNotApplicable:
				n += 2
			}
		}
		if best < 0 || n < lacking {
			best, lacking = p, n
		}
	}
	if best < 0 {
		return nil
	}
	set := &w.sig.proofs[best]
	var parts, none, blind []string
	var unknown []Reading
	for _, i := range set.clauses {
		c := &r.Clauses[i]
		switch c.Truth {
		case False:
			parts = append(parts, c.Claim)
		case TruthNotApplicable:
			none = append(none, fmt.Sprintf("%s is not applicable: %s", c.ID, c.Detail))
		case TruthUnknown:
			reads := unknownReads(nil, c.Reads)
			unknown = unknownReads(unknown, c.Reads)
			if len(reads) == 0 {
				// All was known and yet there is no value: an evaluation error.
				parts = append(parts, fmt.Sprintf("%s %s", c.ID, c.Detail))
			}
		}
	}
	if len(parts) == 0 {
		parts = none
	}
	if set.sources >= 0 {
		item := &w.sig.items[set.sources]
		f := w.facts[set.sources]
		if n, ok := f.Value.(int64); ok && n < minSources {
			parts = append(parts, fmt.Sprintf("%s is %d, a proof needs %d independent sources", item.info.Name, n, minSources))
		}
		unknown = unknownReads(unknown, []Reading{{Item: item.info, Subject: w.owners[item.depth], Fact: f}})
	}
	for _, u := range unknown {
		blind = append(blind, describe(u))
	}
	r.Missing = unknownReads(r.Missing, unknown)
	return append(parts, blind...)
}

// Absence says what it means that a view has no subject for this signature:
// nothing wrong, or that nobody could have seen it. Call it when Subjects is
// empty.
func (s *Signature) Absence(view *state.View) Result {
	r := Result{Signature: s, Subject: evidence.Node(), At: view.At}
	var unknown []string
	for _, info := range s.absence {
		reading := Reading{Item: info, Subject: evidence.Node(), Fact: view.Fact(evidence.SubjectNode, evidence.Node().Key, info.ID)}
		if reading.Fact.Status != state.Value {
			r.Undecided = true
			r.Missing = append(r.Missing, reading)
			unknown = append(unknown, describe(reading))
		}
	}
	if r.Undecided {
		r.Reason = fmt.Sprintf("cannot be decided: no %s was reported, and nobody could have seen one: %s", s.Each, strings.Join(unknown, "; "))
	} else {
		r.Reason = fmt.Sprintf("there is no %s on this node that it could hold for", s.Each)
	}
	return r
}
