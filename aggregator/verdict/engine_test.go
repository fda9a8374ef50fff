// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func TestLifeOfAVerdict(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", right, nil)
	require.Empty(t, b.engine.Verdicts(Filter{IncludeResolved: true}))

	b.now = b.now.Add(10 * time.Second)
	b.report("n1", clock{420.0, nil, int64(0)}, nil)
	b.looks("firing", "likely")
	first := b.only()
	require.Equal(t, epoch.Add(10*time.Second), first.GetOnset().AsTime())
	require.NotEmpty(t, first.GetReason())
	require.Len(t, first.GetUnknown(), 1)
	require.Equal(t, "failed", first.GetUnknown()[0].GetReason())
	require.Equal(t, "clock.groups_agreeing", first.GetUnknown()[0].GetEvidence())

	b.now = b.now.Add(10 * time.Second)
	b.report("n1", skewed, nil)
	b.looks("firing", "proven")
	v := b.only()
	require.Equal(t, first.GetId(), v.GetId())
	require.Equal(t, first.GetOnset().AsTime(), v.GetOnset().AsTime())
	require.Equal(t, epoch.Add(10*time.Second), v.GetGradedAt()["suspected"].AsTime())
	require.Equal(t, epoch.Add(10*time.Second), v.GetGradedAt()["likely"].AsTime())
	require.Equal(t, epoch.Add(20*time.Second), v.GetGradedAt()["proven"].AsTime())
	require.Equal(t, "sources", v.GetProofSet())
	require.Empty(t, v.GetReason())
	require.Equal(t, "no group dissents", v.GetRefuted()[0].GetBecause())
	require.Equal(t, []string{"n1"}, v.GetScope().GetNodes())
	require.Equal(t, []string{"zone-a"}, v.GetScope().GetZones())
	require.True(t, v.GetProof()[0].GetDecisive())
	require.Equal(t, 420.0, v.GetProof()[0].GetValue().AsMap()["clock.offset_at_least_seconds"])
	require.Equal(t, "clock.offset_at_least_seconds ± 0.003 seconds", v.GetProof()[0].GetUncertainty())

	b.now = b.now.Add(10 * time.Second)
	b.report("n1", right, nil)
	b.looks("firing", "proven")
	require.Contains(t, b.only().GetReason(), "no longer holds")
	b.pass(29 * time.Second)
	b.looks("firing", "proven")
	b.report("n1", right, nil)
	b.pass(time.Second)
	b.looks("resolved", "proven")
	require.Equal(t, b.now, b.only().GetResolvedAt().AsTime())
	require.Empty(t, b.engine.Verdicts(Filter{}), "resolved ones are listed only when asked for")

	b.now = b.now.Add(10 * time.Second)
	b.report("n1", skewed, nil)
	b.looks("firing", "proven")
	again := b.only()
	require.Equal(t, first.GetId(), again.GetId())
	require.Equal(t, b.now, again.GetOnset().AsTime(), "it began anew")
	require.Nil(t, again.GetResolvedAt())
	require.Equal(t, b.now, again.GetGradedAt()["likely"].AsTime())
}

func TestPendingWaitsForFor(t *testing.T) {
	b := newBench(t, func(b *bench, _ *Config) { b.skew.info.For = 15 * time.Second })
	b.report("n1", skewed, nil)
	b.looks("pending", "proven")
	b.pass(14 * time.Second)
	b.looks("pending", "proven")
	b.pass(time.Second)
	b.looks("firing", "proven")
	require.Equal(t, epoch, b.only().GetOnset().AsTime())

	b = newBench(t, func(b *bench, _ *Config) { b.skew.info.For = 15 * time.Second })
	b.report("n1", skewed, nil)
	b.now = b.now.Add(5 * time.Second)
	b.report("n1", right, nil)
	require.Empty(t, b.engine.Verdicts(Filter{IncludeResolved: true}), "what never fired leaves nothing behind")

	b = newBench(t, func(b *bench, _ *Config) { b.skew.info.For = 40 * time.Second })
	b.report("n1", skewed, nil)
	b.pass(35 * time.Second)
	b.looks("pending", "proven")
	b.report("n1", skewed, nil)
	b.pass(20 * time.Second)
	b.looks("pending", "proven")
}

