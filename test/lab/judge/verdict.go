// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Grades of the API in rising order (aggregator/signature/result.go).
const (
	Suspected = "suspected"
	Likely    = "likely"
	Proven    = "proven"
)

// States of the API (aggregator/verdict/life.go), and the grade of a refuted
// verdict.
const (
	statePending  = "pending"
	stateStale    = "stale"
	stateResolved = "resolved"
	refutedWord   = "refuted"
)

// grades returns the grades that a claim can have, in rising order.
func grades() []string { return []string{Suspected, Likely, Proven} }

// rank orders grades; -1 is none of them.
func rank(grade string) int { return slices.Index(grades(), grade) }

// A Verdict is what the lab reads of a verdict as the API returns it. Fields that
// it does not know stay in the raw JSON beside it.
type Verdict struct {
	ID           string               `json:"id"`
	Signature    string               `json:"signature"`
	Grade        string               `json:"grade"`
	State        string               `json:"state"`
	Scope        Scope                `json:"scope"`
	Onset        time.Time            `json:"onset"`
	GradedAt     map[string]time.Time `json:"gradedAt"`
	ResolvedAt   *time.Time           `json:"resolvedAt"`
	UpdatedAt    time.Time            `json:"updatedAt"`
	Proof        []Proof              `json:"proof"`
	Refuted      []Refutation         `json:"refuted"`
	Consequences []string             `json:"consequences"`
	Mitigation   string               `json:"mitigation"`
	Title        string               `json:"title"`
	Summary      string               `json:"summary"`
	Reason       string               `json:"reason"`
}

// A Scope is where a verdict holds.
type Scope struct {
	Kind   string   `json:"kind"`
	Zones  []string `json:"zones"`
	Nodes  []string `json:"nodes"`
	Device string   `json:"device,omitempty"`
	Pool   string   `json:"pool,omitempty"`
	Pod    string   `json:"pod,omitempty"`
}

// A Proof is one measurement of a verdict.
type Proof struct {
	Node     string `json:"node"`
	Evidence string `json:"evidence"`
	Kind     string `json:"kind"`
	Claim    string `json:"claim"`
	Rung     string `json:"rung"`
	Decisive bool   `json:"decisive"`
}

// A Refutation is a rival cause that was weighed and ruled out.
type Refutation struct {
	Signature string `json:"signature"`
	Because   string `json:"because"`
}

// claims says whether the verdict says that something is wrong.
func (v Verdict) claims() bool { return v.State != refutedWord && v.Grade != refutedWord }

// live says whether it says so now.
func (v Verdict) live() bool { return v.claims() && v.State != stateResolved }

// A seenVerdict is a verdict with the bytes that it was read from.
type seenVerdict struct {
	Verdict
	raw json.RawMessage
}

// decodeVerdict reads one verdict. The bytes are kept as they are.
func decodeVerdict(raw []byte) (seenVerdict, error) {
	out := seenVerdict{raw: slices.Clone(bytes.TrimSpace(raw))}
	if err := json.Unmarshal(raw, &out.Verdict); err != nil {
		return seenVerdict{}, fmt.Errorf("read verdict: %w", err)
	}
	if out.ID == "" {
		return seenVerdict{}, errors.New("read verdict: it has no id, so it cannot be followed")
	}
	return out, nil
}

// decodeList reads the answer of ListVerdicts. An answer without the field
// "verdicts" is none: to take it for an empty list would read as healthy.
func decodeList(raw []byte) ([]seenVerdict, error) {
	var list struct {
		Verdicts *[]json.RawMessage `json:"verdicts"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read verdicts: %w", err)
	}
	if list.Verdicts == nil {
		return nil, errors.New(`read verdicts: the answer has no field "verdicts"; is it the API of an aggregator?`)
	}
	out := make([]seenVerdict, 0, len(*list.Verdicts))
	for i, one := range *list.Verdicts {
		v, err := decodeVerdict(one)
		if err != nil {
			return nil, fmt.Errorf("verdict %d of %d: %w", i+1, len(*list.Verdicts), err)
		}
		out = append(out, v)
	}
	return out, nil
}

// decodeExplanation reads what the answer of ExplainNode refutes: signatures that
// were weighed on the node just now and for which something spoke and a refuter
// is true. What an assessment that holds nowhere rules out besides is not
// counted: that a refuter is false on a healthy node refutes nothing.
func decodeExplanation(raw []byte) ([]Refutation, error) {
	var answer struct {
		Assessments *[]struct {
			Signature string `json:"signature"`
			Result    string `json:"result"`
			Because   string `json:"because"`
		} `json:"assessments"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("read assessments: %w", err)
	}
	if answer.Assessments == nil {
		return nil, errors.New(`read assessments: the answer has no field "assessments"; is it the API of an aggregator?`)
	}
	var out []Refutation
	for _, a := range *answer.Assessments {
		if a.Result == refutedWord {
			out = append(out, Refutation{Signature: a.Signature, Because: a.Because})
		}
	}
	return out, nil
}
