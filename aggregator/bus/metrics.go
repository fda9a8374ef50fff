// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	seconds      prometheus.Histogram
	refused      *prometheus.CounterVec
	failures     prometheus.Counter
	recoveries   prometheus.Counter
	markFailures prometheus.Counter
	all          []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer, b *Bus) (*metrics, error) {
	const ns, sub = "plumb", "aggregator_bus"
	m := &metrics{
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "publish_seconds",
			Help:    "Time from publishing a message to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12)}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "refused_messages_total",
			Help: "Messages that were not acknowledged, by reason."}, []string{"reason"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "store_failures_total",
			Help: "Times the store failed and had to be opened again."}),
		recoveries: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "store_recoveries_total",
			Help: "Times the store was opened again after a failure."}),
		markFailures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "mark_failures_total",
			Help: "Acknowledged sequences that could not be noted beside the store."}),
	}
	m.all = []prometheus.Collector{m.seconds, m.refused, m.failures, m.recoveries, m.markFailures}
	if b.cfg.Dir != "" {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "free_bytes",
			Help: "Free space of the file system under the store."}, func() float64 {
			free, _, err := freeSpace(b.cfg.Dir)
			if err != nil {
				return -1
			}
			return float64(free)
		}))
	}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			for _, done := range m.all[:i] {
				reg.Unregister(done)
			}
			return nil, fmt.Errorf("register the metrics of the bus: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all {
		reg.Unregister(c)
	}
}

func (m *metrics) published(took time.Duration, err error) {
	if err == nil {
		m.seconds.Observe(took.Seconds())
		return
	}
	m.refused.WithLabelValues(reason(err)).Inc()
}

func reason(err error) string {
	switch {
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrQuota):
		return "quota"
	case errors.Is(err, ErrTooLarge):
		return "too_large"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case errors.Is(err, ErrClosed):
		return "closed"
	default:
		return "other"
	}
}
