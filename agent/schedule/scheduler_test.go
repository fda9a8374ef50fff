// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// fakeProbe reports one device; what it does next is set by the test.
type fakeProbe struct {
	mu     sync.Mutex
	name   string
	sample func(ctx context.Context, dst *evidence.Sample) error
	calls  int
	wake   func()
}

func (p *fakeProbe) Name() string { return p.name }

func (p *fakeProbe) Sample(ctx context.Context, dst *evidence.Sample) error {
	p.mu.Lock()
	fn := p.sample
	p.calls++
	p.mu.Unlock()
	return fn(ctx, dst)
}

func (p *fakeProbe) Watch(ctx context.Context, wake func()) error {
	p.mu.Lock()
	p.wake = wake
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (p *fakeProbe) set(fn func(ctx context.Context, dst *evidence.Sample) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sample = fn
}

func (p *fakeProbe) waker() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wake
}

// fakeUplink records what it is told.
type fakeUplink struct {
	mu       sync.Mutex
	wakes    int
	episodes []*evidencev1.Episode
}

func (u *fakeUplink) Wake() { u.mu.Lock(); u.wakes++; u.mu.Unlock() }

func (u *fakeUplink) Episode(e *evidencev1.Episode) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.episodes = append(u.episodes, e)
}

func (u *fakeUplink) woken() int { u.mu.Lock(); defer u.mu.Unlock(); return u.wakes }

func (u *fakeUplink) heard() []*evidencev1.Episode {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*evidencev1.Episode(nil), u.episodes...)
}

var device = evidence.Subject{Kind: evidence.SubjectDevice, Key: "1/2", Name: "eth0"}

// healthy reports every item of the clock probe for the node, all of one value.
func healthy(ctx context.Context, dst *evidence.Sample) error {
	o := dst.Observe(evidence.Node(), "test")
	for _, it := range evidence.NewCatalog().ItemsOf("clock", evidence.SubjectNode) {
		switch it.Type {
		case evidence.TypeInteger:
			o.Integer(evidence.IntegerID(it.ID), 1)
		case evidence.TypeNumber:
			o.Number(evidence.NumberID(it.ID), 1, 0)
		case evidence.TypeFlag:
			o.Flag(evidence.FlagID(it.ID), true)
		default:
			o.Text(evidence.TextID(it.ID), "x")
		}
	}
	return nil
}

type harness struct {
	s      *Scheduler
	ledger *ledger.Ledger
	uplink *fakeUplink
	reg    *prometheus.Registry
}

func start(t *testing.T, specs ...Spec) *harness {
	t.Helper()
	h := &harness{ledger: ledger.New(), uplink: &fakeUplink{}, reg: prometheus.NewRegistry()}
	s, err := New(Config{
		Probes: specs, Catalog: evidence.NewCatalog(), Ledger: h.ledger, Clock: hostclock.New(), Uplink: h.uplink,
		NodeUID: "uid", BootID: "boot", Interval: time.Hour, Timeout: 50 * time.Millisecond, Quiet: time.Millisecond,
		Registerer: h.reg,
	})
	require.NoError(t, err)
	h.s = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	testutils.Eventually(t, 2*time.Second, "every probe was sampled once", s.Ready)
	return h
}

func (h *harness) status(t *testing.T, name string) *evidencev1.ProbeStatus {
	t.Helper()
	for _, p := range h.ledger.Full().Probes {
		if p.GetName() == name {
			return p
		}
	}
	t.Fatalf("no status of probe %q", name)
	return nil
}

func allUnknown(o *evidencev1.Observation) bool {
	for _, it := range o.GetItems() {
		if it.GetUnknown() == nil {
			return false
		}
	}
	return len(o.GetItems()) > 0
}

