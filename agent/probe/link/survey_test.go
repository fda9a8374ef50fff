// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/nodeview"
)

// worldOf makes a world of one namespace, the agent's own.
func worldOf(links ...rawLink) *world {
	s := &space{ns: nodeview.Namespace{Inode: 1, Own: true}, index: map[int]int{}}
	w := &world{own: s, byNS: map[uint32]*space{1: s}, byID: map[int32]*space{}}
	for i, l := range links {
		l.flags |= unix.IFF_UP
		if l.linkNetnsid == 0 {
			l.linkNetnsid = noNetnsid
		}
		s.links = append(s.links, l)
		s.index[l.index] = i
	}
	w.spaces = []*space{s}
	return w
}

func surveyOf(w *world) *survey {
	return &survey{world: w, done: map[deviceID]*overlayFacts{}, underlay: map[int]bool{}}
}

func TestLowerMTU(t *testing.T) {
	const asked = 9
	for name, tc := range map[string]struct {
		links []rawLink
		want  int
	}{
		"hardware": {[]rawLink{{index: asked, mtu: 1500}}, 1500},
		"a VLAN counts its parent": {[]rawLink{
			{index: 1, mtu: 1400}, {index: asked, kind: "vlan", mtu: 1500, link: 1}}, 1400},
		"macvlan and ipvlan count theirs": {[]rawLink{
			{index: 1, mtu: 1400}, {index: 2, kind: "macvlan", mtu: 1450, link: 1}, {index: asked, kind: "ipvlan", mtu: 1500, link: 2}}, 1400},
		"a parent with room does not widen": {[]rawLink{
			{index: 1, mtu: 9000}, {index: asked, kind: "vlan", mtu: 1500, link: 1}}, 1500},
		"a bond counts the ports in use": {[]rawLink{
			{index: 1, mtu: 1500, master: asked}, {index: 2, mtu: 1400, master: asked}, {index: 3, mtu: 1300, master: asked, backupSlave: true},
			{index: asked, kind: "bond", mtu: 1500}}, 1400},
		"an active-backup bond counts the active port only": {[]rawLink{
			{index: 1, mtu: 1500, master: asked}, {index: 2, mtu: 1400, master: asked},
			{index: asked, kind: "bond", mtu: 1500, bond: bond{mode: bondActiveBackup, activeSlave: 1}}}, 1500},
		"ports that are down do not count": {[]rawLink{
			{index: 1, mtu: 1500, master: asked}, {index: 2, mtu: 1400, master: asked, operState: operDown},
			{index: asked, kind: "bond", mtu: 1500}}, 1500},
		"a bridge counts its least port": {[]rawLink{
			{index: 1, mtu: 1500, master: asked}, {index: 2, mtu: 1400, master: asked}, {index: asked, kind: "bridge", mtu: 1500}}, 1400},
		"MACsec takes its header off the parent": {[]rawLink{
			{index: 1, mtu: 1500}, {index: asked, kind: "macsec", mtu: 1500, link: 1, macsec: macsec{16}}}, 1468},
		"a VLAN on MACsec loses its tag as well": {[]rawLink{
			{index: 1, mtu: 1500}, {index: 2, kind: "macsec", mtu: 1468, link: 1}, {index: asked, kind: "vlan", mtu: 1468, link: 2}}, 1464},
		"a VLAN of a bond of hardware": {[]rawLink{
			{index: 1, mtu: 1400, master: 2}, {index: 2, kind: "bond", mtu: 1500}, {index: asked, kind: "vlan", mtu: 1500, link: 2}}, 1400},
		"a parent in a namespace outside of the view": {[]rawLink{
			{index: asked, kind: "macvlan", mtu: 1500, link: 1, linkNetnsid: 5}}, 1500},
		"devices that sit on one another": {[]rawLink{
			{index: 1, kind: "vlan", mtu: 1500, link: asked}, {index: asked, kind: "vlan", mtu: 1500, link: 1}}, 1500},
	} {
		t.Run(name, func(t *testing.T) {
			w := worldOf(tc.links...)
			require.Equal(t, tc.want, surveyOf(w).lowerMTU(w.own, w.own.link(asked), maxDepth))
		})
	}
}

