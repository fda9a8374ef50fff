// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// A Result is the JSON result of one run: the contract's fields and added ones.
type Result struct {
	Scenario string `json:"scenario"`
	// OK is what the run is worth, whether the scenario is pending or not; the
	// exit status is judge.ExitStatus.
	OK bool `json:"ok"`
	// Pending repeats the scenario's.
	Pending bool `json:"pending"`
	// Ended is "complete", "timeout", "interrupted", or "unusable" for a scenario
	// that could not be run.
	Ended  string `json:"ended"`
	Kernel string `json:"kernel"`
	// Error says why the scenario could not be run at all.
	Error        string        `json:"error,omitempty"`
	Seconds      Seconds       `json:"seconds"`
	Faults       []Fault       `json:"faults"`
	Expectations []Expectation `json:"expectations"`
	// Undecided are the indices of the expectations that a run that was cut short
	// left open.
	Undecided  []int        `json:"undecided"`
	Unexpected []Unexpected `json:"unexpected"`
	// Failures are what failed the run besides verdicts.
	Failures []string `json:"failures"`
	// Verdicts are exactly what the aggregator's API returned last, one for each
	// id.
	Verdicts []json.RawMessage `json:"verdicts"`
	// EarlierVerdicts are the last renderings of other spells of the same ids:
	// before they were resolved and came back, before an aggregator lost its
	// memory, or as the other aggregator told them.
	EarlierVerdicts []json.RawMessage `json:"earlierVerdicts"`
	Agents          []Agent           `json:"agents"`
	// Aggregator is the sum of the CPU time and the largest RSS of all.
	Aggregator  Usage        `json:"aggregator"`
	Aggregators []Aggregator `json:"aggregators"`
}

// Seconds are how long the parts of a run took.
type Seconds struct {
	// Start is until the cluster was up, Settle the healthy time, Run from the end
	// of settle.
	Start  float64 `json:"start"`
	Settle float64 `json:"settle"`
	Run    float64 `json:"run"`
}

// A Fault is when one fault was there; null is never.
type Fault struct {
	Index           int        `json:"index"`
	Kind            string     `json:"kind"`
	InjectedAt      *time.Time `json:"injectedAt"`
	FirstAffectedAt *time.Time `json:"firstAffectedAt"`
	EndedAt         *time.Time `json:"endedAt"`
}

// An Expectation is what became of one.
type Expectation struct {
	Index     int    `json:"index"`
	Signature string `json:"signature,omitempty"`
	Refuted   string `json:"refuted,omitempty"`
	Held      bool   `json:"held"`
	// AfterSeconds is to the moment the grade was first reached, also when that
	// was too late; null when it never was.
	AfterSeconds        *float64 `json:"afterSeconds"`
	ClearedAfterSeconds *float64 `json:"clearedAfterSeconds"`
	Grade               string   `json:"grade,omitempty"`
	Fault               int      `json:"fault"`
	Within              string   `json:"within,omitempty"`
	ClearsWithin        string   `json:"clearsWithin,omitempty"`
	// Verdict is the id that decided AfterSeconds.
	Verdict string `json:"verdict,omitempty"`
	// Because says why it did not hold, what is odd about how it held, or with
	// what words the rival was refuted.
	Because string `json:"because,omitempty"`
}

// An Unexpected verdict is a false alarm.
type Unexpected struct {
	ID        string      `json:"id"`
	Signature string      `json:"signature"`
	Grade     string      `json:"grade"`
	At        time.Time   `json:"at"`
	Scope     judge.Scope `json:"scope"`
	Because   string      `json:"because"`
}

// Usage is what a process took.
type Usage struct {
	CPUSeconds  float64 `json:"cpuSeconds"`
	MaxRSSBytes int64   `json:"maxRSSBytes"`
}

// An Agent is what one agent took and sent.
type Agent struct {
	Node string `json:"node"`
	Usage
	Batches uint64 `json:"batches"`
	Dropped uint64 `json:"dropped"`
}

// An Aggregator is what one aggregator took.
type Aggregator struct {
	Name string `json:"name"`
	Usage
}

