// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/probe"
)

// Signals of this probe.
const (
	signalDevices   = "link.devices"
	signalPodRoutes = "link.pod_routes"
	signalFIB       = "link.fib"
)

// Hooks says how devices, the FIB and the pods' routes are read on this machine.
func (p *Probe) Hooks() []probe.Hook {
	p.hookMu.Lock()
	defer p.hookMu.Unlock()
	return slices.Clone(p.hooks)
}

func (p *Probe) setHook(h probe.Hook) {
	p.hookMu.Lock()
	defer p.hookMu.Unlock()
	for i := range p.hooks {
		if p.hooks[i].Signal == h.Signal {
			p.hooks[i] = h
			return
		}
	}
	p.hooks = append(p.hooks, h)
}

// selfTest tries every rung once, so that --check can say what works before any
// pod runs.
func (p *Probe) selfTest() {
	devices := probe.Hook{Signal: signalDevices, Rung: rungOwn}
	if links, err := p.conn.links(netnsUnknownID, nil); err != nil {
		devices.Rung, devices.Detail = "", err.Error()
	} else {
		devices.Confirmed = len(links) > 0
		devices.Detail = "devices of other network namespaces have not been read yet"
	}
	p.setHook(devices)

	fib := probe.Hook{Signal: signalFIB, Rung: rungFIB, Confirmed: true}
	_, err := p.conn.configured(question{remote: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	if err != nil && !errors.Is(err, unix.ENETUNREACH) { // that would be lo down
		fib = probe.Hook{Signal: signalFIB, Detail: err.Error() + ": needs RTM_F_FIB_MATCH (kernel 4.13)"}
	}
	p.setHook(fib)

	// Entering the namespace that the thread is in already asks the same right.
	p.setHook(podRoutesHook(visit(p.ownFD, func(v *visitor) error {
		return v.enter(p.ownFD, unix.NETLINK_ROUTE, func(*conn) error { return nil })
	})))
}

func podRoutesHook(err error) probe.Hook {
	if err == nil {
		return probe.Hook{Signal: signalPodRoutes, Rung: rungSetns, Confirmed: true}
	}
	h := probe.Hook{Signal: signalPodRoutes, Detail: err.Error()}
	if errors.Is(err, unix.EPERM) {
		h.Detail += ": " + mendEnter
	}
	return h
}

// updateHooks takes over what the last scan showed.
func (p *Probe) updateHooks() {
	w := p.last.world
	devices := probe.Hook{Signal: signalDevices, Rung: rungForeign, Confirmed: true}
	switch incomplete := w.incomplete(p.view.Unreadable()); {
	case len(w.spaces) == 1 && len(w.failures) == 0:
		devices.Rung = rungOwn
		devices.Detail = "the node has no other network namespace now"
		if incomplete != nil {
			devices.Detail = incomplete.Error()
		}
	case len(w.spaces) == 1:
		devices.Rung = rungOwn
		devices.Detail = incomplete.Error()
	case incomplete != nil:
		devices.Detail = fmt.Sprintf("not everywhere: %v", incomplete)
	}
	p.setHook(devices)
	warning := ""
	if incomplete := w.incomplete(p.view.Unreadable()); incomplete != nil {
		warning = incomplete.Error()
	}
	if warning != "" && warning != p.warned {
		p.log.Warn("devices are missing from the evidence", "reason", warning)
	}
	p.warned = warning
	if pods := p.last.pods; pods.entered > 0 || pods.hookErr != nil {
		p.setHook(podRoutesHook(pods.hookErr))
	}
}
