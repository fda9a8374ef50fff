// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import "time"

// A Signature is a loaded failure signature, ready to be weighed. It is
// immutable and safe for concurrent use.
type Signature struct {
	// ID is "loop/name", stable and never reused.
	ID    string
	Title string
	// Loop is the control loop that fails: the part of ID before the slash.
	Loop     string
	Severity string
	// Scope is the kind of scope that its verdicts have: Node, Device or Pod.
	Scope string
	// Each is the kind of subject that it is weighed on.
	Each string
	// For is how long it must hold before its verdict fires.
	For time.Duration
	// KeepFiringFor is how long a firing verdict stays after it ceased to hold.
	KeepFiringFor time.Duration
	// Consequences are ids that this cause explains on the same scope.
	Consequences []string
	// Origin says where it was loaded from.
	Origin string
	// Hash is of the file's content, 16 hex digits.
	Hash string
}
