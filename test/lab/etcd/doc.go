// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package etcd runs a real etcd in a node of the lab, puts a steady load on it and
// records what that application saw, and can take its CPU away without touching its
// disk.
package etcd
