// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// fakeView is a node made of a test's namespaces.
type fakeView struct {
	namespaces []nodeview.Namespace
	filtered   bool
	unreadable int
	refreshed  atomic.Int64
}

func (v *fakeView) Refresh(context.Context) error    { v.refreshed.Add(1); return nil }
func (v *fakeView) Namespaces() []nodeview.Namespace { return v.namespaces }
func (v *fakeView) Filtered() bool                   { return v.filtered }
func (v *fakeView) Unreadable() int                  { return v.unreadable }
func (v *fakeView) add(ns *testutils.NetNS, pod string) {
	v.namespaces = append(v.namespaces, nodeview.Namespace{
		Inode: ns.Inode(), Path: ns.Path(), PodUID: pod, Own: len(v.namespaces) == 0,
	})
}

// A node under test: its own namespace, its pods, and a probe that runs in it.
type testNode struct {
	tb    testing.TB
	own   *testutils.NetNS
	view  *fakeView
	probe *Probe
	// lastPod is the pod added last.
	lastPod *testutils.NetNS
	clock   atomic.Uint64
}

const podUID = "3f2c8a1e-6d0b-4b57-9a0e-1c2d3e4f5a6b"

func newTestNode(tb testing.TB) *testNode {
	tb.Helper()
	n := &testNode{tb: tb, own: testutils.NewNetNS(tb), view: &fakeView{}}
	n.clock.Store(uint64(time.Hour))
	n.view.add(n.own, "")
	require.NoError(tb, n.own.Do(func() error {
		var err error
		n.probe, err = New(Config{NodeView: n.view, Monotonic: n.clock.Load})
		return err
	}))
	n.probe.podAge = 0 // routes inside pods change under the tests' hands
	tb.Cleanup(func() { require.NoError(tb, n.probe.Close()) })
	return n
}

// pod adds a pod namespace with eth0, whose other end is named host.
func (n *testNode) pod(host string) *testutils.NetNS {
	n.tb.Helper()
	ns := testutils.NewNetNS(n.tb)
	testutils.Veth(n.own, host, ns, "eth0")
	n.view.add(ns, podUID)
	n.lastPod = ns
	return ns
}

// ip runs the ip command in the node's own namespace.
func (n *testNode) ip(args string) {
	n.tb.Helper()
	n.own.Run("ip", strings.Fields(args)...)
}

// sample takes a sample that must be complete.
func (n *testNode) sample() devices {
	n.tb.Helper()
	d := n.try()
	d.want("node", wants{"namespaces_unreadable": 0, "processes_unreadable": 0, "unreadable": na("every device")})
	return d
}

// try takes a sample that may lack a part of the node.
func (n *testNode) try() devices {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var s evidence.Sample
	require.NoError(n.tb, n.probe.Sample(ctx, &s))
	catalog := evidence.NewCatalog()
	out := devices{n.tb, map[string]*evidence.Observation{}}
	for _, o := range s.Observations {
		out.byName[o.Subject.Name] = o
		// Every catalogued item, once, of the right type.
		seen := map[uint32]bool{}
		for _, it := range o.Items {
			info, ok := catalog.ByID(it.GetId())
			require.True(n.tb, ok, "item %d is not in the catalogue", it.GetId())
			require.False(n.tb, seen[it.GetId()], "%s of %s is reported twice", info.Name, o.Subject.Name)
			seen[it.GetId()] = true
			require.NotEmpty(n.tb, it.GetRung(), "%s of %s has no rung", info.Name, o.Subject.Name)
			require.NotContains(n.tb, it.GetUnknown().GetDetail(), missingDetail, "%s of %s", info.Name, o.Subject.Name)
		}
		for _, info := range catalog.ItemsOf("link", o.Subject.Kind) {
			require.True(n.tb, seen[info.ID], "%s of %s is missing", info.Name, o.Subject.Name)
		}
	}
	return out
}

// devices answers questions about one sample.
type devices struct {
	tb     testing.TB
	byName map[string]*evidence.Observation
}

func (d devices) item(device string, id uint32) *evidencev1.Item {
	d.tb.Helper()
	o, ok := d.byName[device]
	require.True(d.tb, ok, "device %q was not reported", device)
	for _, it := range o.Items {
		if it.GetId() == id {
			return it
		}
	}
	require.Fail(d.tb, "item is missing")
	return nil
}

// want checks items of a device: an int, string or bool is a value; na and
// unknown are the other two states.
func (d devices) want(device string, wants wants) {
	d.tb.Helper()
	for name, want := range wants {
		info, ok := evidence.NewCatalog().ByName("link." + name)
		require.True(d.tb, ok, "no item link.%s", name)
		it := d.item(device, info.ID)
		switch want := want.(type) {
		case int:
			require.IsType(d.tb, &evidencev1.Item_Integer{}, it.GetState(), "%s of %s: %v", name, device, it)
			require.EqualValues(d.tb, want, it.GetInteger(), "%s of %s", name, device)
		case string:
			require.IsType(d.tb, &evidencev1.Item_Text{}, it.GetState(), "%s of %s: %v", name, device, it)
			require.Equal(d.tb, want, it.GetText(), "%s of %s", name, device)
		case bool:
			require.IsType(d.tb, &evidencev1.Item_Flag{}, it.GetState(), "%s of %s: %v", name, device, it)
			require.Equal(d.tb, want, it.GetFlag(), "%s of %s", name, device)
		case na:
			require.IsType(d.tb, &evidencev1.Item_NotApplicable{}, it.GetState(), "%s of %s: %v", name, device, it)
			require.Contains(d.tb, it.GetNotApplicable().GetDetail(), string(want), "%s of %s", name, device)
		case unknown:
			require.IsType(d.tb, &evidencev1.Item_Unknown{}, it.GetState(), "%s of %s: %v", name, device, it)
			require.Equal(d.tb, want.reason, it.GetUnknown().GetReason(), "%s of %s", name, device)
			require.Contains(d.tb, it.GetUnknown().GetDetail(), want.detail, "%s of %s", name, device)
		}
	}
}

type (
	wants   map[string]any
	na      string
	unknown struct {
		reason evidencev1.Unknown_Reason
		detail string
	}
)
