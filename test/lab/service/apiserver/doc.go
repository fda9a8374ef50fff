// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiserver is the TLS endpoint of the lab's control-plane nodes: what a
// kube-apiserver shows to a client that it does not know, late when told so.
package apiserver
