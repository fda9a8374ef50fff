// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"sort"

	"github.com/plumb-dev/plumb/evidence"
)

func sortSubjects(m map[string][]evidence.Subject) {
	for _, list := range m {
		sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	}
}
