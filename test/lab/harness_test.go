// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/rundir"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// A bed is a cluster that a test breaks and looks into. Subtests may share one, one
// after the other.
type bed struct {
	*cluster
	spec string
}

// threeNodes are two in zone a and one in zone b, of two pools.
const threeNodes = `
  nodes:
    - {name: n1, zone: a, pool: left}
    - {name: n2, zone: a, pool: right}
    - {name: n3, zone: b, pool: right}
`

// parse reads a scenario of this spec, and of one fault if there is one.
func parse(t *testing.T, spec, fault string) *scenario.Scenario {
	t.Helper()
	if fault != "" {
		spec += "\n  faults:\n    - " + fault + "\n"
	}
	s, err := scenario.Parse("injection.yaml", []byte("apiVersion: plumb.dev/v1alpha1\nkind: Scenario\nmetadata: {name: injection}\nspec:\n  description: To be broken.\n"+spec))
	require.NoError(t, err)
	return s
}

// newBed builds a cluster without the product.
func newBed(t *testing.T, spec string) *bed {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	s := parse(t, spec, "")
	programs := map[string]string{}
	if len(s.ControlPlaneNodes()) > 0 {
		programs[etcdProgram] = filepath.Join(binaries(t), etcdProgram)
	}
	return standing(t, spec, s, programs, newPlumbing)
}

// newProductBed builds a cluster with agents and aggregators. With labClock the
// agents are those of the lab's build, whose clock a file sets.
func newProductBed(t *testing.T, spec string, labClock bool) *bed {
	t.Helper()
	fault := ""
	if labClock {
		fault = "{at: 0s, kind: clock-offset, offset: 1s}"
	}
	programs, err := programsOf(parse(t, spec, fault), []string{binaries(t)})
	require.NoError(t, err)
	return standing(t, spec, parse(t, spec, ""), programs, newCluster)
}

type builder func(context.Context, *scenario.Scenario, *rundir.Dir, map[string]string) (*cluster, error)

func standing(t *testing.T, spec string, s *scenario.Scenario, programs map[string]string, build builder) *bed {
	t.Helper()
	dir, err := rundir.New(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dir.Remove(removers())) })
	c, err := build(t.Context(), s, dir, programs)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.close(context.Background())) })
	// On its own, so that the cluster ends whatever this says.
	t.Cleanup(func() { require.Empty(t, c.troubles(), "the cluster is in trouble") })
	return &bed{cluster: c, spec: spec}
}

// inject breaks one thing, written as in a scenario file without its time. What it
// returns mends it; the end of the test does at the latest.
func (b *bed) inject(t *testing.T, fault string) (heal func()) {
	t.Helper()
	read := parse(t, b.spec, "{at: 0s, "+fault+"}")
	require.NoError(t, playable(read, read.Faults[0]))
	b.scenario.Faults = append(b.scenario.Faults, read.Faults[0])
	back, err := b.cluster.inject(t.Context(), len(b.scenario.Faults)-1)
	require.NoError(t, err)
	var once sync.Once
	heal = func() {
		t.Helper()
		once.Do(func() { require.NoError(t, back(context.Background())) })
	}
	t.Cleanup(heal)
	return heal
}

// A spot is where a packet may begin or end.
type spot struct {
	*machine.Machine
	netns   string
	address netip.Addr
}

// at finds a spot: a node ("n1"), a pod ("n1/pod"), "aggregator" or "services".
func (b *bed) at(t *testing.T, name string) spot {
	t.Helper()
	switch name {
	case "aggregator":
		return spot{Machine: b.aggregators[0].machine, address: b.ingest(0).Addr()}
	case "services":
		return spot{Machine: b.servicesMachine, address: b.timeServer(0).Addr()}
	}
	name, netns, inPod := strings.Cut(name, "/")
	n := b.node(name)
	require.NotNil(t, n, "no node %s", name)
	if !inPod {
		return spot{Machine: n.Machine, address: n.address}
	}
	return spot{Machine: n.Machine, netns: netns, address: n.pods[netns].address}
}

// run runs a command on a spot, in its network namespace, and returns what it wrote
// whether it failed or not.
func (s spot) run(ctx context.Context, args ...string) string {
	if s.netns != "" {
		args = append([]string{"nsenter", "--net=/run/netns/" + s.netns, "--"}, args...)
	}
	out, _ := s.Run(ctx, args...) // what it wrote tells
	return out
}

// headers is the length of IP and UDP (or echo) headers towards a spot.
func (s spot) headers() int {
	if s.address.Is6() {
		return 40 + 8
	}
	return 20 + 8
}

// encapsulation is what the overlay adds to a pod's packet as the fabric sees it:
// Ethernet, VXLAN and UDP headers (RFC 7348 section 5), and the outer IP header.
func (b *bed) encapsulation() int {
	switch {
	case b.scenario.Overlay.Kind == "none":
		return 0
	case b.scenario.Family == scenario.IPv6:
		return 14 + 8 + 8 + 40
	}
	return 14 + 8 + 8 + 20
}

// An echo is what ping said.
type echo struct {
	sent, received int
	ttls           map[int]int
	output         string
}

// ping sends echo requests of an IP length. More arguments come before the address.
func (b *bed) ping(t *testing.T, from, to string, length, count int, more ...string) echo {
	t.Helper()
	a, z := b.at(t, from), b.at(t, to)
	args := append([]string{"ping", "-n", "-M", "do", "-c", strconv.Itoa(count), "-i", "0.002", "-W", "1", "-s", strconv.Itoa(length - z.headers())}, more...)
	got := echo{output: a.run(t.Context(), append(args, z.address.String())...), ttls: map[int]int{}}
	m := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(got.output)
	require.NotNil(t, m, got.output)
	_, err := fmt.Sscan(m[1]+" "+m[2], &got.sent, &got.received)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`ttl=(\d+)`).FindAllStringSubmatch(got.output, -1) {
		ttl, _ := strconv.Atoi(m[1])
		got.ttls[ttl]++
	}
	return got
}

// learned is the path MTU that a spot has in its route cache towards another; 0 for
// none.
func (b *bed) learned(t *testing.T, from, to string) int {
	t.Helper()
	out := b.at(t, from).run(t.Context(), "ip", "route", "get", b.at(t, to).address.String())
	m := regexp.MustCompile(`mtu (?:lock )?(\d+)`).FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	mtu, _ := strconv.Atoi(m[1])
	return mtu
}

// forget empties the cache of learned path MTUs everywhere.
func (b *bed) forget(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	for _, n := range b.nodes {
		b.at(t, n.Name()+"/pod").run(ctx, "ip", "route", "flush", "cache")
		b.at(t, n.Name()).run(ctx, "ip", "route", "flush", "cache")
		b.at(t, n.Name()).run(ctx, "ip", "-6", "route", "flush", "cache")
	}
}

// counter reads a counter of a node's device below /sys/class/net.
func (b *bed) counter(t *testing.T, at, device, name string) int {
	t.Helper()
	out := b.at(t, at).run(t.Context(), "cat", "/sys/class/net/"+device+"/statistics/"+name)
	value, err := strconv.Atoi(strings.TrimSpace(out))
	require.NoError(t, err, out)
	return value
}

// dropped is what the fabric's rules lost so far, all together.
func (b *bed) dropped(t *testing.T) (packets uint64) {
	t.Helper()
	c, err := b.fabric.Counters()
	require.NoError(t, err)
	for _, r := range c.Rules {
		packets += r.DroppedPackets
	}
	return packets
}
