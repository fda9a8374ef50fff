// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package local runs an aggregator and one agent on this machine, as `plumb
// local` and `make run` do: with throw-away keys in a directory of its own, on
// free ports of the loopback, until it is told to stop. Whatever ends it leaves
// no process behind, and no directory unless it is killed with SIGKILL; the
// next start removes what such an end left.
package local
