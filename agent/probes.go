// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/agent/probe/clock"
	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/agent/probe/oversize"
	"github.com/plumb-dev/plumb/agent/schedule"
	"github.com/plumb-dev/plumb/agent/uplink"
)

// probeNames are the probes of this build, in the order in which they are set
// up: oversize asks link for the devices.
func probeNames() []string { return []string{"link", "oversize", "clock"} }

// probes is the agent's probe table with what the rows share.
type probes struct {
	table []schedule.Spec
	// measured is the clock probe's MeasuredTime: node clock minus true time. Nil
	// when there is no such probe.
	measured func() (offset time.Duration, sources []string, ok bool)
	closers  []io.Closer
}

// newProbes sets up every probe that is asked for. One that cannot be set up
// stays in the table with its error, so that its evidence is unknown.
func newProbes(cfg Config, hc *hostclock.Clock, kernelBoot string, up *uplink.Client, registry prometheus.Registerer) *probes {
	p := &probes{}
	view, viewErr := nodeview.New(nodeview.Config{
		ProcPath: cfg.ProcPath, RunNetnsPath: filepath.Join(cfg.RootPath, "run", "netns"),
		Log: cfg.Log,
	})
	var links *link.Probe
	linkErr := viewErr
	if viewErr == nil {
		links, linkErr = link.New(link.Config{NodeView: view, ProcPath: cfg.ProcPath, Log: cfg.Log, Registerer: registry, Monotonic: hc.Monotonic})
		if linkErr == nil {
			p.closers = append(p.closers, links)
		}
	}
	for _, name := range cfg.Probes {
		switch name {
		case "link":
			p.add(name, links, linkErr)
		case "oversize":
			if linkErr != nil {
				p.add(name, nil, fmt.Errorf("the devices of this node cannot be read, without which drops cannot be attributed: %w", linkErr))
				continue
			}
			drops, err := oversize.New(oversize.Config{
				NodeView: view, Inventory: links, ProcPath: cfg.ProcPath, SysPath: cfg.SysPath, Clock: hc,
				Log: cfg.Log, Registerer: registry,
			})
			if err == nil {
				p.closers = append(p.closers, drops)
			}
			p.add(name, drops, err)
		case "clock":
			keeper, err := newClock(cfg, hc, kernelBoot, up)
			if err == nil {
				p.measured = keeper.MeasuredTime
			}
			p.add(name, keeper, err)
		}
	}
	return p
}

func newClock(cfg Config, hc *hostclock.Clock, kernelBoot string, up *uplink.Client) (*clock.Probe, error) {
	var servers []clock.Server
	for _, text := range cfg.TimeServers {
		server, err := clock.ParseServer(text)
		if err != nil {
			return nil, err
		}
		servers = append(servers, server)
	}
	if len(servers) == 0 {
		var err error
		if servers, err = clock.DiscoverServers(cfg.RootPath); err != nil {
			// The other sources still serve; the operator's files are none of ours to
			// fail on.
			cfg.Log.Warn("configuration of the node's time daemon cannot be read", "error", err.Error())
		}
	}
	var peer clock.Peer
	if up != nil {
		peer = clock.PeerFunc(func(ctx context.Context) (clock.Exchange, error) {
			x, err := up.Exchange(ctx)
			return clock.Exchange(x), err
		})
	}
	return clock.New(clock.Config{
		Clock: hc, Servers: servers, Peer: peer,
		PTPPath: filepath.Join(cfg.SysPath, "class", "ptp"), DevPath: filepath.Join(cfg.RootPath, "dev"),
		KernelBootID: kernelBoot, Log: cfg.Log,
	})
}

// add puts a row into the table. A nil probe of a concrete type must not become
// an interface that is not nil.
func (p *probes) add(name string, one probe.Probe, err error) {
	if err != nil {
		one = nil
		if !errors.Is(err, probe.ErrNotSupported) {
			err = fmt.Errorf("set up probe %s: %w", name, err)
		}
	}
	p.table = append(p.table, schedule.Spec{Name: name, Probe: one, Err: err})
}

func (p *probes) close() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		_ = p.closers[i].Close() // the process ends; the kernel frees what is left
	}
}

// measuredTime is what the uplink may verify a certificate at: what to add to
// the node's clock, by the word of two independent groups of time sources. The
// clock probe gives the opposite sign: node clock minus true time.
func (n *node) measuredTime() (offset time.Duration, sources []string, ok bool) {
	if n.probes == nil || n.probes.measured == nil {
		return 0, nil, false
	}
	offset, sources, ok = n.probes.measured()
	return -offset, sources, ok
}
