// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"

	"github.com/plumb-dev/plumb/evidence"
)

// Limits of expressions. Cost is in CEL's units: about one per operation.
const (
	// maxClauseCost is for when, clauses and refuters. A comparison of scalars
	// costs about 5; the dearest built-in refuter is under 20.
	maxClauseCost = 50
	// maxTemplateCost is for one {expression} of a sentence, which is evaluated
	// only when it is shown and may choose between texts.
	maxTemplateCost = 250
	// runtimeCostLimit stops a user's expression whose estimate was wrong.
	runtimeCostLimit   = 1000
	maxExpressionRunes = 2000
	maxExpressionDepth = 40
	// maxTextRunes is how much of a text item an expression sees.
	maxTextRunes = 256
)

// refusedFunctions would undo the types or loop over lists.
var refusedFunctions = map[string]string{
	"has": "an item that is missing is unknown already", "all": "macros over lists are refused", "exists": "macros over lists are refused",
	"exists_one": "macros over lists are refused", "existsOne": "macros over lists are refused", "map": "macros over lists are refused",
	"filter": "macros over lists are refused", "dyn": "it would undo the types of the catalogue", "type": "types are known from the catalogue",
}

// An expression is compiled CEL over the items of one subject and its parents.
type expression struct {
	program cel.Program
	// items are indexes into the signature's items, in the order of reading.
	items []int
	// whenTrue and whenFalse are the items without which the expression cannot
	// have that value: an item behind || or ?: may be absorbed.
	whenTrue, whenFalse map[int]bool
	// steps are the sub-expressions whose values are worth showing.
	steps []stepInfo
	// readsSubject is set when the value depends on which subject it is.
	readsSubject bool
	// item is the index of the item that the whole expression is, else -1.
	item int
	// unit is the unit of the value as far as it can be inferred.
	unit string
}

type stepInfo struct {
	id   int64
	text string
}

// A compiler compiles the expressions of one signature and collects the items
// that they read.
type compiler struct {
	env     *cel.Env
	catalog *evidence.Catalog
	src     *source
	// chain is the kind of the subject and its parents' kinds, up to the node.
	chain []string
	// limited adds the run-time cost limit.
	limited bool

	items []evidence.ItemInfo
	index map[uint32]int
}

// compile compiles the part of a scalar that begins at a rune offset. It
// returns nil after recording a problem.
func (c *compiler) compile(at text, offset int, code, what string, want *cel.Type, limit uint64) *expression {
	fail := func(codeOffset int, why, mend string) {
		line, column := c.src.position(at.node, offset+codeOffset)
		c.src.failAt(line, column, what, why, mend)
	}
	parsed, issues := c.env.Parse(code)
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			fail(runeOffset(code, e.Location.Line(), e.Location.Column()), celMessage(e.Message), "mend the CEL expression; docs/signatures.md shows the parts of the language that are in use")
		}
		return nil
	}
	native := parsed.NativeRep()
	place := func(e celast.Expr) int {
		l := native.SourceInfo().GetStartLocation(e.ID())
		return runeOffset(code, l.Line(), l.Column())
	}
	ok := true
	refuse := func(e celast.Expr, why, mend string) { ok = false; fail(place(e), why, mend) }
	c.screen(native.Expr(), false, refuse)
	if !ok {
		return nil
	}
	checked, issues := c.env.Check(parsed)
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			fail(runeOffset(code, e.Location.Line(), e.Location.Column()), celMessage(e.Message), "items and their types are listed in docs/evidence.md")
		}
		return nil
	}
	if want != nil && !checked.OutputType().IsExactType(want) {
		fail(0, fmt.Sprintf("the expression gives %s, not %s", checked.OutputType(), want), "compare or convert, so that it gives "+want.String())
		return nil
	}
	estimate, err := c.env.EstimateCost(checked, sizes{})
	if err != nil || estimate.Max > limit {
		fail(0, fmt.Sprintf("its estimated cost is %d, the limit is %d", estimate.Max, limit), "split it into clauses or drop text operations")
		return nil
	}
	x := &expression{item: -1}
	root := checked.NativeRep().Expr()
	c.collect(root, x, refuse)
	if !ok {
		return nil
	}
	x.findSteps(root, root, checked.NativeRep().SourceInfo())
	// Tracking costs twice the evaluation, so only sums that are shown pay it.
	// Whether && goes on after a false side changes no result.
	mode := []cel.EvalOption{cel.OptPartialEval}
	if len(x.steps) > 0 {
		mode = append(mode, cel.OptTrackState, cel.OptExhaustiveEval)
	}
	options := []cel.ProgramOption{cel.EvalOptions(mode...)}
	if c.limited {
		options = append(options, cel.CostLimit(runtimeCostLimit))
	}
	x.program, err = c.env.Program(checked, options...)
	if err != nil {
		fail(0, err.Error(), "mend the CEL expression")
		return nil
	}
	x.whenTrue, x.whenFalse = c.needed(root, true), c.needed(root, false)
	x.unit = c.unit(root)
	if i, is := c.itemOf(root); is {
		x.item = i
	}
	return x
}

