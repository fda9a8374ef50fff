// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package sntp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
)

// lastUpdate is how long ago the server claims to have been set: well within the
// 64 s that a server polls its own source at least (RFC 5905 section 7.3, a poll
// exponent of 6).
const lastUpdate = 16 * time.Second

// maxRootDelay is the end of the 16.16 format, RFC 5905 section 6.
const maxRootDelay = 1<<16*time.Second - 1

// Config says what a server claims of itself. Now is required; for the rest the zero
// value is that of an honest stratum 1 server.
type Config struct {
	// Now is the clock that the server serves.
	Now func() time.Time
	// Stratum is 1 when left 0; at most 15 (RFC 5905 figure 11), 16 being
	// unsynchronised.
	Stratum uint8
	// Leap is the leap indicator, 0 to 3 (RFC 5905 figure 9): none, 61 seconds, 59
	// seconds, unsynchronised.
	Leap uint8
	// Precision of the clock as an exponent of two seconds; -20, a microsecond, when
	// left 0.
	Precision int8
	// ReferenceID is four letters at stratum 1, "GPS" when left empty, and the IPv4
	// address of the source above (RFC 5905 figure 12).
	ReferenceID [4]byte
	// RootDelay and RootDispersion are the claims about the server's own error, 0 to
	// 65,535 s.
	RootDelay, RootDispersion time.Duration
}

// A Server is one time source. Its lies and silences are its own, so several make
// several sources. Safe for concurrent use.
type Server struct {
	cfg     Config
	offsets byclient.Table[time.Duration]
	cuts    byclient.Table[bool]
	smears  byclient.Table[smear]
}

// smear moves an offset evenly from nothing to its total.
type smear struct {
	total, over time.Duration
	since       time.Time
}

// New returns an honest server that is not serving yet. It fails on a Config that no
// packet could say.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Now == nil:
		return nil, errors.New("time server: Config.Now is required")
	case cfg.Stratum > 16:
		return nil, fmt.Errorf("time server: stratum %d: it is 1 to 16", cfg.Stratum)
	case cfg.Leap > 3:
		return nil, fmt.Errorf("time server: leap indicator %d: it is 0 to 3", cfg.Leap)
	case cfg.RootDelay < 0 || cfg.RootDelay > maxRootDelay || cfg.RootDispersion < 0 || cfg.RootDispersion > maxRootDelay:
		return nil, fmt.Errorf("time server: root delay %s and dispersion %s: they are 0 to 65535 s", cfg.RootDelay, cfg.RootDispersion)
	}
	if cfg.Stratum == 0 {
		cfg.Stratum = 1
	}
	if cfg.Precision == 0 {
		cfg.Precision = -20
	}
	if cfg.ReferenceID == [4]byte{} {
		cfg.ReferenceID = [4]byte{'G', 'P', 'S'}
	}
	return &Server{cfg: cfg}, nil
}

// SetOffset makes the server's clock be off by this much (positive: ahead) for the
// clients of these prefixes, for all when none is given. 0 takes it back. It adds to
// a smear.
func (s *Server) SetOffset(offset time.Duration, clients ...netip.Prefix) {
	s.offsets.Set(offset, clients...)
}

// Cut makes the server answer nothing to the clients of these prefixes, to all when
// none is given; false takes it back.
func (s *Server) Cut(cut bool, clients ...netip.Prefix) { s.cuts.Set(cut, clients...) }

// Smear makes the server's clock move away evenly, from now on, until it is off by
// total (positive: ahead) after a time; there it stays. With 0 to move by it takes a
// smear back at once; with no time to move in, it jumps. Servers that smear a leap
// second do so over 24 hours, from noon to noon ("Leap Smear", Google Public NTP),
// and say nothing of it in the leap indicator; a lab has less patience.
func (s *Server) Smear(total, over time.Duration, clients ...netip.Prefix) {
	s.smears.Set(smear{total: total, over: over, since: s.cfg.Now()}, clients...)
}

// Offset returns by how much the server's clock is off for a client now.
func (s *Server) Offset(client netip.Addr) time.Duration {
	return s.offset(client, s.cfg.Now())
}

func (s *Server) offset(client netip.Addr, now time.Time) time.Duration {
	return s.offsets.For(client) + s.smears.For(client).at(now)
}

func (m smear) at(now time.Time) time.Duration {
	gone := now.Sub(m.since)
	switch {
	case gone >= m.over:
		return m.total
	case gone <= 0:
		return 0
	}
	return time.Duration(float64(m.total) * (float64(gone) / float64(m.over)))
}

// Serve answers on conn until ctx is done, then closes it and returns nil. Answers
// leave from the address that conn is bound to. It may be called for further
// connections at the same time.
func (s *Server) Serve(ctx context.Context, conn net.PacketConn) error {
	// The second close is for a return that the context did not cause.
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// An Ethernet frame's worth: no request is longer, and the end of one that is does
	// not matter.
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		received := s.cfg.Now()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("time server: read a request on %s: %w", conn.LocalAddr(), err)
		}
		client := byclient.Addr(from)
		request, ok := parse(buf[:n])
		if !ok || s.cuts.For(client) {
			continue
		}
		offset := s.offset(client, received)
		// An answer that cannot be sent is one that is lost: the client asks again.
		_, _ = conn.WriteTo(reply(request, s.cfg, received.Add(offset), s.cfg.Now().Add(offset)), from)
	}
}
