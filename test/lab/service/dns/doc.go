// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dns is the lab's name server: a small zone with answers of known sizes,
// which can fall silent altogether or lose its large answers only.
package dns