// screen refuses what the type checker would let pass or explain badly.
func (c *compiler) screen(e celast.Expr, selected bool, refuse func(celast.Expr, string, string)) {
	switch e.Kind() {
	case celast.IdentKind:
		if !selected && c.isVariable(e.AsIdent()) {
			refuse(e, fmt.Sprintf("%q is a probe and not an item", e.AsIdent()), "write "+e.AsIdent()+".<item>")
		}
	case celast.SelectKind:
		c.screen(e.AsSelect().Operand(), true, refuse)
	case celast.CallKind:
		call := e.AsCall()
		if why, refused := refusedFunctions[call.FunctionName()]; refused {
			refuse(e, call.FunctionName()+"() is not allowed: "+why, "write one clause for one thing; each names the kind of subject it is evaluated on")
			return
		}
		if call.IsMemberFunction() {
			c.screen(call.Target(), false, refuse)
		}
		for _, a := range call.Args() {
			c.screen(a, false, refuse)
		}
	case celast.ListKind:
		for _, a := range e.AsList().Elements() {
			c.screen(a, false, refuse)
		}
	case celast.MapKind, celast.StructKind, celast.ComprehensionKind:
		refuse(e, "maps, messages and comprehensions are not allowed", "compare items with items or constants")
	}
}

func (c *compiler) isVariable(name string) bool {
	if name == subjectVariable {
		return true
	}
	for _, item := range c.catalog.Items() {
		if item.Probe() == name {
			return true
		}
	}
	return false
}

// itemOf resolves probe.field to an index in c.items.
func (c *compiler) itemOf(e celast.Expr) (int, bool) {
	info, ok := c.lookup(e)
	if !ok {
		return 0, false
	}
	i, ok := c.index[info.ID]
	return i, ok
}

func (c *compiler) lookup(e celast.Expr) (evidence.ItemInfo, bool) {
	if e.Kind() != celast.SelectKind || e.AsSelect().Operand().Kind() != celast.IdentKind {
		return evidence.ItemInfo{}, false
	}
	return c.catalog.ByName(e.AsSelect().Operand().AsIdent() + "." + e.AsSelect().FieldName())
}