// Facts are what a result holds besides the judgement.
type Facts struct {
	// Kernel is the release of the machine's kernel.
	Kernel string
	// Start, Settle and Run are how long the parts took.
	Start, Settle, Run time.Duration
	Agents             []Agent
	Aggregators        []Aggregator
}

// New writes the result of a run.
func New(s *scenario.Scenario, o judge.Observation, j judge.Judgement, f Facts) Result {
	r := Result{
		Scenario: s.Name, OK: j.OK, Pending: s.Pending, Ended: "complete", Kernel: f.Kernel,
		Seconds:   Seconds{round(f.Start.Seconds()), round(f.Settle.Seconds()), round(f.Run.Seconds())},
		Undecided: j.Undecided, Failures: j.Failures, Agents: f.Agents, Aggregators: f.Aggregators,
	}
	if j.Ending != judge.Complete {
		r.Ended = string(j.Ending)
	}
	for i, fault := range s.Faults {
		out := Fault{Index: i, Kind: string(fault.Kind)}
		if i < len(o.Faults) {
			seen := o.Faults[i]
			if !seen.InjectedAt.IsZero() {
				out.InjectedAt = utc(&seen.InjectedAt)
			}
			out.FirstAffectedAt, out.EndedAt = utc(seen.FirstAffectedAt), utc(seen.EndedAt)
		}
		r.Faults = append(r.Faults, out)
	}
	for _, e := range j.Expectations {
		want := e.Expectation
		out := Expectation{
			Index: e.Index, Signature: want.Signature, Refuted: want.Refuted, Held: e.Held, Grade: want.Grade, Fault: want.Fault,
			AfterSeconds: rounded(e.AfterSeconds), ClearedAfterSeconds: rounded(e.ClearedAfterSeconds), Verdict: e.Verdict, Because: e.Because,
		}
		if want.Within > 0 {
			out.Within = duration(want.Within)
		}
		if want.ClearsWithin > 0 {
			out.ClearsWithin = duration(want.ClearsWithin)
		}
		r.Expectations = append(r.Expectations, out)
	}
	for _, u := range j.Unexpected {
		r.Unexpected = append(r.Unexpected, Unexpected{u.ID, u.Signature, u.Grade, u.At.UTC(), u.Scope, u.Because})
	}
	if o.History != nil {
		r.Verdicts, r.EarlierVerdicts = o.History.Verdicts()
	}
	for _, a := range f.Aggregators {
		r.Aggregator.CPUSeconds += a.CPUSeconds
		r.Aggregator.MaxRSSBytes = max(r.Aggregator.MaxRSSBytes, a.MaxRSSBytes)
	}
	return r
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// round keeps milliseconds: no clock of the lab is better.
func round(seconds float64) float64 { return math.Round(seconds*1000) / 1000 }

func rounded(seconds *float64) *float64 {
	if seconds == nil {
		return nil
	}
	r := round(*seconds)
	return &r
}

// MarshalJSON writes every list as a list, never as null.
func (r Result) MarshalJSON() ([]byte, error) {
	type fields Result
	r.Faults, r.Expectations, r.Undecided = list(r.Faults), list(r.Expectations), list(r.Undecided)
	r.Unexpected, r.Failures = list(r.Unexpected), list(r.Failures)
	r.Verdicts, r.EarlierVerdicts = list(r.Verdicts), list(r.EarlierVerdicts)
	r.Agents, r.Aggregators = list(r.Agents), list(r.Aggregators)
	for i, u := range r.Unexpected {
		if u.Scope.Nodes == nil || u.Scope.Zones == nil {
			r.Unexpected = append([]Unexpected{}, r.Unexpected...)
			r.Unexpected[i].Scope.Nodes, r.Unexpected[i].Scope.Zones = list(u.Scope.Nodes), list(u.Scope.Zones)
		}
	}
	return encode(fields(r))
}

func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// encode writes JSON without the escapes for HTML, so that the API's bytes stay
// as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// WriteJSON writes one object and a line break.
func (r Result) WriteJSON(w io.Writer) error { return writeJSON(w, r, "result") }

func writeJSON(w io.Writer, v any, what string) error {
	raw, err := encode(v)
	if err != nil {
		return fmt.Errorf("write %s as JSON: %w", what, err)
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}
