// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

const second = uint64(time.Second)

var (
	epoch  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	node1  = NodeInfo{Name: "n1", UID: "uid-1", Zone: "a"}
	device = evidence.Subject{Kind: evidence.SubjectDevice, Key: "4026531840/7", Name: "eth0"}
)

// A fixture is a state with a clock of its own and one agent that was booted
// 1,000 s before epoch.
type fixture struct {
	t     *testing.T
	state *State
	now   time.Time
}

func newFixture(t *testing.T, change func(*Config)) *fixture {
	f := &fixture{t: t, now: epoch}
	cfg := Config{Catalog: evidence.NewCatalog(), Now: func() time.Time { return f.now }, Interval: 10 * time.Second}
	if change != nil {
		change(&cfg)
	}
	f.state = New(cfg)
	return f
}

// boottime of the node at the present moment.
func (f *fixture) boottime() uint64 { return 1000*second + uint64(f.now.Sub(epoch)) }

func (f *fixture) batch(kind evidencev1.Batch_Kind, boot string, sequence uint64, change func(*evidencev1.Batch)) *evidencev1.PushRequest {
	b := &evidencev1.Batch{SchemaVersion: 1, NodeUid: "uid-1", BootId: boot, Sequence: sequence, Kind: kind,
		Probes: []*evidencev1.ProbeStatus{f.probe("link", evidencev1.ProbeStatus_OK), f.probe("clock", evidencev1.ProbeStatus_OK)}}
	if change != nil {
		change(b)
	}
	return &evidencev1.PushRequest{Batch: b, SentBoottimeNanoseconds: f.boottime()}
}

func (f *fixture) probe(name string, s evidencev1.ProbeStatus_State) *evidencev1.ProbeStatus {
	return &evidencev1.ProbeStatus{Name: name, State: s, Interval: durationpb.New(10 * time.Second), SampledBoottimeNanoseconds: f.boottime()}
}

func (f *fixture) mtu(bytes int64) *evidencev1.Observation {
	return &evidencev1.Observation{Probe: "link", Subject: device.Proto(), ObservedBoottimeNanoseconds: f.boottime(),
		Items: []*evidencev1.Item{{Id: uint32(evidence.LinkMTUBytes), Rung: "rtnetlink", State: &evidencev1.Item_Integer{Integer: bytes}}}}
}

func (f *fixture) offset(seconds float64) *evidencev1.Observation {
	return &evidencev1.Observation{Probe: "clock", Subject: evidence.Node().Proto(), ObservedBoottimeNanoseconds: f.boottime(),
		Items: []*evidencev1.Item{{Id: uint32(evidence.ClockOffsetSeconds), Uncertainty: 0.003, State: &evidencev1.Item_Number{Number: seconds}}}}
}

func (f *fixture) full(boot string, sequence uint64, observations ...*evidencev1.Observation) Applied {
	return f.apply(f.batch(evidencev1.Batch_FULL, boot, sequence, func(b *evidencev1.Batch) { b.Observations = observations }))
}

func (f *fixture) delta(boot string, sequence uint64, observations ...*evidencev1.Observation) Applied {
	return f.apply(f.batch(evidencev1.Batch_DELTA, boot, sequence, func(b *evidencev1.Batch) { b.Observations = observations }))
}

func (f *fixture) apply(req *evidencev1.PushRequest) Applied {
	f.t.Helper()
	a, err := f.state.Apply(node1, f.now, req)
	require.NoError(f.t, err)
	return a
}

func (f *fixture) fact(kind, key string, id uint32) Fact {
	f.t.Helper()
	v, ok := f.state.View("n1")
	require.True(f.t, ok)
	return v.Fact(kind, key, id)
}

func (f *fixture) mtuFact() Fact {
	return f.fact(device.Kind, device.Key, uint32(evidence.LinkMTUBytes))
}

func TestEvidenceKeepsTheTimeOfTheNodesMonotonicClock(t *testing.T) {
	f := newFixture(t, nil)
	observation := f.mtu(1500)
	observation.ObservedBoottimeNanoseconds -= 4 * second
	req := f.batch(evidencev1.Batch_FULL, "k/1", 1, func(b *evidencev1.Batch) {
		b.Observations = append(b.Observations, observation)
		b.Probes[0].SampledBoottimeNanoseconds -= 3 * second
	})
	// The node's wall clock is years off and must not matter.
	req.SentAt = timestamppb.New(epoch.AddDate(-7, 0, 0))
	require.Equal(t, Applied{AckedSequence: 1}, f.apply(req))
	got := f.mtuFact()
	require.Equal(t, Fact{Status: Value, Value: int64(1500), Rung: "rtnetlink", ObservedAt: epoch.Add(-3 * time.Second)}, got)
}

