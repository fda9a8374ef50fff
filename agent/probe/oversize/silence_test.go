// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// silent samples for a while and requires that no flow is ever called stalled.
func silent(t *testing.T, l *lab, d time.Duration) *evidence.Sample {
	t.Helper()
	var s *evidence.Sample
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-ticks.C {
		s = l.sample()
		require.Empty(t, holds(s, evidence.ConditionOversizeStalledFlow), dump(s))
	}
	return s
}

func TestPathMTUDiscoveryThatWorksIsSilent(t *testing.T) {
	v := newVXLANLab(t, "1450")
	l := watch(t, []*testutils.NetNS{v.node}, []*testutils.NetNS{v.pod})
	got := listen(t, v.farPod, "10.244.2.2:5000")
	const total = 20_000_000
	push(dial(t, v.pod, "tcp", "10.244.2.2:5000"), total)
	testutils.Eventually(t, 10*time.Second, "the transfer ends", func() bool {
		require.Empty(t, holds(l.sample(), evidence.ConditionOversizeStalledFlow))
		return got() == total
	})
	s := silent(t, l, time.Second)
	site := find(s, evidence.SubjectDropsite, "ip_forward")
	require.NotNil(t, site, "the drop that discovery begins with is counted")
	require.Positive(t, integer(site, evidence.OversizeDropsTotal))
}

func TestQUICLikeProbesAreSilent(t *testing.T) {
	v := newVXLANLab(t, "1500", "df", "set")
	l := watch(t, []*testutils.NetNS{v.node}, []*testutils.NetNS{v.pod})
	sink, err := func() (c net.PacketConn, err error) {
		err = v.farPod.Do(func() error { c, err = net.ListenPacket("udp", "10.244.2.2:443"); return err })
		return c, err
	}()
	require.NoError(t, err)
	defer sink.Close()
	c := dial(t, v.pod, "udp", "10.244.2.2:443")
	// A probe of the full size each second, three times, with ordinary packets in
	// between, as RFC 8899 has it.
	for range 4 {
		_, err := c.Write(make([]byte, 1472))
		require.NoError(t, err)
		for range 5 {
			silent(t, l, 150*time.Millisecond)
			_, err := c.Write(make([]byte, 1200))
			require.NoError(t, err)
		}
	}
	s := silent(t, l, time.Second)
	site := find(s, evidence.SubjectDropsite, "ip_fragment")
	require.NotNil(t, site, dump(s))
	require.GreaterOrEqual(t, integer(site, evidence.OversizeDropsTotal), int64(3))
	require.Equal(t, int64(1), integer(site, evidence.OversizeAdaptedFlowsWindow))
	require.Zero(t, integer(site, evidence.OversizeStalledFlowDrops))
}

func TestTheAdaptationHookComesWithTheFirstDropAndGoes(t *testing.T) {
	node, far := testutils.NewNetNS(t), testutils.NewNetNS(t)
	testutils.Veth(node, "eth0", far, "eth0")
	far.Run("ip", "link", "set", "eth0", "mtu", "1400")
	node.Run("ip", "addr", "add", "10.5.0.1/24", "dev", "eth0")
	node.Run("ip", "neigh", "add", "10.5.0.2", "lladdr", "0a:00:00:00:05:02", "dev", "eth0")
	l := watch(t, []*testutils.NetNS{node, far}, nil)
	c := dial(t, node, "udp", "10.5.0.2:9000")
	began := time.Now()
	_, err := c.Write(make([]byte, 1450))
	require.NoError(t, err)
	testutils.Eventually(t, time.Second, "the hook is attached", l.probe.kernel.Adapting)
	require.Less(t, time.Since(began), 500*time.Millisecond)
	// Other tests on this machine may drop packets of their own meanwhile.
	testutils.Eventually(t, 45*time.Second, "the hook is off the packet path again", func() bool {
		l.sample()
		return !l.probe.kernel.Adapting()
	})
	require.GreaterOrEqual(t, time.Since(began), lease-wakeEvery)
}

func TestSocketsTornDownWithFullQueuesAreSilent(t *testing.T) {
	node := testutils.NewNetNS(t)
	l := watch(t, []*testutils.NetNS{node}, nil)
	var listener net.Listener
	require.NoError(t, node.Do(func() (err error) { listener, err = net.Listen("tcp", "127.0.0.1:0"); return err }))
	defer listener.Close()
	// Nobody reads: both queues fill with packets of 64 KiB, and closing frees
	// them all.
	for range 50 {
		c := dial(t, node, "tcp", listener.Addr().String())
		peer, err := listener.Accept()
		require.NoError(t, err)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		_, err = c.Write(make([]byte, 8<<20))
		require.Error(t, err)
		require.NoError(t, c.(*net.TCPConn).SetLinger(0))
		require.NoError(t, c.Close())
		require.NoError(t, peer.Close())
	}
	s := silent(t, l, 500*time.Millisecond)
	require.Nil(t, find(s, evidence.SubjectDropsite), dump(s))
}

