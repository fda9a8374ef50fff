// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxTransfer bounds one transfer or answer.
	maxTransfer = 1 << 30
	// maxDatagram is what a UDP datagram over IPv4 carries: 65535 - 20 - 8.
	maxDatagram = 65507
	// minEvery keeps a generator from taking a whole processor.
	minEvery = time.Millisecond
)

// trafficFields are what each kind of traffic has besides from, kind, every and
// plane.
func trafficFields(kind string) []string {
	switch kind {
	case "tcp", "udp":
		return []string{"to", "bytes"}
	case "http":
		return []string{"to", "responseBytes"}
	}
	return nil
}

func (d *decoder) traffic(spec object) {
	for i, n := range d.entries(spec, "traffic", maxEntries) {
		what := fmt.Sprintf("traffic %d", i)
		o, ok := d.object(n, what, "from", "to", "kind", "bytes", "responseBytes", "every", "plane")
		if !ok || !o.need("kind", "write kind: tcp, http, udp or dns") {
			continue
		}
		var t Traffic
		if d.clean(func() { t.Kind = o.choice("kind", "", "tcp", "http", "udp", "dns") }) {
			d.flow(o, &t)
		}
		t.Every = o.duration("every", time.Second, minEvery, maxDuration)
		t.Plane = o.choice("plane", "pod", "pod", "node")
		if o.need("from", "name the node whose pod sends") {
			t.From = d.nodeName(o, "from")
		}
		if t.From != "" && t.From == t.To {
			o.wrong("to", "it is the node of from, and a node has one pod", "name another node")
		}
		d.out.Traffic = append(d.out.Traffic, t)
	}
}

// flow reads what differs between the kinds of traffic.
func (d *decoder) flow(o object, t *Traffic) {
	own := trafficFields(t.Kind)
	for _, key := range []string{"to", "bytes", "responseBytes"} {
		switch {
		case !o.has(key) || slices.Contains(own, key):
		case key == "to":
			d.fail(o.names[key], o.what+" has to", "dns goes to the cluster's resolver", "remove it")
		default:
			d.fail(o.names[key], o.what+" has "+key, "it does not belong to kind "+t.Kind, "remove it")
		}
	}
	if slices.Contains(own, "to") && o.need("to", "name the node whose pod answers") {
		t.To = d.nodeName(o, "to")
	}
	switch t.Kind {
	case "tcp":
		t.Bytes = o.quantity("bytes", sizeUnits(), 64<<10, 1, maxTransfer)
	case "udp":
		t.Bytes = o.quantity("bytes", sizeUnits(), 512, 1, maxDatagram)
	case "http":
		t.ResponseBytes = o.quantity("responseBytes", sizeUnits(), 64<<10, 0, maxTransfer)
	}
}

// nodeName reads the name of a node that the file has, "" when it is none.
func (d *decoder) nodeName(o object, key string) string {
	v, ok := o.text(key)
	if !ok || !d.known(o.values[key], "node", v, d.out.NodeNames()) {
		return ""
	}
	return v
}

// known reports a name that stands for nothing in this file. When the nodes
// themselves are wrong it stays silent: they are the first to mend.
func (d *decoder) known(at *yaml.Node, what, v string, names []string) bool {
	if !d.named || slices.Contains(names, v) {
		return d.named
	}
	why, mend := "the file has "+list(names), "name one of these"
	if len(names) == 0 {
		why, mend = "no node has a "+what, "give it to a node, or select in another way"
	}
	d.fail(at, fmt.Sprintf("unknown %s %s", what, quote(v)), why, mend)
	return false
}
