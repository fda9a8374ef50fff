// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"
)

const (
	warmUp = 15 * time.Second
	// A slice holds one tick of every probe; so many undisturbed ones make a
	// minute.
	slice       = 10 * time.Second
	slices      = 6
	slicesAtAll = 30
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
		{name: "pushing and scraped every 10 s", pushing: true, scraped: true},
	} {
		b.Run(mode.name, func(b *testing.B) {
			for range b.N {
				n.measureIdle(b, mode.pushing, mode.scraped)
			}
		})
	}
}

// measureIdle adds up slices in which nothing woke the agent. Drops of anybody
// else on this kernel do, until the agent knows that they are none of its node's;
// such slices are left out and counted.
func (n *node) measureIdle(b *testing.B, pushing, scrapedToo bool) {
	p := n.startAgent(pushing)
	<-time.After(lasting(warmUp))
	var total share
	probes := map[string]float64{}
	disturbed, others := 0, 0.0
	last := n.scrape()
	for quiet, all := 0, 0; quiet < slices && all < slicesAtAll; all++ {
		before := usageOf(b, p.PID())
		if scrapedToo {
			n.scrape()
		}
		<-time.After(lasting(slice))
		taken := usageOf(b, p.PID()).since(before)
		first := last
		last = n.scrape()
		others += othersDrops(last) - othersDrops(first)
		if last.samples("oversize")-first.samples("oversize") > 1 {
			disturbed++
			continue
		}
		quiet++
		total.add(taken)
		for _, probe := range []string{"link", "oversize", "clock"} {
			probes[probe] += last.sampling(probe) - first.sampling(probe)
			probes[probe+" samples"] += last.samples(probe) - first.samples(probe)
		}
	}
	if total.wall == 0 {
		b.Fatalf("others on this kernel dropped packets all the time: %.0f", others)
	}
	usageOf(b, p.PID()).report(b, total)
	b.ReportMetric(total.wall.Seconds(), "measured-s")
	b.ReportMetric(float64(disturbed), "disturbed-slices")
	for _, probe := range []string{"link", "oversize", "clock"} {
		if samples := probes[probe+" samples"]; samples > 0 {
			b.ReportMetric(1000*probes[probe]/samples, probe+"-ms/sample")
		}
	}
	// While nothing is dropped no program may be on the packet path. Others on this
	// kernel are packets enough to show one.
	seen := accounted(b, p.PID(), func() { <-time.After(lasting(slice)) })
	b.ReportMetric(float64(seen["adapt"].RunCount), "packet-path-runs")
	b.Logf("oversize drops of others on this kernel, as far as they were counted: %.0f", others)
	b.Logf("series on /metrics: %d; file-backed RSS: %.1f MiB", len(last), usageOf(b, p.PID()).memory["RssFile"])
	if err := p.Stop(); err != nil {
		b.Fatalf("the agent ended with: %v", err)
	}
}

// samples is how often a probe was sampled, sampling how many seconds that took.
func (s scraped) samples(probe string) float64 {
	return s.sum("plumb_agent_probe_duration_seconds_count", `probe="`+probe+`"`)
}

func (s scraped) sampling(probe string) float64 {
	return s.sum("plumb_agent_probe_duration_seconds_sum", `probe="`+probe+`"`)
}
