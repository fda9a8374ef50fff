// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// The types that kernel and user space share, as generated from the C sources
// (include/maps.bpf.h has their fields' meaning).
type (
	DropKey    = oversizeDropKey
	DropValue  = oversizeDropValue
	FlowKey    = oversizeFlowKey
	FlowValue  = oversizeFlowValue
	SiteRange  = oversizeSiteRange
	TunnelPort = oversizeTunnelPort
	ErrorKey   = oversizeErrorKey
	Counter    = oversizeCounter
)

// Classes of places (enum site_class).
const (
	ClassOther   = uint8(oversizeSiteClassCLASS_OTHER)
	ClassForward = uint8(oversizeSiteClassCLASS_FORWARD)
	ClassOutput  = uint8(oversizeSiteClassCLASS_OUTPUT)
	ClassBridge  = uint8(oversizeSiteClassCLASS_BRIDGE)
	ClassPeer    = uint8(oversizeSiteClassCLASS_PEER)
	ClassTunnel  = uint8(oversizeSiteClassCLASS_TUNNEL)
)

// Where a limit came from (enum limit_source).
const (
	LimitUnknown = uint8(oversizeLimitSourceLIMIT_UNKNOWN)
	LimitRoute   = uint8(oversizeLimitSourceLIMIT_ROUTE)
	LimitDevice  = uint8(oversizeLimitSourceLIMIT_DEVICE)
	LimitPeer    = uint8(oversizeLimitSourceLIMIT_PEER)
)

// Kinds of tunnels (enum tunnel_kind).
const (
	TunnelNone      = uint8(oversizeTunnelKindTUNNEL_NONE)
	TunnelVXLAN     = uint8(oversizeTunnelKindTUNNEL_VXLAN)
	TunnelGeneve    = uint8(oversizeTunnelKindTUNNEL_GENEVE)
	TunnelWireGuard = uint8(oversizeTunnelKindTUNNEL_WIREGUARD)
	TunnelIPIP      = uint8(oversizeTunnelKindTUNNEL_IPIP)
	TunnelSIT       = uint8(oversizeTunnelKindTUNNEL_SIT)
	TunnelGRE       = uint8(oversizeTunnelKindTUNNEL_GRE)
	TunnelVXLANGPE  = uint8(oversizeTunnelKindTUNNEL_VXLAN_GPE)
)

// Counters of the programs (enum counter).
const (
	CountOverflow     = oversizeCounterCOUNT_OVERFLOW
	CountByFrags      = oversizeCounterCOUNT_BY_FRAGS
	CountNoFlow       = oversizeCounterCOUNT_NO_FLOW
	CountIgnored      = oversizeCounterCOUNT_IGNORED
	CountSelftestDrop = oversizeCounterCOUNT_SELFTEST_DROP
	CountSelftestXmit = oversizeCounterCOUNT_SELFTEST_XMIT
	CountFailed       = oversizeCounterCOUNT_FAILED
	counters          = oversizeCounterCOUNTERS
)

// Bits of FlowValue.Flags.
const (
	// FlowProbing is a flow whose sender probes the path MTU itself.
	FlowProbing = 1
	// FlowFlooded is a flow of which only flooded copies were dropped.
	FlowFlooded = 2
)

// MaxSites is how many ranges SetSites takes.
const MaxSites = 128

// SetSites replaces the functions that check sizes. They must be ascending and
// not overlap.
func (o *Oversize) SetSites(ranges []SiteRange) error {
	if len(ranges) > MaxSites {
		return fmt.Errorf("set the size checks: %d ranges, at most %d fit", len(ranges), MaxSites)
	}
	var table oversizeSiteTable
	table.Count = uint32(len(ranges))
	copy(table.Ranges[:], ranges)
	if err := o.objects.Sites.Put(uint32(0), &table); err != nil {
		return fmt.Errorf("set the size checks: %w", err)
	}
	return nil
}

// Drops reads all rows.
func (o *Oversize) Drops() (map[DropKey]DropValue, error) {
	rows, err := readAll[DropKey, DropValue](o.objects.Drops)
	if err != nil {
		return nil, fmt.Errorf("read the drops: %w", err)
	}
	return rows, nil
}

// Flows reads the details of all flows that were dropped and not yet forgotten.
func (o *Oversize) Flows() (map[FlowKey]FlowValue, error) {
	flows, err := readAll[FlowKey, FlowValue](o.objects.Flows)
	if err != nil {
		return nil, fmt.Errorf("read the flows: %w", err)
	}
	return flows, nil
}

