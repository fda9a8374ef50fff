// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"fmt"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// sameSet says whether two lists hold the same names, whatever their order and
// however often they say one.
func sameSet(a, b []string) bool { return subset(a, b) && subset(b, a) }

func subset(of, list []string) bool {
	for _, name := range of {
		if !slices.Contains(list, name) {
			return false
		}
	}
	return true
}

// contains says whether a verdict's scope has every key that the expectation
// names.
func (s Scope) contains(want scenario.Scope) bool { return s.lacks(want) == "" }

// lacks names the first key in which a scope is not the one wanted; empty when
// it is.
func (s Scope) lacks(want scenario.Scope) string {
	text := func(key, want, have string) string {
		if want == "" || want == have {
			return ""
		}
		return fmt.Sprintf("%s is %s, not %s", key, orNone(have), want)
	}
	set := func(key string, want, have []string) string {
		if len(want) == 0 || sameSet(want, have) {
			return ""
		}
		return fmt.Sprintf("%s are %s, not %s", key, orNone(strings.Join(have, ", ")), strings.Join(want, ", "))
	}
	for _, why := range []string{
		text("kind", want.Kind, s.Kind), set("nodes", want.Nodes, s.Nodes), set("zones", want.Zones, s.Zones),
		text("pool", want.Pool, s.Pool), text("device", want.Device, s.Device), text("pod", want.Pod, s.Pod),
	} {
		if why != "" {
			return why
		}
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// breadth orders the kinds of scope by how much they take in; -1 is a kind that
// this build does not know. Zone pairs, zones and pools are not within each
// other by their kind; their nodes decide.
func breadth(kind string) int {
	for i, kinds := range [][]string{{"Device", "Object"}, {"Pod"}, {"Node"}, {"NodePair"}, {"Zone", "ZonePair", "Pool"}, {"Cluster"}} {
		if slices.Contains(kinds, kind) {
			return i
		}
	}
	return -1
}

// within says whether a scope is the same as another or a narrower one. It
// follows scope.covers of aggregator/verdict for one node and goes by the sets of
// nodes, or of zones where no node is named, for the wider kinds.
func (s Scope) within(other Scope) bool {
	have, limit := breadth(s.Kind), breadth(other.Kind)
	if have < 0 || limit < 0 {
		if s.Kind != other.Kind {
			return false
		}
	} else if have > limit {
		return false
	}
	switch other.Kind {
	case "Cluster":
		return true
	case "Device", "Object":
		if s.Device != other.Device || s.Pod != other.Pod {
			return false
		}
	case "Pod":
		if s.Pod == "" || s.Pod != other.Pod {
			return false
		}
	case "Pool":
		if s.Kind == "Pool" && s.Pool != other.Pool {
			return false
		}
	}
	if len(other.Nodes) > 0 && len(s.Nodes) > 0 {
		return subset(s.Nodes, other.Nodes)
	}
	return len(s.Zones) > 0 && subset(s.Zones, other.Zones)
}
