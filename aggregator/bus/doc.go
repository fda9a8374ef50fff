// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bus keeps what must survive the aggregator: episodes and verdict
// transitions. It is NATS JetStream, by default embedded (in the process, no
// listener, file store), or an existing cluster that a nats:// URL names; both
// run through the same code.
//
// # What an acknowledgement means
//
// Publish returns nil after the message is on disk: the embedded store fsyncs
// every message (SyncAlways). A cluster acknowledges once a majority of the
// stream's replicas has the message, and fsyncs as its operators configured.
//
// Nothing that was acknowledged is evicted to make room. A stream that is full
// refuses new messages (DiscardNew) and Publish returns ErrFull; messages leave
// it only by age (Config.MaxAge, default 7 days). Whoever needs a fact for
// longer publishes it again before that. One subject may hold at most
// Config.MaxPerSubject messages, so that one node that floods the journal
// exhausts its own quota (ErrQuota) and not the stream.
//
// A message that is published again under the same id within two hours is
// stored once. Later duplicates are stored, so readers must know what they have
// seen.
//
// # Failure of the disk
//
// Before each write the embedded bus looks at the free space of the file system
// and refuses with ErrFull while less than Config.ReserveBytes is left:
// JetStream answers a failed write by closing the stream until it is restarted.
// Should a write fail all the same (a quota, an I/O error, someone else taking
// the last block), the bus closes the server, waits for space and opens the
// store again; messages that were acknowledged are in it. After each
// acknowledgement the sequence reached is noted in the file "acknowledged"; a
// store that comes back with less than that is reported as ErrCorrupt instead of
// being used with a hole in it.
package bus
