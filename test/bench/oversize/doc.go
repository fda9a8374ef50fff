// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package oversize measures what the oversize probe costs while the kernel drops
// packets: nanoseconds inside the program for each drop, and the share of a core
// that the side of the agent takes.
package oversize
