// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the real binaries end to end: nodes are namespaces (network,
// mount, PID) that the tests make, traffic and faults are real, and what is
// asserted is the verdict.
package e2e
