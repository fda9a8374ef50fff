// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

// sendSizes are tcpi_snd_mss of a machine's connections over the uplink's port.
func (c *cluster) sendSizes(m *machine.Machine, filter string) []int {
	c.t.Helper()
	var sizes []int
	for _, match := range regexp.MustCompile(`\bmss:(\d+)`).FindAllStringSubmatch(m.Run("ss", "-Htin", "state", "established", filter), -1) {
		size, err := strconv.Atoi(match[1])
		require.NoError(c.t, err)
		sizes = append(sizes, size)
	}
	return sizes
}

// Both programs, with the path between them swallowing what is larger than 1,000
// bytes and telling nobody.
func TestEvidenceReachesTheAggregatorThroughABlackHole(t *testing.T) {
	c := newCluster(t)
	// A veth hands on a packet that was not segmented whatever its MTU is.
	for _, end := range []struct {
		m      *machine.Machine
		device string
	}{{c.nodes["n1"], "eth0"}, {c.fabric, "f1"}, {c.fabric, "f9"}, {c.aggregator, "eth0"}} {
		end.m.Run("ethtool", "-K", end.device, "tso", "off", "gso", "off", "gro", "off")
	}
	c.fabric.IP("link set f9 mtu 1000", "link set f1 mtu 1000")
	c.fabric.Run("nft", "add table ip silent; add chain ip silent out { type filter hook output priority 0; }; add rule ip silent out icmp type destination-unreachable drop")
	for _, m := range []*machine.Machine{c.nodes["n1"], c.aggregator} {
		m.Sysctl("net.ipv4.tcp_mtu_probing", "0")
	}
	ping := func(size string) error {
		return c.nodes["n1"].Command("ping", "-c1", "-W1", "-Mdo", "-s", size, "10.9.9.2").Run()
	}
	require.NoError(t, ping("972"), "1,000 bytes pass")
	require.Error(t, ping("973"), "1,001 do not")

	// Many devices make batches that need many segments.
	for i := range 40 {
		c.nodes["n1"].IP(fmt.Sprintf("link add d%d type veth peer name e%d", i, i))
	}
	c.startAggregator()
	c.startAgent("n1")
	testutils.Eventually(t, 20*time.Second, "the last device is known to the aggregator", func() bool {
		return c.evidence("n1", "d39", "link.mtu_bytes").GetValue().GetNumberValue() == 1500
	})
	require.Greater(t, len(c.subjects("n1")), 40)
	for _, end := range []struct {
		name  string
		sizes []int
	}{
		{"agent", c.sendSizes(c.nodes["n1"], "dport = :9951")},
		{"aggregator", c.sendSizes(c.aggregator, "sport = :9951")},
	} {
		require.NotEmpty(t, end.sizes, end.name)
		for _, size := range end.sizes {
			require.LessOrEqual(t, size, 512, end.name)
			require.Greater(t, size, 88, end.name)
		}
	}
}
