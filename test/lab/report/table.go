// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
)

// A column of a table.
type column struct {
	head  string
	right bool
}

// A cell is text in one style.
type cell = span

// table prints rows under their heads, two columns of space between. Where it is
// wider than the terminal it becomes records: one "head: value" line for each
// cell, so that nothing is cut off.
func (p *printer) table(columns []column, rows [][]cell) {
	if !p.fits(columns, rows) {
		p.records(columns, rows)
		return
	}
	widths := p.widths(columns, rows)
	heads := make([]cell, len(columns))
	for i, c := range columns {
		heads[i] = cell{c.head, faint}
	}
	for _, r := range append([][]cell{heads}, rows...) {
		var b strings.Builder
		for i, c := range r {
			text := p.clean(c.text)
			space := strings.Repeat(" ", widths[i]-width(text))
			if columns[i].right {
				b.WriteString(space + p.paint(text, c.style))
			} else {
				b.WriteString(p.paint(text, c.style) + space)
			}
			if i < len(r)-1 {
				b.WriteString("  ")
			}
		}
		p.line(b.String())
	}
}

func (p *printer) widths(columns []column, rows [][]cell) []int {
	out := make([]int, len(columns))
	for i, c := range columns {
		out[i] = width(c.head)
		for _, r := range rows {
			out[i] = max(out[i], width(p.clean(r[i].text)))
		}
	}
	return out
}

// fits says whether a table is no wider than the terminal.
func (p *printer) fits(columns []column, rows [][]cell) bool {
	total := -2
	for _, w := range p.widths(columns, rows) {
		total += w + 2
	}
	return p.term.Width == 0 || total <= p.term.Width
}

func (p *printer) records(columns []column, rows [][]cell) {
	head := 0
	for _, c := range columns {
		head = max(head, width(c.head))
	}
	for n, r := range rows {
		if n > 0 {
			p.line("")
		}
		for i, c := range r {
			p.para(span{columns[i].head, faint}, head+2, c)
		}
	}
}

// WriteTable prints the table of a suite, in the order of the results, what is
// wrong with those that are not well, and the totals.
func WriteTable(w io.Writer, t Terminal, results []Result) error {
	p := &printer{w: w, term: t}
	columns := []column{
		{head: "SCENARIO"}, {head: "RESULT"}, {head: "HELD", right: true}, {head: "TO VERDICT", right: true}, {head: "FALSE", right: true},
		{head: "AGENT CPU", right: true}, {head: "AGENT RSS", right: true}, {head: "AGGR CPU", right: true}, {head: "AGGR RSS", right: true},
	}
	rows := make([][]cell, 0, len(results))
	for _, r := range results {
		rows = append(rows, row(r))
	}
	p.table(columns, rows)
	first := true
	for _, r := range results {
		reasons := why(r)
		if len(reasons) == 0 {
			continue
		}
		if first {
			p.line("")
			first = false
		}
		st := stateOf(r).style()
		p.para(span{r.Scenario + ":", st}, 2+width(r.Scenario), span{" " + string(stateOf(r)), st})
		for _, s := range reasons {
			p.para(span{"", plain}, 4, span{sentence(s), plain})
		}
	}
	p.line("")
	p.para(span{}, 0, totals(results)...)
	return p.err
}

// totals is the summary line.
func totals(results []Result) []span {
	counts := map[State]int{}
	alarms := 0
	for _, r := range results {
		counts[stateOf(r)]++
		alarms += len(r.Unexpected)
	}
	out := []span{{plural(len(results), "scenario", "scenarios") + ":", strong}}
	var parts []string
	for _, one := range []struct {
		state State
		words string
	}{
		{Held, "held"}, {Failed, "failed"}, {Pending, "pending"}, {Unmark, "marked pending though they hold"},
		{Unusable, "unusable"}, {Cancelled, "cancelled"},
	} {
		if n := counts[one.state]; n > 0 || one.state == Held || one.state == Failed {
			parts = append(parts, fmt.Sprintf("%d %s", n, one.words))
		}
	}
	parts = append(parts, plural(alarms, "false alarm", "false alarms"))
	st := good
	if SuiteStatus(results) != 0 {
		st = bad
	}
	return append(out, span{strings.Join(parts, ", "), st})
}

// WriteResults writes the results of a suite as one JSON array, in their order.
func WriteResults(w io.Writer, results []Result) error {
	return writeJSON(w, list(results), "results")
}

// WriteEnded tells that one scenario of a suite has ended: its row in one line,
// and why it is not well.
func WriteEnded(w io.Writer, t Terminal, r Result, done, of int) error {
	p := &printer{w: w, term: t}
	state := stateOf(r)
	head := fmt.Sprintf("%*d/%d  %-9s", len(fmt.Sprint(of)), done, of, state)
	spans := []span{{r.Scenario, strong}}
	if s, ok := toVerdict(r); ok {
		spans = append(spans, span{"after " + seconds(s), plain})
	}
	p.para(span{head, state.style()}, width(head)+1, spans...)
	for _, s := range why(r) {
		p.para(span{}, width(head)+3, span{sentence(s), faint})
	}
	return p.err
}
