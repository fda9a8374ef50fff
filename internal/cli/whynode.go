// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func (a *app) whyNode(ctx context.Context, c *client, node string) error {
	res, err := ask(ctx, c, c.rpc.ExplainNode, &apiv1.ExplainNodeRequest{Node: node})
	if err != nil {
		return err
	}
	if a.json {
		if err := writeJSON(a.Stdout, res); err != nil {
			return err
		}
		return statusOf(res.GetVerdicts())
	}
	p := a.printer()
	p.explainNode(a.name, res)
	return cmpErr(p.err, statusOf(res.GetVerdicts()))
}

// explainNode argues the worst verdict in full and names the others, then says
// what every signature came to, and what can be seen at all.
func (p *printer) explainNode(program string, res *apiv1.ExplainNodeResponse) {
	n := res.GetNode()
	p.nodeLine(n)
	p.blank()
	var standing []*apiv1.Verdict
	for _, v := range res.GetVerdicts() {
		if live(v) {
			standing = append(standing, v)
		}
	}
	groups := weigh(res.GetAssessments())
	if len(standing) == 0 {
		p.acquitted(n, groups)
	}
	rows := underCause(standing)
	if len(rows) > 0 {
		p.argue(program, rows[0].verdict, res.GetVerdicts())
		p.also(program, rows)
	}
	p.assessments("Accused", span{"  ●", bad}, groups.accused)
	p.assessments("Cannot say", span{"  ?", blind}, groups.unsaid)
	p.assessments("Exonerated", span{"  ✓", good}, groups.exonerated)
	p.probes(n)
}

// also names the verdicts beside the first, which has been argued with what
// follows from it.
func (p *printer) also(program string, rows []nested) {
	first := true
	for _, row := range rows[1:] {
		v := row.verdict
		if slices.Contains(rows[0].verdict.GetConsequences(), v.GetId()) {
			continue
		}
		if first {
			p.heading("Also on this node")
			first = false
		}
		mark := strings.Repeat("  ", row.depth+1) + "●"
		if row.depth > 0 {
			mark = strings.Repeat("  ", row.depth+1) + "→"
		}
		p.para(span{mark, gradeStyle(v.GetGrade(), v.GetState())}, width(mark)+1,
			span{v.GetGrade() + " " + v.GetSignature(), gradeStyle(v.GetGrade(), v.GetState())},
			text(" ("+v.GetState()+") at "+where(v.GetScope())+": "+sentence(v.GetSummary())),
			span{" " + program + " why " + shortID(v.GetId()), faint})
	}
}

// nodeLine is who the node is and whether it speaks to us.
func (p *printer) nodeLine(n *apiv1.Node) {
	facts := []string{}
	facts = appendText(facts, "zone ", n.GetZone())
	facts = appendText(facts, "pool ", n.GetPool())
	facts = appendText(facts, "kernel ", n.GetKernel())
	said := span{n.GetState() + ", last report " + p.age(n.GetLastBatchAt()), nodeStyle(n.GetState())}
	p.para(text(""), 0, span{"Node " + n.GetName(), strong}, text(": "), said, text("; "+strings.Join(facts, ", ")))
	switch n.GetState() {
	case "reporting":
	case "never":
		p.para(text(""), 0, span{"It has never reported: nothing below was measured.", blind})
	default:
		p.para(text(""), 0, span{"It is silent: nothing below is newer than its last report.", blind})
	}
	if n.GetDroppedEpisodes() > 0 {
		p.para(text(""), 0, span{"Its agent had to drop " + count(int(n.GetDroppedEpisodes()), "episode", "episodes") + ".", blind})
	}
	if s := n.GetTlsTimeSource(); s != "" && s != "node clock" {
		p.para(text(""), 0, span{"Its clock is too wrong for TLS: its agent verified the aggregator's certificate at the " + s +
			" time, " + number(n.GetTlsTimeCorrectionSeconds()) + " s from its own.", blind})
	}
}

// acquitted says that nothing is wrong, and how much that is worth.
func (p *printer) acquitted(n *apiv1.Node, g groups) {
	switch {
	case n.GetState() != "reporting":
		p.line(span{"plumb: nothing can be said of " + n.GetName(), blind})
		return
	case len(g.exonerated)+len(g.unsaid)+len(g.accused) == 0:
		p.line(span{"plumb: no signature was weighed on " + n.GetName(), blind})
		return
	case len(g.accused) > 0:
		p.line(span{"plumb: something points at " + n.GetName() + ", but no verdict stands", warning})
	case len(g.unsaid) > 0 || len(sight([]*apiv1.Node{n}, "").blind) > 0:
		p.line(span{"plumb: nothing that could be seen is out of true", warning})
	default:
		p.line(span{"plumb: nothing is out of true", good})
	}
	checked := count(len(g.exonerated), "signature acquits it", "signatures acquit it")
	if len(g.unsaid) > 0 {
		checked += ", " + count(len(g.unsaid), "cannot say", "cannot say")
	}
	p.para(text("checked:"), 9, text(checked+"; newest evidence "+p.age(n.GetLastBatchAt())))
}

