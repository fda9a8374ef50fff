// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

// stormRate is the budget's: drops in a second.
const stormRate = 100_000

// A storm is one kind of drop.
type storm struct {
	name string
	// netns is where the packets come from; "" is the node itself.
	netns, address string
	payload, flows int
	// made is how many of these drops the kernel itself has counted.
	made func(b *testing.B, n *node) uint64
	// oversize drops are counted by the agent; it must pass over all others.
	oversize bool
}

func storms() []storm {
	// 1472 bytes make 1500 inside and 1550 outside, over an underlay of 1500.
	overlay := storm{
		netns: "pod0", address: "10.244.1.10:20000", payload: 1472, flows: 500, oversize: true,
		// ip_fragment() refuses what may not be fragmented.
		made: func(b *testing.B, n *node) uint64 { return counterOf(b, n.machine.PID(), "Ip", "FragFails") },
	}
	few, many := overlay, overlay
	few.name = "oversize at the overlay, 500 flows"
	// Five times what the kernel's map of flows holds.
	many.name, many.flows = "oversize at the overlay, 20000 flows", 20_000
	return []storm{few, many, {
		// The host's end of this pod's veth takes 1400: the shortest way to a drop.
		name: "oversize at a veth, 500 flows", netns: smallPod, address: "10.244.0.1:20000",
		payload: 1472, flows: 500, oversize: true,
		made: func(b *testing.B, n *node) uint64 { return n.transmitDropped(b, smallPod) },
	}, {
		name: "closed port", address: "127.0.0.1:20000", payload: 100, flows: 500,
		made: func(b *testing.B, n *node) uint64 { return counterOf(b, n.machine.PID(), "Udp", "NoPorts") },
	}}
}

// smallPod is the pod whose veth is too small on the host's side.
const smallPod = "pod1"

// transmitDropped is tx_dropped of a pod's eth0.
func (n *node) transmitDropped(b *testing.B, pod string) uint64 {
	b.Helper()
	var links []struct {
		Stats64 struct {
			TX struct {
				Dropped uint64 `json:"dropped"`
			} `json:"tx"`
		} `json:"stats64"`
	}
	require.NoError(b, json.Unmarshal([]byte(n.machine.Run("ip", "-n", pod, "-j", "-s", "link", "show", "eth0")), &links))
	require.Len(b, links, 1)
	return links[0].Stats64.TX.Dropped
}

// BenchmarkDropStorm measures agent, kernel and sender while packets are dropped
// at the budget's rate, and, as fast as this machine can, with and without the
// agent.
func BenchmarkDropStorm(b *testing.B) {
	n := newNode(b, 1500, 1500)
	n.machine.IP("link set veth1 mtu 1400")
	for _, s := range storms() {
		b.Run(s.name, func(b *testing.B) {
			for range b.N {
				n.contrast(b, s)
				n.measureStorm(b, s)
			}
		})
	}
}

func (n *node) storm(s storm, rate int, d time.Duration) *machine.Process {
	p := n.machine.StartRole("storm", s.netns, "storm", s.address, fmt.Sprint(s.payload), fmt.Sprint(rate), fmt.Sprint(s.flows), fmt.Sprint(int(d.Seconds())))
	p.Says(10*time.Second, "storming")
	return p
}

// ended waits for a storm and returns its report.
func ended(b *testing.B, p *machine.Process) stormReport {
	b.Helper()
	require.NoError(b, p.Wait(), "%s", p.Output())
	var r stormReport
	_, text, _ := strings.Cut(p.Output(), "storming\n")
	require.NoError(b, json.Unmarshal([]byte(text), &r), "%s", p.Output())
	return r
}

// contrast lets the storm run as fast as it can, in turns without and with the
// agent. Throughput depends on who else uses the machine, so the sender's own
// processor time for a drop is given as well; the drop happens in its context.
func (n *node) contrast(b *testing.B, s storm) {
	var rate, cost [2]float64
	const rounds = 3
	for range rounds {
		for with := range 2 {
			var agent *machine.Process
			if with == 1 {
				agent = n.startAgent(false)
			}
			before := s.made(b, n)
			r := ended(b, n.storm(s, 0, lasting(4*time.Second)))
			drops := float64(s.made(b, n) - before)
			require.Greater(b, drops, 0.9*float64(r.Sent), "packets were not dropped where they should be")
			rate[with] += drops / r.Seconds / rounds
			cost[with] += 1e9 * r.Processor / drops / rounds
			if agent != nil {
				require.NoError(b, agent.Stop())
			}
		}
	}
	b.ReportMetric(rate[0], "drops/s-without")
	b.ReportMetric(rate[1], "drops/s-with")
	b.ReportMetric(rate[1]/rate[0], "throughput-ratio")
	b.ReportMetric(cost[0], "sender-ns/drop-without")
	b.ReportMetric(cost[1], "sender-ns/drop-with")
}

// measureStorm measures at the budget's rate.
func (n *node) measureStorm(b *testing.B, s storm) {
	agent := n.startAgent(false)
	b.Logf("programs of others at the same hook: %d", strangers(programs(b, agent.PID())))
	before := s.made(b, n)
	settle, length, counting := lasting(5*time.Second), lasting(30*time.Second), lasting(10*time.Second)
	p := n.storm(s, stormRate, settle+length+counting)
	<-time.After(settle)
	drops, first := s.made(b, n), usageOf(b, agent.PID())
	<-time.After(length)
	last := usageOf(b, agent.PID())
	drops = s.made(b, n) - drops
	last.report(b, last.since(first))
	b.ReportMetric(float64(drops)/last.at.Sub(first.at).Seconds(), "drops/s")

	var r stormReport
	for name, seen := range accounted(b, agent.PID(), func() { r = ended(b, p) }) {
		if seen.RunCount > 0 {
			b.ReportMetric(float64(seen.Runtime)/float64(seen.RunCount), name+"-ns/run")
			b.Logf("program %s ran %d times", name, seen.RunCount)
		}
	}

	made := s.made(b, n) - before
	b.Logf("sent %d in %.1f s, dropped %d; oversize drops of others on this kernel: %.0f", r.Sent, r.Seconds, made, othersDrops(n.scrape()))
	if counted := n.counted(made, s.oversize); s.oversize {
		b.ReportMetric(float64(made), "drops-made")
		b.ReportMetric(counted, "drops-counted")
	} else {
		require.Zero(b, counted, "drops that are not for size were counted")
	}
	require.NoError(b, agent.Stop())
}

// counted waits until the agent has told all drops, or nothing more comes, and
// returns how many it has.
func (n *node) counted(made uint64, expected bool) float64 {
	deadline := time.Now().Add(25 * time.Second)
	for {
		m := n.scrape()
		got := m.sum("plumb_oversize_drops_total")
		if !expected || got >= float64(made) || time.Now().After(deadline) {
			return got
		}
		<-time.After(500 * time.Millisecond)
	}
}
