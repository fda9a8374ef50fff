// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package machine makes nodes of a cluster out of namespaces: network, mount, PID
// and UTS of its own, with private /proc, /sys and /run, so that the unchanged
// binaries run in it as they run on a node. The lab and the tests build on it.
//
// A machine's first process is the calling binary again, in a role; so a program
// that makes machines calls Main before anything else. That process dies with its
// parent, whatever ends it, and takes everything in the machine along: processes,
// links, mounts and namespaces.
package machine
