// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"time"

	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// Grade says how far a signature holds.
type Grade int

// Grades in rising order. Refuted stands apart: something spoke for the cause
// and a refuter is true.
const (
	None Grade = iota
	Refuted
	Suspected
	Likely
	Proven
)

// String gives the word that the API shows.
func (g Grade) String() string {
	switch g {
	case Refuted:
		return "refuted"
	case Suspected:
		return "suspected"
	case Likely:
		return "likely"
	case Proven:
		return "proven"
	default:
		return "none"
	}
}

// Truth is three-valued, with the fourth state of an item that cannot exist.
type Truth int

// The zero Truth is Unknown.
const (
	TruthUnknown Truth = iota
	True
	False
	TruthNotApplicable
)

// A Result is the weighing of one signature on one subject at one moment.
type Result struct {
	Signature *Signature
	Subject   evidence.Subject
	At        time.Time
	Grade     Grade
	// Bans is the sum of the weights: strongest per family, unknown 0.
	Bans float64
	// ProofSet names the complete set; empty unless Grade is Proven.
	ProofSet string
	Clauses  []ClauseResult
	Refuters []RefuterResult
	// Summary and Mitigation are the signature's sentences with numbers in.
	Summary    string
	Mitigation string
	// Reason is one sentence: why it is not proven, what refuted it, or why
	// nothing can be said. Empty when proven.
	Reason string
	// Undecided is set when Grade is None only because something is unknown:
	// were it known, the grade could be Suspected or more. It never means that
	// all is well.
	Undecided bool
	// Missing are the unknown items for want of which it is not proven, in the
	// order of the file: what a directive should ask the agent for.
	Missing []Reading
}

// String gives the word for people.
func (t Truth) String() string {
	switch t {
	case True:
		return "true"
	case False:
		return "false"
	case TruthNotApplicable:
		return "not applicable"
	default:
		return "unknown"
	}
}

// A ClauseResult is one evidence clause with the values that it read.
type ClauseResult struct {
	ID string
	// Kinds of measurement of the items it read, sorted.
	Kinds []string
	Truth Truth
	// Bans that counted in the sum; 0 when it is not true, or when a stronger
	// clause of its family counted.
	Bans float64
	// Claim is the sentence with numbers; empty unless Truth is True or False.
	// For False it is the clause's "otherwise", or "not so: " and the claim.
	Claim string
	Reads []Reading
	// Weight is what the clause weighs when it is true; negative speaks against.
	Weight float64
	// Required is set when the cause is impossible without it.
	Required bool
	// Steps are the sums that the expression made, with their values.
	Steps []Step
	// Detail says why the truth is unknown or not applicable.
	Detail string
	// Decisive is set when the clause belongs to the complete proof set.
	Decisive bool
}

// A RefuterResult is one refuter with the values that it read.
type RefuterResult struct {
	ID string
	// Rival is the signature id or plain name of the rival cause.
	Rival string
	Truth Truth
	// Because is the sentence to show when it is true (the signature is
	// refuted); Exonerates the one when it is false (the rival is ruled out).
	Because    string
	Exonerates string
	Reads      []Reading
	// AtMost is the grade that it limits to instead of refuting; None for a
	// refuter proper.
	AtMost Grade
	// Steps are the sums that the expression made, with their values.
	Steps []Step
	// Detail says why the truth is unknown or not applicable.
	Detail string
}

// A Step is a sum inside an expression and what it came to: an int64, float64,
// string or bool.
type Step struct {
	Expression string
	Value      any
}

// A Reading is one item as it stood when it was weighed.
type Reading struct {
	Item    evidence.ItemInfo
	Subject evidence.Subject
	Fact    state.Fact
}
