// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/mss"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// A blackHole is agent – router – server, where the link from the router to the
// server takes 1,000 bytes and nobody is told.
type blackHole struct{ agent, router, server *testutils.NetNS }

func newBlackHole(t *testing.T) *blackHole {
	t.Helper()
	b := &blackHole{testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t)}
	testutils.Veth(b.agent, "north", b.router, "left")
	testutils.Veth(b.router, "right", b.server, "south")
	b.agent.Run("ip", "address", "add", "10.9.1.2/24", "dev", "north")
	b.router.Run("ip", "address", "add", "10.9.1.1/24", "dev", "left")
	b.router.Run("ip", "address", "add", "10.9.2.1/24", "dev", "right")
	b.server.Run("ip", "address", "add", "10.9.2.2/24", "dev", "south")
	b.agent.Run("ip", "route", "add", "default", "via", "10.9.1.1")
	b.server.Run("ip", "route", "add", "default", "via", "10.9.2.1")
	b.router.Run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	for _, ns := range []*testutils.NetNS{b.agent, b.server} {
		ns.Run("sysctl", "-q", "-w", "net.ipv4.tcp_mtu_probing=0")
	}
	// A veth hands on a packet that was not segmented whatever the MTU is.
	for _, end := range []struct {
		ns     *testutils.NetNS
		device string
	}{{b.agent, "north"}, {b.router, "left"}, {b.router, "right"}, {b.server, "south"}} {
		end.ns.Run("ethtool", "-K", end.device, "tso", "off", "gso", "off", "gro", "off")
	}
	b.router.Run("ip", "link", "set", "right", "mtu", "1000")
	b.router.Run("nft", "add table ip silent; add chain ip silent out { type filter hook output priority 0; }; add rule ip silent out icmp type destination-unreachable drop")
	return b
}

// start runs a server and a client on the two sides, both with segments of at
// most max bytes.
func (b *blackHole) start(t *testing.T, max int) (*fixture, *Client) {
	t.Helper()
	ca := newCA(t, around(time.Now(), 24*time.Hour))
	// So many names make a certificate that does not fit into one packet.
	names := []string{"10.9.2.2"}
	for i := range 60 {
		names = append(names, fmt.Sprintf("replica-%d.aggregator.plumb.svc.cluster.local", i))
	}
	f := &fixture{ca: ca, server: unstartedServer(t, ca.issue(t, around(time.Now(), time.Hour), names...))}
	f.server.address = "10.9.2.2:0"
	f.server.listen = func(address string) (l net.Listener, err error) {
		err = b.server.Do(func() error {
			l, err = mss.ListenConfig(max).Listen(context.Background(), "tcp", address)
			return err
		})
		return l, err
	}
	f.server.start()
	f.config(t)
	f.cfg.MaxSegment = max
	var observations []*evidencev1.Observation
	for i := range 200 {
		observations = append(observations, observation(fmt.Sprintf("device-%d", i), 1500))
	}
	f.ledger.Replace("link", observations)
	c, err := New(f.cfg)
	require.NoError(t, err)
	c.inNetwork = b.agent.Do
	runClient(t, c)
	return f, c
}

func sendSize(t *testing.T, c net.Conn) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var info *unix.TCPInfo
	var infoErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	require.NoError(t, infoErr)
	return int(info.Snd_mss)
}

func TestEvidenceArrivesThroughABlackHole(t *testing.T) {
	t.Parallel()
	b := newBlackHole(t)
	// The hole is one: a packet of 1,000 bytes passes, one of 1,001 does not, and
	// nobody says so. (28 bytes are IPv4 and ICMP headers.)
	b.agent.Run("ping", "-c1", "-W1", "-Mdo", "-s972", "10.9.2.2")
	out, err := b.agent.Try("ping", "-c1", "-W1", "-Mdo", "-s973", "10.9.2.2")
	require.Error(t, err)
	require.NotContains(t, out, "Frag needed")

	f, c := b.start(t, mss.Default)
	c.Episode(episode("e1"))
	testutils.Eventually(t, 5*time.Second, "the episode", func() bool { return f.server.times("e1") == 1 })
	require.Len(t, f.server.got()[0].GetBatch().GetObservations(), 200)

	c.endpoints[0].mu.Lock()
	client := c.endpoints[0].session.tcp
	c.endpoints[0].mu.Unlock()
	f.server.mu.Lock()
	server := f.server.accepted[0].(*tls.Conn).NetConn()
	f.server.mu.Unlock()
	for _, end := range []net.Conn{client, server} {
		require.LessOrEqual(t, sendSize(t, end), mss.Default)
		require.Greater(t, sendSize(t, end), mss.Minimum)
	}
}

// Without the clamp the same path swallows the telemetry, or the test above
// would prove nothing.
func TestWithoutTheClampTheBlackHoleSwallowsEvidence(t *testing.T) {
	t.Parallel()
	b := newBlackHole(t)
	f, c := b.start(t, mss.Maximum)
	testutils.Eventually(t, 3*handshakeTimeout, "a failure", func() bool { return c.Status().Endpoints[0].LastError != "" })
	require.Equal(t, "tls", c.Status().Endpoints[0].LastErrorReason)
	require.Contains(t, c.Status().Endpoints[0].LastError, "deadline")
	require.Empty(t, f.server.got())
}

// A path that begins to swallow everything is noticed and said within about ten
// seconds, without anything to send.
func TestADeadPathIsNoticed(t *testing.T) {
	t.Parallel()
	b := newBlackHole(t)
	_, c := b.start(t, mss.Default)
	testutils.Eventually(t, 5*time.Second, "the first acknowledgement", func() bool { return c.Status().Endpoints[0].AckedSequence == 1 })
	began := time.Now()
	b.router.Run("ip", "link", "set", "right", "down")
	testutils.Eventually(t, 20*time.Second, "the loss to be noticed", func() bool { return !c.Status().Endpoints[0].Connected })
	t.Logf("noticed after %s", time.Since(began))
	require.Less(t, time.Since(began), pingAfter+pingTimeout+3*time.Second)
	b.router.Run("ip", "link", "set", "right", "up")
	b.router.Run("ip", "link", "set", "right", "mtu", "1000")
	testutils.Eventually(t, 15*time.Second, "the next acknowledgement", func() bool { return c.Status().Endpoints[0].Connected && c.Status().Endpoints[0].AckedSequence > 1 })
}
