// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/agent/probe"
)

// metrics is what the scheduler says about the probes themselves.
type metrics struct {
	duration      *prometheus.HistogramVec
	success       *prometheus.GaugeVec
	failures      *prometheus.CounterVec
	timeouts      *prometheus.CounterVec
	panics        *prometheus.CounterVec
	missing       *prometheus.CounterVec
	watchFailures *prometheus.CounterVec
	episodes      *prometheus.CounterVec
	hook          *prometheus.GaugeVec

	mu    sync.Mutex
	rungs map[string]string
}

func newMetrics(reg prometheus.Registerer) *metrics {
	byProbe := []string{"probe"}
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plumb_agent_probe_duration_seconds", Help: "Time that one sample of a probe took.",
			Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5},
		}, byProbe),
		success:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "plumb_agent_probe_success", Help: "1 when the last sample of the probe succeeded."}, byProbe),
		failures:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_agent_probe_failures_total", Help: "Samples that returned an error or timed out."}, byProbe),
		timeouts:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_agent_probe_timeouts_total", Help: "Samples that did not return in time."}, byProbe),
		panics:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_agent_probe_panics_total", Help: "Panics caught in a probe."}, byProbe),
		missing:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_agent_probe_missing_items_total", Help: "Catalogued items that a probe left out and that were reported as unknown."}, byProbe),
		watchFailures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_agent_probe_watch_failures_total", Help: "Watchers that ended and were started again."}, byProbe),
		episodes:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_agent_episode_transitions_total", Help: "Episodes opened or closed, by condition."}, []string{"condition"}),
		hook:          prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "plumb_agent_hook_active", Help: "1 for the active and confirmed rung of each signal's hook ladder; 0 with an empty rung when none is."}, []string{"signal", "rung"}),
		rungs:         map[string]string{},
	}
	if reg != nil {
		reg.MustRegister(m.duration, m.success, m.failures, m.timeouts, m.panics, m.missing, m.watchFailures, m.episodes, m.hook)
	}
	return m
}

func (m *metrics) setHooks(hooks []probe.Hook) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range hooks {
		rung, value := h.Rung, 1.0
		if !h.Confirmed || h.Rung == "" {
			rung, value = "", 0
		}
		if old, known := m.rungs[h.Signal]; known && old != rung {
			m.hook.DeleteLabelValues(h.Signal, old)
		}
		m.rungs[h.Signal] = rung
		m.hook.WithLabelValues(h.Signal, rung).Set(value)
	}
}
