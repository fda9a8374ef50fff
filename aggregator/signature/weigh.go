// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"

	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// A boundItem is an item with what CEL needs to know about it.
type boundItem struct {
	info         evidence.ItemInfo
	probe, field string
	// depth is the place of its kind of subject in the chain: 0 is the subject.
	depth   int
	pattern *cel.AttributePatternType
}

func (s *Signature) bind(items []evidence.ItemInfo) {
	for _, info := range items {
		item := boundItem{info: info, probe: info.Probe(), field: info.Field()}
		for d, kind := range s.chain {
			if kind == info.Subject {
				item.depth = d
			}
		}
		item.pattern = cel.AttributePattern(item.probe).QualString(item.field)
		s.items = append(s.items, item)
	}
}

// A weighing holds the facts of one subject while they are weighed.
type weighing struct {
	sig     *Signature
	view    *state.View
	subject evidence.Subject
	// owners are the subject and its parents, as far as the view knows them.
	owners []evidence.Subject
	found  []bool
	facts  []state.Fact
	vars   map[string]any
	// known is the activation for expressions without a window.
	known cel.Activation
}

// weighing collects every fact that the signature reads.
func (s *Signature) weighing(view *state.View, subject evidence.Subject) *weighing {
	w := s.place(view, subject)
	for i := range s.items {
		w.read(i)
	}
	w.setSubject()
	w.known = w.activation(0)
	return w
}

// place finds the subject's parents; no fact is read yet.
func (s *Signature) place(view *state.View, subject evidence.Subject) *weighing {
	w := &weighing{sig: s, view: view, subject: subject,
		owners: make([]evidence.Subject, len(s.chain)), found: make([]bool, len(s.chain)),
		facts: make([]state.Fact, len(s.items)), vars: make(map[string]any, 4)}
	w.owners[0], w.found[0] = subject, true
	for d := 1; d < len(s.chain); d++ {
		switch {
		case s.chain[d] == evidence.SubjectNode:
			w.owners[d], w.found[d] = evidence.Node(), true
		case w.found[d-1]:
			w.owners[d], w.found[d] = view.Parent(w.owners[d-1], s.chain[d])
		}
	}
	return w
}

func (w *weighing) read(i int) {
	item := &w.sig.items[i]
	w.facts[i] = w.fact(item)
	if w.facts[i].Status == state.Value {
		w.set(item.probe, item.field, w.facts[i].Value)
	}
}

func (w *weighing) set(variable, field string, value any) {
	m, ok := w.vars[variable].(map[string]any)
	if !ok {
		m = make(map[string]any, 8)
		w.vars[variable] = m
	}
	m[field] = value
}

func (w *weighing) setSubject() {
	parent := ""
	if len(w.owners) > 1 && w.found[1] {
		parent = w.owners[1].Name
	}
	w.vars[subjectVariable] = map[string]any{
		"kind": w.subject.Kind, "key": w.subject.Key, "name": clip(w.subject.Name), "parent": clip(parent),
		"pod": w.subject.PodUID, "node": w.view.Node.Name, "zone": w.view.Node.Zone,
	}
}

// fact reads an item; what CEL could misread is unknown. NaN compares as false
// with everything, which would look healthy.
func (w *weighing) fact(item *boundItem) state.Fact {
	if !w.found[item.depth] {
		return state.Fact{Reason: evidence.Blind, Detail: fmt.Sprintf("the %s that this %s belongs to is not reported", item.info.Subject, w.subject.Kind)}
	}
	owner := w.owners[item.depth]
	f := w.view.Fact(owner.Kind, owner.Key, item.info.ID)
	if f.Status != state.Value {
		f.Value = nil
		return f
	}
	ok := false
	switch v := f.Value.(type) {
	case int64:
		ok = item.info.Type == evidence.TypeInteger
	case float64:
		ok = item.info.Type == evidence.TypeNumber && !math.IsNaN(v) && !math.IsInf(v, 0)
	case bool:
		ok = item.info.Type == evidence.TypeFlag
	case string:
		ok = item.info.Type == evidence.TypeText
		f.Value = clip(v)
	}
	if !ok {
		return state.Fact{Reason: evidence.Failed, Detail: fmt.Sprintf("the reported value %v is no %s", f.Value, item.info.Type), Rung: f.Rung, ObservedAt: f.ObservedAt}
	}
	return f
}