// The staleness matrix: no way of not knowing may resolve a verdict.
func TestMissingDataNeverResolves(t *testing.T) {
	probe := func(s evidencev1.ProbeStatus_State) func(*evidencev1.Batch) {
		return func(b *evidencev1.Batch) { b.Probes[0].State = s }
	}
	for _, c := range []struct {
		name   string
		silent bool
		clock  clock
		change func(*evidencev1.Batch)
	}{
		{"the node is silent", true, clock{}, nil},
		{"the probe failed", false, skewed, probe(evidencev1.ProbeStatus_FAILED)},
		{"the probe failed and says all is well", false, right, probe(evidencev1.ProbeStatus_FAILED)},
		{"the probe is starting, as after a restart of the agent", false, right, probe(evidencev1.ProbeStatus_STARTING)},
		{"the probe cannot be set up any more", false, right, probe(evidencev1.ProbeStatus_UNSUPPORTED)},
		{"the probe is gone", false, right, func(b *evidencev1.Batch) { b.Probes = nil }},
		{"everything is unknown", false, clock{}, nil},
		{"what decided is unknown, the rest speaks for it", false, clock{420.0, nil, int64(0)}, nil},
		{"the other half of what decided is unknown", false, clock{nil, int64(3), int64(0)}, nil},
		{"the observation is missing", false, right, func(b *evidencev1.Batch) { b.Observations = nil }},
		{"a delta that cannot be applied", false, right, func(b *evidencev1.Batch) {
			b.Kind, b.BootId = evidencev1.Batch_DELTA, "k/9"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.report("n1", skewed, nil)
			b.looks("firing", "proven")
			onset := b.only().GetOnset().AsTime()
			for range 30 {
				if !c.silent {
					b.report("n1", c.clock, c.change)
				}
				b.pass(10 * time.Second)
			}
			b.looks("stale", "proven")
			require.NotEmpty(t, b.only().GetReason())
			if c.silent {
				require.Contains(t, b.only().GetReason(), "node n1 is silent")
			}
			require.Nil(t, b.only().GetResolvedAt())
			require.NotEmpty(t, b.only().GetProof(), "the proof chain stays")
			b.boot = "k/99"
			b.report("n1", skewed, nil)
			b.looks("firing", "proven")
			require.Equal(t, onset, b.only().GetOnset().AsTime())
			b.report("n1", clock{}, nil)
			b.looks("stale", "proven")
			b.report("n1", right, nil)
			b.looks("firing", "proven")
			b.pass(30 * time.Second)
			b.looks("resolved", "proven")
		})
	}
}

func TestKeepFiringCountsAnewAfterSightWasLost(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	b.report("n1", right, nil)
	b.pass(20 * time.Second)
	b.report("n1", clock{}, nil)
	b.pass(20 * time.Second)
	b.report("n1", right, nil)
	b.looks("firing", "proven")
	b.pass(29 * time.Second)
	b.looks("firing", "proven")
	b.pass(time.Second)
	b.looks("resolved", "proven")
}

func TestGradeFallsOnlyOnEvidence(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	b.now = b.now.Add(time.Second)
	b.report("n1", clock{420.0, int64(1), int64(0)}, nil)
	b.looks("firing", "likely")
	require.Contains(t, b.only().GetGradedAt(), "proven", "that it was once proven stays on record")
}

func TestRefutedVerdict(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", lied, nil)
	b.looks("refuted", "refuted")
	v := b.only()
	require.Equal(t, "identity/clock-skew", v.GetRefuted()[0].GetSignature())
	require.Equal(t, "a group dissents", v.GetRefuted()[0].GetBecause())
	require.Equal(t, "a group dissents", v.GetReason())
	require.Empty(t, b.journal.records, "what never fired is not kept")
	for range 61 {
		b.report("n1", right, nil)
		b.pass(10 * time.Second)
	}
	require.Empty(t, b.engine.Verdicts(Filter{IncludeResolved: true}), "ten minutes after it ceased")

	t.Run("a firing one is refuted only after keepFiringFor", func(t *testing.T) {
		b := newBench(t, nil)
		b.report("n1", skewed, nil)
		b.report("n1", lied, nil)
		b.looks("firing", "proven")
		b.pass(15 * time.Second)
		b.report("n1", lied, nil)
		b.pass(15 * time.Second)
		b.looks("refuted", "refuted")
		require.Equal(t, b.now, b.only().GetResolvedAt().AsTime())
		b.now = b.now.Add(time.Second)
		b.report("n1", skewed, nil)
		b.looks("firing", "proven")
		require.Equal(t, b.now, b.only().GetOnset().AsTime())
	})
}

func TestIDs(t *testing.T) {
	// Fixed: a change here would make every verdict a new one after an upgrade.
	id := scope{Kind: scopeNode, Node: "n1"}.id("c", "identity/clock-skew")
	require.Equal(t, "0be04580cc058706", id)
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	require.Equal(t, id, b.only().GetId())
	seen := map[string]bool{id: true}
	for _, other := range []scope{
		{Kind: scopeNode, Node: "n2"}, {Kind: scopeDevice, Node: "n1"}, {Kind: scopeDevice, Node: "n1", Device: "eth0"},
		{Kind: scopeDevice, Node: "n1", Device: "eth0", Pod: "p"}, {Kind: scopePod, Node: "n1", Pod: "p"}, {Kind: scopePod, Node: "n1", Pod: "eth0"},
	} {
		got := other.id("c", "identity/clock-skew")
		require.False(t, seen[got], "%v", other)
		seen[got] = true
	}
	require.NotEqual(t, id, scope{Kind: scopeNode, Node: "n1"}.id("d", "identity/clock-skew"))
	require.NotEqual(t, id, scope{Kind: scopeNode, Node: "n1"}.id("c", "identity/clock-drift"))
}

