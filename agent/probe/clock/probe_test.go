// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

const patience = 20 * time.Second

// quick is the default pace, some twenty times as fast.
func quick() pace {
	p := defaultPace()
	p.burstGap, p.confirm, p.again = 5*ms, 20*ms, 30*ms
	p.early, p.steady = 60*ms, 60*ms
	p.timeout = 150 * ms
	p.budget = 1000
	p.pairGap = 2 * ms
	return p
}

// A rig is a probe with its time servers, one group each.
type rig struct {
	*Probe
	t       *testing.T
	servers []*sntptest.Server
	wakes   atomic.Int64
	stop    func()
}

func newRig(t *testing.T, adapt func(*Config), configs ...sntptest.Config) *rig {
	t.Helper()
	r := &rig{t: t}
	cfg := Config{Clock: hostclock.New(), PTPPath: filepath.Join(t.TempDir(), "none"), KernelBootID: "boot-a"}
	for i, c := range configs {
		server, address := sntptest.Start(t, c)
		r.servers = append(r.servers, server)
		cfg.Servers = append(cfg.Servers, Server{Group: fmt.Sprintf("g%d", i), Address: address})
	}
	if adapt != nil {
		adapt(&cfg)
	}
	p, err := New(cfg)
	require.NoError(t, err)
	p.setPace(quick())
	r.Probe = p
	return r
}

func (p *Probe) setPace(pace pace) {
	p.pace = pace
	for _, s := range p.sources {
		if c, ok := s.client.(*sntpClient); ok {
			c.timeout = pace.timeout
		}
	}
}

func (r *rig) watch() *rig {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Watch(ctx, func() { r.wakes.Add(1) }) }()
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(r.t, <-done)
		}
	}
	r.t.Cleanup(r.stop)
	return r
}

// key names the source of the n-th server.
func (r *rig) key(n int) string { return r.sources[n].server.key() }

// A view is one sample, by item name.
type view struct {
	node    map[string]*evidencev1.Item
	sources map[string]map[string]*evidencev1.Item
	sample  *evidence.Sample
}

func (r *rig) sample() view {
	r.t.Helper()
	s := &evidence.Sample{}
	require.NoError(r.t, r.Sample(context.Background(), s))
	catalog := evidence.NewCatalog()
	v := view{sources: map[string]map[string]*evidencev1.Item{}, sample: s}
	for _, o := range s.Observations {
		items := map[string]*evidencev1.Item{}
		for _, it := range o.Items {
			info, ok := catalog.ByID(it.GetId())
			require.True(r.t, ok)
			require.Equal(r.t, o.Subject.Kind, info.Subject, info.Name)
			require.NotContains(r.t, items, info.Name, "reported twice")
			require.NotNil(r.t, it.GetState(), info.Name)
			items[info.Name] = it
		}
		for _, info := range catalog.ItemsOf(name, o.Subject.Kind) {
			require.Contains(r.t, items, info.Name)
		}
		if o.Subject.Kind == evidence.SubjectNode {
			v.node = items
		} else {
			v.sources[o.Subject.Key] = items
		}
	}
	return v
}

func (v view) number(item string) float64 { return v.node["clock."+item].GetNumber() }
func (v view) integer(item string) int64  { return v.node["clock."+item].GetInteger() }
func (v view) unknown(item string) string { return v.node["clock."+item].GetUnknown().GetDetail() }
func (v view) state(key string) string    { return v.sources[key]["clock.source_state"].GetText() }
func (v view) text(item string) string    { return v.node["clock."+item].GetText() }
func (v view) reason(item string) evidencev1.Unknown_Reason {
	return v.node["clock."+item].GetUnknown().GetReason()
}

func (v view) holds(condition string) (onset uint64, ok bool) {
	for _, c := range v.sample.Active {
		if c.Condition == condition {
			return c.OnsetBoottime, true
		}
	}
	return 0, false
}

// until samples until ok.
func (r *rig) until(what string, ok func(view) bool) view {
	r.t.Helper()
	var v view
	testutils.Eventually(r.t, patience, what, func() bool { v = r.sample(); return ok(v) })
	return v
}