func TestTCPThatProbesThePathMTUItselfIsSilent(t *testing.T) {
	node, far := testutils.NewNetNS(t), testutils.NewNetNS(t)
	testutils.Veth(node, "eth0", far, "eth0")
	far.Run("ip", "link", "set", "eth0", "mtu", "1400")
	node.Run("sysctl", "-qw", "net.ipv4.tcp_mtu_probing=1")
	node.Run("ip", "addr", "add", "10.3.0.1/24", "dev", "eth0")
	far.Run("ip", "addr", "add", "10.3.0.2/24", "dev", "eth0")
	// The far end must not tell its own limit in its MSS.
	far.Run("ip", "route", "replace", "10.3.0.0/24", "dev", "eth0", "src", "10.3.0.2", "advmss", "1460")
	wholePackets(node, "eth0")
	wholePackets(far, "eth0")
	l := watch(t, []*testutils.NetNS{node, far}, nil)
	got := listen(t, far, "10.3.0.2:5000")
	const total = 2_000_000
	push(dial(t, node, "tcp", "10.3.0.2:5000"), total)
	testutils.Eventually(t, 20*time.Second, "the transfer ends", func() bool {
		require.Empty(t, holds(l.sample(), evidence.ConditionOversizeStalledFlow))
		return got() == total
	})
	s := l.sample()
	site := find(s, evidence.SubjectDropsite, "__dev_forward_skb2")
	require.NotNil(t, site, dump(s))
	require.GreaterOrEqual(t, integer(site, evidence.OversizeDropsTotal), int64(3))
}

func TestFloodedCopiesAtASmallPortAreSilent(t *testing.T) {
	pod, node, far, other := testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t)
	node.Run("ip", "link", "add", "cni0", "type", "bridge")
	for i, ns := range []*testutils.NetNS{pod, far, other} {
		port := "port" + string(rune('0'+i))
		testutils.Veth(node, port, ns, "eth0")
		ns.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
		ns.Run("ip", "link", "set", "eth0", "mtu", "9000", "address", "0a:00:00:00:02:0"+string(rune('0'+i)))
		ns.Run("ip", "addr", "add", "10.4.0."+string(rune('1'+i))+"/24", "dev", "eth0")
		node.Run("ip", "link", "set", port, "master", "cni0", "mtu", "9000")
		wholePackets(ns, "eth0")
		wholePackets(node, port)
	}
	// Not the destination, too small, and the far MAC is never learned.
	node.Run("ip", "link", "set", "port2", "mtu", "1500")
	node.Run("bridge", "link", "set", "dev", "port1", "learning", "off")
	node.Run("ip", "link", "set", "cni0", "up")
	l := watch(t, []*testutils.NetNS{node}, []*testutils.NetNS{pod, far})
	_, err := pod.Try("ping", "-c", "8", "-i", "0.3", "-W", "1", "-M", "do", "-s", "8000", "10.4.0.2")
	require.NoError(t, err, "the packets do arrive")
	s := silent(t, l, 300*time.Millisecond)
	site := find(s, evidence.SubjectDropsite, "on port2")
	require.NotNil(t, site, dump(s))
	require.GreaterOrEqual(t, integer(site, evidence.OversizeDropsTotal), int64(3))
}

func TestDropsOfAnotherNodeAreNotOurs(t *testing.T) {
	v := newVXLANLab(t, "1500", "df", "set")
	own := testutils.NewNetNS(t)
	l := watch(t, []*testutils.NetNS{own}, nil)
	_, err := v.pod.Try("ping", "-c", "3", "-i", "0.3", "-W", "1", "-M", "do", "-s", "1472", "10.244.2.2")
	require.Error(t, err)
	s := silent(t, l, 300*time.Millisecond)
	require.Nil(t, find(s, evidence.SubjectDropsite), dump(s))
	_, err = v.pod.Try("ping", "-c", "3", "-i", "0.3", "-W", "1", "-M", "do", "-s", "1472", "10.244.2.2")
	require.Error(t, err)
	rows, err := l.probe.kernel.Drops()
	require.NoError(t, err)
	for k := range rows {
		require.NotEqual(t, v.node.Inode(), k.Netns, "the program itself passes over the namespace")
	}
	// A namespace that becomes ours is heeded again.
	l.view.own[v.node.Inode()] = true
	l.sample()
	_, err = v.pod.Try("ping", "-c", "2", "-i", "0.3", "-W", "1", "-M", "do", "-s", "1472", "10.244.2.2")
	require.Error(t, err)
	require.NotNil(t, find(l.sample(), evidence.SubjectDropsite, "ip_fragment"))
}