// add gives an item its index, or says that its subject cannot be reached.
func (c *compiler) add(info evidence.ItemInfo) (int, error) {
	if i, ok := c.index[info.ID]; ok {
		return i, nil
	}
	for _, kind := range c.chain {
		if kind == info.Subject {
			i := len(c.items)
			c.items = append(c.items, info)
			c.index[info.ID] = i
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s is an item of a %s, and a %s has none", info.Name, info.Subject, c.chain[0])
}

func (c *compiler) collect(e celast.Expr, x *expression, refuse func(celast.Expr, string, string)) {
	if info, ok := c.lookup(e); ok {
		i, err := c.add(info)
		if err != nil {
			refuse(e, err.Error(), "read items of "+strings.Join(c.chain, ", ")+", or weigh the signature on each "+info.Subject)
			return
		}
		for _, have := range x.items {
			if have == i {
				return
			}
		}
		x.items = append(x.items, i)
		return
	}
	if e.Kind() == celast.IdentKind && e.AsIdent() == subjectVariable {
		x.readsSubject = true
	}
	for _, child := range children(e) {
		c.collect(child, x, refuse)
	}
}

func children(e celast.Expr) []celast.Expr {
	switch e.Kind() {
	case celast.SelectKind:
		return []celast.Expr{e.AsSelect().Operand()}
	case celast.ListKind:
		return e.AsList().Elements()
	case celast.CallKind:
		if e.AsCall().IsMemberFunction() {
			return append([]celast.Expr{e.AsCall().Target()}, e.AsCall().Args()...)
		}
		return e.AsCall().Args()
	}
	return nil
}

// needed are the items without which e cannot be decided as want. It follows
// CEL: && and || absorb an unknown side, everything else is strict.
func (c *compiler) needed(e celast.Expr, want bool) map[int]bool {
	if i, ok := c.itemOf(e); ok {
		return map[int]bool{i: true}
	}
	if e.Kind() == celast.CallKind {
		args := e.AsCall().Args()
		switch e.AsCall().FunctionName() {
		case operators.LogicalNot:
			return c.needed(args[0], !want)
		case operators.LogicalAnd, operators.LogicalOr:
			each := make([]map[int]bool, len(args))
			for i := range args {
				each[i] = c.needed(args[i], want)
			}
			if (e.AsCall().FunctionName() == operators.LogicalAnd) == want {
				return union(each...)
			}
			return intersection(each...)
		case operators.Conditional:
			either := intersection(c.needed(args[1], want), c.needed(args[2], want))
			return union(c.decided(args[0]), either)
		}
	}
	out := map[int]bool{}
	for _, child := range children(e) {
		out = union(out, c.decided(child))
	}
	return out
}

// decided are the items without which e has no value at all.
func (c *compiler) decided(e celast.Expr) map[int]bool {
	return intersection(c.needed(e, true), c.needed(e, false))
}

func union(sets ...map[int]bool) map[int]bool {
	out := map[int]bool{}
	for _, s := range sets {
		for i := range s {
			out[i] = true
		}
	}
	return out
}

func intersection(sets ...map[int]bool) map[int]bool {
	out := map[int]bool{}
	for i := range sets[0] {
		in := true
		for _, s := range sets[1:] {
			in = in && s[i]
		}
		if in {
			out[i] = true
		}
	}
	return out
}

// unit infers the unit of a value: sums and differences keep it, as do abs()
// and a choice between two values of one unit.
func (c *compiler) unit(e celast.Expr) string {
	if info, ok := c.lookup(e); ok {
		return info.Unit
	}
	if e.Kind() != celast.CallKind {
		return ""
	}
	args := e.AsCall().Args()
	switch e.AsCall().FunctionName() {
	case operators.Add, operators.Subtract:
		if a, b := c.unit(args[0]), c.unit(args[1]); a == b {
			return a
		}
	case operators.Conditional:
		if a, b := c.unit(args[1]), c.unit(args[2]); a == b {
			return a
		}
	case operators.Negate, "abs":
		return c.unit(args[0])
	}
	return ""
}

// findSteps keeps the arithmetic: the sums that a person would want to see.
func (x *expression) findSteps(e, root celast.Expr, info *celast.SourceInfo) {
	if e.Kind() == celast.CallKind && e.ID() != root.ID() {
		switch e.AsCall().FunctionName() {
		case operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, "abs":
			if s, err := cel.ExprToString(e, info); err == nil {
				x.steps = append(x.steps, stepInfo{id: e.ID(), text: s})
			}
		}
	}
	for _, child := range children(e) {
		x.findSteps(child, root, info)
	}
}

func celMessage(m string) string {
	m, _, _ = strings.Cut(m, "\n")
	m = strings.TrimPrefix(m, "Syntax error: ")
	return strings.ReplaceAll(m, typePrefix, "")
}

// stepValue turns a CEL value into a Go value for display; false when it has
// none.
func stepValue(v any) (any, bool) {
	switch t := v.(type) {
	case types.Int:
		return int64(t), true
	case types.Double:
		return float64(t), true
	case types.Bool:
		return bool(t), true
	case types.String:
		return string(t), true
	}
	return nil, false
}
