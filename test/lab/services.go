// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/service/dns"
	"github.com/plumb-dev/plumb/test/lab/service/metadata"
	"github.com/plumb-dev/plumb/test/lab/service/sntp"
)

// timeServers is how many there are, each in an independence group of its own.
const timeServers = 3

// services are the servers that the faults act on. They run in this process, on
// sockets that were opened inside the cluster.
type services struct {
	metadata *metadata.Server // nil without a cloud
	time     [timeServers]*sntp.Server
	dns      *dns.Server
}

// serve runs a server until the cluster is taken down.
func (c *cluster) serve(what string, run func(context.Context) error) {
	c.serving.Add(1)
	go func() {
		defer c.serving.Done()
		if err := run(c.servingContext); err != nil && !errors.Is(err, context.Canceled) {
			c.fail("%s ended: %v", what, err)
		}
	}()
}

// startServices starts metadata, time and DNS.
func (c *cluster) startServices(ctx context.Context) error {
	c.services = &services{}
	if err := c.startMetadata(ctx); err != nil {
		return err
	}
	for i := range timeServers {
		server, err := sntp.New(sntp.Config{Now: time.Now})
		if err != nil {
			return err
		}
		conn, err := c.servicesMachine.ListenPacket("", "udp", c.timeServer(i).String())
		if err != nil {
			return fmt.Errorf("start time server %d: %w", i, err)
		}
		c.services.time[i] = server
		c.serve(fmt.Sprintf("time server %d", i), func(ctx context.Context) error { return server.Serve(ctx, conn) })
	}
	return c.startDNS()
}

// timeServer is where a time server answers.
func (c *cluster) timeServer(i int) netip.AddrPort {
	return netip.AddrPortFrom(hostIn(c.scenario.Family, servicesNet, timeHost+i).Addr(), 123)
}

// resolver is where the cluster's DNS answers.
func (c *cluster) resolver() netip.AddrPort {
	return netip.AddrPortFrom(podAddress(c.resolverNode().index, resolverHost), 53)
}

// startMetadata starts the metadata server in the fabric, one hop from the nodes.
func (c *cluster) startMetadata(ctx context.Context) error {
	if c.scenario.Cloud == scenario.NoCloud {
		return nil
	}
	v4, v6 := metadataAddresses()
	lines := []string{fmt.Sprintf("addr add %s/32 dev lo", v4)}
	listen := []string{netip.AddrPortFrom(v4, 80).String()}
	if c.scenario.Family == scenario.IPv6 {
		lines = append(lines, fmt.Sprintf("addr add %s/128 dev lo nodad", v6))
		listen = append(listen, netip.AddrPortFrom(v6, 80).String())
	}
	if err := c.fabricMachine.IP(ctx, lines...); err != nil {
		return err
	}
	server, err := metadata.New(metadata.Config{Cloud: metadata.Cloud(c.scenario.Cloud), Instance: c.instance, Now: time.Now, AllowV1: true})
	if err != nil {
		return err
	}
	c.services.metadata = server
	var listeners []net.Listener
	for _, address := range listen {
		l, err := c.fabricMachine.Listen("", "tcp", address)
		if err != nil {
			for _, open := range listeners {
				err = errors.Join(err, open.Close())
			}
			return fmt.Errorf("start the metadata server: %w", err)
		}
		listeners = append(listeners, l)
	}
	c.serve("metadata server", func(ctx context.Context) error { return server.Serve(ctx, listeners...) })
	for _, n := range c.nodes {
		if c.scenario.Family == scenario.IPv4 {
			if err := n.IP(ctx, fmt.Sprintf("route add %s dev %s scope link", v4, nodeDevice)); err != nil {
				return err
			}
		}
	}
	return nil
}

// instance is the machine that a client of the metadata server runs on.
func (c *cluster) instance(client netip.Addr) metadata.Instance {
	for _, n := range c.nodes {
		for _, p := range n.clients() {
			if !p.Contains(client) {
				continue
			}
			sum := sha256.Sum256([]byte(n.uid))
			instanceType := n.spec.InstanceType
			if instanceType == "" {
				instanceType = "lab.small"
			}
			id := "i-0" + hex.EncodeToString(sum[:8])
			if c.scenario.Cloud != scenario.AWS {
				id = fmt.Sprintf("%d", uint64(sum[0])<<40|uint64(sum[1])<<32|uint64(sum[2])<<24|uint64(sum[3])<<16|uint64(sum[4])<<8|1)
			}
			return metadata.Instance{ID: id, Name: n.Name(), Region: "lab", Zone: "lab-" + n.spec.Zone, Type: instanceType}
		}
	}
	return metadata.Instance{}
}

// startDNS starts the cluster's resolver in its pod.
func (c *cluster) startDNS() error {
	server, err := dns.New(dns.Config{})
	if err != nil {
		return err
	}
	c.services.dns = server
	n := c.resolverNode()
	packets, err := n.ListenPacket(resolverNetns, "udp", c.resolver().String())
	if err != nil {
		return fmt.Errorf("start the resolver: %w", err)
	}
	listener, err := n.Listen(resolverNetns, "tcp", c.resolver().String())
	if err != nil {
		return fmt.Errorf("start the resolver: %w", errors.Join(err, packets.Close()))
	}
	c.serve("resolver", func(ctx context.Context) error { return server.Serve(ctx, packets, listener) })
	return nil
}
