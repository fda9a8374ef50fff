// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/bpf"
)

// A NodeView says which network namespaces are the node's, and whose.
type NodeView interface {
	// Contains is asked only when Filtered.
	Contains(netns uint32) bool
	// Filtered is false when everything on this kernel is this node's.
	Filtered() bool
	Refresh(ctx context.Context) error
	PodByNetns(netns uint32) (uid string, ok bool)
}

// An Inventory has the node's devices. *link.Probe is one.
type Inventory interface {
	// Inventory may return nil, which holds nothing.
	Inventory() *link.Inventory
	Refresh(ctx context.Context) error
}

// Config is what a Probe is made of.
type Config struct {
	NodeView  NodeView
	Inventory Inventory
	// ProcPath and SysPath are where /proc and /sys are mounted; empty means there.
	ProcPath, SysPath string
	Clock             *hostclock.Clock
	Log               *slog.Logger
	// Registerer gets the programs' own counters. Optional.
	Registerer prometheus.Registerer
	// BPF sets the sizes of the kernel's maps. Optional.
	BPF bpf.OversizeOptions
}

// A Probe counts packets that were dropped for their size. Sample is not safe for
// concurrent use with itself; everything else is.
type Probe struct {
	cfg   Config
	log   *slog.Logger
	sites map[string]site
	// inventory is the present content of cfg.Inventory.
	inventory func() devices
	// kernel is nil when the programs could not be loaded; blind then says why.
	kernel *bpf.Oversize
	blind  string

	// The rest of the fields before mu belongs to Sample.
	table     *table
	locator   *locator
	modules   string
	others    map[uint64]string
	ignored   map[uint32]uint64
	refreshed uint64
	creates   series
	fails     series
	counted   *fragments
	countedAt uint64

	mu sync.Mutex
	// watchedSince is when the drop hook was confirmed, CLOCK_BOOTTIME in ns.
	watchedSince   uint64
	dropDetail     string
	siteDetail     string
	siteCount      int
	adaptConfirmed bool
	adaptDetail    string
	// adaptLost is true after a confirmed hook could not be attached again.
	adaptLost bool
	// watching is true while Watch runs.
	watching bool
	closed   bool
}

var (
	_ probe.Watcher = (*Probe)(nil)
	_ probe.Hooked  = (*Probe)(nil)
)

// New loads the programs, attaches the drop hook and confirms it with a packet of
// its own. It succeeds where that is impossible: the probe then reports what the
// hook would have measured as unknown, with the reason, and the rest as ever.
func New(cfg Config) (*Probe, error) {
	if cfg.NodeView == nil || cfg.Inventory == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("make the oversize probe: NodeView, Inventory, Clock and Log are needed")
	}
	if cfg.ProcPath == "" {
		cfg.ProcPath = "/proc"
	}
	if cfg.SysPath == "" {
		cfg.SysPath = "/sys"
	}
	p := &Probe{
		cfg:       cfg,
		log:       cfg.Log.With("component", "oversize"),
		sites:     sites(),
		table:     newTable(),
		others:    map[uint64]string{},
		ignored:   map[uint32]uint64{},
		inventory: func() devices { return cfg.Inventory.Inventory() },
	}
	p.locator = &locator{table: p.sites, pods: cfg.NodeView, other: p.nameOther}
	opts := cfg.BPF
	opts.SysPath, opts.ProcPath = cfg.SysPath, cfg.ProcPath
	kernel, err := bpf.LoadOversize(opts)
	if err != nil {
		p.blind = err.Error()
		p.adaptDetail = p.blind
		p.log.Warn("Packets dropped for their size are not watched", "error", err)
		return p, nil
	}
	p.kernel = kernel
	p.locator.reasons = kernel.Reasons()
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(&collector{kernel: kernel}); err != nil {
			return nil, errors.Join(fmt.Errorf("register the metrics of the oversize probe: %w", err), p.Close())
		}
	}
	p.loadSites()
	if err := kernel.SetTunnelPorts(tunnelPorts(p.inventory().Overlays())); err != nil {
		p.log.Warn("Tunnels cannot be told to the oversize programs", "error", err)
	}
	p.confirm()
	return p, nil
}

