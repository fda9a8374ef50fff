// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/plumb-dev/plumb/evidence"
)

func (b *builder) refutersOf(spec object) {
	for _, n := range spec.list("refuters") {
		o, ok := b.src.object(n, "refuter", "id", "expr", "rival", "because", "exonerates", "window", "atMost")
		if !ok {
			continue
		}
		id, named := b.claimID(o)
		r := refuter{id: id, window: o.duration("window")}
		r.expr = b.boolean(o, "refuter "+id)
		r.rival = o.required("rival", "name the rival cause: a signature id or plain words").value
		r.because = b.template(o.required("because", "write the sentence to show when it is true: a refutation is a result"), "because of "+id)
		r.exonerates = b.template(o.required("exonerates", "write the sentence that rules the rival out when it is false"), "exonerates of "+id)
		if o.has("atMost") {
			r.atMost = b.grade(o, "atMost", Suspected, Likely)
		}
		if named {
			b.sig.refuters = append(b.sig.refuters, r)
		}
	}
}

func (b *builder) grade(o object, key string, allowed ...Grade) Grade {
	t := o.required(key, "write a grade")
	words := make([]string, len(allowed))
	for i, g := range allowed {
		if words[i] = g.String(); words[i] == t.value {
			return g
		}
	}
	if t.node != nil {
		b.src.fail(t.node, fmt.Sprintf("%s is %q", key, t.value), "that grade cannot stand here", "write one of "+strings.Join(words, ", "))
	}
	return None
}

func (b *builder) rungCapsOf(spec object) {
	for _, n := range spec.list("rungCaps") {
		o, ok := b.src.object(n, "rung cap", "item", "rungPrefix", "grade", "because")
		if !ok {
			continue
		}
		c := rungCap{item: -1}
		if t := o.required("item", "name the item whose rung limits the grade"); t.node != nil {
			info, known := b.catalog.ByName(t.value)
			if !known {
				b.src.fail(t.node, fmt.Sprintf("unknown item %q", t.value), "the catalogue has no such item", "see docs/evidence.md")
			} else if i, err := b.add(info); err != nil {
				b.src.fail(t.node, "rung cap cannot be read", err.Error(), "name an item of "+strings.Join(b.chain, ", "))
			} else {
				c.item = i
			}
		}
		c.prefix = o.required("rungPrefix", "write how the lesser rung begins").value
		c.grade = b.grade(o, "grade", Suspected, Likely)
		c.because = b.template(o.required("because", "write why that rung cannot prove more"), "because of a rung cap")
		if c.item >= 0 {
			b.sig.caps = append(b.sig.caps, c)
		}
	}
}

func (b *builder) tail(spec object) {
	for _, t := range spec.texts("consequences") {
		switch {
		case !signatureID.MatchString(t.value):
			b.src.fail(t.node, fmt.Sprintf("consequence %q is not a signature id", t.value), "an id is loop/name", "write for example network/dns")
		case t.value == b.sig.ID:
			b.src.fail(t.node, "signature explains itself", "a consequence is another signature", "remove it")
		case slices.Contains(b.sig.Consequences, t.value):
			b.src.fail(t.node, fmt.Sprintf("consequence %q appears twice", t.value), "once is enough", "remove one")
		default:
			b.sig.Consequences = append(b.sig.Consequences, t.value)
		}
	}
	for _, t := range spec.texts("absence") {
		info, ok := b.catalog.ByName(t.value)
		if !ok || info.Subject != evidence.SubjectNode {
			b.src.fail(t.node, fmt.Sprintf("absence names %q", t.value), "it is no catalogued item of the node", "name an item that is known only while the probe can see")
			continue
		}
		b.sig.absence = append(b.sig.absence, info)
	}
	if n, ok := spec.keys["zone"]; ok {
		b.zone(spec.src, n)
	}
}

func (b *builder) zone(src *source, n *yaml.Node) {
	o, ok := src.object(n, "zone", "minNodes", "minShare", "minRatio", "alpha")
	if !ok {
		return
	}
	read := func(key string, low, high float64) float64 {
		if !o.need(key, "a zone test needs all four limits") {
			return 0
		}
		v, ok := o.number(key)
		if ok && (v < low || v > high) {
			src.fail(o.keys[key], fmt.Sprintf("%s of zone is %v", key, v), fmt.Sprintf("it lies within %v and %v", low, high), "see docs/signatures.md")
		}
		return v
	}
	b.sig.Zone = &Zone{
		MinNodes: int(read("minNodes", 1, 1e6)),
		MinShare: read("minShare", 0, 1),
		MinRatio: read("minRatio", 1, 1e6),
		Alpha:    read("alpha", 0, 1),
	}
}
