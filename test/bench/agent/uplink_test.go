// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkUplink measures what an idle agent sends and receives by its uplink:
// the batches themselves, and everything on the wire (IP packets of that TCP
// port, TLS and acknowledgements included).
func BenchmarkUplink(b *testing.B) {
	n := newNode(b, 1450, 1450)
	n.startAggregator()
	n.machine.Feed(`table inet bench {
	counter up {
	}
	counter down {
	}
	chain outgoing {
		type filter hook output priority 0
		tcp dport 9951 counter name up
	}
	chain incoming {
		type filter hook input priority 0
		tcp sport 9951 counter name down
	}
}
`, "nft", "-f", "-")
	for range b.N {
		n.measureUplink(b)
	}
}

func (n *node) measureUplink(b *testing.B) {
	agent := n.startAgent(true)
	<-time.After(lasting(warmUp))
	before := n.wire(b)
	begin, last := time.Now(), n.uplink()
	start := n.scrape()
	first := last
	sizes := map[string][]float64{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Since(begin) < lasting(3*time.Minute) {
		<-tick.C
		now := n.uplink()
		full, delta := now.full-last.full, now.delta-last.delta
		// A second in which both kinds were sent tells neither's size.
		switch size := now.bytes - last.bytes; {
		case full == 0 && delta > 0:
			sizes["delta"] = append(sizes["delta"], size/delta)
		case delta == 0 && full > 0:
			sizes["full"] = append(sizes["full"], size/full)
		}
		last = now
	}
	minutes := time.Since(begin).Minutes()
	after := n.wire(b)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric((last.bytes-first.bytes)/minutes, "batch-bytes/min")
	b.ReportMetric((last.full-first.full)/minutes, "full/min")
	b.ReportMetric((last.delta-first.delta)/minutes, "delta/min")
	for kind, all := range sizes {
		var sum float64
		for _, size := range all {
			sum += size
		}
		b.ReportMetric(sum/float64(len(all)), kind+"-bytes/batch")
	}
	b.ReportMetric(float64(after["up"].bytes-before["up"].bytes)/minutes, "wire-up-bytes/min")
	b.ReportMetric(float64(after["down"].bytes-before["down"].bytes)/minutes, "wire-down-bytes/min")
	b.ReportMetric(float64(after["up"].packets-before["up"].packets)/minutes, "wire-up-packets/min")
	end := n.scrape()
	b.Logf("sizes seen: %v", sizes)
	b.Logf("samples of oversize: %.0f; more than one in 10 s are wake-ups by drops of others on this kernel, each of which is pushed: %.0f were counted",
		end.samples("oversize")-start.samples("oversize"), othersDrops(end)-othersDrops(start))
	require.NoError(b, agent.Stop())
}

// sent is what the uplink says that it has sent.
type sent struct{ bytes, full, delta float64 }

func (n *node) uplink() sent {
	m := n.scrape()
	return sent{
		bytes: m.sum("plumb_agent_uplink_batch_bytes_total"),
		full:  m.sum("plumb_agent_uplink_batches_total", `kind="full"`),
		delta: m.sum("plumb_agent_uplink_batches_total", `kind="delta"`),
	}
}

type wire struct{ packets, bytes uint64 }

// wire reads the counters of the firewall.
func (n *node) wire(b *testing.B) map[string]wire {
	b.Helper()
	var listing struct {
		Nftables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	require.NoError(b, json.Unmarshal([]byte(n.machine.Run("nft", "-j", "list", "counters")), &listing))
	out := map[string]wire{}
	for _, entry := range listing.Nftables {
		if c := entry.Counter; c != nil {
			out[c.Name] = wire{c.Packets, c.Bytes}
		}
	}
	require.Len(b, out, 2)
	return out
}
