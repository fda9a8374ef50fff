// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const udpPort = 7000

// A sink receives datagrams and remembers when and how long they were.
type sink struct {
	conn *net.UDPConn
	done chan struct{}

	mu       sync.Mutex
	lengths  map[int]int
	bytes    int
	first    time.Time
	last     time.Time
	received int
	delays   []time.Duration
}

// sink opens a receiver on a node. It ends with the test.
func (b *bed) sink(node string) *sink {
	b.t.Helper()
	s := &sink{done: make(chan struct{}), lengths: map[int]int{}}
	require.NoError(b.t, b.nodes[node].Do(func() error {
		var err error
		s.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(b.address(node)), udpPort)))
		if err != nil {
			return err
		}
		raw, err := s.conn.SyscallConn()
		if err != nil {
			return err
		}
		// Beyond net.core.rmem_max, so that nothing is lost here.
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) })
		if controlErr != nil {
			return controlErr
		}
		return err
	}))
	go s.read(b.lengthOverPing())
	b.t.Cleanup(func() {
		s.conn.Close()
		<-s.done
	})
	return s
}

func (s *sink) read(headers int) {
	defer close(s.done)
	buf := make([]byte, 65536)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		now := time.Now()
		s.mu.Lock()
		if s.received == 0 {
			s.first = now
		}
		s.last = now
		s.received++
		s.lengths[n+headers]++
		s.bytes += n + headers
		if n >= 8 {
			s.delays = append(s.delays, now.Sub(time.Unix(0, int64(binary.NativeEndian.Uint64(buf)))))
		}
		s.mu.Unlock()
	}
}

// got is how many packets of an IP length came.
func (s *sink) got(length int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lengths[length]
}

// typicalDelay is the median of the ways' times.
func (s *sink) typicalDelay() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.delays)
	return s.delays[len(s.delays)/2]
}

// A source sends datagrams to another node.
type source struct {
	t       *testing.T
	conn    *net.UDPConn
	headers int
}

// source opens a sender on a node. It ends with the test.
func (b *bed) source(from, to string) *source {
	b.t.Helper()
	s := &source{t: b.t, headers: b.lengthOverPing()}
	require.NoError(b.t, b.nodes[from].Do(func() error {
		var err error
		s.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(b.address(to)), udpPort)))
		return err
	}))
	b.t.Cleanup(func() { s.conn.Close() })
	return s
}

// control works on the socket.
func (s *source) control(fn func(fd int) error) {
	s.t.Helper()
	raw, err := s.conn.SyscallConn()
	require.NoError(s.t, err)
	var inner error
	require.NoError(s.t, raw.Control(func(fd uintptr) { inner = fn(int(fd)) }))
	require.NoError(s.t, inner)
}

// send sends one packet of an IP length, headers included.
func (s *source) send(length int) {
	s.t.Helper()
	payload := make([]byte, length-s.headers)
	if len(payload) >= 8 {
		binary.NativeEndian.PutUint64(payload, uint64(time.Now().UnixNano()))
	}
	_, err := s.conn.Write(payload)
	// A refusal that came by ICMP concerns an earlier packet.
	if err != nil && !isRefusal(err) {
		require.NoError(s.t, err)
	}
}

func isRefusal(err error) bool {
	for _, e := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EMSGSIZE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// burst sends count packets, so slowly that no receive ring (256 packets of a veth)
// overflows.
func (s *source) burst(length, count int) {
	s.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := range count {
		if i%50 == 49 {
			<-tick.C
		}
		s.send(length)
	}
}

// rate sends packets of an IP length at bits per second for a while.
func (s *source) rate(ctx context.Context, length int, bitsPerSecond float64, lasting time.Duration) {
	s.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	sent := 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		passed := time.Since(start)
		if passed > lasting {
			return
		}
		for ; sent < passed.Seconds()*bitsPerSecond; sent += float64(length) * 8 {
			s.send(length)
		}
	}
}
