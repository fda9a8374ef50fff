// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/plumb-dev/plumb/bpf"
)

const (
	// lease is how long the adaptation hook looks at packets after the agent last
	// said so.
	lease = 5 * time.Second
	// wakeEvery bounds how often drops wake the agent: under a storm each sample
	// would otherwise follow the one before.
	wakeEvery = 500 * time.Millisecond
)

// Watch wakes the agent when a flow is dropped, and keeps the adaptation hook
// attached while drops go on.
func (p *Probe) Watch(ctx context.Context, wake func()) error {
	if p.kernel == nil {
		<-ctx.Done()
		return nil
	}
	reader, err := p.kernel.Wakes()
	if err != nil {
		return err
	}
	edges := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- readEdges(reader, edges) }()

	p.setWatching(true)
	defer p.setWatching(false)
	w := &watcher{probe: p, wake: wake}
	err = w.run(ctx, edges, done)
	// Closing ends readEdges.
	err = errors.Join(err, reader.Close(), <-done)
	return errors.Join(err, p.kernel.DetachAdapt())
}

func readEdges(reader *ringbuf.Reader, edges chan<- struct{}) error {
	var record ringbuf.Record
	for {
		switch err := reader.ReadInto(&record); {
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read the wake-up buffer: %w", err)
		}
		select {
		case edges <- struct{}{}:
		default: // One that is not read yet says the same.
		}
	}
}

type watcher struct {
	probe *Probe
	wake  func()

	lastEdge time.Time
	lastWake time.Time
	pending  bool
	called   map[bpf.FlowKey]bool
}

func (w *watcher) run(ctx context.Context, edges <-chan struct{}, done chan error) error {
	// Idle, nothing ticks.
	var (
		ticker *time.Ticker
		ticks  <-chan time.Time
	)
	stop := func() {
		if ticker != nil {
			ticker.Stop()
			ticker, ticks = nil, nil
		}
	}
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-done:
			// The caller waits for it once more.
			done <- nil
			return err
		case <-edges:
			w.lastEdge = time.Now()
			w.attach()
			w.request()
			if ticker == nil {
				ticker = time.NewTicker(wakeEvery)
				ticks = ticker.C
			}
		case <-ticks:
			if !w.tick() {
				stop()
			}
		}
	}
}

// request wakes the agent now, or with the next tick when it was just woken.
func (w *watcher) request() {
	if time.Since(w.lastWake) < wakeEvery {
		w.pending = true
		return
	}
	w.pending, w.lastWake = false, time.Now()
	w.wake()
}

func (w *watcher) attach() {
	p := w.probe
	err := errors.Join(p.kernel.WatchUntil(p.cfg.Clock.Boottime()+uint64(lease)), p.kernel.AttachAdapt())
	p.setAdapt(err)
}

// tick says whether there is anything left to watch.
func (w *watcher) tick() bool {
	p := w.probe
	now := p.cfg.Clock.Boottime()
	flows, err := p.kernel.Flows()
	if err != nil {
		p.log.Warn("Flows that were dropped cannot be read", "error", err)
	}
	// A flow that is called, or close to it, is watched until it leaves the
	// window: a retransmission that fits may come many seconds after the drop.
	suspects := false
	called := map[bpf.FlowKey]bool{}
	for k, v := range flows {
		if v.Streak < 2 || age(now, v.StreakLastNs) >= window {
			continue
		}
		suspects = true
		if s, ok := stallOf(k, v, now, uint64(v.Streak)); ok && s.called() {
			called[k] = true
		}
	}
	if !sameKeys(called, w.called) {
		w.called = called
		w.pending = true
	}
	if w.pending {
		w.request()
	}
	if suspects || time.Since(w.lastEdge) < lease {
		w.attach()
		return true
	}
	if err := p.kernel.DetachAdapt(); err != nil {
		p.log.Warn("The adaptation hook stays on the packet path", "error", err)
	}
	return w.pending
}

func sameKeys(a, b map[bpf.FlowKey]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return true
}

func (p *Probe) setWatching(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watching = on
}

// setAdapt notes whether the adaptation hook is where it should be.
func (p *Probe) setAdapt(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.adaptLost = p.adaptLost || p.adaptConfirmed
		p.adaptConfirmed, p.adaptDetail = false, err.Error()
		return
	}
	if p.adaptLost {
		p.adaptLost, p.adaptConfirmed, p.adaptDetail = false, true, ""
	}
}
