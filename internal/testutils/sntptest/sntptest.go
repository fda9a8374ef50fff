// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sntptest is a time server for tests: right, wrong, slow, silent, rude,
// or speaking out of turn, as it is told. It serves on the connection that it is
// given and never touches a clock.
package sntptest

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

const (
	packetSize = 48
	// ntpToUnix is the number of seconds from 1900 to 1970, RFC 5905 figure 4.
	ntpToUnix = 2208988800
)

// Config says how a server answers. The zero value is an honest stratum 2 server.
type Config struct {
	// Offset is added to the machine's clock.
	Offset time.Duration
	// DriftPPM makes the offset grow, from the moment the config is set.
	DriftPPM float64
	// Stratum is 2 when left 0.
	Stratum uint8
	// Leap is the leap indicator; 3 means unsynchronised.
	Leap uint8
	// Kiss answers with stratum 0 and this kiss code, for example RATE.
	Kiss string
	// RequestDelay and ReplyDelay are spent on the way in and on the way out, where
	// the client can only see their sum.
	RequestDelay, ReplyDelay time.Duration
	// Silent answers nothing.
	Silent bool
	// WrongOrigin answers with an origin that the client did not send.
	WrongOrigin bool
	// Forge sends a reply with a wrong origin and this offset before the honest one.
	Forge time.Duration
	// Garbage answers with these bytes instead.
	Garbage []byte
	// RootDelay and RootDispersion are the server's claims about its own error.
	RootDelay, RootDispersion time.Duration
}

// A Server answers as its present Config says. Safe for concurrent use.
type Server struct {
	mu       sync.Mutex
	cfg      Config
	since    time.Time
	requests []time.Time
}

// NewServer returns a server that is not serving yet.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, since: time.Now()}
}

// Set changes how the server answers from now on.
func (s *Server) Set(cfg Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg, s.since = cfg, time.Now()
}

// Requests returns when each request arrived.
func (s *Server) Requests() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.requests...)
}

// Serve answers requests on conn until ctx is done, then closes it and returns
// nil.
func Serve(ctx context.Context, conn net.PacketConn, cfg Config) error {
	return NewServer(cfg).Serve(ctx, conn)
}

// Serve is like the function of that name.
func (s *Server) Serve(ctx context.Context, conn net.PacketConn) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var replies sync.WaitGroup
	defer replies.Wait()
	buf := make([]byte, 1024)
	for {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a time request on %s: %w", conn.LocalAddr(), err)
		}
		if n < packetSize {
			continue
		}
		s.mu.Lock()
		cfg, since := s.cfg, s.since
		s.requests = append(s.requests, time.Now())
		s.mu.Unlock()
		if cfg.Silent {
			continue
		}
		request := [packetSize]byte(buf[:packetSize])
		replies.Add(1)
		go func() {
			defer replies.Done()
			answer(ctx, conn, from, request, cfg, since)
		}()
	}
}

func answer(ctx context.Context, conn net.PacketConn, to net.Addr, request [packetSize]byte, cfg Config, since time.Time) {
	if !pause(ctx, cfg.RequestDelay) {
		return
	}
	now := time.Now()
	offset := cfg.Offset + time.Duration(float64(now.Sub(since))*cfg.DriftPPM/1e6)
	if cfg.Forge != 0 {
		forged := cfg
		forged.WrongOrigin = true
		send(conn, to, reply(request, forged, now.Add(cfg.Forge)))
	}
	packet := reply(request, cfg, now.Add(offset))
	if !pause(ctx, cfg.ReplyDelay) {
		return
	}
	send(conn, to, packet)
}

// send ignores the error: a reply that cannot be sent is a reply that is lost.
func send(conn net.PacketConn, to net.Addr, packet []byte) { _, _ = conn.WriteTo(packet, to) }

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// reply lays out the packet of RFC 5905 figure 8.
func reply(request [packetSize]byte, cfg Config, now time.Time) []byte {
	if cfg.Garbage != nil {
		return cfg.Garbage
	}
	p := make([]byte, packetSize)
	p[0] = cfg.Leap<<6 | request[0]&0x38 | 4
	p[1] = cfg.Stratum
	if p[1] == 0 {
		p[1] = 2
	}
	p[2] = 6
	p[3] = 0xec // 2^-20 s
	binary.BigEndian.PutUint32(p[4:], short(cfg.RootDelay))
	binary.BigEndian.PutUint32(p[8:], short(cfg.RootDispersion))
	copy(p[12:16], []byte{127, 0, 0, 1})
	if cfg.Kiss != "" {
		p[1] = 0
		copy(p[12:16], cfg.Kiss)
	}
	binary.BigEndian.PutUint64(p[16:], stamp(now.Add(-time.Second)))
	copy(p[24:32], request[40:48])
	if cfg.WrongOrigin {
		p[24] ^= 0xff
	}
	binary.BigEndian.PutUint64(p[32:], stamp(now))
	binary.BigEndian.PutUint64(p[40:], stamp(now))
	return p
}

// short is the 16.16 format of RFC 5905 section 6.
func short(d time.Duration) uint32 { return uint32(d.Seconds() * 65536) }

// stamp is the 32.32 format of RFC 5905 section 6.
func stamp(t time.Time) uint64 {
	seconds := uint64(t.Unix() + ntpToUnix)
	fraction := uint64(t.Nanosecond()) << 32 / 1e9
	return seconds<<32 | fraction
}

// Start serves on a port of 127.0.0.1 until the test ends, and returns the server
// and its host:port.
func Start(tb testing.TB, cfg Config) (server *Server, address string) {
	tb.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen for time requests: %v", err)
	}
	s := NewServer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("serve time: %v", err)
		}
	})
	return s, conn.LocalAddr().String()
}
