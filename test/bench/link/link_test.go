// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

const pods = 110

// node is a view of namespaces that the benchmark made.
type node struct{ namespaces []nodeview.Namespace }

func (n *node) Refresh(context.Context) error    { return nil }
func (n *node) Namespaces() []nodeview.Namespace { return n.namespaces }
func (n *node) Filtered() bool                   { return true }
func (n *node) Unreadable() int                  { return 0 }

// build makes a node of 222 interfaces besides loopbacks: eth0, a VXLAN device
// with forwarding entries and routes for other nodes, and two ends of a veth for
// each of 110 pods.
func build(b *testing.B, remotes int) (*link.Probe, *testutils.NetNS) {
	own := testutils.NewNetNS(b)
	quiet(own)
	fabric := testutils.NewNetNS(b)
	testutils.Veth(own, "eth0", fabric, "node")
	view := &node{namespaces: []nodeview.Namespace{{Inode: own.Inode(), Own: true, Path: own.Path()}}}
	var batch, fdb strings.Builder
	fmt.Fprintln(&batch, "addr add 192.0.2.1/24 dev eth0")
	fmt.Fprintln(&batch, "link add flannel.1 mtu 1450 type vxlan id 1 dstport 8472 nolearning")
	fmt.Fprintln(&batch, "link set flannel.1 up")
	fmt.Fprintln(&batch, "link add cni0 type bridge")
	fmt.Fprintln(&batch, "link set cni0 up")
	for i := range remotes {
		fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 dev flannel.1\n", 100+i/250, i%250)
		fmt.Fprintf(&fdb, "fdb append 0a:00:00:00:%02x:%02x dev flannel.1 dst 192.0.2.%d\n", i/250, i%250, 2+i%250)
	}
	own.Run("sh", "-c", "ip -batch - <<'END'\n"+batch.String()+"END")
	own.Run("sh", "-c", "bridge -batch - <<'END'\n"+fdb.String()+"END")
	for i := range pods {
		pod := testutils.NewNetNS(b)
		quiet(pod)
		host := fmt.Sprintf("veth%d", i)
		testutils.Veth(own, host, pod, "eth0")
		own.Run("ip", "link", "set", host, "master", "cni0")
		pod.Run("ip", "addr", "add", fmt.Sprintf("10.244.0.%d/24", 2+i), "dev", "eth0")
		pod.Run("ip", "route", "add", "default", "via", "10.244.0.1")
		view.namespaces = append(view.namespaces, nodeview.Namespace{
			Inode: pod.Inode(), Path: pod.Path(), PodUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i),
		})
	}
	var p *link.Probe
	require.NoError(b, own.Do(func() error {
		var err error
		p, err = link.New(link.Config{NodeView: view})
		return err
	}))
	b.Cleanup(func() { require.NoError(b, p.Close()) })
	return p, own
}

// quiet keeps IPv6 from changing routes for seconds after a device was made.
func quiet(ns *testutils.NetNS) {
	ns.Run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.router_solicitations=0")
}

// cpu is the processor time of this process, user and system.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func sample(b *testing.B, p *link.Probe) {
	var s evidence.Sample
	if err := p.Sample(context.Background(), &s); err != nil {
		b.Fatal(err)
	}
	if len(s.Observations) < 2*pods+2 {
		b.Fatalf("only %d devices were reported", len(s.Observations))
	}
}

func benchmarkSample(b *testing.B, remotes int, before func(own *testutils.NetNS)) {
	p, own := build(b, remotes)
	sample(b, p)
	b.ReportAllocs()
	runtime.GC()
	start := cpu(b)
	for b.Loop() {
		if before != nil {
			b.StopTimer()
			before(own)
			b.StartTimer()
		}
		sample(b, p)
	}
	if before == nil {
		b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-µs/op")
	}
}

// What a tick costs while nothing changes.
func BenchmarkSample(b *testing.B) { benchmarkSample(b, 20, nil) }

// The same on a node that knows 500 others.
func BenchmarkSample500Remotes(b *testing.B) { benchmarkSample(b, 500, nil) }

// What a tick costs after a route changed: everything is asked anew, inside the
// pods as well.
func BenchmarkSampleAfterAChange(b *testing.B) {
	mtu := 1400
	benchmarkSample(b, 20, func(own *testutils.NetNS) {
		mtu = 2801 - mtu
		own.Run("ip", "route", "replace", "10.99.0.0/24", "dev", "flannel.1", "mtu", fmt.Sprint(mtu))
	})
}
