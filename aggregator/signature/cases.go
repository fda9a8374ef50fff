// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// caseTime is the moment of every test case, so that results are the same on
// every machine.
var caseTime = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)

// A testCase is evidence of one node and what the signature makes of it.
type testCase struct {
	name    string
	node    *yaml.Node
	facts   map[evidence.Subject]map[uint32]state.Fact
	subject evidence.Subject
	// chosen is set when the case names its subject.
	chosen bool
	expect expectation
}

type expectation struct {
	node     *yaml.Node
	grade    Grade
	proofSet string
	refuted  string
	unknown  []string
	bans     *float64
	says     []string
}

func (b *builder) testsOf(spec object) {
	names := map[string]bool{}
	for _, n := range spec.list("tests") {
		o, ok := b.src.object(n, "test case", "name", "evidence", "subject", "expect")
		if !ok {
			continue
		}
		t := o.required("name", "say in prose what the case shows")
		if t.node != nil && names[t.value] {
			b.src.fail(t.node, fmt.Sprintf("test case %q appears twice", t.value), "a failure could not be told apart", "rename one")
		}
		names[t.value] = true
		c := testCase{name: t.value, node: o.node, facts: map[evidence.Subject]map[uint32]state.Fact{}}
		if o.need("evidence", "write evidence: {node: {item: value}}") {
			b.caseEvidence(o.keys["evidence"], &c)
		}
		if s := o.text("subject"); s.node != nil {
			if c.subject, c.chosen = findSubject(c.facts, s.value); !c.chosen {
				b.src.fail(s.node, fmt.Sprintf("subject %q is not in the evidence", s.value), "a case weighs one of its own subjects", "name it as the evidence does, for example device flannel.1")
			}
		}
		if o.need("expect", "write expect: {grade: proven}") {
			c.expect = b.expectation(o.keys["expect"])
		}
		b.sig.tests = append(b.sig.tests, c)
	}
	if b.strict {
		b.coverage(spec)
	}
}

// coverage holds built-in signatures to their test cases.
func (b *builder) coverage(spec object) {
	fires, blind := false, false
	stopped := map[string]bool{}
	for _, c := range b.sig.tests {
		fires = fires || c.expect.grade == Proven || b.sig.NoProof != "" && c.expect.grade == Likely
		blind = blind || len(c.expect.unknown) > 0 && c.expect.grade != Proven
		stopped[c.expect.refuted] = true
	}
	lacks := func(what string) {
		at := spec.node
		if n, ok := spec.names["tests"]; ok {
			at = n
		}
		b.src.fail(at, "tests lack a case "+what, "a built-in signature shows that it fires, that each refuter stops it, and that it knows what it does not know", "add the case")
	}
	if !fires {
		lacks("that fires (grade: proven)")
	}
	if !blind {
		lacks("in which the decisive evidence is unknown (unknown: [clause])")
	}
	for _, r := range b.sig.refuters {
		if !stopped[r.id] {
			lacks("that refuter " + r.id + " stops (refuted: " + r.id + ")")
		}
	}
}

// caseEvidence reads subjects: "node", "device flannel.1", "dropsite X".
func (b *builder) caseEvidence(n *yaml.Node, c *testCase) {
	all, order, ok := b.src.mapping(n, "evidence of a test case")
	if !ok {
		return
	}
	parents := map[string]text{}
	for _, name := range order {
		kind, key, _ := strings.Cut(name, " ")
		if kind == evidence.SubjectNode {
			key = evidence.Node().Key
		}
		if _, known := b.catalog.Subject(kind); !known || key == "" {
			b.src.fail(all.names[name], fmt.Sprintf("%q is no subject", name), "a subject is a kind of the catalogue and a name", "write node, or for example device flannel.1")
			continue
		}
		subject := evidence.Subject{Kind: kind, Key: key, Name: key}
		items, fields, ok := b.src.mapping(all.keys[name], "subject "+name)
		if !ok {
			continue
		}
		facts := map[uint32]state.Fact{}
		for _, field := range fields {
			switch field {
			case "parent", "pod":
				t := b.src.text(items.keys[field], field+" of "+name)
				if field == "pod" {
					subject.PodUID = t.value
				} else if t.node != nil {
					parents[name] = t
					_, subject.ParentKey, _ = strings.Cut(t.value, " ")
				}
				continue
			}
			info, known := b.catalog.ByName(field)
			if !known || info.Obsolete || info.Subject != kind {
				b.src.fail(items.names[field], fmt.Sprintf("%s has no item %q", name, field), "the catalogue has none of that name for a "+kind, "see docs/evidence.md; parent and pod may stand here as well")
				continue
			}
			if f, ok := b.fact(items.keys[field], info); ok {
				facts[info.ID] = f
			}
		}
		c.facts[subject] = facts
	}
	for name, t := range parents {
		if !all.has(t.value) {
			b.src.fail(t.node, fmt.Sprintf("parent of %s is %q", name, t.value), "the case has no such subject", "name another subject of this case, for example device eth0")
		}
	}
	if _, ok := findSubject(c.facts, evidence.SubjectNode); !ok {
		c.facts[evidence.Node()] = map[uint32]state.Fact{}
	}
}

