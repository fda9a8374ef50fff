// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"regexp"
	"slices"
	"strings"
)

// unknownPart is how the aggregator says that one item is missing.
var unknownPart = regexp.MustCompile(`(?:^|[;:] )([a-z_]+\.[a-z_]+) is unknown \(`)

// compact says once what a sentence says of several items: "a is unknown (x): y;
// b is unknown (x): y" becomes "a and b are unknown (x): y". Any other sentence
// stays as it is.
func compact(s string) string {
	found := unknownPart.FindStringSubmatchIndex(s)
	if found == nil {
		return s
	}
	return s[:found[2]] + strings.Join(byCause(s[found[2]:]), "; ")
}

// byCause splits such a sentence into one part per cause, in the order of their
// first appearance, each with all items that lack for it.
func byCause(s string) []string {
	found := unknownPart.FindAllStringSubmatchIndex(s, -1)
	var (
		causes []string
		items  = make(map[string][]string)
	)
	for i, m := range found {
		end := len(s)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		item := s[m[2]:m[3]]
		cause := strings.TrimRight(s[m[3]+len(" is unknown "):end], ".")
		if _, seen := items[cause]; !seen {
			causes = append(causes, cause)
		}
		if !slices.Contains(items[cause], item) {
			items[cause] = append(items[cause], item)
		}
	}
	for i, cause := range causes {
		causes[i] = list(items[cause]) + plural(len(items[cause]), " is unknown ", " are unknown ") + cause
	}
	return causes
}
