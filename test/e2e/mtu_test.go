// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

const (
	mismatch  = "network/mtu-overlay-mismatch"
	localDrop = "network/oversize-drop-local"
)

// proofText is all that a verdict argues with.
func proofText(v *apiv1.Verdict) string {
	var b strings.Builder
	for _, p := range v.GetProof() {
		b.WriteString(p.GetClaim() + "\n")
	}
	return b.String()
}

// stallingTransfer sends from p1 on n1 to p2 on n2 by TCP over the overlay.
func (c *cluster) stallingTransfer() *machine.Process {
	c.t.Helper()
	c.sink("n2", "p2", "10.244.2.10:5001")
	return c.inPod("n1", "p1", "tcp-source", "10.244.2.10:5001")
}

func TestOverlayMismatchIsProvenByTheDropsItCauses(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator()
	c.startAgent("n1")
	testutils.Eventually(t, 20*time.Second, "the overlay is known", func() bool {
		return c.evidence("n1", "flannel.1", "link.expected_mtu_bytes").GetValue().GetNumberValue() == 1450
	})

	started := time.Now()
	c.stallingTransfer()
	v := c.waitGrade(15*time.Second, mismatch, "n1", "proven")
	latency := v.GetGradedAt()["proven"].AsTime().Sub(v.GetOnset().AsTime())
	t.Logf("proven %.2fs after the first drop, %.2fs after the traffic began", latency.Seconds(), time.Since(started).Seconds())
	require.LessOrEqual(t, latency, 5*time.Second, "from the first drop")

	text := proofText(v)
	require.Contains(t, text, "flannel.1")
	require.Contains(t, text, "eth0", "the interface that dropped")
	require.Contains(t, text, "ip_fragment", "the site")
	require.Contains(t, text, "1550", "the size")
	require.Contains(t, text, "1500", "the limit")
	require.Contains(t, v.GetMitigation(), "1450", "the MTU to set")
	require.Equal(t, []string{"n1"}, v.GetScope().GetNodes())
	require.Equal(t, "firing", v.GetState())

	why, _, status := c.plumb("why", v.GetId())
	require.Equal(t, 1, status, "a proven verdict is firing")
	require.Contains(t, why, "1450")
	require.Contains(t, why, "ip_fragment")
}

func TestAMismatchThatHarmsNobodyIsNotProven(t *testing.T) {
	t.Run("the kernel fragments the outer packets", func(t *testing.T) {
		c := newCluster(t)
		c.overlay(1500, "unset")
		c.startAggregator()
		c.startAgent("n1")
		c.stallingTransfer()
		// A minute of proof would be better; what decides is that fragments are
		// being counted, and told as the reason, while the verdict stands where it is.
		c.silentUntil(60*time.Second, "outer fragments are seen, and shown as the reason", []string{"proven"}, func() bool {
			v := c.verdict(mismatch, "n1") // nil: the mismatch is real and must be shown
			return c.evidence("n1", "node", "oversize.outer_fragments_window").GetValue().GetNumberValue() > 100 &&
				strings.Contains(v.GetReason()+proofText(v), "fragment")
		})
	})
	t.Run("the routes carry a lower MTU", func(t *testing.T) {
		c := newCluster(t)
		c.overlay(1500, "set")
		c.nodes["n1"].IP("-n p1 route replace default via 10.244.1.1 mtu 1450", "route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink mtu 1450")
		c.nodes["n2"].IP("-n p2 route replace default via 10.244.2.1 mtu 1450", "route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink mtu 1450")
		c.startAggregator()
		c.startAgent("n1")
		source := c.stallingTransfer()
		// "No drop" can only be said after the hook has watched for 30 s, and what was
		// suspected before that goes on for its 30 s.
		c.silentUntil(2*time.Minute, "data flows and the mismatch was weighed", []string{"proven", "likely"}, func() bool {
			return strings.Count(source.Output(), "wrote 262144") > 5 && c.verdict(mismatch, "n1").GetGrade() == "refuted"
		})
		v := c.verdict(mismatch, "n1")
		var because []string
		for _, r := range v.GetRefuted() {
			because = append(because, r.GetBecause())
		}
		require.Contains(t, strings.Join(because, "\n"), "1450", "the reason is shown")
	})
}

