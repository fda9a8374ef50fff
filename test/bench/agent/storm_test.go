// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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
	// protocol and counter say where the kernel itself counts these drops, in the
	// node's namespace.
	protocol, counter string
	// oversize drops are counted by the agent; it must pass over all others.
	oversize bool
}

func storms() []storm {
	overlay := storm{
		// 1472 bytes make 1500 inside and 1550 outside, over an underlay of 1500:
		// refused by ip_fragment(), counted as FragFails.
		netns: "pod0", address: "10.244.1.10:20000", payload: 1472,
		protocol: "Ip", counter: "FragFails", oversize: true,
	}
	few, many := overlay, overlay
	few.name, few.flows = "oversize, 500 flows", 500
	// Five times what the kernel's map of flows holds.
	many.name, many.flows = "oversize, 20000 flows", 20_000
	return []storm{few, many, {
		name: "closed port", address: "127.0.0.1:20000", payload: 100, flows: 500,
		protocol: "Udp", counter: "NoPorts",
	}}
}

// BenchmarkDropStorm measures agent, kernel and sender while packets are dropped
// at the budget's rate, and, as fast as this machine can, with and without the
// agent.
func BenchmarkDropStorm(b *testing.B) {
	n := newNode(b, 1500, 1500)
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

func (n *node) made(b *testing.B, s storm) uint64 {
	return counterOf(b, n.machine.PID(), s.protocol, s.counter)
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
				agent = n.startAgent(nil, false)
			}
			before := n.made(b, s)
			r := ended(b, n.storm(s, 0, lasting(4*time.Second)))
			drops := float64(n.made(b, s) - before)
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
	agent := n.startAgent(nil, false)
	own := programs(b, agent.PID())
	b.Logf("programs of others at the same hook: %d", strangers(own))
	before := n.made(b, s)
	settle, length, counting := lasting(5*time.Second), lasting(30*time.Second), lasting(10*time.Second)
	p := n.storm(s, stormRate, settle+length+counting)
	<-time.After(settle)
	drops, first := n.made(b, s), usageOf(b, agent.PID())
	<-time.After(length)
	last := usageOf(b, agent.PID())
	drops = n.made(b, s) - drops
	last.report(b, first)
	b.ReportMetric(float64(drops)/last.at.Sub(first.at).Seconds(), "drops/s")

	// The kernel's own accounting makes every program dearer, hence last. It ends
	// with its file, whatever happens here.
	programs(b, agent.PID()) // adapt is attached by now
	accounting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	require.NoError(b, err)
	own = programs(b, agent.PID())
	start := statistics(b, own)
	r := ended(b, p)
	for name, end := range statistics(b, own) {
		runs := end.RunCount - start[name].RunCount
		if runs == 0 {
			continue
		}
		b.ReportMetric(float64(end.Runtime-start[name].Runtime)/float64(runs), strings.TrimRight(name, "_")+"-ns/run")
	}
	require.NoError(b, accounting.Close())

	made := n.made(b, s) - before
	b.Logf("sent %d in %.1f s, dropped %d", r.Sent, r.Seconds, made)
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

type runs struct {
	RunCount uint64
	Runtime  time.Duration
}

func statistics(b *testing.B, programs map[string]*ebpf.Program) map[string]runs {
	b.Helper()
	out := map[string]runs{}
	for name, p := range programs {
		s, err := p.Stats()
		require.NoError(b, err)
		out[name] = runs{s.RunCount, s.Runtime}
	}
	return out
}
