// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// policed is a program with one policer, of a burst of 20 ms, from port 0, which is
// the loopback device as BPF_PROG_TEST_RUN has it, to port 1. pass says whether a
// packet of 60 bytes passes.
func policed(t *testing.T) (p *Program, pass func() bool) {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	p, err := Load(1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, p.SetPort(1, 0, Port{}))
	require.NoError(t, p.SetPort(2, 1, Port{}))
	require.NoError(t, p.SetDestination(netip.MustParsePrefix("10.9.2.2/32"), 1))
	require.NoError(t, p.SetRule(0, Rule{BitsPerSecond: 1e6, BurstNs: uint64(20 * time.Millisecond)}))
	require.NoError(t, p.SetPair(PairKey{From: 0, To: 1}, []uint32{0}))
	// Ethernet, and IPv4 (RFC 791) with UDP in it.
	frame := make([]byte, 14+60)
	copy(frame[12:], []byte{8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 1, 2, 10, 9, 2, 2})
	return p, func() bool {
		verdict, err := p.objects.FabricIngress.Run(&ebpf.RunOptions{Data: frame})
		require.NoError(t, err)
		require.Contains(t, []uint32{0, 2}, verdict, "TC_ACT_OK or TC_ACT_SHOT")
		return verdict == 0
	}
}

// emptyFor says that the bucket is full only after a while.
func (p *Program) emptyFor(t *testing.T, d time.Duration) {
	t.Helper()
	var now unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	full := &fabricBucket{FullNs: uint64(now.Nano()) + uint64(d)}
	require.NoError(t, p.objects.Buckets.Update(uint32(0), full, ebpf.UpdateLock))
}

func TestABucketIsNeverEmptierThanEmpty(t *testing.T) {
	p, pass := policed(t)
	require.True(t, pass())
	p.emptyFor(t, time.Hour)
	require.False(t, pass())
	testutils.Eventually(t, 5*time.Second, "it fills at its own rate", pass)
	for range 100 {
		pass()
	}
	counters, err := p.RuleCounters(0)
	require.NoError(t, err)
	require.Greater(t, counters.DroppedPackets, uint64(1), "and still polices")
}

func TestResettingARuleFillsItsBucket(t *testing.T) {
	p, pass := policed(t)
	p.emptyFor(t, time.Hour)
	require.NoError(t, p.ResetRule(0))
	require.True(t, pass())
	counters, err := p.RuleCounters(0)
	require.NoError(t, err)
	require.Equal(t, RuleCounters{SeenPackets: 1, SeenBytes: 60}, counters)
}