func TestUnchangedObservationIsAsFreshAsItsProbesLastSample(t *testing.T) {
	f := newFixture(t, nil)
	f.full("k/1", 1, f.mtu(1500))
	for i := uint64(2); i < 20; i++ {
		f.now = f.now.Add(10 * time.Second)
		f.delta("k/1", i)
		require.Equal(t, int64(1500), f.mtuFact().Value)
		require.Equal(t, f.now, f.mtuFact().ObservedAt)
	}
	// The agent goes on, but this probe hangs.
	last := f.boottime()
	for i := uint64(20); i < 24; i++ {
		f.now = f.now.Add(10 * time.Second)
		f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", i, func(b *evidencev1.Batch) { b.Probes[0].SampledBoottimeNanoseconds = last }))
	}
	got := f.mtuFact()
	require.Equal(t, Unknown, got.Status)
	require.Equal(t, evidence.Stale, got.Reason)
}

func TestWhatIsNotMeasuredIsUnknown(t *testing.T) {
	id := uint32(evidence.LinkMTUBytes)
	for _, c := range []struct {
		name   string
		change func(*fixture, *evidencev1.Batch)
		after  time.Duration
		status Status
		reason evidencev1.Unknown_Reason
	}{
		{"a value that is fresh", nil, 0, Value, 0},
		{"a value as old as its time to live", nil, 30 * time.Second, Value, 0},
		{"the probe failed after it gave the value", func(_ *fixture, b *evidencev1.Batch) { b.Probes[0].State = evidencev1.ProbeStatus_FAILED }, 0, Unknown, evidence.Failed},
		{"the probe could not be set up", func(_ *fixture, b *evidencev1.Batch) { b.Probes[0].State = evidencev1.ProbeStatus_UNSUPPORTED }, 0, Unknown, evidence.Blind},
		{"the probe is starting", func(_ *fixture, b *evidencev1.Batch) { b.Probes[0].State = evidencev1.ProbeStatus_STARTING }, 0, Unknown, evidence.WarmingUp},
		{"the probe has nothing to measure", func(_ *fixture, b *evidencev1.Batch) { b.Probes[0].State = evidencev1.ProbeStatus_NO_DATA }, 0, NotApplicable, 0},
		{"a state of a later version", func(_ *fixture, b *evidencev1.Batch) { b.Probes[0].State = 77 }, 0, Unknown, evidence.Failed},
		{"a state that was not set", func(_ *fixture, b *evidencev1.Batch) { b.Probes[0].State = 0 }, 0, Unknown, evidence.Failed},
		{"the agent does not have the probe", func(_ *fixture, b *evidencev1.Batch) { b.Probes = b.Probes[1:] }, 0, Unknown, evidence.Blind},
		{"the item is absent", func(_ *fixture, b *evidencev1.Batch) { b.Observations[0].Items = nil }, 0, Unknown, evidence.Blind},
		{"the subject is absent", func(_ *fixture, b *evidencev1.Batch) { b.Observations = nil }, 0, Unknown, evidence.Blind},
		{"the agent says unknown", func(_ *fixture, b *evidencev1.Batch) {
			b.Observations[0].Items[0].State = &evidencev1.Item_Unknown{Unknown: &evidencev1.Unknown{Reason: evidence.SharedKernel}}
		}, 0, Unknown, evidence.SharedKernel},
		{"the agent says not applicable", func(_ *fixture, b *evidencev1.Batch) {
			b.Observations[0].Items[0].State = &evidencev1.Item_NotApplicable{NotApplicable: &evidencev1.NotApplicable{}}
		}, 0, NotApplicable, 0},
		{"not applicable, and the probe has hung since", func(f *fixture, b *evidencev1.Batch) {
			b.Observations[0].Items[0].State = &evidencev1.Item_NotApplicable{NotApplicable: &evidencev1.NotApplicable{}}
			b.Probes[0].SampledBoottimeNanoseconds -= 20 * second
			b.Observations[0].ObservedBoottimeNanoseconds -= 20 * second
		}, 11 * time.Second, Unknown, evidence.Stale},
		{"an item without a state", func(_ *fixture, b *evidencev1.Batch) { b.Observations[0].Items[0].State = nil }, 0, Unknown, evidence.Failed},
		{"an item of the wrong type", func(_ *fixture, b *evidencev1.Batch) {
			b.Observations[0].Items[0].State = &evidencev1.Item_Text{Text: "1500"}
		}, 0, Unknown, evidence.Failed},
		{"an item that another probe sneaked in", func(_ *fixture, b *evidencev1.Batch) { b.Observations[0].Probe = "clock" }, 0, Unknown, evidence.Blind},
		{"the node is silent", nil, 31 * time.Second, Unknown, evidence.Stale},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, nil)
			req := f.batch(evidencev1.Batch_FULL, "k/1", 1, func(b *evidencev1.Batch) {
				b.Observations = append(b.Observations, f.mtu(1500))
				if c.change != nil {
					c.change(f, b)
				}
			})
			f.apply(req)
			f.now = f.now.Add(c.after)
			got := f.fact(device.Kind, device.Key, id)
			require.Equal(t, c.status, got.Status, got.Detail)
			require.Equal(t, c.reason, got.Reason, got.Detail)
			if c.status != Value {
				require.Nil(t, got.Value)
			}
			if c.status == Unknown && c.reason != evidence.SharedKernel {
				require.NotEmpty(t, got.Detail)
			}
		})
	}
}

