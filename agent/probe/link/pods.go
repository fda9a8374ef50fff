// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// podSweepAge is how long the answers from inside the pods are used while the
	// pods and the agent's own routes stay the same. Routes inside a pod change
	// without a notification here.
	podSweepAge = 30 * time.Second
	// addressesPerOverlay bounds how many destinations each pod is asked for per
	// overlay and family. They are spread over the prefixes; a pod tells them
	// apart only if it has routes of its own for some.
	addressesPerOverlay = 4
)

// An attachment is a device of a pod whose other end is in the agent's own
// namespace.
type attachment struct {
	space  *space
	device *rawLink
	port   *rawLink
}

// attachments lists the pods' ways into the agent's own namespace.
func (w *world) attachments() []attachment {
	var out []attachment
	for _, s := range w.spaces {
		if s == w.own {
			continue
		}
		for i := range s.links {
			l := &s.links[i]
			if l.flags&unix.IFF_UP == 0 {
				continue
			}
			if other, port := w.peer(s, l); other == w.own {
				out = append(out, attachment{s, l, port})
			}
		}
	}
	return out
}

// A behind is one overlay of the agent's own namespace as the sweep sees it.
type behind struct {
	overlay *rawLink
	// bridge is the ifindex of the bridge that the overlay is a port of, or 0.
	bridge int
	// addresses are destinations that the node's FIB sends over the overlay.
	addresses []netip.Addr
	// routeMTU is the greatest that any pod may send; 0: no pod is behind it.
	routeMTU, podMTU int
}

// podFacts is the outcome of a sweep over the pods, per ifindex of an overlay in
// the agent's own namespace.
type podFacts struct {
	at       time.Duration
	shape    string
	routeMTU map[int]fact
	podMTU   map[int]fact
	hookErr  error
	entered  int
}

