// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func (a *app) verdictsCommand() *cobra.Command {
	var (
		watch, all bool
		node       string
	)
	cmd := &cobra.Command{
		Use:   "verdicts",
		Short: "List what is out of true, the worst first",
		Long: `List the verdicts that stand, the worst first; what another verdict explains
stands under it. A grade says how sure: suspected, likely, or proven (the
mechanism itself was measured, in at least two independent ways).

States: pending (holds, but not long enough yet), firing, stale (too little of
its scope reports to tell), resolved.

With --watch, print what stands now and then every change as it happens, until
Ctrl-C; a lost connection is said and made again.

Exit status 1 when a proven verdict among them is firing; a watch that is ended
with Ctrl-C exits 0.`,
		Example: `  {plumb} verdicts
  {plumb} verdicts --node node-7 --all      resolved and refuted ones as well
  {plumb} verdicts --watch
  {plumb} verdicts --watch --json | jq -c '[.state, .grade, .signature, .scope.nodes]'`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.close()
			if node != "" {
				if err := c.checkNode(cmd.Context(), node, a.name); err != nil {
					return err
				}
			}
			if watch {
				return a.watch(cmd.Context(), c, watchOptions{node: node, all: all})
			}
			return a.verdicts(cmd.Context(), c, node, all)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "keep showing changes until Ctrl-C")
	cmd.Flags().BoolVar(&all, "all", false, "also resolved (kept for an hour) and refuted ones")
	cmd.Flags().StringVar(&node, "node", "", "only those whose scope holds this node")
	_ = cmd.RegisterFlagCompletionFunc("node", a.completeNodes)
	return cmd
}

func (a *app) verdicts(ctx context.Context, c *client, node string, all bool) error {
	res, err := c.verdicts(ctx, &apiv1.ListVerdictsRequest{Node: node, IncludeResolved: all})
	if err != nil {
		return err
	}
	if a.json {
		if err := writeJSON(a.Stdout, res); err != nil {
			return err
		}
		return statusOf(res.GetVerdicts())
	}
	shown := res.GetVerdicts()
	if !all {
		shown = slices.DeleteFunc(slices.Clone(shown), func(v *apiv1.Verdict) bool { return !live(v) })
	}
	p := a.printer()
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	if len(shown) > 0 {
		p.verdicts(shown)
		p.blank()
		p.unsighted(sight(nodes.GetNodes(), node))
		p.line(span{"Argue one with: " + a.name + " why ID", faint})
		return cmpErr(p.err, statusOf(shown))
	}
	signatures, err := c.signatures(ctx)
	if err != nil {
		return err
	}
	p.outOfTrue(sight(nodes.GetNodes(), node), len(signatures.GetSignatures()))
	return p.err
}

// cmpErr prefers trouble over a status.
func cmpErr(err, status error) error {
	if err != nil {
		return err
	}
	return status
}

// verdicts prints the table; consequences stand indented under their cause.
func (p *printer) verdicts(verdicts []*apiv1.Verdict) {
	var rows [][]cell
	for _, row := range underCause(verdicts) {
		v := row.verdict
		st := gradeStyle(v.GetGrade(), v.GetState())
		signature := v.GetSignature()
		if row.depth > 0 {
			signature = "→ " + signature
			st = faint
		}
		state := cell{v.GetState(), plain}
		if v.GetState() == "stale" {
			state.style = blind
		}
		rows = append(rows, []cell{
			text(shortID(v.GetId())), {v.GetGrade(), st}, state,
			{signature, st}, text(where(v.GetScope())), text(p.age(v.GetOnset())),
		})
	}
	p.table(0, []column{
		{head: "ID"}, {head: "GRADE"}, {head: "STATE"}, {head: "SIGNATURE", wrap: true},
		{head: "WHERE", wrap: true}, {head: "SINCE"},
	}, rows)
}

type nested struct {
	verdict *apiv1.Verdict
	depth   int
}

