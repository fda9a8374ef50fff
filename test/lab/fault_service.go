// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/service/dns"
	"github.com/plumb-dev/plumb/test/lab/service/metadata"
)

// clients are the addresses of the nodes that a fault selects and of their pods;
// none means everybody.
func (c *cluster) clients(f scenario.Fault) []netip.Prefix {
	if !f.Selected {
		return nil
	}
	var out []netip.Prefix
	for _, name := range f.Nodes {
		out = append(out, c.node(name).clients()...)
	}
	return out
}

// breakTime makes one time server, or all, lie, smear or fall silent.
func (c *cluster) breakTime(f scenario.Fault, back *undos) error {
	clients := c.clients(f)
	for i, server := range c.services.time {
		if f.Server >= 0 && f.Server != i {
			continue
		}
		var mend func()
		switch f.Kind {
		case scenario.NTPCut:
			server.Cut(true, clients...)
			mend = func() { server.Cut(false, clients...) }
		case scenario.NTPSmear:
			server.Smear(f.Offset, c.length(f), clients...)
			mend = func() { server.Smear(0, 0, clients...) }
		default:
			server.SetOffset(f.Offset, clients...)
			mend = func() { server.SetOffset(0, clients...) }
		}
		back.add(func(context.Context) error {
			mend()
			return nil
		})
	}
	return nil
}

// length is how long a fault lasts.
func (c *cluster) length(f scenario.Fault) time.Duration {
	if f.Ends() {
		return f.Until - f.At
	}
	return judge.Length(c.scenario) - f.At
}

func (c *cluster) breakDNS(f scenario.Fault, back *undos) error {
	mode, known := map[string]dns.Mode{"all": dns.All, "large": dns.Large}[f.Mode]
	if !known {
		return fmt.Errorf("the resolver has no mode %q; all and large it has", f.Mode)
	}
	clients := c.clients(f)
	if err := c.services.dns.SetMode(mode, clients...); err != nil {
		return err
	}
	back.add(func(context.Context) error { return c.services.dns.SetMode(dns.Healthy, clients...) })
	return nil
}

// breakMetadata breaks the metadata server for the selected nodes: packets that
// vanish or are refused are the fabric's, a policy is the node's own, and every
// other mode is an answer of the server.
func (c *cluster) breakMetadata(ctx context.Context, i int, f scenario.Fault, back *undos) error {
	server := c.services.metadata
	if server == nil {
		return fmt.Errorf("there is no metadata server; name a cloud")
	}
	v4, v6 := metadataAddresses()
	to := []netip.Addr{v4, v6}
	clients := c.clients(f)
	if clients == nil {
		for _, n := range c.nodes {
			clients = append(clients, n.clients()...)
		}
	}
	switch f.Mode {
	case "timeout":
		return c.filterIn(ctx, c.fabricMachine, "", i, back, chain("input", fromTo(clients, to, "drop")...))
	case "refuse":
		var rules []string
		rules = append(rules, fromTo(clients, to, "meta l4proto tcp reject with tcp reset")...)
		return c.filterIn(ctx, c.fabricMachine, "", i, back, chain("input", rules...))
	case "policy-block":
		for _, name := range f.Nodes {
			n := c.node(name)
			pods := []netip.Prefix{podNet(n.index)}
			if err := c.filterIn(ctx, n.Machine, "", i, back, chain("forward", fromTo(pods, to, "drop")...)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := server.SetMode(metadata.Mode(f.Mode), clients...); err != nil {
		return err
	}
	back.add(func(context.Context) error { return server.SetMode(metadata.Healthy, clients...) })
	return nil
}

// slowAPI delays the API endpoints of the selected control-plane nodes, for the
// clients of one zone or for all.
func (c *cluster) slowAPI(f scenario.Fault, back *undos) error {
	var clients []netip.Prefix
	for _, n := range c.nodes {
		if f.Zone != "" && n.spec.Zone == f.Zone {
			clients = append(clients, n.clients()...)
		}
	}
	for _, name := range f.Nodes {
		m := c.members[name]
		m.api.SetDelay(f.Delay, clients...)
		back.add(func(context.Context) error {
			m.api.SetDelay(0, clients...)
			return nil
		})
	}
	return nil
}
