// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

func TestLength(t *testing.T) {
	t.Parallel()
	fault := func(until time.Duration) scenario.Fault { return scenario.Fault{Until: until} }
	clears := func(d time.Duration) scenario.Expectation { return scenario.Expectation{ClearsWithin: d} }
	tests := []struct {
		name     string
		duration time.Duration
		faults   []scenario.Fault
		expect   []scenario.Expectation
		want     time.Duration
	}{
		{name: "the duration alone", duration: 60, want: 60},
		{name: "the last until and the largest clearsWithin, also of different faults", duration: 60, faults: []scenario.Fault{fault(40), fault(30)}, expect: []scenario.Expectation{clears(10), clears(50)}, want: 90},
		{name: "the duration is longer", duration: 120, faults: []scenario.Fault{fault(40)}, expect: []scenario.Expectation{clears(60)}, want: 120},
		{name: "a fault that stays adds nothing", duration: 60, faults: []scenario.Fault{fault(-1)}, want: 60},
		{name: "an until after the duration", duration: 60, faults: []scenario.Fault{fault(80)}, want: 80},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, Length(&scenario.Scenario{Duration: tt.duration, Faults: tt.faults, Expect: tt.expect}))
		})
	}
}

func TestEndFollowsWhatReallyHappened(t *testing.T) {
	t.Parallel()
	s := plain(expected(func(e *scenario.Expectation) { e.ClearsWithin = time.Minute }))
	require.Zero(t, End(s, Observation{}), "settle is not over")
	o := Observation{SettleEnd: start(), Faults: make([]Fault, 1)}
	require.Equal(t, at(100), End(s, o))
	late := at(42)
	o.Faults[0].EndedAt = &late
	require.Equal(t, at(102), End(s, o), "healed two seconds later than planned")

	tight := plain(expected())
	tight.Duration, tight.Faults[0].Until = 15*time.Second, -1
	o = Observation{SettleEnd: start(), Faults: []Fault{{InjectedAt: at(0.5)}}}
	require.Equal(t, at(15.5), End(tight, o), "injected half a second later than planned")
	tight.Expect[0].Within = time.Hour
	require.Equal(t, at(15), End(tight, o), "the run does not grow to what its author did not give it")
}

func TestOver(t *testing.T) {
	t.Parallel()
	clears := expected(func(e *scenario.Expectation) { e.ClearsWithin = time.Minute })
	forever := expected(func(e *scenario.Expectation) { e.Within = 0 })
	held := look{10, []v{{proven: 9}}, ""}
	cleared := look{50, []v{{proven: 9, state: "resolved", resolved: 45}}, ""}
	tests := []struct {
		name    string
		expect  []scenario.Expectation
		forbid  []string
		looks   []look
		healed  bool
		waiting bool // a second fault is still to come
		now     float64
		over    bool
	}{
		{name: "held and nothing forbidden", expect: []scenario.Expectation{expected()}, looks: []look{held}, now: 10, over: true},
		{name: "held, but a forbid asks for the whole duration", expect: []scenario.Expectation{expected()}, forbid: []string{Proven}, looks: []look{held}, now: 59.9},
		{name: "held, and the duration is over", expect: []scenario.Expectation{expected()}, forbid: []string{Proven}, looks: []look{held}, now: 60, over: true},
		{name: "held, but a fault is still to come", expect: []scenario.Expectation{expected()}, looks: []look{held}, waiting: true, now: 30},
		{name: "not held, and within is not over", expect: []scenario.Expectation{expected()}, now: 15},
		{name: "not held, within is over, and what was reached before it may still be on its way", expect: []scenario.Expectation{expected()}, now: 15.9},
		{name: "not held, and it is too late", expect: []scenario.Expectation{expected()}, now: 16.1, over: true},
		{name: "held too late", expect: []scenario.Expectation{expected()}, looks: []look{{15.7, []v{{proven: 15.5}}, ""}}, now: 15.7, over: true},
		{name: "no within: not held yet", expect: []scenario.Expectation{forever}, now: 60},
		{name: "no within: the end of the run", expect: []scenario.Expectation{forever}, now: 61.1, over: true},
		{name: "held, not cleared, fault still on", expect: []scenario.Expectation{clears}, looks: []look{held}, now: 30},
		{name: "held, not cleared", expect: []scenario.Expectation{clears}, looks: []look{held}, healed: true, now: 60},
		{name: "held and cleared", expect: []scenario.Expectation{clears}, looks: []look{held, cleared}, healed: true, now: 50, over: true},
		{name: "held and never cleared", expect: []scenario.Expectation{clears}, looks: []look{held}, healed: true, now: 101.1, over: true},
		{name: "one of two is decided", expect: []scenario.Expectation{expected(), {Refuted: pathLoss}}, looks: []look{held}, now: 30},
		{name: "both are decided", expect: []scenario.Expectation{expected(), {Refuted: pathLoss}}, looks: []look{{10, []v{{proven: 9, refuted: []string{pathLoss}}}, ""}}, now: 10, over: true},
		{name: "nothing expected: the whole duration", now: 59},
		{name: "nothing expected: its end", now: 60.1, over: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := plain(tt.expect...)
			s.Forbid = tt.forbid
			o := whole(history(t, tt.looks...))
			if !tt.healed {
				o.Faults[0].EndedAt = nil
			}
			if tt.waiting {
				s.Faults = append(s.Faults, scenario.Fault{At: 50 * time.Second, Until: -1})
				o.Faults = append(o.Faults, Fault{})
			}
			require.Equal(t, tt.over, Over(s, o, at(tt.now)))
		})
	}
	require.False(t, Over(plain(), Observation{}, at(1000)), "settle is not over")
}

