// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/bpf"
)

// What was dropped an hour ago says nothing of what is dropped now.
func TestLengthsAreOfTheWindow(t *testing.T) {
	tb, l := newTable(), newLocator()
	old, now := encapsulated(), encapsulated()
	now.LimitSource = bpf.LimitRoute
	r := reading{now: 100 * second, rows: map[bpf.DropKey]bpf.DropValue{old: drops(1, 100*second)}}
	tb.order(r, l)
	r.now = 200 * second
	tb.order(r, l)
	r.rows[now] = bpf.DropValue{Count: 5, FirstNs: 210 * second, OnsetNs: 210 * second, LastNs: 210 * second, LenMin: 1350, LenMax: 1400, Limit: 1300}
	r.now = 211 * second
	res := tb.order(r, l)
	require.EqualValues(t, 5, res.overlays["10/3"].window)
	require.EqualValues(t, 1400, res.overlays["10/3"].lenMax)
	require.EqualValues(t, 1350, res.overlays["10/3"].lenMin)
	require.EqualValues(t, 1300, res.overlays["10/3"].limit)
}

// The kernel gives the number of a network namespace away again at once.
func TestDropsOfADeletedPodAreNotItsSuccessors(t *testing.T) {
	tb, l := newTable(), newLocator()
	k := encapsulated()
	k.SenderNetns = podNetns
	flow := bpf.FlowValue{Row: k, SenderNetns: podNetns, Drops: 4, FirstNs: 97 * second, LastNs: 100 * second, Streak: 4, StreakFirstNs: 97 * second, StreakLastNs: 100 * second}
	r := reading{now: 101 * second, rows: map[bpf.DropKey]bpf.DropValue{k: drops(4, 100*second)}, flows: map[bpf.FlowKey]bpf.FlowValue{flowKey(1): flow}}
	require.Len(t, tb.order(r, l).places, 1)
	l.pods = &fakeView{pod: map[uint32]string{podNetns: "pod-b"}}
	r.now = 105 * second
	for key := range tb.order(r, l).places {
		require.NotEqual(t, "pod-b", key.pod, "pod-b has sent nothing")
	}
}

// kube-router has one IPIP tunnel for each peer.
func TestAnOverlayThatCannotBeToldApartIsUnknown(t *testing.T) {
	tb, l := newTable(), newLocator()
	l.devices = fakeDevices{
		{Netns: nodeNetns, Ifindex: 2, Name: "eth0", MTU: 1500},
		{Netns: nodeNetns, Ifindex: 5, Name: "tun-a", Role: link.RoleOverlay, Encapsulation: "ipip"},
		{Netns: nodeNetns, Ifindex: 6, Name: "tun-b", Role: link.RoleOverlay, Encapsulation: "ipip"},
	}
	k := encapsulated()
	k.TunnelKind, k.TunnelPort, k.TunnelId = bpf.TunnelIPIP, 0, 0
	res := tb.order(reading{now: 101 * second, rows: map[bpf.DropKey]bpf.DropValue{k: drops(4, 100*second)}}, l)
	require.Equal(t, map[string]bool{"10/5": true, "10/6": true}, res.ambiguous)
	require.Empty(t, res.overlays)
}

func TestDataIsShownBeforeAPing(t *testing.T) {
	ping := stall{flow: flowKey(1), drops: 28, span: 9 * second, echo: true}
	data := stall{flow: flowKey(2), drops: 4, span: 3 * second}
	require.True(t, data.worse(ping))
	require.False(t, ping.worse(data))
}

// A gateway, or the host of nested nodes, forwards the tunnels of others, which
// use the same port and often the same id.
func TestAForeignTunnelThatIsForwardedIsNotOurs(t *testing.T) {
	k := encapsulated()
	k.Location, k.Class, k.Reason = inForward, bpf.ClassForward, 93
	p, verdict := newLocator().locate(k, drops(3, 1))
	require.Equal(t, isPlace, verdict)
	require.Empty(t, p.overlay)
	require.Empty(t, p.candidates)
}

// The maps are read after the clock, and drops go on meanwhile.
func TestADropThatIsYoungerThanTheReadingIsNotOld(t *testing.T) {
	tb, l := newTable(), newLocator()
	flow := bpf.FlowValue{Row: encapsulated(), Drops: 4, FirstNs: 97 * second, LastNs: 100*second + 1, Streak: 4, StreakFirstNs: 97 * second, StreakLastNs: 100*second + 1}
	res := tb.order(reading{
		now:   100 * second,
		rows:  map[bpf.DropKey]bpf.DropValue{encapsulated(): drops(4, 100*second+1)},
		flows: map[bpf.FlowKey]bpf.FlowValue{flowKey(1): flow},
	}, l)
	require.Len(t, res.places, 1)
	require.EqualValues(t, 4, res.overlays["10/3"].window)
	require.True(t, res.overlays["10/3"].worst.called())
}
