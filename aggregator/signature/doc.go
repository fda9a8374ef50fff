// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signature loads failure signatures (YAML with CEL) and weighs them on
// a node's evidence: three-valued clauses, weights in bans, proof sets, refuters.
// Weighing is a pure function of signature and view.
//
// A file goes through source and object (strict YAML that knows where everything
// stands), builder (the schema and its rules) and compiler (CEL that is typed
// from the catalogue, and what each expression reads). A weighing then reads the
// facts of one subject and its parents from a state.View, decides every clause,
// and grades the whole. CEL never sees a protobuf: known values are bound as
// maps, everything else is an unknown attribute, and what is not applicable is
// decided before CEL is asked. docs/signatures.md has the rules for authors.
package signature
