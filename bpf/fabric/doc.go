// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fabric holds the kernel program that breaks the lab's network on
// purpose, and its loader. It belongs to the lab alone: no part of the product
// uses it, and nothing here observes anything.
//
// The C sources and objects are dual licensed like those of package bpf: see
// LICENSE.GPL-2.0 and LICENSE.BSD-2-Clause there.
package fabric
