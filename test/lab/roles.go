// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/test/lab/disk"
	"github.com/plumb-dev/plumb/test/lab/traffic"
)

// Roles are the hidden programs that a lab starts its own binary for. A program
// that runs scenarios gives them to machine.Main before anything else.
func Roles() map[string]machine.Role {
	return map[string]machine.Role{
		senderRole:    traffic.Sender,
		receiverRole:  traffic.Receiver,
		diskRole:      disk.Role,
		neighbourRole: disk.NeighbourRole,
	}
}
