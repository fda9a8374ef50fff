// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package link measures what the link probe costs on a node with 110 pods. Run it
// as root: go test -bench . ./test/bench/link
package link
