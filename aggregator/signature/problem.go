// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"sort"
	"strings"
)

// A Problem is one fault of a signature file. Line and Column start at 1 and
// count characters, not bytes; both are 0 when the file could not be read.
type Problem struct {
	File         string
	Line, Column int
	// What is wrong, Why it is refused, and the Mend.
	What, Why, Mend string
}

// Error is one line: file:line:column: what: why: mend.
func (p Problem) Error() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	return fmt.Sprintf("%s: %s: %s: %s", at, oneLine(p.What), oneLine(p.Why), oneLine(p.Mend))
}

// Problems are all faults that one loading found, in the order of the files and
// their lines.
type Problems []Problem

// Error gives one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

func (p Problems) sorted() Problems {
	sort.SliceStable(p, func(i, j int) bool {
		if p[i].File != p[j].File {
			return p[i].File < p[j].File
		}
		if p[i].Line != p[j].Line {
			return p[i].Line < p[j].Line
		}
		return p[i].Column < p[j].Column
	})
	return p
}

// asError returns nil when there is no problem, which a plain conversion to
// error would not.
func (p Problems) asError() error {
	if len(p) == 0 {
		return nil
	}
	return p.sorted()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
