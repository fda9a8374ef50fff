// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scenarios is the lab's library: one YAML file for each built-in scenario,
// named like the scenario in it. It holds data only; package scenario reads it and
// package lab runs it.
//
// A scenario is pending as long as it expects a verdict or a refutation of a
// signature that does not ship. One that only forbids never is: what must not be
// said must not be said today either.
package scenarios
