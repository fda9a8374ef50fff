// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package sntp

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/beevik/ntp"
	"github.com/stretchr/testify/require"
)

// clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s, err := New(cfg)
	require.NoError(t, err)
	return s
}

// serve serves until the test ends, on a new port of an address.
func serve(t *testing.T, s *Server, address string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
	return conn.LocalAddr().String()
}

// patience is for answers that come, impatience for those that do not.
const patience, impatience = 5 * time.Second, 150 * time.Millisecond

// exchange sends a packet from a source address and returns what comes back, nil for
// nothing.
func exchange(t *testing.T, from, to string, packet []byte, within time.Duration) []byte {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "udp", to)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(within)))
	_, err = conn.Write(packet)
	require.NoError(t, err)
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

func clientPacket(version, mode byte) []byte {
	p := make([]byte, packetSize)
	p[0], p[2] = version<<3|mode, 6
	copy(p[40:48], "\x01\x02\x03\x04\x05\x06\x07\x08")
	return p
}

// told is the time that an answer says it was sent.
func told(t *testing.T, packet []byte) time.Time {
	t.Helper()
	require.Len(t, packet, packetSize)
	stamp := binary.BigEndian.Uint64(packet[40:48])
	nanos := (stamp & 0xffffffff) * 1e9 >> 32
	return time.Unix(int64(stamp>>32)-ntpToUnix, int64(nanos))
}

func TestNewRefusesWhatNoPacketSays(t *testing.T) {
	for name, cfg := range map[string]Config{
		"Config.Now":         {},
		"stratum 17":         {Now: time.Now, Stratum: 17},
		"leap indicator 4":   {Now: time.Now, Leap: 4},
		"root delay -1s":     {Now: time.Now, RootDelay: -time.Second},
		"dispersion 18h12m1": {Now: time.Now, RootDispersion: 65536 * time.Second},
	} {
		_, err := New(cfg)
		require.ErrorContains(t, err, name)
	}
	newServer(t, Config{RootDelay: 65535 * time.Second})
}

func TestAnAnswerHasWhatTheRFCAsks(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC)
	s := newServer(t, Config{
		Now: (&clock{now: now}).Now, Stratum: 2, Leap: 1, ReferenceID: [4]byte{10, 9, 250, 10},
		RootDelay: 1500 * time.Millisecond, RootDispersion: 65535 * time.Second,
	})
	address := serve(t, s, "127.0.0.1")
	for _, version := range []byte{1, 2, 3, 4} {
		p := exchange(t, "127.0.0.1", address, clientPacket(version, modeClient), patience)
		require.Len(t, p, packetSize)
		require.Equal(t, 1<<6|version<<3|modeServer, p[0], "leap, the client's version, mode")
		require.Equal(t, byte(2), p[1], "stratum")
		require.Equal(t, byte(6), p[2], "the client's poll")
		require.Equal(t, byte(0xec), p[3], "precision")
		require.Equal(t, uint32(0x00018000), binary.BigEndian.Uint32(p[4:]), "root delay")
		require.Equal(t, uint32(0xffff0000), binary.BigEndian.Uint32(p[8:]), "root dispersion")
		require.Equal(t, []byte{10, 9, 250, 10}, p[12:16], "reference id")
		require.Equal(t, []byte("\x01\x02\x03\x04\x05\x06\x07\x08"), p[24:32], "origin is the client's transmit")
		require.Equal(t, uint64(now.Unix()+ntpToUnix)<<32|1<<30, binary.BigEndian.Uint64(p[32:40]), "receive")
		require.Equal(t, p[32:40], p[40:48], "transmit, on a clock that stands still")
		require.Less(t, binary.BigEndian.Uint64(p[16:24]), binary.BigEndian.Uint64(p[32:40]), "reference")
	}
	p := exchange(t, "127.0.0.1", address, append(clientPacket(4, modeSymmetricActive), make([]byte, 20)...), patience)
	require.Equal(t, byte(1<<6|4<<3|modeSymmetricPassive), p[0], "a peer's packet, with an authenticator")
}

func TestWhatAsksForNothingGetsNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	address := serve(t, s, "127.0.0.1")
	for name, packet := range map[string][]byte{
		"too short":      clientPacket(4, modeClient)[:47],
		"empty":          {},
		"version 0":      clientPacket(0, modeClient),
		"version 5":      clientPacket(5, modeClient),
		"a server's own": clientPacket(4, modeServer),
		"control":        clientPacket(2, 6),
		"private":        clientPacket(2, 7),
	} {
		require.Nil(t, exchange(t, "127.0.0.1", address, packet, impatience), name)
	}
}

func TestARealClientFindsTheOffsetThatWasSet(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{RootDispersion: time.Millisecond})
	address := serve(t, s, "127.0.0.1")
	for _, offset := range []time.Duration{0, 3 * time.Second, -90 * time.Minute, 0} {
		s.SetOffset(offset)
		r, err := ntp.QueryWithOptions(address, ntp.QueryOptions{Timeout: patience})
		require.NoError(t, err)
		require.NoError(t, r.Validate())
		require.Equal(t, uint8(1), r.Stratum)
		require.Equal(t, ".GPS.", r.ReferenceString())
		require.InDelta(t, offset.Seconds(), r.ClockOffset.Seconds(), r.RootDistance.Seconds()+0.001)
	}
}

