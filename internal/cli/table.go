// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"unicode"
)

// A column of a table. Only columns that wrap give way when the table is wider
// than the terminal; the others hold names and numbers, which stay whole.
type column struct {
	head string
	wrap bool
}

// A cell is text in one style.
type cell = span

// maxChunk is the longest piece of a word that keeps a column from being made
// narrower. When the least widths do not fit, the table becomes records: one
// "head: value" line per cell.
const maxChunk = 24

// table prints rows under their heads, two columns of space between.
func (p *printer) table(indent int, columns []column, rows [][]cell) {
	widths, least := make([]int, len(columns)), make([]int, len(columns))
	for i, c := range columns {
		widths[i], least[i] = width(c.head), width(c.head)
		for _, row := range rows {
			clean := p.term.clean(row[i].text)
			widths[i] = max(widths[i], width(clean))
			for _, chunk := range chunks(clean) {
				least[i] = max(least[i], min(width(strings.TrimRight(chunk, " ")), maxChunk))
			}
		}
		if !c.wrap {
			least[i] = widths[i]
		}
	}
	if !p.fit(indent, widths, least) {
		p.records(indent, columns, rows)
		return
	}
	heads := make([]cell, len(columns))
	for i, c := range columns {
		heads[i] = cell{c.head, faint}
	}
	p.row(indent, widths, heads)
	for _, row := range rows {
		p.row(indent, widths, row)
	}
}

// fit takes columns of the terminal off those that can give, the widest first,
// until the table fits.
func (p *printer) fit(indent int, widths, least []int) bool {
	if p.term.Width == 0 {
		return true
	}
	total := indent + 2*(len(widths)-1)
	for _, w := range widths {
		total += w
	}
	for ; total > p.term.Width; total-- {
		widest := -1
		for i := range widths {
			if widths[i] > least[i] && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
	}
	return true
}

// chunks splits where a cell may be broken: after spaces, and after the signs
// that join the parts of names and paths, but never inside a number.
func chunks(s string) []string {
	var out []string
	runes := []rune(s)
	start := 0
	for i, r := range runes[:max(0, len(runes)-1)] {
		joint := strings.ContainsRune(" /,", r)
		if strings.ContainsRune("-._", r) {
			joint = i > 0 && unicode.IsLetter(runes[i-1]) && unicode.IsLetter(runes[i+1])
		}
		if joint {
			out = append(out, string(runes[start:i+1]))
			start = i + 1
		}
	}
	return append(out, string(runes[start:]))
}

// row prints one row, over several lines when a cell wraps.
func (p *printer) row(indent int, widths []int, row []cell) {
	lines := make([][]string, len(row))
	height := 1
	for i, c := range row {
		lines[i] = p.cellLines(c, widths[i])
		height = max(height, len(lines[i]))
	}
	for n := range height {
		var b strings.Builder
		b.WriteString(strings.Repeat(" ", indent))
		for i := range row {
			s := ""
			if n < len(lines[i]) {
				s = lines[i][n]
			}
			b.WriteString(p.paint(s, row[i].style))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-width(s)+2))
			}
		}
		p.write(b.String())
	}
}

// cellLines breaks between chunks, and inside one only when it is longer than
// the column: what is long continues on the next line, nothing is cut off.
func (p *printer) cellLines(c cell, limit int) []string {
	var lines []string
	line := ""
	for _, chunk := range chunks(p.term.clean(c.text)) {
		if line != "" && width(line)+width(strings.TrimRight(chunk, " ")) > limit {
			lines = append(lines, strings.TrimRight(line, " "))
			line = ""
		}
		if line == "" {
			chunk = strings.TrimLeft(chunk, " ")
		}
		line += chunk
		for r := []rune(strings.TrimRight(line, " ")); len(r) > limit; r = []rune(line) {
			lines = append(lines, string(r[:limit]))
			line = string(r[limit:])
		}
	}
	return append(lines, strings.TrimRight(line, " "))
}

// records is the table for a terminal that is too narrow for it.
func (p *printer) records(indent int, columns []column, rows [][]cell) {
	head := 0
	for _, c := range columns {
		head = max(head, width(c.head))
	}
	for n, row := range rows {
		if n > 0 {
			p.blank()
		}
		for i, c := range row {
			if c.text != "" {
				label := strings.Repeat(" ", indent) + columns[i].head
				p.para(span{label, faint}, indent+head+2, c)
			}
		}
	}
}