// DeleteDrop forgets a row; one that is gone already is fine.
func (o *Oversize) DeleteDrop(k DropKey) error { return remove(o.objects.Drops, &k) }

// DeleteFlow forgets a flow; one that is gone already is fine.
func (o *Oversize) DeleteFlow(k FlowKey) error { return remove(o.objects.Flows, &k) }

// Ignore makes the programs pass over drops in a network namespace.
func (o *Oversize) Ignore(netns uint32) error {
	if err := o.objects.IgnoredNetns.Put(netns, uint32(1)); err != nil {
		return fmt.Errorf("ignore network namespace %d: %w", netns, err)
	}
	if err := o.objects.Ignoring.Set(uint32(1)); err != nil {
		return fmt.Errorf("ignore network namespace %d: %w", netns, err)
	}
	return nil
}

// Heed undoes Ignore.
func (o *Oversize) Heed(netns uint32) error { return remove(o.objects.IgnoredNetns, &netns) }

// SetTunnelPorts replaces the UDP ports by which tunnels are known.
func (o *Oversize) SetTunnelPorts(ports map[TunnelPort]uint8) error {
	present, err := readAll[TunnelPort, uint32](o.objects.TunnelPorts)
	if err != nil {
		return fmt.Errorf("read the tunnel ports: %w", err)
	}
	for port := range present {
		if _, ok := ports[port]; !ok {
			if err := remove(o.objects.TunnelPorts, &port); err != nil {
				return err
			}
		}
	}
	var source uint32
	for port := range ports {
		if port.Source != 0 {
			source = 1
		}
	}
	if err := o.objects.SourcePorts.Set(source); err != nil {
		return fmt.Errorf("set the tunnel ports: %w", err)
	}
	for port, kind := range ports {
		if err := o.objects.TunnelPorts.Put(port, uint32(kind)); err != nil {
			return fmt.Errorf("set tunnel port %d: %w", port.Port, err)
		}
	}
	return nil
}

// WatchUntil moves the deadline of the hook that AttachAdapt attaches, in
// nanoseconds of CLOCK_BOOTTIME.
func (o *Oversize) WatchUntil(ns uint64) error {
	if err := o.objects.WatchUntilNs.Set(ns); err != nil {
		return fmt.Errorf("set the deadline of the adaptation watch: %w", err)
	}
	return nil
}

// SetSelftest sets what the agent's own test packets carry; 0 ends the test.
func (o *Oversize) SetSelftest(cookie uint64) error {
	if err := o.objects.SelftestCookie.Set(cookie); err != nil {
		return fmt.Errorf("mark the self-test: %w", err)
	}
	return nil
}

// Counters reads the programs' counters, summed over all CPUs.
func (o *Oversize) Counters() (map[Counter]uint64, error) {
	out := make(map[Counter]uint64, counters)
	for c := Counter(0); c < counters; c++ {
		var perCPU []uint64
		if err := o.objects.Counters.Lookup(uint32(c), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %d: %w", c, err)
		}
		for _, n := range perCPU {
			out[c] += n
		}
	}
	return out, nil
}

// HelperErrors reads how often helpers failed inside the programs, by place and
// helper (include/errmetrics.bpf.h).
func (o *Oversize) HelperErrors() (map[ErrorKey]uint64, error) {
	failed, err := readAll[ErrorKey, uint64](o.objects.HelperErrors)
	if err != nil {
		return nil, fmt.Errorf("read the helper errors: %w", err)
	}
	return failed, nil
}

func remove(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from %s: %w", m, err)
	}
	return nil
}

// batch is how many entries one system call reads: enough to make a full map of
// 4096 cost 16 calls, small enough to keep the buffers below 100 KiB.
const batch = 256

// readAll copies a map while the kernel writes to it: each entry is as it was at
// some moment of the call.
func readAll[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	out := map[K]V{}
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			out[keys[i]] = values[i]
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return out, nil
		case errors.Is(err, ebpf.ErrNotSupported):
			return out, readEach(m, out)
		case err != nil:
			return nil, err
		}
	}
}

func readEach[K comparable, V any](m *ebpf.Map, out map[K]V) error {
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		out[k] = v
	}
	return it.Err()
}
