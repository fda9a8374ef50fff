// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"

	"github.com/spf13/cobra"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func (a *app) episodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "episodes [NODE]",
		Short: "List the conditions that agents saw begin and end",
		Long: `List the durable record of one node or of all: the conditions that an agent saw
open and close, the newest first. An acknowledged episode survives a crash of
agent and aggregator. A "~" before the onset says that it rests on the node's
own clock.`,
		Example: `  {plumb} episodes
  {plumb} episodes node-7 --json | jq '.episodes[] | select(.closedAt == null)'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1, "at most one node")(cmd, args)
			}
			return nil
		},
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.close()
			req := &apiv1.ListEpisodesRequest{}
			if len(args) == 1 {
				req.Node = args[0]
				if err := c.checkNode(cmd.Context(), args[0], a.name); err != nil {
					return err
				}
			}
			res, err := ask(cmd.Context(), c, c.rpc.ListEpisodes, req)
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Stdout, res)
			}
			p := a.printer()
			p.episodes(res.GetEpisodes())
			return p.err
		},
	}
}

func (p *printer) episodes(episodes []*apiv1.Episode) {
	if len(episodes) == 0 {
		p.line(text("plumb: no episode is on record"))
		return
	}
	episodes = slices.Clone(episodes)
	slices.SortStableFunc(episodes, func(a, b *apiv1.Episode) int {
		return b.GetOnset().AsTime().Compare(a.GetOnset().AsTime())
	})
	rows := make([][]cell, 0, len(episodes))
	for _, e := range episodes {
		onset := p.clock(e.GetOnset())
		if e.GetOnsetClaimed() {
			onset = "~" + onset
		}
		lasted := cell{"open, " + p.age(e.GetOnset()), warning}
		if e.GetClosedAt() != nil {
			lasted = text(duration(e.GetClosedAt().AsTime().Sub(e.GetOnset().AsTime())))
		}
		rows = append(rows, []cell{text(onset), lasted, text(e.GetNode()), text(e.GetCondition()), text(e.GetSubject())})
	}
	p.table(0, []column{
		{head: "ONSET"}, {head: "LASTED", wrap: true}, {head: "NODE"}, {head: "CONDITION", wrap: true},
		{head: "SUBJECT", wrap: true},
	}, rows)
}
