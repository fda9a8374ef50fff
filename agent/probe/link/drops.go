// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import "time"

// dropWindow is how long a rise of a drop counter counts as "moving".
const dropWindow = 30 * time.Second

// A dropWatch remembers the drop counters of every device and when they last
// rose. It is not safe for concurrent use.
type dropWatch struct {
	devices map[deviceID]dropRecord
	started bool
	round   uint64
}

type dropRecord struct {
	last     counters
	risen    time.Duration
	ever     bool // risen is valid
	compared bool // an earlier sample, or the device's birth, gives the baseline
	round    uint64
}

// observe takes in one pass over the node's devices.
func (w *dropWatch) observe(now time.Duration, world *world) {
	if w.devices == nil {
		w.devices = map[deviceID]dropRecord{}
	}
	w.round++
	for _, s := range world.spaces {
		for i := range s.links {
			l := &s.links[i]
			if l.hasStats {
				w.one(now, deviceID{s.ns.Inode, l.index}, l.stats)
			}
		}
	}
	for id, r := range w.devices {
		if r.round != w.round {
			delete(w.devices, id)
		}
	}
	w.started = true
}

func (w *dropWatch) one(now time.Duration, id deviceID, c counters) {
	r, known := w.devices[id]
	switch {
	case !known && !w.started:
		// It may have dropped at any time since it was made.
	case !known:
		// Made since the last pass: it began at zero.
		r.compared = true
		r.rose(now, c.rxDropped > 0 || c.txDropped > 0)
	default:
		// A counter that fell was reset, or another device has its number now.
		// Either way what it shows was counted since (evidence.md §7).
		r.compared = true
		rx, tx := r.last.rxDropped, r.last.txDropped
		if c.rxDropped < rx || c.txDropped < tx {
			rx, tx = 0, 0
		}
		r.rose(now, c.rxDropped > rx || c.txDropped > tx)
	}
	r.last, r.round = c, w.round
	w.devices[id] = r
}

func (r *dropRecord) rose(now time.Duration, yes bool) {
	if yes {
		r.risen, r.ever = now, true
	}
}

// moving says whether a device's counters rose within the window; ok is false
// while there is nothing to compare with.
func (w *dropWatch) moving(now time.Duration, id deviceID) (moving, ok bool) {
	r, known := w.devices[id]
	if !known || !r.compared {
		return false, false
	}
	return r.ever && now-r.risen <= dropWindow, true
}
