// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why ID|NODE",
		Short: "Argue a verdict, or everything weighed on a node",
		Long: `Argue a verdict as a person would: what is wrong, where, and how sure; what was
seen, where, when, by which hook, and how exactly; which measurements decide;
what it is not, and why not; what could not be seen; what follows from it; what
to do.

For a node: the verdicts on it, the worst argued in full, then every signature
weighed on it: accused, exonerated, or cannot say, each with its sentence; then
what its probes can and cannot see.

The start of an id is enough (at least six characters).

Exit status 1 when a proven verdict of those shown is firing.`,
		Example: `  {plumb} why 3f9a2c
  {plumb} why node-7
  {plumb} why 3f9a2c --json | jq '.proof[] | select(.decisive) | .claim'`,
		Args:              exactly(1, "the id of a verdict or the name of a node"),
		ValidArgsFunction: a.completeNodesAndVerdicts,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.close()
			return a.why(cmd.Context(), c, args[0])
		},
	}
}

// why takes a node's name first: people choose names, nobody chooses an id.
func (a *app) why(ctx context.Context, c *client, what string) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes.GetNodes() {
		if n.GetName() == what {
			return a.whyNode(ctx, c, what)
		}
	}
	res, err := ask(ctx, c, c.rpc.GetVerdict, &apiv1.GetVerdictRequest{Id: what})
	if notFound(err) {
		return fmt.Errorf("find %q: no verdict has this id and no node this name (nodes: %s); see %s verdicts --all and %s nodes",
			what, nodeNames(nodes.GetNodes()), a.name, a.name)
	}
	if err != nil {
		return err
	}
	v := res.GetVerdict()
	if a.json {
		if err := writeJSON(a.Stdout, v); err != nil {
			return err
		}
		return statusOf([]*apiv1.Verdict{v})
	}
	all, err := c.verdicts(ctx, &apiv1.ListVerdictsRequest{IncludeResolved: true})
	if err != nil {
		return err
	}
	p := a.printer()
	p.argue(a.name, v, all.GetVerdicts())
	return cmpErr(p.err, statusOf([]*apiv1.Verdict{v}))
}

// checkNode refuses a name that no node has, for the API answers it with an
// empty list, which would look healthy.
func (c *client) checkNode(ctx context.Context, name, program string) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes.GetNodes() {
		if n.GetName() == name {
			return nil
		}
	}
	return fmt.Errorf("find node %q: the aggregator knows no node of this name (nodes: %s); see %s nodes", name, nodeNames(nodes.GetNodes()), program)
}

// nodeNames lists a few, for an error must stay one readable line.
func nodeNames(nodes []*apiv1.Node) string {
	const most = 5
	var names []string
	for _, n := range nodes {
		names = append(names, n.GetName())
	}
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	default:
		return strings.Join(names, ", ")
	}
}

// argue prints the whole proof chain of one verdict.
func (p *printer) argue(program string, v *apiv1.Verdict, all []*apiv1.Verdict) {
	p.headline(v)
	p.standing(v)
	if s := sentence(v.GetSummary()); s != "" {
		p.blank()
		p.para(text(""), 0, text(s))
	}
	if reason := v.GetReason(); reason != "" {
		label := "Not proven: "
		reason = strings.TrimPrefix(reason, "not proven: ")
		switch {
		case v.GetGrade() == "refuted":
			label = "Refuted: "
		case v.GetState() == "stale":
			label = "Stale: "
		case v.GetGrade() == "proven":
			label = "Note: "
		}
		p.blank()
		p.para(text(""), 0, span{label, strong}, text(sentence(compact(reason))))
	}
	p.unsaved(v)
	p.seen(v)
	p.sure(v)
	if len(v.GetRefuted()) > 0 {
		p.heading("What it is not")
		for _, r := range v.GetRefuted() {
			p.para(span{"  ✗", good}, 4, span{r.GetSignature(), strong}, text(": "), text(sentence(r.GetBecause())))
		}
	}
	p.unseen(v.GetUnknown())
	p.consequences(program, v, all)
	if strings.TrimSpace(v.GetMitigation()) != "" {
		p.heading("What to do")
		p.mitigation(v.GetMitigation())
	}
}

