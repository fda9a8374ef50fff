// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	batches       *prometheus.CounterVec
	overflow      *prometheus.CounterVec
	uncatalogued  prometheus.Counter
	missedWakeups prometheus.Counter
	age           prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer, s *State) *metrics {
	m := &metrics{
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plumb_state_batches_total",
			Help: "Batches by what became of them: applied, duplicate, need_full, refused.",
		}, []string{"result"}),
		overflow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plumb_state_overflow_total",
			Help: "Batches refused because a limit was reached: subjects of one node, bytes of all.",
		}, []string{"limit"}),
		uncatalogued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plumb_state_uncatalogued_items_total",
			Help: "Items that were dropped because this build's catalogue does not have them.",
		}),
		missedWakeups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plumb_state_missed_wakeups_total",
			Help: "Changes that were not announced because nobody took the earlier announcements.",
		}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "plumb_state_evidence_age_seconds",
			Help:    "Age of a probe's last successful sample when its batch arrived.",
			Buckets: []float64{0.01, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 150, 300},
		}),
	}
	for _, result := range []string{"applied", "duplicate", "need_full", "refused"} {
		m.batches.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(m.batches, m.overflow, m.uncatalogued, m.missedWakeups, m.age, &collector{
			state: s,
			nodes: prometheus.NewDesc("plumb_state_nodes", "Nodes by state: reporting, silent, never.", []string{"state"}, nil),
			items: prometheus.NewDesc("plumb_state_evidence_items", "Items held of all nodes.", nil, nil),
			bytes: prometheus.NewDesc("plumb_state_evidence_bytes", "Memory held by evidence, estimated.", nil, nil),
			age:   prometheus.NewDesc("plumb_state_oldest_batch_age_seconds", "Age of the newest batch of the node that was heard of longest ago.", nil, nil),
			open:  prometheus.NewDesc("plumb_state_open_episodes", "Open episodes of all nodes.", nil, nil),
			lost:  prometheus.NewDesc("plumb_state_episodes_refused_total", "Episodes not kept in memory because a node had too many open; they are durable all the same.", nil, nil),
		})
	}
	return m
}

// A collector counts at scrape time what would otherwise have to be kept in step
// with the passing of time.
type collector struct {
	state                                *State
	nodes, items, bytes, age, open, lost *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.nodes, c.items, c.bytes, c.age, c.open, c.lost} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counts := map[string]int{NodeReporting: 0, NodeSilent: 0, NodeNever: 0}
	items, open, oldest := 0, 0, 0.0
	var lost uint64
	now := c.state.cfg.Now()
	for _, name := range c.state.Names() {
		n, ok := c.state.find(name)
		if !ok {
			continue
		}
		n.mu.Lock()
		snap := n.snapshot
		open += len(n.episodes.open)
		lost += n.episodes.overflow
		n.mu.Unlock()
		items += snap.items
		switch {
		case snap.lastArrival.IsZero():
			counts[NodeNever]++
			continue
		case snap.silent(now):
			counts[NodeSilent]++
		default:
			counts[NodeReporting]++
		}
		oldest = max(oldest, now.Sub(snap.lastArrival).Seconds())
	}
	for state, n := range counts {
		ch <- prometheus.MustNewConstMetric(c.nodes, prometheus.GaugeValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(c.items, prometheus.GaugeValue, float64(items))
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(c.state.memory.total()))
	ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, oldest)
	ch <- prometheus.MustNewConstMetric(c.open, prometheus.GaugeValue, float64(open))
	ch <- prometheus.MustNewConstMetric(c.lost, prometheus.CounterValue, float64(lost))
}