func TestDecidedOneByOne(t *testing.T) {
	t.Parallel()
	s := plain(expected(), scenario.Expectation{Refuted: pathLoss})
	o := whole(history(t, look{10, []v{{proven: 9}}, ""}))
	require.Equal(t, []bool{true, false}, Decided(s, o, at(10)))
}

func TestARunThatIsCutShort(t *testing.T) {
	t.Parallel()
	forever := expected(func(e *scenario.Expectation) { e.Within = 0 })
	s := plain(expected(), forever, expected(func(e *scenario.Expectation) { e.Signature = pathLoss }))
	o := whole(history(t, look{20, []v{{signature: pathLoss, proven: 3}}, ""}))
	o.RunEnd, o.Ending = at(20), TimedOut
	j := Judge(s, o)
	require.False(t, j.OK)
	require.Equal(t, []int{1}, j.Undecided, "the first is too late, the last held")

	t.Run("all held, and it fails all the same", func(t *testing.T) {
		s := plain(expected())
		o.History = history(t, look{10, []v{{proven: 9}}, ""})
		j := Judge(s, o)
		require.True(t, j.Expectations[0].Held)
		require.False(t, j.OK)
		require.Equal(t, 1, ExitStatus(false, j))
	})
}

func TestOK(t *testing.T) {
	t.Parallel()
	s := plain(expected())
	s.Forbid = []string{Proven}
	good := whole(history(t, look{10, []v{{proven: 9}}, ""}))
	require.True(t, Judge(s, good).OK)

	crashed := good
	crashed.Failures = []string{"plumb-agent of n1 ended: exit status 2"}
	require.False(t, Judge(s, crashed).OK)
	require.Equal(t, crashed.Failures, Judge(s, crashed).Failures)

	blind := good
	blind.History = nil
	require.False(t, Judge(s, blind).OK)

	alarmed := whole(history(t, look{10, []v{{proven: 9}, {id: "bbbb00", signature: pathLoss, proven: 9}}, ""}))
	require.False(t, Judge(s, alarmed).OK)
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		pending bool
		j       Judgement
		want    int
	}{
		{"all held", false, Judgement{OK: true}, 0},
		{"something did not", false, Judgement{}, 1},
		{"the time was up", false, Judgement{Ending: TimedOut}, 1},
		{"a signal came", false, Judgement{Ending: Interrupted}, 1},
		{"pending and it fails", true, Judgement{}, 0},
		{"pending and a child crashed", true, Judgement{Failures: []string{"x"}}, 0},
		{"pending and a false alarm", true, Judgement{Unexpected: []Unexpected{{}}}, 0},
		{"pending and the time was up", true, Judgement{Ending: TimedOut}, 0},
		{"pending and it holds: unmark it", true, Judgement{OK: true}, 1},
		{"pending and a signal came", true, Judgement{Ending: Interrupted}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, ExitStatus(tt.pending, tt.j))
		})
	}
}
