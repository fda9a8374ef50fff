// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// pause is what a loop waits after a network that gave an error, so that it does
	// not spin.
	pause = 10 * time.Millisecond
	// holdFor is how long a connection that nobody reads is kept. A storm resets its
	// own long before.
	holdFor = 200 * time.Millisecond
)

// wait lets time pass, less when the context ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// accept serves every connection until the listener is closed.
func accept(ctx context.Context, l *net.TCPListener, open *conns, run func(func()), serve func(context.Context, *net.TCPConn)) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			wait(ctx, pause)
			continue
		}
		if open.add(conn) {
			run(func() {
				defer open.end(conn)
				serve(ctx, conn)
			})
		}
	}
}

// hold takes connections and reads nothing.
func hold(ctx context.Context, address netip.AddrPort, open *conns, run func(func())) error {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", address.String())
	if err != nil {
		return err
	}
	if !open.add(l) {
		return net.ErrClosed
	}
	listener, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("the listener is a %T", l)
	}
	run(func() {
		accept(ctx, listener, open, run, func(ctx context.Context, _ *net.TCPConn) { wait(ctx, holdFor) })
	})
	return nil
}
