// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestDropLargerIsExactToTheByte(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		for _, hook := range hooks(t) {
			t.Run(string(hook), func(t *testing.T) {
				b := newBed(t, family, func(cfg *Config, ports []*Port) {
					cfg.Hook = hook
					for _, p := range ports {
						p.MTU = 9000
					}
				})
				require.Equal(t, map[string]Hook{"a": hook, "b": hook, "c": hook}, b.Hooks())
				b.passes("a", "b", 9000)
				for _, limit := range []int{1400, 1280, 8999, 5000} {
					b.set(Rule{ID: "hole", From: "a", To: "b", DropLarger: limit})
					b.passes("a", "b", limit)
					b.fails("a", "b", limit+1)
					b.passes("a", "c", limit+1)
					require.Zero(t, b.learned("a", "b"), "nothing is answered")
					got := b.rule("hole")
					require.Equal(t, RuleCounters{SeenPackets: 4, SeenBytes: uint64(4*limit + 2), DroppedPackets: 2, DroppedBytes: uint64(2*limit + 2)}, got)
				}
				b.set()
				b.passes("a", "b", 9000)
			})
		}
	})
}

func TestAnAnswerTeachesTheSenderThePathMTU(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		for _, hook := range hooks(t) {
			for _, length := range []int{1401, 1500, 9000} {
				t.Run(fmt.Sprintf("%s, %d bytes", hook, length), func(t *testing.T) {
					b := newBed(t, family, func(cfg *Config, ports []*Port) {
						cfg.Hook = hook
						for _, p := range ports {
							p.MTU = 9000
						}
					})
					b.set(Rule{ID: "hop", From: "a", To: "b", DropLarger: 1400, ICMP: true})
					got := b.ping("a", "b", length, 1)
					require.Zero(t, got.received, got.output)
					require.Equal(t, 1400, b.learned("a", "b"), got.output)
					require.Zero(t, b.learned("b", "a"))
					require.Equal(t, uint64(1), b.rule("hop").AnsweredPackets)
					require.Contains(t, got.output, "rom "+b.gateway("a"), "the answer comes from the sender's own gateway")
				})
			}
		}
	})
}

func TestTheNodesOwnMTULosesWithoutAWord(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, func(_ *Config, ports []*Port) { ports[0].MTU = 1400 })
		s, from := b.sink("a"), b.source("b", "a")
		before := b.rxDropped("a")
		for _, length := range []int{1400, 1404, 1405, 1500} {
			from.send(length)
		}
		from.send(100)
		testutils.Eventually(t, 5*time.Second, "the last one arrives", func() bool { return s.got(100) == 1 })
		require.Equal(t, map[int]int{100: 1, 1400: 1, 1404: 1}, s.lengths, "the kernel grants the length of a VLAN tag")
		require.Equal(t, before+2, b.rxDropped("a"), "the node counts what it lost")
		require.Zero(t, b.learned("b", "a"))
		b.nodes["a"].Run("ip", "link", "set", "eth0", "mtu", "1500")
		b.passes("b", "a", 1500)
	})
}

// rxDropped is how many packets a node's eth0 lost on receipt.
func (b *bed) rxDropped(node string) int {
	b.t.Helper()
	var links []struct {
		Stats struct {
			RX struct{ Dropped int }
		} `json:"stats64"`
	}
	require.NoError(b.t, json.Unmarshal([]byte(b.nodes[node].Run("ip", "-j", "-s", "link", "show", "eth0")), &links))
	return links[0].Stats.RX.Dropped
}

func TestTheWireCarriesNoMoreThanItsMTU(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, func(_ *Config, ports []*Port) {
		for _, p := range ports {
			p.MTU = 9000
		}
		ports[1].Wire = 1500
	})
	b.passes("a", "b", 1500)
	b.fails("a", "b", 1501)
	b.fails("b", "a", 1501)
	b.passes("a", "c", 9000)
	c, err := b.Counters()
	require.NoError(t, err)
	require.Equal(t, uint64(2), c.Ports["a"].Oversize)
	require.Equal(t, uint64(2), c.Ports["b"].Oversize)
}

// Nobody answers an error, a later fragment, or a group; the packet is lost all the
// same.
func TestWhatNoRouterAnswersIsNotAnswered(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, nil)
		b.set(Rule{ID: "hop", DropLarger: 700, ICMP: true})
		// Two fragments, both too large: the first is answered, the later one is not.
		b.source("a", "b").send(2900)
		testutils.Eventually(t, 5*time.Second, "both are lost", func() bool { return b.rule("hop").DroppedPackets == 2 })
		require.Equal(t, uint64(1), b.rule("hop").AnsweredPackets)
	})
	t.Run("an error message", func(t *testing.T) {
		t.Parallel()
		// Only a rule below the length of error messages themselves meets one: nobody
		// listens on the port, b says so, and that is 576 bytes long at most.
		b := newBed(t, IPv4, nil)
		b.set(Rule{ID: "tiny", From: "b", DropLarger: 300, ICMP: true})
		b.source("a", "b").send(1000)
		testutils.Eventually(t, 5*time.Second, "the error is lost", func() bool { return b.rule("tiny").DroppedPackets == 1 })
		require.Zero(t, b.rule("tiny").AnsweredPackets)
	})
}

// A packet shorter than the answer to it grows.
func TestAnAnswerMayBeLongerThanThePacket(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	b.set(Rule{ID: "tiny", From: "a", DropLarger: 200, ICMP: true})
	got := b.ping("a", "b", 201, 1)
	require.Zero(t, got.received)
	require.Contains(t, got.output, "rom "+b.gateway("a"))
	require.Equal(t, uint64(1), b.rule("tiny").AnsweredPackets)
	c, err := b.Counters()
	require.NoError(t, err)
	require.Zero(t, c.Ports["a"].Unanswered)
}
