// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const second = uint64(time.Second)

// skew is a small signature over the clock, with the rules of a real one: the
// offset alone is likely, with two groups it is proven, a dissenting group
// refutes.
type skew struct {
	info    *signature.Signature
	catalog *evidence.Catalog
	boom    bool
}

func newSkew(change func(*signature.Signature)) *skew {
	info := &signature.Signature{ID: "identity/clock-skew", Title: "Clock skew", Loop: "identity", Severity: "critical", Scope: "Node",
		Each: "node", KeepFiringFor: 30 * time.Second, Hash: "0123456789abcdef"}
	if change != nil {
		change(info)
	}
	return &skew{info: info, catalog: evidence.NewCatalog()}
}

func (s *skew) rule() Rule { return Rule{Info: s.info, Weigher: s} }

func (s *skew) Subjects(view *state.View) []evidence.Subject {
	return view.Subjects(evidence.SubjectNode)
}

func (s *skew) Absence(*state.View) signature.Result { return signature.Result{} }

func (s *skew) read(view *state.View, subject evidence.Subject, id uint32) signature.Reading {
	info, _ := s.catalog.ByID(id)
	return signature.Reading{Item: info, Subject: subject, Fact: view.Fact(subject.Kind, subject.Key, id)}
}

func truth(f state.Fact, ok func(any) bool) signature.Truth {
	switch {
	case f.Status == state.Unknown:
		return signature.TruthUnknown
	case f.Status == state.NotApplicable:
		return signature.TruthNotApplicable
	case ok(f.Value):
		return signature.True
	default:
		return signature.False
	}
}

func (s *skew) Weigh(view *state.View, subject evidence.Subject) signature.Result {
	if s.boom {
		panic("a hole in the signature")
	}
	r := signature.Result{Signature: s.info, Subject: subject, At: view.At, Summary: "the clock is off", Mitigation: "chronyc makestep"}
	add := func(id string, item uint32, bans float64, ok func(any) bool) signature.Truth {
		read := s.read(view, subject, item)
		t := truth(read.Fact, ok)
		c := signature.ClauseResult{ID: id, Kinds: []string{read.Item.Kind}, Truth: t, Weight: bans, Reads: []signature.Reading{read}, Claim: id + " said so", Detail: read.Fact.Detail}
		if t == signature.True {
			c.Bans = bans
			r.Bans += bans
		}
		if t == signature.TruthUnknown {
			r.Missing = append(r.Missing, read)
		}
		r.Clauses = append(r.Clauses, c)
		return t
	}
	offset := add("offset", uint32(evidence.ClockOffsetAtLeastSeconds), 2.1, func(v any) bool { return v.(float64) > 0.5 })
	groups := add("groups", uint32(evidence.ClockGroupsAgreeing), 0.5, func(v any) bool { return v.(int64) >= 2 })
	liar := s.read(view, subject, uint32(evidence.ClockGroupsDissenting))
	dissent := truth(liar.Fact, func(v any) bool { return v.(int64) > 0 })
	r.Refuters = []signature.RefuterResult{{ID: "liar", Rival: "a lying source", Truth: dissent, Because: "a group dissents", Exonerates: "no group dissents", Reads: []signature.Reading{liar}, Detail: liar.Fact.Detail}}
	switch {
	case offset == signature.True && dissent == signature.True:
		r.Grade, r.Reason = signature.Refuted, "a group dissents"
	case r.Bans < 1:
		r.Undecided = offset == signature.TruthUnknown
		r.Reason = "the clock is right"
		if r.Undecided {
			r.Reason = "cannot be decided"
		}
	case groups == signature.True && dissent == signature.False:
		r.Grade, r.ProofSet, r.Missing = signature.Proven, "sources", nil
		r.Clauses[0].Decisive, r.Clauses[1].Decisive = true, true
	default:
		r.Grade, r.Reason = signature.Likely, "not proven: groups"
	}
	return r
}

// journal is a bus in memory that can be broken.
type journal struct {
	mu      sync.Mutex
	broken  error
	records []message
}

type message struct {
	subject, id string
	data        []byte
}

func (j *journal) Publish(_ context.Context, subject, id string, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	j.records = append(j.records, message{subject, id, data})
	return nil
}

func (j *journal) Replay(_ context.Context, _ string, fn func(string, time.Time, []byte) error) error {
	for _, m := range j.records {
		if err := fn(m.subject, time.Time{}, m.data); err != nil {
			return err
		}
	}
	return nil
}

type director struct {
	err  error
	sent []string
}

