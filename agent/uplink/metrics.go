// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

const metricPrefix = "plumb_agent_uplink_"

// metrics are the uplink's own; they work without a registerer, too.
type metrics struct {
	registerer   prometheus.Registerer
	registered   []prometheus.Collector
	batches      *prometheus.CounterVec
	bytes        *prometheus.CounterVec
	failures     *prometheus.CounterVec
	directives   *prometheus.CounterVec
	observations prometheus.Counter
	source       *prometheus.GaugeVec
	correction   *prometheus.GaugeVec
}

func newMetrics(c *Client, r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricPrefix + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help}, labels)
	}
	m := &metrics{
		registerer: r,
		batches:    counter("batches_total", "Batches sent, by kind; acknowledged or not.", "endpoint", "kind"),
		bytes:      counter("batch_bytes_total", "Bytes of the batches sent, before TLS.", "endpoint"),
		failures:   counter("failures_total", "Failures of the uplink, by reason.", "endpoint", "reason"),
		directives: counter("directives_total", "Directives received, by outcome.", "outcome"),
		observations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "dropped_observations_total",
			Help: "Observations dropped because one alone is larger than a batch may be.",
		}),
		source:     gauge("tls_time_source_info", "1 for the time at which the endpoint's certificate was verified.", "endpoint", "source"),
		correction: gauge("tls_time_correction_seconds", "That time minus the node's clock.", "endpoint"),
	}
	if r == nil {
		return m, nil
	}
	for _, collector := range []prometheus.Collector{
		m.batches, m.bytes, m.failures, m.directives, m.observations, m.source, m.correction, newCollector(c),
	} {
		if err := r.Register(collector); err != nil {
			m.unregister()
			return nil, errors.Join(errors.New("register uplink metrics"), err)
		}
		m.registered = append(m.registered, collector)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) sent(endpoint string, kind evidencev1.Batch_Kind, bytes int) {
	m.batches.WithLabelValues(endpoint, strings.ToLower(kind.String())).Inc()
	m.bytes.WithLabelValues(endpoint).Add(float64(bytes))
}

func (m *metrics) failed(endpoint, reason string) { m.failures.WithLabelValues(endpoint, reason).Inc() }

func (m *metrics) directive(outcome string) { m.directives.WithLabelValues(outcome).Inc() }

func (m *metrics) observationsDropped(n int) { m.observations.Add(float64(n)) }

func (m *metrics) tlsTime(endpoint string, t *evidencev1.TLSTime) {
	m.source.DeletePartialMatch(prometheus.Labels{"endpoint": endpoint})
	m.source.WithLabelValues(endpoint, strings.ToLower(t.GetSource().String())).Set(1)
	m.correction.WithLabelValues(endpoint).Set(t.GetCorrectionSeconds())
}

// A collector turns the present status into metrics when it is scraped.
type collector struct {
	client *Client
	connected, pending, dropped, dns,
	ring, spool, spoolErrors, damaged *prometheus.Desc
}

func newCollector(c *Client) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(metricPrefix+name, help, labels, nil)
	}
	return &collector{
		client:      c,
		connected:   desc("connected", "1 while the endpoint is connected.", "endpoint"),
		pending:     desc("pending_episodes", "Episodes that the endpoint has not acknowledged.", "endpoint"),
		dropped:     desc("dropped_episodes_total", "Episodes that the endpoint will never get.", "endpoint"),
		dns:         desc("dns_failed", "1 when the last lookup of the endpoint's name failed.", "endpoint"),
		ring:        desc("ring_bytes", "Waiting episodes in memory."),
		spool:       desc("spool_bytes", "Size of the spool on disk."),
		spoolErrors: desc("spool_errors_total", "Rounds of writing the spool that failed."),
		damaged:     desc("spool_damaged_records_total", "Records of the spool that could not be read back."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connected, c.pending, c.dropped, c.dns, c.ring, c.spool, c.spoolErrors, c.damaged} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count := c.client.episodes.count()
	for _, e := range c.client.Status().Endpoints {
		gauge(c.connected, truth(e.Connected), e.Endpoint)
		gauge(c.pending, float64(e.PendingEpisodes), e.Endpoint)
		gauge(c.dns, truth(e.DNSFailed), e.Endpoint)
		counter(c.dropped, e.DroppedEpisodes, e.Endpoint)
	}
	gauge(c.ring, float64(count.ringBytes))
	gauge(c.spool, float64(count.spoolBytes))
	counter(c.spoolErrors, count.spoolErrors)
	counter(c.damaged, count.damaged)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
