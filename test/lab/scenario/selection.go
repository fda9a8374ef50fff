// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// selection resolves where a fault acts.
func (d *decoder) selection(o object, t trait, f *Fault) {
	keys := slices.DeleteFunc(t.reach.selectors(), func(key string) bool { return !o.has(key) })
	if t.reach == onEndpoints && o.has("zone") {
		f.Zone = d.oneOf(o, "zone", d.out.Zones())
	}
	if len(keys) > 1 {
		slices.SortStableFunc(keys, func(a, b string) int { return slices.Index(o.order, a) - slices.Index(o.order, b) })
		d.fail(o.names[keys[1]], fmt.Sprintf("%s has both %s and %s", o.what, keys[0], keys[1]), "a fault is selected in one way", "remove one")
		return
	}
	f.Selected = len(keys) == 1
	if !f.Selected {
		d.unselected(o, t, f)
		return
	}
	key := keys[0]
	switch key {
	case "between":
		d.between(o, f)
	case "node":
		if name := d.nodeName(o, key); name != "" {
			f.Nodes = []string{name}
		}
	case "nodes":
		var names []string
		for _, n := range o.nameList(key) {
			if d.known(n.node, "node", n.value, d.out.NodeNames()) {
				names = append(names, n.value)
			}
		}
		f.Nodes = d.out.where(func(n Node) bool { return slices.Contains(names, n.Name) })
	case "zone":
		if f.Zone = d.oneOf(o, key, d.out.Zones()); f.Zone != "" {
			f.Nodes = d.out.NodesInZone(f.Zone)
		}
	case "pool":
		if pool := d.oneOf(o, key, d.out.Pools()); pool != "" {
			f.Nodes = d.out.where(func(n Node) bool { return n.Pool == pool })
		}
	}
	if t.reach == onControlPlane || t.reach == onEndpoints {
		d.onlyControlPlane(o, key, f)
	}
}

// oneOf reads the name of a zone or pool that the nodes name, "" when it is none.
func (d *decoder) oneOf(o object, key string, names []string) string {
	v, ok := o.text(key)
	if !ok || !d.known(o.values[key], key, v, names) {
		return ""
	}
	return v
}

// unselected fills in what a kind acts on when the file selects nothing.
func (d *decoder) unselected(o object, t trait, f *Fault) {
	if !d.named {
		return
	}
	switch t.reach {
	case onPaths:
		f.Nodes = d.out.NodeNames()
		if len(f.Nodes) < 2 {
			d.fail(o.node, o.what+" acts on all pairs of nodes", "the file has one node", "add a node, or select this one")
		}
	case onNodes, onClients:
		f.Nodes = d.out.NodeNames()
	case onControlPlane, onEndpoints:
		f.Nodes = d.out.ControlPlaneNodes()
		if len(f.Nodes) == 0 {
			d.fail(o.values["kind"], fmt.Sprintf("%s needs a control-plane node", o.what), "no node has controlPlane: true", "add it to a node")
		}
	}
}

// onlyControlPlane keeps the control-plane nodes of a zone, pool or end; a node
// that was named itself has to be one.
func (d *decoder) onlyControlPlane(o object, key string, f *Fault) {
	if !d.named || len(f.Nodes) == 0 {
		return
	}
	plane := d.out.ControlPlaneNodes()
	for _, n := range f.Nodes {
		if (key == "node" || key == "nodes") && !slices.Contains(plane, n) {
			o.wrong(key, fmt.Sprintf("%s is no control-plane node, and %s acts on these", n, f.Kind), "name some of: "+list(plane))
			return
		}
	}
	f.Nodes = slices.DeleteFunc(slices.Clone(f.Nodes), func(n string) bool { return !slices.Contains(plane, n) })
	if len(f.Nodes) == 0 {
		o.wrong(key, fmt.Sprintf("it selects no control-plane node, and %s acts on these", f.Kind), "control-plane nodes are: "+list(plane))
	}
}

// between resolves two names, each of a zone or of a node.
func (d *decoder) between(o object, f *Fault) {
	items := o.items("between")
	if r := resolve(o.values["between"]); r.Kind == yaml.SequenceNode && len(items) != 2 {
		o.wrong("between", fmt.Sprintf("it names %d, not two", len(items)), "write two zones or two nodes: [a, b]")
		return
	}
	for _, n := range items {
		v, ok := d.word(n, "an entry of between")
		if !ok {
			continue
		}
		inZone := d.out.NodesInZone(v)
		_, isNode := d.out.Node(v)
		switch {
		case !d.named:
		case isNode && len(inZone) > 0:
			d.fail(n, fmt.Sprintf("%s is both a zone and a node", quote(v)), "it is not clear which is meant", "rename one of them")
		case isNode:
			f.Between = append(f.Between, []string{v})
		case len(inZone) > 0:
			f.Between = append(f.Between, inZone)
		default:
			d.fail(n, "unknown zone or node "+quote(v), fmt.Sprintf("the file has the zones %s and the nodes %s", list(d.out.Zones()), list(d.out.NodeNames())), "name two of these")
		}
		f.BetweenNames = append(f.BetweenNames, v)
	}
	if len(f.Between) != 2 {
		return
	}
	if f.BetweenNames[0] == f.BetweenNames[1] {
		d.fail(items[1], fmt.Sprintf("between names %s twice", quote(f.BetweenNames[1])), "nothing lies between a place and itself", "name two, or select by node or zone")
		return
	}
	if both := (Fault{Kind: PathCut, Between: f.Between}); len(both.Pairs(d.out)) == 0 {
		o.wrong("between", "both ends are the same single node", "name two different ends")
		return
	}
	f.Nodes = d.out.where(func(n Node) bool {
		return slices.Contains(f.Between[0], n.Name) || slices.Contains(f.Between[1], n.Name)
	})
}
