// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	evaluation      prometheus.Histogram
	latency         prometheus.Histogram
	transitions     *prometheus.CounterVec
	panics          *prometheus.CounterVec
	directives      *prometheus.CounterVec
	journalFailures prometheus.Counter
	unreadable      prometheus.Counter
	refused         prometheus.Counter
	unsaved         prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer, e *Engine) *metrics {
	m := &metrics{
		evaluation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "plumb_verdict_evaluation_seconds",
			Help:    "Time to weigh every signature on one node and to make what came of it durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "plumb_verdict_latency_seconds",
			Help:    "Time from the arrival of a node's newest batch to the showing of a transition.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plumb_verdict_transitions_total",
			Help: "Transitions of verdicts by signature and kind.",
		}, []string{"signature", "transition"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plumb_verdict_panics_total",
			Help: "Weighings that panicked; their verdicts turn stale.",
		}, []string{"signature"}),
		directives: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plumb_verdict_directives_total",
			Help: "Directives wanted for a proof, by whether they could be handed on.",
		}, []string{"result"}),
		journalFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plumb_verdict_journal_failures_total",
			Help: "Transitions that could not be made durable at the first attempt.",
		}),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plumb_verdict_journal_unreadable_total",
			Help: "Records that could not be brought back at start.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plumb_verdict_refused_total",
			Help: "Verdicts that were not taken because the limit was reached.",
		}),
		unsaved: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plumb_verdict_unsaved",
			Help: "Verdicts whose newest transition is not durable.",
		}),
	}
	if registerer != nil {
		labels := []string{"signature", "scope", "zone", "severity"}
		registerer.MustRegister(m.evaluation, m.latency, m.transitions, m.panics, m.directives, m.journalFailures, m.unreadable, m.refused, m.unsaved,
			&collector{
				engine: e,
				active: prometheus.NewDesc("plumb_verdict_active", "Firing verdicts (stale ones count) that no other firing verdict explains.", labels, nil),
				proven: prometheus.NewDesc("plumb_verdict_proven", "Those of plumb_verdict_active that are proven.", labels, nil),
				listed: prometheus.NewDesc("plumb_verdicts", "All listed verdicts by state and grade; for dashboards, not for alerts.", []string{"state", "grade"}, nil),
			})
	}
	return m
}

// A collector counts the shown verdicts at scrape time. Grade and onset are no
// labels of what alerts rest on: an alert must not end and begin again because
// a verdict became surer. The grade is in which of the two metrics it counts.
type collector struct {
	engine                 *Engine
	active, proven, listed *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.active
	ch <- c.proven
	ch <- c.listed
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	type key struct{ signature, scope, zone, severity string }
	active, proven := map[key]int{}, map[key]int{}
	listed := map[[2]string]int{}
	verdicts := c.engine.Verdicts(Filter{IncludeResolved: true})
	explained := map[string]bool{}
	for _, v := range verdicts {
		for _, id := range v.GetConsequences() {
			explained[id] = true
		}
	}
	for _, v := range verdicts {
		listed[[2]string{v.GetState(), v.GetGrade()}]++
		firing := v.GetState() == string(phaseFiring) || v.GetState() == stateStale
		if !firing || explained[v.GetId()] {
			continue
		}
		k := key{v.GetSignature(), v.GetScope().GetKind(), strings.Join(v.GetScope().GetZones(), ","), v.GetSeverity()}
		active[k]++
		if v.GetGrade() == "proven" {
			proven[k]++
		} else {
			proven[k] += 0
		}
	}
	for k, n := range active {
		ch <- prometheus.MustNewConstMetric(c.active, prometheus.GaugeValue, float64(n), k.signature, k.scope, k.zone, k.severity)
	}
	for k, n := range proven {
		ch <- prometheus.MustNewConstMetric(c.proven, prometheus.GaugeValue, float64(n), k.signature, k.scope, k.zone, k.severity)
	}
	for k, n := range listed {
		ch <- prometheus.MustNewConstMetric(c.listed, prometheus.GaugeValue, float64(n), k[0], k[1])
	}
}
