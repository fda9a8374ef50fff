// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const clockSkew = "identity/clock-skew"

// timeServers starts one SNTP server per offset behind the fabric and returns the
// agent's flags for them, each in a group of its own.
func (c *cluster) timeServers(offsets ...time.Duration) []string {
	c.t.Helper()
	var flags []string
	for i, offset := range offsets {
		address := fmt.Sprintf("10.9.9.2:%d", 11230+i)
		name := fmt.Sprintf("sntp-%d", i)
		c.aggregator.StartRole(name, "", "sntp", address, offset.String()).Says(5*time.Second, "listening")
		flags = append(flags, "--time-server", fmt.Sprintf("operator-%c=%s", 'a'+i, address))
	}
	return flags
}

func TestClockSkewIsProvenByAgreeingServers(t *testing.T) {
	c := newCluster(t)
	// The servers are 7 minutes ahead, so the node is 7 minutes behind.
	flags := c.timeServers(7*time.Minute, 7*time.Minute)
	c.startAggregator()
	c.startAgent("n1", flags...)
	v := c.waitGrade(20*time.Second, clockSkew, "n1", "proven")
	require.Equal(t, "Node", v.GetScope().GetKind())
	text := proofText(v) + v.GetSummary() + v.GetMitigation()
	require.Contains(t, text, "operator-a")
	require.Contains(t, text, "operator-b")
	for _, limit := range []string{"etcd", "token", "5 min"} {
		require.Contains(t, text, limit, "names the limits that an offset of 7 minutes breaks")
	}
}

func TestOneLyingServerOfThreeIsNamedAndRefuted(t *testing.T) {
	c := newCluster(t)
	flags := c.timeServers(0, 7*time.Minute, 0)
	c.startAggregator()
	c.startAgent("n1", flags...)
	c.silentUntil(30*time.Second, "the skew was weighed and refuted", []string{"proven", "likely"}, func() bool {
		return c.verdict(clockSkew, "n1").GetGrade() == "refuted"
	})
	var because []string
	for _, r := range c.verdict(clockSkew, "n1").GetRefuted() {
		because = append(because, r.GetBecause())
	}
	require.Contains(t, strings.Join(because, "\n"), "operator-b", "the liar is named")
	_, _, status := c.plumb("why", "n1")
	require.Equal(t, 0, status, "nothing proven is firing")
}

func TestTwoLyingServersOfThreeProveNothing(t *testing.T) {
	c := newCluster(t)
	flags := c.timeServers(7*time.Minute, 7*time.Minute, 0)
	c.startAggregator()
	c.startAgent("n1", flags...)
	c.silentUntil(30*time.Second, "all three were asked more than once", []string{"proven"}, func() bool {
		return c.evidence("n1", "node", "clock.groups_total").GetValue().GetNumberValue() == 3 &&
			c.evidence("n1", "node", "clock.rounds_agreeing").GetValue().GetNumberValue() >= 2
	})
}
