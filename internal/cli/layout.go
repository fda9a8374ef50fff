// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"strings"
	"time"
)

// A style is the SGR sequence of a span; the empty one is plain.
type style string

const (
	plain   style = ""
	strong  style = "1"
	faint   style = "2"
	bad     style = "1;31"
	warning style = "33"
	notice  style = "36"
	good    style = "32"
	// blind is as loud as bad: what cannot be seen may be just as sick.
	blind style = "1;35"
)

// A span is a piece of text in one style.
type span struct {
	text  string
	style style
}

func text(s string) span { return span{text: s} }

// proseWidth is the longest line of running text; longer ones are hard to read.
const proseWidth = 100

// A printer lays text out for one terminal. It remembers the first write error
// and is silent after it.
type printer struct {
	w    io.Writer
	term Terminal
	now  func() time.Time
	loc  *time.Location
	err  error
}

// write sends one finished line.
func (p *printer) write(line string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, strings.TrimRight(unglue(line), " ")+"\n")
	}
}

func (p *printer) blank() { p.write("") }

// line prints spans on one line, whatever their length.
func (p *printer) line(spans ...span) {
	var b strings.Builder
	for _, s := range spans {
		b.WriteString(p.paint(p.term.clean(s.text), s.style))
	}
	p.write(b.String())
}

func (p *printer) paint(s string, st style) string {
	if !p.term.Colour || st == plain || s == "" {
		return s
	}
	return "\x1b[" + string(st) + "m" + s + "\x1b[0m"
}

// heading starts a section.
func (p *printer) heading(s string) {
	p.blank()
	p.line(span{s, strong})
}

// para prints running text: first before the first line, hang columns before
// the others. A word that is longer than the line stays whole, for half a
// command or number is worse than a long line.
func (p *printer) para(first span, hang int, spans ...span) {
	limit := proseWidth
	if p.term.Width > 0 && p.term.Width < limit {
		limit = p.term.Width
	}
	head := p.term.clean(first.text)
	if strings.TrimSpace(head) != "" {
		hang = max(hang, width(head)+1)
	}
	lead := p.paint(head, first.style) + strings.Repeat(" ", max(0, hang-width(head)))
	for i, l := range p.wrap(spans, limit-hang) {
		if i > 0 {
			lead = strings.Repeat(" ", hang)
		}
		p.write(lead + l)
	}
}

// verbatim prints a line that must not be wrapped, such as a command.
func (p *printer) verbatim(indent int, s string) {
	p.write(strings.Repeat(" ", indent) + p.term.clean(s))
}

// wrap breaks spans into painted lines of at most limit columns (never less
// than 20, so that a narrow terminal still gets words). There is always at
// least one line.
func (p *printer) wrap(spans []span, limit int) []string {
	limit = max(limit, 20)
	var (
		lines []string
		line  []span
		used  int
	)
	flush := func() {
		lines = append(lines, p.join(line))
		line, used = nil, 0
	}
	glued := false // the next word continues the last one, in another style
	for _, s := range spans {
		clean := p.term.clean(s.text)
		words := strings.FieldsFunc(clean, func(r rune) bool { return r == ' ' })
		if len(words) == 0 {
			glued = glued && clean == ""
			continue
		}
		glued = glued && !strings.HasPrefix(clean, " ")
		for i, word := range words {
			w := width(word)
			switch {
			case used == 0:
			case i == 0 && glued:
				// A word in two styles may stand over the edge by its second
				// half, which is a full stop or a bracket.
			case used+1+w > limit:
				flush()
			default:
				space := plain
				if line[len(line)-1].style == s.style {
					space = s.style
				}
				line = append(line, span{" ", space})
				used++
			}
			line = append(line, span{word, s.style})
			used += w
		}
		glued = !strings.HasSuffix(clean, " ")
	}
	if used > 0 || len(lines) == 0 {
		flush()
	}
	return lines
}

// join paints runs of one style at once.
func (p *printer) join(line []span) string {
	var b strings.Builder
	for i := 0; i < len(line); {
		run := ""
		st := line[i].style
		for ; i < len(line) && line[i].style == st; i++ {
			run += line[i].text
		}
		b.WriteString(p.paint(run, st))
	}
	return b.String()
}