func findSubject(facts map[evidence.Subject]map[uint32]state.Fact, name string) (evidence.Subject, bool) {
	kind, key, _ := strings.Cut(name, " ")
	for s := range facts {
		if s.Kind == kind && (s.Key == key || kind == evidence.SubjectNode) {
			return s, true
		}
	}
	return evidence.Subject{}, false
}

// fact reads a value: plain, or {value, uncertainty, rung, age}, or
// {unknown: reason, detail}, or {notApplicable: why}.
func (b *builder) fact(n *yaml.Node, info evidence.ItemInfo) (state.Fact, bool) {
	f := state.Fact{Status: state.Value, ObservedAt: caseTime}
	value := n
	if resolve(n).Kind == yaml.MappingNode {
		o, ok := b.src.object(n, "value of "+info.Name, "value", "uncertainty", "rung", "age", "unknown", "detail", "notApplicable")
		if !ok {
			return f, false
		}
		f.Uncertainty, _ = o.number("uncertainty")
		f.Rung, f.Detail = o.text("rung").value, o.text("detail").value
		f.ObservedAt = caseTime.Add(-o.duration("age"))
		switch {
		case o.has("unknown"):
			t := o.text("unknown")
			reason, known := evidencev1.Unknown_Reason_value[strings.ToUpper(strings.ReplaceAll(t.value, " ", "_"))]
			if t.node != nil && (!known || reason == 0) {
				b.src.fail(t.node, fmt.Sprintf("unknown for the reason %q", t.value), "there is no such reason", "write blind, failed, stale, shared kernel or warming up")
				return f, false
			}
			f.Status, f.Reason = state.Unknown, evidencev1.Unknown_Reason(reason)
			return f, t.node != nil
		case o.has("notApplicable"):
			f.Status, f.Detail = state.NotApplicable, o.text("notApplicable").value
			return f, true
		}
		if !o.need("value", "write value:, unknown: or notApplicable:") {
			return f, false
		}
		value = o.keys["value"]
	}
	r := resolve(value)
	var err error
	switch {
	case r.Kind != yaml.ScalarNode:
		err = fmt.Errorf("it is a %s", kindWord(r))
	case info.Type == evidence.TypeInteger:
		var v int64
		err = r.Decode(&v)
		f.Value = v
	case info.Type == evidence.TypeNumber:
		var v float64
		err = r.Decode(&v)
		f.Value = v
	case info.Type == evidence.TypeFlag:
		var v bool
		if err = r.Decode(&v); r.Tag != "!!bool" {
			err = fmt.Errorf("it reads %q", r.Value)
		}
		f.Value = v
	default:
		if r.Tag == "!!null" {
			err = fmt.Errorf("it is empty; an empty text is \"\"")
		}
		f.Value = r.Value
	}
	if err != nil {
		b.src.fail(value, fmt.Sprintf("%s is no %s", info.Name, info.Type), oneLine(err.Error()), "write a value of that type")
		return f, false
	}
	return f, true
}

func (b *builder) expectation(n *yaml.Node) expectation {
	e := expectation{node: n}
	o, ok := b.src.object(n, "expect", "grade", "proofSet", "refuted", "unknown", "bans", "says")
	if !ok {
		return e
	}
	e.grade = b.grade(o, "grade", None, Refuted, Suspected, Likely, Proven)
	known := func(t text, have bool, what string) {
		if t.node != nil && !have {
			b.src.fail(t.node, fmt.Sprintf("expect names an unknown %s %q", what, t.value), "the signature has none of that name", "use a name of this file")
		}
	}
	if t := o.text("proofSet"); t.node != nil {
		e.proofSet = t.value
		have := false
		for _, p := range b.sig.proofs {
			have = have || p.name == t.value
		}
		known(t, have, "proof set")
	}
	if t := o.text("refuted"); t.node != nil {
		e.refuted = t.value
		have := false
		for _, r := range b.sig.refuters {
			have = have || r.id == t.value
		}
		known(t, have, "refuter")
	}
	for _, t := range o.texts("unknown") {
		_, have := b.ids[t.value]
		known(t, have, "clause or refuter")
		e.unknown = append(e.unknown, t.value)
	}
	for _, t := range o.texts("says") {
		e.says = append(e.says, t.value)
	}
	if v, ok := o.number("bans"); ok {
		e.bans = &v
	}
	return e
}