// underCause orders verdicts worst first and puts each consequence after the
// first verdict that explains it. Cycles and ids that are not among them are no
// matter: each verdict appears once.
func underCause(verdicts []*apiv1.Verdict) []nested {
	verdicts = slices.Clone(verdicts)
	worstFirst(verdicts)
	byID := make(map[string]*apiv1.Verdict, len(verdicts))
	explained := make(map[string]bool)
	for _, v := range verdicts {
		byID[v.GetId()] = v
	}
	for _, v := range verdicts {
		for _, id := range v.GetConsequences() {
			if id != v.GetId() && live(v) {
				explained[id] = true
			}
		}
	}
	var out []nested
	done := make(map[string]bool)
	var add func(v *apiv1.Verdict, depth int)
	add = func(v *apiv1.Verdict, depth int) {
		if done[v.GetId()] {
			return
		}
		done[v.GetId()] = true
		out = append(out, nested{v, depth})
		if !live(v) {
			return
		}
		for _, id := range v.GetConsequences() {
			if c := byID[id]; c != nil {
				add(c, depth+1)
			}
		}
	}
	for _, v := range verdicts {
		if !explained[v.GetId()] {
			add(v, 0)
		}
	}
	for _, v := range verdicts { // what only a cycle explains
		add(v, 0)
	}
	return out
}

// A sighted says how much of a cluster can be seen.
type sighted struct {
	// silent nodes and blind probes, each with its state.
	silent, blind []string
	reporting     int
	// newest is the node that reported last.
	newest *apiv1.Node
}

// sight looks at all nodes, or at one.
func sight(nodes []*apiv1.Node, only string) sighted {
	var s sighted
	for _, n := range nodes {
		if only != "" && n.GetName() != only {
			continue
		}
		if n.GetState() != "reporting" {
			s.silent = append(s.silent, n.GetName()+" ("+n.GetState()+")")
			continue
		}
		s.reporting++
		if s.newest == nil || n.GetLastBatchAt().AsTime().After(s.newest.GetLastBatchAt().AsTime()) {
			s.newest = n
		}
		if len(n.GetProbes()) == 0 {
			s.blind = append(s.blind, "all of "+n.GetName()+" (no probe reported)")
		}
		for _, pr := range n.GetProbes() {
			if !sees(pr) {
				s.blind = append(s.blind, pr.GetName()+" on "+n.GetName()+" ("+probeState(pr)+")")
			}
		}
	}
	return s
}

// sees says whether a probe is as it should be; "no data" means that there is
// nothing of its kind on the node.
func sees(pr *apiv1.Probe) bool {
	switch probeState(pr) {
	case "ok", "no data":
		return true
	default:
		return false
	}
}

// probeState is the state that a probe reports, or "blind" when it reports that
// all is well while none of its hooks is active: it runs, but sees nothing.
func probeState(pr *apiv1.Probe) string {
	active := func(h *apiv1.Hook) bool { return h.GetRung() != "" && h.GetConfirmed() }
	if pr.GetState() == "ok" && len(pr.GetHooks()) > 0 && !slices.ContainsFunc(pr.GetHooks(), active) {
		return "blind"
	}
	return pr.GetState()
}

// outOfTrue says that nothing is, and how much that is worth: what was checked,
// how recently, and what could not be seen.
func (p *printer) outOfTrue(s sighted, signatures int) {
	switch {
	case s.reporting == 0:
		p.line(span{"plumb: nothing can be said: no node is reporting", blind})
	case signatures == 0:
		p.line(span{"plumb: nothing can be said: the aggregator has loaded no signature", blind})
	case len(s.silent)+len(s.blind) == 0:
		p.line(span{"plumb: nothing is out of true", good})
	default:
		p.line(span{"plumb: nothing that could be seen is out of true", warning})
	}
	if s.reporting > 0 {
		p.para(text("checked:"), 9, text(count(signatures, "signature", "signatures")+" on "+
			count(s.reporting, "node", "nodes")+"; newest evidence "+p.age(s.newest.GetLastBatchAt())+" (from "+s.newest.GetName()+")"))
	}
	p.unsighted(s)
}

// unsighted names what cannot be seen.
func (p *printer) unsighted(s sighted) {
	if len(s.silent) > 0 {
		p.para(span{"silent:", blind}, 9, span{strings.Join(s.silent, ", "), blind})
	}
	if len(s.blind) > 0 {
		p.para(span{"unseen:", blind}, 9, span{strings.Join(s.blind, ", "), blind})
	}
}
