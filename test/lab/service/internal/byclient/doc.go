// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package byclient keeps what holds for which client of a lab service: a value for
// all, and others for the clients of some prefixes.
package byclient
