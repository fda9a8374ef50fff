// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idleLimit ends a connection whose sender has gone without a word. It is above
	// every sender's patience.
	idleLimit = time.Minute
	// slowBuffer is SO_RCVBUF of the slow mode; the kernel doubles it for its own
	// overhead (socket(7)), and offers about half of that as the window. It holds
	// several full segments, so what arrives within the window is never dropped.
	slowBuffer = 16 << 10
	// slowBytes are read per slowEvery in the slow mode: 10 KiB/s.
	slowBytes = 1 << 10
	slowEvery = 100 * time.Millisecond
)

// A sink takes what comes over TCP and answers with how much that was, in 8 bytes,
// big endian. It has two listening sockets per address, because a receive buffer
// that was once set is never again the kernel's to tune: a program that the kernel
// asks for every new connection (SO_ATTACH_REUSEPORT_CBPF) chooses the ordinary one
// or the one with the small buffer.
type sink struct {
	tally   tally
	slow    atomic.Bool
	buffers sync.Pool
	// first are the first listeners of every group.
	first []*net.TCPListener
}

func newSink() *sink {
	return &sink{buffers: sync.Pool{New: func() any { return new([chunk]byte) }}}
}

// listen opens both listeners of an address.
func (s *sink) listen(ctx context.Context, address netip.AddrPort, open *conns, run func(func())) error {
	at := address.String()
	for i, buffer := range []int{0, slowBuffer} {
		config := net.ListenConfig{KeepAlive: -1, Control: shared(buffer)}
		// Go listens with MPTCP otherwise, which knows no groups.
		config.SetMultipathTCP(false)
		l, err := config.Listen(ctx, "tcp", at)
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
		if i == 0 {
			at = l.Addr().String() // both have one port
			if err := choose(listener, false); err != nil {
				return err
			}
			s.first = append(s.first, listener)
		}
		run(func() { accept(ctx, listener, open, run, s.serve) })
	}
	return nil
}

// set changes the mode, of connections that exist and of those to come.
func (s *sink) set(mode Mode) error {
	s.slow.Store(mode == Slow)
	for _, l := range s.first {
		if err := choose(l, mode == Slow); err != nil {
			return err
		}
	}
	return nil
}

// shared lets several sockets listen on one address, each with a receive buffer of
// its own; 0 leaves it to the kernel.
func shared(buffer int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			if buffer != 0 && failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
			}
		})
		return errors.Join(err, failed)
	}
}

// choose has new connections of the listener's group go to its first or second
// socket, in the order in which they began to listen.
func choose(l *net.TCPListener, second bool) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	index := uint32(0)
	if second {
		index = 1
	}
	// One instruction: return the index (bpf(4), BPF_RET|BPF_K).
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: index}}
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, program)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("choose the receive buffer of new connections: %w", err)
	}
	return nil
}

func (s *sink) serve(ctx context.Context, conn *net.TCPConn) {
	total, err := s.read(ctx, conn)
	if err != nil {
		s.tally.count(func(c *Counters) { c.Failed++ })
		return
	}
	_, err = conn.Write(binary.BigEndian.AppendUint64(nil, total))
	s.tally.count(func(c *Counters) {
		if err != nil {
			c.Failed++
		} else {
			c.OK++
		}
	})
}

// read counts what comes until the sender has sent all.
func (s *sink) read(ctx context.Context, conn *net.TCPConn) (total uint64, err error) {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleLimit)); err != nil {
			return total, err
		}
		n, err := s.some(ctx, conn)
		total += uint64(n)
		s.tally.count(func(c *Counters) { c.Bytes += uint64(n) })
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// some reads once, as the mode has it.
func (s *sink) some(ctx context.Context, conn *net.TCPConn) (int, error) {
	buffer, _ := s.buffers.Get().(*[chunk]byte)
	defer s.buffers.Put(buffer)
	if !s.slow.Load() {
		return conn.Read(buffer[:])
	}
	n, err := conn.Read(buffer[:slowBytes])
	wait(ctx, slowEvery)
	return n, err
}
