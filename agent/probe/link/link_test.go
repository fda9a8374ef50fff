// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// underlay gives the node eth0, 192.0.2.1/24 and fd00::1/64, with its other end
// in a namespace that is not the node's.
func (n *testNode) underlay() *testutils.NetNS {
	n.tb.Helper()
	fabric := testutils.NewNetNS(n.tb)
	testutils.Veth(n.own, "eth0", fabric, "node")
	n.ip("addr add 192.0.2.1/24 dev eth0")
	n.ip("addr add fd00::1/64 dev eth0 nodad")
	return fabric
}

func TestVXLANWithConfiguredRemote(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 8472 remote 192.0.2.2 df set")
	n.ip("link set vx mtu 1500 up")
	d := n.sample()
	d.want("vx", wants{
		"role": "overlay", "type": "vxlan", "mtu_bytes": 1500, "up": true,
		"overhead_bytes": 50, "underlay_mtu_bytes": 1500, "expected_mtu_bytes": 1450,
		"underlay_device": "eth0", "remotes": 1, "remote_family": "ipv4", "worst_remote": "192.0.2.2",
		"dont_fragment": "set", "collect_metadata": false,
		"learned_path_mtu_bytes": na("learned no path MTU"),
		"route_mtu_bytes":        na("no route"),
		"pod_route_mtu_bytes":    na("no pod"),
		"pod_mtu_bytes":          na("no pod"),
		"peer_mtu_bytes":         na("no veth"),
		"bridge_port_mtu_bytes":  na("no bridge"),
	})
	d.want("eth0", wants{"role": "underlay", "type": "veth", "overhead_bytes": na("no overlay"), "dont_fragment": na("no overlay"), "collect_metadata": na("no overlay")})
	d.want("lo", wants{"role": "loopback", "type": "device"})

	vx, ok := n.probe.Inventory().Device(n.own.Inode(), 3)
	require.True(t, ok)
	require.Equal(t, Device{
		Netns: n.own.Inode(), Ifindex: 3, Name: "vx", Kind: "vxlan", Role: RoleOverlay, MTU: 1500, Up: true,
		Encapsulation: "vxlan", UDPPort: 8472, TunnelID: 7, LinkNetns: n.own.Inode(),
	}, vx)
	require.Equal(t, []Device{vx}, n.probe.Inventory().Overlays())
}

func TestVXLANWithForwardingEntries(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add flannel.1 type vxlan id 1 dstport 8472 nolearning")
	n.ip("link set flannel.1 up")
	n.sample().want("flannel.1", wants{
		"mtu_bytes": 1500, "remotes": 0, "dont_fragment": "unset",
		"expected_mtu_bytes": na("no remote"), "underlay_mtu_bytes": na("no remote"), "overhead_bytes": na("no remote"),
	})

	// The way to the second remote is narrower than the device.
	n.ip("route add 192.0.2.3/32 dev eth0 mtu 1400")
	for _, remote := range []string{"192.0.2.2", "192.0.2.3", "192.0.2.2"} {
		n.own.Run("bridge", "fdb", "append", "0a:00:00:00:00:0"+remote[8:], "dev", "flannel.1", "dst", remote)
	}
	n.sample().want("flannel.1", wants{
		"remotes": 2, "underlay_mtu_bytes": 1400, "expected_mtu_bytes": 1350, "worst_remote": "192.0.2.3",
	})

	// A remote without a route sets no limit, but counts as asked.
	n.own.Run("bridge", "fdb", "append", "0a:00:00:00:00:09", "dev", "flannel.1", "dst", "203.0.113.9")
	n.sample().want("flannel.1", wants{"remotes": 3, "expected_mtu_bytes": 1350})
}

func TestVXLANWhoseRemotesHaveNoRoute(t *testing.T) {
	n := newTestNode(t)
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 203.0.113.9")
	n.ip("link set vx up")
	n.sample().want("vx", wants{
		"remotes":            1,
		"expected_mtu_bytes": unknown{evidence.Failed, "none of 1 remotes has a route"},
		"worst_remote":       unknown{evidence.Failed, "network is unreachable"},
	})
}

