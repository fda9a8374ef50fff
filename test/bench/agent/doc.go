// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package agent measures what the real plumb-agent costs a node: idle beside 110
// pods, in a storm of drops, and on its uplink. The node is namespaces that the
// benchmark makes (network, mount, PID), so that the agent counts it as one of
// several on the kernel; pods are namespaces with processes and cgroups of their
// own. It takes minutes, needs root, and measures nothing with -short but that it
// runs:
//
//	go test -run '^$' -bench . -benchtime 1x -timeout 30m ./test/bench/agent
//
// PLUMB_BIN measures the binaries of a directory instead of those of the tree.
package agent
