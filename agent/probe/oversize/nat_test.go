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

// Behind a Service with masquerading a packet has three 5-tuples on its way
// through the node: as the pod sends it, as it is dropped (destination
// translated), and as it leaves (source translated too). That it adapts shows in
// the first and the last only; conntrack's entry is the same all along.
func TestAProbingFlowThatIsTranslatedTwiceIsSilent(t *testing.T) {
	v := newVXLANLab(t, "1450")
	for _, side := range []*testutils.NetNS{v.node, v.farNode} {
		side.Run("ip", "link", "set", "eth0", "mtu", "1400")
	}
	v.node.Run("nft", "add table ip service; "+
		"add chain ip service pre { type nat hook prerouting priority -100; }; "+
		"add rule ip service pre ip daddr 10.96.0.1 dnat to 10.9.0.2; "+
		"add chain ip service post { type nat hook postrouting priority 100; }; "+
		"add rule ip service post oifname eth0 ip saddr 10.244.1.2 snat to 10.9.0.1")
	// Else the sender is told and refuses to send its probe again.
	v.pod.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in icmp type destination-unreachable drop")
	l := watch(t, []*testutils.NetNS{v.node}, []*testutils.NetNS{v.pod})
	c := dial(t, v.pod, "udp", "10.96.0.1:443")
	for range 4 {
		_, err := c.Write(make([]byte, 1472))
		require.NoError(t, err)
		for range 5 {
			silent(t, l, 150*time.Millisecond)
			// Nobody listens there; that is told by ICMP, which is dropped above.
			_, err := c.Write(make([]byte, 1200))
			require.NoError(t, err)
		}
	}
	s := silent(t, l, time.Second)
	site := find(s, evidence.SubjectDropsite, "ip_forward")
	require.NotNil(t, site, dump(s))
	require.GreaterOrEqual(t, integer(site, evidence.OversizeDropsTotal), int64(3))
	require.Equal(t, int64(1), integer(site, evidence.OversizeAdaptedFlowsWindow), dump(s))
	require.Zero(t, integer(site, evidence.OversizeStalledFlowDrops))
}
