// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package identity decides for which node a caller may speak. Outside
// Kubernetes the answer comes from a nodes file, that is a list of nodes and one
// signing key, and from tokens signed with that key; the claims have the shape of
// a projected service-account token, so a review by an API server can stand in
// its place behind the same method.
//
// A token is verified at the aggregator's clock without any leeway: a token that
// ends at noon is refused at noon. Mint dates the beginning of a token one minute
// back, so that a second aggregator whose clock is a little behind takes it.
package identity
