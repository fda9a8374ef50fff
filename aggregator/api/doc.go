// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package api serves the read API of plumb-aggregator: nodes, evidence, episodes,
// signatures, verdicts and their proof chains. It is meant for loopback, where
// the right to port-forward is the right to read; it refuses any Host and Origin
// that is not its own, so that a web page in a browser on the same machine gets
// nothing.
//
// The same messages are served three ways: over connect and gRPC, as JSON to a
// POST (curl -d '{}'), and as JSON to a plain GET below /api/v1/.
package api
