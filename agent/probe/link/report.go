// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"time"

	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/evidence"
)

// Rungs: how an item was measured.
const (
	rungOwn     = "rtnetlink"         // asked in the agent's own namespace
	rungForeign = "rtnetlink+netnsid" // asked there, by the id of another namespace
	rungFIB     = "fib"               // RTM_GETROUTE with RTM_F_FIB_MATCH
	rungSetns   = "setns"             // asked inside the pod's namespace
)

// report adds every device of the last scan to dst.
func (p *Probe) report(dst *evidence.Sample) {
	p.reportNode(dst.Observe(evidence.Node(), rungForeign))
	now := p.now()
	inv := p.inventory.Load()
	for _, d := range inv.devices {
		s := p.last.world.byNS[d.Netns]
		l := s.link(d.Ifindex)
		rung := rungForeign
		if s.ns.Own {
			rung = rungOwn
		}
		o := dst.Observe(subjectOf(d, s.ns), rung)
		o.Integer(evidence.LinkMTUBytes, int64(d.MTU))
		o.Text(evidence.LinkRole, string(d.Role))
		o.Text(evidence.LinkType, d.Kind)
		o.Flag(evidence.LinkUp, d.Up)
		p.reportCounters(o, now, inv, d, l)
		peer, ok := inv.PeerOf(d)
		putInteger(o, evidence.LinkPeerMTUBytes, peerMTU(d, peer, ok))
		putInteger(o, evidence.LinkBridgePortMTUBytes, portMTU(s, l))
		p.reportOverlay(o, d, s, rung)
	}
}

// reportNode says what is missing from the devices.
func (p *Probe) reportNode(o *evidence.Observation) {
	w := p.last.world
	o.Integer(evidence.LinkNamespacesUnreadable, int64(len(w.failures)))
	o.Integer(evidence.LinkProcessesUnreadable, int64(p.view.Unreadable()))
	why := absent("every device that the agent knows of was read")
	if err := w.incomplete(p.view.Unreadable()); err != nil {
		why = text(err.Error())
	}
	putText(o, evidence.LinkUnreadable, why)
}

// subjectOf names a device as a person would: where it is, unless it is the
// node's own.
func subjectOf(d Device, ns nodeview.Namespace) evidence.Subject {
	name := d.Name
	if !ns.Own {
		name += " in " + namespaceName(ns)
	}
	return evidence.Subject{Kind: evidence.SubjectDevice, Key: d.Key(), Name: name, PodUID: d.PodUID}
}

func (p *Probe) reportCounters(o *evidence.Observation, now time.Duration, inv *Inventory, d Device, l *rawLink) {
	rx, tx, unhandled := counter(l.stats.rxDropped), counter(l.stats.txDropped), counter(l.stats.rxNohandler)
	if !l.hasStats {
		rx = failed("the kernel sent no IFLA_STATS64 for the device")
		tx, unhandled = rx, rx
	}
	putInteger(o, evidence.LinkReceiveDroppedTotal, rx)
	putInteger(o, evidence.LinkTransmitDroppedTotal, tx)
	putInteger(o, evidence.LinkReceiveUnhandledTotal, unhandled)
	putFlag(o, evidence.LinkDropsMoving, p.dropsMoving(now, inv, d))
}

// dropsMoving decides item 121. False needs both ends of a veth: the end that
// counts a drop for size is the receiver's, and on some kernels the sender's too.
func (p *Probe) dropsMoving(now time.Duration, inv *Inventory, d Device) fact {
	moving, ok := p.drops.moving(now, deviceID{d.Netns, d.Ifindex})
	if ok && moving {
		return number(1)
	}
	if d.Kind == "veth" {
		peer, known := inv.PeerOf(d)
		if !known {
			return blind("the other end of the veth, which may count the drops, is not in the node's view")
		}
		peerMoving, peerOK := p.drops.moving(now, deviceID{peer.Netns, peer.Ifindex})
		if peerOK && peerMoving {
			return number(1)
		}
		ok = ok && peerOK
	}
	if !ok {
		return fact{state: factUnknown, reason: evidence.WarmingUp, detail: "the first sample of the device has nothing to compare with"}
	}
	return number(0)
}

