// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// An undo takes a fault back.
type undo func(ctx context.Context) error

// undos collects how each part of a fault is taken back.
type undos []undo

func (u *undos) add(one undo) { *u = append(*u, one) }

// all takes back what was added, last first, and goes on after a failure.
func (u *undos) all(ctx context.Context) error {
	var problems []error
	for i := len(*u) - 1; i >= 0; i-- {
		problems = append(problems, (*u)[i](ctx))
	}
	return errors.Join(problems...)
}

// inject breaks what fault i says and returns how to mend it. When it fails it has
// taken back what it had done.
func (c *cluster) inject(ctx context.Context, i int) (undo, error) {
	f := c.scenario.Faults[i]
	var back undos
	if err := c.injectInto(ctx, i, f, &back); err != nil {
		return nil, errors.Join(fmt.Errorf("inject fault %d (%s): %w", i, f.Kind, err), back.all(context.WithoutCancel(ctx)))
	}
	return func(ctx context.Context) error {
		if err := back.all(ctx); err != nil {
			return fmt.Errorf("take back fault %d (%s): %w", i, f.Kind, err)
		}
		return nil
	}, nil
}

func (c *cluster) injectInto(ctx context.Context, i int, f scenario.Fault, back *undos) error {
	switch f.Kind {
	case scenario.PathDropLarger, scenario.PathLoss, scenario.PathDropFragments, scenario.PathCut, scenario.PathRate, scenario.PathFlap:
		return c.breakPath(i, f, back)
	case scenario.AggregatorCut:
		return c.cutAggregators(i, f, back)
	case scenario.NTPLies, scenario.NTPCut, scenario.NTPSmear:
		return c.breakTime(f, back)
	case scenario.DNSBroken:
		return c.breakDNS(f, back)
	case scenario.IMDS:
		return c.breakMetadata(ctx, i, f, back)
	case scenario.APISlow:
		return c.slowAPI(f, back)
	case scenario.AggregatorKill:
		return c.killAggregator(f, back)
	}
	perNode := map[scenario.Kind]func(context.Context, int, scenario.Fault, *node, *undos) error{
		scenario.ICMPFilter:       c.filterICMP,
		scenario.UnderlayMTU:      c.changeMTU,
		scenario.OverlayMTU:       c.changeMTU,
		scenario.PodMTU:           c.changeMTU,
		scenario.BridgePortMTU:    c.changeMTU,
		scenario.LinkDown:         c.downLink,
		scenario.LinkFlap:         c.flapLink,
		scenario.RingDrop:         c.dropAtRing,
		scenario.ClockOffset:      c.offsetClock,
		scenario.DiskSlow:         c.slowDisk,
		scenario.EtcdCPUStarved:   c.starveEtcd,
		scenario.AgentKill:        c.killAgent,
		scenario.AgentFreeze:      c.freezeAgent,
		scenario.TokenExpired:     c.spoilToken,
		scenario.TokenWrongNode:   c.spoilToken,
		scenario.ReceiverSlow:     c.slowReceiver,
		scenario.ReceiverFrozen:   c.freezeReceiver,
		scenario.QUICProbes:       c.probeAsQUIC,
		scenario.TCPTeardownStorm: c.tearDownSockets,
	}
	one, known := perNode[f.Kind]
	if !known {
		return fmt.Errorf("the lab does not know how to inject it")
	}
	for _, name := range f.Nodes {
		if err := one(ctx, i, f, c.node(name), back); err != nil {
			return err
		}
	}
	return nil
}
