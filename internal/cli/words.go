// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

// gradeRank orders grades; what is unknown to this build ranks lowest.
func gradeRank(grade string) int {
	return slices.Index([]string{"refuted", "suspected", "likely", "proven"}, grade)
}

// live says whether a verdict is about the present. A stale one is: nothing has
// been seen that would clear it.
func live(v *apiv1.Verdict) bool {
	return (v.GetState() == "firing" || v.GetState() == "stale" || v.GetState() == "pending") && v.GetGrade() != "refuted"
}

// anyProven decides the exit status 1.
func anyProven(verdicts []*apiv1.Verdict) bool {
	return slices.ContainsFunc(verdicts, func(v *apiv1.Verdict) bool {
		return v.GetGrade() == "proven" && v.GetState() == "firing"
	})
}

// statusOf is errProven when a verdict asks for it.
func statusOf(verdicts []*apiv1.Verdict) error {
	if anyProven(verdicts) {
		return errProven
	}
	return nil
}

// worstFirst orders live verdicts before past ones, then by grade, state,
// severity, and the newest onset.
func worstFirst(verdicts []*apiv1.Verdict) {
	state := func(v *apiv1.Verdict) int {
		return slices.Index([]string{"pending", "stale", "firing"}, v.GetState())
	}
	severity := func(v *apiv1.Verdict) int {
		return slices.Index([]string{"info", "warning", "critical"}, v.GetSeverity())
	}
	past := func(v *apiv1.Verdict) int {
		if live(v) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(verdicts, func(a, b *apiv1.Verdict) int {
		return cmp.Or(
			past(a)-past(b),
			gradeRank(b.GetGrade())-gradeRank(a.GetGrade()),
			state(b)-state(a),
			severity(b)-severity(a),
			b.GetOnset().AsTime().Compare(a.GetOnset().AsTime()),
			strings.Compare(a.GetId(), b.GetId()),
		)
	})
}

func gradeStyle(grade, state string) style {
	if state == "resolved" || state == "refuted" || grade == "refuted" {
		return good
	}
	switch grade {
	case "proven":
		return bad
	case "likely":
		return warning
	case "suspected":
		return notice
	default:
		return plain
	}
}

func nodeStyle(state string) style {
	if state == "reporting" {
		return good
	}
	return blind
}

// probeStyle: a blind probe is as visible as a sick one.
func probeStyle(state string) style {
	switch state {
	case "ok":
		return good
	case "no data":
		return faint
	default:
		return blind
	}
}

// where says a scope in words.
func where(s *apiv1.Scope) string {
	nodes, zones := list(s.GetNodes()), list(s.GetZones())
	inZone := ""
	if len(s.GetZones()) > 0 {
		inZone = " (" + plural(len(s.GetZones()), "zone", "zones") + " " + zones + ")"
	}
	switch s.GetKind() {
	case "Node":
		return "node " + nodes + inZone
	case "Device":
		return s.GetDevice() + " on " + nodes + inZone
	case "Pod":
		pod := "pod " + s.GetPod()
		if s.GetDevice() != "" {
			pod = s.GetDevice() + " of " + pod
		}
		return pod + " on " + nodes + inZone
	case "NodePair":
		return "between nodes " + nodes + inZone
	case "ZonePair":
		return "between zones " + zones + " (nodes " + nodes + ")"
	case "Zone":
		return "zone " + zones + " (nodes " + nodes + ")"
	case "Pool":
		return "pool " + s.GetPool() + " (nodes " + nodes + ")"
	case "Cluster":
		return "the whole cluster (nodes " + nodes + ")"
	default:
		return strings.TrimSpace(s.GetKind() + " on " + nodes + inZone)
	}
}

// list joins names with commas and "and".
func list(names []string) string {
	switch len(names) {
	case 0:
		return "unknown"
	case 1:
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func count(n int, one, many string) string { return strconv.Itoa(n) + " " + plural(n, one, many) }

// odds says a weight in bans (log10 of a likelihood ratio) as a ratio.
func odds(bans float64) string {
	if bans <= 0 {
		return number(bans) + " bans"
	}
	ratio := math.Pow(10, bans)
	digits := math.Pow(10, math.Floor(bans)-1)
	if ratio >= 10 {
		ratio = math.Round(ratio/digits) * digits
	}
	s := strconv.FormatFloat(math.Round(ratio*10)/10, 'f', -1, 64)
	return fmt.Sprintf("%s %s, that is %s to 1 for this cause", number(bans), plural(int(math.Ceil(bans)), "ban", "bans"), s)
}

// number prints a float with up to six significant digits and no exponent that
// a person would have to work out.
func number(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	s := strconv.FormatFloat(f, 'g', 6, 64)
	if strings.Contains(s, "e") {
		if g, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(g) > 1e-9 && math.Abs(g) < 1e15 {
			s = strconv.FormatFloat(g, 'f', -1, 64)
		}
	}
	return s
}

// shortID is the part of an id that a person types. Eight of sixteen hex digits
// clash among a thousand verdicts with probability 1e-4, and then the API asks
// for more.
func shortID(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}

// sentence makes sure that s ends as one.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?:") {
		return s
	}
	return s + "."
}
