// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/aggregator/bus"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/aggregator/verdict"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/signatures"
)

// A fleet is an aggregator without its network: state, the built-in signatures,
// verdict engine and the embedded, fsyncing bus.
type fleet struct {
	tb      testing.TB
	state   *state.State
	engine  *verdict.Engine
	devices int
	began   time.Time
}

func newFleet(tb testing.TB, devices int) *fleet {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	catalog := evidence.NewCatalog()
	loaded, err := signature.LoadBuiltin(signatures.FS, catalog)
	require.NoError(tb, err)
	journal, err := bus.Open(context.Background(), bus.Config{Dir: tb.TempDir(), Tenant: "t", Cluster: "c", Log: log})
	require.NoError(tb, err)
	f := &fleet{tb: tb, devices: devices, began: time.Now().Add(-time.Hour)}
	f.state = state.New(state.Config{Catalog: catalog})
	f.engine, err = verdict.New(verdict.Config{Cluster: "c", State: f.state, Catalog: catalog, Rules: verdict.Rules(loaded), Journal: journal})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.engine.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		require.NoError(tb, <-done)
		require.NoError(tb, journal.Close())
	})
	return f
}

func (f *fleet) boottime() uint64 { return uint64(time.Since(f.began)) }

// report is what a node of that many pod devices sends: everything at first,
// then what changed.
func (f *fleet) report(node int, sequence uint64, offset float64) {
	name := "n" + strconv.Itoa(node)
	b := &evidencev1.Batch{SchemaVersion: 1, NodeUid: "uid-" + name, BootId: "k/1", Sequence: sequence, Kind: evidencev1.Batch_DELTA,
		Observations: []*evidencev1.Observation{f.clock(offset)}}
	if sequence == 1 {
		b.Kind = evidencev1.Batch_FULL
		for i := range f.devices {
			b.Observations = append(b.Observations, f.device(i))
		}
	}
	for _, p := range []string{"clock", "link", "oversize"} {
		b.Probes = append(b.Probes, &evidencev1.ProbeStatus{Name: p, State: evidencev1.ProbeStatus_OK, Interval: durationpb.New(10 * time.Second), SampledBoottimeNanoseconds: f.boottime()})
	}
	_, err := f.state.Apply(state.NodeInfo{Name: name, UID: "uid-" + name, Zone: "zone-" + strconv.Itoa(node%3)}, time.Now(), &evidencev1.PushRequest{Batch: b, SentBoottimeNanoseconds: f.boottime()})
	require.NoError(f.tb, err)
}

func (f *fleet) clock(offset float64) *evidencev1.Observation {
	o := &evidence.Observation{Subject: evidence.Node()}
	o.Number(evidence.ClockOffsetSeconds, offset, 0.01)
	o.Number(evidence.ClockOffsetAtLeastSeconds, offset-0.01, 0)
	o.Integer(evidence.ClockGroupsTotal, 3)
	o.Integer(evidence.ClockGroupsAgreeing, 3)
	o.Integer(evidence.ClockGroupsDissenting, 0)
	o.Text(evidence.ClockFalseSources, "")
	o.Text(evidence.ClockAgreeingSources, "s1, s2, s3")
	o.Integer(evidence.ClockRoundsAgreeing, 5)
	o.Number(evidence.ClockDriftPartsPerMillion, 0, 1)
	o.Flag(evidence.ClockUnsynchronised, false)
	o.Number(evidence.ClockSuspendedSeconds, 0, 0)
	evidence.NotApplicable(o, evidence.ClockStepSeconds, "no step")
	evidence.NotApplicable(o, evidence.ClockPairwiseAgrees, "one clock")
	evidence.NotApplicable(o, evidence.ClockPairwiseOffsetSeconds, "one clock")
	return &evidencev1.Observation{Probe: "clock", Subject: o.Subject.Proto(), ObservedBoottimeNanoseconds: f.boottime(), Items: o.Items}
}

