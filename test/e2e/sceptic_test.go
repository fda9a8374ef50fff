// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

// all returns the verdicts of a signature on a node, resolved ones as well.
func (c *cluster) all(signature, node string) []*apiv1.Verdict {
	c.t.Helper()
	var found []*apiv1.Verdict
	for _, v := range c.verdicts() {
		if v.GetSignature() == signature && strings.Join(v.GetScope().GetNodes(), ",") == node {
			found = append(found, v)
		}
	}
	return found
}

// Both nodes have the same mismatch and share the kernel that drops; only one of
// them sends.
func TestDropsOfOneNodeAreNoEvidenceOfAnother(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator()
	c.startAgent("n1")
	c.startAgent("n2")
	c.stallingTransfer()
	c.waitGrade(20*time.Second, mismatch, "n1", "proven")
	testutils.Eventually(t, time.Minute, "the other node can say that nothing was dropped", func() bool {
		require.NotContains(t, []string{"proven", "likely"}, c.verdict(mismatch, "n2").GetGrade())
		it := c.evidence("n2", "flannel.1", "oversize.encapsulated_drops_window")
		return it.GetState() == "value" && it.GetValue().GetNumberValue() == 0
	})
	require.Empty(t, c.all(localDrop, "n2"))
	require.Equal(t, "proven", c.only(mismatch, "n1").GetGrade())
}

// One overlay is wrong and nobody uses it; the drops are of path MTU discovery
// into the other, which is right.
func TestDropsOfOneOverlayAreNoEvidenceOfAnother(t *testing.T) {
	c := newCluster(t)
	c.overlay(1450, "set")
	c.nodes["n1"].IP("link add unused mtu 1500 type vxlan id 2 local 10.9.1.2 remote 10.9.2.2 dstport 8472 df set", "link set unused up")
	c.startAggregator()
	c.startAgent("n1")
	source := c.stallingTransfer()
	c.silentUntil(90*time.Second, "the unused overlay was weighed by a hook that watches", []string{"proven", "likely"}, func() bool {
		it := c.evidence("n1", "unused", "oversize.encapsulated_drops_window")
		return it.GetState() == "value" && strings.Count(source.Output(), "wrote 262144") > 5
	})
	require.Contains(t, c.verdict(mismatch, "n1").GetSummary(), "unused")
}

// The pod goes, and with it the name of the sender; its drops must not come back
// under another name.
func TestDeletingAPodWhoseFlowStallsMakesNoSecondVerdict(t *testing.T) {
	c := newCluster(t)
	n1 := c.nodes["n1"]
	c.pod("n1", "p3", "10.244.1.11", 1500)
	n1.IP("link set vethp1 mtu 1400", "link set cni0 mtu 1500")
	for _, pod := range []string{"p1", "p3"} {
		n1.Run("ip", "netns", "exec", pod, "ethtool", "-K", "eth0", "tso", "off", "gso", "off")
	}
	c.startAggregator()
	c.startAgent("n1")
	c.sink("n1", "p3", "10.244.1.11:5001")
	source := c.inPod("n1", "p1", "tcp-source", "10.244.1.11:5001")
	c.waitGrade(20*time.Second, localDrop, "n1", "proven")
	source.Kill()
	n1.IP("netns delete p1")
	ids := map[string]string{}
	testutils.Eventually(t, 2*time.Minute, "the verdict is resolved", func() bool {
		done := true
		for _, v := range c.all(localDrop, "n1") {
			ids[v.GetId()] = fmt.Sprintf("%v %s: %s", v.GetScope(), v.GetGrade(), v.GetSummary())
			done = done && v.GetState() == "resolved"
		}
		return done
	})
	require.Len(t, ids, 1, "%v", ids)
}

// The kernel never fragments what a tunnel sends over IPv6: with the MTU that
// would do over IPv4 everything large is lost, whatever the DF setting.
func TestAnOverlayOverIPv6IsProven(t *testing.T) {
	c := newCluster(t)
	for _, m := range []*machine.Machine{c.nodes["n1"], c.nodes["n2"], c.fabric} {
		m.Sysctl("net.ipv6.conf.all.disable_ipv6", "0")
		m.Sysctl("net.ipv6.conf.default.disable_ipv6", "0")
		m.Sysctl("net.ipv6.conf.all.forwarding", "1")
	}
	c.fabric.IP("addr add fd00:1::1/64 dev f1 nodad", "addr add fd00:2::1/64 dev f2 nodad")
	for n, peer := range map[string]string{"1": "2", "2": "1"} {
		m := c.nodes["n"+n]
		m.IP(fmt.Sprintf("addr add fd00:%s::2/64 dev eth0 nodad", n), fmt.Sprintf("route add default via fd00:%s::1", n),
			fmt.Sprintf("link add flannel.1 mtu 1450 type vxlan id 1 local fd00:%s::2 remote fd00:%s::2 dstport 8472 nolearning", n, peer),
			fmt.Sprintf("link set flannel.1 address 02:00:00:00:00:0%s", n),
			fmt.Sprintf("addr add 10.244.%s.0/32 dev flannel.1", n), "link set flannel.1 up",
			fmt.Sprintf("neigh add 10.244.%s.0 lladdr 02:00:00:00:00:0%s dev flannel.1 nud permanent", peer, peer),
			fmt.Sprintf("route add 10.244.%s.0/24 via 10.244.%s.0 dev flannel.1 onlink", peer, peer),
			fmt.Sprintf("-n p%s link set eth0 mtu 1450", n), fmt.Sprintf("link set vethp%s mtu 1450", n))
	}
	c.startAggregator()
	c.startAgent("n1")
	c.stallingTransfer()
	text := proofText(c.waitGrade(20*time.Second, mismatch, "n1", "proven"))
	require.Contains(t, text, "encapsulation adds 70")
	require.Contains(t, text, "ip6_fragment on eth0, 1520 to 1520 bytes")
}

// As a CNI does when its configuration was mended: the same name and id, another
// device.
func TestAnOverlayThatIsMadeAnewWithTheRightMTUIsCleared(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator()
	c.startAgent("n1")
	c.stallingTransfer()
	v := c.waitGrade(20*time.Second, mismatch, "n1", "proven")
	for _, m := range c.nodes {
		m.IP("link delete flannel.1")
	}
	c.overlay(1450, "set")
	testutils.Eventually(t, 90*time.Second, "the verdict is resolved", func() bool {
		return c.only(mismatch, "n1").GetState() == "resolved"
	})
	require.Equal(t, v.GetId(), c.only(mismatch, "n1").GetId())
}
