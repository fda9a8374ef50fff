// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

func TestMain(m *testing.M) {
	machine.Main(m, map[string]machine.Role{
		"pods":  podsRole,
		"storm": stormRole,
		"sntp":  sntpRole,
	})
}

// lasting is how long something is measured; with -short only a moment.
func lasting(d time.Duration) time.Duration {
	if testing.Short() {
		return 4 * time.Second
	}
	return d
}
