// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

// fields reads one line of a log as an object of strings and refuses a name that
// comes twice, which encoding/json would let pass.
func fields(line string) (map[string]any, error) {
	decoder := json.NewDecoder(strings.NewReader(line))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("not an object: %v %w", open, err)
	}
	out := map[string]any{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		if _, twice := out[name.(string)]; twice {
			return nil, fmt.Errorf("%s comes twice", name)
		}
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		out[name.(string)] = value
	}
	return out, nil
}

func TestWhatOperatorsSeeOfBothPrograms(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator("--log-level", "debug", "--pod-namespace", "plumb", "--pod-name", "plumb-aggregator-0", "--node-name", "n9", "--zone", "z")
	c.startAgent("n1", "--log-level", "debug", "--pod-namespace", "plumb", "--pod-name", "plumb-agent-x")
	c.stallingTransfer()
	c.waitGrade(20*time.Second, mismatch, "n1", "proven")
	// Something that servers log by themselves: not TLS on the uplink's port.
	_, ok := c.nodes["n1"].Get("http://10.9.9.2:9951/")
	require.False(t, ok)
	c.waitReady(c.nodes["n1"], c.agents["n1"], "http://127.0.0.1:9950/readyz")

	t.Run("metrics follow the conventions", func(t *testing.T) {
		for _, scrape := range []struct {
			m   *machine.Machine
			url string
		}{{c.nodes["n1"], "http://127.0.0.1:9950/metrics"}, {c.aggregator, "http://127.0.0.1:9953/metrics"}} {
			text := c.body(scrape.m, scrape.url)
			problems, err := promlint.New(strings.NewReader(text)).Lint()
			require.NoError(t, err)
			for _, p := range problems {
				if strings.HasPrefix(p.Metric, "plumb_") {
					t.Errorf("%s of %s: %s", p.Metric, scrape.m.Name, p.Text)
				}
			}
			require.Contains(t, text, "plumb_")
			require.Contains(t, text, "process_cpu_seconds_total")
		}
	})

	t.Run("a verdict as JSON has the fields that programs rely on", func(t *testing.T) {
		out, _, status := c.plumb("verdicts", "--json")
		require.Equal(t, 1, status, "a proven verdict is firing")
		var list struct{ Verdicts []map[string]any }
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		var v map[string]any
		for _, each := range list.Verdicts {
			if each["signature"] == mismatch {
				v = each
			}
		}
		require.Equal(t, "network", v["loop"])
		require.Equal(t, "proven", v["grade"])
		require.Equal(t, "firing", v["state"])
		require.Nil(t, v["resolvedAt"])
		for _, field := range []string{"id", "onset", "resolvedAt", "mitigation"} {
			require.Contains(t, v, field)
		}
		scope := v["scope"].(map[string]any)
		require.NotEmpty(t, scope["kind"])
		require.Equal(t, []any{"a"}, scope["zones"])
		require.Equal(t, []any{"n1"}, scope["nodes"])
		var last time.Time
		for _, grade := range []string{"suspected", "likely", "proven"} {
			at, err := time.Parse(time.RFC3339, v["gradedAt"].(map[string]any)[grade].(string))
			require.NoError(t, err)
			require.False(t, at.Before(last), "grades rise")
			last = at
		}
		for _, list := range []string{"proof", "refuted", "unknown", "consequences"} {
			require.IsType(t, []any{}, v[list], list)
		}
		require.NotEmpty(t, v["proof"])
		for _, p := range v["proof"].([]any) {
			p := p.(map[string]any)
			require.Equal(t, "n1", p["node"])
			for _, field := range []string{"evidence", "kind", "claim", "rung", "observedAt"} {
				require.NotEmpty(t, p[field], "%s of %v", field, p)
			}
			require.NotEmpty(t, p["value"].(map[string]any))
		}
		require.NotEmpty(t, v["refuted"])
		for _, r := range v["refuted"].([]any) {
			require.NotEmpty(t, r.(map[string]any)["signature"])
			require.NotEmpty(t, r.(map[string]any)["because"])
		}
	})

	// The agent complains of the loss, in a line that has the zone.
	require.NoError(t, c.aggregatorProcess.Stop())
	testutils.Eventually(t, 30*time.Second, "the agent says that the aggregator is gone", func() bool {
		return strings.Contains(c.agents["n1"].Output(), `"level":"WARN"`)
	})
	require.NoError(t, c.agents["n1"].Stop())
	for _, log := range []struct {
		of   string
		text string
		want map[string]string
	}{
		{"agent", c.agents["n1"].Output(), map[string]string{"namespace": "plumb", "pod": "plumb-agent-x", "node": "n1"}},
		{"aggregator", c.aggregatorProcess.Output(), map[string]string{"namespace": "plumb", "pod": "plumb-aggregator-0", "node": "n9", "zone": "z"}},
	} {
		t.Run("every line of the "+log.of+"'s log carries the five fields, once", func(t *testing.T) {
			lines := strings.Split(strings.TrimSpace(log.text), "\n")
			require.GreaterOrEqual(t, len(lines), 2)
			zones, components := map[string]int{}, map[string]int{}
			for _, line := range lines {
				m, err := fields(line)
				require.NoError(t, err, line)
				for name, value := range log.want {
					require.Equal(t, value, m[name], line)
				}
				require.Regexp(t, "^[0-9a-f]{32}$", m["trace_id"], line)
				zone, ok := m["zone"].(string)
				require.True(t, ok, line)
				zones[zone]++
				component, _ := m["component"].(string)
				components[component]++
				require.NotEmpty(t, m["msg"], line)
			}
			if log.of == "agent" {
				require.Positive(t, zones["a"], "the zone comes with the aggregator's first reply")
			}
			t.Log(components)
		})
	}
}

// body is what a URL answers with status 200, asked from inside a machine.
func (c *cluster) body(m *machine.Machine, url string) string {
	c.t.Helper()
	text, ok := m.Get(url)
	require.True(c.t, ok, "%s: %s", url, text)
	return text
}

// When a proof lacks something, the aggregator asks the agent for a sample at
// once instead of waiting for the next tick.
func TestADirectiveMakesTheAgentSampleAtOnce(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "unset")
	c.startAggregator("--interval", "5m")
	// By itself this agent samples and pushes once in five minutes.
	c.startAgent("n1", "--interval", "5m", "--push-interval", "5m")
	began := time.Now()
	testutils.Eventually(t, 20*time.Second, "the mismatch is suspected, and what its proof lacks is asked for", func() bool {
		return strings.Contains(c.agents["n1"].Output(), `"msg":"directive ended"`) && c.verdict(mismatch, "n1").GetGrade() != ""
	})
	require.Contains(t, c.agents["n1"].Output(), `"outcome":"done"`)
	require.Contains(t, c.body(c.aggregator, "http://127.0.0.1:9953/metrics"), `plumb_verdict_directives_total{result="sent"}`)
	samples := func() string {
		for _, line := range strings.Split(c.body(c.nodes["n1"], "http://127.0.0.1:9950/metrics"), "\n") {
			if count, ok := strings.CutPrefix(line, `plumb_agent_probe_duration_seconds_count{probe="oversize"} `); ok {
				return count
			}
		}
		return "0"
	}
	require.NotEqual(t, "1", samples(), "sampled by the directive, not by the tick")
	// What it found was pushed at once as well: it is there before a tick could be.
	testutils.Eventually(t, 60*time.Second, "the answer was weighed", func() bool {
		it := c.evidence("n1", "node", "oversize.outer_fragments_window")
		return it.GetValue() != nil
	})
	require.Less(t, time.Since(began), 2*time.Minute)
}