func (d *director) Direct(node string, dir *evidencev1.Directive) error {
	d.sent = append(d.sent, node+" "+dir.GetSampleProbe().GetProbe())
	return d.err
}

// A bench is a state and an engine on one clock of their own, with agents that
// were booted 1,000 s before epoch.
type bench struct {
	t         testing.TB
	now       time.Time
	state     *state.State
	engine    *Engine
	journal   *journal
	director  *director
	skew      *skew
	sequences map[string]uint64
	boot      string
}

func newBench(t testing.TB, change func(*bench, *Config)) *bench {
	b := &bench{t: t, now: epoch, journal: &journal{}, director: &director{}, skew: newSkew(nil), sequences: map[string]uint64{}, boot: "k/1"}
	b.start(change)
	return b
}

// start makes state and engine anew, as a restart of the aggregator does.
func (b *bench) start(change func(*bench, *Config)) {
	b.state = state.New(state.Config{Now: func() time.Time { return b.now }, Interval: 10 * time.Second})
	cfg := Config{Cluster: "c", State: b.state, Journal: b.journal, Director: b.director, Now: func() time.Time { return b.now }, Rules: []Rule{b.skew.rule()}}
	if change != nil {
		change(b, &cfg)
	}
	var err error
	b.engine, err = New(cfg)
	require.NoError(b.t, err)
	require.NoError(b.t, b.engine.Restore(context.Background()))
}

func (b *bench) info(node string) state.NodeInfo {
	return state.NodeInfo{Name: node, UID: "uid-" + node, Zone: "zone-a"}
}

func (b *bench) boottime() uint64 { return 1000*second + uint64(b.now.Sub(epoch)) }

// clock is what an agent says of its clock: nil leaves the item out.
type clock struct {
	offset, agreeing, dissenting any
}

var (
	skewed = clock{420.0, int64(3), int64(0)}
	right  = clock{0.001, int64(3), int64(0)}
	lied   = clock{420.0, int64(2), int64(1)}
)

func (b *bench) report(node string, c clock, change func(*evidencev1.Batch)) {
	b.t.Helper()
	b.sequences[node]++
	o := &evidencev1.Observation{Probe: "clock", Subject: evidence.Node().Proto(), ObservedBoottimeNanoseconds: b.boottime()}
	for id, v := range map[uint32]any{uint32(evidence.ClockOffsetAtLeastSeconds): c.offset, uint32(evidence.ClockGroupsAgreeing): c.agreeing, uint32(evidence.ClockGroupsDissenting): c.dissenting} {
		it := &evidencev1.Item{Id: id, Rung: "sntp"}
		switch v := v.(type) {
		case float64:
			it.State, it.Uncertainty = &evidencev1.Item_Number{Number: v}, 0.003
		case int64:
			it.State = &evidencev1.Item_Integer{Integer: v}
		default:
			it.State = &evidencev1.Item_Unknown{Unknown: &evidencev1.Unknown{Reason: evidence.Failed, Detail: "no answer"}}
		}
		o.Items = append(o.Items, it)
	}
	batch := &evidencev1.Batch{SchemaVersion: 1, NodeUid: "uid-" + node, BootId: b.boot, Sequence: b.sequences[node], Kind: evidencev1.Batch_FULL,
		Observations: []*evidencev1.Observation{o},
		Probes:       []*evidencev1.ProbeStatus{{Name: "clock", State: evidencev1.ProbeStatus_OK, Interval: durationpb.New(10 * time.Second), SampledBoottimeNanoseconds: b.boottime()}}}
	if change != nil {
		change(batch)
	}
	_, err := b.state.Apply(b.info(node), b.now, &evidencev1.PushRequest{Batch: batch, SentBoottimeNanoseconds: b.boottime()})
	require.NoError(b.t, err)
	b.engine.evaluate(context.Background(), node)
}

// pass lets time go by in ticks, without a batch.
func (b *bench) pass(d time.Duration) {
	for ; d > 0; d -= time.Second {
		b.now = b.now.Add(min(d, time.Second))
		b.engine.tick(context.Background())
	}
}

// only is the one verdict that is listed, resolved ones included.
func (b *bench) only() *apiv1.Verdict {
	b.t.Helper()
	list := b.engine.Verdicts(Filter{IncludeResolved: true})
	require.Len(b.t, list, 1)
	return list[0]
}

func (b *bench) looks(state, grade string) {
	b.t.Helper()
	v := b.only()
	require.Equal(b.t, state+" "+grade, v.GetState()+" "+v.GetGrade(), v.GetReason())
}

var errDisk = errors.New("disk full")