func TestScopes(t *testing.T) {
	catalog := evidence.NewCatalog()
	eth0 := evidence.Subject{Kind: evidence.SubjectDevice, Key: "4026531840/2", Name: "eth0"}
	pod := evidence.Subject{Kind: evidence.SubjectDevice, Key: "4026532999/3", Name: "eth0", PodUID: "p"}
	site := evidence.Subject{Kind: evidence.SubjectDropsite, Key: "4026532999/3/ip_forward", Name: "ip_forward", ParentKey: pod.Key, PodUID: "p"}
	orphan := evidence.Subject{Kind: evidence.SubjectDropsite, Key: "x", Name: "br_forward", ParentKey: "gone"}
	view := state.NewView(state.NodeInfo{Name: "n1"}, epoch, map[evidence.Subject]map[uint32]state.Fact{eth0: nil, pod: nil, site: nil, orphan: nil})
	for _, c := range []struct {
		name, kind string
		subject    evidence.Subject
		want       scope
	}{
		{"node", "Node", site, scope{Kind: "Node", Node: "n1"}},
		{"device of the host", "Device", eth0, scope{Kind: "Device", Node: "n1", Device: "eth0"}},
		{"device of a pod has the same name and another scope", "Device", pod, scope{Kind: "Device", Node: "n1", Device: "eth0", Pod: "p"}},
		{"a drop site counts as its device", "Device", site, scope{Kind: "Device", Node: "n1", Device: "eth0", Pod: "p"}},
		{"a drop site whose device is not reported stands for itself", "Device", orphan, scope{Kind: "Device", Node: "n1", Device: "br_forward"}},
		{"pod", "Pod", site, scope{Kind: "Pod", Node: "n1", Pod: "p"}},
		{"what belongs to no pod counts as its device", "Pod", eth0, scope{Kind: "Device", Node: "n1", Device: "eth0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, scopeOf(catalog, &signature.Signature{Scope: c.kind}, view, c.subject))
		})
	}
}

func TestEvidenceOfOneNodeStaysOutOfAnothersVerdicts(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	b.report("n2", right, nil)
	b.report("n3", clock{}, nil)
	v := b.only()
	require.Equal(t, []string{"n1"}, v.GetScope().GetNodes())
	b.report("n2", lied, nil)
	b.report("n1", skewed, nil)
	list := b.engine.Verdicts(Filter{Node: "n1"})
	require.Len(t, list, 1)
	require.Equal(t, "firing", list[0].GetState())
	require.Equal(t, "refuted", b.engine.Verdicts(Filter{Node: "n2"})[0].GetState())
	for _, p := range list[0].GetProof() {
		require.Equal(t, "n1", p.GetNode())
	}
}

func TestAMachineThatTakesTheNameOfAnotherIsLookedAt(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", right, nil)
	require.Empty(t, b.engine.Verdicts(Filter{}))
	// Both have sent one batch, so that the generations of their evidence agree.
	batch := &evidencev1.Batch{NodeUid: "uid-new", BootId: "k2/1", Sequence: 1, Kind: evidencev1.Batch_FULL,
		Probes: []*evidencev1.ProbeStatus{{Name: "clock", State: evidencev1.ProbeStatus_OK, SampledBoottimeNanoseconds: b.boottime()}},
		Observations: []*evidencev1.Observation{{Probe: "clock", Subject: evidence.Node().Proto(), ObservedBoottimeNanoseconds: b.boottime(), Items: []*evidencev1.Item{
			{Id: uint32(evidence.ClockOffsetAtLeastSeconds), State: &evidencev1.Item_Number{Number: 7}}}}}}
	info := b.info("n1")
	info.UID = "uid-new"
	_, err := b.state.Apply(info, b.now, &evidencev1.PushRequest{Batch: batch, SentBoottimeNanoseconds: b.boottime()})
	require.NoError(t, err)
	b.engine.evaluate(context.Background(), "n1")
	b.looks("firing", "likely")
}

