// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package judge decides what a run of a scenario is worth: which expectations
// held and when, which verdicts are false alarms, when the run may end and with
// which exit status. It is pure: the run tells it what it saw, and when; it reads
// no clock and asks nobody.
//
// # What a verdict is here
//
// A verdict is an id of the aggregator's API. The same id may begin anew: after
// it resolved, or when an aggregator lost its memory. Each beginning is a Spell,
// told apart by the moments at which its grades were reached, which the engine
// keeps through a spell and drops at the next. So nothing that was seen is lost
// when the API shows a later spell only.
//
// # Where the contract leaves a choice
//
//   - A pending verdict has a grade and is a verdict: it meets expectations and is
//     a false alarm like one that fires. One that is dropped before it fired is
//     cleared at that moment, for the engine resolves only what fired.
//   - A stale verdict is a firing one whose evidence is missing: its grades count
//     and it is not cleared.
//   - A refuted verdict is no claim: never a false alarm, never met. Grades that it
//     reached before it was refuted count as any other.
//   - A verdict that resolved before the fault ended, and stayed so, is cleared
//     after 0 seconds: the contract bounds when it is gone, not how long it must
//     stand. The outcome says it in words.
//   - When several verdicts meet an expectation, the earliest gives afterSeconds
//     and the last that is cleared gives clearedAfterSeconds: a cause that is gone
//     must be gone everywhere. A verdict that another expectation claims as well,
//     for a fault that ends later, is that one's to clear.
//   - A refutation counts by when evidence last confirmed it (updatedAt), for the
//     API goes on listing what was refuted minutes ago.
//   - With `settle: 0s` nothing is before the end of settle.
package judge
