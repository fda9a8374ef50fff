// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"go.yaml.in/yaml/v3"

	"github.com/plumb-dev/plumb/evidence"
)

const (
	apiVersion = "plumb.dev/v1alpha1"
	kindName   = "FailureSignature"
	// maxBans caps one weight: no single clause makes more than 100:1.
	maxBans = 2
	// maxBuiltinKeepFiring is how long a built-in verdict may outlive its cause.
	maxBuiltinKeepFiring = 30 * time.Second
	// maxItems bounds what one signature reads, and with it one weighing.
	maxItems = 64
)

var (
	signatureID = regexp.MustCompile(`^[a-z][a-z0-9-]*/[a-z0-9][a-z0-9-]*$`)
	localID     = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	metaName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
)

// A builder turns one file into a Signature.
type builder struct {
	*compiler
	sig *Signature
	// where clauses and refuters stand, by id; one space of names.
	ids    map[string]*yaml.Node
	byID   map[string]int
	strict bool
}

func (b *builder) build(root *yaml.Node) {
	top, ok := b.src.object(root, "signature", "apiVersion", "kind", "metadata", "spec")
	if !ok {
		return
	}
	if t := top.required("apiVersion", "write apiVersion: "+apiVersion); t.node != nil && t.value != apiVersion {
		b.src.fail(t.node, "apiVersion is "+t.value, "this build reads "+apiVersion, "write apiVersion: "+apiVersion)
	}
	if t := top.required("kind", "write kind: "+kindName); t.node != nil && t.value != kindName {
		b.src.fail(t.node, "kind is "+t.value, "this file should hold a "+kindName, "write kind: "+kindName)
	}
	if top.need("metadata", "write metadata: {name: my-signature}") {
		if meta, ok := b.src.object(top.keys["metadata"], "metadata", "name"); ok {
			if t := meta.required("name", "write a name such as mtu-overlay-mismatch"); t.node != nil && !metaName.MatchString(t.value) {
				b.src.fail(t.node, fmt.Sprintf("name %q is not a DNS name", t.value), "lower-case letters, digits, - and . are allowed", "rename it")
			}
		}
	}
	if !top.need("spec", "write the signature under spec:") {
		return
	}
	spec, ok := b.src.object(top.keys["spec"], "spec", "id", "title", "severity", "symptom", "scope", "each", "when", "evidence",
		"families", "proof", "noProof", "refuters", "consequences", "for", "keepFiringFor", "rungCaps", "zone", "absence", "summary", "mitigation", "tests")
	if !ok {
		return
	}
	b.head(spec)
	if b.chain == nil {
		return
	}
	if t := spec.text("when"); t.node != nil {
		b.sig.when = b.compile(t, 0, t.value, "when", cel.BoolType, maxClauseCost)
	}
	b.evidence(spec)
	b.familiesOf(spec)
	b.proof(spec)
	b.refutersOf(spec)
	b.rungCapsOf(spec)
	b.sig.summary = b.template(spec.required("summary", "write one sentence: what is wrong, where"), "summary")
	b.sig.mitigation = b.template(spec.required("mitigation", "write what to do, with commands and numbers"), "mitigation")
	b.tail(spec)
	if len(b.items) > maxItems {
		b.src.fail(spec.node, fmt.Sprintf("the signature reads %d items", len(b.items)), fmt.Sprintf("the limit is %d", maxItems), "split it into two signatures")
	}
	b.testsOf(spec)
}

func (b *builder) head(spec object) {
	s := b.sig
	if t := spec.required("id", "write id: loop/name"); t.node != nil {
		if !signatureID.MatchString(t.value) {
			b.src.fail(t.node, fmt.Sprintf("id %q is not loop/name", t.value), "verdicts and consequences name it so", "write for example network/my-signature")
		}
		s.ID = t.value
		s.Loop, _, _ = strings.Cut(t.value, "/")
	}
	s.Title = spec.required("title", "write a title of a few words").value
	s.Symptom = spec.required("symptom", "write what a person sees before knowing the cause").value
	s.Severity = b.oneOf(spec, "severity", "info", "warning", "critical")
	s.Scope = b.oneOf(spec, "scope", "Node", "Device", "Pod")
	s.For, s.KeepFiringFor = spec.duration("for"), spec.duration("keepFiringFor")
	if b.strict && s.KeepFiringFor > maxBuiltinKeepFiring {
		b.src.fail(spec.keys["keepFiringFor"], "keepFiringFor is "+s.KeepFiringFor.String(), "a built-in verdict must clear by itself within "+maxBuiltinKeepFiring.String(), "write 30s or less")
	}
	t := spec.required("each", "name the kind of subject that it is weighed on, such as node or device")
	if t.node == nil {
		return
	}
	s.Each = t.value
	var chain []string
	for kind := t.value; kind != ""; {
		info, ok := b.catalog.Subject(kind)
		if !ok || len(chain) > maxDepth {
			b.src.fail(t.node, fmt.Sprintf("each names no kind of subject: %q", t.value), "kinds come from the catalogue", "see the subjects in docs/evidence.md")
			return
		}
		chain = append(chain, kind)
		kind = info.Parent
	}
	if s.Scope == "Device" && !slices.Contains(chain, evidence.SubjectDevice) {
		b.src.fail(t.node, "scope Device is weighed on each "+t.value, "a "+t.value+" belongs to no device", "use scope: Node, or each: device")
	}
	b.chain, s.chain = chain, chain
}

