// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics shows the agent's evidence on /metrics, named after
// node_exporter's conventions: plumb_<probe>_<fact>_<unit>, counters end in
// _total. What is unknown has no sample of its value; it is counted, with its
// reason, in plumb_evidence_unknown_items, so that a dashboard can tell "zero"
// from "cannot see".
package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A Source gives out the current evidence.
type Source interface{ Full() ledger.Snapshot }

// A Collector turns the ledger into metrics at each scrape. Devices inside pods
// are left out unless Pods is set: 110 pods would add thousands of series that
// the aggregator has anyway.
type Collector struct {
	source  Source
	catalog *evidence.Catalog
	pods    bool
	unknown *prometheus.Desc
	byItem  map[uint32]described
}

type described struct {
	desc  *prometheus.Desc
	value prometheus.ValueType
}

// subjectLabels are the labels of each kind of subject, beside none for the node.
var subjectLabels = []string{"subject", "pod_uid"}

// New returns a collector over the evidence of source.
func New(source Source, catalog *evidence.Catalog, pods bool) *Collector {
	c := &Collector{
		source: source, catalog: catalog, pods: pods, byItem: map[uint32]described{},
		unknown: prometheus.NewDesc("plumb_evidence_unknown_items", "Catalogued items that this agent cannot report now, by reason.", []string{"probe", "reason"}, nil),
	}
	for _, it := range catalog.Items() {
		name := "plumb_" + strings.ReplaceAll(it.Name, ".", "_")
		var labels []string
		if it.Subject != evidence.SubjectNode {
			labels = append(labels, subjectLabels...)
		}
		kind := prometheus.GaugeValue
		switch {
		case it.Type == evidence.TypeText:
			name += "_info"
			labels = append(labels, "value")
		case strings.HasSuffix(it.Name, "_total"):
			kind = prometheus.CounterValue
		}
		c.byItem[it.ID] = described{prometheus.NewDesc(name, it.Doc, labels, nil), kind}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.unknown
	for _, d := range c.byItem {
		ch <- d.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	type blind struct{ probe, reason string }
	unknown := map[blind]int{}
	for _, o := range c.source.Full().Observations {
		for _, it := range o.GetItems() {
			if u := it.GetUnknown(); u != nil {
				unknown[blind{o.GetProbe(), reasonName(u.GetReason())}]++
			}
		}
		if !c.pods && o.GetSubject().GetKind() == evidence.SubjectDevice && o.GetSubject().GetPodUid() != "" {
			continue
		}
		for _, it := range o.GetItems() {
			c.collectItem(ch, o.GetSubject(), it)
		}
	}
	for k, n := range unknown {
		ch <- prometheus.MustNewConstMetric(c.unknown, prometheus.GaugeValue, float64(n), k.probe, k.reason)
	}
}

func (c *Collector) collectItem(ch chan<- prometheus.Metric, subject *evidencev1.Subject, it *evidencev1.Item) {
	d, known := c.byItem[it.GetId()]
	if !known {
		return
	}
	var labels []string
	if subject.GetKind() != evidence.SubjectNode {
		labels = append(labels, label(subject), subject.GetPodUid())
	}
	var value float64
	switch s := it.GetState().(type) {
	case *evidencev1.Item_Integer:
		value = float64(s.Integer)
	case *evidencev1.Item_Number:
		value = s.Number
	case *evidencev1.Item_Flag:
		if s.Flag {
			value = 1
		}
	case *evidencev1.Item_Text:
		value = 1
		labels = append(labels, strings.ToValidUTF8(s.Text, "\uFFFD"))
	default:
		return
	}
	m, err := prometheus.NewConstMetric(d.desc, d.value, value, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d.desc, err)
	}
	ch <- m
}

// label names a subject uniquely: the name that a person knows, and the key,
// since two pods both have an eth0.
func label(s *evidencev1.Subject) string {
	return strings.ToValidUTF8(s.GetName()+" ["+s.GetKey()+"]", "\uFFFD")
}

func reasonName(r evidencev1.Unknown_Reason) string {
	return strings.ToLower(strings.ReplaceAll(r.String(), "_", " "))
}
