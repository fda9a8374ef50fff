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
// immutable and safe for concurrent use.
type View struct {
	Node NodeInfo
	// At is the moment.
	At time.Time

	// A view of the state reads its snapshot lazily; one made by NewView has its
	// facts spelt out.
	snapshot *snapshot
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
// number. Tests of signatures use it. Unlike a view of the state it holds only
// the subjects that it was given.
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

// Subjects returns the known subjects of a kind, sorted by key. The slice is
// shared and must not be changed.
func (v *View) Subjects(kind string) []evidence.Subject {
	if v.snapshot != nil {
		return v.snapshot.byKind[kind]
	}
	return v.subjects[kind]
}

// Fact returns what is known of an item of a subject. An item that was never
// reported is unknown.
func (v *View) Fact(kind, key string, item uint32) Fact {
	if v.snapshot != nil {
		return v.snapshot.fact(v.At, subjectKey{kind, key}, item)
	}
	if f, ok := v.facts[factKey{kind, key, item}]; ok {
		return f
	}
	return Fact{Status: Unknown, Reason: evidence.Blind, Detail: notReported}
}

// Observes says whether a probe reports about a subject at all. A probe that
// is measuring and leaves a subject out has nothing to say about a thing of that
// sort: oversize reports on overlays, not on every device. The facts are unknown
// all the same.
func (v *View) Observes(probe, kind, key string) bool {
	if v.snapshot == nil {
		return true
	}
	r, ok := v.snapshot.records[subjectKey{kind, key}]
	if !ok {
		return false
	}
	for _, p := range r.parts {
		if p.probe == probe {
			return true
		}
	}
	return false
}

// Parent returns the subject that s belongs to, by its parent key and the
// parent kind of its own kind.
func (v *View) Parent(s evidence.Subject, parentKind string) (evidence.Subject, bool) {
	for _, p := range v.Subjects(parentKind) {
		if p.Key == s.ParentKey {
			return p, true
		}
	}
	return evidence.Subject{}, false
}

// Probe says whether a probe is measuring: Status is Value when its last sample
// succeeded and is fresh, NotApplicable when it has nothing to measure, Unknown
// with the reason otherwise. That a subject is missing from a view means that
// it is gone only while the probe that reports it is measuring.
func (v *View) Probe(name string) Fact {
	if v.snapshot == nil {
		return Fact{Status: Value, ObservedAt: v.At}
	}
	return v.snapshot.probe(v.At, name, 0)
}

// Silent says whether the node sent no batch for three intervals, or never one.
func (v *View) Silent() bool { return v.snapshot != nil && v.snapshot.silent(v.At) }

// BatchAt is when the newest batch of the node arrived; zero when none did.
func (v *View) BatchAt() time.Time {
	if v.snapshot == nil {
		return v.At
	}
	return v.snapshot.lastArrival
}

// Generation changes whenever a batch brought something that could change a
// verdict. Two views of one generation differ only by what turned stale.
func (v *View) Generation() uint64 {
	if v.snapshot == nil {
		return 0
	}
	return v.snapshot.generation
}

// Expires is the first moment after At at which something in the view turns
// stale unless a batch comes; zero when nothing can any more.
func (v *View) Expires() time.Time {
	if v.snapshot == nil {
		return time.Time{}
	}
	return v.snapshot.expires(v.At)
}