func TestSignatureThatPanicsCostsOnlyItself(t *testing.T) {
	other := newSkew(func(s *signature.Signature) { s.ID = "identity/other" })
	b := newBench(t, func(b *bench, c *Config) { c.Rules = append(c.Rules, other.rule()) })
	b.report("n1", skewed, nil)
	other.boom = true
	b.report("n1", skewed, nil)
	require.Equal(t, "firing", b.engine.Verdicts(Filter{Signature: "identity/clock-skew"})[0].GetState())
	require.Equal(t, "stale", b.engine.Verdicts(Filter{Signature: "identity/other"})[0].GetState())
	list, _ := b.engine.Explain("n1")
	require.Len(t, list, 2)
	require.Equal(t, "unknown", list[1].GetResult())
}

func TestConsequencesAreListedUnderTheirCause(t *testing.T) {
	effect := newSkew(func(s *signature.Signature) { s.ID = "identity/token-stalled" })
	registry := prometheus.NewRegistry()
	b := newBench(t, func(b *bench, c *Config) {
		b.skew.info.Consequences = []string{"identity/token-stalled", "identity/never-shipped"}
		c.Rules = append(c.Rules, effect.rule())
		c.Registerer = registry
	})
	b.report("n1", skewed, nil)
	b.report("n2", skewed, nil)
	cause := b.engine.Verdicts(Filter{Node: "n1", Signature: "identity/clock-skew"})[0]
	explained := b.engine.Verdicts(Filter{Node: "n1", Signature: "identity/token-stalled"})[0]
	require.Equal(t, []string{explained.GetId()}, cause.GetConsequences())
	require.Empty(t, explained.GetConsequences())
	require.Equal(t, "firing", explained.GetState())
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP plumb_verdict_active Firing verdicts (stale ones count) that no other firing verdict explains.
# TYPE plumb_verdict_active gauge
plumb_verdict_active{scope="Node",severity="critical",signature="identity/clock-skew",zone="zone-a"} 2
# HELP plumb_verdict_proven Those of plumb_verdict_active that are proven.
# TYPE plumb_verdict_proven gauge
plumb_verdict_proven{scope="Node",severity="critical",signature="identity/clock-skew",zone="zone-a"} 2
`), "plumb_verdict_active", "plumb_verdict_proven"))
}

func TestDirectives(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", clock{420.0, nil, int64(0)}, nil)
	require.Equal(t, []string{"n1 clock"}, b.director.sent)
	b.now = b.now.Add(5 * time.Second)
	b.report("n1", clock{420.0, nil, int64(0)}, nil)
	require.Len(t, b.director.sent, 1, "once in ten seconds")
	b.report("n2", clock{420.0, nil, int64(0)}, nil)
	require.Equal(t, "n2 clock", b.director.sent[1])
	b.pass(5 * time.Second)
	b.report("n1", clock{420.0, nil, int64(0)}, nil)
	require.Len(t, b.director.sent, 3)
	b.pass(20 * time.Second)
	b.report("n1", skewed, nil)
	b.report("n2", clock{nil, nil, nil}, nil)
	require.Len(t, b.director.sent, 3, "neither what is proven nor what nothing speaks for")
	b.pass(20 * time.Second)
	b.report("n2", clock{420.0, nil, int64(0)}, func(batch *evidencev1.Batch) {
		for _, it := range batch.Observations[0].Items {
			if u := it.GetUnknown(); u != nil {
				u.Reason = evidence.Blind
			}
		}
	})
	require.Len(t, b.director.sent, 3, "asking does not give sight to the blind")
}

func TestRunFollowsTheState(t *testing.T) {
	b := newBench(t, func(_ *bench, c *Config) { c.Coalesce = time.Millisecond })
	ctx, cancel := context.WithCancel(context.Background())
	_, watch := b.engine.Watch(Filter{})
	defer watch.Close()
	done := make(chan error)
	go func() { done <- b.engine.Run(ctx) }()
	_, err := b.state.Apply(b.info("n1"), b.now, &evidencev1.PushRequest{SentBoottimeNanoseconds: b.boottime(), Batch: &evidencev1.Batch{
		BootId: "k/1", Sequence: 1, Kind: evidencev1.Batch_FULL,
		Probes: []*evidencev1.ProbeStatus{{Name: "clock", State: evidencev1.ProbeStatus_OK, SampledBoottimeNanoseconds: b.boottime()}},
		Observations: []*evidencev1.Observation{{Probe: "clock", Subject: evidence.Node().Proto(), ObservedBoottimeNanoseconds: b.boottime(), Items: []*evidencev1.Item{
			{Id: uint32(evidence.ClockOffsetAtLeastSeconds), State: &evidencev1.Item_Number{Number: 7}}}}},
	}})
	require.NoError(t, err)
	waitCtx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	changes, err := watch.Next(waitCtx)
	require.NoError(t, err)
	require.Equal(t, "firing", changes[0].GetState())
	cancel()
	require.NoError(t, <-done)
}
