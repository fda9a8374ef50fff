// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/test/lab/etcd"
	"github.com/plumb-dev/plumb/test/lab/podgroup"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/traffic"
)

// The roles of traffic, and the ports that receivers listen on.
const (
	senderRole   = "lab-sender"
	receiverRole = "lab-receiver"
	tcpPort      = 5001
	udpPort      = 5002
	holdPort     = 5003
	quicPort     = 4433
	httpPort     = 8080
	// appLimit is how long an application may take to say that it is ready.
	appLimit = 20 * time.Second
)

// apps are the applications of one node: in its pod, and on the node's own network
// for traffic of plane node.
type apps struct {
	node *node
	// By network namespace: podNetns, resolverNetns or "".
	senders, receivers map[string]*app
}

// An app is one process of traffic.
type app struct {
	name    string
	process *machine.Process
	ready   chan struct{}
	// replies has one answer for each command.
	replies chan traffic.Event
}

func (a *apps) all() []*app {
	var out []*app
	for _, m := range []map[string]*app{a.senders, a.receivers} {
		for _, one := range m {
			out = append(out, one)
		}
	}
	return out
}

func (a *apps) crashed() error {
	for _, one := range a.all() {
		if !one.process.Running() {
			return fmt.Errorf("%s on %s ended by itself: %w: %s", one.name, a.node.Name(), one.process.Err(), lastLine(one.process.Output()))
		}
	}
	return nil
}

func (a *apps) close() {
	for _, one := range a.all() {
		one.process.Kill()
	}
}

// startTraffic starts a sender and a receiver in every pod, and one process in the
// resolver's, so that each pod has a process in its cgroup. Receivers come first.
func (c *cluster) startTraffic(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, appLimit, fmt.Errorf("the applications were not ready within %s", appLimit))
	defer cancel()
	var flows []traffic.Flow
	for _, n := range c.nodes {
		flows = append(append(flows, c.flows(n, podNetns)...), c.flows(n, "")...)
	}
	c.observer = traffic.NewObserver(flows)
	onNode := map[string]bool{}
	for _, t := range c.scenario.Traffic {
		if t.Plane == "node" {
			onNode[t.From], onNode[t.To] = true, true
		}
	}
	for _, n := range c.nodes {
		c.apps[n.Name()] = &apps{node: n, senders: map[string]*app{}, receivers: map[string]*app{}}
	}
	start := func(role func(*node, string) error) error {
		var group errgroup.Group
		group.SetLimit(startTogether)
		for _, n := range c.nodes {
			group.Go(func() error {
				if err := role(n, podNetns); err != nil {
					return err
				}
				if onNode[n.Name()] {
					return role(n, "")
				}
				return nil
			})
		}
		return group.Wait()
	}
	if err := start(func(n *node, netns string) error { return c.startReceiver(ctx, n, netns) }); err != nil {
		return err
	}
	if err := c.startReceiver(ctx, c.resolverNode(), resolverNetns); err != nil {
		return err
	}
	return start(func(n *node, netns string) error { return c.startSender(ctx, n, netns) })
}

// appAddress is where a node's application is reached on a plane.
func (n *node) appAddress(netns string) netip.Addr {
	if netns == "" {
		return n.address
	}
	return n.pods[netns].address
}

func (c *cluster) startReceiver(ctx context.Context, n *node, netns string) error {
	var cfg traffic.ReceiverConfig
	if netns != resolverNetns {
		at := func(port uint16) []netip.AddrPort {
			return []netip.AddrPort{netip.AddrPortFrom(n.appAddress(netns), port)}
		}
		cfg = traffic.ReceiverConfig{TCP: at(tcpPort), HTTP: at(httpPort), UDP: at(udpPort), QUIC: at(quicPort), Hold: at(holdPort)}
	}
	a, err := c.startApp(ctx, n, netns, "receiver", receiverRole, cfg)
	if err == nil {
		c.apps[n.Name()].receivers[netns] = a
	}
	return err
}

func (c *cluster) startSender(ctx context.Context, n *node, netns string) error {
	cfg := traffic.SenderConfig{Flows: c.flows(n, netns)}
	a, err := c.startApp(ctx, n, netns, "sender", senderRole, cfg)
	if err == nil {
		c.apps[n.Name()].senders[netns] = a
	}
	return err
}

// flows are what a scenario has a node's pod, or the node itself, send.
func (c *cluster) flows(n *node, netns string) []traffic.Flow {
	var out []traffic.Flow
	for i, t := range c.scenario.Traffic {
		if t.From != n.Name() || (t.Plane == "node") != (netns == "") {
			continue
		}
		f := traffic.Flow{
			ID: fmt.Sprintf("%d-%s", i, t.Kind), Kind: traffic.Kind(t.Kind), From: t.From, To: t.To,
			Bytes: t.Bytes, ResponseBytes: t.ResponseBytes, Every: t.Every,
		}
		if t.Kind == "dns" {
			f.To = c.resolverNode().Name()
			f.Target, f.Small, f.Large = c.resolver(), "small.lab.plumb.test.", "large.lab.plumb.test."
		} else {
			port := map[string]uint16{"tcp": tcpPort, "http": httpPort, "udp": udpPort}[t.Kind]
			f.Target = netip.AddrPortFrom(c.node(t.To).appAddress(netns), port)
		}
		out = append(out, f)
	}
	return out
}