// podFactsOf returns what the pods' own FIBs say, asked anew when the sweep is
// old or the pods or the node's routing changed.
func (p *Probe) podFactsOf(ctx context.Context, v *survey) (*podFacts, error) {
	pods := v.world.attachments()
	shape := p.shape(v, pods)
	if old := p.pods; old != nil && old.shape == shape && p.now()-old.at < p.podAge {
		return old, nil
	}
	f := &podFacts{at: p.now(), shape: shape, routeMTU: map[int]fact{}, podMTU: map[int]fact{}}
	overlays, err := p.overlaysWithPods(v)
	if err != nil {
		return nil, err
	}
	failures := 0
	var firstErr error
	if len(overlays) > 0 && len(pods) > 0 {
		err := visit(p.ownFD, func(visitor *visitor) error {
			for start := 0; start < len(pods); {
				end := start + 1
				for end < len(pods) && pods[end].space == pods[start].space {
					end++
				}
				err := p.askPod(visitor, pods[start:end], overlays)
				switch {
				case errors.Is(err, errVanished):
				case err != nil:
					failures++
					if firstErr == nil {
						firstErr = fmt.Errorf("%s: %w", namespaceName(pods[start].space.ns), err)
					}
					if errors.Is(err, unix.EPERM) || ctx.Err() != nil {
						return nil // the other pods would answer alike
					}
				default:
					f.entered++
				}
				start = end
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	f.hookErr = firstErr
	for _, b := range overlays {
		f.routeMTU[b.overlay.index], f.podMTU[b.overlay.index] = b.facts(pods, failures, firstErr)
	}
	p.pods = f
	return f, nil
}

// shape is equal for two surveys whose sweeps would ask the same questions.
func (p *Probe) shape(v *survey, pods []attachment) string {
	b := fmt.Appendf(nil, "%d", p.generation)
	for _, a := range pods {
		b = fmt.Appendf(b, " %d/%d/%d/%d", a.space.ns.Inode, a.device.index, a.device.mtu, a.port.master)
	}
	for i := range v.world.own.links {
		if l := &v.world.own.links[i]; isOverlay(l) {
			b = fmt.Appendf(b, " o%d/%d/%d", l.index, l.mtu, l.master)
		}
	}
	return string(b)
}

// overlaysWithPods lists the overlays of the agent's own namespace with the
// destinations to ask for.
func (p *Probe) overlaysWithPods(v *survey) ([]*behind, error) {
	var out []*behind
	own := v.world.own
	for i := range own.links {
		l := &own.links[i]
		if !isOverlay(l) {
			continue
		}
		b := &behind{overlay: l}
		if master := own.link(l.master); master != nil && master.kind == "bridge" {
			b.bridge = l.master
		}
		if f := v.overlay(own, l, maxDepth); f != nil {
			for _, family := range families {
				b.addresses = append(b.addresses, p.destinations(own, l, f.prefixes, family)...)
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// destinations picks addresses of one family that the node's FIB sends over the
// overlay, spread over the prefixes.
func (p *Probe) destinations(own *space, l *rawLink, prefixes []netip.Prefix, family int) []netip.Addr {
	var mine []netip.Prefix
	for _, prefix := range prefixes {
		if familyOf(prefix.Addr()) == family {
			mine = append(mine, prefix)
		}
	}
	var out []netip.Addr
	for i := range min(len(mine), addressesPerOverlay) {
		prefix := mine[i*len(mine)/min(len(mine), addressesPerOverlay)]
		for _, a := range candidates(prefix) {
			// The node's own address in a connected prefix is local; another
			// address, or a rule, may lead elsewhere.
			r, err := p.fib.configured(p.conn, own.ns, question{remote: a})
			if err == nil && r.kind == unix.RTN_UNICAST && r.leavesBy(l.index) {
				out = append(out, a)
				break
			}
		}
	}
	return out
}

// candidates are addresses of a prefix that a pod may have: the address itself
// for a host route, else the first three after the network address.
func candidates(prefix netip.Prefix) []netip.Addr {
	if prefix.IsSingleIP() {
		return []netip.Addr{prefix.Addr()}
	}
	var out []netip.Addr
	for a := prefix.Masked().Addr().Next(); len(out) < 3 && prefix.Contains(a); a = a.Next() {
		out = append(out, a)
	}
	return out
}

// askPod asks the FIB of one pod for every overlay's destinations. pods are the
// attachments of one namespace.
func (p *Probe) askPod(visitor *visitor, pods []attachment, overlays []*behind) error {
	fd, err := openNamespace(pods[0].space.ns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return visitor.enter(fd, unix.NETLINK_ROUTE, func(c *conn) error {
		for _, b := range overlays {
			for _, a := range b.addresses {
				r, err := c.configured(question{remote: a})
				if unreachable(err) {
					continue
				}
				if err != nil {
					return err
				}
				for _, h := range r.hops {
					for _, at := range pods {
						if at.device.index == h.device {
							b.takes(at.device.mtu, r.mtu)
						}
					}
				}
			}
			if err := b.bridged(c, pods); err != nil {
				return err
			}
		}
		return nil
	})
}

// bridged takes in pods whose other end is a port of the overlay's bridge.
func (b *behind) bridged(c *conn, pods []attachment) error {
	if b.bridge == 0 {
		return nil
	}
	for _, at := range pods {
		if at.port.master != b.bridge {
			continue
		}
		for _, family := range families {
			routes, err := c.routesOver(family, at.device.index)
			if err != nil {
				return err
			}
			for i := range routes {
				if r := &routes[i]; carriesTraffic(r) && direct(r) {
					b.takes(at.device.mtu, r.mtu)
				}
			}
		}
	}
	return nil
}

func direct(r *route) bool {
	for _, h := range r.hops {
		if h.gateway.IsValid() {
			return false
		}
	}
	return true
}

// takes records that a pod behind the overlay has a device and a route with
// these MTUs; 0 for a route without.
func (b *behind) takes(device, route int) {
	b.podMTU = max(b.podMTU, device)
	if route > 0 {
		device = min(device, route)
	}
	b.routeMTU = max(b.routeMTU, device)
}

// unreachable says whether the FIB answered that there is no way: ENETUNREACH
// without a route, the others for routes of type unreachable, prohibit and
// blackhole (fib_props, net/ipv4/fib_semantics.c).
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL)
}

// facts turns what the pods said into items 113 and 116.
func (b *behind) facts(pods []attachment, failures int, firstErr error) (routeMTU, podMTU fact) {
	if len(pods) == 0 {
		none := absent("no pod of this node is attached to the agent's own network namespace")
		return none, none
	}
	if b.overlay.tunnel.collectMetadata && len(b.addresses) == 0 && b.bridge == 0 {
		// Open vSwitch or a BPF program chooses what enters it.
		why := blind(whyCollect + "; which pods send through it is decided per packet")
		return why, why
	}
	none := absent("no pod of this node sends through the overlay")
	if len(b.addresses) == 0 && b.bridge == 0 {
		return none, none
	}
	if failures > 0 {
		detail := fmt.Sprintf("the routes of %d pods could not be read (first: %v)", failures, firstErr)
		if errors.Is(firstErr, unix.EPERM) {
			routeMTU = blind(fmt.Sprintf("the pods' network namespaces may not be entered (%v): %s", firstErr, mendEnter))
		} else {
			routeMTU = failed(detail)
		}
		// The devices' own MTU was read without entering. Which of the pods send
		// through the overlay is not known, so that all attached ones count.
		greatest := 0
		for _, at := range pods {
			if b.bridge == 0 || at.port.master == b.bridge {
				greatest = max(greatest, at.device.mtu)
			}
		}
		if greatest == 0 {
			return routeMTU, none
		}
		return routeMTU, number(greatest)
	}
	if b.routeMTU == 0 {
		return none, none
	}
	return number(b.routeMTU), number(b.podMTU)
}
