// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package schedule runs the probes of an agent: interval, time-out, panic
// isolation, wake-ups, and the translation of what a probe returns (or fails to
// return) into three-valued evidence, episodes and self-metrics. One fault stays
// one fault: a probe that hangs, panics or errs costs only its own evidence.
package schedule