func TestVXLANOverIPv6(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789 remote fd00::2 dev eth0")
	n.ip("link set vx up")
	n.sample().want("vx", wants{
		"overhead_bytes": 70, "underlay_mtu_bytes": 1500, "expected_mtu_bytes": 1430,
		"remote_family": "ipv6", "worst_remote": "fd00::2",
		"dont_fragment": "set", // unset, but the kernel drops what it may not fragment
	})
}

func TestTheRemoteThatLeavesLeastRoomDecidesTheFamily(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add v4 type vxlan id 7 dstport 4789")
	n.ip("link add v6 type vxlan id 8 dstport 4790 local fd00::1")
	n.own.Run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "v4", "dst", "192.0.2.2")
	n.own.Run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "v6", "dst", "fd00::2")
	d := n.sample()
	d.want("v4", wants{"expected_mtu_bytes": 1450, "remote_family": "ipv4"})
	d.want("v6", wants{"expected_mtu_bytes": 1430, "remote_family": "ipv6", "up": false})
}

func TestTheKernelClampsAVXLANOnlyWithADevice(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add clamped mtu 1500 type vxlan id 7 dstport 4789 remote 192.0.2.2 dev eth0")
	n.ip("link add free mtu 1500 type vxlan id 8 dstport 4789 remote 192.0.2.2")
	d := n.sample()
	d.want("clamped", wants{"mtu_bytes": 1450, "expected_mtu_bytes": 1450})
	d.want("free", wants{"mtu_bytes": 1500, "expected_mtu_bytes": 1450})
}

func TestVXLANToAGroup(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add v4 type vxlan id 7 dstport 4789 group 239.1.1.1 dev eth0")
	n.ip("link add v6 type vxlan id 8 dstport 4790 group ff05::7 dev eth0")
	n.ip("link set eth0 mtu 1400")
	d := n.sample()
	d.want("v4", wants{"remotes": 1, "worst_remote": "239.1.1.1", "underlay_device": "eth0", "expected_mtu_bytes": 1350})
	d.want("v6", wants{"remotes": 1, "worst_remote": "ff05::7", "underlay_device": "eth0", "expected_mtu_bytes": 1330})
}

func TestARemoteThatOnlyTheDeviceMakesReachable(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 203.0.113.9 dev eth0")
	n.sample().want("vx", wants{"underlay_device": "eth0", "expected_mtu_bytes": 1450})
}

// A CNI makes the device on the node and moves it: its outer packets stay in the
// namespace that it was made in.
func TestAnOverlayThatWasMovedIntoAPod(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	pod := n.pod("p1")
	n.ip("link add vx type vxlan id 7 dstport 4789")
	n.ip("link set vx netns " + pod.Path())
	pod.Run("ip", "link", "set", "vx", "mtu", "1500", "up")
	pod.Run("ip", "route", "add", "10.9.0.0/24", "dev", "vx", "mtu", "1440")
	pod.Run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx", "dst", "192.0.2.2")
	d := n.sample()
	d.want("vx in pod "+podUID, wants{
		"role": "overlay", "remotes": 1, "worst_remote": "192.0.2.2", "underlay_device": "eth0",
		"underlay_mtu_bytes": 1500, "expected_mtu_bytes": 1450, "route_mtu_bytes": 1440,
		"pod_route_mtu_bytes": unknown{evidence.Blind, "not traced"},
	})
	d.want("eth0", wants{"role": "underlay"})
	overlay := n.probe.Inventory().Overlays()[0]
	require.Equal(t, pod.Inode(), overlay.Netns)
	require.Equal(t, n.own.Inode(), overlay.LinkNetns)
}