func (b *builder) oneOf(o object, key string, words ...string) string {
	t := o.required(key, "write one of "+strings.Join(words, ", "))
	if t.node != nil && !slices.Contains(words, t.value) {
		b.src.fail(t.node, fmt.Sprintf("%s is %q", key, t.value), "there is no such "+key, "write one of "+strings.Join(words, ", "))
	}
	return t.value
}

// claimID reads the id of a clause or refuter and keeps it unique in the file.
func (b *builder) claimID(o object) (string, bool) {
	t := o.required("id", "give it a short id such as oversize_drops")
	if t.node == nil {
		return "", false
	}
	if !localID.MatchString(t.value) {
		b.src.fail(t.node, fmt.Sprintf("id %q is malformed", t.value), "it is lower-case letters, digits and _", "rename it")
		return "", false
	}
	if first, twice := b.ids[t.value]; twice {
		b.src.fail(t.node, fmt.Sprintf("id %q is used twice", t.value), fmt.Sprintf("line %d has it already", first.Line), "rename one")
		return "", false
	}
	b.ids[t.value] = t.node
	return t.value, true
}

func (b *builder) evidence(spec object) {
	if !spec.need("evidence", "list the evidence for and against") {
		return
	}
	list := spec.list("evidence")
	if len(list) == 0 {
		b.src.fail(spec.keys["evidence"], "evidence is empty", "nothing could speak for the cause", "list at least one clause")
	}
	for _, n := range list {
		o, ok := b.src.object(n, "evidence clause", "id", "expr", "bans", "required", "claim", "otherwise", "window")
		if !ok {
			continue
		}
		id, named := b.claimID(o)
		c := clause{id: id, required: o.flag("required"), window: o.duration("window"), family: -1}
		c.expr = b.boolean(o, "clause "+id)
		c.claim = b.template(o.required("claim", "write the sentence, with numbers, that holds when the clause is true"), "claim of "+id)
		c.otherwise = b.template(o.text("otherwise"), "otherwise of "+id)
		if o.need("bans", "write the weight in bans, −2 to 2") {
			bans, ok := o.number("bans")
			if ok && (bans == 0 || math.Abs(bans) > maxBans || math.IsNaN(bans)) {
				b.src.fail(o.keys["bans"], fmt.Sprintf("bans is %v", bans), "a weight lies within −2 and 2 and is not 0: a clause without weight is no evidence", "give it a weight or remove the clause")
			}
			c.bans = bans
		}
		if c.expr != nil {
			c.kinds = b.kindsOf(c.expr.items)
		}
		if named {
			b.byID[id] = len(b.sig.clauses)
			b.sig.clauses = append(b.sig.clauses, c)
		}
	}
}

// boolean compiles the expr of a clause or refuter, which reads at least one
// item: what reads nothing measures nothing.
func (b *builder) boolean(o object, what string) *expression {
	t := o.required("expr", "write a CEL expression over catalogued items")
	if t.node == nil {
		return nil
	}
	x := b.compile(t, 0, t.value, what, cel.BoolType, maxClauseCost)
	if x != nil && len(x.items) == 0 {
		b.src.fail(t.node, what+" reads no item", "what reads nothing measures nothing", "compare a catalogued item, see docs/evidence.md")
	}
	return x
}

