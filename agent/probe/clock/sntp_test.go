// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

func client(address string) *sntpClient {
	return &sntpClient{clock: hostclock.New(), dial: new(net.Dialer).DialContext, address: address, timeout: time.Second}
}

func ask(t *testing.T, cfg sntptest.Config) (sample, error) {
	t.Helper()
	_, address := sntptest.Start(t, cfg)
	c := client(address)
	c.timeout = 300 * ms
	return c.query(context.Background())
}

func TestOffsetIsNodeMinusServer(t *testing.T) {
	for _, offset := range []time.Duration{0, 420 * time.Second, -420 * time.Second, 40 * 365 * 24 * time.Hour} {
		s, err := ask(t, sntptest.Config{Offset: offset})
		require.NoError(t, err)
		require.InDelta(t, -offset.Seconds(), s.span.middle().Seconds(), 0.1)
		require.True(t, s.span.meets(around(-offset, 0)), "the true offset is in the interval %v", s.span)
		require.GreaterOrEqual(t, s.span.half(), minimumDispersion/2)
		require.Equal(t, rungSNTP, s.rung)
		require.NotZero(t, s.boottime)
	}
}

func TestRootDistanceCountsWhatTheServerClaims(t *testing.T) {
	s, err := ask(t, sntptest.Config{RootDelay: 200 * ms, RootDispersion: 300 * ms})
	require.NoError(t, err)
	require.InDelta(t, 0.4, s.span.half().Seconds(), 0.05)
}

// All of the delay on one side moves the offset by half of it, and the interval
// still holds the truth.
func TestAsymmetryStaysInTheInterval(t *testing.T) {
	for _, cfg := range []sntptest.Config{{RequestDelay: 120 * ms}, {ReplyDelay: 120 * ms}} {
		s, err := ask(t, cfg)
		require.NoError(t, err)
		require.Greater(t, s.delay, 110*ms)
		require.Greater(t, s.span.middle().Abs(), 40*ms)
		require.True(t, s.span.meets(around(0, 0)))
	}
}

func TestUnusableAnswers(t *testing.T) {
	tests := []struct {
		name string
		cfg  sntptest.Config
		want error
	}{
		{"stratum 16", sntptest.Config{Stratum: 16}, errInvalid},
		{"leap indicator unsynchronised", sntptest.Config{Leap: 3}, errInvalid},
		{"dispersion of minutes", sntptest.Config{RootDispersion: time.Minute}, errInvalid},
		{"silence", sntptest.Config{Silent: true}, errUnreachable},
		{"a wrong origin is no answer", sntptest.Config{WrongOrigin: true}, errUnreachable},
		{"garbage is no answer", sntptest.Config{Garbage: []byte("hello")}, errUnreachable},
		{"a longer one neither", sntptest.Config{Garbage: make([]byte, 500)}, errUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ask(t, tt.cfg)
			require.ErrorIs(t, err, tt.want)
		})
	}
}

func TestAForgeryBeforeTheAnswerIsSkipped(t *testing.T) {
	s, err := ask(t, sntptest.Config{Forge: time.Hour})
	require.NoError(t, err)
	require.InDelta(t, 0, s.span.middle().Seconds(), 0.1)
}

func TestKissCodes(t *testing.T) {
	for _, code := range []string{"RATE", "DENY", "RSTR", "X\x01YZ"} {
		_, err := ask(t, sntptest.Config{Kiss: code})
		var kiss *kissError
		require.ErrorAs(t, err, &kiss)
		require.Len(t, kiss.code, 4)
	}
}

func TestNobodyListens(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	address := conn.LocalAddr().String()
	require.NoError(t, conn.Close())
	_, err = client(address).query(context.Background())
	require.ErrorIs(t, err, errUnreachable)
	_, again := client(address).query(context.Background())
	require.Equal(t, err.Error(), again.Error(), "the text of a lasting failure does not change")
}

