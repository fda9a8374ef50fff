// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "write it with go test ./test/lab/report -update")
	require.Equal(t, string(want), got)
}

// start is the end of settle in every test.
func start() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

func at(seconds float64) time.Time {
	return start().Add(time.Duration(seconds * float64(time.Second)))
}

func pointer[T any](v T) *T { return &v }

// blackHole is the contract's own example.
func blackHole() *scenario.Scenario {
	return &scenario.Scenario{
		Name: "fabric-black-hole", Description: "The fabric between zones a and b silently drops packets over 1400 bytes.",
		Duration: time.Minute, Settle: 5 * time.Second,
		Faults: []scenario.Fault{{Kind: scenario.PathDropLarger, Until: 40 * time.Second, BetweenNames: []string{"a", "b"}, Bytes: 1400, Direction: scenario.Both}},
		Expect: []scenario.Expectation{
			{Signature: "network/mtu-black-hole", Grade: "proven", Scope: scenario.Scope{Zones: []string{"a", "b"}}, Within: 15 * time.Second, ClearsWithin: time.Minute},
			{Refuted: "network/path-loss"},
		},
		Forbid: []string{"proven", "likely"},
	}
}

// The verdict as the API gives it, at three moments.
const (
	head      = `{"id":"3f9a2c41d07be85a","signature":"network/mtu-black-hole","loop":"network",`
	place     = `"scope":{"kind":"ZonePair","zones":["a","b"],"nodes":["n1","n2","n3"],"device":"","pool":"","pod":""},`
	suspected = head + `"grade":"suspected","state":"firing",` + place + `"onset":"2026-03-04T05:06:07Z","gradedAt":{"suspected":"2026-03-04T05:06:10Z"},"resolvedAt":null,"proof":[],"refuted":[],"unknown":[],"consequences":[],"mitigation":"","summary":"large packets between zones a and b get lost","reason":"not proven: no probe has measured it yet","updatedAt":"2026-03-04T05:06:10Z"}`
	graded    = `"onset":"2026-03-04T05:06:07Z","gradedAt":{"likely":"2026-03-04T05:06:12Z","proven":"2026-03-04T05:06:16.200Z","suspected":"2026-03-04T05:06:10Z"},`
	rest      = `"proof":[{"node":"n1","evidence":"path.probe","kind":"active probe","claim":"1401..1450 B lost 3/3, 1400 B delivered 30/30","value":{"path.probe":"<1400>"},"rung":"raw socket","observedAt":"2026-03-04T05:06:16Z","clause":"bisect","bans":1.5,"subject":"path b","decisive":true,"uncertainty":""},{"node":"n3","evidence":"tcp.stalls","kind":"kernel counter","claim":"4 flows stall on segments of 1398 bytes","value":{},"rung":"","observedAt":"2026-03-04T05:06:15Z","clause":"stall","bans":1,"subject":"node","decisive":true,"uncertainty":""},{"node":"n3","evidence":"x","kind":"y","claim":"something else","value":{},"rung":"","observedAt":null,"clause":"z","bans":0.3,"subject":"node","decisive":false,"uncertainty":""}],"refuted":[{"signature":"network/path-loss","because":"small packets: 0 of 30 lost"}],"unknown":[],"consequences":[],"mitigation":"Lower the MTU of the overlay:\n  ip link set flannel.1 mtu 1350","summary":"the way between zones a and b drops packets over 1400 bytes and does not say so","reason":"","updatedAt":"2026-03-04T05:06:16.200Z"}`
	proven    = head + `"grade":"proven","state":"firing",` + place + graded + `"resolvedAt":null,` + rest
	resolved  = head + `"grade":"proven","state":"resolved",` + place + graded + `"resolvedAt":"2026-03-04T05:07:18Z",` + rest
	falseOne  = `{"id":"77aa000011112222","signature":"network/path-loss","loop":"network","grade":"likely","state":"firing","scope":{"kind":"Node","zones":[],"nodes":["n2"]},"onset":"2026-03-04T05:06:20Z","gradedAt":{"likely":"2026-03-04T05:06:21Z","suspected":"2026-03-04T05:06:20Z"},"resolvedAt":null,"proof":[],"refuted":[],"unknown":[],"consequences":[],"mitigation":""}`
)

// A seen list of one aggregator.
type seen struct {
	seconds float64
	list    []string
}

func observe(t *testing.T, looks ...seen) (judge.Observation, []judge.Change) {
	t.Helper()
	o := judge.Observation{
		SettleEnd: start(), RunEnd: at(101), History: &judge.History{},
		Faults: []judge.Fault{{InjectedAt: at(0), FirstAffectedAt: pointer(at(0.7)), EndedAt: pointer(at(40))}},
	}
	var changes []judge.Change
	for _, l := range looks {
		c, err := o.History.Add("agg1", at(l.seconds), []byte(`{"verdicts":[`+strings.Join(l.list, ",")+`]}`))
		require.NoError(t, err)
		changes = append(changes, c...)
	}
	return o, changes
}

func facts() Facts {
	return Facts{
		Kernel: "6.18.0", Start: 4200 * time.Millisecond, Settle: 5 * time.Second, Run: 71500 * time.Millisecond,
		Agents: []Agent{
			{Node: "n1", Usage: Usage{0.4, 25_000_000}, Batches: 12},
			{Node: "n2", Usage: Usage{0.2, 24_000_000}, Batches: 11, Dropped: 1},
		},
		Aggregators: []Aggregator{{Name: "agg1", Usage: Usage{0.6, 60_000_000}}, {Name: "agg2", Usage: Usage{0.1, 61_000_000}}},
	}
}

