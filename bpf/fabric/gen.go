// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

// The objects are committed, as those of package bpf are and for the same reasons.
//
//go:generate sh -c "go tool bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -target amd64,arm64 -type port -type port_counters -type destination_key -type pair_key -type pair -type rule -type rule_counters -type bucket fabric fabric.bpf.c -- -O2 -g -Wall -Werror -fdebug-prefix-map=\"$(pwd)\"=. -fno-ident"
