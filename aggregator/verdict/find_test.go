// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// stalls holds on every drop site with three drops of one flow. It needs to know
// how long the hook has watched before no drop site means no drops.
type stalls struct{ info *signature.Signature }

func (s *stalls) Subjects(view *state.View) []evidence.Subject {
	return view.Subjects(evidence.SubjectDropsite)
}

func (s *stalls) Absence(view *state.View) signature.Result {
	f := view.Fact("node", "node", uint32(evidence.OversizeWatchedSeconds))
	return signature.Result{Signature: s.info, Undecided: f.Status != state.Value, Reason: "nobody watched"}
}

func (s *stalls) Weigh(view *state.View, subject evidence.Subject) signature.Result {
	info, _ := evidence.NewCatalog().ByID(uint32(evidence.OversizeStalledFlowDrops))
	read := signature.Reading{Item: info, Subject: subject, Fact: view.Fact(subject.Kind, subject.Key, info.ID)}
	r := signature.Result{Signature: s.info, Subject: subject, At: view.At, Summary: "stalled"}
	c := signature.ClauseResult{ID: "stalled", Truth: truth(read.Fact, func(v any) bool { return v.(int64) >= 3 }), Weight: 2, Reads: []signature.Reading{read}, Detail: read.Fact.Detail}
	switch c.Truth {
	case signature.True:
		r.Grade, r.Bans, c.Bans, c.Decisive = signature.Proven, 2, 2, true
	case signature.TruthUnknown:
		r.Undecided, r.Reason = true, "drops unknown"
	}
	r.Clauses = []signature.ClauseResult{c}
	return r
}

// A site is a drop site with its device.
type site struct {
	device, pod string
	drops       int64
}

func (b *bench) drops(state evidencev1.ProbeStatus_State, watched bool, sites ...site) {
	b.t.Helper()
	b.sequences["n1"]++
	batch := &evidencev1.Batch{NodeUid: "uid-n1", BootId: b.boot, Sequence: b.sequences["n1"], Kind: evidencev1.Batch_FULL}
	for _, name := range []string{"link", "oversize"} {
		p := &evidencev1.ProbeStatus{Name: name, State: evidencev1.ProbeStatus_OK, Interval: durationpb.New(10 * time.Second), SampledBoottimeNanoseconds: b.boottime()}
		if name == "oversize" {
			p.State = state
		}
		batch.Probes = append(batch.Probes, p)
	}
	add := func(probe string, s evidence.Subject, id uint32, v *evidencev1.Item) {
		v.Id = id
		batch.Observations = append(batch.Observations, &evidencev1.Observation{Probe: probe, Subject: s.Proto(), ObservedBoottimeNanoseconds: b.boottime(), Items: []*evidencev1.Item{v}})
	}
	if watched {
		add("oversize", evidence.Node(), uint32(evidence.OversizeWatchedSeconds), &evidencev1.Item{State: &evidencev1.Item_Number{Number: 60}})
	}
	for _, s := range sites {
		key := b.boot + "/" + s.device + s.pod
		add("link", evidence.Subject{Kind: "device", Key: key, Name: s.device, PodUID: s.pod}, uint32(evidence.LinkMTUBytes), &evidencev1.Item{State: &evidencev1.Item_Integer{Integer: 1500}})
		add("oversize", evidence.Subject{Kind: "dropsite", Key: key + "/f", Name: "f", ParentKey: key, PodUID: s.pod}, uint32(evidence.OversizeStalledFlowDrops), &evidencev1.Item{State: &evidencev1.Item_Integer{Integer: s.drops}})
	}
	_, err := b.state.Apply(b.info("n1"), b.now, &evidencev1.PushRequest{Batch: batch, SentBoottimeNanoseconds: b.boottime()})
	require.NoError(b.t, err)
	b.engine.evaluate(context.Background(), "n1")
}

func stallBench(t *testing.T, scope string) *bench {
	return newBench(t, func(_ *bench, c *Config) {
		info := &signature.Signature{ID: "network/oversize-drop-local", Loop: "network", Scope: scope, Each: "dropsite", KeepFiringFor: 30 * time.Second}
		c.Rules = []Rule{{Info: info, Weigher: &stalls{info}}}
	})
}

