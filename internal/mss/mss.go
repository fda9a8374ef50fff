// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package mss clamps the TCP segment size of a socket before it connects or
// listens, so that the connection's packets stay small enough to get through a
// path whose MTU is broken: the path that Plumb may be about to report.
package mss

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// Minimum is the least segment size that the kernel takes: TCP_MIN_MSS,
	// include/net/tcp.h (5.10 to 6.18); below it do_tcp_setsockopt says EINVAL.
	Minimum = 88
	// Maximum is the greatest: MAX_TCP_WINDOW, include/net/tcp.h.
	Maximum = 32767
	// Default keeps every packet of the connection at 576 bytes or less with
	// IPv4 and IPv6 headers and TCP options counted, the size that RFC 791
	// section 3.1 makes every IPv4 host accept. It also fits below 1,280 bytes
	// (RFC 8200 section 5) with any encapsulation around it.
	Default = 512
)

// Check says whether a segment size may be used.
func Check(max int) error {
	if max < Minimum || max > Maximum {
		return fmt.Errorf("check TCP segment size %d: the kernel takes %d to %d", max, Minimum, Maximum)
	}
	return nil
}

// Control returns a function for net.Dialer.Control or net.ListenConfig.Control
// that sets TCP_MAXSEG on TCP sockets of either address family and leaves other
// sockets alone.
//
// It must be set before connect(2), respectively before listen(2): the kernel
// reads it when it writes and parses the SYN, and later setting it changes
// nothing and reports no error. An end that sets it advertises the size to its
// peer and obeys it itself, so that one clamped end limits both directions;
// accepted sockets inherit it from their listener (tcp_conn_request,
// net/ipv4/tcp_input.c).
//
// A multipath TCP socket takes the option only since Linux 6.17, so the socket
// must be a plain one; net listens with multipath TCP by default. Use
// ListenConfig and Dialer, or call SetMultipathTCP(false).
func Control(max int) func(network, address string, c syscall.RawConn) error {
	return func(network, address string, c syscall.RawConn) error {
		switch network {
		case "tcp", "tcp4", "tcp6":
		default:
			return nil
		}
		if err := Check(max); err != nil {
			return err
		}
		var option error
		if err := c.Control(func(fd uintptr) {
			option = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, max)
		}); err != nil {
			return fmt.Errorf("set TCP_MAXSEG for %s: %w", address, err)
		}
		if option != nil {
			return fmt.Errorf("set TCP_MAXSEG to %d for %s: %w", max, address, option)
		}
		return nil
	}
}

// ListenConfig returns the configuration of a listener whose connections carry
// segments of at most max bytes in both directions.
func ListenConfig(max int) *net.ListenConfig {
	lc := &net.ListenConfig{Control: Control(max)}
	lc.SetMultipathTCP(false)
	return lc
}

// Dialer returns a dialer whose connections carry segments of at most max bytes
// in both directions.
func Dialer(max int) *net.Dialer {
	d := &net.Dialer{Control: Control(max)}
	d.SetMultipathTCP(false)
	return d
}
