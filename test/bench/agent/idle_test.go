// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"
)

const (
	warmUp   = 15 * time.Second
	measured = 60 * time.Second
	// scrapeInterval is what Prometheus's own operator sets for node_exporter.
	scrapeInterval = 15 * time.Second
)

// BenchmarkIdle measures the agent on a node on which nothing happens. The
// agent's own 10 s tick, its time servers and its clock watch go on.
func BenchmarkIdle(b *testing.B) {
	n := newNode(b, 1450, 1450)
	n.startAggregator()
	for _, mode := range []struct {
		name             string
		pushing, scraped bool
	}{
		{name: "alone"},
		{name: "pushing", pushing: true},
		{name: "pushing and scraped every 15 s", pushing: true, scraped: true},
	} {
		b.Run(mode.name, func(b *testing.B) {
			for range b.N {
				n.measureIdle(b, mode.pushing, mode.scraped)
			}
		})
	}
}

func (n *node) measureIdle(b *testing.B, pushing, scrapedToo bool) {
	p := n.startAgent(nil, pushing)
	<-time.After(lasting(warmUp))
	first, before := n.scrape(), usageOf(b, p.PID())
	end := time.After(lasting(measured))
	var scrapes <-chan time.Time
	if scrapedToo {
		tick := time.NewTicker(scrapeInterval)
		defer tick.Stop()
		scrapes = tick.C
	}
	for running := true; running; {
		select {
		case <-scrapes:
			n.scrape()
		case <-end:
			running = false
		}
	}
	after, last := usageOf(b, p.PID()), n.scrape()
	after.report(b, before)
	for _, probe := range []string{"link", "oversize", "clock"} {
		label := `probe="` + probe + `"`
		count := last.sum("plumb_agent_probe_duration_seconds_count", label) - first.sum("plumb_agent_probe_duration_seconds_count", label)
		sum := last.sum("plumb_agent_probe_duration_seconds_sum", label) - first.sum("plumb_agent_probe_duration_seconds_sum", label)
		if count > 0 {
			b.ReportMetric(1000*sum/count, probe+"-ms/sample")
			b.ReportMetric(count, probe+"-samples")
		}
	}
	b.Logf("series on /metrics: %d; threads: %d; file-backed RSS: %.1f MiB", len(last), len(after.switches), after.memory["RssFile"])
	if err := p.Stop(); err != nil {
		b.Fatalf("the agent ended with: %v", err)
	}
}
