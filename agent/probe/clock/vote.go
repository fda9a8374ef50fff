// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// leastMajority is the smallest number of groups that vote makes a majority of.
const leastMajority = 2

// States of a source, as the item clock.source_state spells them.
const (
	stateAgrees      = "agrees"
	stateFalse       = "false"
	stateAlone       = "alone"
	stateUnreachable = "unreachable"
	stateInvalid     = "invalid"
)

// A reading is what one source says in one round.
type reading struct {
	group string
	// name identifies the source: "group/address".
	name string
	span interval
	// delay is the round trip; local says that none was needed.
	delay time.Duration
	local bool
	// anew says that it was said in this round, not kept from an earlier one.
	anew bool
}

// An outcome is what a vote decided.
type outcome struct {
	// total counts the groups that gave an interval, those that contradict
	// themselves included.
	total int
	// majority says whether more than half of them share an interval.
	majority bool
	// span is what the majority shares.
	span interval
	// agreeing counts the groups of the majority, dissenting all others. Zero
	// without a majority.
	agreeing, dissenting int
	// groups are the names of the groups of the majority, sorted.
	groups []string
	// agreeingSources and falseSources are names of sources, sorted.
	agreeingSources, falseSources []string
	// states has one of the state constants for each reading's name.
	states map[string]string
	// detail says why there is no majority.
	detail string
}

// A bloc is one group's single voice.
type bloc struct {
	name         string
	sources      []reading
	span         interval
	contradicted bool
}

// vote finds the interval that the majority of the independence groups shares:
// the intersection algorithm of Marzullo, RFC 5905 section 11.2.1, with three
// differences. A group has one voice however many servers it runs. The majority
// must be strict over all groups that gave an interval. And the interval is the
// hull of every point in which a majority overlaps, not only of those in which the
// most do: with two liars of five, the latter may lie beside the truth, while the
// truth is in the former as long as fewer than half of the groups lie, whatever
// they say.
//
// Two different sets of groups can both be the largest, when one wide interval
// meets two narrow ones that exclude each other. One of the two lies, and nobody
// can say which.
func vote(readings []reading) outcome {
	blocs := gather(readings)
	out := outcome{total: len(blocs), states: make(map[string]string, len(readings))}
	for _, r := range readings {
		out.states[r.name] = stateAlone
	}
	switch len(blocs) {
	case 0:
		out.detail = "no time source answered"
		return out
	case 1:
		out.detail = "one independent source cannot be checked: give a second one with --time-server"
		if blocs[0].contradicted {
			out.detail = fmt.Sprintf("the only group, %s, contradicts itself", blocs[0].name)
		}
		return out
	}
	regions, best, hull := overlaps(blocs)
	if 2*best <= len(blocs) {
		out.detail = fmt.Sprintf("no majority: at most %d of %d independent groups agree", best, len(blocs))
		return out
	}
	out.majority = true
	out.span = hull
	out.agreeing, out.dissenting = best, len(blocs)-best
	for _, b := range blocs {
		in := membership(b.span, regions)
		if b.contradicted {
			in = inNone
		}
		if in == inAll {
			out.groups = append(out.groups, b.name)
		}
		for _, s := range b.sources {
			state := stateFalse
			switch {
			case in == inSome:
				// One of them lies, and it cannot be said which.
				state = stateAlone
			case membership(s.span, regions) != inNone:
				state = stateAgrees
			}
			out.states[s.name] = state
			switch {
			case in == inSome:
				out.falseSources = append(out.falseSources, s.name+" (or the one it excludes)")
			case state == stateFalse:
				out.falseSources = append(out.falseSources, s.name)
			default:
				out.agreeingSources = append(out.agreeingSources, s.name)
			}
		}
		if b.contradicted {
			out.falseSources = append(out.falseSources, b.name+" (contradicts itself)")
		}
	}
	sort.Strings(out.agreeingSources)
	sort.Strings(out.falseSources)
	return out
}

// gather makes one voice of each group: its narrowest interval, for that is its
// best source. A group whose sources exclude each other cannot be right, and
// which of them is wrong is not for the narrowest to decide.
func gather(readings []reading) []bloc {
	byName := map[string]*bloc{}
	var names []string
	for _, r := range readings {
		b := byName[r.group]
		if b == nil {
			b = &bloc{name: r.group, span: r.span}
			byName[r.group] = b
			names = append(names, r.group)
		}
		for _, other := range b.sources {
			if !other.span.meets(r.span) {
				b.contradicted = true
			}
		}
		if r.span.half() < b.span.half() {
			b.span = r.span
		}
		b.sources = append(b.sources, r)
	}
	sort.Strings(names)
	blocs := make([]bloc, 0, len(names))
	for _, name := range names {
		blocs = append(blocs, *byName[name])
	}
	return blocs
}

// overlaps returns the intervals, in ascending order, in which the most groups
// overlap, how many do, and the hull of all in which more than half of them do.
func overlaps(blocs []bloc) (regions []interval, best int, hull interval) {
	type edge struct {
		at    time.Duration
		opens bool
	}
	var edges []edge
	for _, b := range blocs {
		if !b.contradicted {
			edges = append(edges, edge{b.span.low, true}, edge{b.span.high, false})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return cmp.Compare(a.at, b.at)
		}
		// The ends belong to the intervals: two that touch overlap.
		switch {
		case a.opens == b.opens:
			return 0
		case a.opens:
			return -1
		default:
			return 1
		}
	})
	majority, depth, reached := len(blocs)/2+1, 0, false
	for i, e := range edges {
		if !e.opens {
			if depth == majority {
				hull.high = e.at
			}
			depth--
			continue
		}
		depth++
		if depth == majority && !reached {
			hull.low, reached = e.at, true
		}
		if depth < best {
			continue
		}
		if depth > best {
			best, regions = depth, nil
		}
		// The deepest overlap ends at the next edge, which must be a closing one or
		// the depth would grow; if it grows, this region is thrown away above.
		regions = append(regions, interval{e.at, edges[i+1].at})
	}
	return regions, best, hull
}

const (
	inAll = iota
	inSome
	inNone
)

func membership(i interval, regions []interval) int {
	met := 0
	for _, r := range regions {
		if i.meets(r) {
			met++
		}
	}
	switch met {
	case len(regions):
		return inAll
	case 0:
		return inNone
	default:
		return inSome
	}
}

// summary is what a person or a change detector wants to compare.
func (o outcome) summary() string {
	return fmt.Sprintf("%v %d/%d -%d false=%s %s", o.majority, o.agreeing, o.total, o.dissenting,
		strings.Join(o.falseSources, ","), o.detail)
}
