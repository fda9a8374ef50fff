// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// hops is a metadata server, a node one hop from it, and a pod behind the node.
type hops struct {
	server, node, pod *testutils.NetNS
}

func newHops(t *testing.T) hops {
	h := hops{testutils.NewNetNS(t), testutils.NewNetNS(t), testutils.NewNetNS(t)}
	testutils.Veth(h.server, "port", h.node, "eth0")
	testutils.Veth(h.node, "cni0", h.pod, "eth0")
	for _, c := range []struct {
		ns    *testutils.NetNS
		lines []string
	}{
		{h.server, []string{
			"addr add 10.9.1.1/24 dev port", "-6 addr add fd00:9:1::1/64 dev port nodad",
			"addr add 169.254.169.254/32 dev lo", "-6 addr add fd00:ec2::254/128 dev lo nodad",
			"route add 10.244.1.0/24 via 10.9.1.2", "-6 route add fd00:244:1::/64 via fd00:9:1::2",
		}},
		{h.node, []string{
			"addr add 10.9.1.2/24 dev eth0", "-6 addr add fd00:9:1::2/64 dev eth0 nodad",
			"addr add 10.244.1.1/24 dev cni0", "-6 addr add fd00:244:1::1/64 dev cni0 nodad",
			"route add default via 10.9.1.1", "-6 route add default via fd00:9:1::1",
		}},
		{h.pod, []string{
			"addr add 10.244.1.10/24 dev eth0", "-6 addr add fd00:244:1::10/64 dev eth0 nodad",
			"route add default via 10.244.1.1", "-6 route add default via fd00:244:1::1",
		}},
	} {
		for _, line := range c.lines {
			c.ns.Run("ip", strings.Fields(line)...)
		}
	}
	h.node.Run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	return h
}

func (h hops) listen(t *testing.T, address string) (listener net.Listener) {
	t.Helper()
	require.NoError(t, h.server.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "80"))
		return err
	}))
	return listener
}

// from is a client in a namespace. It says whether a connection came about.
func from(ns *testutils.NetNS, connected *bool) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() (err error) {
			conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
			return err
		})
		*connected = err == nil
		return conn, err
	}}}
}

// expired is how many packets the node dropped for their TTL or hop limit while
// forwarding, of a family: Ip InHdrErrors counts them for IPv4, and Ip6InHdrErrors
// for IPv6 (ip_forward, ip6_forward).
func (h hops) expired(t *testing.T, six bool) int {
	t.Helper()
	if six {
		found := regexp.MustCompile(`Ip6InHdrErrors\s+(\d+)`).FindStringSubmatch(h.node.Run("cat", "/proc/net/snmp6"))
		require.NotNil(t, found)
		n, err := strconv.Atoi(found[1])
		require.NoError(t, err)
		return n
	}
	found := regexp.MustCompile(`(?m)^Ip: (\D.*)\nIp: (.*)$`).FindStringSubmatch(h.node.Run("cat", "/proc/net/snmp"))
	require.NotNil(t, found)
	values := strings.Fields(found[2])
	for i, name := range strings.Fields(found[1]) {
		if name == "InHdrErrors" {
			n, err := strconv.Atoi(values[i])
			require.NoError(t, err)
			return n
		}
	}
	t.Fatal("no InHdrErrors")
	return 0
}

func TestTheHopLimitStopsTheTokenAtTheNode(t *testing.T) {
	for name, c := range map[string]struct {
		listen, ask string
		six         bool
	}{
		"IPv4":                      {"169.254.169.254", "169.254.169.254", false},
		"IPv6":                      {"fd00:ec2::254", "fd00:ec2::254", true},
		"IPv4 on a socket for both": {"::", "169.254.169.254", false},
	} {
		t.Run(name, func(t *testing.T) {
			// A network for each: the kernel sends an answer that died again, and each of
			// these dies at the node and is counted there.
			h := newHops(t)
			s, _ := newServer(t, AWS, nil)
			serveOn(t, s, h.listen(t, c.listen))
			h.prove(t, s, "http://"+net.JoinHostPort(c.ask, "80"), c.six)
		})
	}
}

func (h hops) prove(t *testing.T, s *Server, base string, six bool) {
	put := func(ns *testutils.NetNS, limit time.Duration) (r response, connected bool, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		r, err = try(ctx, from(ns, &connected), "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60")
		return r, connected, err
	}
	get := func(ns *testutils.NetNS, headers ...string) response {
		var connected bool
		return ask(t, from(ns, &connected), "GET", base+"/latest/meta-data/instance-id", headers...)
	}
	const soon, late = 5 * time.Second, 700 * time.Millisecond

	r, _, err := put(h.pod, soon)
	require.NoError(t, err, "healthy: the pod gets a token")
	require.Equal(t, "i-1", get(h.pod, awsTokenHeader+": "+r.body).body)

	before := h.expired(t, six)
	require.NoError(t, s.SetMode(HopLimit))
	r, _, err = put(h.node, soon)
	require.NoError(t, err, "the node gets a token")
	require.Equal(t, 200, r.status)
	require.Equal(t, "i-1", get(h.node, awsTokenHeader+": "+r.body).body)
	require.Equal(t, before, h.expired(t, six), "what is for the node does not expire")

	require.Equal(t, 401, get(h.pod).status, "the pod's GET without a token is answered")
	require.Equal(t, "i-1", get(h.pod, awsTokenHeader+": "+r.body).body, "and with one too")
	require.Equal(t, before, h.expired(t, six))
	_, connected, err := put(h.pod, late)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the pod's PUT hangs")
	require.True(t, connected)
	testutils.Eventually(t, 5*time.Second, "the node drops the answer", func() bool { return h.expired(t, six) > before })

	require.NoError(t, s.SetMode(Healthy))
	r, _, err = put(h.pod, soon)
	require.NoError(t, err, "the pod gets a token again")
	require.Equal(t, 200, r.status)
}

func TestNoAnswerLeavesWithoutItsHopLimit(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, nil)
	require.NoError(t, s.SetMode(HopLimit))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveOn(t, s, blind{listener})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = try(ctx, client(t, ""), "PUT", "http://"+listener.Addr().String()+awsTokenPath, awsTokenTTLHeader+": 60")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// blind hides that its connections are sockets.
type blind struct{ net.Listener }

func (l blind) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return struct{ net.Conn }{conn}, err
}
