// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"io"
	"sync"
	"time"
)

// send is Sender on any input and output.
func send(ctx context.Context, in io.Reader, out io.Writer) error {
	input := newLines(in)
	var config SenderConfig
	if err := input.config(&config); err != nil {
		return err
	}
	if err := config.check(); err != nil {
		return err
	}
	events := newOutput(out)
	defer events.close()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	e := newEngine(events, config.StallAfter)
	watcher := make(chan struct{})
	watched, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(watcher)
		e.watch(watched)
	}()
	// The last counters are written when every flow has ended.
	defer func() {
		cancel()
		all.Wait()
		stopWatching()
		<-watcher
	}()
	for _, f := range config.Flows {
		all.Go(func() { e.flow(ctx, f, all.Go) })
	}
	noise := newNoise(ctx, events)
	defer noise.close()
	events.put(Event{Type: Ready, At: time.Now()})
	return input.commands(events, noise.apply)
}

// flow runs one flow until the context ends.
func (e *engine) flow(ctx context.Context, f Flow, run func(func())) {
	switch f.Kind {
	case TCP:
		e.tcp(ctx, f, run)
	case HTTP:
		e.http(ctx, f, run)
	case UDP:
		e.udp(ctx, f, run)
	case DNS:
		e.dns(ctx, f, run)
	}
}