func (b *builder) kindsOf(items []int) []string {
	var out []string
	for _, i := range items {
		if k := b.items[i].Kind; !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func (b *builder) clauseIndex(t text, where string) (int, bool) {
	i, ok := b.byID[t.value]
	if !ok {
		b.src.fail(t.node, fmt.Sprintf("%s names an unknown clause %q", where, t.value), "evidence has no clause of that id", "use an id of evidence")
	}
	return i, ok
}

func (b *builder) familiesOf(spec object) {
	for _, n := range spec.list("families") {
		r := resolve(n)
		if r.Kind != yaml.SequenceNode || len(r.Content) < 2 {
			b.src.fail(n, "family is not a list of two or more ids", "of correlated clauses the strongest counts once", "write [a, b]")
			continue
		}
		var family []int
		for _, m := range r.Content {
			t := b.src.text(m, "entry of a family")
			if t.node == nil {
				continue
			}
			i, ok := b.clauseIndex(t, "family")
			if !ok {
				continue
			}
			if b.sig.clauses[i].family >= 0 {
				b.src.fail(m, fmt.Sprintf("clause %q is in two families", t.value), "then it is not clear what it counts against", "merge the families")
				continue
			}
			b.sig.clauses[i].family = len(b.sig.families)
			family = append(family, i)
		}
		b.sig.families = append(b.sig.families, family)
	}
}

func (b *builder) proof(spec object) {
	b.sig.NoProof = spec.text("noProof").value
	list := spec.list("proof")
	switch {
	case len(list) == 0 && b.sig.NoProof == "":
		b.src.fail(spec.node, "neither proof nor noProof", "a signature says what proves it, or why nothing can", "add a proof set, or noProof: <why none can exist>")
	case len(list) > 0 && b.sig.NoProof != "":
		b.src.fail(spec.keys["noProof"], "both proof and noProof", "they contradict each other", "remove one")
	}
	seen := map[string]bool{}
	for _, n := range list {
		o, ok := b.src.object(n, "proof set", "name", "all", "soleKind", "sources")
		if !ok {
			continue
		}
		name := o.required("name", "give the set a short name")
		if seen[name.value] && name.node != nil {
			b.src.fail(name.node, fmt.Sprintf("proof set %q appears twice", name.value), "a verdict names the set that proves it", "rename one")
		}
		seen[name.value] = true
		p := proofSet{name: name.value, sources: -1, soleKind: o.text("soleKind").value}
		good := o.need("all", "list the ids of the clauses that make the proof")
		for _, t := range o.texts("all") {
			i, ok := b.clauseIndex(t, "proof set")
			good = good && ok
			if ok && b.sig.clauses[i].bans < 0 {
				b.src.fail(t.node, fmt.Sprintf("proof set holds %q, which speaks against", t.value), "its bans are negative", "use clauses with positive bans")
			}
			p.clauses = append(p.clauses, i)
		}
		if t := o.text("sources"); t.node != nil {
			p.sources = b.sources(t)
			good = good && p.sources >= 0
		}
		if good {
			b.independent(n, p)
			b.sig.proofs = append(b.sig.proofs, p)
		}
	}
}

func (b *builder) sources(t text) int {
	info, ok := b.catalog.ByName(t.value)
	if !ok || !info.Sources {
		b.src.fail(t.node, fmt.Sprintf("sources names %q", t.value), "the catalogue does not mark it as a count of independent sources", "name an item with sources: true, or use clauses of two kinds")
		return -1
	}
	i, err := b.add(info)
	if err != nil {
		b.src.fail(t.node, "sources cannot be read", err.Error(), "name an item of "+strings.Join(b.chain, ", "))
		return -1
	}
	return i
}

// independent holds a proof set to two independent measurements. Only items
// without which a clause cannot be true count; a time daemon's word about
// itself (clock discipline) is a claim and no measurement.
func (b *builder) independent(n *yaml.Node, p proofSet) {
	if len(p.clauses) == 0 {
		b.src.fail(n, "proof set is empty", "nothing would prove it", "list clauses under all:")
		return
	}
	if p.sources >= 0 || p.soleKind != "" {
		return
	}
	var items []int
	for _, i := range p.clauses {
		if b.sig.clauses[i].expr == nil {
			return
		}
		for item := range b.sig.clauses[i].expr.whenTrue {
			items = append(items, item)
		}
	}
	kinds := slices.DeleteFunc(b.kindsOf(items), func(k string) bool { return k == evidence.KindClockDiscipline })
	if len(kinds) < 2 {
		why := "it rests on no measurement"
		if len(kinds) == 1 {
			why = "all of it is " + kinds[0]
		}
		b.src.fail(n, fmt.Sprintf("proof set %q has fewer than two independent measurements", p.name), why,
			"add a clause of another kind, name a count of independent sources (sources:), or say why one kind is the mechanism itself (soleKind:)")
	}
}
