// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

const bulk = 4 << 20

// connect makes a TCP connection between two addresses. Both ends close with the
// test.
func (b *bed) connect(from, to, address string) (client, server *net.TCPConn) {
	b.t.Helper()
	var l *net.TCPListener
	at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))
	require.NoError(b.t, b.nodes[to].Do(func() (err error) {
		l, err = net.ListenTCP("tcp", at)
		return err
	}))
	defer l.Close()
	require.NoError(b.t, b.nodes[from].Do(func() (err error) {
		client, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
		return err
	}))
	server, err := l.AcceptTCP()
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// transfer sends bytes over a connection and says how many arrived in time.
func (b *bed) transfer(client, server *net.TCPConn, bytes int, within time.Duration) int {
	b.t.Helper()
	deadline := time.Now().Add(within)
	require.NoError(b.t, client.SetDeadline(deadline))
	require.NoError(b.t, server.SetDeadline(deadline))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = client.Write(make([]byte, bytes))
	}()
	n, _ := io.CopyN(io.Discard, server, int64(bytes))
	<-sent
	return int(n)
}

func TestTCPMeetsABlackHole(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		address := b.address("b")
		client, server := b.connect("a", "b", address)
		require.Equal(t, bulk, b.transfer(client, server, bulk, 30*time.Second))
		c, err := b.Counters()
		require.NoError(t, err)
		require.Zero(t, b.trains(), "every packet is one of a wire")
		require.GreaterOrEqual(t, c.Ports["a"].Packets, uint64(bulk/1460))

		b.set(Rule{ID: "hole", From: "a", To: "b", DropLarger: 1400})
		require.Equal(t, 500, b.transfer(client, server, 500, 10*time.Second), "small segments pass")
		require.Zero(t, b.transfer(client, server, 100_000, time.Second), "full ones are lost, and with them the stream")
		require.Positive(t, b.rule("hole").DroppedPackets)
		require.Zero(t, b.trains())
	})
}

func TestTCPFindsItsWayWithTheAnswer(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		client, server := b.connect("a", "b", b.address("b"))
		b.set(Rule{ID: "hop", From: "a", To: "b", DropLarger: 1400, ICMP: true})
		require.Equal(t, bulk, b.transfer(client, server, bulk, 30*time.Second))
		require.Equal(t, 1400, b.learned("a", "b"))
		require.Positive(t, b.rule("hop").AnsweredPackets)
		require.Zero(t, b.trains())
	})
}

// With offloads on, a train is judged by what it would be on a wire, and is counted.
func TestTrainsAreJudgedBySegmentAndCounted(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		b.nodes["a"].Run("ethtool", "-K", "eth0", "tso", "on", "gso", "on")
		client, server := b.connect("a", "b", b.address("b"))
		b.set(Rule{ID: "fits", From: "a", To: "b", DropLarger: 1500})
		require.Equal(t, bulk, b.transfer(client, server, bulk, 30*time.Second))
		require.Positive(t, b.trains())
		require.Zero(t, b.rule("fits").DroppedPackets)
		b.set(Rule{ID: "hole", From: "a", To: "b", DropLarger: 1499})
		require.Zero(t, b.transfer(client, server, bulk, time.Second))
		require.Positive(t, b.rule("hole").DroppedPackets)
		b.set(Rule{ID: "hop", From: "a", To: "b", DropLarger: 1300, ICMP: true})
		client, server = b.connect("a", "b", b.address("b"))
		b.transfer(client, server, bulk, time.Second)
		c, err := b.Counters()
		require.NoError(t, err)
		require.Positive(t, c.Ports["a"].Unanswered, "no answer is made of a train")
	})
}

// overlay joins a and b by a VXLAN of that MTU and DF set, with addresses 10.244.N.1.
func (b *bed) overlay(mtu int) (inside map[string]string) {
	b.t.Helper()
	inside = map[string]string{}
	for i, name := range []string{"a", "b"} {
		ns, peer := b.nodes[name], []string{"b", "a"}[i]
		inside[name] = fmt.Sprintf("10.244.0.%d", i+1)
		ns.Run("ip", "link", "add", "flannel.1", "address", fmt.Sprintf("02:00:00:00:00:0%d", i+1), "mtu", fmt.Sprint(mtu),
			"type", "vxlan", "id", "1", "local", b.address(name), "dstport", "8472", "nolearning", "df", "set")
		ns.Run("ip", "addr", "add", inside[name]+"/24", "dev", "flannel.1")
		ns.Run("ip", "link", "set", "flannel.1", "up")
		ns.Run("bridge", "fdb", "append", fmt.Sprintf("02:00:00:00:00:0%d", 2-i), "dev", "flannel.1", "dst", b.address(peer))
		ns.Run("ip", "neigh", "add", fmt.Sprintf("10.244.0.%d", 2-i), "lladdr", fmt.Sprintf("02:00:00:00:00:0%d", 2-i), "dev", "flannel.1", "nud", "permanent")
	}
	return inside
}

func TestATunnelLearnsFromTheAnswer(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		outer := 50
		if family == IPv6 {
			outer = 70
		}
		inside := b.overlay(1500 - outer)
		client, server := b.connect("a", "b", inside["b"])
		require.Equal(t, bulk, b.transfer(client, server, bulk, 30*time.Second))
		require.Zero(t, b.trains(), "the tunnel's packets are cut before the fabric, too")

		b.set(Rule{ID: "hop", From: "a", To: "b", DropLarger: 1400, ICMP: true})
		require.Equal(t, bulk, b.transfer(client, server, bulk, 30*time.Second))
		testutils.Eventually(t, 5*time.Second, "the node knows", func() bool { return b.learned("a", "b") == 1400 })
		got := b.rule("hop")
		require.Positive(t, got.AnsweredPackets)
		require.Equal(t, got.DroppedPackets, got.AnsweredPackets)
		require.Zero(t, b.trains())
	})
}

func TestATunnelInABlackHole(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	inside := b.overlay(1450)
	client, server := b.connect("a", "b", inside["b"])
	b.set(Rule{ID: "hole", DropLarger: 1400})
	require.Equal(t, 500, b.transfer(client, server, 500, 10*time.Second))
	require.Zero(t, b.transfer(client, server, 100_000, time.Second))
	b.nodes["a"].Run("ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1322", inside["b"])
	_, err := b.nodes["a"].Try("ping", "-n", "-c", "1", "-W", "0.3", "-M", "do", "-s", "1323", inside["b"])
	require.Error(t, err, "1351 bytes inside are 1401 outside")
}
