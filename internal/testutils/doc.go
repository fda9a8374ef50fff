// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package testutils has what privileged tests share: network namespaces that
// clean themselves up, waiting for conditions, and the rule that a test which
// the kernel should support fails in CI instead of being skipped.
package testutils
