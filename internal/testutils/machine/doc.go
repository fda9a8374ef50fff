// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package machine makes the nodes of internal/machine for tests: a machine and
// everything in it ends with the test, what goes wrong fails the test, and what the
// programs wrote is shown when it has failed.
//
// A test binary that uses it calls Main from TestMain, for it is also the first
// process of its machines and every program (role) that they run, so that tests
// need nothing but themselves and iproute2.
package machine
