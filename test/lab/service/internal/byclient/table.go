// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package byclient

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// A Table says which value holds for a client. The value set last wins among those
// whose prefixes hold the client; the zero value of T holds for a client that no
// prefix holds. The zero Table is empty. Safe for concurrent use.
type Table[T any] struct {
	mu      sync.RWMutex
	rules   []rule[T]
	changed chan struct{}
}

type rule[T any] struct {
	clients netip.Prefix
	value   T
}

// Set makes value hold for the clients of the prefixes from now on, for every
// client when none is given. It forgets what was set before for these clients, so
// setting the value of health takes a fault back. A prefix that is not valid holds
// nobody.
func (t *Table[T]) Set(value T, clients ...netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(clients) == 0 {
		t.rules = nil
		clients = []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	for _, prefix := range clients {
		prefix = prefix.Masked()
		t.rules = slices.DeleteFunc(t.rules, func(r rule[T]) bool {
			return prefix.Bits() <= r.clients.Bits() && prefix.Contains(r.clients.Addr())
		})
		t.rules = append(t.rules, rule[T]{clients: prefix, value: value})
	}
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// For returns the value that holds for a client.
func (t *Table[T]) For(client netip.Addr) T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.lookup(client)
}

// Watch returns the value that holds for a client, and a channel that is closed
// once anything in the table is set again.
func (t *Table[T]) Watch(client netip.Addr) (value T, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.lookup(client), t.changed
}

func (t *Table[T]) lookup(client netip.Addr) T {
	client = client.Unmap().WithZone("")
	for _, r := range slices.Backward(t.rules) {
		if r.clients.Contains(client) {
			return r.value
		}
	}
	var none T
	return none
}

// Addr returns the address of a peer as a Table compares it: an IPv4 address on an
// IPv6 socket is an IPv4 address, and a zone is left out. It is the zero Addr for
// what is no IP address, which no prefix holds.
func Addr(peer net.Addr) netip.Addr {
	var at netip.AddrPort
	switch peer := peer.(type) {
	case *net.TCPAddr:
		at = peer.AddrPort()
	case *net.UDPAddr:
		at = peer.AddrPort()
	}
	return at.Addr().Unmap().WithZone("")
}

// Parse is Addr for an address and port in words, as net/http hands them out.
func Parse(peer string) netip.Addr {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}
