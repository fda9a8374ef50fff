// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/rundir"
)

// device reads a device's MTU back as a user would.
func (b *bed) device(t *testing.T, at, name string) int {
	t.Helper()
	out := b.at(t, at).run(t.Context(), "ip", "-o", "link", "show", "dev", name)
	_, rest, found := strings.Cut(out, " mtu ")
	require.True(t, found, out)
	var mtu int
	_, err := fmt.Sscan(rest, &mtu)
	require.NoError(t, err, out)
	return mtu
}

func TestMTUFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none\n  overlay: {kind: vxlan, lowerDevice: false}"+threeNodes)
	devices := func(node string) map[string]int {
		return map[string]int{
			"eth0": b.device(t, node, "eth0"), "flannel.1": b.device(t, node, "flannel.1"), "cni0": b.device(t, node, "cni0"),
			"vethpod": b.device(t, node, "vethpod"), "pod": b.device(t, node+"/pod", "eth0"),
		}
	}
	healthy := map[string]int{"eth0": 1500, "flannel.1": 1450, "cni0": 1450, "vethpod": 1450, "pod": 1450}
	tests := []struct {
		name, fault string
		// changed are devices of n1 and what they have meanwhile.
		changed map[string]int
		look    func(t *testing.T)
	}{
		{
			name: "underlay-mtu: the node takes in and sends no more", fault: "kind: underlay-mtu, mtu: 1400, node: n1", changed: map[string]int{"eth0": 1400},
			look: func(t *testing.T) {
				b.passes(t, "n1", "n3", 1400)
				b.loses(t, "n1", "n3", 1401)
				before := b.counter(t, "n1", "eth0", "rx_dropped")
				b.passes(t, "n3", "n1", 1400)
				b.loses(t, "n3", "n1", 1405, 1500) // the kernel grants the length of a VLAN tag
				require.Equal(t, before+2, b.counter(t, "n1", "eth0", "rx_dropped"))
				b.loses(t, "n3/pod", "n1/pod", 1450)
			},
		},
		{
			name: "overlay-mtu, too small: what is forwarded into it is answered", fault: "kind: overlay-mtu, mtu: 1300, node: n1", changed: map[string]int{"flannel.1": 1300},
			look: func(t *testing.T) {
				b.passes(t, "n1/pod", "n3/pod", 1300)
				b.loses(t, "n1/pod", "n3/pod", 1301)
				require.Equal(t, 1300, b.learned(t, "n1/pod", "n3/pod"), "the node says so")
				b.passes(t, "n1", "n3", 1500)
				b.passes(t, "n3/pod", "n1/pod", 1450)
				require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))
			},
		},
		{
			name: "overlay-mtu, too large", fault: "kind: overlay-mtu, mtu: 1600, node: n1", changed: map[string]int{"flannel.1": 1600},
			look: func(t *testing.T) { b.passes(t, "n1/pod", "n3/pod", 1450) },
		},
		{
			name: "pod-mtu: both ends of the veth", fault: "kind: pod-mtu, mtu: 1300, node: n1", changed: map[string]int{"pod": 1300, "vethpod": 1300, "cni0": 1300},
			look: func(t *testing.T) {
				b.passes(t, "n1/pod", "n3/pod", 1300)
				b.loses(t, "n1/pod", "n3/pod", 1301)
				b.loses(t, "n3/pod", "n1/pod", 1301)
				require.Equal(t, 1300, b.learned(t, "n3/pod", "n1/pod"), "the bridge follows, and the node says so")
				b.passes(t, "n1", "n3", 1500)
			},
		},
		{
			name: "bridge-port-mtu: only the end on the bridge, without a word", fault: "kind: bridge-port-mtu, mtu: 1300, node: n1", changed: map[string]int{"vethpod": 1300},
			look: func(t *testing.T) {
				b.passes(t, "n3/pod", "n1/pod", 1300)
				b.loses(t, "n3/pod", "n1/pod", 1319, 1450)
				require.Zero(t, b.learned(t, "n3/pod", "n1/pod"), "a bridge says nothing")
				// A train of segments that GRO has put together passes (is_skb_forwardable), so
				// only single packets are sure to be lost.
				require.NoError(t, b.download(t, "n1/pod", "n3/pod", 500, arriveLimit))
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, healthy, devices("n1"))
			t.Cleanup(func() { b.forget(t) })
			heal := b.inject(t, tt.fault)
			want := map[string]int{}
			for name, mtu := range healthy {
				want[name] = mtu
			}
			for name, mtu := range tt.changed {
				want[name] = mtu
			}
			require.Equal(t, want, devices("n1"))
			require.Equal(t, healthy, devices("n2"))
			require.Equal(t, healthy, devices("n3"))
			tt.look(t)
			b.passes(t, "n2/pod", "n3/pod", 1450)
			heal()
			b.forget(t)
			require.Equal(t, healthy, devices("n1"))
			b.passes(t, "n1/pod", "n3/pod", 1450)
			b.passes(t, "n3/pod", "n1/pod", 1450)
			require.NoError(t, b.transfer(t, "n1/pod", "n3/pod", 256<<10, arriveLimit))
		})
	}
}

