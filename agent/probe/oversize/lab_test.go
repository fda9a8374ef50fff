// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeView holds the namespaces of a lab's node.
type fakeView struct {
	filtered bool
	own      map[uint32]bool
	pod      map[uint32]string
}

func (v *fakeView) Contains(netns uint32) bool    { return v.own[netns] }
func (v *fakeView) Filtered() bool                { return v.filtered }
func (v *fakeView) Refresh(context.Context) error { return nil }
func (v *fakeView) PodByNetns(netns uint32) (string, bool) {
	uid, ok := v.pod[netns]
	return uid, ok
}

// noInventory is what a lab's inventory replaces.
type noInventory struct{}

func (noInventory) Inventory() *link.Inventory    { return nil }
func (noInventory) Refresh(context.Context) error { return nil }

// fakeDevices is an inventory made by hand or from the lab's namespaces.
type fakeDevices []link.Device

func (f fakeDevices) Device(netns uint32, ifindex int) (link.Device, bool) {
	for _, d := range f {
		if d.Netns == netns && d.Ifindex == ifindex {
			return d, true
		}
	}
	return link.Device{}, false
}

func (f fakeDevices) PeerOf(d link.Device) (link.Device, bool) {
	if d.PeerNetns == 0 {
		return link.Device{}, false
	}
	return f.Device(d.PeerNetns, d.PeerIfindex)
}

func (f fakeDevices) Overlays() []link.Device {
	var out []link.Device
	for _, d := range f {
		if d.Role == link.RoleOverlay {
			out = append(out, d)
		}
	}
	return out
}

func scanDevices(t *testing.T, spaces ...*testutils.NetNS) fakeDevices {
	t.Helper()
	var (
		out   fakeDevices
		peers []int
	)
	for _, ns := range spaces {
		var links []struct {
			Ifindex   int
			Ifname    string
			MTU       int
			LinkIndex int `json:"link_index"`
			Linkinfo  struct {
				Kind string `json:"info_kind"`
				Data struct {
					ID   uint32
					Port uint16
				} `json:"info_data"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(ns.Run("ip", "-d", "-j", "link")), &links))
		for _, l := range links {
			d := link.Device{Netns: ns.Inode(), Ifindex: l.Ifindex, Name: l.Ifname, MTU: l.MTU, Kind: l.Linkinfo.Kind}
			if d.Kind == "vxlan" {
				d.Role, d.Encapsulation, d.TunnelID, d.UDPPort = link.RoleOverlay, "vxlan", l.Linkinfo.Data.ID, l.Linkinfo.Data.Port
				d.LinkNetns = d.Netns
			}
			out = append(out, d)
			peers = append(peers, l.LinkIndex)
		}
	}
	for i := range out {
		for j := range out {
			if i != j && out[i].Kind == "veth" && out[j].Kind == "veth" && peers[i] == out[j].Ifindex && peers[j] == out[i].Ifindex {
				out[i].PeerNetns, out[i].PeerIfindex = out[j].Netns, out[j].Ifindex
			}
		}
	}
	return out
}

// A lab is a node with a pod and a peer, made of namespaces, and a probe that
// watches it.
type lab struct {
	t     *testing.T
	probe *Probe
	view  *fakeView
	wakes chan time.Time
}

// watch starts the probe on the namespaces given; pods among them are named by
// their index: pod-0, pod-1.
func watch(t *testing.T, node []*testutils.NetNS, pods []*testutils.NetNS) *lab {
	t.Helper()
	view := &fakeView{filtered: true, own: map[uint32]bool{}, pod: map[uint32]string{}}
	for _, ns := range node {
		view.own[ns.Inode()] = true
	}
	for i, ns := range pods {
		view.own[ns.Inode()] = true
		view.pod[ns.Inode()] = fmt.Sprintf("pod-%d", i)
	}
	p, err := New(Config{NodeView: view, Inventory: noInventory{}, Clock: hostclock.New(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	l := &lab{t: t, probe: p, view: view, wakes: make(chan time.Time, 1000)}
	found := scanDevices(t, append(append([]*testutils.NetNS{}, node...), pods...)...)
	p.inventory = func() devices { return found }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- p.Watch(ctx, func() { l.wakes <- time.Now() })
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, p.Close())
	})
	testutils.Eventually(t, time.Second, "the watch runs", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.watching
	})
	return l
}

func (l *lab) sample() *evidence.Sample {
	l.t.Helper()
	var s evidence.Sample
	require.NoError(l.t, l.probe.Sample(context.Background(), &s))
	return &s
}

// find returns the observation whose subject has all the parts in its key or
// name.
func find(s *evidence.Sample, kind string, parts ...string) *evidence.Observation {
search:
	for _, o := range s.Observations {
		if o.Subject.Kind != kind {
			continue
		}
		for _, part := range parts {
			if !strings.Contains(o.Subject.Key+" "+o.Subject.Name, part) {
				continue search
			}
		}
		return o
	}
	return nil
}

func item(o *evidence.Observation, id uint32) *evidencev1.Item {
	if o == nil {
		return nil
	}
	for _, i := range o.Items {
		if i.GetId() == id {
			return i
		}
	}
	return nil
}

func integer(o *evidence.Observation, id evidence.IntegerID) int64 {
	return item(o, uint32(id)).GetInteger()
}

func text(o *evidence.Observation, id evidence.TextID) string { return item(o, uint32(id)).GetText() }

func holds(s *evidence.Sample, condition string) []evidence.ActiveCondition {
	var out []evidence.ActiveCondition
	for _, a := range s.Active {
		if a.Condition == condition {
			out = append(out, a)
		}
	}
	return out
}

func dump(s *evidence.Sample) string {
	var b strings.Builder
	for _, o := range s.Observations {
		fmt.Fprintf(&b, "%s %s %s parent=%s pod=%s\n", o.Subject.Kind, o.Subject.Key, o.Subject.Name, o.Subject.ParentKey, o.Subject.PodUID)
		for _, i := range o.Items {
			fmt.Fprintf(&b, "  %v\n", i)
		}
	}
	for _, a := range s.Active {
		fmt.Fprintf(&b, "HOLDS %s %s\n", a.Condition, a.Subject.Key)
	}
	return b.String()
}
