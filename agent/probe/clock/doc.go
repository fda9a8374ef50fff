// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clock measures how far the node's clock is from true time, and says
// who agrees.
//
// No source of time is trusted. Each one (a time server, the host's PTP device)
// gives an interval that holds the offset, the sources are sorted into groups
// that can be wrong independently of each other, and only what a strict majority
// of the groups shares is reported as the offset. What the node's own time daemon
// claims (adjtimex) is reported as a claim beside it. With the aggregator the
// probe exchanges four time stamps, which needs no external time at all.
//
// One sign holds everywhere in this package and in its items: an offset is the
// node's clock minus true time, positive when the node is ahead. NTP uses the
// opposite one, what must be added to the clock to correct it.
//
// Watch does the network work; Sample only reads what is known and returns at
// once. Before the first round has ended, everything that needs one is unknown,
// warming up.
package clock
