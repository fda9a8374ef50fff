// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/plumb-dev/plumb/bpf"
)

// flowText is how a person names a flow: "tcp 10.0.0.1:4711 > 10.0.0.2:80".
func flowText(k bpf.FlowKey) string {
	source, destination := address(k.Family, k.Source), address(k.Family, k.Destination)
	a, b := hostOrder(k.SourcePort), hostOrder(k.DestinationPort)
	switch k.Protocol {
	case 6, 17: // IPPROTO_TCP, IPPROTO_UDP
		protocol := map[uint8]string{6: "tcp", 17: "udp"}[k.Protocol]
		return fmt.Sprintf("%s %s > %s", protocol, netip.AddrPortFrom(source, a), netip.AddrPortFrom(destination, b))
	case 1, 58: // IPPROTO_ICMP, IPPROTO_ICMPV6
		protocol := map[uint8]string{1: "icmp", 58: "icmpv6"}[k.Protocol]
		return fmt.Sprintf("%s %s > %s type %d id %d", protocol, source, destination, b>>8, a)
	}
	return fmt.Sprintf("protocol %d %s > %s", k.Protocol, source, destination)
}

func address(family uint8, words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		// As the program copied them: bytes of the packet in machine order.
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	if family == 2 { // AF_INET
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

func hostOrder(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}

// stall is what is known of one flow's present streak of drops.
type stall struct {
	flow  bpf.FlowKey
	drops uint64
	// span is from the first to the last of those drops, in nanoseconds.
	span uint64
	// onset is the first drop of the streak, CLOCK_BOOTTIME in nanoseconds.
	onset uint64
	// echo is set for ICMP, which carries no data of an application.
	echo bool
}

// Thresholds of the condition oversize.stalled_flow (catalogue, row
// network/oversize-drop-local).
const (
	stalledDrops = 3
	stalledSpan  = uint64(1e9)
)

func (s stall) called() bool { return s.drops >= stalledDrops && s.span >= stalledSpan }

// worse orders stalls: a called one before one that is not, data before a ping,
// then by drops, by span, and by name so that equal ones do not alternate.
func (s stall) worse(than stall) bool {
	if s.called() != than.called() {
		return s.called()
	}
	if s.echo != than.echo {
		return than.echo
	}
	if s.drops != than.drops {
		return s.drops > than.drops
	}
	if s.span != than.span {
		return s.span > than.span
	}
	return flowText(s.flow) < flowText(than.flow)
}

// stallOf is the streak of a flow as of now, as far as it lies in the window;
// grown is by how much the streak grew within it.
func stallOf(k bpf.FlowKey, v bpf.FlowValue, now, grown uint64) (stall, bool) {
	if v.Streak == 0 || age(now, v.StreakLastNs) >= window {
		return stall{}, false
	}
	s := stall{flow: k, drops: min(uint64(v.Streak), grown), onset: v.StreakFirstNs, echo: k.Protocol == 1 || k.Protocol == 58}
	first := v.StreakFirstNs
	if now > window && first < now-window {
		first = now - window
	}
	s.span = v.StreakLastNs - first
	return s, s.drops > 0
}
