// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"time"

	"github.com/plumb-dev/plumb/evidence"
)

// A Signature is a loaded failure signature, ready to be weighed. It is
// immutable and safe for concurrent use.
type Signature struct {
	// ID is "loop/name", stable and never reused.
	ID    string
	Title string
	// Loop is the control loop that fails: the part of ID before the slash.
	Loop     string
	Severity string
	// Symptom is what a person sees before knowing the cause.
	Symptom string
	// Scope is the kind of scope that its verdicts have: Node, Device or Pod.
	Scope string
	// Each is the kind of subject that it is weighed on.
	Each string
	// For is how long it must hold before its verdict fires.
	For time.Duration
	// KeepFiringFor is how long a firing verdict stays after it ceased to hold.
	KeepFiringFor time.Duration
	// Consequences are ids that this cause explains on the same scope.
	Consequences []string
	// NoProof says why no proof can exist; empty when there are proof sets.
	NoProof string
	// Zone holds the limits of the zone test; nil when the file has none.
	Zone *Zone
	// Origin says where it was loaded from.
	Origin string
	// Hash is of the file's content, 16 hex digits.
	Hash string

	chain    []string
	items    []boundItem
	when     *expression
	clauses  []clause
	families [][]int
	proofs   []proofSet
	refuters []refuter
	caps     []rungCap
	// absence are items of the node that must be known before "there is no
	// such subject" means that nothing is wrong.
	absence    []evidence.ItemInfo
	summary    template
	mitigation template
	tests      []testCase
}

// Zone holds the limits of the zone test (see aggregator/correlate).
type Zone struct {
	MinNodes int
	MinShare float64
	MinRatio float64
	Alpha    float64
}

// A clause is one piece of evidence for or against.
type clause struct {
	id        string
	expr      *expression
	bans      float64
	required  bool
	claim     template
	otherwise template
	window    time.Duration
	kinds     []string
	family    int
}

// A proofSet is complete when all its clauses are true and, if sources is set,
// at least two sources agree.
type proofSet struct {
	name    string
	clauses []int
	// sources is the index of the item that counts agreeing sources, or -1.
	sources  int
	soleKind string
}

// A refuter rules the signature out while it is true, or only limits its grade.
type refuter struct {
	id         string
	expr       *expression
	rival      string
	because    template
	exonerates template
	window     time.Duration
	// atMost is the grade that it limits to; None means that it refutes.
	atMost Grade
}

// A rungCap limits the grade when an item was measured by a lesser hook.
type rungCap struct {
	item    int
	prefix  string
	grade   Grade
	because template
}

// Items are the catalogued items that the signature's clauses, refuters and
// sentences read, in the order in which the file names them first.
func (s *Signature) Items() []evidence.ItemInfo {
	out := make([]evidence.ItemInfo, len(s.items))
	for i := range s.items {
		out[i] = s.items[i].info
	}
	return out
}

// Tests is the number of test cases in the file.
func (s *Signature) Tests() int { return len(s.tests) }