// factWithin is the fact as a clause with a window sees it.
func (w *weighing) factWithin(i int, window time.Duration) state.Fact {
	f := w.facts[i]
	if age := w.view.At.Sub(f.ObservedAt); window > 0 && f.Status != state.Unknown && age > window {
		return state.Fact{Reason: evidence.Stale, Detail: fmt.Sprintf("%s old, the window is %s", age.Round(time.Second), window), Rung: f.Rung, ObservedAt: f.ObservedAt}
	}
	return f
}

func (w *weighing) activation(window time.Duration) cel.Activation {
	var unknown []*cel.AttributePatternType
	for i := range w.sig.items {
		if w.factWithin(i, window).Status != state.Value {
			unknown = append(unknown, w.sig.items[i].pattern)
		}
	}
	// PartialVars fails only on a type that is no map; this is one.
	vars, err := cel.PartialVars(w.vars, unknown...)
	if err != nil {
		return cel.NoVars()
	}
	return vars
}

// An outcome is what an expression came to.
type outcome struct {
	truth  Truth
	value  any
	reads  []Reading
	steps  []Step
	detail string
}

// decide evaluates an expression. Not applicable is decided before CEL is asked.
func (w *weighing) decide(x *expression, window time.Duration) outcome {
	var out outcome
	if x == nil {
		return out
	}
	var missing, none []string
	out.reads = make([]Reading, 0, len(x.items))
	for _, i := range x.items {
		item := &w.sig.items[i]
		r := Reading{Item: item.info, Subject: w.owners[item.depth], Fact: w.factWithin(i, window)}
		out.reads = append(out.reads, r)
		switch r.Fact.Status {
		case state.Unknown:
			missing = append(missing, describe(r))
		case state.NotApplicable:
			none = append(none, describe(r))
		}
	}
	if len(none) > 0 {
		out.truth, out.detail = TruthNotApplicable, strings.Join(none, "; ")
		return out
	}
	activation := w.known
	if window > 0 {
		activation = w.activation(window)
	}
	val, details, err := x.program.Eval(activation)
	if len(x.steps) > 0 && details != nil {
		for _, s := range x.steps {
			if v, ok := details.State().Value(s.id); ok {
				if value, ok := stepValue(v); ok {
					out.steps = append(out.steps, Step{Expression: s.text, Value: value})
				}
			}
		}
	}
	switch {
	case err != nil:
		out.detail = "cannot be computed: " + oneLine(err.Error())
	case types.IsUnknown(val):
		out.detail = strings.Join(missing, "; ")
	default:
		v, ok := stepValue(val)
		if !ok {
			out.detail = fmt.Sprintf("cannot be shown: the expression gives %s", val.Type().TypeName())
			return out
		}
		out.value, out.truth = v, True
		if b, is := v.(bool); is && !b {
			out.truth = False
		}
	}
	return out
}

// render writes a sentence. What is unknown prints as "unknown".
func (w *weighing) render(t template) string {
	if len(t) == 0 {
		return ""
	}
	var b strings.Builder
	for _, s := range t {
		switch {
		case s.expr == nil:
			b.WriteString(s.literal)
		case s.expr.item >= 0:
			b.WriteString(formatFact(w.facts[s.expr.item], s.expr.unit))
		default:
			o := w.decide(s.expr, 0)
			switch {
			case o.truth == TruthNotApplicable:
				b.WriteString("not applicable")
			case o.value == nil:
				b.WriteString("unknown")
			default:
				b.WriteString(formatValue(o.value, s.expr.unit))
			}
		}
	}
	return strings.TrimSpace(b.String())
}

// sentence is a rendered template on one line.
func (w *weighing) sentence(t template) string { return oneLine(w.render(t)) }

func formatFact(f state.Fact, unit string) string {
	switch f.Status {
	case state.Value:
		return formatValue(f.Value, unit)
	case state.NotApplicable:
		return "not applicable"
	}
	return "unknown"
}

// describe says in what state an item is that has no value.
func describe(r Reading) string {
	word := "is unknown"
	if r.Fact.Status == state.NotApplicable {
		word = "is not applicable"
	} else if reason := reasonWord(r.Fact); reason != "" {
		word += " (" + reason + ")"
	}
	if d := cleanText(oneLine(r.Fact.Detail)); d != "" {
		word += ": " + d
	}
	return r.Item.Name + " " + word
}

func reasonWord(f state.Fact) string {
	if f.Reason == 0 {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(f.Reason.String(), "_", " "))
}
