// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how many devices below one another are followed: pod traffic
// over WireGuard over VLAN over bond over hardware is four.
const maxDepth = 4

// overlayFacts is what the FIB says about one overlay.
type overlayFacts struct {
	overhead, underlay, expected, learned fact
	device, family, worst, df             fact
	remotes, routeMTU                     fact
	// port is WireGuard's.
	port uint16
	// prefixes are the unicast destinations that the routes of the overlay's own
	// namespace send over it.
	prefixes []netip.Prefix
}

const (
	whyCollect    = "takes its remote per packet (collect metadata); no remote is configured here"
	whyNoOverlay  = "the device is no overlay"
	whyNoRemote   = "the overlay has no remote"
	whyForeignFIB = "its outer packets are routed in a namespace that is not in the node's view"
	mendEnter     = "give the agent CAP_SYS_ADMIN to enter network namespaces"
)

// A survey computes the facts of overlays over one world. Overlays over overlays
// make it recursive.
type survey struct {
	probe *Probe
	world *world
	// done holds a nil for an overlay that is being worked on, which is how a
	// tunnel that is routed into itself is met.
	done map[deviceID]*overlayFacts
	// underlay are the devices of the agent's own namespace that carry remotes.
	underlay map[int]bool
	learned  []route
}

func (p *Probe) survey(w *world) (*survey, error) {
	v := &survey{probe: p, world: w, done: map[deviceID]*overlayFacts{}, underlay: map[int]bool{}}
	for _, family := range families {
		defaults, err := p.fib.defaults(p.conn, family)
		if err != nil {
			return nil, err
		}
		for _, r := range defaults {
			for _, h := range r.hops {
				v.underlay[h.device] = true
			}
		}
	}
	for _, s := range w.spaces {
		for i := range s.links {
			if l := &s.links[i]; isOverlay(l) {
				v.overlay(s, l, maxDepth)
			}
		}
	}
	return v, nil
}

var families = [...]int{unix.AF_INET, unix.AF_INET6}

// overlay returns the facts of one overlay; nil when it is being worked on.
func (v *survey) overlay(s *space, l *rawLink, depth int) *overlayFacts {
	id := deviceID{s.ns.Inode, l.index}
	if f, ok := v.done[id]; ok {
		return f
	}
	v.done[id] = nil
	f := &overlayFacts{}
	err := v.probe.within(s, func(c *conn) error { return v.overlayIn(c, s, l, f, depth) })
	if err != nil {
		f.cannot(err, s.ns.Own)
	}
	v.done[id] = f
	return f
}

// cannot fills in why nothing could be found out.
func (f *overlayFacts) cannot(err error, own bool) {
	why := failed(err.Error())
	if errors.Is(err, unix.EPERM) && !own {
		why = blind(err.Error() + ": " + mendEnter)
	}
	for _, p := range []*fact{&f.overhead, &f.underlay, &f.expected, &f.learned, &f.device, &f.family, &f.worst, &f.df, &f.remotes, &f.routeMTU} {
		if p.state == factMissing {
			*p = why
		}
	}
}

func (v *survey) overlayIn(c *conn, s *space, l *rawLink, f *overlayFacts, depth int) error {
	routes, err := v.probe.fib.routesOver(c, s.ns, l.index)
	if err != nil {
		return err
	}
	if err := v.routeMTU(c, s, l, routes, f); err != nil {
		return err
	}
	t := l.tunnel
	t.options.innerVLAN = carriesVLAN(s, l)
	f.df = text(string(t.df))
	asked, err := v.questions(c, s, l, &t, routes, f)
	if err != nil {
		return err
	}
	f.remotes = number(len(asked))
	f.learned = absent("the kernel learned no path MTU here")
	if len(asked) == 0 {
		f.withoutRemote(&t)
		return v.learnedMTU(c, s, l, nil, f)
	}
	where := v.world.linkSpace(s, l)
	if where == nil {
		return errors.New(whyForeignFIB)
	}
	// The answers come from the namespace that the tunnel was made in.
	ask := func(fn func(*conn) error) error { return fn(c) }
	if where != s {
		ask = func(fn func(*conn) error) error { return v.probe.within(where, fn) }
	}
	err = ask(func(c *conn) error {
		v.worstRemote(c, where, &t, asked, f, depth)
		return v.learnedMTU(c, where, nil, asked, f)
	})
	if err != nil {
		return err
	}
	return v.learnedMTU(c, s, l, nil, f)
}

// withoutRemote fills in what is true of an overlay of which no remote is known.
func (f *overlayFacts) withoutRemote(t *tunnel) {
	why := absent(whyNoRemote)
	if t.collectMetadata {
		why = blind(whyCollect)
	}
	f.underlay, f.expected, f.device, f.worst = why, why, why, why
	f.family, f.overhead = why, why
	if family := t.family(); family != 0 && !t.collectMetadata {
		f.setFamily(family, t)
		if n, err := overhead(t.encapsulation, family, t.options); err == nil {
			f.overhead = number(n)
		}
	}
}

