// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"slices"
	"sync"
	"time"
)

// BeforeFault is how long before a fault the last progress of a transfer may lie
// that the fault stalled. A healthy TCP transfer may be quiet for as long as the
// other side may delay an acknowledgement, 40 ms (TCP_DELACK_MIN), or longer beside
// busy loops; one that had lost something would have retransmitted it after 200 ms
// (TCP_RTO_MIN).
const BeforeFault = 200 * time.Millisecond

// An Observer takes the events of all senders of a lab and says when a fault first
// reached an application. It keeps every stall, error and recovery, which senders
// bound to about 60 a second and flow. Its methods are safe for concurrent use.
type Observer struct {
	mu    sync.Mutex
	flows map[string]*observed
	order []string
}

// observed is one flow.
type observed struct {
	flow     Flow
	counters Counters
	// lanes are the troubles and recoveries, by query ("" but for DNS), ordered by
	// AffectedAt.
	lanes map[string][]Event
}

// NewObserver makes an observer of these flows. Events of others are passed over.
func NewObserver(flows []Flow) *Observer {
	o := &Observer{flows: map[string]*observed{}}
	for _, f := range flows {
		o.flows[f.ID] = &observed{flow: f, lanes: map[string][]Event{}}
		o.order = append(o.order, f.ID)
	}
	return o
}

// Add takes an event, in any order.
func (o *Observer) Add(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.flows[e.Flow]
	if f == nil {
		return
	}
	switch e.Type {
	case Progress:
		if e.Counters != nil {
			f.counters = f.counters.plus(*e.Counters)
		}
	case Stalled, Failed, Recovered:
		events := f.lanes[e.Query]
		at, _ := slices.BinarySearchFunc(events, e, func(a, b Event) int {
			if a.AffectedAt.After(b.AffectedAt) {
				return 1
			}
			return -1 // equal ones stay as they came
		})
		f.lanes[e.Query] = slices.Insert(events, at, e)
	}
}

// FirstAffected is the earliest moment, since or later, at which an application of
// a matching flow (nil: any) was affected, and the event that says so. It is known
// one stall limit after it was at the earliest.
//
// A transfer whose last progress lies at most BeforeFault before since was under way
// and counts as of since; one that was quiet for longer does not count. Nor does a
// flow (of DNS: a query) that was noticed to be in trouble before since, until it has
// recovered: it says nothing about what began at since.
func (o *Observer) FirstAffected(since time.Time, match func(Flow) bool) (time.Time, Event, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var first Event
	found := false
	for _, id := range o.order {
		f := o.flows[id]
		if match != nil && !match(f.flow) {
			continue
		}
		for _, events := range f.lanes {
			if e, ok := affected(events, since); ok && (!found || e.AffectedAt.Before(first.AffectedAt)) {
				first, found = e, true
			}
		}
	}
	if !found {
		return time.Time{}, Event{}, false
	}
	if at := first.AffectedAt; at.After(since) {
		return at, first, true
	}
	return since, first, true
}

// affected is a lane's first trouble that since may have begun, out of health.
func affected(events []Event, since time.Time) (Event, bool) {
	troubled := false
	for _, e := range events {
		switch {
		case e.Type == Recovered:
			troubled = false
		case e.At.Before(since):
			troubled = true
		case !troubled && !e.AffectedAt.Before(since.Add(-BeforeFault)):
			return e, true
		}
	}
	return Event{}, false
}

// Counters are what a flow has done so far, as its sender reported it; zero for
// one that is not known.
func (o *Observer) Counters(flow string) Counters {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.flows[flow]; f != nil {
		return f.counters
	}
	return Counters{}
}

// Touching matches flows with an end on one of the nodes.
func Touching(nodes ...string) func(Flow) bool {
	return func(f Flow) bool { return slices.Contains(nodes, f.From) || slices.Contains(nodes, f.To) }
}

// Between matches flows from one of the first nodes to one of the second, or back.
func Between(first, second []string) func(Flow) bool {
	return func(f Flow) bool {
		return slices.Contains(first, f.From) && slices.Contains(second, f.To) ||
			slices.Contains(second, f.From) && slices.Contains(first, f.To)
	}
}
