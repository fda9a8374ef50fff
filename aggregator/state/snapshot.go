// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"
	"unique"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

const notReported = "not reported by this node's agent"

type subjectKey struct{ kind, key string }

// A snapshot is the evidence of one node after one batch. It is never changed
// once it is published, so that views can read it without a lock.
type snapshot struct {
	rules       *rules
	generation  uint64
	lastArrival time.Time
	records     map[subjectKey]*record
	byKind      map[string][]evidence.Subject
	probes      map[string]ProbeState
	items       int
	bytes       int64
}

// rules is what does not differ between nodes.
type rules struct {
	catalog  *evidence.Catalog
	interval time.Duration
	// ttls are the catalogue's own times to live, by probe, without the default.
	ttls map[string][]time.Duration
}

func newRules(catalog *evidence.Catalog, interval time.Duration) *rules {
	r := &rules{catalog: catalog, interval: interval, ttls: map[string][]time.Duration{}}
	for _, it := range catalog.Items() {
		if it.TTL > 0 && !slices.Contains(r.ttls[it.Probe()], it.TTL) {
			r.ttls[it.Probe()] = append(r.ttls[it.Probe()], it.TTL)
		}
	}
	return r
}

// silenceIntervals is how many intervals without a batch make a node silent
// (architecture section 4 of aggregator.md: "missing 3 intervals = unknown").
const silenceIntervals = 3

// A ProbeState is what the agent last said of one probe, on the aggregator's
// clock.
type ProbeState struct {
	Name   string
	State  evidencev1.ProbeStatus_State
	Detail string
	// SampledAt is the end of the last successful sample; zero when there was
	// none.
	SampledAt time.Time
	Interval  time.Duration
	Hooks     []Hook

	// observedAt is the newest observation of the probe, which is later than
	// SampledAt when it pushed before its sample ended.
	observedAt time.Time
}

// A Hook says which rung of one signal's ladder is active on a node.
type Hook struct {
	Signal, Rung, Detail string
	Confirmed            bool
}

// A record is everything known of one subject.
type record struct {
	subject evidence.Subject
	// parts are sorted by probe.
	parts []part
}

// A part is what one probe said of one subject.
type part struct {
	probe      string
	observedAt time.Time
	// items are sorted by id. Equal items are one object across all nodes: most
	// nodes say the same of most devices, and 5,000 nodes with 222 devices each
	// would not fit into memory otherwise.
	items itemList
}

type itemList []unique.Handle[item]

// An item is one fact in comparable form. NaN would never equal itself, so
// numbers are kept as bits.
type item struct {
	id          uint32
	status      Status
	kind        valueKind
	reason      evidencev1.Unknown_Reason
	bits        uint64
	uncertainty uint64
	text        string
	rung        string
}

type valueKind uint8

const (
	kindInteger valueKind = iota
	kindNumber
	kindText
	kindFlag
)

func (s *snapshot) silent(at time.Time) bool {
	return s.lastArrival.IsZero() || at.Sub(s.lastArrival) > silenceIntervals*s.rules.interval
}

// ttl is how long a probe's word holds: the item's own, else three intervals of
// the probe.
func (s *snapshot) ttl(p ProbeState, own time.Duration) time.Duration {
	if own > 0 {
		return own
	}
	if p.Interval > 0 {
		return silenceIntervals * p.Interval
	}
	return silenceIntervals * s.rules.interval
}

// probe decides whether anything that the probe says can be believed at a
// moment; own is the time to live of the item in question, 0 for the default.
func (s *snapshot) probe(at time.Time, name string, own time.Duration) Fact {
	if s.lastArrival.IsZero() {
		return Fact{Reason: evidence.Stale, Detail: "no batch of this node has arrived since the aggregator started"}
	}
	if s.silent(at) {
		return Fact{Reason: evidence.Stale, ObservedAt: s.lastArrival,
			Detail: fmt.Sprintf("the node is silent: no batch for %s", at.Sub(s.lastArrival).Round(time.Second))}
	}
	if s.records == nil {
		return Fact{Reason: evidence.WarmingUp, Detail: "the agent's first full batch since the aggregator started has not arrived yet"}
	}
	p, known := s.probes[name]
	if !known {
		return Fact{Reason: evidence.Blind, Detail: fmt.Sprintf("this node's agent has no probe %q", name)}
	}
	detail := func(fallback string) string {
		if p.Detail != "" {
			return p.Detail
		}
		return fallback
	}
	switch p.State {
	case evidencev1.ProbeStatus_OK, evidencev1.ProbeStatus_NO_DATA:
	case evidencev1.ProbeStatus_FAILED:
		return Fact{Reason: evidence.Failed, ObservedAt: p.SampledAt, Detail: detail("the probe's last sample failed")}
	case evidencev1.ProbeStatus_UNSUPPORTED:
		return Fact{Reason: evidence.Blind, Detail: detail("the probe could not be set up on this node")}
	case evidencev1.ProbeStatus_STARTING:
		return Fact{Reason: evidence.WarmingUp, Detail: detail("the probe's first sample has not ended yet")}
	default:
		return Fact{Reason: evidence.Failed, Detail: fmt.Sprintf("the agent gave the probe a state that this aggregator does not know (%d); upgrade the aggregator", p.State)}
	}
	fresh := latest(p.SampledAt, p.observedAt)
	if fresh.IsZero() {
		return Fact{Reason: evidence.WarmingUp, Detail: detail("the probe has not been sampled yet")}
	}
	if age, ttl := at.Sub(fresh), s.ttl(p, own); age > ttl {
		return Fact{Reason: evidence.Stale, ObservedAt: fresh, Detail: staleDetail(age, ttl)}
	}
	if p.State == evidencev1.ProbeStatus_NO_DATA {
		return Fact{Status: NotApplicable, ObservedAt: fresh, Detail: detail("the probe has nothing to measure on this node")}
	}
	return Fact{Status: Value, ObservedAt: fresh}
}

