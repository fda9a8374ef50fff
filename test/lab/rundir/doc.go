// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rundir keeps a lab run's files and a list of what else it owns on the
// machine, so that the next run can clean up after one that was killed, and only
// after that one.
package rundir
