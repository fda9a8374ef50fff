// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ingest measures the way of a batch over TLS and HTTP/2 through
// authentication, checking and the bus to its acknowledgement. Agent and
// aggregator share the machine, so the figures hold both sides' cost.
//
//	go test -run - -bench . ./test/bench/ingest
package ingest
