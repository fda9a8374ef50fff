// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// Applied says what became of a batch.
type Applied struct {
	// Duplicate is set when nothing was done because the batch was seen before or
	// belongs to a run of the agent that another has succeeded.
	Duplicate bool
	// NeedFull asks the agent for a full batch: this delta could not be applied,
	// or an earlier one could not.
	NeedFull bool
	// AckedSequence is the highest sequence of this run that was taken.
	AckedSequence uint64
}

// A node is one node's evidence and its agent's bookkeeping.
type node struct {
	uid string

	mu   sync.Mutex
	info NodeInfo
	// bootID and sequence are of the newest batch, whether or not it could be
	// applied; needFull is set while the snapshot is older than they are.
	bootID   string
	sequence uint64
	needFull bool
	// retired are earlier boot ids, newest last.
	retired  []string
	batches  uint64
	agent    *evidencev1.AgentStatus
	snapshot *snapshot
	// held is what the snapshot was counted with.
	held int64
	// gone is set when another node of the same name has taken its place.
	gone     bool
	queued   bool
	episodes *episodes
}

// maxRetired bounds the boot ids that are remembered as over.
const maxRetired = 8

// Apply takes a batch that ingest has authenticated and validated and whose
// episodes are durable.
//
// A batch that was seen before is ignored. A FULL always replaces everything. A
// DELTA is applied only when it follows the last batch without a gap and on a
// full one of the same run: after a gap nobody knows what it leaves out, so it
// is acknowledged (its episodes are durable) but its evidence is not taken, and
// what is known turns stale until the FULL arrives. The episodes of such a batch
// count all the same.
//
// It fails with ErrFull when a limit is reached; nothing of the batch is taken
// then.
func (s *State) Apply(info NodeInfo, arrival time.Time, req *evidencev1.PushRequest) (Applied, error) {
	n, err := s.node(info)
	if err != nil {
		s.metrics.batches.WithLabelValues("refused").Inc()
		return Applied{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return Applied{}, fmt.Errorf("take evidence of node %q: node uid %s was replaced by another node of that name", info.Name, info.UID)
	}
	b := req.GetBatch()
	if n.succeeded(b.GetBootId()) {
		s.metrics.batches.WithLabelValues("duplicate").Inc()
		return Applied{Duplicate: true, AckedSequence: b.GetSequence()}, nil
	}
	sameRun := b.GetBootId() == n.bootID
	if sameRun && b.GetSequence() <= n.sequence {
		s.metrics.batches.WithLabelValues("duplicate").Inc()
		return Applied{Duplicate: true, NeedFull: n.needFull, AckedSequence: n.sequence}, nil
	}

	t := timeline{arrival: arrival, sent: req.GetSentBoottimeNanoseconds()}
	full := b.GetKind() == evidencev1.Batch_FULL
	applicable := full || sameRun && !n.needFull && b.GetSequence() == n.sequence+1
	next := &snapshot{rules: s.rules, generation: n.snapshot.generation, lastArrival: arrival,
		records: n.snapshot.records, byKind: n.snapshot.byKind, probes: n.snapshot.probes,
		items: n.snapshot.items, bytes: n.snapshot.bytes}
	if applicable {
		if err := s.take(n, next, t, b, full); err != nil {
			s.metrics.batches.WithLabelValues("refused").Inc()
			return Applied{}, err
		}
	}
	if n.snapshot.expired(arrival) || !sameRun || !sameProbes(n.snapshot.probes, next.probes) {
		next.generation++
	} else if applicable && (full || len(b.GetObservations())+len(b.GetRemoved()) > 0) && !sameRecords(n.snapshot.records, next.records) {
		next.generation++
	}

	if !sameRun {
		n.retire()
		n.bootID = b.GetBootId()
	}
	n.info = info
	n.sequence = b.GetSequence()
	n.needFull = !applicable
	n.batches++
	n.held = next.bytes
	n.snapshot = next
	if b.GetAgent() != nil {
		n.agent = b.GetAgent()
	}
	if n.episodes.apply(t, b) {
		next.generation++
	}
	if n.needFull {
		s.metrics.batches.WithLabelValues("need_full").Inc()
	} else {
		s.metrics.batches.WithLabelValues("applied").Inc()
	}
	s.notify(n)
	return Applied{NeedFull: n.needFull, AckedSequence: n.sequence}, nil
}

// take fills the next snapshot.
func (s *State) take(n *node, next *snapshot, t timeline, b *evidencev1.Batch, full bool) error {
	structure := full || len(b.GetObservations())+len(b.GetRemoved()) > 0
	if structure {
		if full {
			next.records = make(map[subjectKey]*record, len(b.GetObservations()))
		} else {
			next.records = maps.Clone(n.snapshot.records)
		}
		for _, gone := range b.GetRemoved() {
			key := subjectKey{gone.GetKind(), gone.GetKey()}
			if rest := next.records[key].without(gone.GetProbe()); rest != nil {
				next.records[key] = rest
			} else {
				delete(next.records, key)
			}
		}
		for _, o := range b.GetObservations() {
			key := subjectKey{o.GetSubject().GetKind(), o.GetSubject().GetKey()}
			p, unknown := newPart(s.cfg.Catalog, t, o)
			if unknown > 0 {
				s.metrics.uncatalogued.Add(float64(unknown))
			}
			if old := n.snapshot.records[key]; full && old != nil {
				p.items = old.share(p)
			}
			next.records[key] = next.records[key].with(evidence.SubjectFromProto(o.GetSubject()), p)
		}
		if len(next.records) > s.cfg.MaxSubjects {
			s.metrics.overflow.WithLabelValues("subjects").Inc()
			return fmt.Errorf("take evidence of node %q: %w: it reports %d subjects, the limit is %d per node", n.info.Name, ErrFull, len(next.records), s.cfg.MaxSubjects)
		}
		next.index()
	}
	next.probes = newProbes(t, b.GetProbes())
	if !full {
		// Observations that are not repeated keep the time of the earlier batch;
		// only the probe's own stamp moves on.
		for name, old := range n.snapshot.probes {
			if p, ok := next.probes[name]; ok {
				p.observedAt = old.observedAt
				next.probes[name] = p
			}
		}
	}
	for _, o := range b.GetObservations() {
		if p, ok := next.probes[o.GetProbe()]; ok {
			p.observedAt = latest(p.observedAt, t.at(o.GetObservedBoottimeNanoseconds()))
			next.probes[o.GetProbe()] = p
		}
	}
	for _, p := range next.probes {
		if !p.SampledAt.IsZero() {
			s.metrics.age.Observe(t.arrival.Sub(p.SampledAt).Seconds())
		}
	}
	if !s.memory.swap(n.held, next.bytes) {
		s.metrics.overflow.WithLabelValues("bytes").Inc()
		return fmt.Errorf("take evidence of node %q: %w: all nodes together hold %d bytes, the limit is %d; give the aggregator more memory", n.info.Name, ErrFull, s.memory.total(), s.cfg.MaxBytes)
	}
	return nil
}

// share returns the record's own items for the same probe when they are equal.
func (r *record) share(p part) (items itemList) {
	for _, old := range r.parts {
		if old.probe == p.probe && slices.Equal(old.items, p.items) {
			return old.items
		}
	}
	return p.items
}

func (n *node) retire() {
	if n.bootID == "" {
		return
	}
	n.retired = append(n.retired, n.bootID)
	if len(n.retired) > maxRetired {
		n.retired = n.retired[1:]
	}
}

// succeeded says whether a run of the agent is over because a later one has
// spoken: a batch of it that was under way must not bring old evidence back.
func (n *node) succeeded(bootID string) bool {
	if n.bootID == "" || bootID == n.bootID {
		return false
	}
	if slices.Contains(n.retired, bootID) {
		return true
	}
	kernel, start, ok := splitBootID(bootID)
	ourKernel, ourStart, ourOK := splitBootID(n.bootID)
	return ok && ourOK && kernel == ourKernel && start < ourStart
}

// splitBootID takes "<kernel boot id>/<start of the agent in boottime ns>" apart.
func splitBootID(id string) (kernel string, start uint64, ok bool) {
	kernel, text, found := strings.Cut(id, "/")
	if !found {
		return "", 0, false
	}
	start, err := strconv.ParseUint(text, 10, 64)
	return kernel, start, err == nil
}

func (n *node) status(now time.Time) NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := NodeStatus{
		NodeInfo:    n.info,
		State:       NodeReporting,
		LastBatchAt: n.snapshot.lastArrival,
		BootID:      n.bootID,
		Batches:     n.batches,
		NeedFull:    n.needFull,
		Agent:       n.agent,
		StaleProbes: map[string]bool{},
	}
	switch {
	case n.snapshot.lastArrival.IsZero():
		out.State = NodeNever
	case n.snapshot.silent(now):
		out.State = NodeSilent
	}
	for name, p := range n.snapshot.probes {
		out.Probes = append(out.Probes, p)
		if f := n.snapshot.probe(now, name, 0); f.Status == Unknown && f.Reason == evidence.Stale {
			out.StaleProbes[name] = true
		}
	}
	sort.Slice(out.Probes, func(i, j int) bool { return out.Probes[i].Name < out.Probes[j].Name })
	return out
}
