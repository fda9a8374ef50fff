// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"
	"strings"
	"unicode"
)

// A Terminal is what the rendering may assume about where its output goes. It has
// the fields of cli.Terminal, so that what cli.Detect found converts to it.
type Terminal struct {
	// Width in columns; 0 means that lines may be of any length (a pipe).
	Width int
	// Interactive is true on a terminal: a line may be wiped and written again.
	Interactive bool
	// Colour allows SGR escapes.
	Colour bool
	// Unicode is false where the locale is not UTF-8.
	Unicode bool
}

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
)

// A span is text in one style.
type span struct {
	text  string
	style style
}

const (
	// proseWidth is the longest line of running text.
	proseWidth = 110
	// leastWidth is what running text always gets: a narrow terminal gets long
	// lines rather than single letters.
	leastWidth = 24
)

// A printer lays lines out for one terminal. It remembers the first write error
// and is silent after it.
type printer struct {
	w    io.Writer
	term Terminal
	err  error
}

func (p *printer) write(s string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, s)
	}
}

func (p *printer) line(s string) { p.write(strings.TrimRight(s, " ") + "\n") }

func (p *printer) paint(s string, st style) string {
	if !p.term.Colour || st == plain || s == "" {
		return s
	}
	return "\x1b[" + string(st) + "m" + s + "\x1b[0m"
}

// para prints running text behind a head of the given width, wrapped at words. A
// word that is longer than the line stays whole, for half a command or number is
// worse than a long line.
func (p *printer) para(head span, hang int, spans ...span) {
	limit := proseWidth
	if p.term.Width > 0 {
		limit = min(limit, p.term.Width)
	}
	limit = max(limit-hang, leastWidth)
	text := p.clean(head.text)
	lead := p.paint(text, head.style) + strings.Repeat(" ", max(0, hang-width(text)))
	var line []span
	used := 0
	for _, s := range spans {
		for _, word := range strings.Fields(p.clean(s.text)) {
			if used > 0 && used+1+width(word) > limit {
				p.line(lead + p.join(line))
				lead, line, used = strings.Repeat(" ", hang), nil, 0
			}
			if used > 0 {
				used++
			}
			line, used = append(line, span{word, s.style}), used+width(word)
		}
	}
	p.line(lead + p.join(line))
}

// join puts spaces between words and paints runs of one style at once.
func (p *printer) join(words []span) string {
	var b strings.Builder
	for i := 0; i < len(words); {
		if i > 0 {
			b.WriteByte(' ')
		}
		st, run := words[i].style, words[i].text
		for i++; i < len(words) && words[i].style == st; i++ {
			run += " " + words[i].text
		}
		b.WriteString(p.paint(run, st))
	}
	return b.String()
}

// ascii is what each sign becomes where the locale is not UTF-8.
func ascii(r rune) string {
	switch r {
	case '…':
		return "..."
	case '–', '—', '−':
		return "-"
	case '→':
		return "->"
	case '±':
		return "+/-"
	case '≥':
		return ">="
	case '≤':
		return "<="
	case '×':
		return "x"
	case 'µ', 'μ':
		return "u"
	case '✓':
		return "+"
	case '✗':
		return "x"
	case '·':
		return "|"
	default:
		return "?"
	}
}

// clean makes foreign text safe and fit to print: names and sentences come from
// agents, so control characters, which could drive the terminal, are replaced.
func (p *printer) clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar:
			b.WriteByte('?')
		case r < 0x80 || p.term.Unicode:
			b.WriteRune(r)
		default:
			b.WriteString(ascii(r))
		}
	}
	return b.String()
}

// width is the number of columns that s takes: combining marks take none.
func width(s string) int {
	n := 0
	for _, r := range s {
		if !unicode.Is(unicode.Mn, r) {
			n++
		}
	}
	return n
}
