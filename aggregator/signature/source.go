// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFileBytes bounds one signature file; the built-in ones have 10 KiB.
	maxFileBytes = 1 << 20
	// maxNodes bounds what aliases can blow a file up to.
	maxNodes = 100_000
	// maxDepth bounds nesting, and with it an alias that contains itself.
	maxDepth = 32
)

// A source is one file while it is being read: it knows where everything stands
// and collects what is wrong.
type source struct {
	name     string
	lines    [][]rune
	problems Problems
	visited  int
}

// yamlBreaks are the line breaks that YAML 1.1 counts besides "\n".
var yamlBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

func newSource(name string, data []byte) *source {
	s := &source{name: name}
	for _, line := range strings.Split(yamlBreaks.Replace(string(data)), "\n") {
		s.lines = append(s.lines, []rune(line))
	}
	return s
}

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parse returns the root mapping of the only document, or nil with a problem
// recorded.
func (s *source) parse(data []byte) *yaml.Node {
	if len(data) > maxFileBytes {
		s.failAt(1, 1, "file is too large", fmt.Sprintf("%d bytes, the limit is %d", len(data), maxFileBytes), "one signature per file; move long test cases out")
		return nil
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(data)))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		s.malformed(err)
		return nil
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		s.fail(&second, "more than one document", "a file holds one signature", "move the second document to a file of its own")
		return nil
	case !errors.Is(err, io.EOF):
		s.malformed(err)
		return nil
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		s.failAt(1, 1, "empty file", "a signature is a YAML mapping", "start from docs/signatures.md")
		return nil
	}
	if !s.bounded(&document, 0) {
		s.failAt(1, 1, "file expands too far", fmt.Sprintf("more than %d values or %d levels after aliases are followed", maxNodes, maxDepth), "use fewer aliases")
		return nil
	}
	return document.Content[0]
}

func (s *source) malformed(err error) {
	line, why := 1, err.Error()
	if m := yamlErrorLine.FindStringSubmatch(oneLine(why)); m != nil {
		why = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	s.failAt(line, 1, "malformed YAML", why, "mend the YAML syntax; check indentation and quotes")
}

func (s *source) bounded(n *yaml.Node, depth int) bool {
	if s.visited++; s.visited > maxNodes || depth > maxDepth {
		return false
	}
	if n.Kind == yaml.AliasNode {
		return s.bounded(n.Alias, depth+1)
	}
	for _, c := range n.Content {
		if !s.bounded(c, depth+1) {
			return false
		}
	}
	return true
}

func (s *source) fail(n *yaml.Node, what, why, mend string) {
	s.failAt(n.Line, n.Column, what, why, mend)
}

func (s *source) failAt(line, column int, what, why, mend string) {
	s.problems = append(s.problems, Problem{File: s.name, Line: min(max(line, 1), len(s.lines)), Column: max(column, 1), What: what, Why: why, Mend: mend})
}

// position says where in the file the rune at an offset of a scalar's value
// stands. Folding and indentation change white space only, so value and source
// are aligned by what is not white space.
func (s *source) position(n *yaml.Node, offset int) (line, column int) {
	row, col := s.scalarStart(n)
	value := []rune(n.Value)
	for i := 0; i <= len(value) && i <= offset; i++ {
		if i == len(value) || !unicode.IsSpace(value[i]) {
			row, col = s.skipSpace(row, col)
		}
		if i == offset || i == len(value) {
			break
		}
		if !unicode.IsSpace(value[i]) {
			col += s.width(n, row, col)
		}
	}
	if row >= len(s.lines) {
		return n.Line, n.Column
	}
	return row + 1, col + 1
}

// scalarStart returns row and column, from 0, of the first character of a
// scalar's content: behind anchor, tag, quote or block header.
func (s *source) scalarStart(n *yaml.Node) (row, col int) {
	row, col = n.Line-1, n.Column-1
	for row < len(s.lines) && col < len(s.lines[row]) && (s.lines[row][col] == '&' || s.lines[row][col] == '!') {
		for col < len(s.lines[row]) && !unicode.IsSpace(s.lines[row][col]) {
			col++
		}
		row, col = s.skipSpace(row, col)
	}
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return row + 1, 0
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		return row, col + 1
	}
	return row, col
}

func (s *source) skipSpace(row, col int) (int, int) {
	for row < len(s.lines) {
		for col < len(s.lines[row]) {
			if !unicode.IsSpace(s.lines[row][col]) {
				return row, col
			}
			col++
		}
		row, col = row+1, 0
	}
	return row, col
}

// width is how many characters of the source one character of a quoted scalar
// takes.
func (s *source) width(n *yaml.Node, row, col int) int {
	if row >= len(s.lines) || col+1 >= len(s.lines[row]) {
		return 1
	}
	c, next := s.lines[row][col], s.lines[row][col+1]
	switch {
	case n.Style&yaml.SingleQuotedStyle != 0 && c == '\'' && next == '\'':
		return 2
	case n.Style&yaml.DoubleQuotedStyle != 0 && c == '\\':
		switch next {
		case 'x':
			return 4
		case 'u':
			return 6
		case 'U':
			return 10
		}
		return 2
	}
	return 1
}

// runeOffset turns a line (from 1) and a column (from 0) of a text into an
// offset in runes.
func runeOffset(text string, line, column int) int {
	offset := 0
	for _, l := range strings.SplitAfter(text, "\n") {
		if line--; line == 0 {
			break
		}
		offset += len([]rune(l))
	}
	return offset + column
}