func TestTwoGroupsAgreeOnSevenMinutes(t *testing.T) {
	// Servers that are behind make a node that is ahead.
	r := newRig(t, nil, sntptest.Config{Offset: -420 * time.Second}, sntptest.Config{Offset: -420 * time.Second})
	v := r.sample()
	require.Equal(t, evidence.WarmingUp, v.reason("offset_seconds"))
	require.Equal(t, evidence.WarmingUp, v.reason("groups_total"))
	require.Empty(t, v.sample.Active)
	_, _, ok := r.MeasuredTime()
	require.False(t, ok)

	r.watch()
	began := r.clock.Boottime()
	v = r.until("two rounds agree", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })
	require.InDelta(t, 420, v.number("offset_seconds"), 0.2)
	require.Greater(t, v.number("offset_at_least_seconds"), 419.5)
	require.Less(t, v.number("offset_at_least_seconds"), 420.0)
	require.EqualValues(t, 2, v.integer("groups_total"))
	require.EqualValues(t, 2, v.integer("groups_agreeing"))
	require.EqualValues(t, 0, v.integer("groups_dissenting"))
	require.Empty(t, v.text("false_sources"))
	require.ElementsMatch(t, []string{r.key(0), r.key(1)}, strings.Split(v.text("agreeing_sources"), ", "))
	require.Equal(t, stateAgrees, v.state(r.key(0)))
	require.InDelta(t, 420, v.sources[r.key(1)]["clock.source_offset_seconds"].GetNumber(), 0.2)
	require.Greater(t, v.node["clock.offset_seconds"].GetUncertainty(), 0.001)

	onset, holds := v.holds(evidence.ConditionClockOffset)
	require.True(t, holds)
	require.GreaterOrEqual(t, onset, began)
	require.Positive(t, r.wakes.Load())

	offset, sources, ok := r.MeasuredTime()
	require.True(t, ok)
	require.InDelta(t, 420, offset.Seconds(), 0.2)
	require.Len(t, sources, 2)

	// The servers (and so true time) come back: the condition ends by measurement.
	for _, s := range r.servers {
		s.Set(sntptest.Config{})
	}
	r.until("the condition ends", func(v view) bool { _, holds := v.holds(evidence.ConditionClockOffset); return !holds })
	r.stop()
}

func TestOneLiarOfThreeIsNamed(t *testing.T) {
	r := newRig(t, nil, sntptest.Config{}, sntptest.Config{Offset: time.Hour}, sntptest.Config{}).watch()
	v := r.until("a majority", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })
	require.InDelta(t, 0, v.number("offset_seconds"), 0.2)
	require.Zero(t, v.number("offset_at_least_seconds"))
	require.EqualValues(t, 3, v.integer("groups_total"))
	require.EqualValues(t, 2, v.integer("groups_agreeing"))
	require.EqualValues(t, 1, v.integer("groups_dissenting"))
	require.Equal(t, r.key(1), v.text("false_sources"))
	require.Equal(t, stateFalse, v.state(r.key(1)))
	require.Empty(t, v.sample.Active)
}

func TestNoMajority(t *testing.T) {
	hour := sntptest.Config{Offset: time.Hour}
	tests := []struct {
		name    string
		configs []sntptest.Config
		total   int64
		detail  string
		state   string
	}{
		{"one source is alone", []sntptest.Config{hour}, 1, "cannot be checked", stateAlone},
		{"two that disagree", []sntptest.Config{hour, {}}, 2, "no majority", stateAlone},
		{"two liars of three who disagree", []sntptest.Config{hour, {}, {Offset: -time.Hour}}, 3, "no majority", stateAlone},
		{"nobody answers", []sntptest.Config{{Silent: true}, {Silent: true}}, 0, "no time source answered", stateUnreachable},
		{"nobody is synchronised", []sntptest.Config{{Leap: 3}, {Stratum: 16}}, 0, "no time source answered", stateInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil, tt.configs...).watch()
			v := r.until("a round has ended", func(v view) bool { return v.reason("groups_total") == 0 })
			require.Equal(t, tt.total, v.integer("groups_total"))
			require.EqualValues(t, 0, v.integer("groups_agreeing"))
			require.EqualValues(t, 0, v.integer("rounds_agreeing"))
			for _, item := range []string{"offset_seconds", "offset_at_least_seconds", "groups_dissenting", "false_sources", "agreeing_sources", "drift_parts_per_million"} {
				require.Equal(t, evidence.Failed, v.reason(item), item)
				require.Contains(t, v.unknown(item), tt.detail)
			}
			require.Equal(t, tt.state, v.state(r.key(0)))
			require.Empty(t, v.sample.Active)
			_, _, ok := r.MeasuredTime()
			require.False(t, ok, "a time that nobody confirmed is not used")
		})
	}
}

