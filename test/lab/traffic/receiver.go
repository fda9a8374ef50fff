// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// A receiver is what listens for all flows to a pod.
type receiver struct {
	sink  *sink
	web   *web
	echo  *echo
	conns conns
}

// receive is Receiver on any input and output.
func receive(ctx context.Context, in io.Reader, out io.Writer) error {
	input := newLines(in)
	var config ReceiverConfig
	if err := input.config(&config); err != nil {
		return err
	}
	events := newOutput(out)
	defer events.close()
	ctx, cancel := context.WithCancel(ctx)
	r := &receiver{sink: newSink(), web: newWeb(), echo: &echo{}}
	var all sync.WaitGroup
	defer func() {
		cancel()
		r.conns.close()
		all.Wait()
		r.report(events)
	}()
	if err := r.listen(ctx, config, all.Go); err != nil {
		return err
	}
	all.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.report(events)
			}
		}
	})
	events.put(Event{Type: Ready, At: time.Now()})
	return input.commands(events, r.apply)
}

func (r *receiver) apply(c Command) error {
	if c.Receiver == "" {
		return fmt.Errorf("%s is for a sender, and this is a receiver", c)
	}
	return r.sink.set(c.Receiver)
}

func (r *receiver) listen(ctx context.Context, config ReceiverConfig, run func(func())) error {
	type kind struct {
		addresses []netip.AddrPort
		listen    func(context.Context, netip.AddrPort, *conns, func(func())) error
	}
	for _, k := range []kind{
		{config.TCP, r.sink.listen}, {config.HTTP, r.web.listen},
		{config.UDP, r.echo.listen}, {config.QUIC, r.echo.acknowledge},
		{config.Hold, hold},
	} {
		for _, address := range k.addresses {
			if err := k.listen(ctx, address, &r.conns, run); err != nil {
				return fmt.Errorf("listen on %s: %w", address, err)
			}
		}
	}
	return nil
}

func (r *receiver) report(out *output) {
	for kind, tally := range map[Kind]*tally{TCP: &r.sink.tally, HTTP: &r.web.tally, UDP: &r.echo.tally} {
		tally.report(out, kind)
	}
}

// A tally counts what a receiver did since it was last reported.
type tally struct {
	mu      sync.Mutex
	counted Counters
}

func (t *tally) count(change func(*Counters)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.counted)
}

func (t *tally) report(out *output, kind Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counted == (Counters{}) {
		return
	}
	counters := t.counted
	if out.put(Event{Type: Progress, Kind: kind, At: time.Now(), Counters: &counters}) {
		t.counted = Counters{}
	}
}

// conns are what is open: closing them ends who waits for them.
type conns struct {
	mu     sync.Mutex
	open   map[io.Closer]struct{}
	closed bool
}

// add takes a connection, and closes it at once when all have been closed.
func (c *conns) add(conn io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return false
	}
	if c.open == nil {
		c.open = map[io.Closer]struct{}{}
	}
	c.open[conn] = struct{}{}
	return true
}

// end closes one.
func (c *conns) end(conn io.Closer) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	conn.Close()
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		conn.Close()
	}
}
