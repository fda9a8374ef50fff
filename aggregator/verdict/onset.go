// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"strings"
	"time"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
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
		if !related(f.results, *ep) {
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

// related says whether a true clause rests on the condition: it read, of the very
// subject, an item that the condition is about, which the catalogue names after
// it. Less would not do: the node's counters are read for many causes, and a
// stall on one device that has lasted for hours is not the beginning of another
// device's trouble.
func related(results []signature.Result, ep state.Episode) bool {
	for _, r := range results {
		if r.Grade < signature.Suspected {
			continue
		}
		for _, c := range r.Clauses {
			if c.Truth != signature.True || c.Weight < 0 {
				continue
			}
			for _, read := range c.Reads {
				if read.Subject.Kind == ep.Subject.Kind && read.Subject.Key == ep.Subject.Key && strings.HasPrefix(read.Item.Name, ep.Condition) {
					return true
				}
			}
		}
	}
	return false
}
