// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verdict gives the weighing of signatures a life: it reduces results to
// scopes, names each scope's verdict so that replicas and restarts agree, takes
// it through pending, firing, stale and resolved, makes every transition durable
// before it is shown, and asks agents for what is missing for proof.
//
// # What makes a verdict end
//
// Missing data never does. A verdict whose node is silent, whose probe failed,
// or whose decisive items are unknown for any other reason is stale: it keeps
// its grade and its place until the evidence is back. It ends when the signature
// no longer holds on evidence that is there, or is refuted by it; and then only
// after keepFiringFor.
//
// # Onset
//
// The onset is that of the earliest episode of the node whose condition is one
// of the measurement that the verdict rests on; where there is none, the moment
// at which the signature first held. It is fixed once it rests on an episode and
// goes through the journal, so that it survives both processes. An episode that
// nobody saw end (its agent was killed) counts for two minutes more: the next
// run of the agent usually sees the same condition again.
package verdict
