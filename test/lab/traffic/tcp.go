// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	// tcpMost is how many transfers of a flow run at once.
	tcpMost = 8
	// tcpPatience is how long an application waits for one.
	tcpPatience = 15 * time.Second
)

// schedule calls fn at once and then at every interval until the context ends. A
// tick that comes too late is dropped.
func schedule(ctx context.Context, every time.Duration, fn func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		fn()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// past is a deadline that ends what a connection waits for.
func past() time.Time { return time.Unix(1, 0) }

// ends has the end of the context end what the connection waits for.
func ends(ctx context.Context, conn net.Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past()) })
	return func() {
		stop()
		conn.Close()
	}
}

func (e *engine) tcp(ctx context.Context, f Flow, run func(func())) {
	l := e.newLane(f, "", tcpMost)
	schedule(ctx, f.Every, func() {
		t, ctx := l.begin(ctx, tcpPatience, f.Bytes, stage{doing: "connecting", missing: "no answer to the connection attempt"})
		if t == nil {
			return
		}
		run(func() {
			if err := e.sendTCP(ctx, f, t); err != nil {
				t.fail(ctx, err)
				return
			}
			t.done()
		})
	})
}

// sendTCP sends the bytes over a connection of their own and waits until the
// receiver has said how many it got.
func (e *engine) sendTCP(ctx context.Context, f Flow, t *transfer) error {
	conn, err := dialTCP(ctx, f.Target.String())
	if err != nil {
		return err
	}
	defer ends(ctx, conn)()
	t.reach(stage{doing: "sending", missing: "no byte acknowledged", counts: true})
	t.watch(conn)
	for left := f.Bytes; left > 0; {
		n, err := conn.Write(e.block[:min(left, blockSize)])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	var answer [8]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(answer[:]); got != uint64(f.Bytes) {
		return fmt.Errorf("the receiver got %d bytes", got)
	}
	return nil
}

// dialTCP connects without a keep-alive: that would only be noise in the network.
func dialTCP(ctx context.Context, address string) (*net.TCPConn, error) {
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("the connection is a %T", conn)
	}
	return tcp, nil
}
