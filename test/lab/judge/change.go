// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"slices"
	"time"
)

// A ChangeKind says what became of a verdict.
type ChangeKind string

// The kinds of change.
const (
	// Graded: a grade was reached for the first time in this spell.
	Graded ChangeKind = "graded"
	// Stale: what it rests on cannot be seen any more.
	Stale ChangeKind = "stale"
	// Refuted: it was weighed and ruled out.
	Refuted ChangeKind = "refuted"
	// Rivals: it rules out causes that it did not rule out before.
	Rivals ChangeKind = "rivals"
	// Resolved: it holds no longer.
	Resolved ChangeKind = "resolved"
	// Gone: an aggregator that showed it does not know it any more.
	Gone ChangeKind = "gone"
)

// A Change is one thing that happened to a verdict. What a second aggregator
// tells of the same is no change.
type Change struct {
	Kind ChangeKind
	// At is when it happened as the aggregator dates it, else when it was seen.
	At         time.Time
	Aggregator string
	// Grade of a Graded change: the highest that is new.
	Grade string
	// Rivals that are ruled out and were not before; with Graded and Rivals.
	Rivals  []Refutation
	Verdict Verdict
}

// A telling is what was known of a verdict before a rendering came.
type telling struct {
	state         string
	best          int
	resolved      time.Time
	rivals        []string
	saidElsewhere bool // its refutation or its staleness
}

// told says what is known of a spell that began then, and of the same in other
// aggregators: their spells that stand or that end after it began.
func (r *Record) told(s *Spell, began time.Time) telling {
	t := telling{state: s.Verdict.State, best: rank(s.Best()), rivals: slices.Clone(s.rivals)}
	if at, ok := s.Ended(); ok {
		t.resolved = at
	}
	for _, other := range r.Spells {
		if other.Aggregator == s.Aggregator {
			continue
		}
		end, ended := other.Ended()
		if ended && end.Before(began) {
			continue
		}
		t.best = max(t.best, rank(other.Best()))
		t.rivals = append(t.rivals, other.rivals...)
		if ended && t.resolved.IsZero() {
			t.resolved = end
		}
		t.saidElsewhere = t.saidElsewhere || other.Verdict.State == refutedWord || other.Verdict.State == stateStale
	}
	return t
}

// changes compares the spell's newest rendering with what was told.
func (s *Spell) changes(t telling, seen time.Time) []Change {
	v := s.Verdict
	c := Change{Aggregator: s.Aggregator, Verdict: v, At: seen}
	if at := v.UpdatedAt; !at.IsZero() && at.Before(seen) {
		c.At = at
	}
	var fresh []Refutation
	for _, rival := range v.Refuted {
		if !slices.Contains(s.rivals, rival.Signature) {
			s.rivals = append(s.rivals, rival.Signature)
		}
		if !slices.Contains(t.rivals, rival.Signature) && rival.Signature != v.Signature {
			fresh = append(fresh, rival)
		}
	}
	var out []Change
	if best := s.Best(); rank(best) > t.best {
		g := c
		g.Kind, g.Grade, g.Rivals = Graded, best, fresh
		g.At, _ = s.Reached(best)
		out, fresh = append(out, g), nil
	}
	switch {
	case v.State == t.state:
	case v.State == refutedWord && len(s.GradedAt) == 0 && !t.saidElsewhere:
		c.Kind = Refuted
		out = append(out, c)
	case v.State == stateStale && !t.saidElsewhere:
		c.Kind = Stale
		out = append(out, c)
	case len(s.GradedAt) > 0 && !v.live() && t.resolved.IsZero():
		c.Kind = Resolved
		c.At, _ = s.Ended()
		out = append(out, c)
	}
	if len(fresh) > 0 {
		c.Kind, c.Rivals = Rivals, fresh
		out = append(out, c)
	}
	return out
}
