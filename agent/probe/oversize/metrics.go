// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/bpf"
)

// A collector exports what the programs count about themselves.
type collector struct {
	kernel *bpf.Oversize
}

func eventsDesc() *prometheus.Desc {
	return prometheus.NewDesc("plumb_bpf_oversize_events_total", "Events that the oversize programs could not count as drops, by cause.", []string{"cause"}, nil)
}

func errorsDesc() *prometheus.Desc {
	return prometheus.NewDesc("plumb_bpf_oversize_helper_errors_total", "Helpers that failed inside the oversize programs, by place (bpf/include/errmetrics.bpf.h) and helper number.", []string{"site", "helper"}, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- eventsDesc()
	ch <- errorsDesc()
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counts, err := c.kernel.Counters()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(eventsDesc(), err)
	}
	for counter, cause := range causes() {
		ch <- prometheus.MustNewConstMetric(eventsDesc(), prometheus.CounterValue, float64(counts[counter]), cause)
	}
	failed, err := c.kernel.HelperErrors()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(errorsDesc(), err)
	}
	for k, n := range failed {
		ch <- prometheus.MustNewConstMetric(errorsDesc(), prometheus.CounterValue, float64(n),
			strconv.Itoa(int(k.Site)), strconv.Itoa(int(k.Helper)))
	}
}

func causes() map[bpf.Counter]string {
	return map[bpf.Counter]string{
		bpf.CountOverflow: "map_full",
		bpf.CountByFrags:  "gso_by_frags",
		bpf.CountNoFlow:   "no_flow",
		bpf.CountIgnored:  "other_node",
		bpf.CountFailed:   "helper_failed",
	}
}
