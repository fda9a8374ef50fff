// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// answers says whether a process of the product answers at once.
func answers(d *daemon) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := d.get(ctx, d.healthURL)
	return err == nil
}

// runState is the letter of a process's state in /proc/PID/stat; "" when it is gone.
func runState(p *machine.Process) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return ""
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]
}

// connected are the aggregators that an agent has a stream to, by its own metric.
func (b *bed) connected(t *testing.T, node string) (count int) {
	t.Helper()
	text, err := b.agents[node].get(t.Context(), "http://"+agentMetrics+"/metrics")
	require.NoError(t, err)
	lines := regexp.MustCompile(`(?m)^plumb_agent_uplink_connected\{.*\} (\d)$`).FindAllStringSubmatch(string(text), -1)
	require.Len(t, lines, len(b.aggregators), string(text))
	for _, l := range lines {
		if l[1] == "1" {
			count++
		}
	}
	return count
}

// bearer is whose token a node's agent has: a node, or why it is none.
func (b *bed) bearer(t *testing.T, node string) string {
	t.Helper()
	nodes, err := identity.LoadNodes(b.dir.File("keys", "nodes.yaml"))
	require.NoError(t, err)
	token, err := os.ReadFile(b.token(node))
	require.NoError(t, err)
	who, err := nodes.Authenticate(t.Context(), strings.TrimSpace(string(token)))
	if err != nil {
		require.ErrorIs(t, err, identity.ErrExpired)
		return "expired"
	}
	return who.Name
}

// clock is what an aggregator knows of a node's clock: how far it is ahead.
func (b *bed) clock(t *testing.T, node string) (ahead float64, known bool) {
	t.Helper()
	raw, err := b.aggregators[0].get(t.Context(), "http://"+apiAddress+"/api/v1/nodes/"+node+"/evidence")
	require.NoError(t, err)
	var evidence struct {
		Subjects []struct {
			Items []struct {
				Item, State string
				Value       any
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &evidence))
	for _, s := range evidence.Subjects {
		for _, i := range s.Items {
			if v, number := i.Value.(float64); i.Item == "clock.offset_seconds" && number {
				return v, true
			}
		}
	}
	return 0, false
}

func TestProductFaults(t *testing.T) {
	t.Parallel()
	b := newProductBed(t, "  cloud: none\n  aggregators: 2"+threeNodes, true)
	names := []string{"n1", "n2", "n3"}
	well := func(t *testing.T) {
		t.Helper()
		for _, n := range names {
			testutils.Eventually(t, 30*time.Second, n+" is connected to both", func() bool {
				return answers(b.agents[n]) && b.connected(t, n) == 2
			})
			require.Equal(t, n, b.bearer(t, n))
		}
		for _, d := range b.aggregators {
			require.True(t, answers(d))
		}
		require.Empty(t, b.troubles())
	}
	others := func(t *testing.T) {
		t.Helper()
		for _, n := range names[1:] {
			require.True(t, answers(b.agents[n]))
			require.Equal(t, n, b.bearer(t, n))
		}
		require.Empty(t, b.troubles(), "what is meant is no trouble")
		b.passes(t, "n1", "n3", 1500)
	}
	well(t)
	t.Run("agent-kill", func(t *testing.T) {
		pid := b.agents["n1"].current().PID()
		heal := b.inject(t, "kind: agent-kill, node: n1")
		require.False(t, answers(b.agents["n1"]))
		testutils.Eventually(t, arriveLimit, "it is gone", func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
			return errors.Is(err, os.ErrNotExist)
		})
		others(t)
		heal()
		well(t)
	})
	t.Run("agent-freeze", func(t *testing.T) {
		pid := b.agents["n1"].current().PID()
		heal := b.inject(t, "kind: agent-freeze, node: n1")
		testutils.Eventually(t, arriveLimit, "it is stopped", func() bool { return runState(b.agents["n1"].current()) == "T" })
		require.False(t, answers(b.agents["n1"]))
		others(t)
		heal()
		well(t)
		require.Equal(t, pid, b.agents["n1"].current().PID(), "it is the same process")
	})
	t.Run("aggregator-kill kills the first", func(t *testing.T) {
		heal := b.inject(t, "kind: aggregator-kill")
		require.False(t, answers(b.aggregators[0]))
		require.True(t, answers(b.aggregators[1]))
		require.Empty(t, b.troubles())
		for _, n := range names {
			testutils.Eventually(t, arriveLimit, n+" has the other", func() bool { return b.connected(t, n) == 1 })
		}
		heal()
		well(t)
	})
	reaches := func(t *testing.T, node string, aggregator int) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*lostAfter)
		defer cancel()
		conn, err := b.at(t, node).DialContext("")(ctx, "tcp", b.ingest(aggregator).String())
		if err == nil {
			require.NoError(t, conn.Close())
		}
		return err == nil
	}
	t.Run("aggregator-cut", func(t *testing.T) {
		for fault, cut := range map[string][]string{"kind: aggregator-cut": names, "kind: aggregator-cut, zone: b": {"n3"}} {
			heal := b.inject(t, fault)
			for _, n := range names {
				for i := range b.aggregators {
					require.Equal(t, !slices.Contains(cut, n), reaches(t, n, i), "%s: %s to %d", fault, n, i)
				}
			}
			b.passes(t, "n3", "n1", 1500)
			b.passes(t, "n3/pod", "n1/pod", 1450)
			b.passes(t, "n3", "services", 1500)
			require.True(t, answers(b.agents["n3"]))
			heal()
			for _, n := range names {
				require.True(t, reaches(t, n, 0) && reaches(t, n, 1))
			}
		}
		well(t)
	})
	t.Run("token-expired", func(t *testing.T) {
		heal := b.inject(t, "kind: token-expired, node: n1")
		require.Equal(t, "expired", b.bearer(t, "n1"))
		others(t)
		require.Equal(t, http.StatusUnauthorized, b.present(t, "n1"))
		require.NotEqual(t, http.StatusUnauthorized, b.present(t, "n2"))
		heal()
		well(t)
		require.NotEqual(t, http.StatusUnauthorized, b.present(t, "n1"))
	})
	t.Run("token-wrong-node", func(t *testing.T) {
		heal := b.inject(t, "kind: token-wrong-node, node: n1")
		require.Equal(t, "n2", b.bearer(t, "n1"))
		others(t)
		heal()
		well(t)
		heal = b.inject(t, "kind: token-wrong-node, nodes: [n1, n2, n3]")
		for _, n := range names {
			require.NotEqual(t, n, b.bearer(t, n))
			require.Contains(t, names, b.bearer(t, n))
		}
		heal()
		well(t)
		healBoth := b.inject(t, "kind: token-expired, node: n1")
		heal = b.inject(t, "kind: token-wrong-node, node: n3")
		require.Equal(t, "n1", b.bearer(t, "n3"), "a good token of n1, though n1 has none itself")
		heal()
		healBoth()
		well(t)
	})
	t.Run("clock-offset", b.clockFaults)
}

