// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signatures is the library of failure signatures that ships with
// Plumb: one YAML file each, with its test cases. It holds data only;
// aggregator/signature loads and weighs it.
package signatures

import "embed"

// FS holds the library, one directory per control loop.
//
//go:embed network identity
var FS embed.FS