func TestAnUndersizedPortIsProven(t *testing.T) {
	tests := []struct {
		name     string
		prepare  func(c *cluster)
		site     string
		counters bool
	}{
		{
			name: "a bridge port: no interface counter moves",
			prepare: func(c *cluster) {
				n1 := c.nodes["n1"]
				c.pod("n1", "p3", "10.244.1.11", 1500)
				n1.IP("link set vethp3 mtu 1400", "link set cni0 mtu 1500")
			},
			site: "br_",
		},
		{
			name: "a veth whose ends differ: counters move",
			prepare: func(c *cluster) {
				n1 := c.nodes["n1"]
				c.pod("n1", "p3", "10.244.1.11", 1500)
				n1.IP("link set vethp1 mtu 1400", "link set cni0 mtu 1500")
			},
			site: "dev_forward_skb", counters: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			tt.prepare(c)
			n1 := c.nodes["n1"]
			for _, pod := range []string{"p1", "p3"} {
				// A GSO train passes every size check; a wire would not let it.
				n1.Run("ip", "netns", "exec", pod, "ethtool", "-K", "eth0", "tso", "off", "gso", "off")
			}
			c.startAggregator()
			c.startAgent("n1")
			testutils.Eventually(t, 20*time.Second, "the devices are known", func() bool {
				return c.evidence("n1", "cni0", "link.mtu_bytes").GetValue().GetNumberValue() == 1500
			})
			c.sink("n1", "p3", "10.244.1.11:5001")
			before := interfaceDrops(n1)
			c.inPod("n1", "p1", "tcp-source", "10.244.1.11:5001")
			v := c.waitGrade(20*time.Second, localDrop, "n1", "proven")
			latency := v.GetGradedAt()["proven"].AsTime().Sub(v.GetOnset().AsTime())
			t.Logf("proven %.2fs after the first drop", latency.Seconds())
			require.LessOrEqual(t, latency, 5*time.Second)
			require.Equal(t, tt.counters, interfaceDrops(n1) > before)
			require.Contains(t, proofText(v), tt.site)
			require.Contains(t, proofText(v), "1400")
			require.Contains(t, proofText(v), "1500")
		})
	}
}

// interfaceDrops sums every drop counter of the node's devices and its pods'.
func interfaceDrops(m *machine.Machine) int {
	total := 0
	script := `for ns in '' p1 p3; do ip ${ns:+-n $ns} -s -j link; done | grep -o '"dropped":[0-9]*' | cut -d: -f2`
	for _, f := range strings.Fields(m.Run("sh", "-c", script)) {
		n := 0
		for _, r := range f {
			n = 10*n + int(r-'0')
		}
		total += n
	}
	return total
}

func TestLookAlikesAreSilent(t *testing.T) {
	t.Run("path MTU discovery works", func(t *testing.T) {
		c := newCluster(t)
		c.overlay(1450, "set")
		c.startAggregator()
		c.startAgent("n1")
		// Pods at 1500 behind an overlay of 1450: the node drops and says so, the
		// pod learns, data flows.
		source := c.stallingTransfer()
		c.silentUntil(60*time.Second, "data flowed for a while", []string{"proven", "likely"}, func() bool {
			return strings.Count(source.Output(), "wrote 262144") > 10
		})
	})
	t.Run("QUIC probes for a larger MTU and goes on with what works", func(t *testing.T) {
		c := newCluster(t)
		n1 := c.nodes["n1"]
		c.pod("n1", "p3", "10.244.1.11", 1500)
		n1.IP("link set vethp3 mtu 1400", "link set cni0 mtu 1500")
		c.startAggregator()
		c.startAgent("n1")
		c.inPod("n1", "p3", "udp-sink", "10.244.1.11:443")
		quic := c.inPod("n1", "p1", "quic-like", "10.244.1.11:443", "1500")
		seen := false
		c.silentUntil(60*time.Second, "the probes were dropped and the flow was seen to adapt", []string{"proven", "likely"}, func() bool {
			if strings.Contains(quic.Output(), "probe 3") && !seen {
				seen = true
			}
			return seen && c.adapted("n1")
		})
	})
	t.Run("sockets torn down with full queues", func(t *testing.T) {
		c := newCluster(t)
		c.overlay(1450, "unset")
		n1 := c.nodes["n1"]
		n1.IP("-n p1 link set eth0 mtu 1450", "link set vethp1 mtu 1450")
		c.nodes["n2"].IP("-n p2 link set eth0 mtu 1450", "link set vethp2 mtu 1450")
		c.startAggregator()
		c.startAgent("n1")
		c.sink("n2", "p2", "10.244.2.10:5001")
		storm := c.inPod("n1", "p1", "teardown", "10.244.2.10:5001")
		c.silentUntil(60*time.Second, "a thousand connections were torn down", []string{"proven", "likely", "suspected"}, func() bool {
			return strings.Contains(storm.Output(), "torn down 1000")
		})
	})
}

// adapted says whether any drop site of the node has flows that adapted.
func (c *cluster) adapted(node string) bool {
	c.t.Helper()
	for _, s := range c.subjects(node) {
		for _, it := range s.GetItems() {
			if it.GetItem() == "oversize.adapted_flows_window" && it.GetValue().GetNumberValue() > 0 {
				return true
			}
		}
	}
	return false
}