// startApp starts an application, in its pod's cgroup when it is in a pod, and waits
// until it is ready.
func (c *cluster) startApp(ctx context.Context, n *node, netns, what, role string, config any) (*app, error) {
	name := what
	if netns != "" {
		name += "-" + netns
	}
	a := &app{name: name, ready: make(chan struct{}), replies: make(chan traffic.Event, 16)}
	ready := false
	onLine := func(line []byte) {
		e, err := traffic.DecodeEvent(line)
		if err != nil {
			c.fail("%s on %s: %v", name, n.Name(), err)
			return
		}
		switch e.Type {
		case traffic.Ready:
			if !ready {
				ready = true
				close(a.ready)
			}
		case traffic.Applied, traffic.Rejected:
			select {
			case a.replies <- e:
			default: // nobody waits for it any more
			}
		default:
			c.observer.Add(e)
		}
	}
	spec := machine.Spec{Name: name, Role: role, Netns: netns, OnLine: onLine}
	var group *podgroup.Group
	if netns != "" {
		group = n.pods[netns].group
	}
	var err error
	if group == nil {
		a.process, err = c.startOn(n, spec)
	} else {
		a.process, err = c.startInGroup(n, group, spec)
	}
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("configure %s on %s: %w", name, n.Name(), err)
	}
	if err := a.process.Send(line); err != nil {
		return nil, err
	}
	select {
	case <-a.ready:
		return a, nil
	case <-a.process.Done():
		return nil, fmt.Errorf("start %s on %s: it ended: %w: %s", name, n.Name(), a.process.Err(), lastLine(a.process.Output()))
	case <-ctx.Done():
		return nil, fmt.Errorf("start %s on %s: %w", name, n.Name(), context.Cause(ctx))
	}
}

// command sends an application a command and waits until it is in force.
func (a *app) command(ctx context.Context, cmd traffic.Command) error {
	line, err := json.Marshal(cmd)
	if err != nil {
		return fmt.Errorf("command %s: %w", a.name, err)
	}
	if err := a.process.Send(line); err != nil {
		return err
	}
	select {
	case e := <-a.replies:
		if e.Type == traffic.Rejected {
			return fmt.Errorf("%s rejects the command %s: %s", a.name, line, e.Detail)
		}
		return nil
	case <-a.process.Done():
		return fmt.Errorf("command %s: it has ended", a.name)
	case <-ctx.Done():
		return fmt.Errorf("command %s: %w", a.name, ctx.Err())
	}
}

func (c *cluster) slowReceiver(ctx context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	for _, a := range c.apps[n.Name()].receivers {
		if err := a.command(ctx, traffic.Command{Receiver: traffic.Slow}); err != nil {
			return err
		}
		back.add(func(ctx context.Context) error { return a.command(ctx, traffic.Command{Receiver: traffic.Normal}) })
	}
	return nil
}

func (c *cluster) freezeReceiver(_ context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	for _, a := range c.apps[n.Name()].receivers {
		if err := a.process.Signal(unix.SIGSTOP); err != nil {
			return err
		}
		back.add(func(context.Context) error { return a.process.Signal(unix.SIGCONT) })
	}
	return nil
}

// other is the node that a node's confounders talk to: the one after it.
func (c *cluster) other(n *node) *node { return c.nodes[n.index%len(c.nodes)] }

// probeAsQUIC has the node's pod search for a larger MTU than its path has, as a
// QUIC sender does: probes as long as its own device allows.
func (c *cluster) probeAsQUIC(ctx context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	target := netip.AddrPortFrom(c.other(n).appAddress(podNetns), quicPort)
	mtu, err := n.mtu(podNetns, nodeDevice)
	if err != nil {
		return err
	}
	return c.confound(ctx, n, traffic.Command{QUICProbes: &traffic.QUICProbes{
		Targets: []netip.AddrPort{target}, Sizes: []int{mtu},
	}}, traffic.QUIC, back)
}

// tearDownSockets has the node's pod open connections to one that does not read, fill
// them and reset them.
func (c *cluster) tearDownSockets(ctx context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	target := netip.AddrPortFrom(c.other(n).appAddress(podNetns), holdPort)
	return c.confound(ctx, n, traffic.Command{TeardownStorm: &traffic.TeardownStorm{Target: target}}, traffic.Teardown, back)
}

func (c *cluster) confound(ctx context.Context, n *node, cmd traffic.Command, what traffic.Confounder, back *undos) error {
	a := c.apps[n.Name()].senders[podNetns]
	if err := a.command(ctx, cmd); err != nil {
		return err
	}
	back.add(func(ctx context.Context) error { return a.command(ctx, traffic.Command{Stop: what}) })
	return nil
}

// A mark is a moment at which something that is no flow of traffic was affected.
type mark struct {
	node string
	at   time.Time
	what string
}

// onPut notes a write to etcd that its application felt.
func (c *cluster) onPut(node string, p etcd.Put) {
	if p.Err == nil && p.Took < slowPut || errors.Is(p.Err, context.Canceled) {
		return
	}
	what := fmt.Sprintf("a write to etcd took %s", p.Took.Round(time.Millisecond))
	if p.Err != nil {
		what = "a write to etcd failed: " + strings.TrimSpace(p.Err.Error())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.marks) < maxMarks {
		c.marks = append(c.marks, mark{node: node, at: p.Began, what: what})
	}
}

const (
	// slowPut is when a write hurts: etcd itself warns of one that takes 100 ms
	// (--warning-apply-duration).
	slowPut = 100 * time.Millisecond
	// maxMarks bounds what a broken disk makes; only the first counts.
	maxMarks = 4096
)
