// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/plumb-dev/plumb/internal/machine"
)

// reportLimit is how long the whole cluster may take to report after its start.
const reportLimit = 60 * time.Second

// startProduct starts aggregators and agents, as unchanged as they are shipped.
func (c *cluster) startProduct(ctx context.Context) error {
	var hosts []string
	for i := range c.aggregators {
		hosts = append(hosts, c.ingest(i).Addr().String())
	}
	if err := credentials(ctx, c.programs[aggregatorProgram], c.dir.File("keys"), hosts, c.nodes); err != nil {
		return err
	}
	for i, d := range c.aggregators {
		if err := c.describeAggregator(i, d); err != nil {
			return err
		}
	}
	if err := together(ctx, c.aggregators); err != nil {
		return err
	}
	var agents []*daemon
	for _, n := range c.nodes {
		d, err := c.describeAgent(ctx, n)
		if err != nil {
			return err
		}
		c.agents[n.Name()] = d
		agents = append(agents, d)
	}
	return together(ctx, agents)
}

// together starts daemons at the same time.
func together(ctx context.Context, daemons []*daemon) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, d := range daemons {
		group.Go(func() error { return d.start(groupCtx) })
	}
	return group.Wait()
}

// ingest is where agents push to.
func (c *cluster) ingest(i int) netip.AddrPort {
	return netip.AddrPortFrom(hostIn(c.scenario.Family, aggregatorNet+i+1, 2).Addr(), ingestPort)
}

func (c *cluster) describeAggregator(i int, d *daemon) error {
	log, err := c.log(d.machine.Name())
	if err != nil {
		return err
	}
	keys := c.dir.File("keys")
	d.spec = machine.Spec{
		// What the caller has set for its own must not change what is measured.
		Name: "aggregator", Log: log, OnlyEnv: true,
		Args: []string{
			c.programs[aggregatorProgram],
			"--listen-address", c.ingest(i).String(), "--api-address", apiAddress, "--metrics-address", aggMetrics,
			"--nodes", keys + "/nodes.yaml", "--tls-cert", keys + "/server.crt", "--tls-key", keys + "/server.key",
			// The machine's own /run lasts as long as the machine: it survives a kill of the
			// aggregator and nothing else.
			"--data-dir", "/run/plumb-aggregator", "--cluster", clusterName,
		},
	}
	return nil
}

// describeAgent says how a node's agent is started. Its token and its clock are
// files that faults replace.
func (c *cluster) describeAgent(ctx context.Context, n *node) (*daemon, error) {
	log, err := c.log("agent-" + n.Name())
	if err != nil {
		return nil, err
	}
	args := []string{
		c.programs[agentProgram],
		"--aggregator-ca", c.dir.File("keys", "ca.crt"), "--token-file", c.token(n.Name()),
		"--node-name", n.Name(), "--spool-dir", "/run/plumb-agent", "--listen-address", agentMetrics,
	}
	for i := range c.aggregators {
		args = append(args, "--aggregator", "https://"+c.ingest(i).String())
	}
	for i := range timeServers {
		args = append(args, "--time-server", fmt.Sprintf("operator-%c=%s", 'a'+i, c.timeServer(i)))
	}
	if _, err := n.Run(ctx, "mkdir", "-m", "0700", "-p", "/run/plumb-agent"); err != nil {
		return nil, err
	}
	return &daemon{
		machine: n.Machine, http: httpInside(n.Machine), healthURL: "http://" + agentMetrics + "/healthz",
		spec: machine.Spec{Name: "agent", Args: args, Log: log, OnlyEnv: true, Env: []string{clockVariable + "=" + c.clockFile(n.Name())}},
	}, nil
}

func (c *cluster) token(node string) string     { return c.dir.File("keys", node+".token") }
func (c *cluster) clockFile(node string) string { return c.dir.File("clock-" + node) }

// A status is what ListNodes tells of a node.
type status struct {
	Name            string `json:"name"`
	State           string `json:"state"`
	Batches         string `json:"batches"`
	DroppedEpisodes string `json:"droppedEpisodes"`
	Probes          []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	} `json:"probes"`
}

// nodeStatus asks an aggregator for its nodes.
func (d *daemon) nodeStatus(ctx context.Context) ([]status, error) {
	raw, err := d.get(ctx, "http://"+apiAddress+"/api/v1/nodes")
	if err != nil {
		return nil, err
	}
	var list struct {
		Nodes []status `json:"nodes"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read the aggregator's nodes: %w", err)
	}
	return list.Nodes, nil
}

// waitReporting waits until every aggregator has evidence of every probe of every
// node.
func (c *cluster) waitReporting(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for _, d := range c.aggregators {
		for {
			missing := c.notReporting(ctx, d)
			if missing == "" {
				break
			}
			if t := c.troubles(); len(t) > 0 {
				return fmt.Errorf("start the cluster: %s", strings.Join(t, "; "))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				if cause := context.Cause(ctx); cause != context.DeadlineExceeded {
					return cause
				}
				return fmt.Errorf("start the cluster: %s after %s", missing, reportLimit)
			}
		}
	}
	return nil
}

// notReporting names what an aggregator still lacks, "" when nothing.
func (c *cluster) notReporting(ctx context.Context, d *daemon) string {
	list, err := d.nodeStatus(ctx)
	if err != nil {
		return fmt.Sprintf("%s does not answer: %v", d.machine.Name(), err)
	}
	for _, n := range list {
		if n.State != "reporting" {
			return fmt.Sprintf("node %s is %s", n.Name, n.State)
		}
		for _, p := range n.Probes {
			if p.State == "starting" || p.State == "no data" {
				return fmt.Sprintf("probe %s of node %s is %s", p.Name, n.Name, p.State)
			}
		}
	}
	if len(list) < len(c.nodes) {
		return fmt.Sprintf("%d of %d nodes are known", len(list), len(c.nodes))
	}
	return ""
}
