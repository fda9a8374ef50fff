// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/test/lab/fabric"
	"github.com/plumb-dev/plumb/test/lab/podgroup"
	"github.com/plumb-dev/plumb/test/lab/rundir"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/traffic"
)

// cgroupRoot is where cgroups are mounted (systemd's file-hierarchy).
const cgroupRoot = "/sys/fs/cgroup"

// startTogether is how many nodes are made at a time: more only wait for each
// other's turn at the kernel's one lock for links (rtnl).
const startTogether = 4

// A cluster is what a scenario describes, running.
type cluster struct {
	scenario *scenario.Scenario
	dir      *rundir.Dir
	programs map[string]string

	fabricMachine, spineMachine, servicesMachine *machine.Machine
	fabric                                       *fabric.Fabric
	nodes                                        []*node
	aggregators                                  []*daemon
	agents                                       map[string]*daemon
	services                                     *services
	members                                      map[string]*member
	observer                                     *traffic.Observer
	apps                                         map[string]*apps

	// The servers in this process run under a context of their own.
	servingContext context.Context
	stopServices   context.CancelFunc
	serving        sync.WaitGroup

	mu sync.Mutex
	// logs are open until the end.
	logs []*os.File
	// marks are what etcd's application felt.
	marks []mark
	// failures are what should not have happened: a server that failed, a child
	// that ended by itself.
	failures []string
	closed   bool
}

// programsOf are the binaries that a scenario needs.
func programsOf(s *scenario.Scenario, dirs []string) (map[string]string, error) {
	names := []string{aggregatorProgram}
	agent := agentProgram
	if slices.ContainsFunc(s.Faults, func(f scenario.Fault) bool { return f.Kind == scenario.ClockOffset }) {
		agent = labAgentProgram
	}
	names = append(names, agent)
	if len(s.ControlPlaneNodes()) > 0 {
		names = append(names, etcdProgram)
	}
	out := map[string]string{}
	for _, name := range names {
		path, err := find(dirs, name)
		if err != nil {
			return nil, err
		}
		out[name] = path
	}
	out[agentProgram] = out[agent]
	return out, nil
}

// newCluster builds the cluster and starts the product in it. When it fails it has
// taken everything down again.
func newCluster(ctx context.Context, s *scenario.Scenario, dir *rundir.Dir, programs map[string]string) (*cluster, error) {
	c, err := newPlumbing(ctx, s, dir, programs)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{c.startProduct, c.waitReporting} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, c.close(context.WithoutCancel(ctx)))
		}
	}
	return c, nil
}

// newPlumbing builds all but the product: nodes, fabric, services, traffic.
func newPlumbing(ctx context.Context, s *scenario.Scenario, dir *rundir.Dir, programs map[string]string) (_ *cluster, err error) {
	c := &cluster{
		scenario: s, dir: dir, programs: programs,
		agents: map[string]*daemon{}, members: map[string]*member{}, apps: map[string]*apps{},
	}
	c.servingContext, c.stopServices = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close(context.WithoutCancel(ctx)))
		}
	}()
	if err := os.Mkdir(dir.File("logs"), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of logs: %w", err)
	}
	for _, step := range []func(context.Context) error{
		c.makeMachines, c.joinFabric, c.makeOverlay, c.makePods, c.startServices,
		c.startControlPlane, c.startTraffic,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// makeMachines makes every namespace.
func (c *cluster) makeMachines(ctx context.Context) error {
	v6 := c.scenario.Family == scenario.IPv6
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startTogether)
	for _, m := range []struct {
		name string
		into **machine.Machine
	}{{"fabric", &c.fabricMachine}, {"spine", &c.spineMachine}, {"services", &c.servicesMachine}} {
		group.Go(func() error {
			made, err := machine.New(ctx, machine.Config{Name: m.name, IPv6: v6})
			*m.into = made
			return err
		})
	}
	c.aggregators = make([]*daemon, c.scenario.Aggregators)
	for i := range c.aggregators {
		group.Go(func() error {
			made, err := machine.New(ctx, machine.Config{Name: aggregatorName(i), IPv6: v6})
			if err != nil {
				return err
			}
			c.aggregators[i] = &daemon{machine: made, healthURL: "http://" + aggMetrics + "/readyz", http: httpInside(made)}
			return nil
		})
	}
	c.nodes = make([]*node, len(c.scenario.Nodes))
	for i, spec := range c.scenario.Nodes {
		group.Go(func() error {
			n, err := newNode(ctx, spec, i+1, c.scenario.Family)
			if err != nil {
				return err
			}
			n.uid = "uid-" + spec.Name
			c.nodes[i] = n
			return nil
		})
	}
	return group.Wait()
}

func aggregatorName(i int) string { return fmt.Sprintf("aggregator-%d", i+1) }

