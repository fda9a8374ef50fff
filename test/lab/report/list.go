// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// A Listed is one scenario of `plumb-lab list`.
type Listed struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Pending     bool   `json:"pending"`
	// Faults are their kinds, each once, in the order of the file.
	Faults []string `json:"faults"`
	// Expect are the signatures that are expected, Refuted the rivals.
	Expect  []string `json:"expect"`
	Refuted []string `json:"refuted"`
}

// Listing makes the list of scenarios, in their order.
func Listing(scenarios []*scenario.Scenario) []Listed {
	out := []Listed{}
	for _, s := range scenarios {
		l := Listed{Name: s.Name, Description: strings.TrimSpace(s.Description), Pending: s.Pending, Faults: []string{}, Expect: []string{}, Refuted: []string{}}
		for _, f := range s.Faults {
			l.Faults = once(l.Faults, string(f.Kind))
		}
		for _, e := range s.Expect {
			l.Expect, l.Refuted = once(l.Expect, e.Signature), once(l.Refuted, e.Refuted)
		}
		out = append(out, l)
	}
	return out
}

func once(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// WriteList prints the scenarios for people: a table, or where that is wider than
// the terminal a paragraph for each.
func WriteList(w io.Writer, t Terminal, scenarios []*scenario.Scenario) error {
	p := &printer{w: w, term: t}
	all := Listing(scenarios)
	columns := []column{{head: "SCENARIO"}, {head: "PENDING"}, {head: "FAULTS"}, {head: "EXPECTS"}, {head: "DESCRIPTION"}}
	rows := make([][]cell, 0, len(all))
	for _, l := range all {
		pending := cell{}
		if l.Pending {
			pending = cell{"pending", warning}
		}
		rows = append(rows, []cell{
			{l.Name, strong}, pending, {text: orElse(strings.Join(l.Faults, ", "), "none")},
			{text: l.expects()}, {text: strings.Join(strings.Fields(l.Description), " ")},
		})
	}
	if p.fits(columns, rows) {
		p.table(columns, rows)
		return p.err
	}
	for i, l := range all {
		if i > 0 {
			p.line("")
		}
		p.para(span{}, 0, span{l.Name, strong}, span{rows[i][1].text, warning})
		p.fact("", l.Description)
		p.fact("faults", rows[i][2].text)
		p.fact("expects", rows[i][3].text)
	}
	return p.err
}

// expects says what must come, and what must be ruled out.
func (l Listed) expects() string {
	parts := slices.Clone(l.Expect)
	for _, id := range l.Refuted {
		parts = append(parts, "not "+id)
	}
	return orElse(strings.Join(parts, ", "), "no verdict")
}

// fact prints one labelled line of a listed scenario.
func (p *printer) fact(label, text string) {
	hang := 4
	if label != "" {
		hang = 13
		label = "    " + label
	}
	p.para(span{label, faint}, hang, span{text, plain})
}

// WriteListJSON prints the scenarios as one JSON array.
func WriteListJSON(w io.Writer, scenarios []*scenario.Scenario) error {
	return writeJSON(w, Listing(scenarios), "list of scenarios")
}