func TestDropSiteThatIsGone(t *testing.T) {
	const ok = evidencev1.ProbeStatus_OK
	for _, c := range []struct {
		name string
		then func(*bench)
		want string
	}{
		{"gone while its probe watches", func(b *bench) { b.drops(ok, true) }, "resolved"},
		{"gone, and its probe is starting", func(b *bench) { b.drops(evidencev1.ProbeStatus_STARTING, false) }, "stale"},
		{"gone, and its probe failed", func(b *bench) { b.drops(evidencev1.ProbeStatus_FAILED, true) }, "stale"},
		{"gone, and nobody can say since when it is watched", func(b *bench) { b.drops(ok, false) }, "stale"},
		{"gone, while another one of the device is quiet", func(b *bench) { b.drops(ok, true, site{"eth1", "", 0}) }, "resolved"},
		{"gone, another is quiet, and the probe failed", func(b *bench) { b.drops(evidencev1.ProbeStatus_FAILED, true, site{"eth1", "", 0}) }, "stale"},
	} {
		for _, scope := range []string{"Device", "Node"} {
			t.Run(c.name+" "+scope, func(t *testing.T) {
				b := stallBench(t, scope)
				b.drops(ok, true, site{"eth0", "", 5})
				b.looks("firing", "proven")
				for range 4 {
					b.pass(10 * time.Second)
					c.then(b)
				}
				b.looks(c.want, "proven")
			})
		}
	}
}

func TestDevicesKeepTheirVerdictsOverARestartOfTheNode(t *testing.T) {
	const ok = evidencev1.ProbeStatus_OK
	b := stallBench(t, "Device")
	b.drops(ok, true, site{"eth0", "", 5}, site{"eth0", "pod-1", 5}, site{"eth1", "", 1})
	before := b.engine.Verdicts(Filter{})
	require.Len(t, before, 2, "one of the host's eth0, one of the pod's")
	// The keys of devices change with the boot id, as inode numbers do.
	b.boot, b.sequences["n1"] = "other/1", 0
	b.now = b.now.Add(20 * time.Second)
	b.drops(ok, true, site{"eth0", "", 5}, site{"eth0", "pod-1", 5})
	after := b.engine.Verdicts(Filter{IncludeResolved: true})
	require.Len(t, after, 2)
	for i := range before {
		require.Equal(t, before[i].GetId(), after[i].GetId())
		require.Equal(t, before[i].GetOnset().AsTime(), after[i].GetOnset().AsTime())
		require.Equal(t, "firing", after[i].GetState())
	}
}

func TestQuietSubjectSaysNothingOfOneThatCannotBeSeen(t *testing.T) {
	b := stallBench(t, "Node")
	b.drops(evidencev1.ProbeStatus_OK, true, site{"eth0", "", 5})
	en := b.engine.entries[b.only().GetId()]
	quiet := []signature.Result{{Subject: evidence.Node()}}
	b.drops(evidencev1.ProbeStatus_OK, true)
	view, _ := b.state.View("n1")
	require.Equal(t, ceased, findIn(en, view, quiet).outcome)
	b.drops(evidencev1.ProbeStatus_FAILED, true)
	view, _ = b.state.View("n1")
	require.Equal(t, unseen, findIn(en, view, quiet).outcome)
}

// FuzzRestore: whatever lies in the journal, the engine starts, and shows nothing
// under an id that is not that of its scope.
func FuzzRestore(f *testing.F) {
	b := newBench(f, nil)
	b.report("n1", skewed, nil)
	b.report("n1", right, nil)
	b.pass(30 * time.Second)
	for _, m := range b.journal.records {
		f.Add(m.data)
	}
	f.Add([]byte(`{"version":1,"id":"x","signature":"identity/clock-skew","verdict":null,"gradedAt":null,"phase":"firing"}`))
	f.Add([]byte(`{"version":1,"id":"0be04580cc058706","signature":"identity/clock-skew","scope":{"kind":"Node","node":"n1"},"phase":"firing","grade":"proven","verdict":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := newBench(t, nil)
		b.journal.records = []message{{"verdict.x", "x", data}}
		b.start(nil)
		b.pass(2 * time.Second)
		b.report("n1", skewed, nil)
		for _, v := range b.engine.Verdicts(Filter{IncludeResolved: true}) {
			en := b.engine.entries[v.GetId()]
			require.Equal(t, v.GetId(), en.scope.id("c", en.rule.ID))
		}
	})
}
