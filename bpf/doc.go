// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bpf holds Plumb's kernel programs in C, the objects compiled from them,
// and the one loader that picks the variant for the running kernel, loads it and
// says precisely why it cannot.
//
// The C sources and objects are dual licensed, GPL-2.0-only or BSD-2-Clause (see
// LICENSE.GPL-2.0 and LICENSE.BSD-2-Clause): the verifier admits the helpers that
// read kernel memory only to programs that the GPL covers.
package bpf
