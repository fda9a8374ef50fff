// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
)

// usualHopLimit is what answers leave with: the kernel's own default
// (ip_default_ttl), set all the same, for a namespace may have another.
const usualHopLimit = 64

type connKey struct{}

// withConn puts the connection of a request into its context, and gives it the
// usual hop limit. A connection that is no socket keeps what it has.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	_ = limitHops(conn, usualHopLimit)
	return context.WithValue(ctx, connKey{}, conn)
}

// setHopLimit makes every packet of this request's connection leave with this hop
// limit from now on, those that the kernel sends again included. AWS's server closes
// a connection after each answer, so there is no later one to raise it for.
func setHopLimit(r *http.Request, hops int) error {
	conn, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return errors.New("set the hop limit: the request has no connection")
	}
	return limitHops(conn, hops)
}

func limitHops(conn net.Conn, hops int) error {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("set the hop limit: the connection is no socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("set the hop limit: %w", err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	// An IPv6 socket that talks to an IPv4 peer takes the IPv4 option.
	if byclient.Addr(conn.RemoteAddr()).Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, hops) })
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("set the hop limit of the connection from %s: %w", conn.RemoteAddr(), err)
	}
	return nil
}
