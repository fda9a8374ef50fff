// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// kernel reads a counter of a pod's kernel in /proc/net/snmp or /proc/net/netstat.
func (b *bed) kernel(t *testing.T, at, table, name string) (value int) {
	t.Helper()
	text := b.at(t, at).run(t.Context(), "cat", "/proc/net/snmp", "/proc/net/netstat")
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != table+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name {
				_, err := fmt.Sscan(fields[i], &value)
				require.NoError(t, err)
				return value
			}
		}
		names = nil
	}
	require.Fail(t, "no counter", "%s of %s in %s", name, table, text)
	return 0
}

func TestConfounders(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none"+threeNodes+`
  traffic:
    - {from: n1, to: n3, kind: tcp, bytes: 64KiB, every: 200ms, plane: node}
`)
	const large = 2 << 20
	well := func(t *testing.T) {
		t.Helper()
		require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", large, arriveLimit))
		require.NoError(t, b.download(t, "n1/pod", "n3/pod", 10000, arriveLimit))
	}
	others := func(t *testing.T) {
		t.Helper()
		require.NoError(t, b.transfer(t, "n1/pod", "n2/pod", large, arriveLimit))
		b.passes(t, "n1/pod", "n3/pod", 100, 1450)
		require.Equal(t, 3, b.ping(t, "n1/pod", "n3/pod", 1450, 3).received, "the network is well")
	}
	t.Run("receiver-slow closes the window, of TCP only", func(t *testing.T) {
		well(t)
		heal := b.inject(t, "kind: receiver-slow, node: n3")
		require.Error(t, b.transfer(t, "n1/pod", "n3/pod", large, time.Second))
		require.Error(t, b.transfer(t, "n1", "n3", large, time.Second), "the node's own receiver as well")
		require.NoError(t, b.download(t, "n1/pod", "n3/pod", 10000, arriveLimit))
		others(t)
		heal()
		well(t)
		require.NoError(t, b.transfer(t, "n1", "n3", large, arriveLimit))
	})
	t.Run("receiver-frozen answers nothing and takes connections", func(t *testing.T) {
		before := b.kernel(t, "n3/pod", "Tcp", "PassiveOpens")
		heal := b.inject(t, "kind: receiver-frozen, node: n3")
		for _, a := range b.apps["n3"].receivers {
			testutils.Eventually(t, arriveLimit, a.name+" is stopped", func() bool { return runState(a.process) == "T" })
		}
		require.Error(t, b.transfer(t, "n1/pod", "n3/pod", 100, lostAfter))
		require.Error(t, b.download(t, "n1/pod", "n3/pod", 100, lostAfter))
		require.Greater(t, b.kernel(t, "n3/pod", "Tcp", "PassiveOpens"), before, "its kernel does")
		others(t)
		heal()
		well(t)
	})
	t.Run("quic-probes are as large as the device allows", func(t *testing.T) {
		received := func() int { return b.kernel(t, "n2/pod", "Udp", "InDatagrams") }
		said := func() string { return b.apps["n1"].senders[podNetns].process.Output() }
		heal := b.inject(t, "kind: quic-probes, node: n1")
		testutils.Eventually(t, 2*arriveLimit, "a probe passes", func() bool { return strings.Contains(said(), "a packet of 1450 bytes passes") })
		require.NotContains(t, said(), "given up")
		heal()
		healPort := b.inject(t, "kind: bridge-port-mtu, mtu: 1400, node: n2")
		before := received()
		heal = b.inject(t, "kind: quic-probes, node: n1")
		testutils.Eventually(t, 2*arriveLimit, "it is given up", func() bool { return strings.Contains(said(), "a packet of 1450 bytes given up after 3 probes") })
		require.Greater(t, received(), before+20, "its data arrives")
		require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", large, arriveLimit))
		heal()
		before = received()
		b.stays(t, 300*time.Millisecond, func() bool { return received() <= before+1 })
		healPort()
		well(t)
	})
	t.Run("tcp-teardown-storm resets connections with full queues", func(t *testing.T) {
		resets := b.kernel(t, "n1/pod", "TcpExt", "TCPAbortOnData")
		before := ports(t, b)["n1"].Bytes
		heal := b.inject(t, "kind: tcp-teardown-storm, node: n1")
		testutils.Eventually(t, arriveLimit, "connections are reset", func() bool {
			return b.kernel(t, "n1/pod", "TcpExt", "TCPAbortOnData") > resets+60
		})
		torn := b.kernel(t, "n1/pod", "TcpExt", "TCPAbortOnData") - resets
		sent := ports(t, b)["n1"].Bytes - before
		require.Less(t, sent/uint64(torn), uint64(200<<10), "of 512 KiB each, most dies in the queue")
		others(t)
		well(t)
		heal()
		resets = b.kernel(t, "n1/pod", "TcpExt", "TCPAbortOnData")
		b.stays(t, 300*time.Millisecond, func() bool { return b.kernel(t, "n1/pod", "TcpExt", "TCPAbortOnData") == resets })
		well(t)
	})
	_, _, troubled := b.observer.FirstAffected(time.Now().Add(-time.Millisecond), nil)
	require.False(t, troubled, "all is well at the end")
}
