// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// register exports what the probe would otherwise lose in silence. A nil
// registerer registers nothing.
func (p *Probe) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "plumb_link_notification_overflows_total",
			Help: "Times that the kernel dropped rtnetlink notifications because the agent did not read them in time; each makes the FIB be asked anew.",
		}, func() float64 { return float64(p.events.overflows()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "plumb_link_devices",
			Help: "Network devices of the node as of the last scan.",
		}, func() float64 { return float64(p.Inventory().Len()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "plumb_link_unreadable_namespaces",
			Help: "Network namespaces of the node whose devices the last scan could not read.",
		}, func() float64 { return float64(p.unreadable.Load()) }),
	} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}
