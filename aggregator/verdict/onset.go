// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"strings"
	"time"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// lostSightGrace is how long an episode that nobody saw end still gives its
// onset: longer than a restart of an agent and its first samples take.
const lostSightGrace = 2 * time.Minute

// findOnset moves the onset to that of the earliest episode that belongs to what
// the verdict rests on, and says whether it moved. An onset on the node's own
// clock counts only when there is no better one, for that clock may be the
// fault.
func (e *Engine) findOnset(en *entry, view *state.View, f finding, began bool) bool {
	var best, claimed *state.Episode
	episodes := e.cfg.State.Episodes(view.Node.Name)
	for i := range episodes {
		ep := &episodes[i]
		if !ep.ClosedAt.IsZero() && (!ep.LostSight || view.At.Sub(ep.ClosedAt) > lostSightGrace) {
			continue
		}
		if !e.related(view, f.results, *ep) {
			continue
		}
		if ep.OnsetClaimed && claimed == nil {
			claimed = ep
		} else if !ep.OnsetClaimed && best == nil {
			best = ep
		}
	}
	if best == nil {
		best = claimed
	}
	if best == nil || !best.Onset.Before(en.onset) {
		return false
	}
	en.onset, en.onsetFrom = best.Onset, best.ID
	return !began
}

// related says whether a condition is of the measurement that a true clause
// read: the same probe, and the subject that was read or something that belongs
// to it.
func (e *Engine) related(view *state.View, results []signature.Result, ep state.Episode) bool {
	probe, _, _ := strings.Cut(ep.Condition, ".")
	for _, r := range results {
		if r.Grade < signature.Suspected {
			continue
		}
		for _, c := range r.Clauses {
			if c.Truth != signature.True || c.Weight < 0 {
				continue
			}
			for _, read := range c.Reads {
				if read.Item.Probe() == probe && e.belongs(view, ep.Subject, read.Subject) {
					return true
				}
			}
		}
	}
	return false
}

func (e *Engine) belongs(view *state.View, inner, outer evidence.Subject) bool {
	return within(e.cfg.Catalog, view, inner, outer)
}
