// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// readyWithin is how long the kernel may take to get a device ready for IPv6. It
// takes milliseconds, and longer while many namespaces are made at once: the work
// needs the lock of all network configuration (addrconf_dad_work, rtnl_lock).
const readyWithin = 20 * time.Second

// waitReady waits until a device of a namespace can do neighbour discovery for its
// IPv6 addresses; IPv4 needs no waiting. Without duplicate address detection an
// address is valid at once, but what goes with it comes a little later, and a
// solicitation that meets nothing is repeated only after a second (RFC 4861 section
// 10, RETRANS_TIMER).
func waitReady(ctx context.Context, ns Namespace, device string, addresses []netip.Prefix) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := ""
		err := ns.Do(func() error {
			var err error
			missing, err = missingForDiscovery(device, addresses)
			return err
		})
		if err != nil {
			return fmt.Errorf("wait for IPv6 on %s: %w", device, err)
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for IPv6 on %s: it still has no %s: %w", device, missing, ctx.Err())
		case <-tick.C:
		}
	}
}

// missingForDiscovery names what a device still lacks, "" for nothing: the group in
// which it hears solicitations for an address (addrconf_dad_begin joins it), the
// route by which they reach it (addrconf_add_mroute), and the link-local address
// from which a router asks for the sake of others' packets (ndisc_send_ns; without
// one it does not ask).
func missingForDiscovery(device string, addresses []netip.Prefix) (string, error) {
	wanted := false
	for _, a := range addresses {
		if !a.Addr().Is6() {
			continue
		}
		wanted = true
		// ff02::1:ff and the last three bytes (RFC 4291 section 2.7.1).
		last := a.Addr().As16()
		group := "ff0200000000000000000001ff" + hex.EncodeToString(last[13:])
		// Interface index, device, group, …
		found, err := anyLine("igmp6", func(f []string) bool { return len(f) > 2 && f[1] == device && f[2] == group })
		if err != nil || !found {
			return "group for solicitations for " + a.Addr().String(), err
		}
	}
	if !wanted {
		return "", nil
	}
	// Address, interface index, prefix length, scope, flags, device.
	found, err := anyLine("if_inet6", func(f []string) bool {
		if len(f) < 6 || f[5] != device || !strings.HasPrefix(f[0], "fe80") {
			return false
		}
		flags, err := strconv.ParseUint(f[4], 16, 32)
		return err == nil && flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	})
	if err != nil || !found {
		return "link-local address", err
	}
	// Destination, prefix length, six more, flags, device.
	found, err = anyLine("ipv6_route", func(f []string) bool {
		return len(f) == 10 && strings.HasPrefix(f[0], "ff00") && f[1] == "08" && f[9] == device
	})
	if err != nil || !found {
		return "route for groups", err
	}
	return "", nil
}

// anyLine says whether a line of a table of the calling thread's network namespace
// is what is looked for.
func anyLine(table string, matches func(fields []string) bool) (bool, error) {
	raw, err := os.ReadFile("/proc/thread-self/net/" + table)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(raw)) {
		if matches(strings.Fields(line)) {
			return true, nil
		}
	}
	return false, nil
}