func TestAgentCannotClaimAnIntervalThatNeverEnds(t *testing.T) {
	f := newFixture(t, nil)
	hung := f.probe("link", evidencev1.ProbeStatus_OK)
	hung.Interval = durationpb.New(1000 * time.Hour)
	report := func(sequence uint64) {
		f.apply(f.batch(evidencev1.Batch_FULL, "k/1", sequence, func(b *evidencev1.Batch) {
			o := f.mtu(1500)
			o.ObservedBoottimeNanoseconds = hung.GetSampledBoottimeNanoseconds()
			b.Observations, b.Probes = append(b.Observations, o), []*evidencev1.ProbeStatus{hung}
		}))
	}
	report(1)
	f.now = f.now.Add(29 * time.Minute)
	report(2)
	require.Equal(t, Value, f.mtuFact().Status)
	f.now = f.now.Add(2 * time.Minute)
	report(3)
	require.Equal(t, evidence.Stale, f.mtuFact().Reason)
}

func TestOneNewObservationDoesNotRefreshTheOthersOfItsProbe(t *testing.T) {
	f := newFixture(t, nil)
	old := f.mtu(1500)
	old.Items[0].State = &evidencev1.Item_NotApplicable{NotApplicable: &evidencev1.NotApplicable{}}
	sampled := f.boottime()
	f.full("k/1", 1, old)
	f.now = f.now.Add(31 * time.Second)
	f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", 2, func(b *evidencev1.Batch) {
		b.Probes[0].SampledBoottimeNanoseconds = sampled
		other := f.mtu(9000)
		other.Subject.Key = "other"
		b.Observations = append(b.Observations, other)
	}))
	require.Equal(t, int64(9000), f.fact(device.Kind, "other", uint32(evidence.LinkMTUBytes)).Value)
	require.Equal(t, Unknown, f.mtuFact().Status)
	require.Equal(t, evidence.Stale, f.mtuFact().Reason)
}

func TestNumbersThatCompareWithNothingAreUnknown(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		f := newFixture(t, nil)
		f.full("k/1", 1, f.offset(v))
		got := f.fact(evidence.SubjectNode, "node", uint32(evidence.ClockOffsetSeconds))
		require.Equal(t, Unknown, got.Status)
	}
}

func TestItemsOwnTimeToLive(t *testing.T) {
	// clock.offset_seconds holds 150 s: a probe that is asked less often than the
	// agent sends.
	f := newFixture(t, nil)
	sampled := f.boottime()
	f.full("k/1", 1, f.offset(420))
	for i := uint64(2); i <= 16; i++ {
		f.now = f.now.Add(10 * time.Second)
		f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", i, func(b *evidencev1.Batch) { b.Probes[1].SampledBoottimeNanoseconds = sampled }))
	}
	require.Equal(t, 150*time.Second, f.now.Sub(epoch))
	id := uint32(evidence.ClockOffsetSeconds)
	require.Equal(t, 420.0, f.fact("node", "node", id).Value)
	require.InDelta(t, 0.003, f.fact("node", "node", id).Uncertainty, 1e-12)
	v, _ := f.state.View("n1")
	require.Equal(t, f.now.Add(time.Nanosecond), v.Expires())
	f.now = f.now.Add(time.Second)
	require.Equal(t, Unknown, f.fact("node", "node", id).Status)
}