func TestProbeOutcomes(t *testing.T) {
	tests := []struct {
		name     string
		sample   func(ctx context.Context, dst *evidence.Sample) error
		state    evidencev1.ProbeStatus_State
		detail   string
		evidence bool
		unknown  bool
	}{
		{name: "a complete sample is evidence as it stands", sample: healthy, state: evidencev1.ProbeStatus_OK, evidence: true},
		{
			name:   "an error turns the node's items into unknown",
			sample: func(context.Context, *evidence.Sample) error { return errors.New("read /proc/x: permission denied") },
			state:  evidencev1.ProbeStatus_FAILED, detail: "permission denied", evidence: true, unknown: true,
		},
		{
			name:   "a panic costs the probe's evidence and nothing else",
			sample: func(context.Context, *evidence.Sample) error { panic("boom") },
			state:  evidencev1.ProbeStatus_FAILED, detail: "panic: boom", evidence: true, unknown: true,
		},
		{
			name: "a probe that honours its context is timed out",
			sample: func(ctx context.Context, _ *evidence.Sample) error {
				<-ctx.Done()
				return ctx.Err()
			},
			state: evidencev1.ProbeStatus_FAILED, detail: "deadline", evidence: true, unknown: true,
		},
		{
			name:   "a kernel that cannot answer makes the probe unsupported and its items blind",
			sample: func(context.Context, *evidence.Sample) error { return fmt.Errorf("no BTF: %w", probe.ErrNotSupported) },
			state:  evidencev1.ProbeStatus_UNSUPPORTED, detail: "no BTF", evidence: true, unknown: true,
		},
		{
			name:   "nothing to measure here is no evidence and no failure",
			sample: func(context.Context, *evidence.Sample) error { return probe.ErrNoData },
			state:  evidencev1.ProbeStatus_NO_DATA, detail: "no data",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ignore := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
			h := start(t, Spec{Name: "clock", Probe: &fakeProbe{name: "clock", sample: tt.sample}})
			status := h.status(t, "clock")
			require.Equal(t, tt.state, status.GetState())
			require.Contains(t, status.GetDetail(), tt.detail)
			observations := h.ledger.Observations("clock")
			require.Equal(t, tt.evidence, len(observations) > 0)
			if tt.evidence {
				require.Equal(t, tt.unknown, allUnknown(observations[0]))
			}
		})
	}
}

func TestAProbeThatIgnoresItsContextIsNotCalledAgainUntilItCameBack(t *testing.T) {
	release := make(chan struct{})
	p := &fakeProbe{name: "clock", sample: func(context.Context, *evidence.Sample) error { <-release; return nil }}
	other := &fakeProbe{name: "link", sample: func(context.Context, *evidence.Sample) error { return probe.ErrNoData }}
	h := start(t, Spec{Name: "clock", Probe: p}, Spec{Name: "link", Probe: other})
	require.Equal(t, evidencev1.ProbeStatus_FAILED, h.status(t, "clock").GetState())

	require.ErrorContains(t, h.s.SampleNow(t.Context(), "clock"), "hangs")
	require.NoError(t, ignoreNoData(h.s.SampleNow(t.Context(), "link")), "the other probe goes on")
	p.mu.Lock()
	require.Equal(t, 1, p.calls)
	p.mu.Unlock()

	p.set(healthy)
	close(release)
	testutils.Eventually(t, 2*time.Second, "the probe is sampled again after it came back", func() bool {
		return h.s.SampleNow(t.Context(), "clock") == nil
	})
	require.Equal(t, evidencev1.ProbeStatus_OK, h.status(t, "clock").GetState())
}

func ignoreNoData(err error) error {
	if errors.Is(err, probe.ErrNoData) {
		return nil
	}
	return err
}

func TestItemsLeftOutAreUnknownAndCounted(t *testing.T) {
	p := &fakeProbe{name: "clock", sample: func(_ context.Context, dst *evidence.Sample) error {
		dst.Observe(evidence.Node(), "test").Number(evidence.ClockOffsetSeconds, 0, 0.1)
		return nil
	}}
	h := start(t, Spec{Name: "clock", Probe: p})
	catalog := evidence.NewCatalog()
	o := h.ledger.Observations("clock")[0]
	require.Len(t, o.GetItems(), len(catalog.ItemsOf("clock", evidence.SubjectNode)))
	for _, it := range o.GetItems() {
		if it.GetId() != uint32(evidence.ClockOffsetSeconds) {
			require.NotNil(t, it.GetUnknown(), "item %d", it.GetId())
		}
	}
	require.InDelta(t, float64(len(o.GetItems())-1), testutil.ToFloat64(h.s.metrics.missing.WithLabelValues("clock")), 0)
}

