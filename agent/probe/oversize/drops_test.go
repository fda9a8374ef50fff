// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// wholePackets turns off everything that hands GSO trains over a veth.
func wholePackets(ns *testutils.NetNS, devices ...string) {
	for _, d := range devices {
		ns.Run("ethtool", "-K", d, "tso", "off", "gso", "off", "gro", "off", "tx-udp_tnl-segmentation", "off")
	}
}

// vxlanLab is one node with a pod behind a VXLAN whose outer packets leave by
// eth0; the far end is another node with another pod.
type vxlanLab struct {
	pod, node, farNode, farPod *testutils.NetNS
}

func newVXLANLab(t *testing.T, mtu string, extra ...string) vxlanLab {
	t.Helper()
	l := vxlanLab{testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t)}
	testutils.Veth(l.node, "eth0", l.farNode, "eth0")
	for i, side := range []struct{ node, pod *testutils.NetNS }{{l.node, l.pod}, {l.farNode, l.farPod}} {
		n, far := string(rune('1'+i)), string(rune('2'-i))
		side.node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.disable_ipv6=1")
		side.pod.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
		side.node.Run("ip", "addr", "add", "10.9.0."+n+"/24", "dev", "eth0")
		args := append([]string{"link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472",
			"local", "10.9.0." + n, "nolearning"}, extra...)
		side.node.Run("ip", args...)
		side.node.Run("ip", "link", "set", "flannel.1", "mtu", mtu, "address", "0a:00:00:00:00:0"+n, "up")
		side.node.Run("ip", "addr", "add", "10.244."+n+".0/32", "dev", "flannel.1")
		side.node.Run("ip", "route", "add", "10.244."+far+".0/24", "via", "10.244."+far+".0", "dev", "flannel.1", "onlink")
		side.node.Run("ip", "neigh", "add", "10.244."+far+".0", "lladdr", "0a:00:00:00:00:0"+far, "dev", "flannel.1")
		side.node.Run("bridge", "fdb", "add", "0a:00:00:00:00:0"+far, "dev", "flannel.1", "dst", "10.9.0."+far)
		testutils.Veth(side.node, "port", side.pod, "eth0")
		side.node.Run("ip", "addr", "add", "10.244."+n+".1/24", "dev", "port")
		side.pod.Run("ip", "addr", "add", "10.244."+n+".2/24", "dev", "eth0")
		side.pod.Run("ip", "route", "add", "default", "via", "10.244."+n+".1")
		wholePackets(side.node, "eth0", "port")
		wholePackets(side.pod, "eth0")
	}
	return l
}

func TestVXLANWithDFOverAnUnderlayThatIsTooSmall(t *testing.T) {
	v := newVXLANLab(t, "1500", "df", "set")
	l := watch(t, []*testutils.NetNS{v.node}, []*testutils.NetNS{v.pod})
	began := time.Now()
	_, err := v.pod.Try("ping", "-c", "6", "-i", "0.3", "-W", "1", "-M", "do", "-s", "1472", "10.244.2.2")
	require.Error(t, err, "the packets must not arrive")

	wake := <-l.wakes
	require.Less(t, wake.Sub(began), time.Second)
	s := l.sample()
	t.Log(dump(s))
	site := find(s, evidence.SubjectDropsite, "ip_fragment", "ipv4")
	require.NotNil(t, site)
	require.Equal(t, int64(1550), integer(site, evidence.OversizeLengthMaxBytes))
	require.Equal(t, int64(1500), integer(site, evidence.OversizeLimitBytes))
	require.Equal(t, "pod-0", site.Subject.PodUID, dump(s))
	require.GreaterOrEqual(t, integer(site, evidence.OversizeStalledFlowDrops), int64(3))
	require.Contains(t, text(site, evidence.OversizeStalledFlow), "icmp 10.244.1.2 > 10.244.2.2")
	overlay := find(s, evidence.SubjectDevice, "flannel.1")
	require.GreaterOrEqual(t, integer(overlay, evidence.OversizeEncapsulatedDropsTotal), int64(3))
	require.Equal(t, int64(1550), integer(overlay, evidence.OversizeEncapsulatedLengthMaxBytes))
	require.Equal(t, "ip_fragment on eth0", text(overlay, evidence.OversizeEncapsulatedSite))
	require.True(t, item(overlay, uint32(evidence.OversizeEncapsulatedSenderIsPod)).GetFlag())
	require.Len(t, holds(s, evidence.ConditionOversizeStalledFlow), 1)
	require.Len(t, holds(s, evidence.ConditionOversizeEncapsulatedDrops), 1)
}