func peerMTU(d, peer Device, known bool) fact {
	switch {
	case d.Kind != "veth":
		return absent("the device is no veth")
	case !known:
		return blind("the other end of the veth is not in the node's view")
	}
	return number(peer.MTU)
}

// portMTU decides item 120. All ports count, up or not: one that comes up later
// drops from then on, without a counter.
func portMTU(s *space, bridge *rawLink) fact {
	if bridge.kind != "bridge" {
		return absent("the device is no bridge")
	}
	least := 0
	for i := range s.links {
		if l := &s.links[i]; l.master == bridge.index && (least == 0 || l.mtu < least) {
			least = l.mtu
		}
	}
	if least == 0 {
		return absent("the bridge has no port")
	}
	return number(least)
}

// reportOverlay adds what only overlays and bridges have.
func (p *Probe) reportOverlay(o *evidence.Observation, d Device, s *space, rung string) {
	f := p.last.survey.done[deviceID{d.Netns, d.Ifindex}]
	if d.Role != RoleOverlay || f == nil {
		none := absent(whyNoOverlay)
		f = &overlayFacts{
			overhead: none, underlay: none, expected: none, learned: none, device: none,
			family: none, worst: none, df: none, remotes: none, routeMTU: none,
		}
	}
	collect := absent(whyNoOverlay)
	if d.Role == RoleOverlay {
		collect = number(boolInt(d.CollectMetadata))
	}
	putFlag(o, evidence.LinkCollectMetadata, collect)
	putText(o, evidence.LinkDontFragment, f.df)
	podRoute, podMTU := p.podFacts(d, s)
	putInteger(o, evidence.LinkPodMTUBytes, podMTU)
	o.Via(rungFIB)
	putInteger(o, evidence.LinkOverheadBytes, f.overhead)
	putInteger(o, evidence.LinkUnderlayMTUBytes, f.underlay)
	putInteger(o, evidence.LinkExpectedMTUBytes, f.expected)
	putInteger(o, evidence.LinkLearnedPathMTUBytes, f.learned)
	putText(o, evidence.LinkUnderlayDevice, f.device)
	putInteger(o, evidence.LinkRemotes, f.remotes)
	putText(o, evidence.LinkRemoteFamily, f.family)
	putText(o, evidence.LinkWorstRemote, f.worst)
	putInteger(o, evidence.LinkRouteMTUBytes, f.routeMTU)
	o.Via(rungSetns)
	putInteger(o, evidence.LinkPodRouteMTUBytes, podRoute)
	o.Via(rung)
}

// podFacts decides items 113 and 116.
func (p *Probe) podFacts(d Device, s *space) (routeMTU, podMTU fact) {
	if d.Role == RoleOverlay {
		if s.ns.Own {
			return p.last.pods.routeMTU[d.Ifindex], p.last.pods.podMTU[d.Ifindex]
		}
		why := blind("the overlay is not in the agent's own network namespace; which pods send through it is not traced")
		return why, why
	}
	routeMTU = absent(whyNoOverlay)
	if d.Kind != "bridge" {
		return routeMTU, absent("the device is no overlay and no bridge")
	}
	return routeMTU, p.podMTUBehindBridge(d)
}

// podMTUBehindBridge is the greatest MTU of the pods' devices whose other end is
// a port of the bridge.
func (p *Probe) podMTUBehindBridge(bridge Device) fact {
	greatest := 0
	for _, d := range p.inventory.Load().devices {
		if d.Netns == bridge.Netns || d.PeerNetns != bridge.Netns {
			continue
		}
		port, ok := p.inventory.Load().PeerOf(d)
		if ok && port.MasterIfindex == bridge.Ifindex {
			greatest = max(greatest, d.MTU)
		}
	}
	if greatest == 0 {
		return absent("no pod of this node is attached to the bridge")
	}
	return number(greatest)
}
