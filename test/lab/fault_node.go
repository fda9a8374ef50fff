// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// table names the nft table of a fault.
func table(i int) string { return fmt.Sprintf("plumb_lab_fault_%d", i) }

// filterICMP drops frag-needed and packet-too-big: on a node whatever it takes in,
// passes on or makes itself, in a pod what it takes in.
func (c *cluster) filterICMP(ctx context.Context, i int, f scenario.Fault, n *node, back *undos) error {
	if f.In == "pod" {
		for _, p := range n.pods {
			if err := c.filterIn(ctx, n.Machine, p.netns, i, back, chain("input", fragNeeded()...)); err != nil {
				return err
			}
		}
		return nil
	}
	return c.filterIn(ctx, n.Machine, "", i, back,
		chain("input", fragNeeded()...), chain("forward", fragNeeded()...), chain("output", fragNeeded()...))
}

func (c *cluster) filterIn(ctx context.Context, m *machine.Machine, netns string, i int, back *undos, chains ...string) error {
	filter, err := newFilter(ctx, m, netns, table(i), chains...)
	if err != nil {
		return err
	}
	back.add(filter.close)
	return nil
}

// changeMTU changes the MTU of a device that has a role on the node. A pod's is
// that of both ends of its veth, as a CNI plugin sets it; a bridge port's is that of
// the end on the bridge, which keeps its own.
func (c *cluster) changeMTU(_ context.Context, _ int, f scenario.Fault, n *node, back *undos) error {
	switch f.Kind {
	case scenario.UnderlayMTU:
		return n.changeMTU("", nodeDevice, f.MTU, back)
	case scenario.OverlayMTU:
		return n.changeMTU("", overlayDevice, f.MTU, back)
	case scenario.BridgePortMTU:
		if err := n.pinBridge(); err != nil {
			return err
		}
		return n.changeMTU("", n.pods[podNetns].port(), f.MTU, back)
	default:
		for _, p := range n.pods {
			if err := n.changeMTU("", p.port(), f.MTU, back); err != nil {
				return err
			}
			if err := n.changeMTU(p.netns, nodeDevice, f.MTU, back); err != nil {
				return err
			}
		}
		return nil
	}
}

// pinBridge keeps the bridge's MTU as it is. Left alone it follows the least of its
// ports' (br_mtu_auto_adjust), and the node would answer instead of the bridge
// dropping; a CNI plugin that was given an MTU sets the bridge's too. Only a change
// counts as set by somebody (netif_set_mtu_ext), and a larger one for a moment loses
// nothing.
func (n *node) pinBridge() error {
	mtu, err := n.mtu("", bridgeDevice)
	if err != nil {
		return err
	}
	other := mtu + 1
	if mtu == maxBridgeMTU {
		other = mtu - 1
	}
	if err := n.setMTU("", bridgeDevice, other); err != nil {
		return err
	}
	return n.setMTU("", bridgeDevice, mtu)
}

// maxBridgeMTU is ETH_MAX_MTU (br_dev_setup).
const maxBridgeMTU = 65535

func (n *node) changeMTU(netns, device string, mtu int, back *undos) error {
	before, err := n.mtu(netns, device)
	if err != nil {
		return err
	}
	if err := n.setMTU(netns, device, mtu); err != nil {
		return err
	}
	back.add(func(context.Context) error { return n.setMTU(netns, device, before) })
	return nil
}

// link says where a device is taken down: eth0 by its other end, in the fabric, as
// a cable that is pulled; any other on the node.
func (c *cluster) link(f scenario.Fault, n *node) (*machine.Machine, string) {
	if f.Device == nodeDevice {
		return c.fabricMachine, shortName(n.Name(), n.index)
	}
	return n.Machine, f.Device
}

func (c *cluster) downLink(_ context.Context, _ int, f scenario.Fault, n *node, back *undos) error {
	m, device := c.link(f, n)
	var state linkState
	err := m.Do("", func() error {
		var err error
		state, err = linkDown(device)
		return err
	})
	if err != nil {
		return err
	}
	back.add(func(context.Context) error {
		return m.Do("", func() error { return linkUp(state) })
	})
	return nil
}

