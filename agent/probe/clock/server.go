// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

const (
	ntpPort       = "123"
	linkLocal     = "link-local"
	maxGroupBytes = 64
	// maxNameBytes is the longest domain name, RFC 1035 section 2.3.4.
	maxNameBytes = 253
)

// A Server is a time server to ask.
type Server struct {
	// Group names what can be wrong together: two servers of one group are one
	// voice. See GroupOf.
	Group string
	// Address is host:port or [address]:port.
	Address string
}

// key is the key of the clocksource subject.
func (s Server) key() string { return s.Group + "/" + s.Address }

// ParseServer reads "host", "host:port" or either after "group=". The port is
// 123 when left out; without a group, GroupOf decides. The text is what a user
// gave with --time-server, and the error is for him.
func ParseServer(text string) (Server, error) {
	group, address, given := strings.Cut(text, "=")
	if !given {
		group, address = "", text
	}
	if given && !validGroup(group) {
		return Server{}, fmt.Errorf("parse time server %q: group %q must be 1 to %d letters, digits, '.', '_' or '-'", text, group, maxGroupBytes)
	}
	host, port, err := splitAddress(address)
	if err != nil {
		return Server{}, fmt.Errorf("parse time server %q: %w; want [group=]host[:port]", text, err)
	}
	if !given {
		group = GroupOf(host)
	}
	return Server{Group: group, Address: net.JoinHostPort(host, port)}, nil
}

func validGroup(group string) bool {
	return group != "" && len(group) <= maxGroupBytes && strings.Trim(group, nameBytes) == ""
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

func splitAddress(address string) (host, port string, err error) {
	if address == "" {
		return "", "", errors.New("the host is empty")
	}
	host, port = address, ntpPort
	switch {
	case strings.HasPrefix(address, "["):
		if end := strings.IndexByte(address, ']'); end == len(address)-1 {
			host = address[1:end]
			break
		}
		if host, port, err = net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("bad address: %w", err)
		}
	case strings.Count(address, ":") == 1:
		host, port, _ = strings.Cut(address, ":")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return "", "", fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() || strings.Trim(ip.Zone(), nameBytes) != "" {
			return "", "", fmt.Errorf("%s is no address of a server", ip)
		}
		return ip.Unmap().String(), strconv.FormatUint(number, 10), nil
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	if name == "" || len(name) > maxNameBytes || strings.Trim(name, nameBytes) != "" || strings.Contains(name, "..") ||
		strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-") {
		return "", "", fmt.Errorf("%q is neither a host name nor an address", host)
	}
	return name, strconv.FormatUint(number, 10), nil
}

// GroupOf derives the independence group of a host: who can make it lie.
//
//   - a name belongs to the operator of its registrable domain (all servers of a
//     pool are one group, as are time1 and time2 of one company);
//   - names inside a domain that nobody registered (.internal, .local, .corp)
//     belong to that private domain, names without a dot all to one group;
//   - link-local addresses, AWS's fd00:ec2::/32 and GCP's metadata server are
//     what the hypervisor offers: one group;
//   - loopback addresses are one group;
//   - any other address is a group of its own, for nothing more is known of it.
//
// Two names of one operator under two domains, or two of the owner's own
// addresses that follow one upstream, cannot be told apart from independent ones:
// "group=host" in --time-server says so.
func GroupOf(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		switch {
		case ip.IsLinkLocalUnicast(), netip.MustParsePrefix("fd00:ec2::/32").Contains(ip.WithZone("")):
			return linkLocal
		case ip.IsLoopback():
			return "loopback"
		}
		return ip.String()
	}
	if host == "metadata.google.internal" || host == "metadata" {
		return linkLocal
	}
	if !strings.Contains(host, ".") {
		return "unqualified"
	}
	suffix, managed := publicsuffix.PublicSuffix(host)
	if !managed && !strings.Contains(suffix, ".") && strings.Count(host, ".") == 1 {
		return suffix
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(host)
	if err != nil {
		return host
	}
	return domain
}
