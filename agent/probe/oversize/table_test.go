// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/bpf"
)

// addresses inside the functions that newLocator knows.
const (
	inForward  = 0x1010
	inFragment = 0x2010
	inVeth     = 0x3010
)

const (
	nodeNetns = 10
	podNetns  = 20
)

func newLocator() *locator {
	return &locator{
		symbols: symbols{
			{"ip_forward", 0x1000, 0x2000}, {"ip_fragment", 0x2000, 0x3000}, {"__dev_forward_skb2", 0x3000, 0x4000},
		},
		table:   sites(),
		reasons: map[uint32]string{2: "NOT_SPECIFIED", 93: "PKT_TOO_BIG"},
		devices: fakeDevices{
			{Netns: nodeNetns, Ifindex: 2, Name: "eth0", MTU: 1500},
			{Netns: nodeNetns, Ifindex: 3, Name: "flannel.1", Role: link.RoleOverlay, Encapsulation: "vxlan", UDPPort: 8472, TunnelID: 1, LinkNetns: nodeNetns},
			{Netns: nodeNetns, Ifindex: 4, Name: "port", MTU: 1400, PeerNetns: podNetns, PeerIfindex: 2},
			{Netns: podNetns, Ifindex: 2, Name: "eth0", MTU: 1450, PeerNetns: nodeNetns, PeerIfindex: 4},
		},
		pods:  &fakeView{pod: map[uint32]string{podNetns: "pod-a"}},
		other: func(uint64) string { return unknownFunction },
	}
}

func encapsulated() bpf.DropKey {
	return bpf.DropKey{
		Location: inFragment, Netns: nodeNetns, LimitNetns: nodeNetns, LimitIfindex: 2, Reason: 2, Family: 2,
		Class: bpf.ClassOutput, LimitSource: bpf.LimitDevice, TunnelKind: bpf.TunnelVXLAN, TunnelPort: 8472, TunnelId: 1,
	}
}

func drops(n, at uint64) bpf.DropValue {
	return bpf.DropValue{Count: n, FirstNs: at, LastNs: at, OnsetNs: at, LenMin: 1510, LenMax: 1550, Limit: 1500}
}

func TestRowsFindTheirPlace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		row     bpf.DropKey
		value   bpf.DropValue
		verdict located
		want    placeKey
		overlay string
		sender  bool
	}{
		{
			"encapsulated, sender's namespace known",
			func() bpf.DropKey { k := encapsulated(); k.SenderNetns = podNetns; return k }(), drops(1, 1), isPlace,
			placeKey{nodeNetns, 2, "ip_fragment", "ipv4", "pod-a"}, "10/3", true,
		},
		{
			"encapsulated by an overlay with another id",
			func() bpf.DropKey { k := encapsulated(); k.TunnelId = 2; return k }(), drops(1, 1), isPlace,
			placeKey{nodeNetns, 2, "ip_fragment", "ipv4", ""}, "", false,
		},
		{
			"forwarded, sender known by the veth it came through",
			bpf.DropKey{Location: inForward, Netns: nodeNetns, LimitNetns: nodeNetns, LimitIfindex: 2, FromIfindex: 4, Family: 10, Class: bpf.ClassForward, LimitSource: bpf.LimitRoute},
			drops(1, 1), isPlace, placeKey{nodeNetns, 2, "ip_forward", "ipv6", "pod-a"}, "", true,
		},
		{
			"to a pod whose own device is the limit",
			bpf.DropKey{Location: inVeth, Netns: nodeNetns, LimitNetns: podNetns, LimitIfindex: 2, FromIfindex: 4, Family: 2, Class: bpf.ClassPeer, LimitSource: bpf.LimitPeer},
			drops(1, 1), isPlace, placeKey{podNetns, 2, "__dev_forward_skb2", "ipv4", "pod-a"}, "", false,
		},
		{
			"a peer that only the inventory knows",
			bpf.DropKey{Location: inVeth, Netns: podNetns, FromIfindex: 2, Family: 2, Class: bpf.ClassPeer},
			drops(1, 1), isPlace, placeKey{nodeNetns, 4, "__dev_forward_skb2", "ipv4", "pod-a"}, "", true,
		},
		{
			"a peer that was down: no longer than a VLAN tag over its MTU",
			bpf.DropKey{Location: inVeth, Netns: podNetns, FromIfindex: 2, Family: 2, Class: bpf.ClassPeer},
			bpf.DropValue{Count: 1, LenMax: 1404}, notOversize, placeKey{}, "", false,
		},
		{
			"a peer that nobody knows",
			bpf.DropKey{Location: inVeth, Netns: podNetns, FromIfindex: 9, Family: 2, Class: bpf.ClassPeer},
			drops(1, 1), noLimit, placeKey{}, "", false,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, verdict := newLocator().locate(tt.row, tt.value)
			require.Equal(t, tt.verdict, verdict)
			if verdict != isPlace {
				return
			}
			require.Equal(t, tt.want, p.key)
			require.Equal(t, tt.overlay, p.overlay)
			require.Equal(t, tt.sender, p.senderIsPod)
		})
	}
}

func TestTwoOverlaysOfOneKindAreNotGuessed(t *testing.T) {
	l := newLocator()
	l.devices = fakeDevices{
		{Netns: 10, Ifindex: 5, Role: link.RoleOverlay, Encapsulation: "ipip"},
		{Netns: 10, Ifindex: 6, Role: link.RoleOverlay, Encapsulation: "ipip"},
	}
	require.Len(t, l.overlays(bpf.DropKey{Netns: 10, TunnelKind: bpf.TunnelIPIP}), 2)
}