func TestALieIsForThoseItIsToldTo(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	lying, honest := newServer(t, Config{Now: c.Now}), newServer(t, Config{Now: c.Now})
	at, other := serve(t, lying, "127.0.0.1"), serve(t, honest, "127.0.0.1")
	off := func(from, to string) time.Duration {
		return told(t, exchange(t, from, to, clientPacket(4, modeClient), patience)).Sub(c.Now()).Round(time.Microsecond)
	}
	lying.SetOffset(time.Hour)
	lying.SetOffset(-time.Second, netip.MustParsePrefix("127.0.0.2/32"))
	require.Equal(t, time.Hour, off("127.0.0.1", at))
	require.Equal(t, -time.Second, off("127.0.0.2", at))
	require.Zero(t, off("127.0.0.1", other), "another server has nothing to do with it")
	lying.SetOffset(0, netip.MustParsePrefix("127.0.0.2/32"))
	require.Zero(t, off("127.0.0.2", at))
	lying.SetOffset(0)
	require.Zero(t, off("127.0.0.1", at))
}

func TestACutServerIsSilent(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	address := serve(t, s, "127.0.0.1")
	answers := func(from string, within time.Duration) bool {
		return exchange(t, from, address, clientPacket(4, modeClient), within) != nil
	}
	s.Cut(true, netip.MustParsePrefix("127.0.0.2/32"))
	require.False(t, answers("127.0.0.2", impatience))
	require.True(t, answers("127.0.0.1", patience))
	s.Cut(true)
	require.False(t, answers("127.0.0.1", impatience))
	s.Cut(false)
	require.True(t, answers("127.0.0.1", patience))
	require.True(t, answers("127.0.0.2", patience))
}

func TestASmearIsEven(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	s := newServer(t, Config{Now: c.Now})
	address := serve(t, s, "127.0.0.1")
	client, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	s.Smear(-time.Second, 20*time.Second, netip.PrefixFrom(client, 32))
	s.SetOffset(time.Minute)
	for _, step := range []struct {
		advance, want time.Duration
	}{
		{0, 0},
		{time.Second, -50 * time.Millisecond},
		{9 * time.Second, -500 * time.Millisecond},
		{9 * time.Second, -950 * time.Millisecond},
		{time.Second, -time.Second},
		{time.Hour, -time.Second},
	} {
		c.advance(step.advance)
		require.Equal(t, time.Minute+step.want, s.Offset(client))
		require.Equal(t, time.Minute, s.Offset(other))
	}
	p := exchange(t, "127.0.0.1", address, clientPacket(4, modeClient), patience)
	require.Equal(t, 59*time.Second, told(t, p).Sub(c.Now()))
	require.Zero(t, p[0]>>6, "a smear is not announced")
	s.Smear(0, 0)
	require.Equal(t, time.Minute, s.Offset(client))
	s.Smear(time.Second, 0)
	require.Equal(t, time.Minute+time.Second, s.Offset(other), "a jump")
}

func TestTheServerAnswersOverIPv6(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	s.SetOffset(time.Hour, netip.MustParsePrefix("::1/128"))
	p := exchange(t, "::1", serve(t, s, "::1"), clientPacket(4, modeClient), patience)
	require.InDelta(t, time.Hour.Seconds(), time.Until(told(t, p)).Seconds(), patience.Seconds())
}

func TestServeSaysWhyItEnded(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.ErrorContains(t, newServer(t, Config{}).Serve(t.Context(), conn), "read a request on 127.0.0.1")
}

func TestFaultsMayChangeWhileRequestsCome(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	address := serve(t, s, "127.0.0.1")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 50 {
				exchange(t, "127.0.0.1", address, clientPacket(4, modeClient), patience)
			}
		})
	}
	for i := range 500 {
		s.SetOffset(time.Duration(i), netip.MustParsePrefix("127.0.0.0/8"))
		s.Smear(time.Duration(i), time.Second)
		s.Cut(false)
	}
	group.Wait()
}

func FuzzRequest(f *testing.F) {
	f.Add(clientPacket(4, modeClient))
	f.Add(clientPacket(1, modeSymmetricActive))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, ok := parse(packet)
		if !ok {
			return
		}
		now := time.Unix(1_700_000_000, 1)
		p := reply(r, Config{Stratum: 1, Precision: -20}, now, now)
		require.Len(t, p, packetSize)
		require.Equal(t, packet[0]>>3&7, p[0]>>3&7, "version")
		require.True(t, bytes.Equal(packet[40:48], p[24:32]), "origin")
		_, again := parse(p)
		require.False(t, again && p[0]&7 == modeServer, "an answer is not answered")
	})
}
