// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"encoding/json"
	"slices"
	"time"
)

// A Spell is one beginning of one verdict as one aggregator told it, from its
// first grade until it is resolved, refuted or gone.
type Spell struct {
	// Aggregator is the one that told it.
	Aggregator string
	// FirstSeen and LastSeen are when the lab saw it.
	FirstSeen, LastSeen time.Time
	// GradedAt holds every grade that was ever reached in it, with the earliest
	// moment that the API gave. It is empty for a spell that is a refutation only.
	GradedAt map[string]time.Time
	// Gone is since when complete lists do not have it, while it was last seen
	// standing; zero when they do.
	Gone time.Time
	// Verdict is its newest rendering, Raw the bytes of it as the API returned
	// them.
	Verdict Verdict
	Raw     json.RawMessage

	scopes []seenScope
	// consequences are all that were ever named in it.
	consequences []string
	// rivals are the causes that it was ever seen to rule out.
	rivals []string
	// replaced is when a refutation, which has forgotten the spell's grades, took
	// its place under the same id.
	replaced time.Time
}

// A seenScope is a scope that a spell had, with the highest grade that it had
// reached while it had it. The nodes of a wide scope change as more report.
type seenScope struct {
	scope Scope
	best  int
}

// Began is when its first grade was reached; false when it never had one.
func (s *Spell) Began() (time.Time, bool) { return s.Reached("") }

// Reached is when the grade or a higher one was first reached; "" stands for any.
func (s *Spell) Reached(grade string) (time.Time, bool) {
	var first time.Time
	for g, at := range s.GradedAt {
		if (grade == "" || rank(g) >= rank(grade)) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// Best is the highest grade that it reached, "" for none.
func (s *Spell) Best() string {
	best := ""
	for g := range s.GradedAt {
		if rank(g) > rank(best) {
			best = g
		}
	}
	return best
}

// Ended is when the spell was over: resolved, refuted after it stood, or dropped
// before it ever fired. False while it stands, and when it vanished from an
// aggregator that had it firing, for that is a loss of memory.
func (s *Spell) Ended() (time.Time, bool) {
	switch {
	case !s.replaced.IsZero():
		return s.replaced, true
	case s.Verdict.live():
		if s.Verdict.State == statePending && !s.Gone.IsZero() {
			return s.Gone, true
		}
		return time.Time{}, false
	case s.Verdict.ResolvedAt != nil:
		return *s.Verdict.ResolvedAt, true
	case !s.Verdict.Onset.IsZero() && s.Verdict.State == refutedWord:
		// It was refuted before it fired; the engine dates that as its onset.
		return s.Verdict.Onset, true
	default:
		return s.LastSeen, true
	}
}

// key is what tells a spell of a claim from the others of its verdict: the first
// moment among its grades. Zero when the API gives none.
func key(v Verdict) time.Time {
	var first time.Time
	for _, at := range v.GradedAt {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// belongs says whether a rendering is one of this spell.
func (s *Spell) belongs(v Verdict) bool {
	if k := key(v); !k.IsZero() {
		return key(s.Verdict).Equal(k)
	}
	if !key(s.Verdict).IsZero() {
		return false
	}
	return s.Verdict.claims() == v.claims() && s.Verdict.live() == v.live()
}

// take adds a rendering. An older one than the newest adds what it knows and does
// not replace it.
func (s *Spell) take(v seenVerdict, seen time.Time) {
	for g, at := range v.GradedAt {
		if rank(g) < 0 || at.IsZero() {
			continue
		}
		if have, ok := s.GradedAt[g]; !ok || at.Before(have) {
			s.GradedAt[g] = at
		}
	}
	if rank(v.Grade) >= 0 {
		if _, ok := s.GradedAt[v.Grade]; !ok {
			s.GradedAt[v.Grade] = seen
		}
	}
	best := rank(s.Best())
	known := false
	for i := range s.scopes {
		if equalScope(s.scopes[i].scope, v.Scope) {
			known, s.scopes[i].best = true, max(s.scopes[i].best, best)
		}
	}
	if !known {
		s.scopes = append(s.scopes, seenScope{v.Scope, best})
	}
	for _, id := range v.Consequences {
		if !slices.Contains(s.consequences, id) {
			s.consequences = append(s.consequences, id)
		}
	}
	if s.FirstSeen.IsZero() || seen.Before(s.FirstSeen) {
		s.FirstSeen = seen
	}
	if !seen.Before(s.LastSeen) {
		s.Verdict, s.Raw = v.Verdict, v.raw
		s.LastSeen, s.Gone, s.replaced = seen, time.Time{}, time.Time{}
	}
}

func equalScope(a, b Scope) bool {
	return a.Kind == b.Kind && a.Device == b.Device && a.Pool == b.Pool && a.Pod == b.Pod &&
		sameSet(a.Nodes, b.Nodes) && sameSet(a.Zones, b.Zones)
}
