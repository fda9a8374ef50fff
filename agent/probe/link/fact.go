// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A fact is one item before it is reported: a value, unknown or not applicable.
// The zero value is a fact that nobody found out, and reported as such.
type fact struct {
	state  factState
	number int64
	text   string
	reason evidencev1.Unknown_Reason
	detail string
}

type factState uint8

const (
	factMissing factState = iota
	factValue
	factUnknown
	factNotApplicable
)

func number(v int) fact      { return fact{state: factValue, number: int64(v)} }
func counter(v uint64) fact  { return fact{state: factValue, number: int64(v)} }
func text(v string) fact     { return fact{state: factValue, text: v} }
func absent(why string) fact { return fact{state: factNotApplicable, detail: why} }
func failed(why string) fact { return fact{state: factUnknown, reason: evidence.Failed, detail: why} }
func blind(why string) fact  { return fact{state: factUnknown, reason: evidence.Blind, detail: why} }
func (f fact) isValue() bool { return f.state == factValue }

const missingDetail = "the probe did not find it out; this is a defect of the probe"

func putInteger(o *evidence.Observation, id evidence.IntegerID, f fact) {
	if f.isValue() {
		o.Integer(id, f.number)
		return
	}
	putOther(o, id, f)
}

func putText(o *evidence.Observation, id evidence.TextID, f fact) {
	if f.isValue() {
		o.Text(id, f.text)
		return
	}
	putOther(o, id, f)
}

func putFlag(o *evidence.Observation, id evidence.FlagID, f fact) {
	if f.isValue() {
		o.Flag(id, f.number != 0)
		return
	}
	putOther(o, id, f)
}

func putOther[I evidence.ItemID](o *evidence.Observation, id I, f fact) {
	switch f.state {
	case factNotApplicable:
		evidence.NotApplicable(o, id, f.detail)
	case factUnknown:
		evidence.Unknown(o, id, f.reason, f.detail)
	default:
		evidence.Unknown(o, id, evidence.Failed, missingDetail)
	}
}
