// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package mss_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/mss"
)

// sendSize is the largest segment that this end of the connection will send.
func sendSize(t *testing.T, c net.Conn) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var info *unix.TCPInfo
	var infoErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	require.NoError(t, infoErr)
	return int(info.Snd_mss)
}

func TestSegmentsAreClampedInBothDirections(t *testing.T) {
	plainListener, plainDialer := &net.ListenConfig{}, &net.Dialer{}
	tests := []struct {
		name     string
		address  string
		listener *net.ListenConfig
		dialer   *net.Dialer
		most     int
		least    int
	}{
		{"both ends clamped over IPv4", "127.0.0.1:0", mss.ListenConfig(512), mss.Dialer(512), 512, 1},
		{"both ends clamped over IPv6", "[::1]:0", mss.ListenConfig(512), mss.Dialer(512), 512, 1},
		{"only the dialer clamped", "127.0.0.1:0", plainListener, mss.Dialer(512), 512, 1},
		{"only the listener clamped", "127.0.0.1:0", mss.ListenConfig(512), plainDialer, 512, 1},
		{"only the listener clamped over IPv6", "[::1]:0", mss.ListenConfig(512), plainDialer, 512, 1},
		{"the smallest size the kernel takes", "127.0.0.1:0", mss.ListenConfig(mss.Minimum), mss.Dialer(mss.Minimum), mss.Minimum, 1},
		{"neither end clamped", "127.0.0.1:0", plainListener, plainDialer, 1 << 16, 1000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			l, err := tt.listener.Listen(ctx, "tcp", tt.address)
			require.NoError(t, err)
			defer l.Close()
			c, err := tt.dialer.DialContext(ctx, "tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			s, err := l.Accept()
			require.NoError(t, err)
			defer s.Close()
			for _, end := range []net.Conn{c, s} {
				require.LessOrEqual(t, sendSize(t, end), tt.most)
				require.GreaterOrEqual(t, sendSize(t, end), tt.least)
			}
		})
	}
}

func TestSizesTheKernelRefusesAreNamed(t *testing.T) {
	for _, size := range []int{-1, 0, mss.Minimum - 1, mss.Maximum + 1} {
		_, err := mss.Dialer(size).Dial("tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "the kernel takes 88 to 32767")
	}
	require.NoError(t, mss.Check(mss.Default))
}

func TestSocketsOtherThanTCPAreLeftAlone(t *testing.T) {
	c, err := mss.Dialer(mss.Default).Dial("udp", "127.0.0.1:9")
	require.NoError(t, err)
	require.NoError(t, c.Close())
}
