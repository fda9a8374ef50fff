// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"slices"

	"github.com/plumb-dev/plumb/bpf"
)

// retention is how long, in nanoseconds, a drop site is reported after its last
// drop: long enough to see it end.
const retention = uint64(600e9)

// reading is what one look into the kernel's maps gave.
type reading struct {
	now   uint64
	rows  map[bpf.DropKey]bpf.DropValue
	flows map[bpf.FlowKey]bpf.FlowValue
}

// age is how long ago something was, in nanoseconds; 0 for what came after the
// clock was read, as drops do while the maps are.
func age(now, at uint64) uint64 {
	if at >= now {
		return 0
	}
	return now - at
}

// tally is what was dropped at one place, or after encapsulation by one overlay.
type tally struct {
	total, window  uint64
	lenMin, lenMax uint32
	limit          uint32
	last, onset    uint64
	adapted        uint64
	worst          stall
	// recent is set once lengths and limit are of drops within the window.
	recent      bool
	senderIsPod bool
	site        string
	siteDrops   uint64
	place       place
}

// result is a reading, put in order.
type result struct {
	places   map[placeKey]*tally
	overlays map[string]*tally
	// ambiguous are overlays of which one, but not which, wrapped what was dropped
	// within the window.
	ambiguous map[string]bool
	// gone are rows of a pod whose network namespace another pod has by now.
	gone map[bpf.DropKey]bool
	// unjudged counts drops at size checks of which nothing says the limit.
	unjudged uint64
}

// A table orders readings. It remembers what one reading alone does not tell: how
// counters grew within the window, and to whom early drops belong.
type table struct {
	rows    map[bpf.DropKey]*series
	streaks map[bpf.FlowKey]*series
	moved   map[bpf.FlowKey]move
	// owners are the pods that a row's network namespaces belonged to when it was
	// first seen: the kernel gives their numbers away again at once.
	owners map[bpf.DropKey][2]string
}

// A move is a number of drops that were counted before the sender of their flow
// was known.
type move struct {
	from, to bpf.DropKey
	value    bpf.DropValue
}

// maxMoves bounds what is remembered per flow. Without a move, early drops stay
// with the drop site that names no pod.
const maxMoves = 4096

func newTable() *table {
	return &table{
		rows:    map[bpf.DropKey]*series{},
		streaks: map[bpf.FlowKey]*series{},
		moved:   map[bpf.FlowKey]move{},
		owners:  map[bpf.DropKey][2]string{},
	}
}

func (t *table) order(r reading, l *locator) result {
	out := result{places: map[placeKey]*tally{}, overlays: map[string]*tally{}, ambiguous: map[string]bool{}, gone: t.disown(r, l)}
	rows := t.withMoves(r)
	for k := range out.gone {
		delete(rows, k)
	}
	t.forget(rows, r.flows)
	for k, v := range rows {
		grown := t.seriesOf(k).add(r.now, v.Count, 0)
		if age(r.now, v.LastNs) >= window {
			grown = 0
		}
		p, verdict := l.locate(k, v)
		switch verdict {
		case noLimit:
			out.unjudged += v.Count
			continue
		case notOversize:
			continue
		}
		if age(r.now, v.LastNs) < retention {
			merge(out.places, p.key, p, v, grown)
		}
		if grown > 0 && len(p.candidates) > 1 {
			for _, key := range p.candidates {
				out.ambiguous[key] = true
			}
		}
		if p.overlay != "" {
			merge(out.overlays, p.overlay, p, v, grown)
		}
	}
	// A storm has thousands of flows and a handful of rows.
	memo := map[bpf.DropKey]whereabouts{}
	for k, v := range r.flows {
		t.addFlow(&out, r.now, k, v, l, memo)
	}
	return out
}

// whereabouts is what locate says of a row.
type whereabouts struct {
	place   place
	verdict located
}

func (t *table) addFlow(out *result, now uint64, k bpf.FlowKey, v bpf.FlowValue, l *locator, memo map[bpf.DropKey]whereabouts) {
	if v.Drops == 0 || age(now, v.LastNs) >= retention || out.gone[v.Row] {
		return
	}
	s, ok := t.streaks[k]
	if !ok {
		s = &series{}
		t.streaks[k] = s
	}
	// A streak that began anew counts from zero.
	if n := len(s.points); n > 0 && s.points[n-1].value > uint64(v.Streak) {
		s.points = nil
	}
	grown := s.add(now, uint64(v.Streak), 0)

	row := v.Row
	if row.SenderNetns == 0 {
		row.SenderNetns = v.SenderNetns
	}
	w, ok := memo[row]
	if !ok {
		w.place, w.verdict = l.locate(row, bpf.DropValue{Limit: v.Limit, LenMax: v.Length})
		// Where the other end of the veth is looked up here, the packet's length
		// decides as well.
		if row.Class != bpf.ClassPeer || row.LimitSource != bpf.LimitUnknown {
			memo[row] = w
		}
	}
	if w.verdict != isPlace {
		return
	}
	for _, tl := range [2]*tally{out.places[w.place.key], out.overlays[w.place.overlay]} {
		if tl == nil {
			continue
		}
		if v.AdaptedNs != 0 && age(now, v.AdaptedNs) < window {
			tl.adapted++
		}
		if st, ok := stallOf(k, v, now, grown); ok && (tl.worst.drops == 0 || st.worse(tl.worst)) {
			tl.worst = st
		}
	}
}