func TestAFailureAfterSuccessBlanksWhatWasKnown(t *testing.T) {
	p := &fakeProbe{name: "link", sample: func(_ context.Context, dst *evidence.Sample) error {
		dst.Observe(device, "rtnetlink").Integer(evidence.LinkMTUBytes, 1500)
		return nil
	}}
	h := start(t, Spec{Name: "link", Probe: p})
	p.set(func(context.Context, *evidence.Sample) error { return errors.New("netlink is gone") })
	require.Error(t, h.s.SampleNow(t.Context(), "link"))
	observations := h.ledger.Observations("link")
	require.Len(t, observations, 2, "the device, and the node's own items")
	for _, o := range observations {
		require.True(t, allUnknown(o), "the MTU that was read before must not be shown as current")
		require.Contains(t, o.GetItems()[0].GetUnknown().GetDetail(), "netlink is gone")
	}
	require.Equal(t, device.Key, observations[0].GetSubject().GetKey())
}

func TestAProbeThatCouldNotBeSetUpIsBlindNotHealthy(t *testing.T) {
	h := start(t, Spec{Name: "clock", Err: fmt.Errorf("open /dev/ptp0: %w", probe.ErrNotSupported)})
	require.Equal(t, evidencev1.ProbeStatus_UNSUPPORTED, h.status(t, "clock").GetState())
	require.True(t, allUnknown(h.ledger.Observations("clock")[0]))
	require.ErrorContains(t, h.s.SampleNow(t.Context(), "clock"), "/dev/ptp0")
	require.ErrorContains(t, h.s.SampleNow(t.Context(), "nosuch"), "no such probe")
}

func TestConditionsOpenAndCloseEpisodesOnce(t *testing.T) {
	active := func(onset uint64) func(context.Context, *evidence.Sample) error {
		return func(ctx context.Context, dst *evidence.Sample) error {
			if err := healthy(ctx, dst); err != nil {
				return err
			}
			dst.Hold(evidence.ConditionClockOffset, dst.Observations[0], onset)
			return nil
		}
	}
	p := &fakeProbe{name: "clock", sample: active(42)}
	h := start(t, Spec{Name: "clock", Probe: p})
	require.Len(t, h.uplink.heard(), 1)
	opened := h.uplink.heard()[0]
	require.Equal(t, uint64(42), opened.GetOnsetBoottimeNanoseconds())
	require.Zero(t, opened.GetClosedBoottimeNanoseconds())
	require.Equal(t, []string{opened.GetId()}, h.ledger.Full().OpenEpisodeIDs)

	require.NoError(t, h.s.SampleNow(t.Context(), "clock"))
	require.Len(t, h.uplink.heard(), 1, "a condition that goes on opens nothing new")

	p.set(func(context.Context, *evidence.Sample) error { return errors.New("blind") })
	require.Error(t, h.s.SampleNow(t.Context(), "clock"))
	require.Len(t, h.uplink.heard(), 1, "a probe that cannot see closes nothing")

	p.set(healthy)
	require.NoError(t, h.s.SampleNow(t.Context(), "clock"))
	require.Len(t, h.uplink.heard(), 2)
	closed := h.uplink.heard()[1]
	require.Equal(t, opened.GetId(), closed.GetId())
	require.NotZero(t, closed.GetClosedBoottimeNanoseconds())
	require.Empty(t, h.ledger.Full().OpenEpisodeIDs)
}

func TestAWatcherWakesTheProbeAndAChangeIsPushedAtOnce(t *testing.T) {
	p := &fakeProbe{name: "clock", sample: healthy}
	h := start(t, Spec{Name: "clock", Probe: p})
	testutils.Eventually(t, 2*time.Second, "the watcher runs", func() bool { return p.waker() != nil })
	before := h.uplink.woken()
	p.waker()()
	testutils.Eventually(t, 2*time.Second, "the probe was sampled", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.calls >= 2
	})
	require.Equal(t, before, h.uplink.woken(), "an unchanged sample is not urgent")

	p.set(func(_ context.Context, dst *evidence.Sample) error {
		dst.Observe(evidence.Node(), "test").Number(evidence.ClockOffsetSeconds, 7, 0)
		return nil
	})
	p.waker()()
	testutils.Eventually(t, 2*time.Second, "the uplink was woken", func() bool { return h.uplink.woken() > before })
}
