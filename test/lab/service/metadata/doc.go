// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metadata is the lab's cloud metadata server: it answers as those of AWS,
// Azure or GCP do, and fails as they fail. It never has a credential to give.
package metadata