func result(t *testing.T, s *scenario.Scenario, looks ...seen) Result {
	t.Helper()
	o, _ := observe(t, looks...)
	return New(s, o, judge.Judge(s, o), facts())
}

func held(t *testing.T) Result {
	return result(t, blackHole(), seen{4, []string{suspected}}, seen{10, []string{proven}}, seen{72, []string{resolved}})
}

func failed(t *testing.T) Result {
	r := result(t, blackHole(), seen{4, []string{suspected}}, seen{15, []string{suspected, falseOne}})
	r.OK, r.Failures = false, []string{"plumb-agent of n2 ended: signal: killed"}
	return r
}

func TestResultJSON(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Result{
		"held": held(t), "failed": failed(t),
		"unusable": Unrun("odd", true, errors.New("/tmp/odd.yaml:3:5: unknown field \"fault\"")),
	} {
		var out bytes.Buffer
		require.NoError(t, r.WriteJSON(&out))
		require.Equal(t, 1, strings.Count(out.String(), "\n"), "one object on one line")
		golden(t, name+".json", out.String())
	}
}

// Every key of the contract's example is there, with a value of the same kind.
func TestResultHasTheShapeOfTheContract(t *testing.T) {
	t.Parallel()
	const contract = `{"scenario":"fabric-black-hole","ok":true,"kernel":"6.18…",
 "faults":[{"kind":"path-drop-larger","injectedAt":"…","firstAffectedAt":"…","endedAt":"…"}],
 "expectations":[{"signature":"network/mtu-black-hole","held":true,"afterSeconds":9.2,"clearedAfterSeconds":31.0}],
 "unexpected":[],
 "verdicts":[{"id":"…","signature":"network/mtu-black-hole","loop":"network","grade":"proven","state":"firing",
   "scope":{"kind":"ZonePair","zones":["a","b"],"nodes":["n1","n2","n3"]},
   "onset":"…","gradedAt":{"suspected":"…","likely":"…","proven":"…"},
   "proof":[{"node":"n1","evidence":"path.probe","kind":"active probe","claim":"…","value":{},"rung":"…","observedAt":"…"}],
   "refuted":[{"signature":"network/path-loss","because":"small packets: 0 of 30 lost"}],
   "unknown":[],"consequences":[],"mitigation":"…"}],
 "agents":[{"node":"n1","cpuSeconds":0.4,"maxRSSBytes":25000000,"batches":12,"dropped":0}],
 "aggregator":{"cpuSeconds":0.6,"maxRSSBytes":60000000}}`
	var want, got any
	require.NoError(t, json.Unmarshal([]byte(contract), &want))
	r := held(t)
	raw, err := json.Marshal(r)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &got))
	requireShape(t, "", want, got)
	e := r.Expectations[0]
	require.InDelta(t, 9.2, *e.AfterSeconds, 1e-9)
	require.InDelta(t, 31, *e.ClearedAfterSeconds, 1e-9)
}

func requireShape(t *testing.T, path string, want, got any) {
	t.Helper()
	require.IsType(t, want, got, path)
	switch want := want.(type) {
	case map[string]any:
		have, _ := got.(map[string]any)
		for key, value := range want {
			require.Contains(t, have, key, path)
			requireShape(t, path+"."+key, value, have[key])
		}
	case []any:
		have, _ := got.([]any)
		if len(want) > 0 {
			require.NotEmpty(t, have, path)
			requireShape(t, path+"[]", want[0], have[0])
		}
	}
}

func TestVerdictsStandAsTheAPIGaveThem(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, held(t).WriteJSON(&out))
	require.Contains(t, out.String(), resolved, "to the byte, < and > as well")
}

func TestWhatNeverHappenedIsNull(t *testing.T) {
	t.Parallel()
	s := blackHole()
	s.Faults = append(s.Faults, scenario.Fault{Kind: scenario.PathCut})
	o := judge.Observation{SettleEnd: start(), RunEnd: at(3), Faults: []judge.Fault{{InjectedAt: at(0)}}, Ending: judge.TimedOut}
	raw, err := json.Marshal(New(s, o, judge.Judge(s, o), Facts{}))
	require.NoError(t, err)
	text := string(raw)
	require.Contains(t, text, `{"index":0,"kind":"path-drop-larger","injectedAt":"2026-03-04T05:06:07Z","firstAffectedAt":null,"endedAt":null}`)
	require.Contains(t, text, `{"index":1,"kind":"path-cut","injectedAt":null,"firstAffectedAt":null,"endedAt":null}`)
	require.Contains(t, text, `"held":false,"afterSeconds":null,"clearedAfterSeconds":null`)
	require.Contains(t, text, `"undecided":[0,1],"unexpected":[],"failures":[],"verdicts":[],"earlierVerdicts":[],"agents":[],"aggregator":{"cpuSeconds":0,"maxRSSBytes":0},"aggregators":[]`)
	require.Contains(t, text, `"ended":"timeout"`)
}

func TestAnEarlierSpellIsKeptBesideTheVerdicts(t *testing.T) {
	t.Parallel()
	again := strings.NewReplacer("05:06:10Z", "05:07:30Z").Replace(suspected)
	r := result(t, blackHole(), seen{10, []string{proven}}, seen{72, []string{resolved}}, seen{90, []string{again}})
	require.Len(t, r.Verdicts, 1)
	require.Equal(t, again, string(r.Verdicts[0]))
	require.Len(t, r.EarlierVerdicts, 1)
	require.Equal(t, resolved, string(r.EarlierVerdicts[0]))
}
