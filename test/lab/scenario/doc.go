// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scenario reads the lab's scenario files: what cluster to build, what
// traffic to run, what to break when, and which verdicts to expect. It knows the
// format and what contradicts itself; it touches nothing.
package scenario