func TestTwoLiarsOfThreeWhoAgreeLeaveADissenter(t *testing.T) {
	lie := sntptest.Config{Offset: -time.Hour}
	r := newRig(t, nil, lie, sntptest.Config{}, lie).watch()
	v := r.until("a majority", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })
	require.InDelta(t, 3600, v.number("offset_seconds"), 0.2)
	require.EqualValues(t, 1, v.integer("groups_dissenting"), "which keeps a cluster verdict from being proven")
}

func TestNoSourceIsConfigured(t *testing.T) {
	r := newRig(t, nil).watch()
	v := r.sample()
	for _, item := range []string{"offset_seconds", "groups_total", "groups_agreeing", "rounds_agreeing", "drift_parts_per_million"} {
		require.Equal(t, evidence.Blind, v.reason(item), item)
		require.Contains(t, v.unknown(item), "--time-server")
	}
	// What needs no source is measured all the same.
	require.Zero(t, v.reason("maximum_error_seconds"))
	require.NotNil(t, v.node["clock.step_seconds"].GetNotApplicable())
	require.Zero(t, v.number("suspended_seconds"))
}

func TestASourceThatGoesSilentIsUnreachableAndTheVoteGoesOn(t *testing.T) {
	r := newRig(t, nil, sntptest.Config{}, sntptest.Config{}, sntptest.Config{}).watch()
	r.until("all agree", func(v view) bool { return v.integer("groups_agreeing") == 3 })
	r.servers[2].Set(sntptest.Config{Silent: true})
	v := r.until("it is unreachable", func(v view) bool { return v.state(r.key(2)) == stateUnreachable })
	require.Contains(t, v.sources[r.key(2)]["clock.source_detail"].GetText(), "nothing came back")
	require.Equal(t, evidence.Failed, v.sources[r.key(2)]["clock.source_offset_seconds"].GetUnknown().GetReason())
	v = r.until("the others agree", func(v view) bool { return v.integer("groups_total") == 2 })
	require.EqualValues(t, 2, v.integer("groups_agreeing"))
}

// A step that the kernel tells of starts over at once, and keeps its onset.
func TestAStep(t *testing.T) {
	r := newRig(t, nil, sntptest.Config{}, sntptest.Config{})
	p := quick()
	p.early, p.steady = time.Hour, time.Hour // after two rounds only a step starts another
	r.setPace(p)
	r.watch()
	r.until("it is in step", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })

	for _, s := range r.servers {
		s.Set(sntptest.Config{Offset: -420 * time.Second})
	}
	boottime := r.clock.Boottime()
	wakes := r.wakes.Load()
	r.noteStep(hostclock.Step{Size: 420 * time.Second, Uncertainty: time.Microsecond, Boottime: boottime}, func() { r.wakes.Add(1) })
	require.Greater(t, r.wakes.Load(), wakes, "a step wakes the agent")
	v := r.sample()
	require.InDelta(t, 420, v.number("step_seconds"), 1e-9)
	onset, ok := v.holds(evidence.ConditionClockStep)
	require.True(t, ok)
	require.Equal(t, boottime, onset)
	require.NotEqual(t, evidencev1.Unknown_REASON_UNSPECIFIED, v.reason("offset_seconds"), "what was measured before the step says nothing")

	v = r.until("two rounds agree on the new offset", func(v view) bool { return v.integer("rounds_agreeing") >= 2 })
	require.InDelta(t, 420, v.number("offset_seconds"), 0.2)
	onset, ok = v.holds(evidence.ConditionClockOffset)
	require.True(t, ok)
	require.Equal(t, boottime, onset, "the offset began with the step")

	// Three hundred seconds later the step is history.
	r.mu.Lock()
	r.history.last.Boottime -= uint64(window) + 1
	r.mu.Unlock()
	v = r.sample()
	require.NotNil(t, v.node["clock.step_seconds"].GetNotApplicable())
	_, ok = v.holds(evidence.ConditionClockStep)
	require.False(t, ok)
}