func flowKey(port uint16) bpf.FlowKey {
	words := func(a, b, c, d byte) uint32 { return binary.NativeEndian.Uint32([]byte{a, b, c, d}) }
	var p [2]byte
	binary.BigEndian.PutUint16(p[:], port)
	return bpf.FlowKey{
		Source: [4]uint32{words(10, 244, 1, 2)}, Destination: [4]uint32{words(10, 244, 2, 2)},
		SourcePort: binary.NativeEndian.Uint16(p[:]), DestinationPort: binary.NativeEndian.Uint16([]byte{0, 80}),
		Family: 2, Protocol: 6,
	}
}

func TestFlowsAreNamedAsAPersonWould(t *testing.T) {
	k := flowKey(4711)
	require.Equal(t, "tcp 10.244.1.2:4711 > 10.244.2.2:80", flowText(k))
	k.Protocol = 17
	require.Equal(t, "udp 10.244.1.2:4711 > 10.244.2.2:80", flowText(k))
	k.Protocol, k.DestinationPort = 1, binary.NativeEndian.Uint16([]byte{8, 0})
	require.Equal(t, "icmp 10.244.1.2 > 10.244.2.2 type 8 id 4711", flowText(k))
	k.Protocol, k.Family = 50, 10
	require.Contains(t, flowText(k), "protocol 50 ")
}

func TestEarlyDropsMoveToTheSenderThatIsLearnedLater(t *testing.T) {
	tb, l := newTable(), newLocator()
	early := encapsulated()
	flow := bpf.FlowValue{Row: early, Drops: 1, Unattributed: 1, FirstNs: 100 * second, LastNs: 100 * second, Streak: 1, StreakFirstNs: 100 * second, StreakLastNs: 100 * second}
	r := reading{now: 101 * second, rows: map[bpf.DropKey]bpf.DropValue{early: drops(1, 100*second)}, flows: map[bpf.FlowKey]bpf.FlowValue{flowKey(1): flow}}
	res := tb.order(r, l)
	anonymous := placeKey{nodeNetns, 2, "ip_fragment", "ipv4", ""}
	named := placeKey{nodeNetns, 2, "ip_fragment", "ipv4", "pod-a"}
	require.Contains(t, res.places, anonymous)

	late := early
	late.SenderNetns = podNetns
	flow.Row, flow.SenderNetns, flow.Drops, flow.LastNs = late, podNetns, 3, 102*second
	flow.Streak, flow.StreakLastNs = 3, 102*second
	r.now = 103 * second
	r.rows[late] = drops(2, 102*second)
	r.flows[flowKey(1)] = flow
	res = tb.order(r, l)
	require.NotContains(t, res.places, anonymous)
	require.Equal(t, uint64(3), res.places[named].total)
	require.Equal(t, uint64(3), res.places[named].window)
	require.Equal(t, 100*second, res.places[named].onset)
	require.True(t, res.places[named].worst.called())
	require.Equal(t, uint64(3), res.overlays["10/3"].total)
	require.True(t, res.overlays["10/3"].senderIsPod)
	require.Equal(t, "ip_fragment on eth0", res.overlays["10/3"].site)

	// The flow is evicted: what was moved stays where it is.
	delete(r.flows, flowKey(1))
	r.now = 104 * second
	res = tb.order(r, l)
	require.NotContains(t, res.places, anonymous)
	require.Equal(t, uint64(3), res.places[named].total)
}

func TestAFlowIsCalledOnlyWhenItStalls(t *testing.T) {
	for _, tt := range []struct {
		name         string
		streak       uint32
		first, last  uint64
		now          uint64
		called, some bool
	}{
		{"three drops over a second", 3, 100, 101, 102, true, true},
		{"three within one burst of a second", 3, 100, 100, 102, false, true},
		{"two over ten seconds", 2, 100, 110, 111, false, true},
		{"it adapted", 0, 100, 110, 111, false, false},
		{"it ended half a minute ago", 9, 100, 110, 140, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := bpf.FlowValue{Streak: tt.streak, StreakFirstNs: tt.first * second, StreakLastNs: tt.last * second}
			s, ok := stallOf(flowKey(1), v, tt.now*second, uint64(tt.streak))
			require.Equal(t, tt.some, ok)
			require.Equal(t, tt.called, s.called())
		})
	}
	busy, called := stall{flow: flowKey(1), drops: 9}, stall{flow: flowKey(2), drops: 3, span: 2 * second}
	require.True(t, called.worse(busy), "what is called goes before what was dropped more often at once")
	require.False(t, busy.worse(called))
}

func TestDropSitesEndTenMinutesAfterTheirLastDrop(t *testing.T) {
	tb, l := newTable(), newLocator()
	k := encapsulated()
	r := reading{now: 100 * second, rows: map[bpf.DropKey]bpf.DropValue{k: drops(4, 100*second)}}
	require.Len(t, tb.order(r, l).places, 1)
	r.now = 131 * second
	res := tb.order(r, l)
	for _, p := range res.places {
		require.Zero(t, p.window)
		require.Equal(t, uint64(4), p.total)
	}
	require.Len(t, res.places, 1)
	r.now = 701 * second
	res = tb.order(r, l)
	require.Empty(t, res.places)
	require.Equal(t, uint64(4), res.overlays["10/3"].total, "totals of an overlay stay")
}

func TestOldRowsMakeRoom(t *testing.T) {
	r := reading{now: 1000 * second, rows: map[bpf.DropKey]bpf.DropValue{}}
	for i := range uint64(8) {
		at := 900 * second
		if i < 3 {
			at = i * second
		}
		r.rows[bpf.DropKey{Location: i}] = bpf.DropValue{LastNs: at}
	}
	require.Empty(t, stale(r, 100))
	require.Equal(t, []bpf.DropKey{{Location: 0}, {Location: 1}}, stale(r, 8), "the oldest, until a quarter is free")
}
