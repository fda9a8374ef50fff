// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package agent assembles what runs on every node: the probe table, the
// scheduler, the ledger, the uplink and the endpoints that are scraped. Each of
// them lives in a package of its own below this one.
package agent
