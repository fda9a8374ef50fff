// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package probe defines what the agent runs on a node: a Probe measures one kind
// of physical evidence. The packages below it hold one probe each.
package probe

import (
	"context"
	"errors"

	"github.com/plumb-dev/plumb/evidence"
)

// ErrNoData means that there is nothing to measure here, for example no etcd on
// this node. The agent reports the probe's state as such and no evidence.
var ErrNoData = errors.New("no data")

// ErrNotSupported means that this kernel or platform cannot answer. The agent
// reports the probe's items as unknown (blind), never as healthy.
var ErrNotSupported = errors.New("not supported")

// A Probe observes one failure surface of the local node.
type Probe interface {
	// Name is the stable id used in flags, metrics and item names.
	Name() string

	// Sample adds what is known now to dst. It returns before ctx expires and may
	// be called again after any error; it is never called concurrently with
	// itself. Observations added before an error are kept.
	//
	// Each observed subject must carry every catalogued item of this probe for
	// that kind of subject, in one of the three states. An item left out is
	// reported as unknown (failed) by the agent, and counted as a defect.
	Sample(ctx context.Context, dst *evidence.Sample) error
}

// A Watcher is a Probe that notices changes between samples. Watch calls wake
// at most once per change and returns when ctx is done. The agent then samples
// the probe at once and, if the sample differs, pushes at once.
type Watcher interface {
	Probe
	Watch(ctx context.Context, wake func()) error
}

// A Hooked probe measures through a ladder of hooks, of which the kernel and the
// agent's capabilities decide the rung.
type Hooked interface {
	Probe
	// Hooks may be called at any time from any goroutine.
	Hooks() []Hook
}

// A Hook says which rung of one signal's ladder is active on this machine.
type Hook struct {
	// Signal is "probe.signal", for example "oversize.drop".
	Signal string
	// Rung is the active one, empty when none is.
	Rung string
	// Confirmed is true once a self-test event has come through the rung. A rung
	// that is not confirmed counts as inactive.
	Confirmed bool
	// Detail says precisely why no rung, or no better one, is active (missing
	// capability, kernel feature, BTF, path), and the mend.
	Detail string
}
