// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lab builds a small cluster out of namespaces on one machine, runs the
// unchanged product in it, breaks its plumbing as a scenario says, and reports
// which verdicts came, how soon, and which should not have come.
package lab
