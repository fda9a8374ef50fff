// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signature loads failure signatures (YAML with CEL) and weighs them on
// a node's evidence: three-valued clauses, weights in bans, proof sets, refuters.
// Weighing is a pure function of signature and view.
package signature
