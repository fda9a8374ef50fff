// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"path"
	"slices"
	"strings"
)

// A tree holds the values that a server can be asked for, by path.
type tree map[string]string

// value returns what a path holds.
func (t tree) value(at string) (string, bool) {
	value, ok := t[at]
	return value, ok
}

// list returns the names right below a path, sorted, directories with a slash
// behind. It is empty for what is no directory.
func (t tree) list(at string) []string {
	prefix := strings.TrimSuffix(at, "/") + "/"
	var names []string
	for p := range t {
		below, ok := strings.CutPrefix(p, prefix)
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(below, "/")
		if deeper {
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// clean resolves dots and double slashes, so that there is one way to write a path.
func clean(p string) string { return path.Clean("/" + p) }