func staleDetail(age, ttl time.Duration) string {
	return fmt.Sprintf("measured %s ago, which is longer than the %s that it holds", age.Round(time.Second), ttl)
}

// fact decides what is known of one item at one moment.
func (s *snapshot) fact(at time.Time, key subjectKey, id uint32) Fact {
	info, ok := s.rules.catalog.ByID(id)
	if !ok {
		return Fact{Reason: evidence.Blind, Detail: fmt.Sprintf("the catalogue has no item %d", id)}
	}
	name := info.Probe()
	state := s.probe(at, name, info.TTL)
	if state.Status != Value {
		return state
	}
	r, ok := s.records[key]
	if !ok {
		return Fact{Reason: evidence.Blind, Detail: notReported}
	}
	for _, p := range r.parts {
		if p.probe != name {
			continue
		}
		i := sort.Search(len(p.items), func(i int) bool { return p.items[i].Value().id >= id })
		if i == len(p.items) || p.items[i].Value().id != id {
			break
		}
		f := p.items[i].Value().fact(info.Type)
		probe := s.probes[name]
		// An unchanged observation is not sent again: it is as fresh as the last
		// successful sample of its probe (evidence.proto, Batch.probes).
		f.ObservedAt = latest(p.observedAt, probe.SampledAt)
		if age, ttl := at.Sub(f.ObservedAt), s.ttl(probe, info.TTL); age > ttl && f.Status != Unknown {
			return Fact{Reason: evidence.Stale, ObservedAt: f.ObservedAt, Rung: f.Rung, Detail: staleDetail(age, ttl)}
		}
		return f
	}
	return Fact{Reason: evidence.Blind, Detail: notReported}
}

// expires is the first moment after at when something turns stale.
func (s *snapshot) expires(at time.Time) time.Time {
	if s.lastArrival.IsZero() {
		return time.Time{}
	}
	var first time.Time
	take := func(t time.Time) {
		// A value holds up to and including its time to live.
		t = t.Add(time.Nanosecond)
		if t.After(at) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	take(s.lastArrival.Add(silenceIntervals * s.rules.interval))
	for name, p := range s.probes {
		for _, stamp := range []time.Time{p.SampledAt, p.observedAt} {
			if stamp.IsZero() {
				continue
			}
			take(stamp.Add(s.ttl(p, 0)))
			for _, own := range s.rules.ttls[name] {
				take(stamp.Add(own))
			}
		}
	}
	return first
}

// expired says whether anything was stale at a moment, so that a batch that
// only refreshes it is still a change.
func (s *snapshot) expired(at time.Time) bool {
	if s.silent(at) {
		return true
	}
	for name, p := range s.probes {
		fresh := latest(p.SampledAt, p.observedAt)
		age := at.Sub(fresh)
		if age > s.ttl(p, 0) {
			return true
		}
		for _, own := range s.rules.ttls[name] {
			if age > own {
				return true
			}
		}
	}
	return false
}

// index sorts the subjects by kind and counts.
func (s *snapshot) index() {
	s.byKind = map[string][]evidence.Subject{}
	s.items, s.bytes = 0, 0
	for _, r := range s.records {
		s.byKind[r.subject.Kind] = append(s.byKind[r.subject.Kind], r.subject)
		s.bytes += r.size()
		for _, p := range r.parts {
			s.items += len(p.items)
		}
	}
	// The node itself exists whatever its agent says.
	node := evidence.Node()
	if _, ok := s.records[subjectKey{node.Kind, node.Key}]; !ok {
		s.byKind[node.Kind] = append(s.byKind[node.Kind], node)
	}
	sortSubjects(s.byKind)
}

// size estimates what a record holds in memory: 400 bytes for the map entry, the
// headers and the index, 64 per probe, 8 per item for its handle, and the texts
// that are values. What equal items of other nodes share is not counted.
func (r *record) size() int64 {
	n := int64(400 + len(r.subject.Key) + len(r.subject.Name) + len(r.subject.ParentKey) + len(r.subject.PodUID))
	for _, p := range r.parts {
		n += 64
		for _, h := range p.items {
			n += 8
			if v := h.Value(); v.status == Value {
				n += int64(len(v.text))
			}
		}
	}
	return n
}

func sameRecords(a, b map[subjectKey]*record) bool {
	return maps.EqualFunc(a, b, func(x, y *record) bool {
		return x == y || x.subject == y.subject && slices.EqualFunc(x.parts, y.parts, func(p, q part) bool {
			return p.probe == q.probe && slices.Equal(p.items, q.items)
		})
	})
}

func sameProbes(a, b map[string]ProbeState) bool {
	return maps.EqualFunc(a, b, func(x, y ProbeState) bool {
		return x.State == y.State && x.Detail == y.Detail && x.Interval == y.Interval && slices.Equal(x.Hooks, y.Hooks)
	})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
