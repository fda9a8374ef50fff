// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// udpMost is how many datagrams of a flow may be unanswered at once: as many as
	// the first byte of the smallest tells apart.
	udpMost = 256
	// udpPatience is how long an application waits for one answer.
	udpPatience = 5 * time.Second
)

// A udpFlow sends from one socket and finds the answers' requests by a number in
// front.
type udpFlow struct {
	e    *engine
	f    Flow
	l    *lane
	conn *net.UDPConn

	mu      sync.Mutex
	waiting map[uint64]datagram
	next    uint64
}

// A datagram is on its way. answered ends the wait for its answer.
type datagram struct {
	t        *transfer
	answered chan error
}

func (e *engine) udp(ctx context.Context, f Flow, run func(func())) {
	u := &udpFlow{e: e, f: f, l: e.newLane(f, "", udpMost), waiting: map[uint64]datagram{}}
	request := make([]byte, f.Bytes)
	defer func() {
		if u.conn != nil {
			u.conn.Close()
		}
	}()
	schedule(ctx, f.Every, func() { u.send(ctx, request, run) })
}

// key is the number as the datagram carries it, in as many bytes as it has, 8 at
// most.
func (u *udpFlow) key(number uint64) uint64 {
	if u.f.Bytes >= 8 {
		return number
	}
	return number & (1<<(8*u.f.Bytes) - 1)
}

func (u *udpFlow) send(ctx context.Context, request []byte, run func(func())) {
	u.mu.Lock()
	number := u.key(u.next)
	_, taken := u.waiting[number]
	u.next++
	u.mu.Unlock()
	if taken {
		u.l.count(func(c *Counters) { c.Skipped++ })
		return
	}
	t, ctx := u.l.begin(ctx, udpPatience, u.f.Bytes, stage{doing: "sending a datagram", missing: fmt.Sprintf("no answer to a datagram of %d bytes", u.f.Bytes)})
	if t == nil {
		return
	}
	if err := u.dial(run); err != nil {
		t.fail(ctx, err)
		return
	}
	d := datagram{t: t, answered: make(chan error, 1)}
	u.mu.Lock()
	u.waiting[number] = d
	u.mu.Unlock()
	run(func() {
		defer u.forget(number)
		select {
		case err := <-d.answered:
			if err != nil {
				t.fail(ctx, err)
				return
			}
			t.done()
		case <-ctx.Done():
			t.fail(ctx, context.Cause(ctx))
		}
	})
	var whole [8]byte
	binary.BigEndian.PutUint64(whole[:], number)
	copy(request, whole[max(0, 8-len(request)):])
	_, err := u.conn.Write(request)
	if errors.Is(err, unix.ECONNREFUSED) {
		// It is about an earlier datagram and this one was not sent.
		u.refused(err, t)
		_, err = u.conn.Write(request)
	}
	if err != nil {
		d.answered <- err
	}
}

func (u *udpFlow) dial(run func(func())) error {
	if u.conn != nil {
		return nil
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.f.Target))
	if err != nil {
		return err
	}
	u.conn = conn
	run(func() { u.read(conn) })
	return nil
}

func (u *udpFlow) forget(number uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.waiting, number)
}

// read takes answers until the socket is closed.
func (u *udpFlow) read(conn *net.UDPConn) {
	buffer := make([]byte, u.f.Bytes+1)
	for {
		n, err := conn.Read(buffer)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			u.refused(err, nil)
			continue
		case int64(n) != u.f.Bytes:
			continue // no answer to any request
		}
		var whole [8]byte
		copy(whole[max(0, 8-n):], buffer[:n])
		u.mu.Lock()
		d, waits := u.waiting[binary.BigEndian.Uint64(whole[:])]
		u.mu.Unlock()
		if waits {
			answer(d, nil)
		}
	}
}

// refused hands an error that the socket had to the oldest datagram under way, for
// the kernel does not say which one it was about. It was not about except.
func (u *udpFlow) refused(err error, except *transfer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var oldest *datagram
	for _, d := range u.waiting {
		if d.t != except && len(d.answered) == 0 && (oldest == nil || d.t.number < oldest.t.number) {
			oldest = &d
		}
	}
	if oldest != nil {
		answer(*oldest, err)
	}
}

// answer ends a datagram's wait; the first answer holds.
func answer(d datagram, err error) {
	select {
	case d.answered <- err:
	default:
	}
}
