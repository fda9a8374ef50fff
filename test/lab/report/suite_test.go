// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

func suite(t *testing.T) []Result {
	t.Helper()
	pending, unmark := blackHole(), blackHole()
	pending.Name, pending.Pending = "path-loss-half", true
	unmark.Name, unmark.Pending = "unmarked", true
	late := held(t)
	late.Scenario, late.OK, late.Ended, late.Undecided = "cut-short", false, "timeout", []int{1}
	late.Expectations = append([]Expectation{}, late.Expectations...)
	late.Expectations[1] = Expectation{Index: 1, Refuted: "network/path-loss", Because: "no verdict says that it was refuted"}
	quiet := held(t)
	quiet.Scenario, quiet.Expectations, quiet.Agents, quiet.Aggregator = "quic-probes", nil, nil, Usage{}
	return []Result{
		held(t), failed(t), result(t, pending), result(t, unmark, seen{10, []string{proven}}, seen{72, []string{resolved}}),
		late, quiet, Unrun("odd", false, errors.New(`odd.yaml:3:5: unknown field "fault"`)), skipped("never-begun"),
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	for name, term := range map[string]Terminal{"pipe": {}, "terminal": {Width: 120, Colour: true, Interactive: true, Unicode: true}, "narrow": {Width: 60}} {
		var out bytes.Buffer
		require.NoError(t, WriteTable(&out, term, suite(t)))
		golden(t, "table-"+name, out.String())
	}
	var out bytes.Buffer
	require.NoError(t, WriteTable(&out, Terminal{}, nil))
	require.Contains(t, out.String(), "0 scenarios: 0 held, 0 failed, 0 false alarms\n")
}

func TestEndedLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	all := suite(t)
	for i, r := range all {
		require.NoError(t, WriteEnded(&out, Terminal{}, r, i+1, len(all)))
	}
	golden(t, "ended", out.String())
}

func TestSuiteJSONIsAnArrayInOrder(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, WriteResults(&out, suite(t)))
	var got []Result
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.Len(t, got, 8)
	require.Equal(t, "fabric-black-hole", got[0].Scenario)
	require.Equal(t, "never-begun", got[7].Scenario)
	require.Contains(t, out.String(), resolved, "verdicts to the byte here as well")
	out.Reset()
	require.NoError(t, WriteResults(&out, nil))
	require.Equal(t, "[]\n", out.String())
}

func TestStatesAndSuiteStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		result Result
		state  State
		status int
	}{
		{"held", Result{OK: true, Ended: "complete"}, Held, 0},
		{"failed", Result{Ended: "complete"}, Failed, 1},
		{"timeout", Result{Ended: "timeout"}, Failed, 1},
		{"pending and it fails", Result{Pending: true, Ended: "complete"}, Pending, 0},
		{"pending and the time was up", Result{Pending: true, Ended: "timeout"}, Pending, 0},
		{"pending and it holds", Result{Pending: true, OK: true, Ended: "complete"}, Unmark, 1},
		{"a signal came", Result{Ended: "interrupted"}, Cancelled, 1},
		{"pending and a signal came", Result{Pending: true, Ended: "interrupted"}, Cancelled, 1},
		{"not begun", skipped("x"), Cancelled, 1},
		{"unusable", Unrun("x", false, errors.New("no root")), Unusable, 2},
		{"pending and unusable", Unrun("x", true, errors.New("no root")), Unusable, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.state, tt.result.State())
			require.Equal(t, tt.status, SuiteStatus([]Result{{OK: true, Ended: "complete"}, tt.result}))
			require.Equal(t, max(tt.status, 1), SuiteStatus([]Result{tt.result, {Ended: "complete"}}))
		})
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	u := usageOf(held(t))
	require.InDelta(t, 100*0.6/2/76.5, u.agentCPU, 1e-9, "the mean, over settle and run")
	require.InDelta(t, 100*0.7/76.5, u.aggregatorCPU, 1e-9, "both aggregators")
	require.EqualValues(t, 25_000_000, u.agentRSS)
	require.EqualValues(t, 61_000_000, u.aggregatorRSS)
	require.Zero(t, usageOf(Result{Agents: []Agent{{Usage: Usage{CPUSeconds: 1}}}}).agentCPU, "a run of no length")
}

func TestSuiteRunsAtMostSoManyAtOnceAndKeepsTheOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	for _, tt := range []struct{ parallel, want int }{{0, DefaultParallel}, {1, 1}, {2, 2}, {100, len(names)}} {
		var running, most atomic.Int32
		var mu sync.Mutex
		var ended []string
		// All that may run at once meet before any goes on: that proves that so
		// many do, and the count that no more do.
		var meeting sync.WaitGroup
		meeting.Add(tt.want)
		results := RunSuite(t.Context(), names, tt.parallel, func(_ context.Context, i int) Result {
			n := running.Add(1)
			defer running.Add(-1)
			mu.Lock()
			most.Store(max(most.Load(), n))
			mu.Unlock()
			if i < tt.want {
				meeting.Done()
			}
			meeting.Wait()
			return Result{Scenario: names[i], OK: true}
		}, func(r Result, done int) {
			ended = append(ended, r.Scenario)
			if len(ended) != done {
				t.Errorf("%d ended, not %d", done, len(ended))
			}
		})
		require.EqualValues(t, tt.want, most.Load())
		require.ElementsMatch(t, names, ended)
		for i, r := range results {
			require.Equal(t, names[i], r.Scenario)
		}
	}
	require.Empty(t, RunSuite(t.Context(), nil, 3, nil, nil))
}

func TestACancelledSuiteBeginsNothingMore(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	var began atomic.Int32
	results := RunSuite(ctx, []string{"a", "b", "c", "d"}, 2, func(ctx context.Context, i int) Result {
		if began.Add(1) == 2 {
			cancel()
		}
		<-ctx.Done()
		return Result{Scenario: "begun", Ended: "interrupted"}
	}, nil)
	require.EqualValues(t, 2, began.Load())
	require.Equal(t, "begun", results[0].Scenario)
	require.Equal(t, "begun", results[1].Scenario)
	require.Equal(t, skipped("c"), results[2])
	require.Equal(t, skipped("d"), results[3])
	require.Equal(t, 1, SuiteStatus(results))
}

func TestList(t *testing.T) {
	t.Parallel()
	second := blackHole()
	second.Name, second.Pending, second.Description = "none", true, "Nothing\nhappens."
	second.Faults, second.Expect = nil, nil
	third := blackHole()
	third.Name = "two-of-a-kind"
	third.Faults = append(third.Faults, third.Faults[0], scenario.Fault{Kind: scenario.PathLoss})
	all := []*scenario.Scenario{blackHole(), second, third}
	for name, term := range map[string]Terminal{"pipe": {}, "terminal": {Width: 80, Colour: true}} {
		var out bytes.Buffer
		require.NoError(t, WriteList(&out, term, all))
		golden(t, "list-"+name, out.String())
	}
	var out bytes.Buffer
	require.NoError(t, WriteListJSON(&out, all))
	golden(t, "list.json", out.String())
}
