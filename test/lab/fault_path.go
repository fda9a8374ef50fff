// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"

	"github.com/plumb-dev/plumb/test/lab/fabric"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// breakPath sets rules on the fabric's ports: for each ordered pair of nodes that
// the fault names, or for everything that enters and leaves the selected nodes'
// ports.
func (c *cluster) breakPath(i int, f scenario.Fault, back *undos) error {
	rule := fabric.Rule{
		DropLarger: f.Bytes, ICMP: f.ICMP, LossRatio: f.Ratio,
		DropFragments: f.Kind == scenario.PathDropFragments, Cut: f.Kind == scenario.PathCut,
		BitsPerSecond: f.BitsPerSecond,
	}
	if f.Kind == scenario.PathFlap {
		rule.FlapEvery = f.Every
	}
	if pairs := f.Pairs(c.scenario); pairs != nil {
		for _, p := range pairs {
			if err := c.rule(i, rule, p[0], p[1], back); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range f.Nodes {
		if f.Direction != scenario.Reverse {
			if err := c.rule(i, rule, name, "", back); err != nil {
				return err
			}
		}
		if f.Direction != scenario.Forward {
			if err := c.rule(i, rule, "", name, back); err != nil {
				return err
			}
		}
	}
	return nil
}

// rule sets one rule; "" stands for any port.
func (c *cluster) rule(i int, r fabric.Rule, from, to string, back *undos) error {
	r.ID, r.From, r.To = fmt.Sprintf("fault %d %s>%s", i, from, to), from, to
	if err := c.fabric.Set(r); err != nil {
		return err
	}
	back.add(func(context.Context) error { return c.fabric.Clear(r.ID) })
	return nil
}

// cutAggregators cuts the way between nodes and every aggregator.
func (c *cluster) cutAggregators(i int, f scenario.Fault, back *undos) error {
	for _, d := range c.aggregators {
		name := d.machine.Name()
		ways := [][2]string{{name, ""}, {"", name}}
		if f.Selected {
			ways = nil
			for _, n := range f.Nodes {
				ways = append(ways, [2]string{n, name}, [2]string{name, n})
			}
		}
		for _, w := range ways {
			if err := c.rule(i, fabric.Rule{Cut: true}, w[0], w[1], back); err != nil {
				return err
			}
		}
	}
	return nil
}
