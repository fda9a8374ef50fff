// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bus measures what the embedded bus costs: acknowledged (fsynced)
// messages per second, and memory when idle.
//
//	go test -run - -bench . ./test/bench/bus
package bus
