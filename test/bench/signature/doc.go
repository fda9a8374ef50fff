// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signature measures what weighing the built-in signatures costs.
package signature
