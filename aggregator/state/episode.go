// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"sort"
	"time"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// An Episode is a condition that an agent saw, in the aggregator's time.
type Episode struct {
	ID, Node, Condition, BootID string
	Subject                     evidence.Subject
	Onset                       time.Time
	// OnsetClaimed is set when the onset rests on the node's own wall clock.
	OnsetClaimed bool
	// ClosedAt is zero while the condition holds.
	ClosedAt time.Time
	// LostSight is set when no agent saw the condition end: the run that watched
	// it is over, or its successor does not list it.
	LostSight bool
}

const (
	maxOpenEpisodes   = 1024
	maxClosedEpisodes = 64
)

// episodes of one node: all that are open and the last that closed.
type episodes struct {
	open     map[string]*Episode
	closed   []*Episode
	overflow uint64
}

func newEpisodes() *episodes { return &episodes{open: map[string]*Episode{}} }

// apply takes the episodes of a batch and says whether any opened or closed.
//
// A FULL closes, as lost sight of, every open episode that is of another run of
// the agent or that it does not list. Such an episode stays visible to the
// verdict engine with its onset, so that a condition which the next run sees
// again keeps the onset that the earlier run measured.
func (e *episodes) apply(t timeline, b *evidencev1.Batch) bool {
	changed := false
	for _, p := range b.GetEpisodes() {
		if e.put(fromWire(t, b.GetBootId(), p)) {
			changed = true
		}
	}
	if b.GetKind() != evidencev1.Batch_FULL {
		return changed
	}
	listed := make(map[string]bool, len(b.GetOpenEpisodeIds()))
	for _, id := range b.GetOpenEpisodeIds() {
		listed[id] = true
	}
	for id, ep := range e.open {
		if ep.BootID == b.GetBootId() && listed[id] {
			continue
		}
		lost := *ep
		lost.ClosedAt, lost.LostSight = t.arrival, true
		e.close(&lost)
		changed = true
	}
	return changed
}

// put takes one episode and says whether it changed anything. An episode that
// is known keeps its first onset: later copies only differ by transit time.
func (e *episodes) put(ep *Episode) bool {
	for _, c := range e.closed {
		if c.ID == ep.ID {
			if c.LostSight && !ep.ClosedAt.IsZero() && !ep.LostSight {
				// The end that an agent saw is better than none.
				c.ClosedAt, c.LostSight = ep.ClosedAt, false
				return true
			}
			return false
		}
	}
	known, open := e.open[ep.ID]
	if open && ep.ClosedAt.IsZero() {
		return false
	}
	if open {
		ep.Onset, ep.OnsetClaimed = known.Onset, known.OnsetClaimed
	}
	if !ep.ClosedAt.IsZero() {
		e.close(ep)
		return true
	}
	if len(e.open) >= maxOpenEpisodes {
		e.overflow++
		return false
	}
	e.open[ep.ID] = ep
	return true
}

func (e *episodes) close(ep *Episode) {
	delete(e.open, ep.ID)
	// A fresh slice: callers of Episodes may still read the old one.
	e.closed = append(append([]*Episode(nil), e.closed...), ep)
	if len(e.closed) > maxClosedEpisodes {
		e.closed = e.closed[1:]
	}
}

// fromWire converts an episode. Its boottime stamps can be compared with the
// batch's when both are of one boot of one kernel, also when the agent was
// restarted in between; else only the node's wall clock is left.
func fromWire(t timeline, batchBootID string, p *evidencev1.Episode) *Episode {
	ep := &Episode{
		ID:        p.GetId(),
		Condition: p.GetCondition(),
		BootID:    p.GetBootId(),
		Subject:   evidence.SubjectFromProto(p.GetSubject()),
	}
	closed := p.GetClosedBoottimeNanoseconds() != 0
	if sameKernel(batchBootID, p.GetBootId()) {
		ep.Onset = t.at(p.GetOnsetBoottimeNanoseconds())
		ep.ClosedAt = t.at(p.GetClosedBoottimeNanoseconds())
	} else {
		ep.OnsetClaimed = true
		if p.GetOnsetClaimedAt() != nil {
			ep.Onset = p.GetOnsetClaimedAt().AsTime()
		}
		if closed {
			ep.ClosedAt = t.arrival
			if p.GetClosedClaimedAt() != nil {
				ep.ClosedAt = p.GetClosedClaimedAt().AsTime()
			}
		}
	}
	// No condition begins after it was reported.
	if ep.Onset.IsZero() || ep.Onset.After(t.arrival) {
		ep.Onset = t.arrival
	}
	if ep.ClosedAt.After(t.arrival) {
		ep.ClosedAt = t.arrival
	}
	return ep
}

func sameKernel(a, b string) bool {
	if a == b {
		return true
	}
	x, _, ok := splitBootID(a)
	y, _, ok2 := splitBootID(b)
	return ok && ok2 && x == y
}

// Episodes returns the open and the last closed episodes of a node, oldest
// onset first.
func (s *State) Episodes(name string) []Episode {
	n, ok := s.find(name)
	if !ok {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Episode, 0, len(n.episodes.open)+len(n.episodes.closed))
	for _, ep := range n.episodes.open {
		out = append(out, *ep)
	}
	for _, ep := range n.episodes.closed {
		out = append(out, *ep)
	}
	for i := range out {
		out[i].Node = n.info.Name
	}
	sort.Slice(out, func(i, j int) bool {
		if !out[i].Onset.Equal(out[j].Onset) {
			return out[i].Onset.Before(out[j].Onset)
		}
		return out[i].ID < out[j].ID
	})
	return out
}

// Restore takes an episode from the bus at start. An episode of a node that is
// known under another uid is ignored: it is another machine's.
func (s *State) Restore(info NodeInfo, ep Episode) error {
	if n, ok := s.find(info.Name); ok && n.uid != info.UID {
		return nil
	}
	n, err := s.node(info)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.episodes.put(&ep)
	return nil
}
