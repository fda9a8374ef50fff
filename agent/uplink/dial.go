// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/mss"
)

const (
	lookupTimeout    = 3 * time.Second
	dialTimeout      = 3 * time.Second // per address
	handshakeTimeout = 5 * time.Second
	// userTimeout is TCP_USER_TIMEOUT: data that nobody acknowledges for so long
	// ends the connection (tcp(7)); without it that takes 15 minutes.
	userTimeout = 10 * time.Second
)

// A Resolver looks up the aggregator's name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A candidate list is where an endpoint may be reached, best first.
type candidates struct {
	addresses []netip.Addr
	// resolved are those that the name has now.
	resolved []netip.Addr
	// lookup is why the name could not be looked up, if so.
	lookup error
}

// find looks up a host and adds the addresses that worked before: they serve
// when DNS fails, and also when it answers with what does not.
func find(ctx context.Context, r Resolver, known *memory, host string) candidates {
	if literal, err := netip.ParseAddr(host); err == nil {
		return candidates{addresses: []netip.Addr{literal}}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var c candidates
	found, err := r.LookupNetIP(ctx, "ip", host)
	if err == nil && len(found) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		c.lookup = fmt.Errorf("look up %s: %w", host, err)
	}
	for _, a := range found {
		c.resolved = append(c.resolved, a.Unmap())
	}
	stored := known.addresses(host)
	// The one that worked last goes first if the name still has it.
	for _, a := range stored {
		if slices.Contains(c.resolved, a) {
			c.add(a)
		}
	}
	for _, a := range c.resolved {
		c.add(a)
	}
	for _, a := range stored {
		c.add(a)
	}
	if len(c.addresses) > maxStoredPerOne {
		c.addresses = c.addresses[:maxStoredPerOne]
	}
	return c
}

func (c *candidates) add(a netip.Addr) {
	if !slices.Contains(c.addresses, a) {
		c.addresses = append(c.addresses, a)
	}
}

// newDialer makes a dialer for the uplink: small segments, dead peers noticed.
func newDialer(maxSegment int) *net.Dialer {
	d := mss.Dialer(maxSegment)
	clamp := d.Control
	d.Control = func(network, address string, c syscall.RawConn) error {
		if err := clamp(network, address, c); err != nil {
			return err
		}
		var option error
		if err := c.Control(func(fd uintptr) {
			option = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		}); err != nil {
			return fmt.Errorf("set TCP_USER_TIMEOUT for %s: %w", address, err)
		}
		if option != nil {
			return fmt.Errorf("set TCP_USER_TIMEOUT for %s: %w", address, option)
		}
		return nil
	}
	d.Timeout = dialTimeout
	// HTTP/2 pings say more than TCP's keep-alives.
	d.KeepAlive = -1
	return d
}