func TestCollectMetadata(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	pod := n.pod("p1")
	pod.Run("ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
	n.ip("link add vx mtu 65000 type vxlan external dstport 4789")
	n.ip("link set vx up")
	n.sample().want("vx", wants{
		"collect_metadata":    true,
		"remotes":             0,
		"expected_mtu_bytes":  unknown{evidence.Blind, "collect metadata"},
		"underlay_mtu_bytes":  unknown{evidence.Blind, "collect metadata"},
		"overhead_bytes":      unknown{evidence.Blind, "collect metadata"},
		"pod_route_mtu_bytes": unknown{evidence.Blind, "decided per packet"},
		"pod_mtu_bytes":       unknown{evidence.Blind, "decided per packet"},
	})

	// A lightweight tunnel route names a remote.
	n.ip("route add 10.2.0.0/24 encap ip id 7 dst 192.0.2.2 dev vx")
	n.sample().want("vx", wants{
		"collect_metadata": true, "remotes": 1, "expected_mtu_bytes": 1450, "worst_remote": "192.0.2.2", "overhead_bytes": 50,
		"route_mtu_bytes": 65000,
	})
	inv := n.probe.Inventory()
	require.True(t, inv.Overlays()[0].CollectMetadata)
	require.Equal(t, uint16(4789), inv.Overlays()[0].UDPPort)
}

func TestRouteMTUOfTheOwnNamespace(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 192.0.2.2 df set")
	n.ip("link set vx mtu 1500 up")
	n.ip("addr add 10.9.0.1/32 dev vx") // its local route does not count
	n.ip("route add 10.1.0.0/24 dev vx mtu 1400")
	n.ip("route add 10.2.0.0/24 dev vx mtu lock 1430")
	n.ip("-6 route add fd01::/64 dev vx mtu 1420")
	n.sample().want("vx", wants{"mtu_bytes": 1500, "route_mtu_bytes": 1430})

	n.ip("route add 10.3.0.0/24 dev vx")
	n.sample().want("vx", wants{"route_mtu_bytes": 1500})

	n.ip("route change 10.3.0.0/24 dev vx mtu 9000")
	n.sample().want("vx", wants{"route_mtu_bytes": 1500})
}

func TestRouteMTUInsideThePods(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 192.0.2.2 df set")
	n.ip("link set vx mtu 1500 up")
	n.ip("route add 10.1.1.0/24 dev vx")
	n.ip("addr add 10.1.0.1/32 dev lo")
	var pods []*testutils.NetNS
	for i, host := range []string{"p1", "p2"} {
		pod := n.pod(host)
		pods = append(pods, pod)
		pod.Run("ip", "addr", "add", []string{"10.1.0.2/32", "10.1.0.3/32"}[i], "dev", "eth0")
		pod.Run("ip", "route", "add", "10.1.0.1", "dev", "eth0")
		pod.Run("ip", "route", "add", "default", "via", "10.1.0.1", "mtu", "1450")
	}
	// A pod of another network, which never gets to the overlay.
	aside := n.pod("p3")
	aside.Run("ip", "link", "set", "eth0", "mtu", "9000")
	d := n.sample()
	d.want("vx", wants{"pod_route_mtu_bytes": 1450, "pod_mtu_bytes": 1500})
	d.want("eth0 in pod "+podUID, wants{"role": "pod"})
	d.want("p1", wants{"role": "port", "peer_mtu_bytes": 1500})
	d.want("p3", wants{"peer_mtu_bytes": 9000})

	// One pod that ignores the limit is enough.
	pods[1].Run("ip", "route", "change", "default", "via", "10.1.0.1")
	n.sample().want("vx", wants{"pod_route_mtu_bytes": 1500})

	// A route of its own for what is behind the overlay counts before the default.
	pods[1].Run("ip", "route", "add", "10.1.0.0/16", "via", "10.1.0.1", "mtu", "1300")
	n.sample().want("vx", wants{"pod_route_mtu_bytes": 1450})
	require.Contains(t, n.probe.Hooks(), probe.Hook{Signal: "link.pod_routes", Rung: "setns", Confirmed: true})

	// A pod whose way leads past the node is not behind the overlay.
	pods[1].Run("ip", "route", "del", "10.1.0.0/16")
	n.sample().want("vx", wants{"pod_route_mtu_bytes": 1500})
	elsewhere := testutils.NewNetNS(t)
	testutils.Veth(pods[1], "net1", elsewhere, "net1")
	pods[1].Run("ip", "route", "add", "10.1.1.0/24", "dev", "net1")
	n.sample().want("vx", wants{"pod_route_mtu_bytes": 1450})
}

func TestPodsOnTheBridgeOfAnOverlay(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add br0 type bridge")
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 192.0.2.2 df set")
	n.ip("link set vx mtu 1500 master br0 up")
	n.ip("link set br0 up")
	n.sample().want("vx", wants{"route_mtu_bytes": 1500, "pod_route_mtu_bytes": na("no pod")})
	pod := n.pod("p1")
	n.ip("link set p1 master br0")
	pod.Run("ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
	pod.Run("ip", "route", "change", "10.1.0.0/24", "dev", "eth0", "mtu", "1440")
	other := n.pod("p2") // not on the bridge
	other.Run("ip", "addr", "add", "10.1.0.3/24", "dev", "eth0")
	n.ip("link set p1 mtu 1490")
	d := n.sample()
	d.want("vx", wants{"pod_route_mtu_bytes": 1440, "pod_mtu_bytes": 1500, "route_mtu_bytes": 1500})
	d.want("br0", wants{"role": "bridge", "bridge_port_mtu_bytes": 1490, "pod_mtu_bytes": 1500})
}

func TestBridgePorts(t *testing.T) {
	n := newTestNode(t)
	n.ip("link add br0 type bridge")
	n.sample().want("br0", wants{"bridge_port_mtu_bytes": na("no port"), "pod_mtu_bytes": na("no pod")})
	for _, name := range []string{"p1", "p2"} {
		n.pod(name)
		n.ip("link set " + name + " master br0")
	}
	n.ip("link set p2 mtu 1400")
	n.sample().want("br0", wants{"mtu_bytes": 1400, "bridge_port_mtu_bytes": 1400})
	n.ip("link set br0 mtu 1500") // set by hand it no longer follows
	n.sample().want("br0", wants{"mtu_bytes": 1500, "bridge_port_mtu_bytes": 1400, "pod_mtu_bytes": 1500})
}

func TestVethWhoseEndsDiffer(t *testing.T) {
	n := newTestNode(t)
	pod := n.pod("p1")
	pod.Run("ip", "link", "set", "eth0", "mtu", "1300")
	d := n.sample()
	d.want("p1", wants{"mtu_bytes": 1500, "peer_mtu_bytes": 1300, "role": "port"})
	d.want("eth0 in pod "+podUID, wants{"mtu_bytes": 1300, "peer_mtu_bytes": 1500, "role": "pod"})

	inv := n.probe.Inventory()
	require.Equal(t, n.own.Inode(), inv.Own())
	p1, ok := inv.Device(n.own.Inode(), 2)
	require.True(t, ok)
	eth0, ok := inv.PeerOf(p1)
	require.True(t, ok)
	require.Equal(t, "eth0", eth0.Name)
	require.Equal(t, pod.Inode(), eth0.Netns)
	require.Equal(t, podUID, eth0.PodUID)
	back, ok := inv.PeerOf(eth0)
	require.True(t, ok)
	require.Equal(t, p1, back)
}

func TestAVethWhoseEndIsOutsideOfTheNode(t *testing.T) {
	n := newTestNode(t)
	n.view.filtered = true
	n.underlay()
	d := n.sample()
	d.want("eth0", wants{"role": "other", "peer_mtu_bytes": unknown{evidence.Blind, "not in the node's view"}})
	n.ip("route add default via 192.0.2.254")
	n.sample().want("eth0", wants{"role": "underlay"})
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	n := newTestNode(t)
	n.pod("p1")
	n.view.namespaces = append(n.view.namespaces, nodeview.Namespace{Inode: 1, Path: "/proc/self/status", PodUID: "gone"})
	d := n.try()
	gone := "read devices of 1 of 3 network namespaces (first: pod gone): open /proc/self/status: it is namespace"
	require.Contains(t, d.item("node", uint32(evidence.LinkUnreadable)).GetText(), gone)
	d.want("node", wants{"namespaces_unreadable": 1, "processes_unreadable": 0})
	d.want("eth0 in pod "+podUID, wants{"role": "pod"})
	require.Equal(t, int64(2), n.view.refreshed.Load(), "a namespace that is gone is looked for once more")
	require.Contains(t, n.probe.Hooks()[0].Detail, "not everywhere")

	n.view.namespaces = n.view.namespaces[:2]
	n.view.unreadable = 3
	d = n.try()
	d.want("node", wants{
		"namespaces_unreadable": 0, "processes_unreadable": 3,
		"unreadable": "find the network namespaces of 3 processes: permission denied: their pods' devices are missing: give the agent CAP_SYS_PTRACE",
	})
}

func TestMetrics(t *testing.T) {
	own := testutils.NewNetNS(t)
	view := &fakeView{}
	view.add(own, "")
	view.namespaces = append(view.namespaces, nodeview.Namespace{Inode: 1, Path: "/proc/self/status"})
	registry := prometheus.NewRegistry()
	require.NoError(t, own.Do(func() error {
		p, err := New(Config{NodeView: view, Registerer: registry})
		if err != nil {
			return err
		}
		defer p.Close()
		if _, err := New(Config{NodeView: view, Registerer: registry}); err == nil {
			return errors.New("the same metrics were registered twice")
		}
		if err := p.Refresh(context.Background()); err != nil {
			return err
		}
		families, err := registry.Gather()
		if err != nil {
			return err
		}
		got := map[string]float64{}
		for _, f := range families {
			got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
		require.Equal(t, map[string]float64{
			"plumb_link_devices": 1, "plumb_link_unreadable_namespaces": 1, "plumb_link_notification_overflows_total": 0,
		}, got)
		return nil
	}))
}

func TestSampleStopsWithItsContext(t *testing.T) {
	n := newTestNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	<-n.probe.turn // a scan is under way
	require.ErrorIs(t, n.probe.Refresh(ctx), context.Canceled)
	n.probe.give()
	var s evidence.Sample
	require.ErrorIs(t, n.probe.Sample(ctx, &s), context.Canceled)
}

func TestHooksBeforeTheFirstSample(t *testing.T) {
	n := newTestNode(t)
	signals := map[string]probe.Hook{}
	for _, h := range n.probe.Hooks() {
		signals[h.Signal] = h
	}
	require.Len(t, signals, 3)
	require.Equal(t, probe.Hook{Signal: "link.fib", Rung: "fib", Confirmed: true}, signals["link.fib"])
	require.Equal(t, probe.Hook{Signal: "link.pod_routes", Rung: "setns", Confirmed: true}, signals["link.pod_routes"])
	require.True(t, signals["link.devices"].Confirmed)
	n.pod("p1")
	n.sample()
	require.Contains(t, n.probe.Hooks(), probe.Hook{Signal: "link.devices", Rung: "rtnetlink+netnsid", Confirmed: true})
}

func TestAnEmptyInventoryAnswers(t *testing.T) {
	var inv *Inventory
	require.Zero(t, inv.Len())
	require.Zero(t, inv.Own())
	require.Empty(t, inv.Devices())
	require.Empty(t, inv.Overlays())
	_, ok := inv.Device(1, 2)
	require.False(t, ok)
	_, ok = inv.PeerOf(Device{PeerNetns: 1, PeerIfindex: 2})
	require.False(t, ok)
}
