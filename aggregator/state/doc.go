// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package state holds the newest evidence of every node and gives it out as a
// view in which everything absent, stale or failed is unknown.
package state
