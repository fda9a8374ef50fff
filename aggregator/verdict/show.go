// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"slices"
	"sort"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

// linkConsequences finds which live verdicts of a node others of it explain, and
// notes those whose list changed.
func (e *Engine) linkConsequences(t *track, l *look) {
	for _, cause := range t.entries {
		var ids []string
		if cause.phase == phaseFiring {
			for _, effect := range t.entries {
				if effect != cause && effect.live() && slices.Contains(cause.rule.Consequences, effect.rule.ID) && cause.scope.covers(effect.scope) {
					ids = append(ids, effect.id)
				}
			}
		}
		sort.Strings(ids)
		if !slices.Equal(ids, cause.consequences) {
			cause.consequences = ids
			if cause.phase != phaseNone {
				l.shows[cause.id] = cause
			}
		}
	}
}

// show publishes what one look changed to readers and watchers.
func (e *Engine) show(l *look) {
	for _, en := range l.drops {
		delete(l.shows, en.id)
		e.forget(en)
	}
	if len(l.shows) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, en := range l.shows {
		if en.base == nil {
			continue
		}
		next := en.compose()
		if changed(e.shown[id], next) {
			for s := range e.subscribers {
				s.offer(next)
			}
		}
		e.shown[id] = next
	}
}

// changed says whether a watcher wants to hear of it: numbers that move with
// every batch are none of that.
func changed(old, next *apiv1.Verdict) bool {
	return old == nil ||
		old.GetState() != next.GetState() ||
		old.GetGrade() != next.GetGrade() ||
		old.GetReason() != next.GetReason() ||
		old.GetProofSet() != next.GetProofSet() ||
		old.GetJournalError() != next.GetJournalError() ||
		!old.GetOnset().AsTime().Equal(next.GetOnset().AsTime()) ||
		old.GetResolvedAt().AsTime() != next.GetResolvedAt().AsTime() ||
		len(old.GetUnknown()) != len(next.GetUnknown()) ||
		!slices.Equal(old.GetConsequences(), next.GetConsequences())
}