// flapLink takes a device down and up, each for half of the period, and leaves it
// up.
func (c *cluster) flapLink(ctx context.Context, i int, f scenario.Fault, n *node, back *undos) error {
	var down undos
	if err := c.downLink(ctx, i, f, n, &down); err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		err := c.flap(running, i, f, n, down)
		if err != nil {
			c.fail("%s of %s on %s: %v", f.Kind, f.Device, n.Name(), err)
		}
		done <- err
	}()
	back.add(func(context.Context) error {
		stop()
		return <-done
	})
	return nil
}

func (c *cluster) flap(ctx context.Context, i int, f scenario.Fault, n *node, down undos) error {
	tick := time.NewTicker(f.Every / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return down.all(ctx)
		case <-tick.C:
		}
		if len(down) == 0 {
			if err := c.downLink(ctx, i, f, n, &down); err != nil {
				return err
			}
			continue
		}
		if err := down.all(ctx); err != nil {
			return err
		}
		down = nil
	}
}

func (c *cluster) dropAtRing(_ context.Context, _ int, f scenario.Fault, n *node, back *undos) error {
	var ring *ringDrop
	err := n.Do("", func() error {
		var err error
		ring, err = newRingDrop(nodeDevice, f.Ratio)
		return err
	})
	if err != nil {
		return err
	}
	back.add(func(context.Context) error { return n.Do("", ring.close) })
	return nil
}

// offsetClock puts the clock of a node's agent off. Without Step the offset is
// there as after a pause of the machine: nothing tells the kernel.
func (c *cluster) offsetClock(_ context.Context, _ int, f scenario.Fault, n *node, back *undos) error {
	now, err := boottime()
	if err != nil {
		return err
	}
	setting := clockSetting{drift: f.Drift, since: now}
	if f.Step {
		setting.offset = f.Offset
	} else {
		setting.quiet = f.Offset
	}
	if f.StepBy != 0 {
		setting.steps = []clockStep{{at: now, by: f.StepBy}}
	}
	path := c.clockFile(n.Name())
	if err := setting.write(path); err != nil {
		return err
	}
	back.add(func(context.Context) error { return clockSetting{}.write(path) })
	return nil
}

func (c *cluster) killAgent(_ context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	d := c.agents[n.Name()]
	d.kill()
	back.add(d.start)
	return nil
}

func (c *cluster) freezeAgent(_ context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	d := c.agents[n.Name()]
	if err := d.signal(unix.SIGSTOP); err != nil {
		return err
	}
	back.add(func(context.Context) error { return d.signal(unix.SIGCONT) })
	return nil
}

// killAggregator kills the first aggregator; another, if there is one, lives.
func (c *cluster) killAggregator(_ scenario.Fault, back *undos) error {
	d := c.aggregators[0]
	d.kill()
	back.add(d.start)
	return nil
}

// spoilToken gives an agent another identity: a token that has expired, or that of
// another node. The agent reads its file again for every call.
func (c *cluster) spoilToken(_ context.Context, _ int, f scenario.Fault, n *node, back *undos) error {
	path := c.token(n.Name())
	before, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the token of %s: %w", n.Name(), err)
	}
	var token []byte
	if f.Kind == scenario.TokenExpired {
		token, err = c.expiredToken(n.Name())
	} else {
		token, err = c.otherToken(n)
	}
	if err != nil {
		return err
	}
	if err := replaceFile(path, token); err != nil {
		return err
	}
	back.add(func(context.Context) error { return replaceFile(path, before) })
	return nil
}

// otherToken is a good one of the next node, whatever a fault did to that node's own.
func (c *cluster) otherToken(n *node) ([]byte, error) {
	if len(c.nodes) < 2 {
		return nil, fmt.Errorf("a token of another node needs another node")
	}
	return c.mintToken(c.other(n).Name(), time.Now)
}

// replaceFile changes a file in one step.
func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("replace a file: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace a file: %w", err)
	}
	return nil
}