func TestForwardingWhoseICMPIsFiltered(t *testing.T) {
	v := newVXLANLab(t, "1450")
	v.pod.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in icmp type destination-unreachable drop")
	l := watch(t, []*testutils.NetNS{v.node}, []*testutils.NetNS{v.pod})
	got := listen(t, v.farPod, "10.244.2.2:5000")
	push(dial(t, v.pod, "tcp", "10.244.2.2:5000"), 200_000)

	var s *evidence.Sample
	testutils.Eventually(t, 5*time.Second, "the stalled connection is called", func() bool {
		s = l.sample()
		return len(holds(s, evidence.ConditionOversizeStalledFlow)) == 1
	})
	require.Zero(t, got())
	site := find(s, evidence.SubjectDropsite, "ip_forward")
	require.NotNil(t, site)
	require.Equal(t, "ip_forward on flannel.1", site.Subject.Name, "the limit is the device out, not skb->dev")
	require.Equal(t, int64(1500), integer(site, evidence.OversizeLengthMaxBytes))
	require.Equal(t, int64(1450), integer(site, evidence.OversizeLimitBytes))
	require.Equal(t, "PKT_TOO_BIG", text(site, evidence.OversizeReason))
	require.Equal(t, "pod-0", site.Subject.PodUID)
	require.Contains(t, text(site, evidence.OversizeStalledFlow), "tcp 10.244.1.2:")
	require.Empty(t, holds(s, evidence.ConditionOversizeEncapsulatedDrops))

	// With the filter gone the next retransmission is told, and shrinks: what was
	// lost goes out again in smaller segments.
	v.pod.Run("nft", "flush", "ruleset")
	testutils.Eventually(t, 15*time.Second, "the flow adapts", func() bool {
		s = l.sample()
		return len(holds(s, evidence.ConditionOversizeStalledFlow)) == 0
	})
	require.Equal(t, int64(1), integer(find(s, evidence.SubjectDropsite, "ip_forward"), evidence.OversizeAdaptedFlowsWindow))
	testutils.Eventually(t, 5*time.Second, "the data arrives", func() bool { return got() == 200_000 })
}

func TestGSOTrainsAreMeasuredBySegment(t *testing.T) {
	v := newVXLANLab(t, "1450")
	v.pod.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in icmp type destination-unreachable drop")
	for _, ns := range []*testutils.NetNS{v.pod, v.node} {
		for _, d := range []string{"eth0", "port"} {
			_, _ = ns.Try("ethtool", "-K", d, "tso", "on", "gso", "on", "gro", "on")
		}
	}
	l := watch(t, []*testutils.NetNS{v.node}, []*testutils.NetNS{v.pod})
	listen(t, v.farPod, "10.244.2.2:5000")
	push(dial(t, v.pod, "tcp", "10.244.2.2:5000"), 200_000)
	testutils.Eventually(t, 3*time.Second, "the drop is seen", func() bool {
		<-l.wakes
		site := find(l.sample(), evidence.SubjectDropsite, "ip_forward")
		if site == nil {
			return false
		}
		require.Equal(t, int64(1500), integer(site, evidence.OversizeLengthMaxBytes))
		return true
	})
}

