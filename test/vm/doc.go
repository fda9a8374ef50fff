// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vm boots other kernels in QEMU (no KVM, no disk image) and runs
// Plumb's own binaries on them: what the agent can see must not depend on the
// kernel of the machine that runs the tests.
package vm
