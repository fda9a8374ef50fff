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
	var rules []fabric.Rule
	if pairs := f.Pairs(c.scenario); pairs != nil {
		for _, p := range pairs {
			rules = append(rules, named(i, rule, p[0], p[1]))
		}
		return c.addRules(rules, back)
	}
	for _, name := range f.Nodes {
		if f.Direction != scenario.Reverse {
			rules = append(rules, named(i, rule, name, ""))
		}
		if f.Direction != scenario.Forward {
			rules = append(rules, named(i, rule, "", name))
		}
	}
	return c.addRules(rules, back)
}

// named is a rule of a fault for one way; "" stands for any port. No name of a node
// has the separator in it.
func named(i int, r fabric.Rule, from, to string) fabric.Rule {
	r.ID, r.From, r.To = fmt.Sprintf("fault %d %s>%s", i, from, to), from, to
	return r
}

// addRules puts all rules of a fault into force at once.
func (c *cluster) addRules(rules []fabric.Rule, back *undos) error {
	if err := c.fabric.Add(rules...); err != nil {
		return err
	}
	var ids []string
	for _, r := range rules {
		ids = append(ids, r.ID)
	}
	back.add(func(context.Context) error { return c.fabric.Remove(ids...) })
	return nil
}

// cutAggregators cuts the way between nodes and every aggregator.
func (c *cluster) cutAggregators(i int, f scenario.Fault, back *undos) error {
	cut := fabric.Rule{Cut: true}
	var rules []fabric.Rule
	for _, d := range c.aggregators {
		name := d.machine.Name()
		if !f.Selected {
			rules = append(rules, named(i, cut, name, ""), named(i, cut, "", name))
			continue
		}
		for _, n := range f.Nodes {
			rules = append(rules, named(i, cut, n, name), named(i, cut, name, n))
		}
	}
	return c.addRules(rules, back)
}