func TestSequences(t *testing.T) {
	f := newFixture(t, nil)
	require.Equal(t, Applied{NeedFull: true, AckedSequence: 4}, f.delta("k/1", 4, f.mtu(9000)), "a delta of an agent that nobody knows")
	require.Equal(t, Unknown, f.mtuFact().Status)
	require.Equal(t, evidence.WarmingUp, f.mtuFact().Reason)
	require.Equal(t, Applied{NeedFull: true, AckedSequence: 5}, f.delta("k/1", 5, f.mtu(9000)), "still no full one")
	require.Equal(t, Applied{AckedSequence: 6}, f.full("k/1", 6, f.mtu(1500)))
	require.Equal(t, Applied{Duplicate: true, AckedSequence: 6}, f.full("k/1", 6, f.mtu(1)), "the same again")
	require.Equal(t, Applied{Duplicate: true, AckedSequence: 6}, f.delta("k/1", 2, f.mtu(1)), "one that was overtaken")
	require.Equal(t, int64(1500), f.mtuFact().Value)
	require.Equal(t, Applied{AckedSequence: 7}, f.delta("k/1", 7, f.mtu(1400)))
	require.Equal(t, int64(1400), f.mtuFact().Value)

	acked, duplicate := f.state.Seen("uid-1", "k/1", 7)
	require.Equal(t, uint64(7), acked)
	require.True(t, duplicate)
	_, duplicate = f.state.Seen("uid-1", "k/1", 8)
	require.False(t, duplicate)
	_, duplicate = f.state.Seen("uid-2", "k/1", 7)
	require.False(t, duplicate)

	require.Equal(t, Applied{NeedFull: true, AckedSequence: 9}, f.delta("k/1", 9, f.mtu(1300)), "after a gap")
	require.Equal(t, int64(1400), f.mtuFact().Value, "a delta after a gap is not applied")
	require.Equal(t, Applied{Duplicate: true, NeedFull: true, AckedSequence: 9}, f.delta("k/1", 9))
	require.Equal(t, Applied{NeedFull: true, AckedSequence: 10}, f.delta("k/1", 10, f.mtu(1300)))
	f.now = f.now.Add(31 * time.Second)
	f.delta("k/1", 11, f.mtu(1300))
	require.Equal(t, evidence.Stale, f.mtuFact().Reason, "it reports, but what is known is old")
	require.Equal(t, Applied{AckedSequence: 12}, f.full("k/1", 12, f.mtu(1300)))
	require.Equal(t, int64(1300), f.mtuFact().Value)
}

func TestRunsOfTheAgent(t *testing.T) {
	f := newFixture(t, nil)
	f.full("k/100", 5, f.mtu(1500))
	require.Equal(t, Applied{NeedFull: true, AckedSequence: 1}, f.delta("k/200", 1), "a new run")
	require.Equal(t, int64(1500), f.mtuFact().Value, "the old evidence stays until it is stale")
	require.Equal(t, Applied{Duplicate: true, AckedSequence: 6}, f.full("k/100", 6, f.mtu(1)), "the old run is over")
	_, duplicate := f.state.Seen("uid-1", "k/100", 99)
	require.True(t, duplicate)
	f.now = f.now.Add(31 * time.Second)
	f.delta("k/200", 2)
	require.Equal(t, evidence.Stale, f.mtuFact().Reason)
	require.Equal(t, Applied{AckedSequence: 3}, f.full("k/200", 3))
	require.Equal(t, evidence.Blind, f.mtuFact().Reason, "the old evidence is dropped")
	require.True(t, f.full("k/150", 1).Duplicate, "a run that began before the present one, never heard of")
	require.Equal(t, Applied{AckedSequence: 1}, f.full("other/1", 1, f.mtu(1200)), "another boot of the kernel")
}