// Name is "oversize".
func (p *Probe) Name() string { return "oversize" }

// Close detaches the programs. The probe must not be sampled afterwards.
func (p *Probe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kernel == nil || p.closed {
		return nil
	}
	p.closed = true
	if err := p.kernel.Close(); err != nil {
		return fmt.Errorf("detach the oversize programs: %w", err)
	}
	return nil
}

// Hooks reports the drop hook, the adaptation hook, and the two tables that give
// meaning to what they see.
func (p *Probe) Hooks() []probe.Hook {
	p.mu.Lock()
	defer p.mu.Unlock()
	drop := probe.Hook{Signal: "oversize.drop", Detail: p.dropDetail}
	adapt := probe.Hook{Signal: "oversize.adapt", Detail: p.adaptDetail}
	sites := probe.Hook{Signal: "oversize.site", Detail: p.siteDetail}
	reason := probe.Hook{Signal: "oversize.reason"}
	if p.kernel == nil {
		drop.Detail, adapt.Detail, sites.Detail, reason.Detail = p.blind, p.blind, p.blind, p.blind
		return []probe.Hook{drop, adapt, sites, reason}
	}
	if p.watchedSince != 0 {
		drop.Rung, drop.Confirmed = p.dropRung(), true
	}
	if p.adaptConfirmed {
		adapt.Rung, adapt.Confirmed = adaptRung, true
	}
	if p.siteCount > 0 {
		sites.Rung, sites.Confirmed = "kallsyms", true
	}
	if n := len(p.kernel.Reasons()); n > 0 {
		reason.Rung, reason.Confirmed = "BTF enum skb_drop_reason", true
	} else {
		reason.Detail = "this kernel gives no drop reasons (they came with 5.17); the function that dropped decides"
	}
	return []probe.Hook{drop, adapt, sites, reason}
}

const adaptRung = "tp_btf/net_dev_start_xmit"

func (p *Probe) dropRung() string {
	if p.kernel == nil {
		return ""
	}
	return fmt.Sprintf("tp_btf/kfree_skb:%d", p.kernel.Arguments())
}

// loadSites tells the program where the size checks are. It reads again only
// after a module was loaded or unloaded, since bridge, veth and the tunnels may be
// modules.
func (p *Probe) loadSites() {
	modules, err := os.ReadFile(filepath.Join(p.cfg.ProcPath, "modules"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.log.Warn("Loaded modules cannot be listed", "error", err)
	}
	if p.locator.symbols != nil && string(modules) == p.modules {
		return
	}
	p.modules = string(modules)
	found, err := readSymbols(p.kallsyms(), p.sites)
	if err == nil {
		err = p.kernel.SetSites(found.ranges(p.sites))
	}
	detail := ""
	if err != nil {
		detail = err.Error()
		found = nil
		p.log.Warn("Size checks of the kernel cannot be located", "error", err)
	}
	p.locator.symbols = found
	clear(p.others)
	p.mu.Lock()
	p.siteDetail, p.siteCount = detail, len(found)
	p.mu.Unlock()
}

func (p *Probe) kallsyms() string { return filepath.Join(p.cfg.ProcPath, "kallsyms") }

// maxOthers bounds the names kept of functions outside of the table; the kernel
// has four that say PKT_TOO_BIG.
const maxOthers = 64

func (p *Probe) nameOther(address uint64) string {
	if name, ok := p.others[address]; ok {
		return name
	}
	if len(p.others) >= maxOthers {
		return unknownFunction
	}
	name, err := nameOf(p.kallsyms(), address)
	if err != nil {
		p.log.Debug("A dropping function has no name", "error", err)
		name = unknownFunction
	}
	p.others[address] = name
	return name
}
