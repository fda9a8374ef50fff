// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// SchemaVersion is the version of the wire contract that this build speaks.
const SchemaVersion = 1

// Subject is the thing that an observation is about. Kind and Key together are
// unique on a node.
type Subject struct {
	// Kind is one of the Subject… constants.
	Kind string
	// Key is stable as long as the thing lives.
	Key string
	// Name is what a person calls it.
	Name string
	// ParentKey is the key of the subject of the parent kind; empty when that is
	// the node.
	ParentKey string
	// PodUID is the pod that owns the thing, if any.
	PodUID string
}

// Node is the subject that stands for the node itself.
func Node() Subject { return Subject{Kind: SubjectNode, Key: "node", Name: "node"} }

// Proto returns the subject in its wire form.
func (s Subject) Proto() *evidencev1.Subject {
	return &evidencev1.Subject{Kind: s.Kind, Key: s.Key, Name: s.Name, ParentKey: s.ParentKey, PodUid: s.PodUID}
}

// SubjectFromProto is the inverse of Subject.Proto.
func SubjectFromProto(p *evidencev1.Subject) Subject {
	return Subject{Kind: p.GetKind(), Key: p.GetKey(), Name: p.GetName(), ParentKey: p.GetParentKey(), PodUID: p.GetPodUid()}
}

// Reasons why something is unknown.
const (
	Blind        = evidencev1.Unknown_BLIND
	Failed       = evidencev1.Unknown_FAILED
	Stale        = evidencev1.Unknown_STALE
	SharedKernel = evidencev1.Unknown_SHARED_KERNEL
	WarmingUp    = evidencev1.Unknown_WARMING_UP
)

// A Sample is what one call of a probe found out. The zero value is ready to
// use; it is not safe for concurrent use.
type Sample struct {
	// Observations in the order in which they were added.
	Observations []*Observation
	// Active are the conditions that hold now. A condition that held in the last
	// successful sample and is missing from this one has ended.
	Active []ActiveCondition
}

// An Observation collects items about one subject.
type Observation struct {
	Subject Subject
	// Items are in wire form, in the order in which they were added.
	Items []*evidencev1.Item
	rung  string
}

// An ActiveCondition is a condition that holds at the time of the sample.
type ActiveCondition struct {
	// Condition is one of the Condition… constants.
	Condition string
	Subject   Subject
	// OnsetBoottime is when it began, in nanoseconds of CLOCK_BOOTTIME; 0 means
	// the time of the sample.
	OnsetBoottime uint64
	// Items is the evidence that decided it.
	Items []*evidencev1.Item
}

// Observe begins an observation. Every item added to it carries the rung, that
// is the hook or source that measured it.
func (s *Sample) Observe(subject Subject, rung string) *Observation {
	o := &Observation{Subject: subject, rung: rung}
	s.Observations = append(s.Observations, o)
	return o
}

// Hold reports a condition as holding. The items of the observation that
// decided it are attached.
func (s *Sample) Hold(condition string, o *Observation, onsetBoottime uint64) {
	s.Active = append(s.Active, ActiveCondition{Condition: condition, Subject: o.Subject, OnsetBoottime: onsetBoottime, Items: o.Items})
}

// Via changes the rung of the items that follow.
func (o *Observation) Via(rung string) *Observation {
	o.rung = rung
	return o
}

// Integer reports an exact integer.
func (o *Observation) Integer(id IntegerID, v int64) {
	o.add(uint32(id), 0).State = &evidencev1.Item_Integer{Integer: v}
}

// Number reports a number, true within ± uncertainty.
func (o *Observation) Number(id NumberID, v, uncertainty float64) {
	o.add(uint32(id), uncertainty).State = &evidencev1.Item_Number{Number: v}
}

// Text reports a short text.
func (o *Observation) Text(id TextID, v string) {
	o.add(uint32(id), 0).State = &evidencev1.Item_Text{Text: v}
}

// Flag reports true or false.
func (o *Observation) Flag(id FlagID, v bool) {
	o.add(uint32(id), 0).State = &evidencev1.Item_Flag{Flag: v}
}

// Unknown reports that an item could not be measured, why, and what would mend
// it (one line).
func Unknown[I ItemID](o *Observation, id I, reason evidencev1.Unknown_Reason, detail string) {
	o.add(uint32(id), 0).State = &evidencev1.Item_Unknown{Unknown: &evidencev1.Unknown{Reason: reason, Detail: detail}}
}

// NotApplicable reports that an item cannot exist for this subject, and why.
func NotApplicable[I ItemID](o *Observation, id I, detail string) {
	o.add(uint32(id), 0).State = &evidencev1.Item_NotApplicable{NotApplicable: &evidencev1.NotApplicable{Detail: detail}}
}

func (o *Observation) add(id uint32, uncertainty float64) *evidencev1.Item {
	it := &evidencev1.Item{Id: id, Uncertainty: uncertainty, Rung: o.rung}
	o.Items = append(o.Items, it)
	return it
}

// Has says whether an item was reported, in whatever state.
func (o *Observation) Has(id uint32) bool {
	for _, it := range o.Items {
		if it.GetId() == id {
			return true
		}
	}
	return false
}

// EpisodeID is the stable name of an episode: 16 hex digits of a hash of what
// defines it.
func EpisodeID(nodeUID, bootID, condition, subjectKind, subjectKey string, onsetBoottime uint64) string {
	h := sha256.New()
	for _, part := range []string{nodeUID, bootID, condition, subjectKind, subjectKey, strconv.FormatUint(onsetBoottime, 10)} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
