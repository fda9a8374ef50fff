// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// alive says whether the kernel still has a program.
func alive(t *testing.T, id ebpf.ProgramID) bool {
	t.Helper()
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	require.NoError(t, err)
	require.NoError(t, p.Close())
	return true
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		for _, hook := range hooks(t) {
			t.Run(string(hook), func(t *testing.T) {
				b := newBed(t, family, func(cfg *Config, _ []*Port) { cfg.Hook = hook })
				id, err := b.program.ID()
				require.NoError(t, err)
				require.True(t, alive(t, id))
				b.set(Rule{ID: "flap", FlapEvery: time.Second})
				require.Contains(t, b.router.Run("ip", "rule"), "fwmark")

				require.NoError(t, b.Close())
				// The kernel frees a program after its last reader (RCU).
				testutils.Eventually(t, 10*time.Second, "the program is gone, and with it all links and filters", func() bool { return !alive(t, id) })
				for name, ns := range map[string]*testutils.NetNS{"router": b.router, "spine": b.spine, "a": b.nodes["a"]} {
					require.Len(t, lines(ns.Run("ip", "-o", "link")), 1, "only lo is left in %s", name)
					for _, version := range []string{"-4", "-6"} {
						require.NotContains(t, ns.Run("ip", version, "rule"), "fwmark", name)
						require.NotContains(t, ns.Run("ip", version, "route", "show", "table", "all"), "default", name)
					}
				}
				require.NoError(t, b.Close(), "twice is fine")
				require.ErrorContains(t, b.Set(Rule{ID: "late", Cut: true}), "closed")
				require.ErrorContains(t, b.AddPort(t.Context(), Port{
					Name: "late", Device: "flate", Peer: b.nodes["a"], PeerDevice: "eth0", MTU: 1500,
					Gateway: host(family, 1, 1), Addresses: []netip.Prefix{host(family, 1, 2)},
				}), "closed")
				_, err = b.Counters()
				require.ErrorContains(t, err, "closed")
			})
		}
	})
}

func TestCloseTakesWhatIsLeftOfThePeers(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	b.nodes["a"].Run("ip", "link", "del", "eth0")
	b.spine.Run("ip", "link", "del", "up0")
	require.Zero(t, b.ping("b", "a", 100, 1).received)
	b.passes("b", "c", 1500)
	require.NoError(t, b.Close())
}

func TestTwoFabricsDoNotKnowEachOther(t *testing.T) {
	t.Parallel()
	one, two := newBed(t, IPv4, nil), newBed(t, IPv4, nil)
	one.set(Rule{ID: "cut", Cut: true})
	one.fails("a", "b", 100)
	two.passes("a", "b", 1500)
	require.Zero(t, two.dropped())
	require.NoError(t, one.Close())
	two.passes("a", "b", 1500)
}

func TestWhatFailsLeavesNoPort(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	d := testutils.NewNetNS(t)
	good := Port{
		Name: "d", Device: "fd", Peer: d, PeerDevice: "eth0", MTU: 1500,
		Gateway: host(IPv4, 4, 1), Addresses: []netip.Prefix{host(IPv4, 4, 2)},
	}
	for name, test := range map[string]struct {
		change func(*Port)
		want   string
	}{
		"a name that is taken":        {func(p *Port) { p.Name = "a" }, "there is one of that name"},
		"no name":                     {func(p *Port) { p.Name = "" }, "needed"},
		"a device that is taken":      {func(p *Port) { p.Device = "fa" }, "file exists"},
		"a device name too long":      {func(p *Port) { p.Device = "abcdefghijklmnop" }, "15 characters"},
		"an address that is taken":    {func(p *Port) { p.Gateway, p.Addresses = host(IPv4, 1, 1), prefixes("10.9.1.2/24") }, "behind port a already"},
		"an address of elsewhere":     {func(p *Port) { p.Addresses = prefixes("10.8.0.1/24") }, "not one beside its gateway"},
		"the gateway's own address":   {func(p *Port) { p.Addresses = prefixes("10.9.4.1/24") }, "not one beside its gateway"},
		"an impossible MTU":           {func(p *Port) { p.MTU = 67 }, "make a veth"},
		"a negative wire":             {func(p *Port) { p.Wire = -1 }, "wire"},
		"an address given twice":      {func(p *Port) { p.Addresses = prefixes("10.9.4.2/24", "10.9.4.2/24") }, "file exists"},
		"IPv6 behind IPv4":            {func(p *Port) { p.Destinations = prefixes("fd00::/64") }, "IPv6 networks behind"},
		"a destination of the router": {func(p *Port) { p.Destinations = prefixes("10.9.1.0/24") }, "file exists"},
	} {
		p := good
		test.change(&p)
		require.ErrorContains(t, b.AddPort(t.Context(), p), test.want, name)
		require.Len(t, lines(d.Run("ip", "-o", "link")), 1, "%s: nothing is left at the peer", name)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, b.AddPort(done, good), context.Canceled)
	b.passes("a", "b", 1500)
	require.NoError(t, b.AddPort(t.Context(), good))
	b.nodes["d"] = d
	b.passes("a", "d", 1500)
}