// joinFabric gives every machine its port.
func (c *cluster) joinFabric(ctx context.Context) error {
	family := fabric.IPv4
	if c.scenario.Family == scenario.IPv6 {
		family = fabric.IPv6
	}
	var err error
	if c.fabric, err = fabric.New(ctx, fabric.Config{Router: namespace{c.fabricMachine}, Spine: namespace{c.spineMachine}, Family: family}); err != nil {
		return err
	}
	// The wires carry what the best of the nodes was built for; a device that is set
	// higher later sends into a wire that is not.
	wire := defaultMTU
	for _, n := range c.nodes {
		wire = max(wire, n.spec.UnderlayMTU)
	}
	add := func(name, device string, m *machine.Machine, network, mtu int, hosts []int, more ...netip.Prefix) error {
		p := fabric.Port{
			Name: name, Device: device, Peer: namespace{m}, PeerDevice: nodeDevice, MTU: mtu, Wire: wire,
			Gateway: hostIn(c.scenario.Family, network, 1), Destinations: more,
		}
		for _, h := range hosts {
			p.Addresses = append(p.Addresses, hostIn(c.scenario.Family, network, h))
		}
		return c.fabric.AddPort(ctx, p)
	}
	for i, d := range c.aggregators {
		if err := add(d.machine.Name(), fmt.Sprintf("agg%d", i+1), d.machine, aggregatorNet+i+1, defaultMTU, []int{2}); err != nil {
			return err
		}
	}
	if err := add("services", "services", c.servicesMachine, servicesNet, defaultMTU, []int{timeHost, timeHost + 1, timeHost + 2}); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := add(n.Name(), shortName(n.Name(), n.index), n.Machine, n.index, n.spec.UnderlayMTU, []int{2}, podNet(n.index)); err != nil {
			return err
		}
	}
	return nil
}

const defaultMTU = 1500

// makeOverlay joins the nodes' pod networks.
func (c *cluster) makeOverlay(ctx context.Context) error {
	if c.scenario.Overlay.Kind == "none" {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startTogether)
	for _, n := range c.nodes {
		group.Go(func() error { return n.overlay(ctx, c.scenario.Overlay, c.nodes) })
	}
	return group.Wait()
}

// resolverNode is where the cluster's DNS runs.
func (c *cluster) resolverNode() *node {
	if cp := c.scenario.ControlPlaneNodes(); len(cp) > 0 {
		return c.node(cp[0])
	}
	return c.nodes[len(c.nodes)-1]
}

// makePods makes one pod on each node, and the resolver's.
func (c *cluster) makePods(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startTogether)
	for _, n := range c.nodes {
		group.Go(func() error {
			pods := []struct {
				netns string
				host  int
			}{{podNetns, podHost}}
			if n == c.resolverNode() {
				pods = append(pods, struct {
					netns string
					host  int
				}{resolverNetns, resolverHost})
			}
			for _, p := range pods {
				g, err := podgroup.New(cgroupRoot, c.dir)
				if err != nil {
					return err
				}
				if err := n.addPod(ctx, p.netns, p.host, g); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (c *cluster) node(name string) *node {
	for _, n := range c.nodes {
		if n != nil && n.Name() == name {
			return n
		}
	}
	return nil
}

// log opens a file for what a process writes. It is closed with the cluster.
func (c *cluster) log(name string) (*os.File, error) {
	path := c.dir.File("logs", strings.ReplaceAll(name, "/", "-")+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", filepath.Base(name), err)
	}
	c.mu.Lock()
	c.logs = append(c.logs, f)
	c.mu.Unlock()
	return f, nil
}

// fail notes what should not have happened.
func (c *cluster) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && len(c.failures) < maxFailures && !slices.Contains(c.failures, text) {
		c.failures = append(c.failures, text)
	}
}

// maxFailures bounds what is kept of a run in which everything fails.
const maxFailures = 64

// troubles are the failures so far, with every child that ended by itself.
func (c *cluster) troubles() []string {
	c.mu.Lock()
	out := slices.Clone(c.failures)
	c.mu.Unlock()
	daemons := slices.Clone(c.aggregators)
	for _, n := range c.nodes {
		daemons = append(daemons, c.agents[n.Name()])
	}
	for _, d := range daemons {
		if d == nil {
			continue
		}
		if err := d.crashed(); err != nil {
			out = append(out, err.Error())
		}
	}
	for _, n := range c.nodes {
		if m := c.members[n.Name()]; m != nil {
			if err := m.crashed(); err != nil {
				out = append(out, err.Error())
			}
		}
		if a := c.apps[n.Name()]; a != nil {
			if err := a.crashed(); err != nil {
				out = append(out, err.Error())
			}
		}
	}
	return out
}

// close takes everything down, in the order in which things use each other: the
// product, the traffic, etcd before its disk, the namespaces. It may be called on
// a cluster that is half built.
func (c *cluster) close(ctx context.Context) error {
	c.mu.Lock()
	done := c.closed
	c.closed = true
	c.mu.Unlock()
	if done {
		return nil
	}
	var problems []error
	collect := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	for _, d := range c.agents {
		d.kill()
	}
	for _, d := range c.aggregators {
		if d != nil {
			d.kill()
		}
	}
	for _, a := range c.apps {
		a.close()
	}
	for _, m := range c.members {
		collect(m.close(ctx))
	}
	c.stopServices()
	c.serving.Wait()
	if c.fabric != nil {
		collect(c.fabric.Close())
	}
	var machines []*machine.Machine
	for _, n := range c.nodes {
		if n != nil {
			machines = append(machines, n.Machine)
		}
	}
	for _, d := range c.aggregators {
		if d != nil {
			d.http.CloseIdleConnections()
			machines = append(machines, d.machine)
		}
	}
	for _, d := range c.agents {
		d.http.CloseIdleConnections()
	}
	machines = append(machines, c.servicesMachine, c.spineMachine, c.fabricMachine)
	for _, m := range machines {
		if m != nil {
			collect(m.Close())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.logs {
		collect(f.Close())
	}
	return errors.Join(problems...)
}

// namespace adapts a machine to what the fabric wants of a namespace.
type namespace struct{ m *machine.Machine }

func (n namespace) Do(fn func() error) error { return n.m.Do("", fn) }

func (n namespace) Path() string { return fmt.Sprintf("/proc/%d/ns/net", n.m.PID()) }
