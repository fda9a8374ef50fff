// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"fmt"
	"sync"
)

// A noise is the confounders of one sender. Its methods are called from one
// goroutine.
type noise struct {
	ctx     context.Context
	out     *output
	running map[Confounder]func()
}

func newNoise(ctx context.Context, out *output) *noise {
	return &noise{ctx: ctx, out: out, running: map[Confounder]func(){}}
}

// apply starts a confounder, in place of the same that runs, or ends one.
func (n *noise) apply(c Command) error {
	switch {
	case c.QUICProbes != nil:
		n.start(QUIC, func(ctx context.Context) { c.QUICProbes.run(ctx, n.out) })
	case c.TeardownStorm != nil:
		n.start(Teardown, func(ctx context.Context) { c.TeardownStorm.run(ctx, n.out) })
	case c.Stop != "":
		n.stop(c.Stop)
	default:
		return fmt.Errorf("%s is for a receiver, and this is a sender", c)
	}
	return nil
}

func (n *noise) start(which Confounder, run func(context.Context)) {
	n.stop(which)
	ctx, cancel := context.WithCancel(n.ctx)
	var ended sync.WaitGroup
	ended.Go(func() { run(ctx) })
	n.running[which] = func() {
		cancel()
		ended.Wait()
	}
}

func (n *noise) stop(which Confounder) {
	if end := n.running[which]; end != nil {
		end()
		delete(n.running, which)
	}
}

func (n *noise) close() {
	for which := range n.running {
		n.stop(which)
	}
}
