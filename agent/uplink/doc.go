// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package uplink carries what the agent knows to the aggregators, also during
// the faults that it reports.
//
// # What is sent
//
// Every endpoint is one replica of the aggregator and has a stream of batches
// of its own, numbered from 1 under the boot id of this run. A batch in flight
// is never altered: when the fate of a push is unknown, or it failed, the next
// attempt is a new FULL batch with the next number that carries every episode
// which this endpoint has not acknowledged. Episodes are idempotent by id, so
// one that arrives twice does no harm. After an acknowledgement come DELTA
// batches, each Interval or on Wake; a FULL one on every connect, every
// FullInterval and when the reply asks for it.
//
// What does not fit into one batch follows in the next: a FULL batch with the
// observations that fit, then DELTA batches with the rest, at once. An
// observation or an episode that would not fit into a batch alone is dropped
// and counted.
//
// # What is kept
//
// Episodes wait in a ring in memory and, if there is a directory for it, in a
// spool that survives kill -9. An episode leaves when every endpoint has
// acknowledged it, or when ring and spool are full; the latter is counted for
// each endpoint that had not got it, and the count is part of every batch. The
// disk is written by a goroutine of its own and nothing waits for it longer
// than a moment: a node whose fsync hangs must still be able to say so.
//
// # How it gets through
//
// The TCP segment size is clamped before connect (internal/mss); the addresses
// that worked are remembered, so DNS may fail; the time at which the
// certificate is verified may be corrected within narrow bounds (tlstime.go),
// so the clock may be wrong. Which of these were needed is said in every batch.
package uplink
