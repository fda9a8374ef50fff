// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"strings"
	"time"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// findIn says what the results of a scope's subjects mean for its verdict.
// results is not empty and sorted by strength.
func findIn(en *entry, view *state.View, results []signature.Result) finding {
	best := results[0]
	f := finding{results: results}
	switch {
	case best.Grade >= signature.Suspected:
		f.outcome = holds
		if en.phase == phaseFiring && best.Grade < en.grade {
			if lost := outOfSight(en, view, results); lost != "" {
				f.outcome, f.reason = unseen, "what made it "+en.grade.String()+" cannot be seen: "+lost
			}
		}
	case best.Grade == signature.Refuted:
		f.outcome = refuted
	default:
		f.outcome, f.reason = ceased, "it no longer holds: "+best.Reason
		if why := vanished(en, view); why != "" {
			f.outcome, f.reason = unseen, why
		}
		for _, r := range results {
			if r.Undecided {
				f.outcome, f.reason = unseen, r.Reason
				break
			}
		}
	}
	return f
}

// outOfSight names what a verdict rests on and is now unknown; empty when all of
// it can be seen.
func outOfSight(en *entry, view *state.View, results []signature.Result) string {
	for _, b := range en.rests {
		found := false
		for _, r := range results {
			if r.Subject.Kind != b.Subject.Kind || r.Subject.Key != b.Subject.Key {
				continue
			}
			for _, c := range r.Clauses {
				if c.ID != b.Clause {
					continue
				}
				found = true
				if c.Truth == signature.TruthUnknown {
					return c.ID + ": " + c.Detail
				}
			}
		}
		if !found {
			if why := blindProbe(b, view); why != "" {
				return why
			}
		}
	}
	return ""
}

// findGone says what it means that no subject of a verdict's scope is weighed
// any more.
func findGone(en *entry, rule Rule, view *state.View, failure error) finding {
	switch {
	case failure != nil:
		return finding{outcome: unseen, reason: failure.Error()}
	case view.BatchAt().IsZero():
		return finding{outcome: unseen, reason: "no batch of node " + view.Node.Name + " has arrived since the aggregator started"}
	case view.Silent():
		return finding{outcome: unseen, reason: fmt.Sprintf("node %s is silent: no batch since %s", view.Node.Name, view.BatchAt().UTC().Format(time.RFC3339))}
	}
	if why := vanished(en, view); why != "" {
		return finding{outcome: unseen, reason: why}
	}
	for _, b := range en.rests {
		if known(view, b.Subject) {
			return finding{outcome: ceased, reason: "it no longer applies to " + describe(b.Subject)}
		}
	}
	if absence := rule.Absence(view); absence.Undecided {
		return finding{outcome: unseen, reason: absence.Reason}
	}
	if len(en.rests) > 0 {
		return finding{outcome: ceased, reason: describe(en.rests[0].Subject) + " is gone"}
	}
	return finding{outcome: ceased, reason: "there is nothing left that it could hold for"}
}

// vanished says why it is not known whether a subject that a verdict rests on
// and that is not reported any more is gone; empty when it is, or is there.
func vanished(en *entry, view *state.View) string {
	for _, b := range en.rests {
		if known(view, b.Subject) {
			continue
		}
		if why := blindProbe(b, view); why != "" {
			return why
		}
	}
	return ""
}

// blindProbe says which probe, of those that a basis was measured by, is not
// measuring, so that a missing subject does not mean that it is gone.
func blindProbe(b basis, view *state.View) string {
	for _, p := range b.Probes {
		if f := view.Probe(p); f.Status == state.Unknown {
			return fmt.Sprintf("probe %s cannot see: %s", p, f.Detail)
		}
	}
	return ""
}

func known(view *state.View, subject evidence.Subject) bool {
	for _, s := range view.Subjects(subject.Kind) {
		if s.Key == subject.Key {
			return true
		}
	}
	return false
}

// describe names a subject for people: "device flannel.1".
func describe(s evidence.Subject) string {
	if s.Kind == evidence.SubjectNode {
		return "node"
	}
	return strings.TrimSpace(s.Kind + " " + s.Name)
}
