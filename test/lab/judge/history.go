// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// A History is every verdict that was seen, from every aggregator. The zero value
// is empty and ready. Safe for concurrent use.
type History struct {
	mu      sync.Mutex
	records []*Record // in the order of their first appearance
	refuted map[string][]saying
}

// A Record is all that was seen of one verdict.
type Record struct {
	ID, Signature string
	// Spells are in the order in which they began, those of all aggregators
	// mixed.
	Spells []*Spell
}

// A saying is one moment at which the product said that a cause was refuted.
type saying struct {
	at      time.Time
	because string
}

// Add takes the answer of ListVerdicts with includeResolved, as the aggregator
// gave it (GET /api/v1/verdicts?includeResolved=true), and the moment at which it
// was asked for. What a complete list lacks is gone. It returns what is new, in
// the order in which it happened. An answer that cannot be read changes nothing.
func (h *History) Add(aggregator string, asked time.Time, answer []byte) ([]Change, error) {
	list, err := decodeList(answer)
	if err != nil {
		return nil, fmt.Errorf("aggregator %s: %w", aggregator, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Change
	there := map[string]bool{}
	for _, v := range list {
		there[v.ID] = true
		out = append(out, h.add(aggregator, asked, v)...)
	}
	for _, r := range h.records {
		if s := r.last(aggregator); s != nil && !there[r.ID] && s.Gone.IsZero() && s.LastSeen.Before(asked) && s.Verdict.live() {
			s.Gone = asked
			out = append(out, Change{Kind: Gone, At: asked, Aggregator: aggregator, Verdict: s.Verdict})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].At.Before(out[j].At) })
	return out, nil
}

// AddVerdict takes one verdict as the API returned it, for example from a watch.
func (h *History) AddVerdict(aggregator string, seen time.Time, raw []byte) ([]Change, error) {
	v, err := decodeVerdict(raw)
	if err != nil {
		return nil, fmt.Errorf("aggregator %s: %w", aggregator, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.add(aggregator, seen, v), nil
}

// AddExplanation takes the answer of ExplainNode (GET /api/v1/nodes/NODE), which
// also says what is refuted where another subject's verdict stands.
func (h *History) AddExplanation(aggregator string, asked time.Time, answer []byte) error {
	refuted, err := decodeExplanation(answer)
	if err != nil {
		return fmt.Errorf("aggregator %s: %w", aggregator, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range refuted {
		h.say(r, asked)
	}
	return nil
}

func (h *History) record(id, signature string) *Record {
	for _, r := range h.records {
		if r.ID == id {
			return r
		}
	}
	r := &Record{ID: id, Signature: signature}
	h.records = append(h.records, r)
	return r
}

// last is the newest spell that an aggregator told; nil when it told none.
func (r *Record) last(aggregator string) *Spell {
	for i := len(r.Spells) - 1; i >= 0; i-- {
		if r.Spells[i].Aggregator == aggregator {
			return r.Spells[i]
		}
	}
	return nil
}

func (h *History) add(aggregator string, seen time.Time, v seenVerdict) []Change {
	r := h.record(v.ID, v.Signature)
	before := r.last(aggregator)
	var s *Spell
	began := key(v.Verdict)
	for _, one := range r.Spells {
		// What has no grades can only go on with the newest spell.
		if one.Aggregator == aggregator && one.belongs(v.Verdict) && (!began.IsZero() || one == before) {
			s = one
		}
	}
	if began.IsZero() {
		began = seen
	}
	if s == nil {
		s = &Spell{Aggregator: aggregator, GradedAt: map[string]time.Time{}}
		if !v.claims() && before != nil {
			before.replace(v.Verdict, seen)
		}
		r.Spells = append(r.Spells, s)
	}
	told := r.told(s, began)
	s.take(v, seen)
	sort.SliceStable(r.Spells, func(i, j int) bool { return r.Spells[i].start().Before(r.Spells[j].start()) })

	confirmed := v.UpdatedAt
	if confirmed.IsZero() || confirmed.After(seen) {
		confirmed = seen
	}
	if !v.claims() {
		h.say(Refutation{v.Signature, v.Reason}, confirmed)
	}
	for _, rival := range v.Refuted {
		h.say(rival, confirmed)
	}
	return s.changes(told, seen)
}

// start orders spells: by the first grade, else by when it was seen.
func (s *Spell) start() time.Time {
	if at, ok := s.Began(); ok {
		return at
	}
	return s.FirstSeen
}

// replace ends a standing spell by the refutation that took its place.
func (s *Spell) replace(by Verdict, seen time.Time) {
	if !s.Verdict.live() || len(s.GradedAt) == 0 {
		return
	}
	began, _ := s.Began()
	switch {
	case by.ResolvedAt != nil && by.ResolvedAt.After(began):
		s.replaced = *by.ResolvedAt
	case by.Onset.After(began):
		s.replaced = by.Onset
	default:
		s.replaced = seen
	}
}

// say notes a refutation. The first reason at a moment stays.
func (h *History) say(r Refutation, at time.Time) {
	if h.refuted == nil {
		h.refuted = map[string][]saying{}
	}
	list := h.refuted[r.Signature]
	i, found := slices.BinarySearchFunc(list, at, func(s saying, at time.Time) int { return s.at.Compare(at) })
	if !found {
		h.refuted[r.Signature] = slices.Insert(list, i, saying{at, r.Because})
	}
}

// RefutedSince is the first moment from at on at which the product said that a
// cause was weighed and refuted, with its reason.
func (h *History) RefutedSince(id string, at time.Time) (time.Time, string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.refuted[id] {
		if !s.at.Before(at) {
			return s.at, s.because, true
		}
	}
	return time.Time{}, "", false
}

// Records returns a copy of what was seen, in the order of first appearance.
func (h *History) Records() []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Record, 0, len(h.records))
	for _, r := range h.records {
		c := Record{ID: r.ID, Signature: r.Signature}
		for _, s := range r.Spells {
			one := *s
			one.GradedAt = map[string]time.Time{}
			for g, at := range s.GradedAt {
				one.GradedAt[g] = at
			}
			one.scopes, one.consequences = slices.Clone(s.scopes), slices.Clone(s.consequences)
			c.Spells = append(c.Spells, &one)
		}
		out = append(out, c)
	}
	return out
}

// Verdicts splits the raw verdicts: shown has one for each id, earlier the other
// spells, so that nothing that was seen is lost. Shown is the newest claim, or
// the newest refutation when there was no claim; of two aggregators the one seen
// last.
func (h *History) Verdicts() (shown, earlier []json.RawMessage) {
	for _, r := range h.Records() {
		best := r.Spells[0]
		for _, s := range r.Spells[1:] {
			if s.shownBefore(best) {
				best = s
			}
		}
		shown = append(shown, best.Raw)
		for _, s := range r.Spells {
			if s != best {
				earlier = append(earlier, s.Raw)
			}
		}
	}
	return shown, earlier
}

func (s *Spell) shownBefore(other *Spell) bool {
	if claim, than := len(s.GradedAt) > 0, len(other.GradedAt) > 0; claim != than {
		return claim
	}
	if stale, than := s.Verdict.State == stateStale, other.Verdict.State == stateStale; stale != than && s.Aggregator != other.Aggregator {
		return than
	}
	return !s.LastSeen.Before(other.LastSeen)
}