// headline is what is wrong, where, how sure.
func (p *printer) headline(v *apiv1.Verdict) {
	title := v.GetTitle()
	if title == "" {
		title = v.GetSignature()
	}
	word := v.GetGrade()
	if v.GetState() == "stale" || v.GetState() == "resolved" || v.GetState() == "pending" {
		word += ", " + v.GetState()
	}
	p.para(text(""), 0,
		span{strings.ToUpper(word), gradeStyle(v.GetGrade(), v.GetState())}, text(": "),
		span{strings.TrimRight(title, "."), strong}, text(" — "), span{where(v.GetScope()), strong})
}

// standing is since when, how bad, and the id.
func (p *printer) standing(v *apiv1.Verdict) {
	var facts []string
	switch {
	case v.GetResolvedAt() != nil && v.GetState() == "resolved":
		facts = append(facts, "stood from "+p.clock(v.GetOnset())+" to "+p.when(v.GetResolvedAt()))
	case v.GetOnset() != nil:
		facts = append(facts, v.GetState()+" since "+p.when(v.GetOnset()))
	default:
		facts = append(facts, v.GetState())
	}
	if v.GetUpdatedAt() != nil && v.GetState() != "resolved" {
		facts = append(facts, "confirmed "+p.age(v.GetUpdatedAt()))
	}
	facts = appendText(facts, "", v.GetSeverity())
	facts = append(facts, v.GetSignature(), "id\u00a0"+v.GetId())
	p.para(text(""), 0, span{strings.Join(facts, dot), faint})
}

// unsaved warns that a restart of the aggregator would forget this state.
func (p *printer) unsaved(v *apiv1.Verdict) {
	if v.GetJournalError() != "" {
		p.blank()
		p.para(text(""), 0, span{"Not durable yet: ", blind}, text(sentence(v.GetJournalError())))
	}
}

// sure says on what the grade rests.
func (p *printer) sure(v *apiv1.Verdict) {
	var parts []string
	if v.GetProofSet() != "" {
		kinds := make(map[string]bool)
		decisive := 0
		for _, pr := range v.GetProof() {
			if pr.GetDecisive() {
				decisive++
				for k := range strings.SplitSeq(pr.GetKind(), ",") {
					kinds[strings.TrimSpace(k)] = true
				}
			}
		}
		s := "Proven by the set " + v.GetProofSet()
		if decisive > 0 {
			s += ", which is complete: " + count(decisive, "measurement", "measurements") + " (●) of " +
				count(len(kinds), "kind", "kinds") + ", " + list(slices.Sorted(maps.Keys(kinds)))
		}
		parts = append(parts, s+".")
	}
	if v.GetBans() != 0 {
		parts = append(parts, "The weight of all is "+odds(v.GetBans())+".")
	}
	var path []string
	for _, grade := range []string{"suspected", "likely", "proven"} {
		if at := v.GetGradedAt()[grade]; at != nil {
			path = append(path, grade+" at "+p.clock(at))
		}
	}
	if len(path) > 0 {
		parts = append(parts, "It was "+list(path)+".")
	}
	if len(parts) > 0 {
		p.heading("How sure")
		p.para(text("  "), 2, text(strings.Join(parts, " ")))
	}
}

// seen prints the measurements: the decisive ones first, then by weight.
func (p *printer) seen(v *apiv1.Verdict) {
	if len(v.GetProof()) == 0 {
		return
	}
	p.heading("What was seen")
	proofs := slices.Clone(v.GetProof())
	slices.SortStableFunc(proofs, func(a, b *apiv1.Proof) int {
		switch {
		case a.GetDecisive() != b.GetDecisive():
			if a.GetDecisive() {
				return -1
			}
			return 1
		case a.GetBans() > b.GetBans():
			return -1
		case a.GetBans() < b.GetBans():
			return 1
		default:
			return 0
		}
	})
	for _, pr := range proofs {
		p.proof(pr)
	}
}

