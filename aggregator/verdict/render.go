// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// maxProofs bounds the proofs of one verdict: a node may have hundreds of drop
// sites, and a person reads the first few.
const maxProofs = 64

// render writes what comes from the evidence: the proof chain and its sentences.
func (e *Engine) render(en *entry, view *state.View, f finding) *apiv1.Verdict {
	best := f.best()
	v := &apiv1.Verdict{
		Id:            en.id,
		Signature:     en.rule.ID,
		Loop:          en.rule.Loop,
		Scope:         &apiv1.Scope{Kind: en.scope.Kind, Nodes: []string{view.Node.Name}, Device: en.scope.Device, Pod: en.scope.Pod},
		Mitigation:    best.Mitigation,
		Severity:      en.rule.Severity,
		Title:         en.rule.Title,
		Summary:       best.Summary,
		Reason:        best.Reason,
		Bans:          best.Bans,
		ProofSet:      best.ProofSet,
		SignatureHash: en.rule.Hash,
		Refuted:       refutations(best),
		Unknown:       unknownFacts(view.Node.Name, best),
	}
	if view.Node.Zone != "" {
		v.Scope.Zones = []string{view.Node.Zone}
	}
	for i, r := range f.results {
		if i > 0 && (r.Grade < signature.Suspected || r.Grade != best.Grade) {
			break
		}
		for _, p := range proofs(view.Node.Name, r, false) {
			if len(v.Proof) < maxProofs {
				v.Proof = append(v.Proof, p)
			}
		}
	}
	return v
}

// compose adds what does not come from the evidence.
func (en *entry) compose() *apiv1.Verdict {
	v := proto.CloneOf(en.base)
	v.State, v.Grade = en.state(), en.grade.String()
	v.Onset = timestamppb.New(en.onset)
	v.GradedAt = map[string]*timestamppb.Timestamp{}
	for g, at := range en.gradedAt {
		v.GradedAt[g.String()] = timestamppb.New(at)
	}
	if !en.resolvedAt.IsZero() && !en.live() {
		v.ResolvedAt = timestamppb.New(en.resolvedAt)
	}
	// A refuted verdict keeps the sentence that refuted it.
	if en.phase != phaseRefuted {
		v.Reason = en.reason
	}
	v.Consequences = en.consequences
	v.UpdatedAt = timestamppb.New(en.updatedAt)
	v.JournalError = en.journalErr
	return v
}

// withUnknown keeps the proof chain and says what cannot be seen now.
func withUnknown(base *apiv1.Verdict, view *state.View, results []signature.Result) *apiv1.Verdict {
	v := proto.CloneOf(base)
	v.Unknown = unknownFacts(view.Node.Name, results[0])
	return v
}

// proofs are the clauses of a result that can be stated: the true ones, and with
// all set the false ones as well.
func proofs(node string, r signature.Result, all bool) []*apiv1.Proof {
	var out []*apiv1.Proof
	for _, c := range r.Clauses {
		if c.Truth != signature.True && !(all && c.Truth == signature.False) {
			continue
		}
		p := &apiv1.Proof{
			Node:     node,
			Kind:     strings.Join(c.Kinds, ", "),
			Claim:    c.Claim,
			Clause:   c.ID,
			Bans:     c.Bans,
			Subject:  describe(r.Subject),
			Decisive: c.Decisive,
		}
		var items, rungs, uncertainties []string
		var observed time.Time
		values := map[string]*structpb.Value{}
		for _, read := range c.Reads {
			items = append(items, read.Item.Name)
			values[read.Item.Name] = protoValue(read.Fact)
			if read.Fact.Rung != "" && !slices.Contains(rungs, read.Fact.Rung) {
				rungs = append(rungs, read.Fact.Rung)
			}
			if read.Fact.Uncertainty > 0 {
				uncertainties = append(uncertainties, strings.TrimSpace(fmt.Sprintf("%s ± %.3g %s", read.Item.Name, read.Fact.Uncertainty, read.Item.Unit)))
			}
			// A claim is as old as the oldest fact in it.
			if at := read.Fact.ObservedAt; !at.IsZero() && (observed.IsZero() || at.Before(observed)) {
				observed = at
			}
		}
		p.Evidence, p.Rung, p.Uncertainty = strings.Join(items, ", "), strings.Join(rungs, ", "), strings.Join(uncertainties, ", ")
		p.Value = &structpb.Struct{Fields: values}
		if !observed.IsZero() {
			p.ObservedAt = timestamppb.New(observed)
		}
		out = append(out, p)
	}
	// What decides comes first, then what weighs most.
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].Decisive != out[j].Decisive {
			return out[i].Decisive
		}
		return out[i].Bans > out[j].Bans
	})
	return out
}

// protoValue is a fact's value for JSON; what has none is null.
func protoValue(f state.Fact) *structpb.Value {
	if f.Status != state.Value {
		return structpb.NewNullValue()
	}
	v, err := structpb.NewValue(f.Value)
	if err != nil {
		return structpb.NewNullValue()
	}
	return v
}

// refutations are the rivals that the same evidence rules out and, when the
// signature itself is refuted, what rules it out.
func refutations(r signature.Result) []*apiv1.Refutation {
	var out []*apiv1.Refutation
	for _, f := range r.Refuters {
		switch {
		case f.Truth == signature.False && f.Exonerates != "":
			out = append(out, &apiv1.Refutation{Signature: f.Rival, Because: f.Exonerates})
		case f.Truth == signature.True && f.AtMost == signature.None && r.Grade == signature.Refuted:
			out = append(out, &apiv1.Refutation{Signature: r.Signature.ID, Because: f.Because})
		}
	}
	return out
}

// unknownFacts are the clauses and refuters that could not be decided.
func unknownFacts(node string, r signature.Result) []*apiv1.UnknownFact {
	var out []*apiv1.UnknownFact
	add := func(id, detail string, reads []signature.Reading) {
		u := &apiv1.UnknownFact{Node: node, Clause: id, Detail: detail}
		var items []string
		for _, read := range reads {
			if read.Fact.Status != state.Unknown {
				continue
			}
			items = append(items, read.Item.Name)
			if u.Reason == "" {
				u.Reason = ReasonWord(read.Fact.Reason)
				if u.Detail == "" {
					u.Detail = read.Fact.Detail
				}
			}
		}
		u.Evidence = strings.Join(items, ", ")
		if u.Reason == "" {
			u.Reason = ReasonWord(evidencev1.Unknown_FAILED)
		}
		out = append(out, u)
	}
	for _, c := range r.Clauses {
		if c.Truth == signature.TruthUnknown {
			add(c.ID, c.Detail, c.Reads)
		}
	}
	for _, f := range r.Refuters {
		if f.Truth == signature.TruthUnknown {
			add(f.ID, f.Detail, f.Reads)
		}
	}
	return out
}

// ReasonWord is how the API spells a reason for unknown.
func ReasonWord(r evidencev1.Unknown_Reason) string {
	switch r {
	case evidencev1.Unknown_BLIND:
		return "blind"
	case evidencev1.Unknown_FAILED:
		return "failed"
	case evidencev1.Unknown_STALE:
		return "stale"
	case evidencev1.Unknown_SHARED_KERNEL:
		return "shared kernel"
	case evidencev1.Unknown_WARMING_UP:
		return "warming up"
	default:
		return "unknown"
	}
}
