// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	// arriveLimit is how long what must arrive may take, on a machine that is busy.
	arriveLimit = 5 * time.Second
	// lostAfter is how long what must not arrive is waited for. A packet crosses the
	// lab in well under a millisecond.
	lostAfter = 200 * time.Millisecond
)

// patience is how long an answer is waited for.
func patience(expected bool) time.Duration {
	if expected {
		return arriveLimit
	}
	return 2 * lostAfter
}

// send sends one datagram of each IP length from one spot to another, never
// fragmented by the sender and heeding no learned path MTU, and returns how many of
// each length arrived. It waits for all of them, until none came for the limit.
func (b *bed) send(t *testing.T, from, to string, limit time.Duration, lengths ...int) map[int]int {
	t.Helper()
	a, z := b.at(t, from), b.at(t, to)
	in, err := z.ListenPacket(z.netns, "udp", netip.AddrPortFrom(z.address, 0).String())
	require.NoError(t, err)
	defer in.Close()
	setOption(t, in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	out, err := a.DialContext(a.netns)(t.Context(), "udp", in.LocalAddr().String())
	require.NoError(t, err)
	defer out.Close()
	if z.address.Is6() {
		setOption(t, out, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	} else {
		setOption(t, out, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	for _, length := range lengths {
		// Too long for the sender's own device is lost as well, with an error.
		if _, err := out.Write(make([]byte, length-z.headers())); err != nil {
			require.ErrorIs(t, err, unix.EMSGSIZE)
		}
	}
	got := map[int]int{}
	buffer := make([]byte, 1<<16)
	for left := len(lengths); left > 0; left-- {
		require.NoError(t, in.SetReadDeadline(time.Now().Add(limit)))
		n, _, err := in.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		require.NoError(t, err)
		got[n+z.headers()]++
	}
	return got
}

func setOption(t *testing.T, socket any, level, option, value int) {
	t.Helper()
	raw, err := socket.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	var failed error
	require.NoError(t, raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) }))
	require.NoError(t, failed)
}

// passes says that a datagram of each length arrives, one way.
func (b *bed) passes(t *testing.T, from, to string, lengths ...int) {
	t.Helper()
	got := b.send(t, from, to, arriveLimit, lengths...)
	for _, l := range lengths {
		require.Equal(t, 1, got[l], "%d bytes from %s to %s must arrive", l, from, to)
	}
}

// loses says that none of them does.
func (b *bed) loses(t *testing.T, from, to string, lengths ...int) {
	t.Helper()
	require.Empty(t, b.send(t, from, to, lostAfter, lengths...), "%d bytes from %s to %s must be lost", lengths, from, to)
}

// transfer sends bytes over TCP to a pod's receiver and returns an error unless all
// were acknowledged by the application within the limit.
func (b *bed) transfer(t *testing.T, from, to string, bytes int, limit time.Duration) error {
	t.Helper()
	a, z := b.at(t, from), b.at(t, to)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, err := a.DialContext(a.netns)(ctx, "tcp", netip.AddrPortFrom(z.address, tcpPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	// One that failed is reset, so that nothing of it is sent again later.
	require.NoError(t, conn.(*net.TCPConn).SetLinger(0))
	deadline, _ := ctx.Deadline()
	require.NoError(t, conn.SetDeadline(deadline))
	if _, err := conn.Write(make([]byte, bytes)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	answer := make([]byte, 8)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	require.Equal(t, uint64(bytes), binary.BigEndian.Uint64(answer))
	return nil
}

// A reply is what a client of HTTP saw.
type reply struct {
	status int
	body   string
	server string
	took   time.Duration
}

// request asks over HTTP from a spot, on a connection of its own.
func (b *bed) request(t *testing.T, from, method, url string, limit time.Duration, headers ...string) (reply, error) {
	t.Helper()
	s := b.at(t, from)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DialContext: s.DialContext(s.netns), DisableKeepAlives: true}
	began := time.Now()
	response, err := transport.RoundTrip(r)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{status: response.StatusCode, body: string(body), server: response.Header.Get("Server"), took: time.Since(began)}, err
}

// download fetches bytes over HTTP from a pod's receiver.
func (b *bed) download(t *testing.T, from, to string, bytes int, limit time.Duration) error {
	t.Helper()
	url := "http://" + netip.AddrPortFrom(b.at(t, to).address, httpPort).String() + "/" + strconv.Itoa(bytes)
	got, err := b.request(t, from, http.MethodGet, url, limit)
	if err == nil {
		require.Len(t, got.body, bytes)
	}
	return err
}
