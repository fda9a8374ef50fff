// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package evidence is the vocabulary that agent and aggregator share: the
// catalogue of everything that is measured (catalog.yaml, from which the typed
// item names here and docs/evidence.md are generated), the three states that a
// measurement can be in, and the wire contract (evidence/v1).
//
// It imports neither side.
package evidence

//go:generate go run ./gen