func TestDeltaMergesAndRemoves(t *testing.T) {
	f := newFixture(t, nil)
	f.full("k/1", 1, f.mtu(1500), f.offset(1))
	before, _ := f.state.View("n1")
	f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", 2, func(b *evidencev1.Batch) {
		b.Removed = []*evidencev1.SubjectRef{{Kind: device.Kind, Key: device.Key, Probe: "link"}}
	}))
	after, _ := f.state.View("n1")
	require.Empty(t, after.Subjects(evidence.SubjectDevice))
	require.Equal(t, evidence.Blind, f.mtuFact().Reason)
	require.Equal(t, 1.0, f.fact("node", "node", uint32(evidence.ClockOffsetSeconds)).Value)
	require.Len(t, before.Subjects(evidence.SubjectDevice), 1, "a view does not change under its reader")
	require.Equal(t, int64(1500), before.Fact(device.Kind, device.Key, uint32(evidence.LinkMTUBytes)).Value)
	require.Len(t, after.Subjects(evidence.SubjectNode), 1)
}

func TestARemovalTakesOneProbesWordOnly(t *testing.T) {
	f := newFixture(t, nil)
	f.full("k/1", 1, f.mtu(1500))
	f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", 2, func(b *evidencev1.Batch) {
		b.Removed = []*evidencev1.SubjectRef{{Kind: device.Kind, Key: device.Key, Probe: "oversize"}}
	}))
	require.Equal(t, int64(1500), f.mtuFact().Value, "what link said of the device stays")
}

func TestNodeSubjectAlwaysExists(t *testing.T) {
	f := newFixture(t, nil)
	require.NoError(t, f.state.Know(node1))
	v, ok := f.state.View("n1")
	require.True(t, ok)
	require.Equal(t, []evidence.Subject{evidence.Node()}, v.Subjects(evidence.SubjectNode))
	require.True(t, v.Silent())
	require.Equal(t, Unknown, v.Fact("node", "node", uint32(evidence.ClockOffsetSeconds)).Status)
	_, ok = f.state.View("n2")
	require.False(t, ok)
}

func TestGenerationMovesOnlyWithWhatCanChangeAVerdict(t *testing.T) {
	f := newFixture(t, nil)
	generation := func() uint64 { v, _ := f.state.View("n1"); return v.Generation() }
	f.full("k/1", 1, f.mtu(1500))
	first := generation()
	f.now = f.now.Add(10 * time.Second)
	f.delta("k/1", 2)
	f.full("k/1", 3, f.mtu(1500))
	require.Equal(t, first, generation(), "only time stamps moved")
	f.delta("k/1", 4, f.mtu(1400))
	second := generation()
	require.Greater(t, second, first)
	f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", 5, func(b *evidencev1.Batch) { b.Probes[0].State = evidencev1.ProbeStatus_FAILED }))
	third := generation()
	require.Greater(t, third, second)
	f.now = f.now.Add(time.Minute)
	f.apply(f.batch(evidencev1.Batch_DELTA, "k/1", 6, func(b *evidencev1.Batch) { b.Probes[0].State = evidencev1.ProbeStatus_FAILED }))
	require.Greater(t, generation(), third, "what was stale is fresh again")
}

func TestChangesAreCoalesced(t *testing.T) {
	f := newFixture(t, nil)
	for i := uint64(1); i <= 5; i++ {
		f.full("k/1", i)
	}
	require.Equal(t, "n1", <-f.state.Changed())
	require.Empty(t, f.state.Changed())
	_, _ = f.state.View("n1")
	f.full("k/1", 6)
	require.Len(t, f.state.Changed(), 1)
}

func TestNodeOfTheSameNameIsAnotherMachine(t *testing.T) {
	f := newFixture(t, nil)
	f.full("k/1", 7, f.mtu(1500))
	replaced := node1
	replaced.UID = "uid-9"
	_, err := f.state.Apply(replaced, f.now, f.batch(evidencev1.Batch_FULL, "k/1", 1, nil))
	require.NoError(t, err)
	require.Equal(t, evidence.Blind, f.mtuFact().Reason)
	_, duplicate := f.state.Seen("uid-1", "k/1", 7)
	require.False(t, duplicate)
}

func TestNodeStates(t *testing.T) {
	f := newFixture(t, nil)
	require.NoError(t, f.state.Know(node1, NodeInfo{Name: "n0", UID: "uid-0"}))
	f.full("k/1", 1)
	f.now = f.now.Add(20 * time.Second)
	nodes := f.state.Nodes()
	require.Len(t, nodes, 2)
	require.Equal(t, NodeNever, nodes[0].State)
	require.Equal(t, NodeReporting, nodes[1].State)
	require.Equal(t, epoch, nodes[1].LastBatchAt)
	f.now = f.now.Add(11 * time.Second)
	require.Equal(t, NodeSilent, f.state.Nodes()[1].State)
	require.True(t, f.state.Nodes()[1].StaleProbes["link"])
}
