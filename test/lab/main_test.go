// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"testing"

	"github.com/plumb-dev/plumb/internal/machine"
)

func TestMain(m *testing.M) {
	machine.Main(Roles())
	os.Exit(m.Run())
}
