// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// An echo answers datagrams.
type echo struct{ tally tally }

// listen sends every datagram back as it is.
func (e *echo) listen(ctx context.Context, address netip.AddrPort, open *conns, run func(func())) error {
	return e.open(ctx, address, open, run, maxDatagram)
}

// acknowledge sends the first bytes of every datagram back.
func (e *echo) acknowledge(ctx context.Context, address netip.AddrPort, open *conns, run func(func())) error {
	return e.open(ctx, address, open, run, quicAck)
}

func (e *echo) open(ctx context.Context, address netip.AddrPort, open *conns, run func(func()), most int) error {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", address.String())
	if err != nil {
		return err
	}
	if !open.add(conn) {
		return net.ErrClosed
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return fmt.Errorf("the socket is a %T", conn)
	}
	run(func() { e.serve(ctx, udp, most) })
	return nil
}

func (e *echo) serve(ctx context.Context, conn *net.UDPConn, most int) {
	buffer := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			wait(ctx, pause)
			continue
		}
		_, err = conn.WriteToUDPAddrPort(buffer[:min(n, most)], from)
		e.tally.count(func(c *Counters) {
			c.Bytes += uint64(n)
			if err != nil {
				c.Failed++
			} else {
				c.OK++
			}
		})
	}
}