func TestACancelledQueryReturnsAtOnce(t *testing.T) {
	_, address := sntptest.Start(t, sntptest.Config{Silent: true})
	c := client(address)
	c.timeout = time.Minute
	ctx, cancel := context.WithTimeout(context.Background(), 50*ms)
	defer cancel()
	began := c.clock.Boottime()
	_, err := c.query(ctx)
	require.ErrorIs(t, err, errUnreachable)
	require.Less(t, time.Duration(c.clock.Boottime()-began), 10*time.Second)
}

func TestFourStamps(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	after := func(d time.Duration) time.Time { return t0.Add(d) }
	tests := []struct {
		name           string
		t1, t2, t3, t4 time.Time
		elapsed        time.Duration
		offset, delay  time.Duration
		err            error
	}{
		{name: "symmetric, in step", t1: t0, t2: after(5 * ms), t3: after(6 * ms), t4: after(11 * ms), elapsed: 11 * ms, delay: 10 * ms},
		{name: "node ahead by an hour", t1: after(time.Hour), t2: after(5 * ms), t3: after(5 * ms), t4: after(time.Hour + 10*ms), elapsed: 10 * ms, offset: time.Hour, delay: 10 * ms},
		{name: "node a century behind", t1: t0, t2: after(100 * 365 * 24 * time.Hour), t3: after(100 * 365 * 24 * time.Hour), t4: t0, offset: -100 * 365 * 24 * time.Hour},
		{name: "the clock was stepped back in between", t1: t0, t2: t0, t3: t0, t4: after(-10 * time.Second), elapsed: 10 * ms, err: errStepped},
		{name: "the clock was stepped forward in between", t1: t0, t2: t0, t3: t0, t4: after(10 * time.Second), elapsed: 10 * ms, err: errStepped},
		{name: "the server claims to have held it longer than it took", t1: t0, t2: t0, t3: after(time.Second), t4: after(10 * ms), elapsed: 10 * ms, err: errInvalid},
		{name: "the server ticked backwards", t1: t0, t2: after(ms), t3: t0, t4: after(10 * ms), elapsed: 10 * ms, err: errInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			offset, delay, err := fourStamps(tt.t1, tt.t2, tt.t3, tt.t4, tt.elapsed)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.offset, offset)
			require.Equal(t, tt.delay, delay)
		})
	}
}

// A conn that answers a request with given bytes, the origin put right.
type scripted struct {
	net.Conn
	origin [8]byte
	answer []byte
	right  bool
	done   bool
}

func (c *scripted) Write(p []byte) (int, error) {
	copy(c.origin[:], p[ntpTransmitAt:])
	return len(p), nil
}
func (c *scripted) Read(p []byte) (int, error) {
	if c.done {
		return 0, net.ErrClosed
	}
	c.done = true
	n := copy(p, c.answer)
	if c.right && n >= ntpPacketBytes {
		copy(p[ntpOriginAt:], c.origin[:])
	}
	return n, nil
}
func (c *scripted) Close() error                { return nil }
func (c *scripted) SetDeadline(time.Time) error { return nil }
func (c *scripted) RemoteAddr() net.Addr        { return &net.UDPAddr{} }

func FuzzResponse(f *testing.F) {
	f.Add(make([]byte, 48), true)
	f.Add([]byte{0x24, 2, 6, 0xec, 39: 1, 47: 9}, true)
	f.Add([]byte{0xe4, 0, 6, 0xec, 12: 'R', 13: 'A', 14: 'T', 15: 'E', 40: 200, 47: 9}, true)
	f.Add([]byte("short"), false)
	f.Fuzz(func(t *testing.T, answer []byte, right bool) {
		conn := &scripted{answer: answer, right: right}
		c := client("192.0.2.1:123")
		c.dial = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
		s, err := c.query(context.Background())
		if err != nil {
			return
		}
		require.True(t, right, "an answer to another request was taken")
		require.LessOrEqual(t, s.span.low, s.span.high)
		require.GreaterOrEqual(t, s.span.half(), minimumDispersion/2-1)
		require.GreaterOrEqual(t, s.delay, time.Duration(0))
	})
}
