// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
)

// NodeView says which network namespaces are the node's; *nodeview.View is one.
type NodeView interface {
	// Refresh scans again.
	Refresh(ctx context.Context) error
	// Namespaces returns the outcome of the last scan, exactly one of them Own.
	Namespaces() []nodeview.Namespace
	// Filtered is true when other nodes share the kernel.
	Filtered() bool
	// Unreadable is how many processes did not show their namespace.
	Unreadable() int
}

// Config is what a Probe depends on.
type Config struct {
	NodeView NodeView
	// ProcPath is the proc file system, normally /proc.
	ProcPath string
	Log      *slog.Logger
	// Registerer takes the probe's own metrics; nil registers none.
	Registerer prometheus.Registerer
	// Monotonic reads a clock in nanoseconds that never goes back; that of
	// hostclock when nil.
	Monotonic func() uint64
}

// A Probe reads the node's devices. Its methods may be called from any
// goroutine; Sample and Refresh wait for one another.
type Probe struct {
	view NodeView
	log  *slog.Logger
	mono func() uint64

	conn    *conn
	generic *conn // nil where the kernel has no generic netlink
	ownFD   int
	events  *events

	// turn holds a token while nobody scans; a channel, so that waiting for it
	// ends with the context.
	turn chan struct{}
	// What follows belongs to the holder of the token.
	fib        *fibCache
	drops      dropWatch
	pods       *podFacts
	podAge     time.Duration
	generation uint64
	lastOwn    int
	last       *result
	warned     string // what the last scan could not read

	inventory  atomic.Pointer[Inventory]
	unreadable atomic.Int64 // namespaces that the last scan could not read

	hookMu sync.Mutex
	hooks  []probe.Hook
}

// result is what one scan found out.
type result struct {
	world  *world
	survey *survey
	pods   *podFacts
}

var (
	_ probe.Watcher = (*Probe)(nil)
	_ probe.Hooked  = (*Probe)(nil)
)

// New opens the probe's sockets in the network namespace of the calling thread,
// which must be the one that the node view calls the agent's own. Close releases
// them.
func New(cfg Config) (*Probe, error) {
	if cfg.NodeView == nil {
		return nil, errors.New("make link probe: no node view given")
	}
	if cfg.ProcPath == "" {
		cfg.ProcPath = "/proc"
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	mono := cfg.Monotonic
	if mono == nil {
		mono = hostclock.New().Monotonic
	}
	p := &Probe{
		view: cfg.NodeView, log: log, mono: mono,
		ownFD: -1, turn: make(chan struct{}, 1), podAge: podSweepAge,
	}
	p.fib = newFIBCache(p.now)
	p.turn <- struct{}{}
	if err := p.open(cfg.ProcPath); err != nil {
		return nil, errors.Join(fmt.Errorf("make link probe: %w", err), p.Close())
	}
	if err := p.register(cfg.Registerer); err != nil {
		return nil, errors.Join(fmt.Errorf("make link probe: %w", err), p.Close())
	}
	p.selfTest()
	return p, nil
}

func (p *Probe) open(procPath string) error {
	var err error
	path := filepath.Join(procPath, "thread-self/ns/net")
	if p.ownFD, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		p.ownFD = -1
		return fmt.Errorf("open %s: %w", path, err)
	}
	if p.conn, err = dial(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("%w: %w", probe.ErrNotSupported, err)
	}
	if p.events, err = subscribe(); err != nil {
		return fmt.Errorf("%w: %w", probe.ErrNotSupported, err)
	}
	// Only WireGuard's endpoints need it; a kernel without it has no WireGuard.
	if p.generic, err = dial(unix.NETLINK_GENERIC); err != nil {
		p.log.Debug("generic netlink is not available", "error", err)
	}
	return nil
}

// Close releases the sockets. Watch must have returned.
func (p *Probe) Close() error {
	var errs []error
	errs = append(errs, p.conn.close(), p.generic.close())
	if p.events != nil {
		errs = append(errs, p.events.close())
	}
	if p.ownFD >= 0 {
		errs = append(errs, unix.Close(p.ownFD))
		p.ownFD = -1
	}
	return errors.Join(errs...)
}

// Name is "link".
func (p *Probe) Name() string { return "link" }

func (p *Probe) now() time.Duration { return time.Duration(p.mono()) }

// Inventory returns the devices as of the last scan; empty before the first.
func (p *Probe) Inventory() *Inventory { return p.inventory.Load() }

// Refresh scans all devices now and replaces the inventory. It costs as much as
// a sample (some milliseconds on a node with 110 pods): callers that meet many
// unknown devices should ask once for all of them.
func (p *Probe) Refresh(ctx context.Context) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	return p.scan(ctx)
}

// Sample scans all devices and reports them. It fails only when the agent's own
// namespace cannot be read. Devices of others that cannot are missing, and the
// node's own observation says so: an error would take back what was read.
func (p *Probe) Sample(ctx context.Context, dst *evidence.Sample) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	if err := p.scan(ctx); err != nil {
		return err
	}
	p.drops.observe(p.now(), p.last.world)
	p.report(dst)
	return nil
}

func (p *Probe) take(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the scan under way: %w", context.Cause(ctx))
	}
}

func (p *Probe) give() { p.turn <- struct{}{} }

// scan reads the world and everything that is derived from it.
func (p *Probe) scan(ctx context.Context) error {
	// Changes are taken note of before reading, so that one that comes during the
	// scan is seen by the next.
	generation, err := p.events.drain()
	if err != nil {
		return err
	}
	if generation != p.generation {
		p.generation = generation
		p.fib.forget()
	}
	p.fib.expire()
	w, err := p.readWorld(ctx)
	if err != nil {
		return err
	}
	v, err := p.survey(w)
	if err != nil {
		return err
	}
	pods, err := p.podFactsOf(ctx, v)
	if err != nil {
		return err
	}
	ports := map[deviceID]uint16{}
	for id, f := range v.done {
		if f != nil && f.port != 0 {
			ports[id] = f.port
		}
	}
	p.inventory.Store(w.classify(v.underlay, ports))
	p.unreadable.Store(int64(len(w.failures)))
	p.last = &result{w, v, pods}
	p.updateHooks()
	return nil
}

// within runs fn with a route socket of a namespace: the probe's own, or one on
// a thread that entered it.
func (p *Probe) within(s *space, fn func(*conn) error) error {
	if s.ns.Own {
		return fn(p.conn)
	}
	return p.enterSpace(s, unix.NETLINK_ROUTE, fn)
}

func (p *Probe) withinGeneric(s *space, fn func(*conn) error) error {
	if !s.ns.Own {
		return p.enterSpace(s, unix.NETLINK_GENERIC, fn)
	}
	if p.generic == nil {
		return errors.New("generic netlink is not available")
	}
	return fn(p.generic)
}

func (p *Probe) enterSpace(s *space, protocol int, fn func(*conn) error) error {
	fd, err := openNamespace(s.ns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return visit(p.ownFD, func(v *visitor) error { return v.enter(fd, protocol, fn) })
}
