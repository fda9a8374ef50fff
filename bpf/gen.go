// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

// The objects are committed, so that building Plumb needs no clang. Generating
// them anew with clang 14 and libbpf-dev 1.1 gives identical bytes on any path:
// the prefix map takes the path out of the debugging information.
//
//go:generate sh -c "go tool bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -target amd64,arm64 -type drop_key -type drop_value -type flow_key -type flow_value -type site_table -type site_range -type tunnel_port -type error_key -type counter -type site_class -type limit_source -type tunnel_kind oversize oversize.bpf.c -- -O2 -g -Wall -Werror -fdebug-prefix-map=\"$(pwd)\"=. -fno-ident"
