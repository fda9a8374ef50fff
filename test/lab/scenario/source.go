// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFileBytes bounds one scenario file; the built-in ones have 3 KiB.
	maxFileBytes = 1 << 20
	// maxValues bounds what aliases can blow a file up to.
	maxValues = 100_000
	// maxDepth bounds nesting, and with it an alias that contains itself. The
	// format itself is six levels deep.
	maxDepth = 32
)

// A source is one file while it is being read; it collects what is wrong.
type source struct {
	name     string
	lines    int
	problems problems
	visited  int
}

// yamlErrorLine takes a message of the YAML library apart.
var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parse returns the root of the only document, or nil with a problem recorded.
func (s *source) parse(data []byte) *yaml.Node {
	s.lines = bytes.Count(data, []byte("\n")) + 1
	if len(data) > maxFileBytes {
		s.failAt(1, 1, "the file is too large", fmt.Sprintf("the limit is %d bytes", maxFileBytes), "one scenario per file")
		return nil
	}
	if !s.readable(data) {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		s.malformed(data, err)
		return nil
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		s.fail(&second, "a second document", "a file holds one scenario", "move it to a file of its own")
		return nil
	case !errors.Is(err, io.EOF):
		s.malformed(data, err)
		return nil
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		s.failAt(1, 1, "the file is empty", "a scenario is a YAML mapping", "start with apiVersion: "+apiVersion)
		return nil
	}
	if !s.bounded(&document, 0) {
		s.failAt(1, 1, "the file expands too far", fmt.Sprintf("it has more than %d values or %d levels after aliases are followed", maxValues, maxDepth), "use fewer aliases")
		return nil
	}
	return document.Content[0]
}

// readable finds bytes that no YAML file may hold; the library would not say
// where they stand.
func (s *source) readable(data []byte) bool {
	line, column := 1, 1
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			s.failAt(line, column, "a byte that is no UTF-8", fmt.Sprintf("it is 0x%02x", rest[0]), "save the file as UTF-8")
			return false
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f:
			s.failAt(line, column, "a control character", fmt.Sprintf("it is U+%04X, which YAML forbids", r), "remove it")
			return false
		case r == '\n':
			line, column = line+1, 0
		}
		column++
		rest = rest[size:]
	}
	return true
}

// malformed reports what the YAML library says. Its line is that of the surrounding
// block, counted from 0, when a token is unexpected, and none when an anchor is
// unknown; then the line is searched for.
func (s *source) malformed(data []byte, err error) {
	line, why := 0, strings.Join(strings.Fields(err.Error()), " ")
	if m := yamlErrorLine.FindStringSubmatch(why); m != nil {
		why = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	if line == 0 || strings.HasPrefix(why, "did not find expected") {
		line = firstLineWith(data, err)
	}
	s.failAt(line, 1, "malformed YAML", why, "check indentation, brackets and quotes")
}

// firstLineWith returns the line from which on the file has this error. The
// library reads from the front, so every longer part of the file has it as well.
func firstLineWith(data []byte, err error) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	return 1 + sort.Search(len(lines)-1, func(n int) bool {
		decoder := yaml.NewDecoder(bytes.NewReader(bytes.Join(lines[:n+1], nil)))
		for {
			var document yaml.Node
			if got := decoder.Decode(&document); got != nil {
				return got.Error() == err.Error()
			}
		}
	})
}

// bounded follows aliases and says whether the whole stays within the limits.
func (s *source) bounded(n *yaml.Node, depth int) bool {
	if s.visited++; s.visited > maxValues || depth > maxDepth {
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
	s.problems = append(s.problems, &Problem{File: s.name, Line: min(max(line, 1), s.lines), Column: max(column, 1), What: what, Why: why, Mend: mend})
}

// clean runs fn and says whether it found no problem.
func (s *source) clean(fn func()) bool {
	before := len(s.problems)
	fn()
	return len(s.problems) == before
}
