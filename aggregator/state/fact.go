// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"time"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// Status is one of the three states of a fact.
type Status int

// The zero Status is Unknown, so that a fact that nobody filled in can never
// read as healthy.
const (
	Unknown Status = iota
	Value
	NotApplicable
)

// A Fact is what is known of one catalogued item of one subject at one moment.
type Fact struct {
	Status Status
	// Value is an int64, float64, string or bool as the catalogue says; nil
	// unless Status is Value.
	Value       any
	Uncertainty float64
	// Rung is the hook or source that measured it.
	Rung string
	// ObservedAt is on the aggregator's clock: arrival less the age that the
	// node's boottime gives.
	ObservedAt time.Time
	// Reason and Detail say why it is unknown or not applicable.
	Reason evidencev1.Unknown_Reason
	Detail string
}

// A View is the evidence of one node, frozen at one moment: items that are
// absent, stale, or of a probe that failed are already unknown in it. It is
// immutable.
type View struct {
	Node NodeInfo
	// At is the moment.
	At time.Time

	subjects map[string][]evidence.Subject
	facts    map[factKey]Fact
}

// NodeInfo names a node and its place.
type NodeInfo struct {
	Name, UID, Zone, Pool, InstanceType, Kernel, Image string
}

type factKey struct {
	kind, key string
	item      uint32
}

// NewView builds a view from facts; the map is indexed by subject and item
// number. Tests of signatures use it as well as the state.
func NewView(node NodeInfo, at time.Time, facts map[evidence.Subject]map[uint32]Fact) *View {
	v := &View{Node: node, At: at, subjects: map[string][]evidence.Subject{}, facts: map[factKey]Fact{}}
	for s, items := range facts {
		v.subjects[s.Kind] = append(v.subjects[s.Kind], s)
		for id, f := range items {
			v.facts[factKey{s.Kind, s.Key, id}] = f
		}
	}
	sortSubjects(v.subjects)
	return v
}

// Subjects returns the known subjects of a kind, sorted by key.
func (v *View) Subjects(kind string) []evidence.Subject { return v.subjects[kind] }

// Fact returns what is known of an item of a subject. An item that was never
// reported is unknown.
func (v *View) Fact(kind, key string, item uint32) Fact {
	if f, ok := v.facts[factKey{kind, key, item}]; ok {
		return f
	}
	return Fact{Status: Unknown, Reason: evidence.Blind, Detail: "not reported by this node's agent"}
}

// Parent returns the subject that s belongs to, by its parent key and the
// parent kind of its own kind.
func (v *View) Parent(s evidence.Subject, parentKind string) (evidence.Subject, bool) {
	for _, p := range v.subjects[parentKind] {
		if p.Key == s.ParentKey {
			return p, true
		}
	}
	return evidence.Subject{}, false
}
