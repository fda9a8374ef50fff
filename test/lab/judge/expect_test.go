// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

func TestExpectations(t *testing.T) {
	t.Parallel()
	clears := func(e *scenario.Expectation) { e.ClearsWithin = time.Minute }
	grade := func(g string) func(*scenario.Expectation) { return func(e *scenario.Expectation) { e.Grade = g } }
	scope := func(s scenario.Scope) func(*scenario.Expectation) {
		return func(e *scenario.Expectation) { e.Scope = s }
	}
	forever := func(e *scenario.Expectation) { e.Within = 0 }
	yes := func(f float64) *float64 { return &f }
	tests := []struct {
		name    string
		expect  scenario.Expectation
		looks   []look
		held    bool
		after   *float64
		cleared *float64
		because string
	}{
		{
			name: "within counts to the moment the grade is first reached, not to when it was seen", expect: expected(),
			looks: []look{{20, []v{{suspected: 2, likely: 4, proven: 9.2}}, ""}},
			held:  true, after: yes(9.2),
		},
		{
			name: "exactly within", expect: expected(),
			looks: []look{{20, []v{{suspected: 2, proven: 15}}, ""}},
			held:  true, after: yes(15),
		},
		{
			name: "a moment too late", expect: expected(),
			looks: []look{{20, []v{{suspected: 2, proven: 15.5}}, ""}},
			after: yes(15.5), because: "it came after 15.5 s, 0.5 s later than within",
		},
		{
			name: "without within it has until the end of the run", expect: expected(forever),
			looks: []look{{100, []v{{suspected: 2, proven: 99}}, ""}},
			held:  true, after: yes(99),
		},
		{
			name: "a higher grade than the one named", expect: expected(grade(Suspected)),
			looks: []look{{20, []v{{proven: 3}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "any grade when none is named, the first of them", expect: expected(grade("")),
			looks: []look{{20, []v{{suspected: 2, likely: 4, proven: 9}}, ""}},
			held:  true, after: yes(2),
		},
		{
			name: "a grade that is too low", expect: expected(),
			looks:   []look{{20, []v{{suspected: 2, likely: 3}}, ""}},
			because: "it reached likely, not proven",
		},
		{
			name: "a pending verdict has its grade", expect: expected(),
			looks: []look{{20, []v{{proven: 3, state: "pending"}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "a stale verdict keeps its grade", expect: expected(),
			looks: []look{{20, []v{{proven: 3, state: "stale"}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "another signature", expect: expected(),
			looks:   []look{{20, []v{{signature: pathLoss, proven: 3}}, ""}},
			because: "no verdict of network/mtu-black-hole appeared",
		},
		{
			name: "reached before the fault", expect: expected(),
			looks:   []look{{20, []v{{suspected: -2, proven: -1}}, ""}},
			because: "it was proven already 1.0 s before the fault",
		},
		{
			name: "suspected before the fault, proven after it", expect: expected(),
			looks: []look{{20, []v{{suspected: -2, proven: 3}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "it came before the fault, was resolved, and came again", expect: expected(),
			looks: []look{{-1, []v{{proven: -2}}, ""}, {1, []v{{proven: -2, state: "resolved", resolved: 0.5}}, ""}, {20, []v{{proven: 3}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "a refuted verdict meets nothing", expect: expected(grade("")),
			looks:   []look{{20, []v{{state: "refuted"}}, ""}},
			because: "it was weighed and refuted: small packets: 0 of 30 lost",
		},
		{
			name: "zones in another order", expect: expected(scope(scenario.Scope{Zones: []string{"b", "a"}})),
			looks: []look{{20, []v{{proven: 3}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "another zone", expect: expected(),
			looks:   []look{{20, []v{{proven: 3, scope: zones("a", "c")}}, ""}},
			because: "it appeared elsewhere: its zones are a, c, not a, b",
		},
		{
			name: "one zone of two", expect: expected(),
			looks:   []look{{20, []v{{proven: 3, scope: zones("a")}}, ""}},
			because: "it appeared elsewhere: its zones are a, not a, b",
		},
		{
			name: "more zones than named", expect: expected(),
			looks:   []look{{20, []v{{proven: 3, scope: zones("a", "b", "c")}}, ""}},
			because: "it appeared elsewhere: its zones are a, b, c, not a, b",
		},
		{
			name: "a key that is not named may be anything", expect: expected(scope(scenario.Scope{})),
			looks: []look{{20, []v{{proven: 3, scope: onNode("n7")}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "device and nodes together", expect: expected(scope(scenario.Scope{Nodes: []string{"n1"}, Device: "flannel.1"})),
			looks:   []look{{20, []v{{proven: 3, scope: &apiv1.Scope{Kind: "Device", Nodes: []string{"n1"}, Device: "eth0"}}}, ""}},
			because: "it appeared elsewhere: its device is eth0, not flannel.1",
		},
		{
			name: "the pool", expect: expected(scope(scenario.Scope{Pool: "gpu"})),
			looks: []look{{20, []v{{proven: 3, scope: &apiv1.Scope{Kind: "Pool", Pool: "gpu", Nodes: []string{"n1"}}}}, ""}},
			held:  true, after: yes(3),
		},
		{
			name: "the kind and the pod", expect: expected(scope(scenario.Scope{Kind: "Pod", Pod: "p1"})),
			looks:   []look{{20, []v{{proven: 3, scope: &apiv1.Scope{Kind: "Device", Pod: "p1", Nodes: []string{"n1"}}}}, ""}},
			because: "it appeared elsewhere: its kind is Device, not Pod",
		},
		{
			name: "its nodes became the expected ones after it was proven", expect: expected(scope(scenario.Scope{Nodes: []string{"n3", "n1", "n2"}})),
			looks: []look{
				{4, []v{{proven: 3}}, ""},
				{8, []v{{proven: 3, scope: &apiv1.Scope{Kind: "ZonePair", Zones: []string{"a", "b"}, Nodes: []string{"n1", "n2", "n3"}}}}, ""},
			},
			held: true, after: yes(3),
		},
		{
			name: "it had the scope while it was only suspected", expect: expected(),
			looks:   []look{{3, []v{{suspected: 2}}, ""}, {9, []v{{suspected: 2, proven: 8, scope: zones("a", "c")}}, ""}},
			because: "it appeared elsewhere: its zones are a, c, not a, b",
		},
		{
			name: "several verdicts: the earliest decides", expect: expected(scope(scenario.Scope{})),
			looks: []look{{20, []v{{id: "bbbb00", proven: 9}, {id: "cccc00", proven: 4}, {id: "dddd00", proven: 14}}, ""}},
			held:  true, after: yes(4),
		},
		{
			name: "two aggregators tell of it: the earliest wins", expect: expected(),
			looks: []look{{20, []v{{proven: 16}}, "agg1"}, {20, []v{{proven: 8}}, "agg2"}},
			held:  true, after: yes(8),
		},
		{
			name: "an aggregator that restarts without memory does not take back what was seen", expect: expected(),
			looks: []look{{9, []v{{suspected: 3, proven: 8}}, ""}, {12, nil, ""}, {25, []v{{suspected: 20}}, ""}},
			held:  true, after: yes(8),
		},
		{
			name: "an aggregator that restarts with an older record does not either", expect: expected(),
			looks: []look{{9, []v{{suspected: 3, proven: 8}}, ""}, {12, []v{{suspected: 3, state: "stale"}}, ""}, {25, []v{{suspected: 3, proven: 24}}, ""}},
			held:  true, after: yes(8),
		},
		{
			name: "a verdict that flaps keeps what it reached first", expect: expected(),
			looks: []look{{9, []v{{proven: 8}}, ""}, {12, []v{{proven: 8, state: "resolved", resolved: 11}}, ""}, {25, []v{{proven: 20}}, ""}},
			held:  true, after: yes(8),
		},

		{
			name: "it clears in time", expect: expected(clears),
			looks: []look{{20, []v{{proven: 9}}, ""}, {100, []v{{proven: 9, state: "resolved", resolved: 71}}, ""}},
			held:  true, after: yes(9), cleared: yes(31),
		},
		{
			name: "it clears exactly in time", expect: expected(clears),
			looks: []look{{100, []v{{proven: 9, state: "resolved", resolved: 100}}, ""}},
			held:  true, after: yes(9), cleared: yes(60),
		},
		{
			name: "it clears too late", expect: expected(clears),
			looks: []look{{101, []v{{proven: 9, state: "resolved", resolved: 100.5}}, ""}},
			after: yes(9), cleared: yes(60.5), because: "it was resolved 60.5 s after the end of the fault, 0.5 s later than clearsWithin",
		},
		{
			name: "it never clears", expect: expected(clears),
			looks: []look{{101, []v{{proven: 9}}, ""}},
			after: yes(9), because: "verdict aaaa000011112222 still stood 60.0 s after the end of the fault",
		},
		{
			name: "a stale verdict is not cleared", expect: expected(clears),
			looks: []look{{101, []v{{proven: 9, state: "stale"}}, ""}},
			after: yes(9), because: "still stood",
		},
		{
			name: "it was resolved before the fault ended and stayed so", expect: expected(clears),
			looks: []look{{100, []v{{proven: 9, state: "resolved", resolved: 37}}, ""}},
			held:  true, after: yes(9), cleared: yes(0), because: "it was resolved 3.0 s before the fault ended",
		},
		{
			name: "it was resolved, and came back to stay", expect: expected(clears),
			looks: []look{{50, []v{{proven: 9, state: "resolved", resolved: 45}}, ""}, {101, []v{{proven: 55}}, ""}},
			after: yes(9), because: "still stood",
		},
		{
			name: "it was resolved, came back, and was resolved again", expect: expected(clears),
			looks: []look{{50, []v{{proven: 9, state: "resolved", resolved: 45}}, ""}, {60, []v{{suspected: 55}}, ""}, {101, []v{{suspected: 55, state: "resolved", resolved: 90}}, ""}},
			held:  true, after: yes(9), cleared: yes(50),
		},
		{
			name: "two verdicts met it and one stays", expect: expected(clears, scope(scenario.Scope{})),
			looks: []look{{101, []v{{id: "bbbb00", proven: 4, state: "resolved", resolved: 60}, {id: "cccc00", proven: 5}}, ""}},
			after: yes(4), because: "verdict cccc00 still stood 60.0 s after the end of the fault",
		},
		{
			name: "two verdicts met it and the last that clears counts", expect: expected(clears, scope(scenario.Scope{})),
			looks: []look{{101, []v{{id: "bbbb00", proven: 4, state: "resolved", resolved: 60}, {id: "cccc00", proven: 5, state: "resolved", resolved: 70}}, ""}},
			held:  true, after: yes(4), cleared: yes(30),
		},
		{
			name: "refuted once the cause is gone is cleared", expect: expected(clears),
			looks: []look{{20, []v{{proven: 9}}, ""}, {100, []v{{proven: 9, state: "refuted", resolved: 72}}, ""}},
			held:  true, after: yes(9), cleared: yes(32),
		},
		{
			name: "resolved and then refuted, which forgets its grades", expect: expected(clears),
			looks: []look{{20, []v{{proven: 9}}, ""}, {100, []v{{state: "refuted", resolved: 72, onset: 80}}, ""}},
			held:  true, after: yes(9), cleared: yes(32),
		},
		{
			name: "a pending verdict that is dropped is cleared when it is gone", expect: expected(clears),
			looks: []look{{20, []v{{proven: 9, state: "pending"}}, ""}, {50, nil, ""}},
			held:  true, after: yes(9), cleared: yes(10),
		},
		{
			name: "a firing verdict that vanishes is not cleared", expect: expected(clears),
			looks: []look{{20, []v{{proven: 9}}, ""}, {50, nil, ""}},
			after: yes(9), because: "still stood",
		},
		{
			name: "two aggregators: the first that resolves it after the fault counts", expect: expected(clears),
			looks: []look{{100, []v{{proven: 9, state: "resolved", resolved: 72}}, "agg1"}, {100, []v{{proven: 9, state: "resolved", resolved: 70}}, "agg2"}},
			held:  true, after: yes(9), cleared: yes(30),
		},
		{
			name: "two aggregators: one that is cut off and stale does not hold it up", expect: expected(clears),
			looks: []look{{100, []v{{proven: 9, state: "stale"}}, "agg1"}, {100, []v{{proven: 9, state: "resolved", resolved: 70}}, "agg2"}},
			held:  true, after: yes(9), cleared: yes(30),
		},
		{
			name: "two aggregators: one that resolved it during the fault does not speak for the other", expect: expected(clears),
			looks: []look{{100, []v{{proven: 9, state: "resolved", resolved: 20}}, "agg1"}, {100, []v{{proven: 9}}, "agg2"}},
			after: yes(9), because: "still stood",
		},
		{
			name: "two aggregators: one resolved it during the fault and the other is cut off", expect: expected(clears),
			looks: []look{{100, []v{{proven: 9, state: "resolved", resolved: 20}}, "agg1"}, {100, []v{{proven: 9, state: "stale"}}, "agg2"}},
			held:  true, after: yes(9), cleared: yes(0), because: "it was resolved 20.0 s before the fault ended",
		},
		{
			name: "another one that comes after the time to clear is another matter", expect: expected(clears, scope(scenario.Scope{})),
			looks: []look{{110, []v{{id: "bbbb00", proven: 4, state: "resolved", resolved: 60}, {id: "cccc00", proven: 105}}, ""}},
			held:  true, after: yes(4), cleared: yes(20),
		},
		{
			name: "it comes back after the time to clear", expect: expected(clears),
			looks: []look{{90, []v{{proven: 4, state: "resolved", resolved: 60}}, ""}, {110, []v{{proven: 105}}, ""}},
			held:  true, after: yes(4), cleared: yes(20),
		},
		{
			name: "too late and cleared", expect: expected(clears),
			looks: []look{{101, []v{{proven: 16, state: "resolved", resolved: 50}}, ""}},
			after: yes(16), cleared: yes(10), because: "it came after 16.0 s, 1.0 s later than within",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j := Judge(plain(tt.expect), whole(history(t, tt.looks...)))
			got := j.Expectations[0]
			require.Equal(t, tt.held, got.Held, got.Because)
			require.Equal(t, tt.held && len(j.Unexpected) == 0, j.OK)
			require.True(t, got.Decided)
			require.Empty(t, j.Undecided)
			if tt.because == "" {
				require.Empty(t, got.Because)
			}
			require.Contains(t, got.Because, tt.because)
			close := func(want, got *float64) {
				if want == nil {
					require.Nil(t, got)
					return
				}
				require.NotNil(t, got)
				require.InDelta(t, *want, *got, 1e-6)
			}
			close(tt.after, got.AfterSeconds)
			close(tt.cleared, got.ClearedAfterSeconds)
		})
	}
}

func TestEachExpectationCountsFromItsOwnFault(t *testing.T) {
	t.Parallel()
	s := plain(expected(func(e *scenario.Expectation) { e.Fault = 1 }))
	s.Faults = append(s.Faults, scenario.Fault{At: 20 * time.Second, Until: 30 * time.Second})
	o := whole(history(t, look{50, []v{{proven: 24}}, ""}))
	ended := at(30)
	o.Faults = append(o.Faults, Fault{InjectedAt: at(20), EndedAt: &ended})
	got := Judge(s, o).Expectations[0]
	require.True(t, got.Held)
	require.InDelta(t, 4, *got.AfterSeconds, 1e-6)

	t.Run("what the first fault brought does not count for the second", func(t *testing.T) {
		o.History = history(t, look{50, []v{{proven: 5}}, ""})
		got := Judge(s, o).Expectations[0]
		require.False(t, got.Held)
		require.Equal(t, "it was proven already 15.0 s before the fault", got.Because)
	})
	t.Run("a fault that was never injected", func(t *testing.T) {
		o.Faults[1] = Fault{}
		require.Equal(t, "fault 1 was not injected", Judge(s, o).Expectations[0].Because)
	})
}

func TestAVerdictOfAFaultThatStaysIsNotTheOtherOnesToClear(t *testing.T) {
	t.Parallel()
	first := expected(func(e *scenario.Expectation) { e.Scope, e.ClearsWithin = scenario.Scope{}, time.Minute })
	second := expected(func(e *scenario.Expectation) { e.Scope, e.Fault = scenario.Scope{Zones: []string{"c", "d"}}, 1 })
	s := plain(first, second)
	s.Faults = append(s.Faults, scenario.Fault{At: 0, Until: -1})
	o := whole(history(t, look{101, []v{
		{id: "bbbb00", proven: 4, state: "resolved", resolved: 60},
		{id: "cccc00", proven: 5, scope: zones("c", "d")},
	}, ""}))
	o.Faults = append(o.Faults, Fault{InjectedAt: at(0)})
	j := Judge(s, o)
	require.True(t, j.OK, "%+v", j.Expectations)
	require.InDelta(t, 20, *j.Expectations[0].ClearedAfterSeconds, 1e-6)
}

func TestWithoutFaultsWithinCountsFromTheEndOfSettle(t *testing.T) {
	t.Parallel()
	s := plain(expected())
	s.Faults = nil
	o := Observation{SettleEnd: start(), RunEnd: at(61), History: history(t, look{20, []v{{proven: 7}}, ""})}
	j := Judge(s, o)
	require.True(t, j.OK)
	require.InDelta(t, 7, *j.Expectations[0].AfterSeconds, 1e-6)

	t.Run("without settle nothing is before it", func(t *testing.T) {
		s.Settle = 0
		o.History = history(t, look{20, []v{{proven: -0.5}}, ""})
		j := Judge(s, o)
		require.True(t, j.OK)
		require.Zero(t, *j.Expectations[0].AfterSeconds)
	})
}

func TestRefuted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		within time.Duration
		looks  []look
		held   bool
		after  float64
	}{
		{name: "a verdict rules it out", looks: []look{{9, []v{{proven: 8, refuted: []string{pathLoss}, update: 8}}, ""}}, held: true, after: 8},
		{name: "a verdict of that signature is refuted", looks: []look{{9, []v{{signature: pathLoss, state: "refuted", update: 6}}, ""}}, held: true, after: 6},
		{name: "without a date it is as of when it was seen", looks: []look{{9, []v{{proven: 8, refuted: []string{pathLoss}}}, ""}}, held: true, after: 9},
		{name: "any verdict may say so, also a stale or a resolved one", looks: []look{{9, []v{{signature: "x/y", suspected: 3, state: "resolved", resolved: 8, refuted: []string{pathLoss}, update: 7}}, ""}}, held: true, after: 7},
		{name: "another cause is ruled out", looks: []look{{9, []v{{proven: 8, refuted: []string{"network/other"}}}, ""}}},
		{name: "the signature stands", looks: []look{{9, []v{{signature: pathLoss, proven: 8}}, ""}}},
		{name: "only before the fault", looks: []look{{-1, []v{{signature: pathLoss, state: "refuted", update: -2}}, ""}}},
		{name: "only before the fault, and still listed after it", looks: []look{{-1, []v{{signature: pathLoss, state: "refuted", update: -2}}, ""}, {30, []v{{signature: pathLoss, state: "refuted", update: -2}}, ""}}},
		{name: "before the fault and confirmed after it", looks: []look{{-1, []v{{signature: pathLoss, state: "refuted", update: -2}}, ""}, {30, []v{{signature: pathLoss, state: "refuted", update: 29}}, ""}}, held: true, after: 29},
		{name: "a later verdict no longer says so", looks: []look{{9, []v{{proven: 8, refuted: []string{pathLoss}, update: 8}}, ""}, {12, []v{{proven: 8, update: 11}}, ""}}, held: true, after: 8},
		{name: "too late", within: 7 * time.Second, looks: []look{{9, []v{{proven: 8, refuted: []string{pathLoss}, update: 8}}, ""}}, after: 8},
		{name: "in time", within: 8 * time.Second, looks: []look{{9, []v{{proven: 8, refuted: []string{pathLoss}, update: 8}}, ""}}, held: true, after: 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := plain(scenario.Expectation{Refuted: pathLoss, Within: tt.within})
			got := Judge(s, whole(history(t, tt.looks...))).Expectations[0]
			require.Equal(t, tt.held, got.Held, got.Because)
			require.NotEmpty(t, got.Because)
			if tt.after == 0 {
				require.Nil(t, got.AfterSeconds)
				return
			}
			require.InDelta(t, tt.after, *got.AfterSeconds, 1e-6)
		})
	}
}

func TestRefutedByAnExplanation(t *testing.T) {
	t.Parallel()
	s := plain(scenario.Expectation{Refuted: pathLoss})
	h := &History{}
	explain := func(result string) string {
		return `{"assessments":[{"signature":"network/path-loss","result":"` + result + `","because":"nothing is lost","refuted":[{"signature":"network/other"}]}]}`
	}
	require.NoError(t, h.AddExplanation("agg1", at(5), []byte(explain("none"))))
	require.False(t, Judge(s, whole(h)).OK, "that it does not hold is no refutation")
	require.NoError(t, h.AddExplanation("agg1", at(6), []byte(explain("refuted"))))
	require.True(t, Judge(s, whole(h)).OK)
	require.False(t, Judge(plain(scenario.Expectation{Refuted: "network/other"}), whole(h)).OK, "rivals of what does not hold are not weighed against anything")
	require.ErrorContains(t, h.AddExplanation("agg1", at(6), []byte(`{}`)), `no field "assessments"`)
}
