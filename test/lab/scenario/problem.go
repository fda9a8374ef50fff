// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// A Problem is why a scenario file is refused. When a file has several, it is the
// one that stands first.
type Problem struct {
	File string
	// Line and Column start at 1 and count characters, not bytes; both are 0 when
	// the file could not be read.
	Line, Column int
	// What is wrong, Why it is refused, and the Mend.
	What, Why, Mend string
	// More is how many problems the file has besides this one.
	More int
}

// Error is one line: file:line:column: what: why; mend.
func (p *Problem) Error() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	line := fmt.Sprintf("%s: %s: %s; %s", at, p.What, p.Why, p.Mend)
	switch {
	case p.More == 1:
		line += " (and 1 more problem)"
	case p.More > 1:
		line += fmt.Sprintf(" (and %d more problems)", p.More)
	}
	return strings.Join(strings.Fields(line), " ")
}

// problems are all that one reading found, in any order.
type problems []*Problem

// first returns the problem that stands first and counts the others. Of several
// at one position the first found counts, for the others follow from it.
func (p problems) first() error {
	if len(p) == 0 {
		return nil
	}
	sort.SliceStable(p, func(i, j int) bool {
		if p[i].Line != p[j].Line {
			return p[i].Line < p[j].Line
		}
		return p[i].Column < p[j].Column
	})
	places := 1
	for i := 1; i < len(p); i++ {
		if p[i].Line != p[i-1].Line || p[i].Column != p[i-1].Column {
			places++
		}
	}
	out := *p[0]
	out.More = places - 1
	return &out
}

// maxQuoted is how many characters of a value a message shows.
const maxQuoted = 60

// quote shows a value as it was written, shortened.
func quote(value string) string { return fmt.Sprintf("%q", shorten(value)) }

func shorten(value string) string {
	if runes := []rune(value); len(runes) > maxQuoted {
		return string(runes[:maxQuoted]) + "…"
	}
	return value
}

// maxListed is how many known names a message lists.
const maxListed = 20

// list shows names for a reader, shortened.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if len(names) > maxListed {
		return strings.Join(names[:maxListed], ", ") + fmt.Sprintf(" and %d more", len(names)-maxListed)
	}
	return strings.Join(names, ", ")
}

// nearest returns the known name that was most likely meant, "" when none is
// near: at most a third of the letters differ.
func nearest(name string, known []string) string {
	best, distance := "", len([]rune(name))/3+1
	if distance > 4 {
		distance = 4
	}
	for _, k := range known {
		if d := editDistance(strings.ToLower(name), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// editDistance counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a. Names longer than any known one are far from all.
func editDistance(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > maxQuoted || len(y) > maxQuoted {
		return len(x) + len(y)
	}
	before, last, now := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		now[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(y)]
}

// meant is the mend of an unknown word: the nearest known one, or all of them.
func meant(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	known = slices.Clone(known)
	slices.Sort(known)
	return "known: " + list(slices.Compact(known))
}
