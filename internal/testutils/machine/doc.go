// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package machine makes nodes of their own for tests, as far as Plumb can tell:
// each has a network, mount, PID and UTS namespace, its own /proc, /sys and /run.
// Everything that is started inside ends with it, and it ends with the test.
//
// A test binary that uses it calls Main from TestMain, for it is also the init
// of its machines and every program (role) that they run, so that tests need
// nothing but themselves and iproute2.
package machine
