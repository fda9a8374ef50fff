// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	namespace = "plumb"
	subsystem = "aggregator_ingest"
)

type metrics struct {
	batches, episodes, authFailures, directives, mended *prometheus.CounterVec
	batchBytes, panics, handshakes                      prometheus.Counter
	streams                                             prometheus.Gauge
	pushSeconds                                         prometheus.Histogram
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		batches:      counterVec("batches_total", "Batches by result (applied, duplicate, refused) and, if refused, why.", "result", "reason"),
		episodes:     counterVec("episodes_total", "Episodes by what the journal did with them.", "result"),
		authFailures: counterVec("authentication_failures_total", "Calls whose token was refused, by reason.", "reason"),
		directives:   counterVec("directives_total", "Directives by what became of them.", "result"),
		mended:       counterVec("mended_total", "What was left out or put right in batches that were taken.", "what"),
		batchBytes:   counter("batch_bytes_total", "Size of received batches, decompressed."),
		panics:       counter("panics_total", "Calls that panicked."),
		handshakes:   counter("tls_handshake_failures_total", "TLS handshakes that failed."),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "watch_streams",
			Help: "Open streams of directives."}),
		pushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "push_seconds",
			Help:    "Time from having read a batch to its acknowledgement or refusal.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12)}),
	}
	return m, register(reg, m.batches, m.episodes, m.authFailures, m.directives, m.mended, m.batchBytes, m.panics, m.handshakes, m.streams, m.pushSeconds)
}

func register(reg prometheus.Registerer, all ...prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	for i, c := range all {
		if err := reg.Register(c); err != nil {
			for _, done := range all[:i] {
				reg.Unregister(done)
			}
			return fmt.Errorf("register the metrics of ingest: %w", err)
		}
	}
	return nil
}