// groups are the assessments by what they come to, one entry per signature and
// sentence.
type groups struct {
	accused, exonerated, unsaid []weighed
}

// A weighed is one signature with one outcome on one or more subjects.
type weighed struct {
	*apiv1.Assessment
	subjects []string
}

// weigh sorts assessments into groups. One signature on forty devices with the
// same outcome and sentence is one line that counts them.
func weigh(all []*apiv1.Assessment) groups {
	var g groups
	for _, a := range all {
		into := &g.unsaid // also whatever result this build does not know
		switch a.GetResult() {
		case "proven", "likely", "suspected":
			into = &g.accused
		case "none", "refuted":
			into = &g.exonerated
		}
		merged := false
		for i, w := range *into {
			if w.GetSignature() == a.GetSignature() && w.GetResult() == a.GetResult() && w.GetBecause() == a.GetBecause() {
				(*into)[i].subjects = append(w.subjects, a.GetSubject())
				merged = true
				break
			}
		}
		if !merged {
			*into = append(*into, weighed{a, []string{a.GetSubject()}})
		}
	}
	return g
}

func (p *printer) assessments(title string, mark span, all []weighed) {
	if len(all) == 0 {
		return
	}
	p.heading(title)
	for _, w := range all {
		head := w.GetSignature()
		switch {
		case len(w.subjects) > 3:
			head += " (" + strings.Join(w.subjects[:2], ", ") + " and " + count(len(w.subjects)-2, "more", "more") + ")"
		case strings.Join(w.subjects, "") != "" && strings.Join(w.subjects, "") != "node":
			head += " (" + strings.Join(w.subjects, ", ") + ")"
		}
		because := compact(w.GetBecause())
		if because == "" {
			because = fallbackSentence(w.Assessment)
		}
		body := []span{{head, strong}, text(": ")}
		if w.GetResult() != "none" && w.GetResult() != "unknown" {
			body = append(body, text(w.GetResult()+": "))
		}
		p.para(mark, 4, append(body, text(sentence(because)))...)
		if w.GetResult() == "unknown" {
			p.lacks(w.GetUnknown())
		}
	}
}

// lacks lists the items that were missing, each once, by reason.
func (p *printer) lacks(unknown []*apiv1.UnknownFact) {
	byReason := make(map[string][]string)
	for _, u := range unknown {
		for item := range strings.SplitSeq(u.GetEvidence(), ",") {
			item = strings.TrimSpace(item)
			if item != "" && !slices.Contains(byReason[u.GetReason()], item) {
				byReason[u.GetReason()] = append(byReason[u.GetReason()], item)
			}
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		slices.Sort(byReason[reason])
		p.para(text(""), 6, span{reason + ": " + strings.Join(byReason[reason], ", "), faint})
	}
}

// fallbackSentence is for an assessment that came without one.
func fallbackSentence(a *apiv1.Assessment) string {
	switch {
	case len(a.GetRefuted()) > 0:
		return a.GetRefuted()[0].GetBecause()
	case len(a.GetEvidence()) > 0:
		return a.GetEvidence()[0].GetClaim()
	case a.GetResult() == "none":
		return "nothing speaks for it"
	default:
		return "no sentence was given"
	}
}

// probes says what the node can see, and through which hook.
func (p *printer) probes(n *apiv1.Node) {
	p.heading("What can be seen")
	if len(n.GetProbes()) == 0 {
		p.para(span{"  ?", blind}, 4, span{"No probe has reported.", blind})
		return
	}
	for _, pr := range n.GetProbes() {
		mark := span{"  ✓", good}
		switch {
		case pr.GetState() == "no data":
			mark = span{"  ○", faint}
		case !sees(pr):
			mark = span{"  ?", blind}
		}
		body := []span{{pr.GetName(), strong}, text(": "), {probeState(pr), probeStyle(probeState(pr))}}
		if pr.GetSampledAt() != nil {
			body = append(body, text(", sampled "+p.age(pr.GetSampledAt())))
		}
		if pr.GetDetail() != "" {
			body = append(body, text("; "+sentence(pr.GetDetail())))
		}
		p.para(mark, 4, body...)
		for _, h := range pr.GetHooks() {
			p.hook(h)
		}
	}
}

func (p *printer) hook(h *apiv1.Hook) {
	switch {
	case h.GetRung() == "":
		p.para(span{"    ?", blind}, 6, text(h.GetSignal()+": "), span{"no hook is active", blind}, text("; "+sentence(h.GetDetail())))
	case !h.GetConfirmed():
		p.para(span{"    ?", blind}, 6, text(h.GetSignal()+": "), span{h.GetRung() + " is not confirmed by its self-test, so it does not count", blind}, text("; "+sentence(h.GetDetail())))
	default:
		body := h.GetSignal() + ": " + h.GetRung()
		if h.GetDetail() != "" {
			body += " (" + h.GetDetail() + ")"
		}
		p.para(span{"    ✓", good}, 6, span{body, faint})
	}
}
