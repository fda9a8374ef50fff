// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Namespace = (*testutils.NetNS)(nil)

// A bed is a fabric with nodes a, b and c on it.
type bed struct {
	*Fabric
	t             *testing.T
	family        Family
	router, spine *testutils.NetNS
	nodes         map[string]*testutils.NetNS
}

// newBed makes a fabric with nodes of MTU 1500, changed by configure.
func newBed(t *testing.T, family Family, configure func(*Config, []*Port)) *bed {
	t.Helper()
	b := &bed{t: t, family: family, router: testutils.NewNetNS(t), spine: testutils.NewNetNS(t), nodes: map[string]*testutils.NetNS{}}
	cfg := Config{Router: b.router, Spine: b.spine, Family: family}
	var ports []*Port
	for i, name := range []string{"a", "b", "c"} {
		b.nodes[name] = testutils.NewNetNS(t)
		ports = append(ports, &Port{
			Name: name, Device: "f" + name, Peer: b.nodes[name], PeerDevice: "eth0", MTU: 1500,
			Gateway: host(family, i+1, 1), Addresses: []netip.Prefix{host(family, i+1, 2)},
		})
	}
	if configure != nil {
		configure(&cfg, ports)
	}
	var err error
	b.Fabric, err = New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	for _, p := range ports {
		require.NoError(t, b.AddPort(t.Context(), *p))
	}
	return b
}

// host is the n-th network's host.
func host(family Family, network, n int) netip.Prefix {
	if family == IPv6 {
		return netip.MustParsePrefix(fmt.Sprintf("fd00:9:%x::%x/64", network, n))
	}
	return netip.MustParsePrefix(fmt.Sprintf("10.9.%d.%d/24", network, n))
}

// address is a node's.
func (b *bed) address(name string) string {
	return host(b.family, int(name[0]-'a')+1, 2).Addr().String()
}

// lengthOverPing is what a ping's payload lacks to the length of its IP packet.
func (b *bed) lengthOverPing() int {
	if b.family == IPv6 {
		return 40 + 8
	}
	return 20 + 8
}

// An echo is what ping said.
type echo struct {
	received int
	ttls     map[int]int
	longest  time.Duration
	output   string
}

// ping sends count packets of an IP length, none of them fragmented by the sender.
func (b *bed) ping(from, to string, length, count int, more ...string) echo {
	b.t.Helper()
	return b.pingAddress(from, b.address(to), length, count, more...)
}

func (b *bed) pingAddress(from, to string, length, count int, more ...string) echo {
	b.t.Helper()
	args := append([]string{"-n", "-M", "do", "-c", strconv.Itoa(count), "-i", "0.002", "-W", "0.3", "-s", strconv.Itoa(length - b.lengthOverPing())}, more...)
	out, _ := b.nodes[from].Try("ping", append(args, to)...)
	got := echo{output: out, ttls: map[int]int{}}
	m := regexp.MustCompile(`(\d+) received`).FindStringSubmatch(out)
	require.NotNil(b.t, m, out)
	got.received, _ = strconv.Atoi(m[1])
	for _, m := range regexp.MustCompile(`time=([0-9.]+) ms`).FindAllStringSubmatch(out, -1) {
		took, err := time.ParseDuration(m[1] + "ms")
		require.NoError(b.t, err)
		got.longest = max(got.longest, took)
	}
	for _, m := range regexp.MustCompile(`ttl=(\d+)`).FindAllStringSubmatch(out, -1) {
		ttl, _ := strconv.Atoi(m[1])
		got.ttls[ttl]++
	}
	return got
}

// passes and fails say what one ping of a length does.
func (b *bed) passes(from, to string, length int) {
	b.t.Helper()
	got := b.ping(from, to, length, 2)
	require.Equal(b.t, 2, got.received, "%d bytes from %s to %s must pass: %s", length, from, to, got.output)
}

func (b *bed) fails(from, to string, length int) {
	b.t.Helper()
	got := b.ping(from, to, length, 2)
	require.Zero(b.t, got.received, "%d bytes from %s to %s must be lost: %s", length, from, to, got.output)
}

// learned is the path MTU that a node has in its route cache towards another; 0 for
// none.
func (b *bed) learned(from, to string) int {
	b.t.Helper()
	out := b.nodes[from].Run("ip", "route", "get", b.address(to))
	m := regexp.MustCompile(`mtu (?:lock )?(\d+)`).FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	mtu, _ := strconv.Atoi(m[1])
	return mtu
}

func (b *bed) set(rules ...Rule) {
	b.t.Helper()
	require.NoError(b.t, b.Apply(rules))
}

func (b *bed) rule(id string) RuleCounters {
	b.t.Helper()
	c, err := b.Counters()
	require.NoError(b.t, err)
	return c.Rules[id]
}

// dropped is what all rules together lost.
func (b *bed) dropped() int {
	b.t.Helper()
	c, err := b.Counters()
	require.NoError(b.t, err)
	var n uint64
	for _, r := range c.Rules {
		n += r.DroppedPackets
	}
	return int(n)
}

// trains is how many GSO trains entered anywhere.
func (b *bed) trains() uint64 {
	b.t.Helper()
	c, err := b.Counters()
	require.NoError(b.t, err)
	var n uint64
	for _, p := range c.Ports {
		n += p.Trains
	}
	return n
}

// families runs a test for both.
func families(t *testing.T, test func(*testing.T, Family)) {
	for _, family := range []Family{IPv4, IPv6} {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) {
			t.Parallel()
			test(t, family)
		})
	}
}

// hooks are those that this kernel has: tcx came with 6.6.
func hooks(t *testing.T) []Hook {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	require.NoError(t, err)
	if major > 6 || major == 6 && minor >= 6 {
		return []Hook{TCX, Clsact}
	}
	return []Hook{Clsact}
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

// gateway is a node's.
func (b *bed) gateway(name string) string {
	return host(b.family, int(name[0]-'a')+1, 1).Addr().String()
}
