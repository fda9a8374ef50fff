// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

const (
	blackHole = "network/mtu-black-hole"
	pathLoss  = "network/path-loss"
)

// start is the end of settle in every test.
func start() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

// at is a moment by seconds from the end of settle.
func at(seconds float64) time.Time {
	return start().Add(time.Duration(seconds * float64(time.Second)))
}

func stamp(seconds float64) *timestamppb.Timestamp { return timestamppb.New(at(seconds)) }

// A v is a verdict of a test, by seconds from the end of settle.
type v struct {
	id, signature, state    string
	suspected, likely       float64 // reached then when not zero
	proven                  float64
	resolved, onset, update float64
	scope                   *apiv1.Scope
	refuted                 []string
	consequences            []string
}

func zones(names ...string) *apiv1.Scope {
	return &apiv1.Scope{Kind: "ZonePair", Zones: names, Nodes: []string{"n1", "n3"}}
}

func onNode(name string) *apiv1.Scope {
	return &apiv1.Scope{Kind: "Node", Nodes: []string{name}, Zones: []string{"a"}}
}

func (x v) message() *apiv1.Verdict {
	m := &apiv1.Verdict{Id: x.id, Signature: x.signature, State: x.state, Scope: x.scope, GradedAt: map[string]*timestamppb.Timestamp{}, Consequences: x.consequences}
	if m.Id == "" {
		m.Id = "aaaa000011112222"
	}
	if m.Signature == "" {
		m.Signature = blackHole
	}
	if m.Scope == nil {
		m.Scope = zones("a", "b")
	}
	for grade, s := range map[string]float64{Suspected: x.suspected, Likely: x.likely, Proven: x.proven} {
		if s != 0 {
			m.GradedAt[grade] = stamp(s)
		}
	}
	for _, grade := range grades() {
		if m.GradedAt[grade] != nil {
			m.Grade, m.Onset = grade, stamp(0)
		}
	}
	if m.State == "" {
		m.State = "firing"
	}
	if m.State == refutedWord {
		m.Grade, m.Reason = refutedWord, "small packets: 0 of 30 lost"
	}
	if x.onset != 0 {
		m.Onset = stamp(x.onset)
	}
	if x.resolved != 0 {
		m.ResolvedAt = stamp(x.resolved)
	}
	if x.update != 0 {
		m.UpdatedAt = stamp(x.update)
	}
	for _, id := range x.refuted {
		m.Refuted = append(m.Refuted, &apiv1.Refutation{Signature: id, Because: "ruled out"})
	}
	m.Proof = []*apiv1.Proof{{Node: "n1", Claim: "1401..1450 B lost 3/3", Value: &structpb.Struct{}}}
	return m
}

// answer is what the API answers with these verdicts (aggregator/api/codec.go).
func answer(t testing.TB, list ...v) []byte {
	t.Helper()
	res := &apiv1.ListVerdictsResponse{}
	for _, x := range list {
		res.Verdicts = append(res.Verdicts, x.message())
	}
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(res)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, json.Compact(&out, raw))
	return out.Bytes()
}

// A look is one complete list of one aggregator.
type look struct {
	seconds float64
	list    []v
	from    string // "agg1" when empty
}

func history(t testing.TB, looks ...look) *History {
	t.Helper()
	h := &History{}
	for _, l := range looks {
		from := l.from
		if from == "" {
			from = "agg1"
		}
		_, err := h.Add(from, at(l.seconds), answer(t, l.list...))
		require.NoError(t, err)
	}
	return h
}

// plain is a scenario with one fault from 0 s to 40 s.
func plain(expect ...scenario.Expectation) *scenario.Scenario {
	return &scenario.Scenario{
		Name: "test", Duration: time.Minute, Settle: 5 * time.Second,
		Faults: []scenario.Fault{{Kind: scenario.PathDropLarger, Until: 40 * time.Second}},
		Expect: expect,
	}
}

func expected(change ...func(*scenario.Expectation)) scenario.Expectation {
	e := scenario.Expectation{Signature: blackHole, Grade: Proven, Within: 15 * time.Second, Scope: scenario.Scope{Zones: []string{"a", "b"}}}
	for _, f := range change {
		f(&e)
	}
	return e
}

// whole is the observation of a complete run of the plain scenario.
func whole(h *History) Observation {
	ended := at(40)
	return Observation{SettleEnd: start(), RunEnd: at(101), Faults: []Fault{{InjectedAt: at(0), EndedAt: &ended}}, History: h}
}