func TestAnMTUThatTheKernelChangedIsAnError(t *testing.T) {
	t.Parallel()
	ns := testutils.NewNetNS(t)
	err := ns.Do(func() error { return checkMTU("lo", 1500) })
	var wrong *MTUError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, &MTUError{Device: "lo", Asked: 1500, Got: 65536}, wrong)
	require.EqualError(t, err, "MTU of lo: asked for 1500, the kernel made it 65536; ask for what it allows")
}

func TestTheHookIsTheBestThatTheKernelHas(t *testing.T) {
	t.Parallel()
	best := hooks(t)[0]
	require.Equal(t, map[string]Hook{"a": best, "b": best, "c": best}, newBed(t, IPv4, nil).Hooks())
}

func TestOffloadsAreWhatAWireNeeds(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	for device, ns := range map[string]*testutils.NetNS{"eth0": b.nodes["a"], "fa": b.router} {
		features := ns.Run("ethtool", "-k", device)
		for _, line := range lines(features) {
			name, state, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if strings.HasPrefix(name, "tx-") && strings.HasSuffix(name, "-segmentation") {
				require.True(t, strings.HasPrefix(state, "off"), "%s: %s", device, line)
			}
		}
		require.Contains(t, features, "tcp-segmentation-offload: off", device)
		require.Contains(t, features, "generic-segmentation-offload: off", device)
		require.Contains(t, features, "tx-udp_tnl-segmentation: off", device)
	}
	require.Contains(t, b.nodes["a"].Run("ethtool", "-k", "eth0"), "generic-receive-offload: on")
	require.Contains(t, b.router.Run("ethtool", "-k", "fa"), "generic-receive-offload: off")
	require.Contains(t, b.router.Run("ip", "link", "show", "fa"), "mtu 65535")
	require.Contains(t, b.nodes["a"].Run("ip", "link", "show", "eth0"), "mtu 1500")
}

func TestWaitingForIPv6SaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv6, nil)
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, waitReady(t.Context(), b.router, "fa", prefixes("fd00:9:1::1/64", "10.0.0.1/8")))
	err := waitReady(soon, b.router, "fa", prefixes("fd00:9:1::77/64"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "wait for IPv6 on fa: it still has no group for solicitations for fd00:9:1::77")
	require.NoError(t, waitReady(soon, b.router, "fa", prefixes("10.0.0.1/8")), "IPv4 needs no waiting")
}

// See firstIndex: equal indexes cost a second.
func TestNoEndHasTheIndexOfItsOther(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv6, nil)
	for _, device := range []string{"fa", "fb", "fc", "spine-out", "spine-in"} {
		index, _, _ := strings.Cut(b.router.Run("ip", "-o", "link", "show", device), ":")
		n, err := strconv.Atoi(index)
		require.NoError(t, err)
		require.Greater(t, n, firstIndex, device)
	}
}

func TestOfIPv6NothingIsHeardInAnIPv4Fabric(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	require.Empty(t, b.router.Run("ip", "-6", "addr", "show", "dev", "fa"))
	require.Empty(t, b.nodes["a"].Run("ip", "-6", "addr", "show", "dev", "eth0"))
}