func TestAStepWhileNobodyAnswersDoesNotEndTheCondition(t *testing.T) {
	lie := sntptest.Config{Offset: -420 * time.Second}
	r := newRig(t, nil, lie, lie).watch()
	r.until("the condition holds", func(v view) bool { _, ok := v.holds(evidence.ConditionClockOffset); return ok })
	for _, s := range r.servers {
		s.Set(sntptest.Config{Silent: true})
	}
	r.noteStep(hostclock.Step{Size: -420 * time.Second, Boottime: r.clock.Boottime()}, func() {})
	v := r.until("nobody answers", func(v view) bool { return v.unknown("offset_seconds") == "no time source answered" })
	_, ok := v.holds(evidence.ConditionClockOffset)
	require.True(t, ok, "silence mends no clock")
}

func TestHooksAndDescriptors(t *testing.T) {
	r := newRig(t, nil, sntptest.Config{}, sntptest.Config{Silent: true})
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(entries)
	}
	before := open()
	signals := func() map[string]string {
		out := map[string]string{}
		for _, h := range r.Hooks() {
			out[h.Signal] = fmt.Sprintf("%s %v %s", h.Rung, h.Confirmed, h.Detail)
		}
		return out
	}
	hooks := signals()
	require.Equal(t, "timerfd/cancel_on_set true ", hooks["clock.steps"])
	require.Contains(t, hooks["clock.sntp"], "sntp/4 false 0 of 2 answer")
	require.Contains(t, hooks["clock.ptp"], " false no host clock in ")
	require.Contains(t, hooks["clock.pairwise"], " false there is no uplink")
	require.Equal(t, "adjtimex true ", hooks["clock.adjtimex"])
	require.Len(t, hooks, 5)

	r.watch()
	r.until("a round has ended", func(v view) bool { return v.state(r.key(1)) == stateUnreachable })
	require.Contains(t, signals()["clock.sntp"], "sntp/4 true 1 of 2 answer; "+r.key(1))
	r.stop()
	require.Equal(t, before, open(), "sockets and the timerfd are closed")
}

func TestWatchTwiceIsAnError(t *testing.T) {
	r := newRig(t, nil, sntptest.Config{}).watch()
	r.until("it runs", func(v view) bool { return v.integer("groups_total") == 1 })
	require.ErrorContains(t, r.Watch(context.Background(), func() {}), "already")
}

func TestAPanicCostsOnlyTheProbe(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Peer = PeerFunc(func(context.Context) (Exchange, error) { panic("boom") })
	})
	require.ErrorContains(t, r.Watch(context.Background(), func() {}), "boom")
}

func TestNewRefuses(t *testing.T) {
	_, err := New(Config{})
	require.ErrorContains(t, err, "no clock")
	_, err = New(Config{Clock: hostclock.New(), Servers: []Server{{Address: "a:1"}}})
	require.ErrorContains(t, err, "lacks a group")
}

func TestAPoolIsAskedAtOneAddress(t *testing.T) {
	server, address := sntptest.Start(t, sntptest.Config{})
	var asked []string
	c := client("pool.example.com:123")
	c.timeout = 150 * ms
	c.dial = func(ctx context.Context, network, to string) (net.Conn, error) {
		asked = append(asked, to)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	_, err := c.query(context.Background())
	require.NoError(t, err)
	server.Set(sntptest.Config{Silent: true})
	_, err = c.query(context.Background())
	require.ErrorIs(t, err, errUnreachable)
	_, err = c.query(context.Background())
	require.ErrorIs(t, err, errUnreachable)
	require.Equal(t, []string{"pool.example.com:123", address, "pool.example.com:123"}, asked,
		"the address is kept while it answers, then the name is resolved again")
}