// setFamily records the outer address family, and with it what DF means: the
// kernel never fragments an IPv6 packet that is not its own socket's, so that a
// tunnel over IPv6 drops what does not fit whatever its DF setting (ip6_fragment,
// fail_toobig; seen on 6.18).
func (f *overlayFacts) setFamily(family int, t *tunnel) {
	f.family = text(familyName(family))
	f.df = text(string(t.df))
	if family == unix.AF_INET6 {
		f.df = text(string(dfSet))
	}
}

// worstRemote asks the FIB for every remote and keeps what leaves least room.
func (v *survey) worstRemote(c *conn, where *space, t *tunnel, asked []question, f *overlayFacts, depth int) {
	var firstErr error
	answered := 0
	for _, q := range asked {
		r, err := v.probe.fib.configured(c, where.ns, q)
		var mtu int
		var device string
		if err == nil {
			mtu, device, err = v.pathMTU(where, &r, depth)
		}
		var n int
		if err == nil {
			n, err = overhead(t.encapsulation, familyOf(q.remote), t.options)
		}
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		if !f.underlay.isValue() || int64(mtu) < f.underlay.number {
			f.underlay = number(mtu)
		}
		if answered == 0 || int64(mtu-n) < f.expected.number {
			f.expected, f.overhead = number(mtu-n), number(n)
			f.device, f.worst = text(device), text(q.remote.Unmap().String())
			f.setFamily(familyOf(q.remote), t)
		}
		answered++
	}
	if answered > 0 {
		// A remote without a route sets no limit: nothing can be sent to it.
		return
	}
	why := failed(fmt.Sprintf("none of %d remotes has a route: %v", len(asked), firstErr))
	f.underlay, f.expected, f.overhead = why, why, why
	f.device, f.worst, f.family = why, why, why
	if family := t.family(); family != 0 {
		f.setFamily(family, t)
	}
}

// pathMTU is the largest packet that a route carries, over all its next hops,
// and the name of the next hop's device that is least.
func (v *survey) pathMTU(where *space, r *route, depth int) (int, string, error) {
	best, name := 0, ""
	for _, h := range r.hops {
		l := where.link(h.device)
		if l == nil {
			return 0, "", fmt.Errorf("device %d of the route to %s is not in the last scan", h.device, r.dst)
		}
		mtu := v.lowerMTU(where, l, depth)
		if r.mtu > 0 {
			mtu = min(mtu, r.mtu)
		}
		if where.ns.Own && l.flags&unix.IFF_LOOPBACK == 0 {
			v.underlay[l.index] = true
		}
		if best == 0 || mtu < best {
			best, name = mtu, l.name
		}
	}
	if best == 0 {
		return 0, "", fmt.Errorf("the route to %s has no next hop", r.dst)
	}
	return best, name, nil
}

// lowerMTU is the MTU of a device or of what it sits on, whichever is less.
func (v *survey) lowerMTU(s *space, l *rawLink, depth int) int {
	if depth == 0 {
		return l.mtu
	}
	mtu := l.mtu
	switch l.kind {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec":
		below := v.world.linkSpace(s, l)
		if below == nil {
			return mtu
		}
		parent := below.link(l.link)
		if parent == nil {
			return mtu
		}
		left := v.lowerMTU(below, parent, depth-1)
		switch {
		case l.kind == "macsec":
			left -= macsecOverhead(l.macsec.icvBytes)
		case l.kind == "vlan" && parent.kind == "macsec":
			left -= vlanTag // netif_reduces_vlan_mtu()
		}
		mtu = min(mtu, left)
	case "bond", "team", "bridge":
		for i := range s.links {
			if port := &s.links[i]; carries(l, port) {
				mtu = min(mtu, v.lowerMTU(s, port, depth-1))
			}
		}
	default:
		if isOverlay(l) {
			if f := v.overlay(s, l, depth-1); f != nil && f.expected.isValue() {
				mtu = min(mtu, int(f.expected.number))
			}
		}
	}
	return mtu
}

// carries says whether a port takes part in sending what enters its master: the
// active slave of an active-backup bond, else every port that is up and in use.
func carries(master, port *rawLink) bool {
	if port.master != master.index || !port.up() {
		return false
	}
	if master.kind == "bond" {
		if master.bond.mode == bondActiveBackup && master.bond.activeSlave != 0 {
			return port.index == master.bond.activeSlave
		}
		return !port.backupSlave
	}
	return true
}

// carriesVLAN says whether a VLAN device puts tags into what the overlay carries.
func carriesVLAN(s *space, l *rawLink) bool {
	for i := range s.links {
		above := &s.links[i]
		if above.kind == "vlan" && above.link == l.index && above.linkNetnsid == noNetnsid {
			return true
		}
	}
	return false
}