func (b *bed) clockFaults(t *testing.T) {
	off := func(t *testing.T, node string, least, most float64) {
		t.Helper()
		var ahead float64
		began := time.Now()
		testutils.Eventually(t, 40*time.Second, fmt.Sprintf("%s is between %g and %g s ahead", node, least, most), func() bool {
			var known bool
			ahead, known = b.clock(t, node)
			return known && ahead >= least && ahead <= most
		})
		t.Logf("%s is %.3f s ahead, seen after %s", node, ahead, time.Since(began).Round(time.Millisecond))
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		off(t, n, -0.1, 0.1)
	}
	stepped := b.inject(t, "kind: clock-offset, node: n1, offset: -90s, step: true")
	jumped := b.inject(t, "kind: clock-offset, node: n3, drift: 2000, step: 30s")
	quiet := b.inject(t, "kind: clock-offset, node: n2, offset: 45s, step: false")
	off(t, "n1", -90.1, -89.9)
	off(t, "n3", 29.99, 30.2)
	stepsOf := func(node string) (n int) {
		raw, err := b.aggregators[0].get(t.Context(), "http://"+apiAddress+"/api/v1/episodes")
		require.NoError(t, err)
		var list struct {
			Episodes []struct {
				Node, Condition string
				Onset           time.Time
			}
		}
		require.NoError(t, json.Unmarshal(raw, &list))
		for _, e := range list.Episodes {
			if e.Node == node && e.Condition == "clock.step" {
				n++
			}
		}
		return n
	}
	off(t, "n2", 44.9, 45.1)
	require.Positive(t, stepsOf("n1"))
	require.Zero(t, stepsOf("n2"), "nothing told the kernel")
	require.Positive(t, stepsOf("n3"))
	drifted, _ := b.clock(t, "n3")
	off(t, "n3", drifted+0.005, 31) // 2 ms a second
	stepped()
	jumped()
	quiet()
	for _, n := range []string{"n1", "n2", "n3"} {
		off(t, n, -0.1, 0.1)
	}
}

// present shows an agent's token to the first aggregator and returns the status.
func (b *bed) present(t *testing.T, node string) int {
	t.Helper()
	token, err := os.ReadFile(b.token(node))
	require.NoError(t, err)
	url := "https://" + b.ingest(0).String() + evidencev1connect.UplinkServiceTimeProcedure
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	transport := &http.Transport{
		DialContext: b.at(t, node).DialContext(""), DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the token is tested, not the server
	}
	response, err := transport.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}