// Too large an overlay and DF are what `make demo` shows: the sender's own node
// drops, and answers.
func TestAnOverlayThatDoesNotFitDropsAtTheNode(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none\n  overlay: {kind: vxlan, df: set, lowerDevice: false}"+threeNodes)
	b.passes(t, "n1/pod", "n3/pod", 1450)
	healOverlay := b.inject(t, "kind: overlay-mtu, mtu: 1500")
	healPods := b.inject(t, "kind: pod-mtu, mtu: 1500")
	b.passes(t, "n1/pod", "n3/pod", 1450)
	b.loses(t, "n1/pod", "n3/pod", 1451, 1500)
	require.Zero(t, b.dropped(t))
	healPods()
	healOverlay()
	b.passes(t, "n1/pod", "n3/pod", 1450)
	require.Equal(t, 1450, b.device(t, "n3/pod", "eth0"))
}

// A VXLAN with a lower device is clamped by the kernel without a word; the lab has
// none of it.
func TestAnMTUThatTheKernelChangesIsAnError(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	t.Parallel()
	s := parse(t, "  cloud: none\n  overlay: {kind: vxlan, mtu: 1450, lowerDevice: true}"+threeNodes, "")
	// A file that asks for it is refused before; a kernel may be stricter.
	s.Nodes[1].OverlayMTU = 1451
	dir, err := rundir.New(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dir.Remove(removers())) })
	c, err := newPlumbing(t.Context(), s, dir, nil)
	t.Cleanup(func() {
		if c != nil { // it stands, though it must not
			require.NoError(t, c.close(context.Background()))
		}
	})
	var clamped *MTUError
	require.ErrorAs(t, err, &clamped)
	require.Equal(t, MTUError{Node: "n2", Device: "flannel.1", Asked: 1451, Got: 1450}, *clamped)
	require.NotContains(t, err.Error(), "\n")
}

// What a fault asks for and the kernel refuses is said, and nothing stays changed.
func TestAFaultThatTheKernelRefusesIsTakenBack(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none\n  overlay: {kind: vxlan, lowerDevice: true}"+threeNodes)
	read := parse(t, b.spec, "{at: 0s, kind: overlay-mtu, mtu: 1400}")
	f := read.Faults[0]
	b.scenario.Faults = append(b.scenario.Faults, f)
	require.NoError(t, b.node("n3").setMTU("", "flannel.1", 1300)) // so that it cannot be raised again
	require.NoError(t, b.node("n3").setMTU("", "eth0", 1400))
	_, err := b.cluster.inject(t.Context(), 0)
	require.ErrorContains(t, err, "inject fault 0 (overlay-mtu): ")
	require.Equal(t, 1450, b.device(t, "n1", "flannel.1"))
	require.Equal(t, 1450, b.device(t, "n2", "flannel.1"))
	require.Equal(t, 1300, b.device(t, "n3", "flannel.1"))
}

func TestICMPFilter(t *testing.T) {
	t.Parallel()
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, "  cloud: none\n  family: "+family+"\n  overlay: {kind: none}\n  podMTU: 1500"+threeNodes+onNodes)
			learns := func(from, to string) bool {
				b.forget(t)
				b.ping(t, from, to, 1500, 1, "-W", "0.5")
				return b.learned(t, from, to) == 1390
			}
			b.inject(t, "kind: path-drop-larger, between: [a, b], bytes: 1390, icmp: true")
			pods := family == "ipv4" // the fabric answers in the family of the nodes
			require.True(t, learns("n1", "n3"))
			require.Equal(t, pods, learns("n1/pod", "n3/pod"))

			heal := b.inject(t, "kind: icmp-filter, node: n1")
			require.False(t, learns("n1", "n3"), "the node takes none in")
			require.False(t, learns("n1/pod", "n3/pod"), "and passes none on")
			require.True(t, learns("n2", "n3"))
			require.Equal(t, 2, b.ping(t, "n1", "n3", 1390, 2).received, "other messages pass")
			require.Error(t, b.transfer(t, "n1", "n3", 256<<10, time.Second))
			heal()
			require.True(t, learns("n1", "n3"))
			require.Equal(t, pods, learns("n1/pod", "n3/pod"))
			require.NoError(t, b.transfer(t, "n1", "n3", 256<<10, arriveLimit))

			heal = b.inject(t, "kind: icmp-filter, node: n1, in: pod")
			require.True(t, learns("n1", "n3"), "the node does")
			require.False(t, learns("n1/pod", "n3/pod"), "its pod does not")
			require.Equal(t, pods, learns("n2/pod", "n3/pod"))
			heal()
			require.Equal(t, pods, learns("n1/pod", "n3/pod"))
			require.NotContains(t, b.at(t, "n1").run(context.Background(), "nft", "list", "ruleset"), "plumb_lab")
			require.NotContains(t, b.at(t, "n1/pod").run(context.Background(), "nft", "list", "ruleset"), "plumb_lab")
		})
	}
	t.Run("the node itself says nothing to its pods", func(t *testing.T) {
		t.Parallel()
		b := newBed(t, "  cloud: none"+threeNodes)
		b.inject(t, "kind: overlay-mtu, mtu: 1300, node: n1")
		told := func() bool {
			b.forget(t)
			return strings.Contains(b.ping(t, "n1/pod", "n3/pod", 1450, 1, "-W", "0.5").output, "mtu = 1300")
		}
		require.True(t, told())
		heal := b.inject(t, "kind: icmp-filter, node: n1")
		require.False(t, told())
		heal()
		require.True(t, told())
	})
}