func (f *fleet) device(i int) *evidencev1.Observation {
	o := &evidence.Observation{Subject: evidence.Subject{Kind: evidence.SubjectDevice, Key: fmt.Sprintf("4026531840/%d", i), Name: fmt.Sprintf("veth%d", i)}}
	o.Integer(evidence.LinkMTUBytes, 1450)
	o.Text(evidence.LinkRole, "port")
	o.Text(evidence.LinkType, "veth")
	o.Flag(evidence.LinkUp, true)
	o.Integer(evidence.LinkPeerMTUBytes, 1450)
	o.Integer(evidence.LinkReceiveDroppedTotal, int64(i))
	evidence.NotApplicable(o, evidence.LinkOverheadBytes, "not an overlay device")
	evidence.NotApplicable(o, evidence.LinkUnderlayMTUBytes, "not an overlay device")
	evidence.NotApplicable(o, evidence.LinkExpectedMTUBytes, "not an overlay device")
	evidence.NotApplicable(o, evidence.LinkDontFragment, "not an overlay device")
	return &evidencev1.Observation{Probe: "link", Subject: o.Subject.Proto(), ObservedBoottimeNanoseconds: f.boottime(), Items: o.Items}
}

// BenchmarkDecisiveBatchToVerdict is the time from a batch's arrival in the
// state to the firing verdict, made durable, on an idle aggregator.
func BenchmarkDecisiveBatchToVerdict(b *testing.B) {
	f := newFleet(b, 20)
	_, watch := f.engine.Watch(verdict.Filter{})
	defer watch.Close()
	var took []time.Duration
	node := 0
	for b.Loop() {
		began := time.Now()
		f.report(node, 1, 420)
		node++
		_, err := watch.Next(b.Context())
		require.NoError(b, err)
		took = append(took, time.Since(began))
	}
	percentiles(b, took)
}

// BenchmarkFleet runs 5,000 nodes at one batch per 10 s for the time of
// -benchtime=Nx (N seconds), and makes one clock wrong each second.
func BenchmarkFleet(b *testing.B) {
	for _, devices := range []int{20, 222} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) { runFleet(b, devices) })
	}
}

func runFleet(b *testing.B, devices int) {
	const nodes, perSecond = 5000, 500
	f := newFleet(b, devices)
	for n := range nodes {
		f.report(n, 1, 0.001)
	}
	sequences := make([]uint64, nodes)
	for n := range sequences {
		sequences[n] = 1
	}
	var took []time.Duration
	_, watch := f.engine.Watch(verdict.Filter{})
	defer watch.Close()
	// The storm of the start is over once a late comer has its verdict.
	f.report(nodes, 1, 420)
	awaitFiring(b, watch, "n"+strconv.Itoa(nodes))
	before := cpu(b)
	began := time.Now()
	next, seconds := 0, 0
	for b.Loop() {
		second := time.NewTicker(time.Second / perSecond)
		// Another node each time: the same one comes again after ten seconds.
		decisive := (perSecond/2 + seconds) % perSecond
		for i := range perSecond {
			<-second.C
			sequences[next]++
			if i == decisive {
				wrong := time.Now()
				f.report(next, sequences[next], 420)
				awaitFiring(b, watch, "n"+strconv.Itoa(next))
				took = append(took, time.Since(wrong))
			} else {
				f.report(next, sequences[next], 0.001)
			}
			next = (next + 1) % nodes
		}
		second.Stop()
		seconds++
	}
	b.ReportMetric((cpu(b)-before).Seconds()/time.Since(began).Seconds(), "cores")
	percentiles(b, took)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(m.Sys)/(1<<20), "sys-MiB")
}

func awaitFiring(b *testing.B, watch *verdict.Subscription, node string) {
	for {
		list, err := watch.Next(b.Context())
		require.NoError(b, err)
		for _, v := range list {
			if v.GetState() == "firing" && v.GetReason() == "" && v.GetScope().GetNodes()[0] == node {
				return
			}
		}
	}
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
