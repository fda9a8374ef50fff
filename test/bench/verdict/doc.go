// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verdict measures how fast the aggregator turns a decisive batch into
// a verdict, and what 5,000 nodes cost. Figures and commands are in
// docs/benchmarks.md.
package verdict
