// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
)

// Names below the zone that every server has.
const (
	smallName = "small"
	largeName = "large"
	hugeName  = "huge"
)

// maxTCP is what the two bytes of length before a message can say, RFC 1035 section
// 4.2.2.
const maxTCP = 1<<16 - 1

// Mode is how the server treats a client.
type Mode string

// The modes.
const (
	// Healthy answers.
	Healthy Mode = "healthy"
	// All answers nothing: over UDP no datagram comes back, over TCP the connection is
	// taken and stays silent.
	All Mode = "all"
	// Large loses the answers whose message is longer than 512 bytes, over UDP and TCP
	// alike. A truncated answer is a short one and passes.
	Large Mode = "large"
)

// Modes returns all modes.
func Modes() []Mode { return []Mode{Healthy, All, Large} }

// Config says what a server knows. The zero value has the zone lab.plumb.test.
type Config struct {
	// Zone is lab.plumb.test when left empty.
	Zone string
	// Names are further names below the zone, for example the services of the lab, with
	// what A and AAAA answer. The name small is 192.0.2.1 and 2001:db8::1 unless it is
	// given here.
	Names map[string][]netip.Addr
	// LargeBytes is the length of the DNS message that large's TXT answers, 513 to
	// 4096. It is 1372 when left 0, which over IPv4 and UDP is an IP packet of 1,400
	// bytes; over IPv6 headers are 20 bytes longer.
	LargeBytes int
	// HugeBytes is the same for huge, 4097 to 65535, which never fits into UDP. It is
	// 8000 when left 0.
	HugeBytes int
}

// A Server answers for one zone, and says of all else that it does not exist. Safe
// for concurrent use.
type Server struct {
	zone  zone
	modes byclient.Table[Mode]
}

// New returns a healthy server that is not serving yet. It fails on a size out of
// range and on what is no name.
func New(cfg Config) (*Server, error) {
	if cfg.Zone == "" {
		cfg.Zone = "lab.plumb.test"
	}
	if cfg.LargeBytes == 0 {
		cfg.LargeBytes = 1372
	}
	if cfg.HugeBytes == 0 {
		cfg.HugeBytes = 8000
	}
	if cfg.LargeBytes <= minUDP || cfg.LargeBytes > maxUDP {
		return nil, fmt.Errorf("name server: a large answer of %d bytes: choose from %d to %d", cfg.LargeBytes, minUDP+1, maxUDP)
	}
	if cfg.HugeBytes <= maxUDP || cfg.HugeBytes > maxTCP {
		return nil, fmt.Errorf("name server: a huge answer of %d bytes: choose from %d to %d", cfg.HugeBytes, maxUDP+1, maxTCP)
	}
	names := map[string][]netip.Addr{
		smallName: {netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})},
	}
	for name, addresses := range cfg.Names {
		names[name] = addresses
	}
	cfg.Names = names
	z, err := newZone(cfg)
	if err != nil {
		return nil, err
	}
	return &Server{zone: z}, nil
}

// SetMode makes the server treat the clients of these prefixes, or all of them when
// none is given, in this mode from now on; Healthy takes a fault back. Questions
// that were lost meanwhile stay so. It fails on an unknown mode.
func (s *Server) SetMode(mode Mode, clients ...netip.Prefix) error {
	if !slices.Contains(Modes(), mode) {
		return fmt.Errorf("name server: no mode %q: it has %q", mode, Modes())
	}
	s.modes.Set(mode, clients...)
	return nil
}

// Serve answers over UDP and TCP until ctx is done, then closes both and every
// connection and returns nil. It may be called for further pairs at the same time.
func (s *Server) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() {
		udp.Close()
		tcp.Close()
	})()
	group.Go(func() error { return s.serveUDP(ctx, udp) })
	group.Go(func() error { return s.serveTCP(ctx, tcp) })
	return group.Wait()
}

// reply returns what a message gets, nil for nothing.
func (s *Server) reply(client net.Addr, message []byte, overUDP bool) []byte {
	mode := s.modes.For(byclient.Addr(client))
	query, ok := parse(message)
	if !ok || mode == All {
		return nil
	}
	tcp, udp, err := s.zone.answer(query)
	if err != nil {
		// A question that can be read and not be repeated.
		return nil
	}
	answer := tcp
	if overUDP {
		answer = udp
	}
	if mode == Large && len(answer) > minUDP {
		return nil
	}
	return answer
}

func (s *Server) serveUDP(ctx context.Context, conn net.PacketConn) error {
	buf := make([]byte, maxUDP)
	for {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("name server: read a question on %s: %w", conn.LocalAddr(), err)
		}
		if answer := s.reply(from, buf[:n], true); answer != nil {
			// An answer that cannot be sent is one that is lost: the client asks again.
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

func (s *Server) serveTCP(ctx context.Context, listener net.Listener) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	// Ended before the wait, so that no connection outlives an error of the listener.
	conversing, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		conn, err := listener.Accept()
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("name server: accept on %s: %w", listener.Addr(), err)
		}
		connections.Go(func() { s.converse(conversing, conn) })
	}
}

// converse answers the questions of one connection one by one until it ends. There
// is no limit on its idling: TCP's own keep-alive ends one whose client is gone.
func (s *Server) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		message, err := readMessage(conn)
		if err != nil {
			return
		}
		answer := s.reply(conn.RemoteAddr(), message, false)
		if answer == nil {
			continue
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
		if _, err := conn.Write(append(framed, answer...)); err != nil {
			return
		}
	}
}

// readMessage reads one message with its length before it, RFC 1035 section 4.2.2.
func readMessage(from io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	if len(message) == 0 {
		return nil, errors.New("a message without a byte")
	}
	_, err := io.ReadFull(from, message)
	return message, err
}
