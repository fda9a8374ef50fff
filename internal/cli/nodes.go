// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func (a *app) nodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes, whether they report, and what on them cannot be seen",
		Long: `List the nodes that the aggregator knows, when each last reported, the state of
its probes, and the worst verdict on it. A silent node and a blind probe stand
out as a sick one does: silence is never healthy.

Exit status 1 when a proven verdict is firing on any of them.`,
		Example: `  {plumb} nodes
  {plumb} nodes --json | jq -r '.nodes[] | select(.state != "reporting") | .name'`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.close()
			nodes, err := c.nodes(cmd.Context())
			if err != nil {
				return err
			}
			verdicts, err := c.verdicts(cmd.Context(), &apiv1.ListVerdictsRequest{})
			if err != nil {
				return err
			}
			if a.json {
				if err := writeJSON(a.Stdout, nodes); err != nil {
					return err
				}
				return statusOf(verdicts.GetVerdicts())
			}
			p := a.printer()
			p.nodes(nodes.GetNodes(), verdicts.GetVerdicts())
			if p.err != nil {
				return p.err
			}
			return statusOf(verdicts.GetVerdicts())
		},
	}
}

func (p *printer) nodes(nodes []*apiv1.Node, verdicts []*apiv1.Verdict) {
	if len(nodes) == 0 {
		p.line(span{"plumb: the aggregator knows no node yet", blind})
		return
	}
	rows := make([][]cell, 0, len(nodes))
	for _, n := range nodes {
		rows = append(rows, []cell{
			text(n.GetName()), text(n.GetZone()),
			{n.GetState(), nodeStyle(n.GetState())},
			text(p.age(n.GetLastBatchAt())),
			probesCell(n), worstCell(n.GetName(), verdicts), text(n.GetKernel()),
		})
	}
	p.table(0, []column{
		{head: "NODE"}, {head: "ZONE"}, {head: "STATE"}, {head: "LAST REPORT"},
		{head: "PROBES", wrap: true}, {head: "WORST VERDICT", wrap: true}, {head: "KERNEL", wrap: true},
	}, rows)
}

// probesCell says "3 ok", or names those that are not.
func probesCell(n *apiv1.Node) cell {
	ok := 0
	var other []string
	for _, pr := range n.GetProbes() {
		if probeState(pr) == "ok" {
			ok++
			continue
		}
		other = append(other, pr.GetName()+" "+probeState(pr))
	}
	switch {
	case len(n.GetProbes()) == 0:
		return cell{"none reported", blind}
	case len(other) == 0:
		return cell{strconv.Itoa(ok) + " ok", good}
	default:
		return cell{strconv.Itoa(ok) + " ok; " + strings.Join(other, ", "), blind}
	}
}

func worstCell(node string, verdicts []*apiv1.Verdict) cell {
	var here []*apiv1.Verdict
	for _, v := range verdicts {
		if live(v) && contains(v.GetScope().GetNodes(), node) {
			here = append(here, v)
		}
	}
	if len(here) == 0 {
		return cell{"none", faint}
	}
	worstFirst(here)
	v := here[0]
	s := v.GetGrade() + " " + v.GetSignature()
	if v.GetState() != "firing" {
		s += " (" + v.GetState() + ")"
	}
	if len(here) > 1 {
		s += " and " + count(len(here)-1, "more", "more")
	}
	return cell{s, gradeStyle(v.GetGrade(), v.GetState())}
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}