func TestVethPeersThatDisagree(t *testing.T) {
	node, pod := testutils.NewNetNS(t), testutils.NewNetNS(t)
	testutils.Veth(node, "port", pod, "eth0")
	node.Run("ip", "link", "set", "port", "mtu", "1400")
	pod.Run("ip", "link", "set", "eth0", "mtu", "1450")
	node.Run("ip", "addr", "add", "10.1.0.1/24", "dev", "port")
	pod.Run("ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
	// The node must not tell its own limit in its MSS.
	node.Run("ip", "route", "replace", "10.1.0.0/24", "dev", "port", "src", "10.1.0.1", "advmss", "1460")
	wholePackets(node, "port")
	wholePackets(pod, "eth0")
	l := watch(t, []*testutils.NetNS{node}, []*testutils.NetNS{pod})
	got := listen(t, node, "10.1.0.1:5000")
	c := dial(t, pod, "tcp", "10.1.0.1:5000")
	push(c, 100_000)
	var s *evidence.Sample
	testutils.Eventually(t, 6*time.Second, "the stalled connection is called", func() bool {
		s = l.sample()
		return len(holds(s, evidence.ConditionOversizeStalledFlow)) == 1
	})
	require.Less(t, got(), int64(100_000))
	site := find(s, evidence.SubjectDropsite, "__dev_forward_skb2 on port")
	require.NotNil(t, site, dump(s))
	require.Equal(t, int64(1450), integer(site, evidence.OversizeLengthMaxBytes))
	require.Equal(t, int64(1400), integer(site, evidence.OversizeLimitBytes))
	require.Equal(t, "peer device", text(site, evidence.OversizeLimitSource))
	require.Equal(t, "pod-0", site.Subject.PodUID)
	require.False(t, item(site, uint32(evidence.OversizeEmitsICMP)).GetFlag())
}

func TestABridgePortThatIsTooSmall(t *testing.T) {
	pod, node, far := testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t)
	testutils.Veth(node, "port", pod, "eth0")
	testutils.Veth(node, "small", far, "eth0")
	for _, ns := range []*testutils.NetNS{pod, node, far} {
		ns.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	}
	pod.Run("ip", "link", "set", "eth0", "mtu", "9000", "address", "0a:00:00:00:01:01")
	far.Run("ip", "link", "set", "eth0", "mtu", "9000", "address", "0a:00:00:00:01:02")
	node.Run("ip", "link", "add", "cni0", "type", "bridge")
	node.Run("ip", "link", "set", "port", "master", "cni0", "mtu", "9000")
	node.Run("ip", "link", "set", "small", "master", "cni0", "mtu", "1500")
	node.Run("ip", "link", "set", "cni0", "up")
	pod.Run("ip", "addr", "add", "10.2.0.1/24", "dev", "eth0")
	far.Run("ip", "addr", "add", "10.2.0.2/24", "dev", "eth0")
	wholePackets(pod, "eth0")
	wholePackets(far, "eth0")
	wholePackets(node, "port", "small")
	require.NoError(t, func() error { _, err := pod.Try("ping", "-c", "1", "-W", "2", "10.2.0.2"); return err }())
	before := counters(node)
	l := watch(t, []*testutils.NetNS{node}, []*testutils.NetNS{pod})
	_, err := pod.Try("ping", "-c", "5", "-i", "0.3", "-W", "1", "-M", "do", "-s", "8000", "10.2.0.2")
	require.Error(t, err)
	s := l.sample()
	site := find(s, evidence.SubjectDropsite, "on small", "ipv4")
	require.NotNil(t, site, dump(s))
	require.Contains(t, []string{"br_dev_queue_push_xmit", "br_nf_dev_queue_xmit"}, text(site, evidence.OversizeSite))
	require.Equal(t, int64(8028), integer(site, evidence.OversizeLengthMaxBytes))
	require.Equal(t, int64(1500), integer(site, evidence.OversizeLimitBytes))
	require.Equal(t, "device", text(site, evidence.OversizeLimitSource))
	require.Equal(t, "pod-0", site.Subject.PodUID)
	require.Len(t, holds(s, evidence.ConditionOversizeStalledFlow), 1, dump(s))
	require.Equal(t, before, counters(node), "no interface counter may show it")
}

// counters are the drop counters of all devices of a namespace.
func counters(ns *testutils.NetNS) string {
	return ns.Run("sh", "-c", `ip -s -s -j link | tr ',' '\n' | grep -E '"(dropped|errors|over_errors|length)"'`)
}
