// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quicData is the payload of a QUIC sender's datagrams before it has found that
	// more passes: BASE_PLPMTU (RFC 8899 section 5.1.2, RFC 9000 section 14).
	quicData = 1200
	// quicEvery is how often data is sent.
	quicEvery = 50 * time.Millisecond
	// quicProbes is MAX_PROBES, and quicProbeEvery the least PROBE_TIMER (RFC 8899
	// sections 5.1.2 and 5.1.1).
	quicProbes     = 3
	quicProbeEvery = time.Second
	// quicAck is the payload of an acknowledgement.
	quicAck = 32
	// maxPacket is the largest IP packet.
	maxPacket = 65535
)

// QUICProbes has a sender do what a QUIC sender with path MTU discovery does (RFC
// 8899): small data all the time, and a larger probe that must not be fragmented,
// repeated and given up when nothing acknowledges it. Lost probes are no fault.
type QUICProbes struct {
	// Targets are QUIC addresses of a Receiver, of either family.
	Targets []netip.AddrPort `json:"targets"`
	// Sizes are probed one after the other until one is given up; bytes of the IP
	// packet.
	Sizes []int `json:"sizes"`
}

func (q *QUICProbes) check() error {
	if len(q.Targets) == 0 || len(q.Sizes) == 0 {
		return errors.New("quicProbes needs targets and sizes")
	}
	for _, target := range q.Targets {
		if !target.IsValid() || target.Port() == 0 {
			return fmt.Errorf("quicProbes: the target %s is no address and port", target)
		}
	}
	for _, size := range q.Sizes {
		if size <= quicData || size > maxPacket {
			return fmt.Errorf("quicProbes: a probe of %d bytes; it must have more than the data's %d and at most %d", size, quicData, maxPacket)
		}
	}
	return nil
}

func (q *QUICProbes) run(ctx context.Context, out *output) {
	var all sync.WaitGroup
	for _, target := range q.Targets {
		all.Go(func() {
			if err := q.to(ctx, target, out); err != nil {
				out.put(Event{Type: Noise, At: time.Now(), Detail: fmt.Sprintf("%s to %s: %s", QUIC, target, plain(err))})
			}
		})
	}
	all.Wait()
}

func (q *QUICProbes) to(ctx context.Context, target netip.AddrPort, out *output) error {
	conn, err := (&net.Dialer{Control: unfragmented}).DialContext(ctx, "udp", target.String())
	if err != nil {
		return err
	}
	defer ends(ctx, conn)()
	var acked atomic.Uint64 // the size of the largest probe that came through
	var reader sync.WaitGroup
	reader.Go(func() {
		answer := make([]byte, quicAck)
		for ctx.Err() == nil {
			// Other errors are answers to what was sent, and QUIC does not heed them.
			if n, err := conn.Read(answer); err == nil && n >= 8 {
				acked.Store(max(acked.Load(), binary.BigEndian.Uint64(answer)))
			}
		}
	})
	defer reader.Wait()
	headers := 20 + 8
	if target.Addr().Unmap().Is6() {
		headers = 40 + 8
	}
	data := make([]byte, quicData)
	s := search{sizes: q.Sizes, say: func(words string) {
		out.put(Event{Type: Noise, At: time.Now(), Detail: fmt.Sprintf("%s to %s: %s", QUIC, target, words)})
	}}
	next := time.Now().Add(quicProbeEvery)
	schedule(ctx, quicEvery, func() {
		_, _ = conn.Write(data)
		if now := time.Now(); !now.Before(next) {
			next = now.Add(quicProbeEvery)
			if size := s.next(int(acked.Load())); size != 0 {
				probe := make([]byte, size-headers)
				binary.BigEndian.PutUint64(probe, uint64(size))
				_, _ = conn.Write(probe) // too long for the device is lost as well
			}
		}
	})
	return nil
}

// A search is one for the largest packet that passes (RFC 8899 section 5.2).
type search struct {
	sizes []int
	say   func(string)
	tries int
}

// next is the size to probe now, given the largest that was acknowledged; 0: the
// search is over.
func (s *search) next(acked int) int {
	for len(s.sizes) > 0 {
		size := s.sizes[0]
		switch {
		case acked >= size:
			s.say(fmt.Sprintf("a packet of %d bytes passes", size))
			s.sizes, s.tries = s.sizes[1:], 0
			continue
		case s.tries == quicProbes:
			s.say(fmt.Sprintf("a packet of %d bytes given up after %d probes", size, s.tries))
			s.sizes = nil
			return 0
		}
		s.tries++
		return size
	}
	return 0
}

// unfragmented sets a socket to send with DF and to heed no path MTU (ip(7),
// IP_PMTUDISC_PROBE; ipv6(7)).
func unfragmented(network, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		if network == "udp4" {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
			return
		}
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	})
	return errors.Join(err, failed)
}