func TestATunnelOverATunnelCountsWhatFitsTheInnerOne(t *testing.T) {
	w := worldOf(
		rawLink{index: 1, mtu: 1500},
		rawLink{index: 2, kind: "wireguard", mtu: 1500, tunnel: tunnel{encapsulation: "wireguard"}},
	)
	v := surveyOf(w)
	v.done[deviceID{1, 2}] = &overlayFacts{expected: number(1440)}
	require.Equal(t, 1440, v.lowerMTU(w.own, w.own.link(2), maxDepth))
	// A tunnel that is routed into itself is met while it is being worked on.
	v.done[deviceID{1, 2}] = nil
	require.Equal(t, 1500, v.lowerMTU(w.own, w.own.link(2), maxDepth))
}

func TestPathMTUIsTheLeastOverAllNextHops(t *testing.T) {
	w := worldOf(rawLink{index: 1, name: "eth0", mtu: 9000}, rawLink{index: 2, name: "eth1", mtu: 1500})
	v := surveyOf(w)
	r := route{dst: netip.MustParsePrefix("0.0.0.0/0"), hops: []hop{{device: 1}, {device: 2}}}
	mtu, device, err := v.pathMTU(w.own, &r, maxDepth)
	require.NoError(t, err)
	require.Equal(t, 1500, mtu)
	require.Equal(t, "eth1", device)
	require.Equal(t, map[int]bool{1: true, 2: true}, v.underlay)
	r.mtu = 1400
	mtu, _, err = v.pathMTU(w.own, &r, maxDepth)
	require.NoError(t, err)
	require.Equal(t, 1400, mtu)
	_, _, err = v.pathMTU(w.own, &route{hops: []hop{{device: 7}}}, maxDepth)
	require.ErrorContains(t, err, "device 7")
	_, _, err = v.pathMTU(w.own, &route{}, maxDepth)
	require.ErrorContains(t, err, "no next hop")
}

func TestRoles(t *testing.T) {
	pod := &space{ns: nodeview.Namespace{Inode: 2, PodUID: podUID}, index: map[int]int{1: 0, 2: 1, 3: 2, 4: 3}, links: []rawLink{
		{index: 1, name: "lo", flags: unix.IFF_LOOPBACK, linkNetnsid: noNetnsid},
		{index: 2, name: "eth0", kind: "veth", link: 4, hasLink: true, linkNetnsid: 0},
		{index: 3, name: "tunl0", kind: "ipip", tunnel: tunnel{encapsulation: "ipip"}, linkNetnsid: noNetnsid},
		{index: 4, name: "net1", kind: "macvlan", link: 1, hasLink: true, linkNetnsid: 0},
	}}
	w := worldOf(
		rawLink{index: 1, name: "eth0"},
		rawLink{index: 2, name: "eth1", master: 3},
		rawLink{index: 3, name: "bond0", kind: "bond"},
		rawLink{index: 4, name: "veth0", kind: "veth", link: 2, hasLink: true, linkNetnsid: 1},
		rawLink{index: 5, name: "br0", kind: "bridge"},
		rawLink{index: 6, name: "dummy0", kind: "dummy"},
		rawLink{index: 7, name: "tunl0", kind: "ipip", tunnel: tunnel{encapsulation: "ipip"}},
		rawLink{index: 8, name: "outside", kind: "veth", link: 9, hasLink: true, linkNetnsid: 5},
		rawLink{index: 9, name: "inside", kind: "veth", link: 10, hasLink: true},
		rawLink{index: 10, name: "inside2", kind: "veth", link: 9, hasLink: true},
		rawLink{index: 11, name: "wg0", kind: "wireguard", tunnel: tunnel{encapsulation: "wireguard"}},
		rawLink{index: 12, name: "eth2"},
		rawLink{index: 13, name: "eth2.7", kind: "vlan", link: 12, hasLink: true},
		rawLink{index: 14, name: "lo", flags: unix.IFF_LOOPBACK},
	)
	w.spaces = append(w.spaces, pod)
	w.byNS[2] = pod
	w.byID[0], w.byID[1] = w.own, pod
	roles := func() map[string]Role {
		out := map[string]Role{}
		for _, d := range w.classify(map[int]bool{3: true, 13: true}, map[deviceID]uint16{{1, 11}: 51820}).Devices() {
			name := d.Name
			if d.PodUID != "" {
				name = "pod " + name
			}
			out[name] = d.Role
		}
		return out
	}
	want := map[string]Role{
		"eth0": RoleLower, // of the pod's macvlan
		"eth1": RoleLower, "bond0": RoleUnderlay, "veth0": RolePort, "br0": RoleBridge, "dummy0": RoleOther,
		"tunl0":   RoleOverlay, // up, as Calico's is
		"outside": RolePort, "inside": RoleOther, "inside2": RoleOther, "wg0": RoleOverlay,
		"eth2": RoleLower, "eth2.7": RoleUnderlay, "lo": RoleLoopback,
		"pod lo": RoleLoopback, "pod eth0": RolePod, "pod tunl0": RoleOther, "pod net1": RolePod,
	}
	require.Equal(t, want, roles())

	// Where other nodes share the kernel, an end outside of the view may be theirs.
	w.filtered = true
	want["outside"] = RoleOther
	// A fallback device that nobody set up is no overlay.
	w.own.links[6].flags = 0
	want["tunl0"] = RoleOther
	require.Equal(t, want, roles())

	inv := w.classify(nil, map[deviceID]uint16{{1, 11}: 51820})
	wg, ok := inv.Device(1, 11)
	require.True(t, ok)
	require.Equal(t, uint16(51820), wg.UDPPort)
	require.Equal(t, "1/11", wg.Key())
}

