// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"math"
	"slices"
	"time"
	"unique"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A timeline turns boottime stamps of one batch into the aggregator's time. It
// rests on the arrival and on differences of one monotonic clock, never on the
// node's wall clock.
type timeline struct {
	arrival time.Time
	sent    uint64
}

// at is the moment of a stamp; a stamp of 0 is none. A stamp after the sending,
// which no honest agent makes, counts as the sending.
func (t timeline) at(boottime uint64) time.Time {
	if boottime == 0 {
		return time.Time{}
	}
	if boottime >= t.sent {
		return t.arrival
	}
	age := t.sent - boottime
	if age > uint64(math.MaxInt64) {
		age = uint64(math.MaxInt64)
	}
	return t.arrival.Add(-time.Duration(age))
}

// newItem keeps an item. The second result is false for one that this build's
// catalogue does not have for this kind of subject: a newer agent may know more.
func newItem(catalog *evidence.Catalog, probe, kind string, it *evidencev1.Item) (unique.Handle[item], bool) {
	info, ok := catalog.ByID(it.GetId())
	if !ok || info.Subject != kind || info.Probe() != probe {
		return unique.Handle[item]{}, false
	}
	v := item{id: it.GetId(), status: Value, uncertainty: math.Float64bits(it.GetUncertainty()), rung: it.GetRung()}
	switch s := it.GetState().(type) {
	case *evidencev1.Item_Integer:
		v.kind, v.bits = kindInteger, uint64(s.Integer)
	case *evidencev1.Item_Number:
		v.kind, v.bits = kindNumber, math.Float64bits(s.Number)
	case *evidencev1.Item_Text:
		v.kind, v.text = kindText, s.Text
	case *evidencev1.Item_Flag:
		v.kind = kindFlag
		if s.Flag {
			v.bits = 1
		}
	case *evidencev1.Item_NotApplicable:
		v.status, v.text = NotApplicable, s.NotApplicable.GetDetail()
	case *evidencev1.Item_Unknown:
		v.status, v.reason, v.text = Unknown, s.Unknown.GetReason(), s.Unknown.GetDetail()
	default:
		v.status, v.reason, v.text = Unknown, evidence.Failed, "the item came without a state"
	}
	return unique.Make(v), true
}

// fact gives an item the type that the catalogue promises. A value of another
// type is unknown: it must not reach an expression.
func (v item) fact(want evidence.Type) Fact {
	f := Fact{Status: v.status, Rung: v.rung, Uncertainty: math.Float64frombits(v.uncertainty)}
	if v.status != Value {
		f.Reason, f.Detail = v.reason, v.text
		return f
	}
	number := math.Float64frombits(v.bits)
	switch {
	case v.kind == kindInteger && want == evidence.TypeInteger:
		f.Value = int64(v.bits)
	case v.kind == kindNumber && want == evidence.TypeNumber && !math.IsNaN(number) && !math.IsInf(number, 0):
		f.Value = number
	case v.kind == kindText && want == evidence.TypeText:
		f.Value = v.text
	case v.kind == kindFlag && want == evidence.TypeFlag:
		f.Value = v.bits == 1
	default:
		return Fact{Reason: evidence.Failed, Rung: v.rung, Detail: fmt.Sprintf("the agent sent no usable %s for this item", want)}
	}
	return f
}

// newPart keeps an observation and says how many of its items were not known.
func newPart(catalog *evidence.Catalog, t timeline, o *evidencev1.Observation) (part, int) {
	p := part{
		probe:      o.GetProbe(),
		observedAt: t.at(o.GetObservedBoottimeNanoseconds()),
		items:      make([]unique.Handle[item], 0, len(o.GetItems())),
	}
	dropped := 0
	for _, it := range o.GetItems() {
		h, ok := newItem(catalog, o.GetProbe(), o.GetSubject().GetKind(), it)
		if !ok {
			dropped++
			continue
		}
		p.items = append(p.items, h)
	}
	slices.SortStableFunc(p.items, func(a, b unique.Handle[item]) int { return int(a.Value().id) - int(b.Value().id) })
	return p, dropped
}

// with returns the record with one probe's part replaced; r may be nil.
func (r *record) with(subject evidence.Subject, p part) *record {
	next := &record{subject: subject}
	if r != nil {
		next.parts = make([]part, 0, len(r.parts)+1)
		for _, old := range r.parts {
			if old.probe != p.probe {
				next.parts = append(next.parts, old)
			} else if slices.Equal(old.items, p.items) {
				// One slice for both, so that a repeated full snapshot costs no memory.
				p.items = old.items
			}
		}
	}
	next.parts = append(next.parts, p)
	slices.SortFunc(next.parts, func(a, b part) int {
		if a.probe < b.probe {
			return -1
		}
		if a.probe > b.probe {
			return 1
		}
		return 0
	})
	return next
}

// maxProbeInterval bounds what an agent may claim, since three of them are how
// long its word holds.
const maxProbeInterval = 10 * time.Minute

func newProbes(t timeline, statuses []*evidencev1.ProbeStatus) map[string]ProbeState {
	out := make(map[string]ProbeState, len(statuses))
	for _, p := range statuses {
		state := ProbeState{
			Name:      p.GetName(),
			State:     p.GetState(),
			Detail:    p.GetDetail(),
			SampledAt: t.at(p.GetSampledBoottimeNanoseconds()),
			Interval:  min(p.GetInterval().AsDuration(), maxProbeInterval),
		}
		for _, h := range p.GetHooks() {
			state.Hooks = append(state.Hooks, Hook{Signal: h.GetSignal(), Rung: h.GetRung(), Confirmed: h.GetConfirmed(), Detail: h.GetDetail()})
		}
		out[p.GetName()] = state
	}
	return out
}

// without returns the record without what one probe said, or nil when nobody
// says anything of the subject any more. An empty probe stands for all of them.
func (r *record) without(probe string) *record {
	if r == nil || probe == "" {
		return nil
	}
	next := &record{subject: r.subject}
	for _, p := range r.parts {
		if p.probe != probe {
			next.parts = append(next.parts, p)
		}
	}
	if len(next.parts) == 0 {
		return nil
	}
	return next
}
