// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ingest receives what agents send. Of a batch it first settles who sent
// it, then whether it is well formed, then makes its episodes durable, then hands
// its evidence to the state, and only then acknowledges it.
//
// # What a caller can do
//
// The token is looked at before a byte of the body is read; the node is the
// token's and never the message's. A batch is refused whole or taken whole: it is
// checked in full before anything of it is stored. What a newer agent sends that
// this build does not know (items, subject kinds) is left out and counted; what
// contradicts the catalogue is refused.
//
// A node can exhaust its own rates (batches, bytes, calls at a time), its own
// quota of the journal and its own queue of directives, and nobody else's.
// Before TLS the listener limits connections per address and in all.
//
// # What an acknowledgement means
//
// The episodes of the batch were published to the journal, which has fsynced
// them. If the journal or the state does not take a batch it is answered with an
// error, the agent keeps it and sends it again; episodes that the journal did
// take are recognised by their ids. A batch that was acknowledged before is
// acknowledged again and changes nothing.
//
// # Heartbeats
//
// A Watch stream carries a message without a directive when it opens and every
// Limits.Heartbeat after that, so that both ends notice a dead one. The token is
// verified again with each: a stream does not outlive the right to it.
package ingest
