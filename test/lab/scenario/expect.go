// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math"
	"regexp"
	"slices"
)

// signatureID is loop/name. Whether such a signature ships is not asked: pending
// scenarios name those that are still to come.
var signatureID = regexp.MustCompile(`^[a-z][a-z0-9-]*/[a-z0-9][a-z0-9-]*$`)

// scopeKind is the shape of a scope's kind: Node, ZonePair.
var scopeKind = regexp.MustCompile(`^[A-Z][A-Za-z]*$`)

func (d *decoder) expectations(spec object) {
	for i, n := range d.entries(spec, "expect", maxEntries) {
		o, ok := d.object(n, fmt.Sprintf("expectation %d", i), "signature", "grade", "scope", "fault", "within", "clearsWithin", "refuted")
		if !ok {
			continue
		}
		e := Expectation{Line: n.Line, Column: n.Column}
		switch {
		case o.has("signature") && o.has("refuted"):
			d.fail(o.names["refuted"], o.what+" has both signature and refuted", "it is met by a verdict or by a refutation", "write two expectations")
		case o.has("refuted"):
			e.Refuted = d.id(o, "refuted")
			for _, key := range []string{"grade", "scope", "clearsWithin"} {
				if o.has(key) {
					d.fail(o.names[key], o.what+" has "+key, "refuted holds at any time after the first fault and on any scope", "remove it")
				}
			}
			e.Within = o.duration("within", 0, 1, maxDuration)
			d.faultIndex(o, &e)
		case o.need("signature", "write signature: loop/name, or refuted: loop/name"):
			e.Signature = d.id(o, "signature")
			d.verdict(o, &e)
		}
		d.out.Expect = append(d.out.Expect, e)
	}
}

func (d *decoder) id(o object, key string) string {
	v, ok := o.text(key)
	if ok && !signatureID.MatchString(v) {
		o.wrong(key, quote(v)+" is not loop/name", "write for example network/mtu-black-hole")
	}
	return v
}

func (d *decoder) verdict(o object, e *Expectation) {
	e.Grade = o.choice("grade", "", grades()...)
	e.Within = o.duration("within", 0, 1, maxDuration)
	e.ClearsWithin = o.duration("clearsWithin", 0, 1, maxDuration)
	if o.has("scope") {
		d.scope(o, e)
	}
	faults := d.out.Faults
	if !d.faultIndex(o, e) || !o.has("clearsWithin") {
		return
	}
	switch {
	case len(faults) == 0:
		o.wrong("clearsWithin", "the file has no fault that could end", "remove it")
	case !faults[e.Fault].Ends() && d.faults[e.Fault].whole:
		o.wrong("clearsWithin", fmt.Sprintf("fault %d (line %d) has no until, so it never ends", e.Fault, faults[e.Fault].Line), "give the fault an until, or remove clearsWithin")
	}
}

func (d *decoder) scope(o object, e *Expectation) {
	s, ok := d.object(o.values["scope"], "scope of "+o.what, "kind", "nodes", "zones", "pool", "device", "pod")
	if !ok {
		return
	}
	if len(s.order) == 0 {
		o.wrong("scope", "it names nothing", "name nodes or zones, or leave it away")
	}
	if v, ok := s.text("kind"); ok {
		if !scopeKind.MatchString(v) {
			s.wrong("kind", quote(v)+" is no kind of scope", "write for example Node, NodePair, Zone, ZonePair or Cluster")
		}
		e.Scope.Kind = v
	}
	e.Scope.Nodes = d.names(s, "nodes", "node", d.out.NodeNames())
	e.Scope.Zones = d.names(s, "zones", "zone", d.out.Zones())
	if s.has("pool") {
		e.Scope.Pool = d.oneOf(s, "pool", d.out.Pools())
	}
	e.Scope.Device, _ = s.text("device")
	e.Scope.Pod, _ = s.text("pod")
}

// names reads a list of names that the file has, as a sorted set.
func (d *decoder) names(o object, key, what string, known []string) []string {
	var out []string
	for _, n := range o.nameList(key) {
		if d.known(n.node, what, n.value, known) {
			out = append(out, n.value)
		}
	}
	slices.Sort(out)
	return out
}

// faultIndex reads which fault an expectation counts from, and says whether there is
// such a one.
func (d *decoder) faultIndex(o object, e *Expectation) bool {
	if !o.has("fault") {
		return true
	}
	if !d.clean(func() { e.Fault = o.integer("fault", 0, math.MinInt32, math.MaxInt32) }) {
		return false
	}
	if faults := d.out.Faults; e.Fault < 0 || e.Fault >= len(faults) {
		why := fmt.Sprintf("there is no fault %d, they count from 0 to %d", e.Fault, len(faults)-1)
		if len(faults) == 0 {
			why = "the file has no faults"
		}
		o.wrong("fault", why, "name a fault of the file, or leave it away")
		return false
	}
	return true
}