func merge[K comparable](into map[K]*tally, key K, p place, v bpf.DropValue, grown uint64) {
	t, ok := into[key]
	if !ok {
		t = &tally{lenMin: v.LenMin, place: p}
		into[key] = t
	}
	if v.LastNs >= t.last {
		t.last, t.place = v.LastNs, p
	}
	t.total += v.Count
	t.window += grown
	if grown > 0 && !t.recent {
		t.recent, t.lenMin, t.lenMax, t.limit = true, v.LenMin, 0, 0
	}
	// What was dropped longer ago says nothing of what is dropped now.
	if grown > 0 || !t.recent {
		t.lenMin = min(t.lenMin, v.LenMin)
		t.lenMax = max(t.lenMax, v.LenMax)
		if p.limit != 0 && (t.limit == 0 || p.limit < t.limit) {
			t.limit = p.limit
		}
	}
	if grown > 0 && (t.onset == 0 || v.OnsetNs < t.onset) {
		t.onset = v.OnsetNs
	}
	t.senderIsPod = t.senderIsPod || p.senderIsPod
	if v.Count >= t.siteDrops {
		t.siteDrops, t.site = v.Count, p.key.function+" on "+p.device
	}
}

// disown finds the rows whose network namespaces are another pod's by now.
func (t *table) disown(r reading, l *locator) map[bpf.DropKey]bool {
	gone := map[bpf.DropKey]bool{}
	for k := range r.rows {
		var now [2]string
		for i, netns := range [2]uint32{k.SenderNetns, k.LimitNetns} {
			now[i], _ = l.pods.PodByNetns(netns)
		}
		was := t.owners[k]
		for i := range now {
			if was[i] != "" && now[i] != "" && was[i] != now[i] {
				gone[k] = true
			}
			if now[i] == "" {
				now[i] = was[i]
			}
		}
		t.owners[k] = now
	}
	for k := range t.owners {
		if _, ok := r.rows[k]; !ok || gone[k] {
			delete(t.owners, k)
		}
	}
	return gone
}

// withMoves returns the rows with the drops of each flow at the sender that was
// learned later.
func (t *table) withMoves(r reading) map[bpf.DropKey]bpf.DropValue {
	for k, v := range r.flows {
		if v.Unattributed == 0 || v.SenderNetns == 0 {
			continue
		}
		to := v.Row
		to.SenderNetns = v.SenderNetns
		from := anonymous(r.rows, v.Row)
		if _, ok := t.moved[k]; !ok && len(t.moved) >= maxMoves {
			continue
		}
		t.moved[k] = move{from: from, to: to, value: bpf.DropValue{
			Count: uint64(v.Unattributed), FirstNs: v.FirstNs, OnsetNs: v.FirstNs, LastNs: v.FirstNs,
		}}
	}
	rows := make(map[bpf.DropKey]bpf.DropValue, len(r.rows))
	for k, v := range r.rows {
		rows[k] = v
	}
	for flow, m := range t.moved {
		source, ok := rows[m.from]
		if !ok || source.Count < m.value.Count {
			if _, ok := r.rows[m.from]; !ok {
				delete(t.moved, flow)
			}
			continue
		}
		destination, ok := rows[m.to]
		if !ok {
			destination = source
			destination.Count = 0
		}
		destination.Count += m.value.Count
		destination.OnsetNs = min(destination.OnsetNs, max(m.value.OnsetNs, source.OnsetNs))
		rows[m.to] = destination
		if source.Count -= m.value.Count; source.Count == 0 {
			delete(rows, m.from)
			continue
		}
		rows[m.from] = source
	}
	return rows
}

// anonymous is the row without sender that counted the early drops of a flow: the
// same place, though limit and way in may have been others then.
func anonymous(rows map[bpf.DropKey]bpf.DropValue, k bpf.DropKey) bpf.DropKey {
	k.SenderNetns = 0
	if _, ok := rows[k]; ok {
		return k
	}
	for other := range rows {
		like := k
		like.Reason, like.LimitSource, like.FromIfindex = other.Reason, other.LimitSource, other.FromIfindex
		if like == other {
			return other
		}
	}
	return k
}

func (t *table) seriesOf(k bpf.DropKey) *series {
	s, ok := t.rows[k]
	if !ok {
		s = &series{}
		t.rows[k] = s
	}
	return s
}

func (t *table) forget(rows map[bpf.DropKey]bpf.DropValue, flows map[bpf.FlowKey]bpf.FlowValue) {
	for k := range t.rows {
		if _, ok := rows[k]; !ok {
			delete(t.rows, k)
		}
	}
	for k := range t.streaks {
		if _, ok := flows[k]; !ok {
			delete(t.streaks, k)
		}
	}
}

// stale are the rows to delete from the kernel's map when it fills up: those
// beyond retention, oldest first, until a quarter of the room is free.
func stale(r reading, capacity int) []bpf.DropKey {
	if len(r.rows) <= capacity/4*3 {
		return nil
	}
	var old []bpf.DropKey
	for k, v := range r.rows {
		if age(r.now, v.LastNs) >= retention {
			old = append(old, k)
		}
	}
	slices.SortFunc(old, func(a, b bpf.DropKey) int {
		if r.rows[a].LastNs < r.rows[b].LastNs {
			return -1
		}
		return 1
	})
	return old[:min(len(old), len(r.rows)-capacity/4*3)]
}