func TestDropWatch(t *testing.T) {
	id := deviceID{1, 2}
	var w dropWatch
	step := func(at int, rx, tx uint64) (bool, bool) {
		world := worldOf(rawLink{index: 2, hasStats: true, stats: counters{rxDropped: rx, txDropped: tx}})
		w.observe(seconds(at), world)
		return w.moving(seconds(at), id)
	}
	check := func(at int, rx, tx uint64, moving, ok bool) {
		t.Helper()
		m, k := step(at, rx, tx)
		require.Equal(t, [2]bool{moving, ok}, [2]bool{m, k}, "at %d s", at)
	}
	check(0, 500, 0, false, false) // it may have been long ago
	check(10, 500, 0, false, true)
	check(20, 501, 0, true, true)
	check(50, 501, 0, true, true)
	check(51, 501, 0, false, true)
	check(60, 501, 1, true, true)
	check(100, 501, 1, false, true)
	check(110, 0, 0, false, true) // reset, nothing since
	check(120, 5, 0, true, true)
	check(160, 3, 0, true, true) // reset, and three since
	w.observe(seconds(170), worldOf())
	_, ok := w.moving(seconds(170), id)
	require.False(t, ok, "a device that is gone is forgotten")
	check(180, 0, 0, false, true) // made since the last pass
	w.observe(seconds(190), worldOf())
	check(200, 2, 0, true, true)
}

// A kernel may count a veth's drop at one end only.
func TestDropsOfTheOtherEndCount(t *testing.T) {
	here := Device{Netns: 1, Ifindex: 2, Kind: "veth", PeerNetns: 1, PeerIfindex: 3}
	there := Device{Netns: 1, Ifindex: 3, Kind: "veth", PeerNetns: 1, PeerIfindex: 2}
	inv := newInventory(1, []Device{here, there})
	var p Probe
	for dropped := range uint64(2) {
		p.drops.observe(0, worldOf(rawLink{index: 2, hasStats: true}, rawLink{index: 3, hasStats: true, stats: counters{txDropped: dropped}}))
	}
	require.Equal(t, number(1), p.dropsMoving(0, inv, there))
	require.Equal(t, number(1), p.dropsMoving(0, inv, here))
	require.Equal(t, number(0), p.dropsMoving(seconds(31), inv, here))
	alone := newInventory(1, []Device{here})
	require.Equal(t, factUnknown, p.dropsMoving(0, alone, here).state)
}

func TestCandidates(t *testing.T) {
	addrs := func(s ...string) []netip.Addr {
		var out []netip.Addr
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	require.Equal(t, addrs("10.1.0.7"), candidates(netip.MustParsePrefix("10.1.0.7/32")))
	require.Equal(t, addrs("10.1.0.1", "10.1.0.2", "10.1.0.3"), candidates(netip.MustParsePrefix("10.1.0.0/24")))
	require.Equal(t, addrs("10.1.0.1"), candidates(netip.MustParsePrefix("10.1.0.0/31")))
	require.Equal(t, addrs("fd01::1", "fd01::2", "fd01::3"), candidates(netip.MustParsePrefix("fd01::/64")))
	require.Equal(t, addrs("255.255.255.255"), candidates(netip.MustParsePrefix("255.255.255.254/31")))
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }
