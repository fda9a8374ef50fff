// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sntp is a time server of the lab: right until it is told to lie, to be
// silent or to smear, to all of its clients or to some.
package sntp