func (p *printer) proof(pr *apiv1.Proof) {
	mark := span{"  ○", plain}
	if pr.GetDecisive() {
		mark = span{"  ●", bad}
	}
	claim := pr.GetClaim()
	if claim == "" {
		claim = pr.GetEvidence()
	}
	p.para(mark, 4, text(sentence(claim)))
	var facts []string
	switch {
	case pr.GetDecisive():
		facts = append(facts, "decisive")
	case pr.GetBans() > 0:
		facts = append(facts, "adds "+number(pr.GetBans())+" bans")
	case pr.GetBans() < 0:
		facts = append(facts, "speaks against it, "+number(pr.GetBans())+" bans")
	}
	place := pr.GetNode()
	if s := pr.GetSubject(); s != "" && s != "node" && s != pr.GetNode() {
		place += ", " + s
	}
	facts = appendText(facts, "", pr.GetKind())
	facts = appendText(facts, "on ", place)
	facts = append(facts, p.when(pr.GetObservedAt()))
	facts = appendText(facts, "by ", pr.GetRung())
	if pr.GetUncertainty() != "" {
		facts = append(facts, pr.GetUncertainty())
	} else {
		facts = append(facts, "exact")
	}
	p.para(text(""), 4, span{strings.Join(facts, dot), faint})
	if values := structText(pr.GetValue()); values != "" {
		p.para(text(""), 4, span{values, faint})
	}
}

func appendText(facts []string, prefix, s string) []string {
	if s == "" {
		return facts
	}
	return append(facts, prefix+s)
}

// unseen prints what could not be measured, as loudly as what was. What several
// items lack for one cause is one line.
func (p *printer) unseen(unknown []*apiv1.UnknownFact) {
	if len(unknown) == 0 {
		return
	}
	p.heading("What could not be seen")
	var missing []string
	for _, u := range unknown {
		if m := unknownPart.FindStringIndex(u.GetDetail()); m != nil && m[0] == 0 {
			missing = append(missing, u.GetDetail())
			continue
		}
		what := u.GetEvidence()
		if what == "" {
			what = u.GetClause()
		}
		body := []span{text(what), text(": "), {u.GetReason(), blind}}
		if u.GetNode() != "" {
			body = append(body, text(" on "+u.GetNode()))
		}
		if u.GetDetail() != "" {
			body = append(body, text("; "+sentence(u.GetDetail())))
		}
		p.para(span{"  ?", blind}, 4, body...)
	}
	for _, line := range byCause(strings.Join(missing, "; ")) {
		p.para(span{"  ?", blind}, 4, text(sentence(line)))
	}
}

// consequences names the verdicts that this one explains.
func (p *printer) consequences(program string, v *apiv1.Verdict, all []*apiv1.Verdict) {
	if len(v.GetConsequences()) == 0 {
		return
	}
	p.heading("What follows from it")
	for _, id := range v.GetConsequences() {
		i := slices.IndexFunc(all, func(o *apiv1.Verdict) bool { return o.GetId() == id })
		if i < 0 {
			p.para(text("  →"), 4, text(id+" (no longer known)"))
			continue
		}
		o := all[i]
		p.para(text("  →"), 4,
			span{o.GetSignature(), gradeStyle(o.GetGrade(), o.GetState())},
			text(" ("+o.GetGrade()+", "+o.GetState()+") at "+where(o.GetScope())+": "+sentence(o.GetSummary())),
			span{" " + program + " why " + shortID(id), faint})
	}
}

// mitigation keeps the line breaks of its author: lines that are indented or
// begin with "$ " or "# " are commands and are printed whole, the rest is prose.
func (p *printer) mitigation(s string) {
	var prose []string
	flush := func() {
		if len(prose) > 0 {
			p.para(text("  "), 2, text(strings.Join(prose, " ")))
			prose = nil
		}
	}
	for l := range strings.SplitSeq(strings.Trim(s, "\n"), "\n") {
		switch {
		case strings.TrimSpace(l) == "":
			flush()
		case strings.HasPrefix(l, " ") || strings.HasPrefix(l, "\t") || strings.HasPrefix(l, "$ ") || strings.HasPrefix(l, "# "):
			flush()
			p.verbatim(2, strings.TrimRight(l, " \t"))
		case strings.HasPrefix(l, "- ") || strings.HasPrefix(l, "* "):
			flush()
			prose = append(prose, l)
		default:
			prose = append(prose, l)
		}
	}
	flush()
}