func TestPodsBehindAPortAreRoutedAndRuled(t *testing.T) {
	families(t, func(t *testing.T, family Family) {
		b := newBed(t, family, func(_ *Config, ports []*Port) {
			for i, p := range ports {
				p.Destinations = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 0}), 24)}
			}
		})
		for i, name := range []string{"a", "b", "c"} {
			b.nodes[name].Run("ip", "addr", "add", netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 10}).String()+"/32", "dev", "lo")
		}
		pod := func() int { return b.pingAddress("a", "10.244.2.10", 200, 2, "-I", "10.244.1.10").received }
		require.Equal(t, 2, pod())
		b.set(Rule{ID: "cut", From: "a", To: "b", Cut: true})
		require.Zero(t, pod())
		b.set(Rule{ID: "cut", From: "a", To: "c", Cut: true})
		require.Equal(t, 2, pod())
	})
}

func TestWhatIsForTheRouterIsNeverTouched(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	b.router.Run("ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
	b.set(Rule{ID: "cut", Cut: true})
	require.Equal(t, 2, b.pingAddress("a", "169.254.169.254", 1400, 2).received)
	b.fails("a", "b", 100)
}

func TestRulesThatCannotBe(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	for name, test := range map[string]struct {
		rule Rule
		want string
	}{
		"no effect":            {Rule{ID: "r"}, "does nothing"},
		"no id":                {Rule{Cut: true}, "no ID"},
		"an unknown port":      {Rule{ID: "r", From: "x", Cut: true}, `no port "x"; it has ["a" "b" "c"]`},
		"to itself":            {Rule{ID: "r", From: "a", To: "a", Cut: true}, "to itself"},
		"a negative size":      {Rule{ID: "r", DropLarger: -1}, "larger than -1"},
		"an answer to nothing": {Rule{ID: "r", ICMP: true, Cut: true}, "give DropLarger"},
		"too much loss":        {Rule{ID: "r", LossRatio: 1.01}, "1.01"},
		"a negative rate":      {Rule{ID: "r", BitsPerSecond: -1}, "rate"},
		"a negative burst":     {Rule{ID: "r", BitsPerSecond: 1, BurstBytes: -1}, "burst"},
		"too fast a flap":      {Rule{ID: "r", FlapEvery: time.Microsecond}, "millisecond"},
	} {
		require.ErrorContains(t, b.Set(test.rule), test.want, name)
	}
	require.ErrorContains(t, b.Apply([]Rule{{ID: "r", Cut: true}, {ID: "r", Cut: true}}), "twice")
	require.ErrorContains(t, b.Clear("r"), "there is none")
	var many []Rule
	for i := range bpf.MaxPairRules + 1 {
		many = append(many, Rule{ID: string(rune('A' + i)), DropLarger: 2000 + i})
	}
	require.ErrorContains(t, b.Apply(many), "17 hold from")
	b.passes("a", "b", 1500)
	require.NoError(t, b.Apply(many[1:]))
	b.passes("a", "b", 1500)
}

func TestCountersOutliveTheirRule(t *testing.T) {
	t.Parallel()
	b := newBed(t, IPv4, nil)
	cut := Rule{ID: "cut", From: "a", Cut: true}
	b.set(cut, Rule{ID: "loss", From: "b", LossRatio: 1})
	b.fails("a", "b", 100)
	want := RuleCounters{SeenPackets: 2, SeenBytes: 200, DroppedPackets: 2, DroppedBytes: 200}
	require.Equal(t, want, b.rule("cut"))
	b.set(cut)
	require.Equal(t, want, b.rule("cut"), "a rule that stays keeps its counters")
	require.NoError(t, b.Clear("cut"))
	require.Equal(t, want, b.rule("cut"), "one that went leaves them")
	b.passes("a", "b", 100)
	require.NoError(t, b.Set(cut))
	require.Zero(t, b.rule("cut"), "set anew it begins at 0")
	// Every slot is used again and again.
	for range 3 * bpf.MaxRules / 2 {
		require.NoError(t, b.Set(cut))
	}
	b.fails("a", "b", 100)
}
